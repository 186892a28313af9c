"""The bytes of a file of weights, plain or made by zlib: no more than it has, or may have."""

import io
import zlib
from pathlib import Path
from typing import Any

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.weights.assembly import MAX_COMPRESSION

_CHUNK = 1 << 20
"""Bytes that zlib takes and makes at a time."""
_MAX_SMALL = 1 << 20
"""Bytes that a compressed file may hold whatever its size."""


class HalfWrittenError(InputError):
    """A file ends before what it announced."""


class _Decompressed(io.RawIOBase):
    """What zlib or gzip data hold, made as it is read; the checksum at the end is compared."""

    def __init__(self, raw: io.BufferedReader, file: Path):
        self._raw, self._file, self._made = raw, file, 0
        self._engine = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._made

    def readinto(self, target: Any) -> int:
        """Fills the beginning of a buffer; 0 where all was read."""
        data = b""
        while not (data or self._engine.eof):
            packed = self._engine.unconsumed_tail or self._raw.read(_CHUNK)
            try:
                data = self._engine.decompress(packed, min(len(target), _CHUNK))
            except zlib.error as error:
                reason = f"half-written or damaged ({error})"
                raise HalfWrittenError(f"{self._file}: {reason}: fetch it again") from error
            if not (packed or data or self._engine.eof):
                reason = "half-written: its compressed data end early"
                raise HalfWrittenError(f"{self._file}: {reason}: fetch it again")
        target[: len(data)] = data
        self._made += len(data)
        return len(data)


class Stream:
    """A file of which no more is taken into memory than there is."""

    def __init__(self, raw: io.BufferedReader, file: Path, most: int, rule: str = ""):
        """Starts at the beginning.

        Args:
            raw: the content.
            file: for messages.
            most: bytes that it has, or may have at most.
            rule: why it may not have more; empty if `most` is what it has.
        """
        self._raw, self.file, self._most, self._rule = raw, file, most, rule

    def tell(self) -> int:
        """Bytes that were read."""
        return self._raw.tell()

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or a `HalfWrittenError`."""
        self.demand(size)
        data = self._raw.read(size)
        self._check_missing(size - len(data))
        return data

    def readline(self) -> bytes:
        """The next line, with its end."""
        line = self._raw.readline(self._most - self.tell() + 1)
        self._check_missing(not line.endswith(b"\n"))
        return line

    def readinto(self, target: Any) -> int:
        """Fills a buffer."""
        self.demand(len(target))
        count = self._raw.readinto(target)
        self._check_missing(len(target) - count)
        return count

    def demand(self, size: int) -> None:
        """Raises an `InputError` where so many bytes more can't be there."""
        missing = self.tell() + size - self._most
        if self._rule and missing > 0:
            raise InputError(f"{self.file}: {self._most + 1} bytes or more: {self._rule}")
        self._check_missing(missing)

    def check_end(self) -> None:
        """Reads what follows the values of compressed data: a checksum, and nothing else."""
        if self._raw.read(1):
            raise HalfWrittenError(
                f"{self.file}: damaged: it goes on after its end: fetch it again"
            )

    def _check_missing(self, count: int) -> None:
        if count > 0:
            text = f"{count} bytes" if count < 1 << 50 else "many bytes"
            size = self.tell() if self._rule else self._most
            raise HalfWrittenError(
                f"{self.file}: half-written: it has {size} bytes and ends {text} too early:"
                " fetch it again"
            )


def open_compressed(raw: io.BufferedReader, file: Path, most: int) -> Stream:
    """What zlib or gzip data hold: at most so many bytes, and no more than weights compress."""
    rule = "a checkpoint of this model has no more"
    limit = MAX_COMPRESSION * file.stat().st_size + _MAX_SMALL
    if limit < most:
        most, rule = limit, f"weights never compress to less than 1/{MAX_COMPRESSION}"
    return Stream(io.BufferedReader(_Decompressed(raw, file), _CHUNK), file, most, rule)
