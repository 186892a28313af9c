"""Sequences of a file or a region of one, and the parts that they are computed in."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nucleotide_transformer.data.sequences import (
    SequenceRecord,
    SequenceTotals,
    measure_sequences,
    read_sequences,
)
from nucleotide_transformer.data.tracks import BIGWIG, import_bigwig
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.files import check_new
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.model.platform import find_default_device
from nucleotide_transformer.variants.reading import check_texts
from nucleotide_transformer.variants.reference import Reference, open_reference
from nucleotide_transformer.variants.regions import find_region
from nucleotide_transformer.weights.hub import LoadConfig

BLOCK_ON_CPU, BLOCK_ELSEWHERE, BLOCK_SEEN = 2_048, 65_536, 1 << 20
"""Nucleotides of a block, what a stop can cost: up to a pass for each of them, or few passes where
the model sees all. Each block ends with batches that are not full."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequencesConfig(LoadConfig):
    """Sequences of a file, or a region of one."""

    input: Path
    """Sequences: .fa, .fasta, .fna, .csv or .tsv (also with .gz), or .parquet."""
    output: Path
    """File to write. What is unfinished lies in <output>.parts."""
    region: str | None = None
    """Of a FASTA file: contig:first-last, from 1, both ends included, instead of all contigs."""
    margin: int = 0
    """Nucleotides on either side of a region that the model sees, and that are not reported."""
    masked: bool = True
    """Hide each token in turn, in a pass of its own; or one pass in which the model sees all."""
    batching: BatchConfig = BatchConfig()
    """Size of windows and batches, devices."""

    def __post_init__(self) -> None:
        require(self.margin >= 0, "margin", self.margin, "must be 0 or above")
        require(not self.margin or self.region is not None, "margin", self.margin, "needs a region")


class Piece(NamedTuple):
    """A sequence, and what is reported of it."""

    record: SequenceRecord
    start: int
    """First nucleotide of the sequence that is reported, from 0."""
    end: int
    """One past the last."""
    contig_end: int
    """Where its contig ends, as far as is known."""


class Part(NamedTuple):
    """Some of the nucleotides that are reported of a sequence."""

    piece: Piece
    start: int
    """First one, counted along the sequence from 0."""
    end: int
    """One past the last."""


class Sequences(NamedTuple):
    """What there is to do."""

    totals: SequenceTotals
    num_reported: int
    """Nucleotides."""
    ends: dict[str, int]
    """By contig, in the order of the file: where it ends, or its last sequence there does."""
    region: Piece | None
    """What the config's region is, read once."""
    notes: tuple[str, ...]
    """Of the reference that it is of."""


def check_sequences(config: SequencesConfig) -> Sequences:
    """Checks the outputs, and reads all of the input; no model is needed.

    Raises:
        OutputExistsError, NotAFolderError, UnwritableOutputError, MissingInputError, InputError:
            in one line, for what is wrong with an output, the file or the region.
    """
    outputs = [path for path in (config.output, getattr(config, "track", None)) if path]
    big = next((path for path in outputs if path.suffix[1:] in BIGWIG), None)
    for path in outputs:
        check_new(path)
    if big:
        import_bigwig(big)
    region: Piece | None = None
    notes: tuple[str, ...] = ()
    if config.region is not None:
        reference = open_reference(config.input)
        region, notes = _read_region(reference, config.region, config.margin), reference.notes
    num_reported, ends, last = 0, dict[str, int](), ""

    def take_records() -> Iterator[SequenceRecord]:
        nonlocal num_reported, last
        for record, start, end, contig_end in _read_pieces(config, region):
            check_texts(str(config.input), name=record.name, contig=record.contig)
            if big and record.start < ends.get(record.contig, 0):
                rule = f"BigWig needs sequences in order: {record.contig} goes back"
                raise InputError(f"{big}: {rule}")
            if big and record.contig in ends and record.contig != last:
                rule = f"BigWig needs contigs in one piece: {record.contig} comes back after {last}"
                raise InputError(f"{big}: {rule}")
            ends[record.contig], last = contig_end, record.contig
            num_reported += end - start
            yield record

    totals = measure_sequences(take_records())
    return Sequences(totals, num_reported, ends, region, notes)


def _read_pieces(config: SequencesConfig, region: Piece | None) -> Iterator[Piece]:
    """The region, or the sequences of a file, one at a time."""
    if region:
        yield region
        return
    for record in read_sequences(config.input):
        yield Piece(record, 0, len(record.sequence), record.end)


def _read_region(reference: Reference, region: str, margin: int) -> Piece:
    """A region with its margins."""
    contig, start, end = find_region(region, reference)
    first = max(start - margin, 0)
    text = reference.fetch(contig, first, end + margin).decode()
    name = f"{contig}:{start}-{end}"
    record = SequenceRecord(name, text, contig, first, first + len(text))
    return Piece(record, start - first, end - first, reference.lengths[contig])


def find_block_size(masked: bool) -> int:
    """Nucleotides of a block."""
    if not masked:
        return BLOCK_SEEN
    return BLOCK_ON_CPU if find_default_device().platform == "cpu" else BLOCK_ELSEWHERE


def cut_parts(config: SequencesConfig, sequences: Sequences) -> Iterator[list[Part]]:
    """The parts of each block: as many nucleotides, of one sequence or several."""
    size = find_block_size(config.masked)
    parts: list[Part] = []
    room = size
    for piece in _read_pieces(config, sequences.region):
        start = piece.start
        while start < piece.end:
            end = min(start + room, piece.end)
            parts.append(Part(piece, start, end))
            start, room = end, room - (end - start)
            if not room:
                yield parts
                parts, room = [], size
    if parts:
        yield parts
