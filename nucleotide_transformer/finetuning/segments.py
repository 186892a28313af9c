"""Sequences with labels for each nucleotide: a FASTA file and a BED of the classes' intervals."""

import dataclasses
import itertools
from pathlib import Path
from typing import Literal

import numpy as np

from nucleotide_transformer.data.intervals import Interval, read_bed
from nucleotide_transformer.data.sequences import (
    FASTA_SUFFIXES,
    cut_tiles,
    read_sequences,
)
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.files import get_suffix
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Bool, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentedSequences(LabelledSequences):
    """Sequences whose labels are those of their nucleotides."""

    labels: Int[np.ndarray, "S L C"]
    """1, 0, or `UNKNOWN` at N and past the end of a sequence; int8."""
    kind: Literal["segmentation"] = "segmentation"  # type: ignore[assignment]


UNKNOWN = -1
"""Label of a nucleotide that is not known, or not there: past the end of a short tile."""


def read_segments(
    path: str | Path,
    bed: str | Path,
    *,
    window: int,
    classes: tuple[str, ...] | None = None,
) -> SegmentedSequences:
    """Cuts the contigs of a FASTA file into tiles, and labels each nucleotide of them.

    A nucleotide has every class that an interval over it is named after (column 4 of the BED), on
    whichever strand. Labels are [S, window, C]: 1, 0, or `UNKNOWN` at N and past the end of a short
    tile. Tiles of nothing but N are left out.

    Args:
        path: the sequences.
        bed: the intervals.
        window: nucleotides of a tile; the last one of a contig may be shorter.
        classes: those of the training set, for another set; by default all that are there, sorted.

    Raises:
        MissingInputError, InputError: in one line, for a file that is no FASTA or has nothing but
            N, and for an interval without a name, of another class, on a contig that is not there,
            or beyond its end.
    """
    require(window > 0, "window", window, "must be above 0")
    is_fasta = get_suffix(Path(path)) in FASTA_SUFFIXES
    require(is_fasta, "sequences", str(path), "must be FASTA: intervals are of whole contigs")
    contigs = {record.contig: len(record.sequence) for record in read_sequences(Path(path))}
    intervals = list(read_bed(Path(bed)))
    names = tuple(sorted({each.name for each in intervals})) if classes is None else classes
    for each in intervals:
        _check_interval(each, Path(bed), Path(path), contigs, names)
    cut = cut_tiles(read_sequences(Path(path)), window)
    tiles = [tile for tile in cut if find_known(tile.sequence).any()]
    require(bool(tiles), "sequences", str(path), "must have nucleotides other than N")
    labels = np.zeros((len(tiles), window, len(names)), np.int8)
    places = {(tile.contig, tile.start): index for index, tile in enumerate(tiles)}
    for each in intervals:
        column = names.index(each.name)
        for first in range(each.start // window * window, each.end, window):
            if (each.contig, first) in places:
                index = places[each.contig, first]
                labels[index, max(each.start - first, 0) : each.end - first, column] = 1
    for row, tile in zip(labels, tiles, strict=True):
        row[~find_known(tile.sequence.ljust(window, "N"))] = UNKNOWN
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


def find_known(text: str) -> Bool[np.ndarray, " L"]:
    """Which letters of a sequence are known nucleotides, and not N."""
    return np.frombuffer(text.encode(), np.uint8) != ord("N")


def find_pieces(text: str, tokenizer: KmerTokenizer, most: int) -> list[slice]:
    """What of a tile goes through a model: all, but for a tile of nothing but N.

    Each N is a token. A tile that has too many tokens for that reason is halved, until each piece
    fits, or has nothing but N. One that would be too long without N, too, is left as it is.

    Args:
        text: of the tile.
        tokenizer: of the model.
        most: tokens that the model takes.
    """

    def halve(start: int, stop: int) -> list[slice]:
        own = text[start:stop]
        if not own.strip("N"):
            return []
        if tokenizer.encode(own).size <= most:
            return [slice(start, stop)]
        middle = (start + stop) // 2
        return [*halve(start, middle), *halve(middle, stop)]

    fits = "N" in text and tokenizer.encode(text.replace("N", "A")).size <= most
    return halve(0, len(text)) if fits or not text.strip("N") else [slice(0, len(text))]


def cut_long_tiles(
    data: LabelledSequences, tokenizer: KmerTokenizer, most: int
) -> LabelledSequences:
    """The `find_pieces` of all tiles, with their labels; other sequences as they are."""
    if not isinstance(data, SegmentedSequences):
        return data
    found = [find_pieces(text, tokenizer, most) for text in data.sequences]
    origins = np.repeat(np.arange(len(data)), [len(pieces) for pieces in found])
    cut = data.take(origins)
    for row, piece in enumerate(itertools.chain.from_iterable(found)):
        own = cut.labels[row, piece].copy()
        cut.labels[row] = UNKNOWN
        cut.labels[row, : len(own)] = own
        cut.sequences[row] = cut.sequences[row][piece]
    return cut


def find_nucleotides(
    tokens: Int[np.ndarray, " T"], tokenizer: KmerTokenizer
) -> Bool[np.ndarray, "T K"]:
    """Which of a token's k outputs are those of a nucleotide: all of a k-mer, one of a letter.

    Read token by token they are the nucleotides of the sequence in their order. `<cls>` and padding
    have none; N is a nucleotide, too.
    """
    is_letter = tokens >= tokenizer.first_letter_id
    is_first = np.arange(tokenizer.k) == 0
    return tokenizer.is_kmer(tokens)[..., None] | (is_letter[..., None] & is_first)


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
