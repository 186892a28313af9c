"""Safetensors files, read and written one tensor at a time.

The format (github.com/huggingface/safetensors, README): 8 bytes with the length of the header, the
header as JSON (`name -> dtype, shape, data_offsets`), then the bytes of the tensors. The library
of that name maps the whole file into memory, so that reading it counts twice against a memory
limit, and it says of a file that is cut short no more than that; here each tensor is read by
itself, and those that are cut short are known by name.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from nucleotide_transformer.errors import InputError, MissingInputError

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # bytes, as in the library
_ALIGNMENT = 8


class TensorEntry(NamedTuple):
    """What the header says of a tensor."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Of its bytes, counted from the beginning of the file."""
    size: int
    """Bytes that it has."""
    missing: int
    """Bytes that it lacks because the file ends too early."""


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Returns the tensors of a file by name.

    Raises:
        MissingInputError: if there is none.
        InputError: if the header is no header: not a safetensors file, or cut short inside it.
    """
    if not file.is_file():
        raise MissingInputError(f"{file}: no such file")
    length = file.stat().st_size
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if length < 8 or size > min(_MAX_HEADER, length - 8):
            raise InputError(
                f"{file}: half-written, or no safetensors file: its header should have {size} bytes"
                f" and the file has {length}"
            )
        try:
            header = json.loads(stream.read(size))
            header.pop("__metadata__", None)
            return {
                name: _read_entry(file, entry, 8 + size, length) for name, entry in header.items()
            }
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{file}: its header is damaged ({error})") from error


def _read_entry(file: Path, entry: Any, start: int, length: int) -> TensorEntry:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    numbers = (*shape, begin, end)
    if not all(type(n) is int and n >= 0 for n in numbers) or not isinstance(dtype, str):
        raise ValueError(f"{entry!r:.100} is no entry of a tensor")
    known = _DTYPES.get(dtype)
    if known and end - begin != math.prod(shape) * known.itemsize:
        raise ValueError(f"{end - begin} bytes for a tensor {list(shape)} of {dtype}")
    size = max(end - begin, 0)
    return TensorEntry(file, dtype, shape, start + begin, size, max(start + end - length, 0))


def read_tensor(entry: TensorEntry) -> Shaped[np.ndarray, "..."]:
    """Reads one tensor that is whole.

    Raises:
        InputError: for a type of numbers that NumPy and ml_dtypes do not have.
    """
    if entry.dtype not in _DTYPES:
        raise InputError(f"{entry.file}: type {entry.dtype} is none of {', '.join(_DTYPES)}")
    array = np.empty(entry.shape, _DTYPES[entry.dtype])
    with entry.file.open("rb", buffering=0) as stream:
        stream.seek(entry.start)
        _read_into(stream, array.reshape(-1).view(np.uint8).data, entry)
    return array


def _read_into(stream: BinaryIO, target: memoryview, entry: TensorEntry) -> None:
    """Fills a buffer; a single read of a file gives 2 GiB at most."""
    position = 0
    while position < len(target):
        count = stream.readinto(target[position : position + (1 << 28)])  # type: ignore[attr-defined]
        if not count:
            raise InputError(f"{entry.file}: half-written: it became shorter while it was read")
        position += count


def write_tensors(file: Path, tensors: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Writes a file that the safetensors library reads, in the order given.

    A mapping that makes its tensors when it is asked keeps the memory small: each is asked for
    twice, for its shape and for its bytes.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        offsets = [begin, end]
        code = _CODES[array.dtype]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
