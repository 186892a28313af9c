"""The bytes of a joblib or pickle file, decompressed as they are read."""

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from nucleotide_transformer.errors import InputError, MissingInputError

_CHUNK = 1 << 20
_LINE = 1 << 16
_OLD_FORMAT = b"ZF"
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, OSError)


class HalfWrittenError(InputError):
    """A file ends, or its compressed data break, before what it announced."""


class ByteStream:
    """A file of bytes, counted, of which no more is taken into memory than there is."""

    def __init__(self, raw: io.BufferedIOBase, file: Path, size: int | None):
        """Args: raw to read from; file, for messages; size in bytes if known (not compressed)."""
        self._raw, self.file, self._size, self._position = raw, file, size, 0

    def tell(self) -> int:
        """Bytes read so far (of the decompressed data)."""
        return self._position

    def read(self, size: int) -> bytes:
        """Returns the next `size` bytes, fewer at the end of the file."""
        chunks = []
        while size > 0 and (chunk := self._read_once(min(size, _CHUNK))):
            chunks.append(chunk)
            size -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def readline(self) -> bytes:
        """Returns the bytes up to and with the next line feed, 64 KiB at most."""
        with self._named_damage():
            line = self._raw.readline(_LINE)
        self._position += len(line)
        return line

    def read_exactly(self, size: int) -> bytes:
        """Returns the next `size` bytes, or raises a `HalfWrittenError`."""
        data = self.read(size)
        if len(data) < size:
            raise HalfWrittenError(f"{self.file}: ends {size - len(data)} bytes too early")
        return data

    def read_array(self, count: int, dtype: np.dtype) -> Shaped[np.ndarray, " N"]:
        """Returns `count` items of a type, read straight into their array.

        Raises:
            HalfWrittenError: if there are fewer.
        """
        size = count * dtype.itemsize
        if self._size is not None and size > self._size - self._position:
            self._raw.seek(0, io.SEEK_END)
            self._position = self._size
            raise HalfWrittenError(f"{self.file}: ends inside an array of {size} bytes")
        array = np.empty(count, dtype)
        target = array.view(np.uint8).data
        for start in range(0, size, _CHUNK):
            chunk = self.read_exactly(min(_CHUNK, size - start))
            target[start : start + len(chunk)] = chunk
        return array

    def is_exhausted(self) -> bool:
        """Whether no byte is left, or none that can be decompressed; takes one if there is."""
        try:
            return not self.read(1)
        except HalfWrittenError:
            return True

    def _read_once(self, size: int) -> bytes:
        with self._named_damage():
            data = self._raw.read(size)
        self._position += len(data)
        return data

    @contextlib.contextmanager
    def _named_damage(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise HalfWrittenError(f"{self.file}: its compressed data end or break") from error


class _ZlibReader(io.RawIOBase):
    """Decompresses a zlib stream, which is what joblib writes unless told otherwise."""

    def __init__(self, raw: io.BufferedIOBase):
        super().__init__()
        self._raw, self._decompressor = raw, zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a part of the buffer; 0 at the end of the stream."""
        while not self._decompressor.eof:
            data = self._decompressor.unconsumed_tail or self._raw.read(_CHUNK)
            if not data:
                raise EOFError("the compressed data end too early")
            out = self._decompressor.decompress(data, len(buffer))
            if out:
                buffer[: len(out)] = out
                return len(out)
        return 0


def _open_lz4(raw: io.BufferedIOBase) -> io.BufferedIOBase:
    try:
        frames = importlib.import_module("lz4.frame")
    except ImportError as error:
        file = getattr(raw, "name", "the file")
        raise InputError(
            f"{file}: compressed with lz4, which is not installed (pip install lz4)"
        ) from error
    return frames.open(raw)


_OPENERS: dict[bytes, Any] = {
    b"x": lambda raw: io.BufferedReader(_ZlibReader(raw), _CHUNK),
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZ": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x5d\x00": lzma.LZMAFile,
    b"\x04\x22\x4d\x18": _open_lz4,
}
"""By the first bytes of a file, as joblib tells its compressions apart."""


@contextlib.contextmanager
def open_stream(file: Path) -> Iterator[ByteStream]:
    """Opens a joblib or pickle file, decompressing it if its first bytes say so.

    Raises:
        MissingInputError: if there is none.
        InputError: for the format of joblib below 0.10, or lz4 where that is not installed.
    """
    if not file.is_file():
        raise MissingInputError(f"{file}: no such file")
    with file.open("rb") as raw:
        first = raw.read(max(map(len, _OPENERS)))
        raw.seek(0)
        if first.startswith(_OLD_FORMAT):
            raise InputError(f"{file}: of joblib below 0.10: save it again with a newer one")
        for magic, opener in _OPENERS.items():
            if first.startswith(magic):
                yield ByteStream(opener(raw), file, None)
                return
        yield ByteStream(raw, file, file.stat().st_size)
