"""Sequences from files: FASTA, FASTA with a BED, CSV, TSV and Parquet, one at a time.

Every reader checks what it reads and says in one line what is wrong and where.
"""

import functools
import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from nucleotide_transformer.data.fasta import FastaReader, reverse_complement
from nucleotide_transformer.data.intervals import Interval, read_bed
from nucleotide_transformer.data.tables import Row, read_rows
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.files import get_suffix

FASTA_SUFFIXES = ("fa", "fasta", "fna", "ffn", "fas")
TABLE_SUFFIXES = ("csv", "tsv", "parquet")

_PLACE = ("contig", "start", "end")
_LETTERS = "ACGTUNRYSWKMBDHV"
_VALID = re.compile(f"[{_LETTERS}{_LETTERS.lower()}]*")


class SequenceRecord(NamedTuple):
    """A sequence, its name, and where it comes from."""

    name: str
    sequence: str
    contig: str
    start: int
    """First nucleotide on the contig, from 0."""
    end: int
    """One past the last nucleotide."""


class TableRow(NamedTuple):
    """A row of a table of sequences."""

    record: SequenceRecord
    values: tuple[Any, ...]
    """Of the further columns that were asked for, as `read_rows` gives them."""


class SequenceTotals(NamedTuple):
    """What a file holds."""

    num_sequences: int
    num_nucleotides: int
    most_nucleotides: int
    """Of the longest sequence."""
    digest: str
    """Hexadecimal, of names, coordinates and sequences."""


def read_sequences(
    path: Path,
    *,
    bed: Path | None = None,
    stranded: bool = False,
    sequence_column: str = "sequence",
    name_column: str = "name",
    with_places: bool = True,
) -> Iterator[SequenceRecord]:
    """Yields the sequences of a file, in its order.

    The kind of file is told by its name: .fa, .fasta, .fna, .ffn, .fas; .csv, .tsv (all of these
    may be gzip: .csv.gz) or .parquet.

    - FASTA: every contig; upper case, U is T and ambiguity codes are N.
    - FASTA and BED: every interval, in the order of the BED, named by its column 4 or else
      "contig:start-end". The contigs that it names are copied to a temporary file: memory is
      bounded by the longest one.
    - Tables: a row each, named by `name_column` if there is one, else by the row's number from 0.
      Columns `contig`, `start` and `end` (from 0, end excluded) are taken over where all three
      are there and `with_places` says so; else the sequence is its own contig.

    Args:
        path: the file.
        bed: intervals to cut out of a FASTA file.
        stranded: reverse-complement the intervals with "-" in column 6.
        sequence_column: column of a table with the sequences.
        name_column: column of a table with the names.
        with_places: read the coordinates of a table; without it they may be any.

    Raises:
        MissingInputError, InputError: in one line: an unknown suffix, an empty file, an illegal
            character (with the sequence, and the position from 1), an interval outside its contig,
            a table without the column.
    """
    path = Path(path)
    suffix = get_suffix(path)
    known = (*FASTA_SUFFIXES, *TABLE_SUFFIXES)
    require(suffix in known, "input", str(path), f"must be a file .{', .'.join(known)}")
    if bed is not None:
        require(suffix in FASTA_SUFFIXES, "input", str(path), "must be FASTA: there is a BED")
        return _read_intervals(path, Path(bed), stranded)
    if suffix in FASTA_SUFFIXES:
        return _read_fasta(path)
    columns = _Columns(sequence_column, name_column, with_places=with_places)
    return (row.record for row in _read_table(path, columns))


def read_table(
    path: Path,
    *,
    value_columns: Sequence[str],
    sequence_column: str = "sequence",
    name_column: str = "name",
) -> Iterator[TableRow]:
    """Yields the sequences of a table with the values of further columns, in its order.

    Coordinates are not read: each sequence is its own contig.

    Args:
        path: a file .csv, .tsv, .csv.gz, .tsv.gz or .parquet.
        value_columns: columns that must be there.
        sequence_column: column with the sequences.
        name_column: column with the names.

    Raises:
        MissingInputError, InputError: in one line, as `read_sequences` does.
    """
    path = Path(path)
    rule = f"must be a table .{', .'.join(TABLE_SUFFIXES)}"
    require(get_suffix(path) in TABLE_SUFFIXES, "input", str(path), rule)
    return _read_table(path, _Columns(sequence_column, name_column, tuple(value_columns)))


def cut_tiles(
    records: Iterable[SequenceRecord], window: int | None, step: int | None = None
) -> Iterator[SequenceRecord]:
    """Cuts sequences into tiles, each named "name:start-end", with its place on the contig.

    Args:
        records: what `read_sequences` gives.
        window: nucleotides of a tile; the last one of a sequence ends with it and may be shorter.
            None passes everything on whole.
        step: nucleotides from the start of one tile to that of the next; as `window` by default,
            so that tiles neither overlap nor leave gaps.
    """
    for record in records:
        if window is None:
            yield record
            continue
        size, stride = len(record.sequence), window if step is None else step
        for first in range(0, max(size + min(stride - window, 0), 1), stride):
            start, last = record.start + first, min(first + window, size)
            yield SequenceRecord(
                f"{record.name}:{start}-{record.start + last}",
                record.sequence[first:last],
                record.contig,
                start,
                record.start + last,
            )


def measure_sequences(records: Iterable[SequenceRecord]) -> SequenceTotals:
    """Reads all sequences, and so finds any error in them; counts and hashes them on the way."""
    digest = hashlib.blake2b(digest_size=16)
    num_sequences = num_nucleotides = most = 0
    for record in records:
        num_sequences += 1
        num_nucleotides += len(record.sequence)
        most = max(most, len(record.sequence))
        place = (record.name, record.contig, record.start, record.end, len(record.sequence))
        digest.update(repr(place).encode())
        digest.update(record.sequence.encode())
    return SequenceTotals(num_sequences, num_nucleotides, most, digest.hexdigest())


def _read_fasta(path: Path) -> Iterator[SequenceRecord]:
    for contig in FastaReader(path):
        size = len(contig.sequence)
        yield SequenceRecord(contig.name, contig.sequence.decode(), contig.name, 0, size)


class _ContigStore:
    """Contigs in a temporary file, from which any interval can be read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}

    def add(self, name: str, sequence: bytearray) -> None:
        """Appends a contig."""
        self._places[name] = (self._file.tell(), len(sequence))
        self._file.write(sequence)

    def check(self, bed: Path, interval: Interval, fasta: Path) -> None:
        """Raises an `InputError` unless the interval lies in a contig of the FASTA file."""
        place = f"{bed}: line {interval.line}: {interval.contig}:{interval.start}-{interval.end}"
        if interval.contig not in self._places:
            raise InputError(f"{place}: there is no contig {interval.contig!r} in {fasta}")
        size = self._places[interval.contig][1]
        if interval.end > size:
            raise InputError(f"{place}: the contig in {fasta} ends at {size}")

    def fetch(self, interval: Interval) -> bytes:
        """The nucleotides of an interval, on the plus strand."""
        self._file.seek(self._places[interval.contig][0] + interval.start)
        return self._file.read(interval.end - interval.start)


def _read_intervals(path: Path, bed: Path, stranded: bool) -> Iterator[SequenceRecord]:
    intervals = list(read_bed(bed))
    names = {interval.contig for interval in intervals}
    with tempfile.TemporaryFile() as file:
        store = _ContigStore(file)
        for contig in FastaReader(path):
            if contig.name in names:
                store.add(contig.name, contig.sequence)
        for interval in intervals:
            store.check(bed, interval, path)
        for interval in intervals:
            sequence = store.fetch(interval)
            if stranded and interval.strand == "-":
                sequence = reverse_complement(sequence)
            place = interval[:3]
            name = interval.name or "{}:{}-{}".format(*place)
            yield SequenceRecord(name, sequence.decode(), *place)


class _Columns(NamedTuple):
    """Names of the columns of a table."""

    sequence: str
    name: str
    values: tuple[str, ...] = ()
    """Further ones, all of which must be there."""
    with_places: bool = False
    """Read `contig`, `start` and `end`."""

    def select(self, path: Path, there: list[str]) -> list[str]:
        """The columns to read, of those that are there."""
        if self.sequence not in there:
            shown = ", ".join(there[:8]) or "none"
            raise InputError(f"{path}: no column {self.sequence!r} with the sequences; has {shown}")
        for name in self.values:
            if name not in there:
                raise InputError(f"{path}: no column {name!r}; has {', '.join(there[:8])}")
        place = _PLACE if self.with_places else ()
        for name in (self.sequence, self.name, *self.values, *place):
            if there.count(name) > 1:
                raise InputError(f"{path}: {there.count(name)} columns are called {name!r}")
        optional = [self.name, *(place if set(place) <= set(there) else ())]
        found = (self.sequence, *(name for name in optional if name in there), *self.values)
        return list(dict.fromkeys(found))

    def make_row(self, path: Path, index: int, row: Row) -> TableRow:
        """The record of a row, and its values."""
        values = tuple(row[name] for name in self.values)
        return TableRow(self._make_record(path, index, row), values)

    def _make_record(self, path: Path, index: int, row: Row) -> SequenceRecord:
        sequence = row[self.sequence]
        where = f"{path}: row {index + 1}"
        if sequence is not None and not isinstance(sequence, str):
            kind = type(sequence).__name__
            raise InputError(f"{where}: column {self.sequence!r} holds {kind}: must be text")
        if not sequence:
            raise InputError(f"{where}: column {self.sequence!r} is empty")
        name = row.get(self.name)
        name = str(index if name is None else name)
        _check_letters(f"{where}: sequence {name!r}", sequence)
        if not (self.with_places and set(_PLACE) <= row.keys()):
            return SequenceRecord(name, sequence, name, 0, len(sequence))
        shown = f"{where}: start, end = {row['start']!r}, {row['end']!r}"
        try:
            start, end = int(row["start"]), int(row["end"])
        except (TypeError, ValueError):
            raise InputError(f"{shown}: must be integers") from None
        if start < 0 or end - start != len(sequence):
            rule = (
                f"are counted from 0, and end is start + {len(sequence)}, as long as the sequence"
            )
            raise InputError(f"{shown}: {rule}")
        return SequenceRecord(name, sequence, str(row["contig"]), start, end)


def _read_table(path: Path, columns: _Columns) -> Iterator[TableRow]:
    """The rows of a table, checked."""
    index = -1
    rows = read_rows(path, get_suffix(path), functools.partial(columns.select, path))
    for index, (_, row) in enumerate(rows):
        yield columns.make_row(path, index, row)
    if index < 0:
        raise InputError(f"{path}: no row: must hold at least one sequence")


def _check_letters(place: str, sequence: str) -> None:
    """Raises an `InputError` for the first letter that is no nucleotide."""
    valid = _VALID.match(sequence)
    size = valid.end() if valid else 0
    if size < len(sequence):
        rule = f"must be a nucleotide (IUPAC: {_LETTERS})"
        raise InputError(f"{place}: position {size + 1}: {sequence[size]!r}: {rule}")
