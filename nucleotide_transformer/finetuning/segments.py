"""Sequences with labels for each nucleotide: a FASTA file and a BED of the classes' intervals."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from nucleotide_transformer.data.intervals import Interval, read_bed
from nucleotide_transformer.data.sequences import (
    FASTA_SUFFIXES,
    cut_tiles,
    get_suffix,
    read_sequences,
)
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Bool, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentedSequences(LabelledSequences):
    """Sequences whose labels are those of their nucleotides."""

    labels: Int[np.ndarray, "S L C"]
    """1, 0, or `UNKNOWN` past the end of a sequence; int8."""
    kind: Literal["segmentation"] = "segmentation"  # type: ignore[assignment]


UNKNOWN = -1
"""Label of a nucleotide that is not there: past the end of a tile that is shorter than others."""


def read_segments(
    path: str | Path,
    bed: str | Path,
    *,
    window: int,
    classes: tuple[str, ...] | None = None,
) -> SegmentedSequences:
    """Cuts the contigs of a FASTA file into tiles, and labels each nucleotide of them.

    A nucleotide has every class that an interval over it is named after (column 4 of the BED), on
    whichever strand. Labels are [S, window, C]: 1, 0, or `UNKNOWN` past the end of a short tile.

    Args:
        path: the sequences.
        bed: the intervals.
        window: nucleotides of a tile; the last one of a contig may be shorter.
        classes: those of the training set, for another set; by default all that are there, sorted.

    Raises:
        MissingInputError, InputError: in one line, for a file that is no FASTA, and for an interval
            without a name, of another class, on a contig that is not there, or beyond its end.
    """
    require(window > 0, "window", window, "must be above 0")
    is_fasta = get_suffix(Path(path)) in FASTA_SUFFIXES
    require(is_fasta, "sequences", str(path), "must be FASTA: intervals are of whole contigs")
    contigs = {record.contig: len(record.sequence) for record in read_sequences(Path(path))}
    intervals = list(read_bed(Path(bed)))
    names = tuple(sorted({each.name for each in intervals})) if classes is None else classes
    for each in intervals:
        _check_interval(each, Path(bed), Path(path), contigs, names)
    tiles = list(cut_tiles(read_sequences(Path(path)), window))
    labels = np.full((len(tiles), window, len(names)), UNKNOWN, np.int8)
    places: dict[str, list[int]] = {}
    for index, tile in enumerate(tiles):
        labels[index, : len(tile.sequence)] = 0
        places.setdefault(tile.contig, []).append(index)
    for each in intervals:
        column = names.index(each.name)
        own = places[each.contig]
        for index in own[each.start // window : (each.end - 1) // window + 1]:
            first = tiles[index].start
            labels[index, max(each.start - first, 0) : each.end - first, column] = 1
    labels[np.arange(window) >= np.array([[len(t.sequence)] for t in tiles])] = UNKNOWN
    return SegmentedSequences(
        names=[tile.name for tile in tiles],
        sequences=[tile.sequence for tile in tiles],
        labels=labels,
        classes=names,
        source=str(bed),
    )


def _check_interval(
    each: Interval, bed: Path, path: Path, contigs: dict[str, int], names: tuple[str, ...]
) -> None:
    """Raises an `InputError` for an interval that can't be a label."""
    place = f"{bed}: line {each.line}"
    if not each.name:
        raise InputError(f"{place}: no name: column 4 must say which class the interval is of")
    rule = f"the training set has no such class: it has {', '.join(names[:8])}"
    require(each.name in names, f"{place}: class", each.name, rule)
    if each.contig not in contigs:
        raise InputError(f"{place}: there is no contig {each.contig!r} in {path}")
    if each.end > contigs[each.contig]:
        size = contigs[each.contig]
        raise InputError(f"{place}: ends at {each.end}: the contig in {path} ends at {size}")


def find_nucleotides(
    tokens: Int[np.ndarray, " T"], tokenizer: KmerTokenizer
) -> Bool[np.ndarray, "T K"]:
    """Which of a token's k outputs are those of a nucleotide: all of a k-mer, one of a letter.

    Read token by token they are the nucleotides of the sequence in their order. `<cls>` and padding
    have none; N is a nucleotide, too.
    """
    first, k = tokenizer.first_kmer_id, tokenizer.k
    is_kmer = (tokens >= first) & (tokens < first + 4**k)
    is_letter = tokens >= first + 4**k
    return is_kmer[..., None] | (is_letter[..., None] & (np.arange(k) == 0))


def lay_labels(
    labels: Int[np.ndarray, "L C"],
    tokens: Int[np.ndarray, " T"],
    tokenizer: KmerTokenizer,
    *,
    is_reversed: bool,
) -> Int[np.ndarray, "T K C"]:
    """Labels of nucleotides as the tokens have them; `UNKNOWN` at outputs of no nucleotide.

    Args:
        labels: of a sequence, from its start on.
        tokens: of the sequence, or of its other strand.
        tokenizer: which made them.
        is_reversed: whether they are of the other strand.
    """
    at = find_nucleotides(tokens, tokenizer)
    own = labels[: np.count_nonzero(at)]
    laid = np.full((*at.shape, labels.shape[1]), UNKNOWN, np.int8)
    laid[at] = own[::-1] if is_reversed else own
    return laid


def pick_nucleotides(
    outputs: Float[np.ndarray, "T K C"],
    tokens: Int[np.ndarray, " T"],
    tokenizer: KmerTokenizer,
    *,
    is_reversed: bool,
) -> Float[np.ndarray, "L C"]:
    """The reverse for predictions: those of the nucleotides, in the order of the sequence."""
    own = outputs[find_nucleotides(tokens, tokenizer)]
    return own[::-1] if is_reversed else own
