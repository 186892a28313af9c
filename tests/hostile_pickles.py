"""Files that ask for more than arrays: what `test_unpickle` must see refused."""

import collections
import marshal
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np


class Reduced:
    """Pickles as the call of a function."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Stated:
    """Pickles as an object made by a call, with a state that is set afterwards."""

    def __init__(self, function: Any, arguments: Any, state: Any):
        self.parts = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


def text(value: str) -> bytes:
    """Opcode that pushes a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    """Opcodes that push what a module has under a name, dots included."""
    return text(module) + text(attribute) + b"\x93"


def write_marker(path: str) -> str:
    """What a hostile pickle gets to run here."""
    Path(path).touch()
    return path


EXTENSIONS = {"write_marker_1": 0xA7, "write_marker_2": 0xA7A7, "write_marker_4": 0x10A7A7A7}
"""For copyreg: names, and numbers of 1, 2 and 4 bytes."""
write_marker_1 = write_marker_2 = write_marker_4 = write_marker


def command(marker: Path) -> str:
    return f"touch {marker}"


def expression(marker: Path) -> str:
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def fixed(data: bytes) -> Callable[[Path], bytes]:
    return lambda _: data


def extension(opcode: bytes, name: str, size: int) -> Callable[[Path], bytes]:
    """A function that was registered in copyreg, called by its number."""

    def build(marker: Path) -> bytes:
        number = EXTENSIONS[name].to_bytes(size, "little")
        return b"\x80\x02" + opcode + number + b"(" + text(str(marker)) + b"tR."

    return build


def reduce_to(function: Any, argument: Callable[[Path], Any]) -> Callable[[Path], bytes]:
    return lambda marker: pickle.dumps(Reduced(function, argument(marker)), 4)


def partial_call(marker: Path) -> bytes:
    call = name("functools", "partial") + name("os", "system") + text(command(marker)) + b"\x86R"
    return b"\x80\x04" + call + b")R."


def code_object(marker: Path) -> bytes:
    code = marshal.dumps(compile(expression(marker), "x", "eval"))
    load = name("marshal", "loads") + b"B" + struct.pack("<I", len(code)) + code + b"\x85R"
    globals_ = b"}"
    return b"\x80\x04" + name("types", "FunctionType") + load + globals_ + b"\x86R)R."


def getattr_chain(marker: Path) -> bytes:
    module = name("importlib", "import_module") + text("os") + b"\x85R"
    function = name("builtins", "getattr") + module + text("system") + b"\x86R"
    return b"\x80\x04" + function + text(command(marker)) + b"\x85R."


def attrgetter(marker: Path) -> bytes:
    getter = name("operator", "attrgetter") + text("system") + b"\x85R"
    module = name("importlib", "import_module") + text("os") + b"\x85R"
    return b"\x80\x04" + getter + module + b"\x85R" + text(command(marker)) + b"\x85R."


def nested_reduce(marker: Path) -> bytes:
    items = [("w", Reduced(os.system, command(marker)))]
    return pickle.dumps(Reduced(collections.OrderedDict, items), 4)


def pickle_in_pickle(marker: Path) -> bytes:
    return pickle.dumps(Reduced(pickle.loads, pickle.dumps(Reduced(os.system, command(marker)))))


def object_array(marker: Path) -> bytes:
    array = np.empty(1, object)
    array[0] = Reduced(os.system, command(marker))
    return pickle.dumps({"a/b": {"w": array}}, 4)


def joblib_object_array(marker: Path) -> bytes:
    array = np.empty(1, object)
    array[0] = Reduced(os.system, command(marker))
    file = marker.with_suffix(".joblib")
    joblib.dump({"a/b": {"w": array}}, file)
    return file.read_bytes()


def joblib_matrix(marker: Path) -> bytes:
    file = marker.with_suffix(".joblib")
    joblib.dump({"a/b": {"w": np.asmatrix(np.ones((2, 2)))}}, file)
    return file.read_bytes()


def wrapper_with_method(marker: Path) -> bytes:
    """A state that puts a function in the place of the wrapper's own method `read`."""
    state = {"shape": (1,), "order": "C", "allow_mmap": False, "subclass": np.ndarray}
    state |= {"dtype": np.dtype("f4"), "read": print}
    state_bytes = pickle.dumps(state, 4)[2:-1]
    wrapper = name("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81"
    return b"\x80\x04" + wrapper + state_bytes + b"b."


def state_for_a_name(marker: Path) -> bytes:
    return b"\x80\x04" + name("numpy", "ndarray") + b"}" + text("x") + text("y") + b"sb."


def slots_state(marker: Path) -> bytes:
    """A pair as state sets attributes one by one, whatever the class says."""
    wrapper = name("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81"
    return b"\x80\x04" + wrapper + b"N}" + text("__class__") + text("x") + b"s\x86b."


def reconstruct_subclass(marker: Path) -> bytes:
    call = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "memmap")
    return b"\x80\x04" + call + b"K\x00\x85C\x01b\x87R."


def codec(marker: Path) -> bytes:
    return b"\x80\x04" + name("_codecs", "encode") + text("abc") + text("rot13") + b"\x86R."


def called_class(marker: Path) -> bytes:
    return b"\x80\x04" + name("numpy", "ndarray") + b"((K\x01K\x02ttR."


class Hostile(NamedTuple):
    """A file that asks for more than arrays."""

    build: Callable[[Path], bytes]
    refused: str
    """What the message must name."""
    is_live: bool = True
    """Whether reading it with pickle writes the marker, which shows that it is armed."""


HOSTILE: dict[str, Hostile] = {
    "os.system": Hostile(reduce_to(os.system, command), "posix.system"),
    "builtins.eval": Hostile(reduce_to(eval, expression), "builtins.eval"),
    "builtins.exec": Hostile(reduce_to(exec, expression), "builtins.exec"),
    "a function of a package": Hostile(
        reduce_to(write_marker, str), "hostile_pickles.write_marker"
    ),
    "functools.partial": Hostile(partial_call, "functools.partial"),
    "types.FunctionType": Hostile(code_object, "types.FunctionType"),
    "builtins.getattr": Hostile(getattr_chain, "builtins.getattr"),
    "operator.attrgetter": Hostile(attrgetter, "operator.attrgetter"),
    "nested reduce": Hostile(nested_reduce, "posix.system"),
    "pickle in a pickle": Hostile(pickle_in_pickle, "_pickle.loads"),
    "dotted global": Hostile(
        lambda marker: (
            b"\x80\x04"
            + name("joblib.numpy_pickle", "os.system")
            + text(command(marker))
            + b"\x85R."
        ),
        "joblib.numpy_pickle.os.system",
    ),
    "global, protocol 0": Hostile(
        lambda marker: b"cos\nsystem\n(V" + command(marker).encode() + b"\ntR.", "os.system"
    ),
    "opcode INST": Hostile(
        lambda marker: b"(V" + command(marker).encode() + b"\nios\nsystem\n.", "os.system"
    ),
    "opcode OBJ": Hostile(
        lambda marker: b"(cos\nsystem\nV" + command(marker).encode() + b"\no.", "os.system"
    ),
    "opcode NEWOBJ": Hostile(
        lambda marker: (
            b"\x80\x04" + name("subprocess", "Popen") + b"(" + text(command(marker)) + b"t\x81."
        ),
        "subprocess.Popen",
        is_live=False,
    ),
    "opcode NEWOBJ_EX": Hostile(
        fixed(b"\x80\x04" + name("collections", "OrderedDict") + b")}\x92."),
        "NEWOBJ_EX",
        is_live=False,
    ),
    "opcode EXT1": Hostile(extension(b"\x82", "write_marker_1", 1), "opcode EXT1 167"),
    "opcode EXT2": Hostile(extension(b"\x83", "write_marker_2", 2), "opcode EXT2 42919"),
    "opcode EXT4": Hostile(extension(b"\x84", "write_marker_4", 4), "opcode EXT4 279422887"),
    "opcode PERSID": Hostile(fixed(b"Pevil\n."), "opcode PERSID 'evil'", is_live=False),
    "opcode BINPERSID": Hostile(fixed(text("x") + b"Q."), "BINPERSID", is_live=False),
    "state of a class": Hostile(
        lambda marker: pickle.dumps(Stated(os.system, (command(marker),), {"x": 1})), "posix.system"
    ),
    "state for a name": Hostile(
        state_for_a_name, "a state a dict for numpy.ndarray", is_live=False
    ),
    "state with slots": Hostile(slots_state, "for wrapper", is_live=False),
    "wrapper with a method": Hostile(wrapper_with_method, "builtins.print", is_live=False),
    "array subclass": Hostile(reconstruct_subclass, "numpy.memmap", is_live=False),
    "call of ndarray": Hostile(called_class, "a call of numpy.ndarray", is_live=False),
    "object array": Hostile(object_array, "numpy.dtype with ('O8'"),
    "object array of joblib": Hostile(joblib_object_array, "numpy.dtype with ('O8'", is_live=False),
    "matrix of joblib": Hostile(joblib_matrix, "numpy.matrix", is_live=False),
    "odd codec": Hostile(codec, "_codecs.encode with ('abc', 'rot13')", is_live=False),
}
