"""Reads joblib and pickle files without running anything that they say.

A pickle is a program for a small stack machine, and most of what that machine can do is call
functions. Here the machine is our own. It knows the opcodes that build plain containers, and it
calls nothing that a file names: a name is a label, looked up in `pickled_arrays.CALLS`, where code
of this package answers for it and checks its arguments. Any other name, any other opcode, and any
call of a name that is not meant to be called is refused, by name, before the next byte is read.

joblib writes the bytes of an array behind the pickled description of it, in the middle of the
pickle; so the machine reads them when the description is complete.
"""

import itertools
import math
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.weights.joblib_file import ByteStream, HalfWrittenError, open_stream
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
)

_MALFORMED = (ValueError, TypeError, IndexError, KeyError, AttributeError)


class RefusedPickleError(InputError):
    """The file asks for something that is not on the allow-list, or is no valid pickle."""


class Unpickled(NamedTuple):
    """What a file held."""

    tree: Any
    """Containers, numbers, texts and NumPy arrays. Of a half-written file: the arrays that came
    through whole, as a dict of dicts."""
    half_written: str | None
    """Keys, joined with /, down to where the file ends too early; None if it is whole."""


def load_joblib(file: Path) -> Unpickled:
    """Reads a joblib or pickle file, plain or compressed as joblib does it.

    Raises:
        MissingInputError: if there is none.
        RefusedPickleError: naming the file, the byte, and what it asks for.
        InputError: if it is compressed with lz4 and that is not installed.
    """
    with open_stream(file) as stream:
        return _Machine(stream).run()


class _Machine:
    """The stack machine: a stack of stacks (one more for every open MARK), and a memo."""

    def __init__(self, stream: ByteStream):
        self._stream = stream
        self._stacks: list[list[Any]] = [[]]
        self._memo: dict[int, Any] = {}
        self._arrays: dict[str, dict[str, Any]] = {}
        self._position = 0

    def run(self) -> Unpickled:
        try:
            for opcode, argument, position in pickletools.genops(cast(IO[bytes], self._stream)):
                self._position = position or 0
                if opcode.name == "STOP":
                    tree = _complete(self._pop())
                    self._stream.read(1)  # a compressed file ends with a checksum
                    return Unpickled(tree, None)
                self._step(opcode.name, argument)
        except RefusedPickleError:
            raise
        except HalfWrittenError:
            pass
        except _MALFORMED as error:
            if not self._stream.is_exhausted():
                reason = " ".join(str(error).split())
                raise self._refusal(f"what is no valid pickle ({reason:.200})") from error
        except (MemoryError, OverflowError) as error:
            raise self._refusal("an array larger than the memory") from error
        place = "its end" if self._arrays else "its beginning"
        return Unpickled(self._arrays, "/".join(self._find_path()) or place)

    def _refusal(self, what: str) -> RefusedPickleError:
        rule = "only NumPy arrays of numbers, joblib's wrappers and plain containers are read"
        file, position = self._stream.file, self._position
        return RefusedPickleError(f"{file}: refused {what} at byte {position}: {rule}")

    def _step(self, opcode: str, argument: Any) -> None:
        if opcode in _IGNORED:
            return
        if opcode in _LITERALS:
            self._push(argument)
        elif opcode in _CONSTANTS:
            self._push(_CONSTANTS[opcode]())
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self)
        elif opcode in _METHODS:
            _METHODS[opcode](self, argument)
        elif opcode == "INST":
            raise self._refusal(str(argument).replace(" ", "."))
        else:
            raise self._refusal(f"opcode {opcode} {_describe(argument)}")

    def _push(self, value: Any) -> None:
        self._stacks[-1].append(value)

    def _pop(self) -> Any:
        return self._stacks[-1].pop()

    def _pop_mark(self) -> list[Any]:
        if len(self._stacks) == 1:
            raise ValueError("no open mark")
        return self._stacks.pop()

    def _mark(self) -> None:
        self._stacks.append([])

    def _discard(self) -> None:
        if self._stacks[-1]:
            self._pop()
        else:
            self._pop_mark()

    def _duplicate(self) -> None:
        self._push(self._stacks[-1][-1])

    def _memoize(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stacks[-1][-1]

    def _recall(self, index: int) -> None:
        self._push(self._memo[index])

    def _make_tuple(self) -> None:
        self._push(tuple(map(_complete, self._pop_mark())))

    def _make_short_tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self._push(tuple(map(_complete, reversed(items))))

    def _make_list(self) -> None:
        self._push([_complete(item) for item in self._pop_mark()])

    def _make_dict(self) -> None:
        items = self._pop_mark()
        self._push({})
        self._set_items(items)

    def _extend(self) -> None:
        self._add_items(self._pop_mark())

    def _append(self) -> None:
        self._add_items([self._pop()])

    def _add_items(self, items: list[Any]) -> None:
        target = self._stacks[-1][-1]
        if type(target) is not list:
            raise self._refusal(f"items for {_describe(target)}")
        target.extend(map(_complete, items))

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _set_all(self) -> None:
        self._set_items(self._pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self._stacks[-1][-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(target) is not dict or not isinstance(key, str | int | float | bytes | None):
                raise self._refusal(f"an item {_describe(key)} for {_describe(target)}")
            target[key] = _complete(value)

    def _find_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push_name(module, name)

    def _find_stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._push_name(module, name)

    def _push_name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise self._refusal(f"a global named {_describe(module)} {_describe(name)}")
        label = Name(module, name)
        if label not in PASSIVE and label not in CALLS:
            raise self._refusal(f"{label!s:.200}")
        self._push(label)

    def _reduce(self) -> None:
        arguments, label = self._pop(), self._pop()
        call = CALLS.get(label) if isinstance(label, Name) else None
        if call is None or not isinstance(arguments, tuple):
            raise self._refusal(f"a call of {_describe(label)}")
        value = call(arguments)
        if value is None:
            raise self._refusal(f"a call of {label} with {_describe(arguments)}")
        self._push(value)

    def _make_object(self) -> None:
        arguments, label = self._pop(), self._pop()
        if not isinstance(label, Name) or label != WRAPPER or arguments != ():
            raise self._refusal(f"an object of {_describe(label)} with {_describe(arguments)}")
        self._push(Box("wrapper"))

    def _build(self) -> None:
        state, box = self._pop(), self._stacks[-1][-1]
        steps = {"dtype": set_byte_order, "array": fill_array, "wrapper": self._read_payload}
        step = steps.get(box.kind) if isinstance(box, Box) else None
        if step is None or not step(box, state):
            raise self._refusal(f"a state {_describe(state)} for {_describe(box)}")

    def _read_payload(self, box: Box, state: Any) -> bool:
        """Reads the bytes that follow the description of an array that joblib wrote."""
        payload = read_wrapper_state(state)
        if payload is None or box.value is not None:
            return False
        if payload.is_padded:
            self._stream.read_exactly(self._stream.read_exactly(1)[0])
        flat = self._stream.read_array(math.prod(payload.shape), payload.dtype)
        array = arrange(flat, payload.shape, payload.is_fortran)
        path = self._find_path()
        if len(path) == 2:
            self._arrays.setdefault(path[0], {})[path[1]] = array
        box.value = array
        return True

    def _find_path(self) -> list[str]:
        """Keys of the dicts that are being filled, outermost first: those without a whole value."""
        path: list[str] = []
        for depth, items in enumerate(self._stacks):
            pairs = items if depth else items[1:]
            for key, value in itertools.zip_longest(pairs[::2], pairs[1::2]):
                is_open = isinstance(value, Box) and value.value is None
                is_empty = type(value) is dict and not value
                if isinstance(key, str) and (is_open or is_empty or value is None):
                    path.append(key)
                if is_open:
                    return path
        return path


def _complete(value: Any) -> Any:
    """Returns what a box holds, once it does; anything else as it is."""
    if not isinstance(value, Box):
        return value
    if value.value is None:
        raise ValueError(f"{value.kind} without a state")
    return value.value


def _describe(value: Any) -> str:
    """A few words on a value of the file, for messages; never more than two levels of it."""
    if isinstance(value, Name | str | int | bytes | None):
        return f"{str(value) if isinstance(value, Name) else repr(value):.60}"
    if isinstance(value, tuple):
        shown = (isinstance(part, Name | str | int) for part in value[:6])
        parts = [
            _describe(part) if is_shown else type(part).__name__
            for part, is_shown in zip(value, shown, strict=False)
        ]
        return f"({', '.join(parts)})"
    return value.kind if isinstance(value, Box) else f"a {type(value).__name__}"


_IGNORED = frozenset({"PROTO", "FRAME"})
_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_ACTIONS: dict[str, Callable[[_Machine], Any]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._discard,
    "POP_MARK": _Machine._pop_mark,
    "DUP": _Machine._duplicate,
    "TUPLE": _Machine._make_tuple,
    "TUPLE1": lambda machine: machine._make_short_tuple(1),
    "TUPLE2": lambda machine: machine._make_short_tuple(2),
    "TUPLE3": lambda machine: machine._make_short_tuple(3),
    "LIST": _Machine._make_list,
    "DICT": _Machine._make_dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._extend,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_all,
    "STACK_GLOBAL": _Machine._find_stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._make_object,
    "BUILD": _Machine._build,
}
_METHODS: dict[str, Callable[[_Machine, Any], Any]] = {
    "GLOBAL": _Machine._find_global,
    **dict.fromkeys(("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"), _Machine._memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._recall),
}
