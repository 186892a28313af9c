"""Intervals of contigs: BED, GFF3 and GTF files, and which of them a window lies in."""

import functools
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.data.fasta import GZIP_MAGIC
from nucleotide_transformer.errors import InputError, MissingInputError, require
from nucleotide_transformer.files import get_suffix
from nucleotide_transformer.types import Int

_COMMENT = re.compile(r"#|(track|browser)( |$)")
"""Of a BED file. A contig may be called track1, or even track: a tab follows it."""
_BED_RULE = "must be contig, start and end with tabs between them, and 0 <= start < end"
_GFF_RULE = "must have 9 columns with tabs between them, and 1 <= start <= end"


class Interval(NamedTuple):
    """A stretch of a contig, and the line of the file that says so."""

    contig: str
    start: int
    """First nucleotide, from 0."""
    end: int
    """One past the last nucleotide."""
    name: str
    """Name column of a BED (empty without one), feature type of a GFF or GTF."""
    strand: str
    """"+", "-" or "."."""
    line: int
    """From 1."""


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of a text file, plain or gzip, with their numbers from 1.

    A byte-order mark, with which some programs begin a file, is left out.

    Raises:
        MissingInputError: if there is no such file.
        InputError: if it is a folder, empty, truncated, damaged or not text.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInputError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(f"{path}: must be a file, not a folder")
    with path.open("rb") as file:
        is_gzip = file.read(2) == GZIP_MAGIC
    number = 0
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if is_gzip
            else path.open(encoding="utf-8-sig") as text
        ):
            for number, line in enumerate(text, start=1):
                yield number, line.rstrip("\r\n")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip after line {number}: {error}") from None
    except UnicodeDecodeError as error:
        number += len((error.object[: error.start] + b"-").splitlines())  # many are read at once
        raise InputError(f"{path}: line {number}: must be text in UTF-8") from None
    if number == 0:
        raise InputError(f"{path}: empty file")


def is_count(text: str) -> bool:
    """Whether a text is a whole number, of no more digits than fit 64 bits."""
    return text.isdecimal() and len(text) <= 18


def read_bed(path: Path) -> Iterator[Interval]:
    """Yields the intervals of a BED file with 3 to 12 columns; "track" and "browser" are skipped.

    Raises:
        MissingInputError, InputError: in one line, with the file and the line.
    """
    count = 0
    for number, line in read_lines(path):
        if not line.strip() or _COMMENT.match(line):
            continue
        columns = line.split("\t")
        good = len(columns) >= 3 and is_count(columns[1]) and is_count(columns[2])
        start, end = (int(columns[1]), int(columns[2])) if good else (0, 0)
        if not (columns[0] and start < end):
            raise InputError(f"{path}: line {number}: {line[:60]!r}: {_BED_RULE}")
        name, strand = columns[3] if len(columns) > 3 else "", "."
        if len(columns) > 5:
            strand = columns[5]
            rule = "the strand, in column 6, must be +, - or ."
            require(strand in ("+", "-", "."), f"{path}: line {number}: strand", strand, rule)
        count += 1
        yield Interval(columns[0], start, end, name, strand, number)
    if not count:
        raise InputError(f"{path}: no interval: a BED file must hold at least one")


def read_gff(path: Path) -> Iterator[Interval]:
    """Yields the features of a GFF3 or GTF file, named by their type (column 3).

    Raises:
        MissingInputError, InputError: in one line, with the file and the line.
    """
    for number, columns in read_gff_columns(path):
        start, end = int(columns[3]), int(columns[4])
        yield Interval(columns[0], start - 1, end, columns[2], columns[6], number)


def read_gff_columns(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of each line of a GFF3 or GTF file that is a feature, and its 9 columns.

    Raises:
        MissingInputError, InputError: in one line, with the file and the line.
    """
    count = 0
    for number, line in read_lines(path):
        if line.startswith("##FASTA"):
            break
        if not line.strip() or line.startswith("#"):
            continue
        columns = line.split("\t")
        good = len(columns) == 9 and is_count(columns[3]) and is_count(columns[4])
        if not (good and 1 <= int(columns[3]) <= int(columns[4])):
            raise InputError(f"{path}: line {number}: {line[:60]!r}: {_GFF_RULE}")
        count += 1
        yield number, columns
    if not count:
        raise InputError(f"{path}: no feature: a GFF or GTF file must hold at least one")


def read_annotation(path: Path) -> list[Interval]:
    """The features of a GFF3, GTF or BED file (by its name; may be gzip).

    Raises:
        MissingInputError, InputError: in one line, with the file and the line.
    """
    path = Path(path)
    suffix = get_suffix(path)
    readers = {"gff": read_gff, "gff3": read_gff, "gtf": read_gff, "bed": read_bed}
    rule = f"an annotation must be a file .{', .'.join(readers)}, or one of them with .gz"
    require(suffix in readers, "annotation", str(path), rule)
    return list(readers[suffix](path))


def label_windows(
    contigs: Sequence[str],
    starts: Sequence[int] | Int[np.ndarray, " N"],
    ends: Sequence[int] | Int[np.ndarray, " N"],
    annotation: Sequence[Interval],
    *,
    features: Sequence[str],
    min_share: float = 0.5,
    other: str = "other",
) -> list[str]:
    """Says of each window which feature it lies in.

    The label is the first of `features` whose intervals, taken together, cover at least
    `min_share` of the window: list the narrow ones first (for example "CDS", "tRNA", "gene").

    Args:
        contigs: contig of each window, named as in the annotation.
        starts: first nucleotide of each window, from 0.
        ends: one past the last nucleotide.
        annotation: what `read_annotation` returns.
        features: names of intervals, in the order in which they are tried.
        min_share: share of a window that must be covered, above 0 and at most 1.
        other: label of the windows that no feature covers.

    Raises:
        InputError: for a feature that is not in the annotation, or if none of the windows' contigs
            is in it: the names differ.
    """
    require(0 < min_share <= 1, "min_share", min_share, "must lie above 0 and at most at 1")
    names = {interval.name for interval in annotation}
    for feature in features:
        require(feature in names, "feature", feature, f"the annotation has {_list(names)}")
    annotated = {interval.contig for interval in annotation}
    if len(contigs) and annotated.isdisjoint(contigs):
        raise InputError(f"contig {contigs[0]!r}: the annotation has {_list(annotated)}")
    first, last = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
    spans: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for interval in annotation:
        spans.setdefault((interval.contig, interval.name), []).append(interval[1:3])
    labels = [other] * len(contigs)
    names_of_contigs, inverse = np.unique(np.array(contigs, object), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    ends_of_groups = np.cumsum(np.bincount(inverse, minlength=len(names_of_contigs)))
    groups = np.split(order, ends_of_groups[:-1]) if len(contigs) else []
    for contig, windows in zip(names_of_contigs, groups, strict=True):
        sizes = np.maximum((last - first)[windows], 1)
        for feature in reversed(features):
            count = functools.partial(_count_covered, spans.get((contig, feature), []))
            covered = count(last[windows]) - count(first[windows])
            for window in windows[covered / sizes >= min_share]:
                labels[window] = feature
    return labels


def _count_covered(
    spans: list[tuple[int, int]], places: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """How many nucleotides before each place lie in at least one of the spans."""
    if not spans:
        return np.zeros_like(places)
    starts, ends = np.array(merge_spans(spans), np.int64).T
    before = np.concatenate([[0], np.cumsum(ends - starts)])
    index = np.searchsorted(starts, places, side="right")
    inside = np.minimum(places, ends[index - 1]) - starts[index - 1]
    return np.where(index > 0, before[index - 1] + inside, 0)


def merge_spans(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorted spans, those that overlap or touch as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def _list(names: set[str]) -> str:
    """Up to eight names, for a message."""
    some = sorted(names)[:8]
    return ", ".join(some) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
