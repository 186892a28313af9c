"""The genome that variants refer to: stretches of its contigs by coordinates, read with pysam.

A FASTA file with an index (.fai, for bgzip .gzi too) is read by region. Without one, or with one
that is older than the file or of another file, an index is made beside it. Where that can't be
(gzip that is no bgzip, a folder that can't be written to) the file is read whole.
"""

import bisect
import contextlib
import gzip
import mmap
import operator
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nucleotide_transformer.data.fasta import (
    GZIP_MAGIC,
    FastaReader,
    check_bgzf_end,
    clean_nucleotides,
)
from nucleotide_transformer.errors import InputError, MissingInputError, import_extra, require
from nucleotide_transformer.files import write_whole

EXTRA = "variants"
"""The extra of setup.py that has pysam and pyarrow."""
_START_BYTES = 18
_BETWEEN = re.compile(rb"[^\s>]?\s*>[^\S\n]*(\S+)[^\n]*\n")
"""From the last nucleotide of a contig to the first of the next, whose name it gives."""
_MOST_BETWEEN = 1 << 20
"""Bytes of that: no header is longer."""
_LOOKS = 256
"""Contigs of a bgzip file that are looked at: each is a block to decompress."""
_BLOCK_BYTES = 1 << 16
"""Text of a block of bgzip, at most."""
_MITOCHONDRION = {"M": "MT", "MT": "M"}


@contextlib.contextmanager
def silence(pysam: Any) -> Iterator[None]:
    """Keeps what htslib would say off standard error."""
    verbosity = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(verbosity)


class Reference:
    """Contigs by name and coordinates.

    Attributes:
        path: the FASTA file.
        lengths: nucleotides of each contig, in the order of the file.
        notes: what was done that a user may want to know: an index made, the file read whole.
    """

    def __init__(
        self,
        path: Path,
        lengths: dict[str, int],
        read: Callable[[str, int, int], bytes],
        notes: tuple[str, ...] = (),
    ) -> None:
        """Takes a function of a contig, a start and an end within it that gives the letters."""
        self.path, self.lengths, self.notes = path, lengths, notes
        self._read = read

    def fetch(self, contig: str, start: int, end: int) -> bytes:
        """Upper-case A, C, G, T, N from `start` (from 0) to before `end`, cut off at the contig.

        Raises:
            InputError: for a letter that is no nucleotide.
        """
        start, end = max(start, 0), min(end, self.lengths[contig])
        if start >= end:
            return b""
        letters = self._read(contig, start, end)
        bad = letters.find(b"!")
        if bad >= 0 or len(letters) != end - start:
            place = f"{self.path}: {contig}: position {start + max(bad, 0) + 1:,}"
            raise InputError(f"{place}: no nucleotide: get the file, or its index, again")
        return letters

    def match(self, name: str) -> str | None:
        """The contig that a name stands for: with or without "chr", and M for MT; None without."""
        short = name[3:] if name.lower().startswith("chr") else name
        spellings = [short, _MITOCHONDRION.get(short, short)]
        for guess in (name, *(p + s for s in spellings for p in ("", "chr", "Chr", "CHR"))):
            if guess in self.lengths:
                return guess
        return None


def open_reference(path: Path) -> Reference:
    """Opens a FASTA file: plain, bgzip or gzip.

    Raises:
        MissingInputError: if there is no such file, or it is empty.
        InputError: in one line, for a file that is no FASTA, or is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInputError(f"{path}: no such FASTA file")
    require(path.is_file(), "fasta", str(path), "must be a file, not a folder")
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if not start:
        raise MissingInputError(f"{path}: empty: a FASTA file must hold at least one contig")
    is_gzip = start.startswith(GZIP_MAGIC)
    is_bgzip = is_gzip and len(start) == _START_BYTES and start[12:14] == b"BC"
    if is_bgzip:
        check_bgzf_end(path, start)
    if not is_gzip and not start.lstrip().startswith(b">"):
        next(iter(FastaReader(path)))  # which says what is wrong
    if is_gzip and not is_bgzip:
        return _read_whole(path, "is gzip, not bgzip")
    return _open_indexed(path, is_bgzip)


def _open_indexed(path: Path, is_bgzip: bool) -> Reference:
    """Opens a file by its index, which is made if it is not there or is older than the file."""
    pysam = import_extra("pysam", EXTRA, f"{path}: to read regions")
    suffixes = (".fai", ".gzi") if is_bgzip else (".fai",)
    indexes = [path.with_name(path.name + suffix) for suffix in suffixes]
    notes: tuple[str, ...] = ()
    if not all(_is_newer(index, path) for index in indexes) or not _fits(indexes, path):
        if not os.access(path.parent, os.W_OK):
            return _read_whole(path, "has no index, and none can be written beside it")
        _make_index(pysam, path, indexes)
        notes = (f"{path}: made its index {indexes[0].name}",)
    try:
        file = pysam.FastaFile(
            str(path),
            filepath_index=str(indexes[0]),
            filepath_index_compressed=str(indexes[1]) if is_bgzip else None,
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read by its index: {error}: delete it") from None
    lengths = dict(zip(file.references, file.lengths, strict=True))

    def read(contig: str, start: int, end: int) -> bytes:
        try:
            return clean_nucleotides(file.fetch(contig, start, end).encode())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {contig}: {start:,}-{end:,}: {error}") from None

    return Reference(path, lengths, read, notes)


def _is_newer(index: Path, path: Path) -> bool:
    return index.exists() and index.stat().st_mtime >= path.stat().st_mtime


def _fits(indexes: list[Path], path: Path) -> bool:
    """Whether an index has the contigs of a file where they are, and all of them.

    A copy may keep the time of its original: then the index of another file is newer. Between two
    contigs there must be a header, and nothing else; in bgzip with many, only some are looked at.
    """
    contigs = _read_index(indexes[0])
    if not contigs:
        return False
    step = 1 if len(indexes) == 1 else -(-len(contigs) // _LOOKS)
    try:
        with _open_text(path, indexes) as read:
            for number in {*range(0, len(contigs), step), len(contigs) - 1}:
                name, end, _ = contigs[number]
                start = contigs[number - 1][2] if number else 0
                between = end - start <= _MOST_BETWEEN and _BETWEEN.fullmatch(read(start, end))
                if not between or between[1] != name:
                    return False
            last = contigs[-1][2]
            return bool(re.fullmatch(rb"\S\s*", read(last, last + _MOST_BETWEEN)))
    except (OSError, EOFError, OverflowError, struct.error, zlib.error):
        return False


def _read_index(index: Path) -> list[tuple[bytes, int, int]] | None:
    """The name of each contig, and the places of its first and last nucleotide in the text.

    None for an index that is damaged, or has names that aren't UTF-8.
    """
    contigs = []
    try:
        for line in index.read_bytes().splitlines():
            name, *numbers = line.split(b"\t")
            length, first, in_line, width = map(int, numbers[:4])
            if not name.decode() or min(length, first, in_line, width) < 1:
                return None
            lines, rest = divmod(length - 1, in_line)
            contigs.append((name, first, first + lines * width + rest))
    except ValueError:  # of names, too
        return None
    return contigs


@contextlib.contextmanager
def _open_text(path: Path, indexes: list[Path]) -> Iterator[Callable[[int, int], bytes]]:
    """Gives a function of a start and an end that reads the text of a plain or bgzip file."""
    with path.open("rb") as file:
        if len(indexes) == 1:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                yield lambda start, end: whole[start:end]
            return
        blocks = [(0, 0), *struct.iter_unpack("<QQ", indexes[1].read_bytes()[8:])]

        def read(start: int, end: int) -> bytes:
            block = bisect.bisect_right(blocks, start, key=operator.itemgetter(1)) - 1
            place, before = blocks[block]
            if not before <= start <= min(end, before + _BLOCK_BYTES):
                return b""
            file.seek(place)
            with gzip.open(file) as text:
                text.read(start - before)
                return text.read(end - start)

        yield read


def _make_index(pysam: Any, path: Path, indexes: list[Path]) -> None:
    """Writes the indexes of a file."""
    flags = ("--fai-idx", "--gzi-idx")
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(write_whole(index)) for index in indexes]
        words = [w for pair in zip(flags, places, strict=False) for w in map(str, pair)]
        try:
            with silence(pysam):
                pysam.faidx(str(path), *words)
        except pysam.SamtoolsError:
            for _ in FastaReader(path):  # which says what is wrong, and where
                pass
            raise InputError(f"{path}: no index can be made: lines must be equally long") from None
        if _count_headers(path) != len(_read_index(places[0]) or ()):
            for _ in FastaReader(path):  # which says what is there twice, empty or badly named
                pass


def _count_headers(path: Path) -> int:
    """Lines that begin with ">"."""
    with path.open("rb") as file:
        is_gzip = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    with gzip.open(path) if is_gzip else path.open("rb") as lines:
        return sum(line.startswith(b">") for line in lines)


def _read_whole(path: Path, reason: str) -> Reference:
    """Reads all contigs into memory."""
    contigs = {contig.name: bytes(contig.sequence) for contig in FastaReader(path)}
    size = sum(map(len, contigs.values()))
    note = f"{path}: {reason}: read whole, {size / 1e6:,.1f} MB of memory"
    lengths = {name: len(sequence) for name, sequence in contigs.items()}
    return Reference(path, lengths, lambda contig, a, b: contigs[contig][a:b], (note,))
