"""FASTA files, read contig by contig and checked letter by letter.

The text is decompressed by `isal` where it is installed, or else by Python's `gzip`, both of which
verify length and checksum of every member. It is parsed here instead of by `pysam.FastxFile`: that
one skips text before the first '>', takes FASTQ and nameless contigs for granted, and can't say
where a bad letter is. The tests hold the two to one result.
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nucleotide_transformer.errors import InputError, MissingInputError

try:
    from isal import igzip, isal_zlib
except ImportError:  # the extra `fast`
    igzip = None

BLOCK_BYTES = 1 << 22
"""Bytes of text parsed at a time."""

_DAMAGED = (gzip.BadGzipFile, zlib.error, *((isal_zlib.error,) if igzip else ()))
GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_OTHER_FORMATS = {
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"\x1a\x41\x27\x43": "2bit",
    b"\x43\x27\x41\x1a": "2bit",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""What a file begins with -> what it is."""
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_NEWLINES = b"\r\n"
_REPORT_NUCLEOTIDES = 10_000_000
"""Between two reports of what was read."""
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")
_INVALID = b"!"
_NUCLEOTIDE_RULE = "must be A, C, G, T, U, N or another IUPAC nucleotide code (RYSWKMBDHV)"


def _make_translation() -> bytes:
    """Table for `bytes.translate`: any letter to A, C, G, T or N, anything else to '!'."""
    table = bytearray(_INVALID * 256)
    for letters, upper in ((b"ACGTNRYSWKMBDHV", b"ACGTNNNNNNNNNNN"), (b"U", b"T")):
        for letter, becomes in zip(letters, upper, strict=True):
            table[letter] = table[ord(chr(letter).lower())] = becomes
    return bytes(table)


_TRANSLATION = _make_translation()


class Contig(NamedTuple):
    """One sequence of a FASTA file."""

    name: str
    """First word of its header."""
    line: int
    """Line of its header, the first line of the file being 1."""
    sequence: bytearray
    """Upper-case A, C, G, T, N: U became T, other IUPAC codes N. Never empty."""


def reverse_complement(sequence: bytes) -> bytes:
    """Returns the other strand of upper-case nucleotides, from its start on; N stays N."""
    return sequence.translate(_COMPLEMENT)[::-1]


def turn(sequence: str) -> str:
    """Returns the other strand of text, as `reverse_complement` does."""
    return reverse_complement(sequence.encode()).decode()


def clean_nucleotides(text: bytes) -> bytes:
    """Upper-case A, C, G, T, N of any letters, as in a `Contig`; "!" for what is no nucleotide."""
    return text.translate(_TRANSLATION)


class _HashedFile:
    """Reads a file from start to end, and counts and hashes its bytes on the way."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def read(self, size: int = -1) -> bytes:
        """As `file.read`."""
        data = self._file.read(size)
        self.digest.update(data)
        self.num_bytes += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """As `file.readinto`."""
        num_bytes = self._file.readinto(buffer)
        self.digest.update(memoryview(buffer)[:num_bytes])
        self.num_bytes += num_bytes
        return num_bytes


class FastaReader:
    """The contigs of one FASTA file, in order: plain, gzip or bgzip, told by its first bytes.

    Iterate once. Memory is bounded by the longest contig. After the last contig `sha256` and
    `num_bytes` are those of the whole file (compressed, as it lies on disk).

    Raises while iterating:
        MissingInputError: if there is no such file.
        InputError: in one line, for an empty, truncated, damaged or binary file, protein or other
            text, a contig without name or nucleotides, or a second contig of one name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hashed: _HashedFile | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the file read so far."""
        return self._hashed.num_bytes if self._hashed else 0

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the bytes read so far."""
        return self._hashed.digest.hexdigest() if self._hashed else hashlib.sha256().hexdigest()

    def __iter__(self) -> Iterator[Contig]:
        with _open(self.path) as file:
            self._hashed = hashed = _HashedFile(file)
            start = file.peek(18)[:18]
            if not start:
                raise InputError(f"{self.path}: empty: a FASTA file must hold at least one contig")
            _check_format(self.path, start)
            text: _HashedFile | gzip.GzipFile = hashed
            if start.startswith(GZIP_MAGIC):
                check_bgzf_end(self.path, start)
                reader: Any = igzip.IGzipFile if igzip else gzip.GzipFile
                text = reader(fileobj=hashed, mode="rb")
            yield from _parse(self.path, _read_blocks(self.path, text))

    def read(self, report: Callable[[int, int], object]) -> Iterator[Contig]:
        """Yields the contigs, and reports what was read since the last report.

        Who goes through them drops each before the next: memory holds one of them.

        Args:
            report: is told nucleotides and bytes of the file.
        """
        num_new = num_bytes = 0
        for contig in self:
            num_new += len(contig.sequence)
            yield contig
            del contig
            if num_new >= _REPORT_NUCLEOTIDES:
                report(num_new, self.num_bytes - num_bytes)
                num_new, num_bytes = 0, self.num_bytes
        report(num_new, self.num_bytes - num_bytes)


def list_contigs(path: Path) -> Iterator[str]:
    """The names of the contigs of a FASTA file, read and checked as by `FastaReader`."""
    for contig in FastaReader(path):
        name = contig.name
        del contig  # before the next one is read: memory holds one of them
        yield name


def _open(path: Path) -> io.BufferedReader:
    """Opens a file, or says in one line why not."""
    if not path.exists():
        raise MissingInputError(f"{path}: no such FASTA file")
    if not path.is_file():
        raise InputError(f"{path}: a FASTA file must be a file, not a folder")
    return path.open("rb")


def _check_format(path: Path, start: bytes) -> None:
    """Raises an `InputError` for what others read, and we do not."""
    for magic, name in _OTHER_FORMATS.items():
        if start.startswith(magic):
            rule = "must be FASTA as plain UTF-8 text, gzip or bgzip: convert it"
            raise InputError(f"{path}: is {name}: {rule}")


def check_bgzf_end(path: Path, start: bytes) -> None:
    """Raises an `InputError` for bgzip without its end mark.

    Cut between two of its blocks it is valid gzip all the same.

    Args:
        path: the file.
        start: its first 18 bytes.
    """
    is_bgzf = len(start) == 18 and start[3] & 4 and start[12:14] == b"BC"
    if is_bgzf:
        with path.open("rb") as file:
            file.seek(-min(len(_BGZF_END), path.stat().st_size), 2)
            end = file.read()
        if end != _BGZF_END:
            raise InputError(f"{path}: truncated bgzip: must end with the empty block of BGZF")


def _read_blocks(path: Path, text: _HashedFile | gzip.GzipFile) -> Iterator[bytes]:
    """Blocks of decompressed text."""
    size = path.stat().st_size
    try:
        is_first = True
        while block := text.read(BLOCK_BYTES):
            yield block.removeprefix(_BOM) if is_first else block
            is_first = False
    except EOFError:
        place = f"its {size:,} bytes end before its end mark"
        raise InputError(f"{path}: truncated gzip: {place}: get the file again") from None
    except _DAMAGED as error:
        raise InputError(f"{path}: damaged gzip: {error}: get the file again") from None


class _Parser:
    """Contigs of a file whose text comes in blocks: call `feed` for each block, then `finish`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._line = 1
        self._lines_of_names: dict[str, int] = {}
        self._name: str | None = None
        self._header: bytes | None = None
        self._sequence = bytearray()
        self._at_line_start = True
        self._ends_in_cr = False

    def feed(self, block: bytes) -> Iterator[Contig]:
        """The contigs that end in this block."""
        place = 0
        while place < len(block):
            if self._header is not None:
                place = self._read_header(block, place)
                continue
            end = block.find(b">", place)
            end = len(block) if end < 0 else end
            self._read_sequence(block[place:end])
            place = end
            if end < len(block):
                if not self._at_line_start and self._name is None:
                    raise self._make_start_error(b" " + block[end:])
                if self._ends_in_cr:
                    raise self._make_cr_error()
                if not self._at_line_start:
                    raise self._make_letter_error(len(self._sequence), ">", self._line)
                yield from self._end_contig()
                self._header = b""
                place += 1

    def finish(self) -> Iterator[Contig]:
        """The last contig."""
        if self._header is not None:
            self._read_header(b"\n", 0)
        if self._name is None:
            raise InputError(f"{self._path}: no contig: a FASTA file must hold at least one")
        yield from self._end_contig()

    def _read_header(self, block: bytes, place: int) -> int:
        """Reads on in a header from `place`; returns the place after it."""
        assert self._header is not None
        end = block.find(b"\n", place)
        self._header += block[place : end if end >= 0 else len(block)]
        if b"\r" in self._header[:-1]:
            raise self._make_cr_error()
        if end < 0:
            return len(block)
        where = f"{self._path}: line {self._line}"
        try:
            words = _split_header(self._header)
        except UnicodeDecodeError:
            rule = "the name of a contig must be UTF-8 text"
            raise InputError(f"{where}: {self._header[:20]!r}: {rule}") from None
        if not words or self._header[:1].isspace():
            raise InputError(f"{where}: '>' without a name: a contig must have one")
        name = words[0]
        if name in self._lines_of_names:
            first = self._lines_of_names[name]
            raise InputError(f"{where}: second contig named {name!r} (the first: line {first})")
        self._lines_of_names[name] = self._line
        self._name, self._header, self._at_line_start = name, None, True
        self._line += 1
        return end + 1

    def _read_sequence(self, text: bytes) -> None:
        """Adds lines, or a part of a line, to the contig."""
        if not text:
            return
        if self._name is None:
            self._skip_blank(text)
            return
        nucleotides = text.translate(_TRANSLATION, _NEWLINES)
        bad = nucleotides.find(_INVALID)
        if bad >= 0:
            letter = text.translate(None, _NEWLINES)[bad : bad + 1]
            line = self._line + text.count(b"\n", 0, text.index(letter))
            place = len(self._sequence) + bad
            raise self._make_letter_error(place, letter.decode("latin-1"), line)
        self._sequence += nucleotides
        self._line += text.count(b"\n")
        self._at_line_start, self._ends_in_cr = text.endswith(b"\n"), text.endswith(b"\r")

    def _end_contig(self) -> Iterator[Contig]:
        """The contig read so far, if there is one."""
        if self._name is None:
            return
        line = self._lines_of_names[self._name]
        if not self._sequence:
            place = f"{self._path}: line {line}: contig {self._name!r}"
            raise InputError(f"{place}: empty: a contig must have at least one nucleotide")
        sequence, self._sequence = self._sequence, bytearray()
        yield Contig(self._name, line, sequence)

    def _skip_blank(self, text: bytes) -> None:
        """Only empty lines may come before the first header."""
        first = text.lstrip()
        self._line += text[: len(text) - len(first)].count(b"\n")
        if first:
            raise self._make_start_error(first)
        self._at_line_start = text.endswith(b"\n")

    def _make_start_error(self, text: bytes) -> InputError:
        """What is wrong with a text that comes before the first header."""
        shown = text.split(b"\n")[0][:20]
        rule = "FASTA must start with '>'"
        first = text.split(b"\n")[0].strip().decode("latin-1")
        if "\t" in first and first.isascii() and first.replace("\t", " ").isprintable():
            rule = f"looks like a table, whose name must end in .tsv: {rule}"
        elif shown.startswith(b"@"):
            rule = f"looks like FASTQ: {rule}"
        elif not (shown.isascii() and shown.decode().isprintable()):
            rule = f"looks binary: {rule}"
        return InputError(f"{self._path}: line {self._line}: {shown!r}: {rule}")

    def _make_cr_error(self) -> InputError:
        """What is wrong with line ends of CR alone."""
        rule = "a line must end in LF or CRLF: convert them"
        return InputError(f"{self._path}: line {self._line}: line ends are CR alone: {rule}")

    def _make_letter_error(self, index: int, letter: str, line: int) -> InputError:
        """What is wrong with the letter at a 0-based index of the contig."""
        place = f"{self._path}: contig {self._name!r}: position {index + 1} (line {line})"
        return InputError(f"{place}: {letter!r}: {_NUCLEOTIDE_RULE}")


def _split_header(header: bytes) -> list[str]:
    """The name of a contig, and what follows it; only the name must be UTF-8."""
    try:
        return header.decode().split(maxsplit=1)
    except UnicodeDecodeError:
        return [header.split(maxsplit=1)[0].decode()]


def _parse(path: Path, blocks: Iterator[bytes]) -> Iterator[Contig]:
    """The contigs of a text that comes in blocks."""
    parser = _Parser(path)
    for block in blocks:
        yield from parser.feed(block)
    yield from parser.finish()
