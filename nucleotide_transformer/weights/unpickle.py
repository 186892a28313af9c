"""Reads joblib and pickle files of arrays without running anything that they say.

A pickle is a program for a small stack machine, and most of what that machine can do is call
functions. The machine is the one of Python's own `pickle`, in its form in Python, with two changes.
It knows the opcodes that build plain containers and no others. And it calls nothing that a file
names: a name is a label, looked up in `CALLS`, where code of this package answers for it and checks
its arguments. Any other name, any other opcode, and any call of a name that is not meant to be
called is refused, by name, before the next byte is read.

joblib writes the bytes of an array after the pickled description of it, in the middle of the
pickle; so they are read when the description is complete.

What a file can cost is bounded before it is read. The model that it is said to hold bounds its size
and the number of opcodes. But its config may say anything: the size of the file itself bounds what
zlib makes of it, and what has been read bounds what is made of it. What zlib makes is read as it is
made: the released files of 2.5 billion parameters hold 10.2 GB in 9.5.
"""

import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.weights.assembly import show_name
from nucleotide_transformer.weights.pickled_arrays import (
    CALLS,
    PASSIVE,
    WRAPPER,
    Box,
    Name,
    arrange,
    fill_array,
    read_wrapper_state,
    set_byte_order,
    unbox,
)
from nucleotide_transformer.weights.streams import Stream, open_compressed

_ZLIB = (b"x", b"\x1f\x8b")
"""First bytes of what zlib decompresses; joblib's own choice, and gzip."""
_COMPRESSED = (b"BZ", b"\xfd7zXZ", b"\x5d\x00", b"\x04\x22\x4d\x18")
"""First bytes of joblib's other compressions; some hold a million times their size."""
_OLD_FORMAT = b"ZF"
_STEPS_OF_AN_ARRAY = 200
"""Opcodes for one array and its names; joblib needs some 30."""
_MALFORMED = (
    *(ValueError, TypeError, IndexError, KeyError, AttributeError),
    *(pickle.UnpicklingError, RecursionError, NotImplementedError),
)


class RefusedPickleError(InputError):
    """The file asks for something that is not on the allow-list, or is no valid pickle."""


class Budget(NamedTuple):
    """What a checkpoint of a model may cost."""

    num_bytes: int
    """Of the file, plain."""
    num_arrays: int

    @property
    def num_steps(self) -> int:
        """Opcodes."""
        return 1_000 + _STEPS_OF_AN_ARRAY * self.num_arrays


def is_compressed(file: Path) -> bool:
    """Whether a file begins as those that joblib compresses, in whatever way."""
    with file.open("rb") as raw:
        return raw.read(6).startswith((*_ZLIB, *_COMPRESSED))


def load_joblib(file: Path, budget: Budget) -> Any:
    """Reads a joblib or pickle file, plain or compressed with zlib or gzip.

    Returns:
        Containers, numbers, texts and NumPy arrays; arrays are found in dicts, two levels of them.

    Raises:
        MissingInputError: if there is none.
        HalfWrittenError: if it ends too early.
        RefusedPickleError: naming the file, the byte, and what it asks for.
        InputError: if it is compressed in another way, or larger than the budget.
    """
    if not file.is_file():
        raise MissingInputError(f"{file}: no such file")
    size = file.stat().st_size
    with file.open("rb") as raw:
        first = raw.read(6)
        raw.seek(0)
        if first.startswith(_OLD_FORMAT):
            raise InputError(f"{file}: of joblib below 0.10: save it again with a newer one")
        if first.startswith(_COMPRESSED):
            rule = "only plain files and zlib are read: joblib.dump(tree, FILE) writes a plain one"
            raise InputError(f"{file}: compressed: {rule}")
        if size > budget.num_bytes:
            rule = f"a checkpoint of this model has at most {budget.num_bytes}"
            raise InputError(f"{file}: {size} bytes or more: {rule}")
        if not first.startswith(_ZLIB):
            return _Machine(Stream(raw, file, size), budget).run()
        stream = open_compressed(raw, file, budget.num_bytes)
        tree = _Machine(stream, budget).run()
        stream.check_end()
        return tree


class _Machine(pickle._Unpickler):
    """Python's machine with a closed list of opcodes, names and calls."""

    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, stream: Stream, budget: Budget):
        super().__init__(stream, encoding="latin1")
        self._stream, self._budget, self._made = stream, budget, 0

    def run(self) -> Any:
        """Returns what the file holds."""
        self.dispatch = cast(Any, _Opcodes(self))  # type: ignore[misc]
        try:
            return self.load()
        finally:  # the machine and its opcodes refer to each other: without its memory
            self.memo.clear()
            del self.dispatch

    def load(self) -> Any:
        """As in `pickle`, with our errors, and with arrays in place of their descriptions."""
        try:
            return _unbox_tree(super().load())
        except InputError:
            raise
        except _MALFORMED as error:
            reason = show_name(" ".join(str(error).split()))
            raise self.refuse(f"what is no valid pickle ({reason})") from error
        except (MemoryError, OverflowError) as error:
            raise self.refuse("an array larger than the memory") from error

    def refuse(self, what: str) -> RefusedPickleError:
        """The error for what a file asks for."""
        rule = "only NumPy arrays of numbers, joblib's wrappers and plain containers are read"
        file, position = self._stream.file, self._stream.tell()
        return RefusedPickleError(f"{file}: refused {what} before byte {position}: {rule}")

    def find_class(self, module: str, name: str) -> Name:
        """Returns the label of a name on the list; called for every opcode that names one."""
        label = Name(module, name)
        if label not in PASSIVE and label not in CALLS:
            raise self.refuse(show_name(label))
        return label

    def load_stack_global(self) -> None:
        """Takes a name that consists of two texts."""
        name, module = self.stack.pop(), self.stack.pop()
        if not (type(name) is str and type(module) is str):
            raise self.refuse(f"a global named {_describe(module)} {_describe(name)}")
        self.append(self.find_class(module, name))

    def load_inst(self) -> None:
        """Refuses an object that is made of a name and arguments."""
        names = (self.readline()[:-1].decode("utf-8", "replace") for _ in range(2))
        raise self.refuse(show_name(".".join(names)))

    def load_reduce(self) -> None:
        """Answers for a call."""
        arguments, label = self.stack.pop(), self.stack.pop()
        call = CALLS.get(label) if isinstance(label, Name) else None
        if call is None or type(arguments) is not tuple:
            raise self.refuse(f"a call of {_describe(label)}")
        value = call(tuple(map(unbox, arguments)))
        if value is None:
            raise self.refuse(f"a call of {label} with {_describe(arguments)}")
        self._spend(value)
        self.append(value)

    def load_newobj(self) -> None:
        """Begins joblib's wrapper of an array."""
        arguments, label = self.stack.pop(), self.stack.pop()
        if label != WRAPPER or arguments != ():
            raise self.refuse(f"an object of {_describe(label)} with {_describe(arguments)}")
        self.append(Box("wrapper"))

    def load_build(self) -> None:
        """Gives an object its state, and so joblib's wrapper its array."""
        state, box = self.stack.pop(), self.stack[-1]
        steps = {"dtype": set_byte_order, "array": fill_array, "wrapper": self._read_array}
        step = steps.get(box.kind) if isinstance(box, Box) else None
        if step is None or not step(box, state):
            raise self.refuse(f"a state {_describe(state)} for {_describe(box)}")
        self._spend(box.value)

    def load_bytearray8(self) -> None:
        """Takes bytes, of which there must be as many as announced."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_setitem(self) -> None:
        """Puts one item into a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        """Puts items into a dict."""
        self._set_items(self.pop_mark())

    def load_dict(self) -> None:
        """Makes a dict of items."""
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(target) is not dict or type(key) is not str:
                raise self.refuse(f"an item {_describe(key)} for {_describe(target)}")
            target[key] = value

    def load_append(self) -> None:
        """Puts one item into a list."""
        value = self.stack.pop()
        self._add_items([value])

    def load_appends(self) -> None:
        """Puts items into a list."""
        self._add_items(self.pop_mark())

    def _add_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise self.refuse(f"items for {_describe(self.stack[-1])}")
        self.stack[-1].extend(items)

    def _read_array(self, box: Box, state: Any) -> bool:
        """Reads the bytes that follow the description of an array that joblib wrote."""
        payload = read_wrapper_state(state)
        if payload is None or box.value is not None:
            return False
        if payload.is_padded:
            self._stream.read(self._stream.read(1)[0])
        size = math.prod(payload.shape) * payload.dtype.itemsize
        self._stream.demand(size)
        flat = np.empty(math.prod(payload.shape), payload.dtype)
        self._stream.readinto(flat.view(np.uint8).data)
        box.value = arrange(flat, payload.shape, payload.is_fortran)
        return True

    def _spend(self, value: Any) -> None:
        """Counts what a call or a state made.

        From a text, as old protocols write bytes, bytes are made and then an array: twice what was
        read, and no more of it where joblib or pickle wrote it. Others name one text often.
        """
        value = value.value if isinstance(value, Box) else value
        self._made += value.nbytes if isinstance(value, np.ndarray) else 0
        self._made += len(value) if isinstance(value, bytes) else 0
        if self._made > 2 * self._stream.tell():
            raise self.refuse(f"{self._made} bytes of arrays, more than twice what was read,")


class _Opcodes:
    """What the machine does at each opcode; refuses those off the list, and too many."""

    def __init__(self, machine: _Machine):
        self._machine, self._left = machine, machine._budget.num_steps

    def __getitem__(self, code: int) -> Callable[[Any], Any]:
        self._left -= 1
        if self._left < 0:
            limit = f"{self._machine._budget.num_steps} opcodes"
            raise self._machine.refuse(f"{limit}, more than a checkpoint of this model needs,")
        opcode = _NAMES.get(code)
        if opcode is None:
            raise self._machine.refuse(f"what is no valid pickle (opcode {code})")
        if opcode.name in _OWN:
            return getattr(_Machine, f"load_{opcode.name.lower()}")
        if opcode.name not in _PLAIN:
            argument = opcode.arg.reader(cast(IO[bytes], self._machine)) if opcode.arg else None
            raise self._machine.refuse(f"opcode {opcode.name} {_describe(argument)}")
        return pickle._Unpickler.dispatch[code]


def _unbox_tree(tree: Any) -> Any:
    """Puts into a tree, and into the dicts in it, what their boxes hold; into each dict once."""
    tree = unbox(tree)
    if type(tree) is dict:
        inner = {id(value): value for value in tree.values() if type(value) is dict}
        for leaves in (tree, *inner.values()):
            leaves.update({name: unbox(value) for name, value in leaves.items()})
    return tree


def _describe(value: Any) -> str:
    """A few words on a value of the file, for messages; never more than two levels of it."""
    if isinstance(value, Name):
        return show_name(value)
    if isinstance(value, str | int | bytes | None):
        return f"{value!r:.60}" if not isinstance(value, int) or abs(value) < 1 << 64 else "an int"
    if isinstance(value, tuple):
        shown = (isinstance(part, Name | str | int) for part in value[:6])
        parts = [
            _describe(part) if is_shown else type(part).__name__
            for part, is_shown in zip(value, shown, strict=False)
        ]
        return f"({', '.join(parts)})"
    return value.kind if isinstance(value, Box) else f"a {type(value).__name__}"


_NAMES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_OWN = frozenset(
    (
        *("STACK_GLOBAL", "INST", "REDUCE", "NEWOBJ", "BUILD", "BYTEARRAY8"),
        *("SETITEM", "SETITEMS", "DICT", "APPEND", "APPENDS"),
    )
)
"""Opcodes that are answered here."""
_PLAIN = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "GLOBAL"),
        *("NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "LIST"),
        *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"),
        *("GET", "BINGET", "LONG_BINGET", "FLOAT", "BINFLOAT"),
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    )
)
"""Opcodes that make plain values and containers, which Python's machine may do."""
