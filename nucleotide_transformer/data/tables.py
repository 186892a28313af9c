"""Rows of tables: CSV and TSV, plain or gzip, and Parquet, one at a time; and tables of genomes."""

import csv
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nucleotide_transformer.data.intervals import read_lines
from nucleotide_transformer.errors import (
    InputError,
    MissingInputError,
    describe_error,
    import_extra,
)

Row = dict[str, Any]
"""Column -> value: text, or in Parquet any type; None if absent there."""
Select = Callable[[list[str]], list[str]]

_ROWS_AT_ONCE = 1_024


def read_rows(
    path: Path, kind: str, select: Select, *, comment: str = "", extra: str = "io"
) -> Iterator[tuple[str, Row]]:
    """Yields each row with its place: the file, and the line, or in Parquet the row from 1.

    Nothing is asked of columns that are not read: a line of text may end before them.

    Args:
        path: the table.
        kind: "csv", "tsv" or "parquet".
        select: takes the columns that are there, and returns those to read.
        comment: what lines begin with that are skipped, as empty ones are.
        extra: what a message says to install where there is no pyarrow.

    Raises:
        MissingInputError, InputError: in one line, for a file that can't be read, or a line with
            more values than the header, or too few.
    """
    if kind == "parquet":
        return _read_parquet(path, select, extra)
    return _read_text(path, "," if kind == "csv" else "\t", select, comment)


def _read_text(
    path: Path, delimiter: str, select: Select, comment: str
) -> Iterator[tuple[str, Row]]:
    number = 0

    def take_lines() -> Iterator[str]:
        nonlocal number
        for number, line in read_lines(path):  # noqa: B007
            if not (comment and line.startswith(comment)):
                yield line + "\n"

    rows = _lift_limit(csv.reader(take_lines(), delimiter=delimiter, strict=True))
    try:
        header = next(rows, [])
        places = {name: header.index(name) for name in select(header)}
        last = max(places.values())
        for row in rows:
            place = f"{path}: line {number}"
            if len(row) > len(header) or len(row) <= last:
                rule = f"must have {len(header)}, as the header has"
                raise InputError(f"{place}: {len(row)} values: {rule}")
            yield place, {name: row[i] for name, i in places.items()}
    except csv.Error as error:
        raise InputError(f"{path}: line {number}: {error}") from None


def _lift_limit(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Rows that are not empty, with fields of any length.

    The limit of the process is lifted for a moment each.
    """
    row: list[str] | None = []
    while row is not None:
        if row:
            yield row
        limit = csv.field_size_limit(sys.maxsize)
        try:
            row = next(rows, None)
        finally:
            csv.field_size_limit(limit)


def _read_parquet(path: Path, select: Select, extra: str) -> Iterator[tuple[str, Row]]:
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file")
    parquet = import_extra("pyarrow.parquet", extra, f"{path}: to read Parquet")
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a Parquet file: {describe_error(error)}") from None
    with file:
        columns = select(list(file.schema_arrow.names))
        try:
            batches = file.iter_batches(_ROWS_AT_ONCE, columns=columns)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{path}: row {number}", row
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: damaged Parquet file: {describe_error(error)}") from None


def read_cells(path: Path, required: Sequence[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields the place of each row of a table of genomes, the names of the columns, and its cells.

    Cells have tabs between them; blanks and quotes around them are left out, and so are empty ones
    at the end of a line. Lines that begin with # are skipped.

    Raises:
        MissingInputError, InputError: in one line, for a file that can't be read, or a header that
            lacks a required column or has one twice.
    """
    columns: list[str] = []
    for number, line in read_lines(path):
        cells = [_clean(cell) for cell in line.rstrip().split("\t")]
        if line.startswith("#") or not any(cells):
            continue
        if columns:
            yield f"{path}: line {number}", columns, cells
        else:
            columns = cells
            _check_columns(f"{path}: line {number}", columns, required)
    if not columns:
        _check_columns(f"{path}: line 1", columns, required)


def name_cells(place: str, columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Column -> cell of a row that `read_cells` gave, which may end before the last column.

    Raises:
        InputError: if it has more cells than there are columns.
    """
    rule = f"must have {len(columns)} at most, as the header has"
    if len(cells) > len(columns):
        raise InputError(f"{place}: {len(cells)} cells: {rule}")
    return dict(zip(columns, cells, strict=False))


def _clean(cell: str) -> str:
    """A cell without blanks, and quotes, around its text."""
    return re.sub(r'^"(.*)"$', r"\1", cell.strip()).strip()


def _check_columns(place: str, columns: Sequence[str], required: Sequence[str]) -> None:
    for column in required:
        if column not in columns:
            found = ", ".join(filter(None, columns)) or "none"
            rule = f"must have the columns {', '.join(required)}"
            raise InputError(f"{place}: no column {column!r} (found: {found}): {rule}")
    for column in filter(None, columns):
        if columns.count(column) > 1:
            raise InputError(f"{place}: {columns.count(column)} columns are called {column!r}")
