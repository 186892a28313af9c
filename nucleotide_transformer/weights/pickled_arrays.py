"""What the allow-list has: the few names of a pickle of arrays, and our own code for each.

Nothing here is looked up in another module by a name from the file. Every function takes what the
file hands over and returns None (or False) unless that is exactly what NumPy or joblib would write.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

_MAX_SIZE = 1 << 48
"""Items of an array, and of each of its axes."""


class Name(NamedTuple):
    """A global that the file names; a mere label, never the object of that name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Box:
    """Stands for an object that a pickle describes in two steps: its class, then its state."""

    def __init__(self, kind: str, value: Any = None):
        self.kind, self.value = kind, value


def unbox(value: Any) -> Any:
    """What a box holds; anything else as it is."""
    if isinstance(value, Box) and value.value is None:
        raise ValueError(f"{value.kind} without a state")
    return value.value if isinstance(value, Box) else value


NDARRAY = Name("numpy", "ndarray")
MEMMAP = Name("numpy", "memmap")
BFLOAT16 = Name("ml_dtypes", "bfloat16")
WRAPPER = Name("joblib.numpy_pickle", "NumpyArrayWrapper")
PASSIVE = frozenset({NDARRAY, MEMMAP, BFLOAT16, WRAPPER})
"""Names that a file may give but not call."""

_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_DTYPES: dict[Any, np.dtype] = {code: np.dtype(code) for code in _CODES}
_DTYPES[BFLOAT16] = np.dtype(ml_dtypes.bfloat16)
_WRAPPER_STATE = {"subclass", "shape", "order", "dtype", "allow_mmap"}
_ALIGNMENT = "numpy_array_alignment_bytes"


class Payload(NamedTuple):
    """The array whose bytes follow in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    is_padded: bool
    """Whether a byte with the number of padding bytes, and those, come first."""


def read_wrapper_state(state: Any) -> Payload | None:
    """Returns what joblib's NumpyArrayWrapper says, or None if it is not in order."""
    if type(state) is not dict or state.keys() - {_ALIGNMENT} != _WRAPPER_STATE:
        return None
    shape, dtype, order = state["shape"], unbox(state["dtype"]), state["order"]
    if state["subclass"] not in (NDARRAY, MEMMAP) or not _is_shape(shape):
        return None
    if not isinstance(dtype, np.dtype) or order not in ("C", "F"):
        return None
    return Payload(shape, dtype, order == "F", state.get(_ALIGNMENT) is not None)


def arrange(
    flat: Shaped[np.ndarray, " N"], shape: tuple[int, ...], is_fortran: bool
) -> Shaped[np.ndarray, "..."]:
    """Gives the items of an array their shape, in the byte order of this machine."""
    if not flat.dtype.isnative:
        flat = flat.astype(flat.dtype.newbyteorder("="))
    return flat.reshape(shape[::-1]).T if is_fortran else flat.reshape(shape)


def set_byte_order(box: Box, state: Any) -> bool:
    """Takes the state of a plain dtype: version, byte order, and nothing about fields."""
    is_plain = isinstance(state, tuple) and len(state) >= 8 and state[2:5] == (None, None, None)
    if not is_plain or state[1] not in ("<", ">", "|", "="):
        return False
    if state[1] != "|":
        box.value = box.value.newbyteorder(state[1])
    return True


def fill_array(box: Box, state: Any) -> bool:
    """Takes the state of a pickled ndarray: version, shape, dtype, order and bytes."""
    if not (isinstance(state, tuple) and len(state) == 5):
        return False
    array = _from_bytes(state[4], unbox(state[2]), state[1], state[3])
    if array is None or box.value is not None or type(state[3]) is not bool:
        return False
    box.value = array
    return True


def _is_shape(shape: Any) -> bool:
    return (
        type(shape) is tuple
        and len(shape) <= 32
        and all(type(n) is int and 0 <= n < _MAX_SIZE for n in shape)
        and math.prod(shape) < _MAX_SIZE
    )


def _from_bytes(data: Any, dtype: Any, shape: Any, is_fortran: bool) -> Any:
    if not (isinstance(data, bytes | bytearray) and isinstance(dtype, np.dtype)):
        return None
    if not _is_shape(shape) or math.prod(shape) * dtype.itemsize != len(data):
        return None
    return arrange(np.frombuffer(data, dtype), shape, is_fortran)


def _make_dtype(arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (str() | Name() as code, bool(), bool()) if code in _DTYPES:
            return Box("dtype", _DTYPES[code])
    return None


def _make_array(arguments: tuple[Any, ...]) -> Any:
    return Box("array") if arguments == (NDARRAY, (0,), b"b") else None


def _make_from_buffer(arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (data, dtype, shape, "C" | "F" as order):
            return _from_bytes(data, dtype, shape, order == "F")
    return None


def _make_scalar(arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (np.dtype() as dtype, bytes() as data) if len(data) == dtype.itemsize:
            return _from_bytes(data, dtype, (), False)[()]
    return None


def _make_bytes(arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (str() as text, "latin1"):
            return text.encode("latin1")
    return None


def _make_ordered_dict(arguments: tuple[Any, ...]) -> Any:
    return {} if arguments == () else None


CALLS: dict[Name, Callable[[tuple[Any, ...]], Any]] = {
    Name("collections", "OrderedDict"): _make_ordered_dict,
    Name("_codecs", "encode"): _make_bytes,
    Name("numpy", "dtype"): _make_dtype,
    **{
        Name(f"numpy.{core}.{module}", name): call
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _make_array),
            ("multiarray", "scalar", _make_scalar),
            ("numeric", "_frombuffer", _make_from_buffer),
        )
    },
}
"""Names that a file may call, and what answers in their place; None for wrong arguments."""
