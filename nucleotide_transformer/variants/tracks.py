"""Likelihoods and probabilities of nucleotides of sequences and regions, as tables and tracks."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from nucleotide_transformer.config import ComputeConfig
from nucleotide_transformer.errors import InputError, OutputExistsError, require
from nucleotide_transformer.files import write_whole
from nucleotide_transformer.inference.batching import BatchConfig, encode_sequences
from nucleotide_transformer.inference.embedding import is_known
from nucleotide_transformer.inference.likelihoods import token_log_likelihoods
from nucleotide_transformer.inference.nucleotides import NUCLEOTIDES, nucleotide_probabilities
from nucleotide_transformer.inference.sequence_io import (
    SequenceRecord,
    read_sequences,
)
from nucleotide_transformer.inference.tracks import import_bigwig, open_bigwig
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Float
from nucleotide_transformer.variants.progress import make_bar
from nucleotide_transformer.variants.reference import open_reference
from nucleotide_transformer.variants.regions import find_region
from nucleotide_transformer.weights.hub import PACKAGED

Shown = Literal["ref", "A", "C", "G", "T", "entropy"]
TRACKS = (".bedgraph", ".bw", ".bigwig")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SequencesConfig:
    """Sequences of a file, or a region of one."""

    input: Path
    """Sequences: .fa, .fasta, .fna, .csv or .tsv (also with .gz), or .parquet."""
    output: Path
    """File to write."""
    region: str | None = None
    """Of a FASTA file: contig:first-last, from 1, both ends included, instead of all contigs."""
    margin: int = 0
    """Nucleotides on either side of a region that the model sees, and that are not reported."""
    model: str = PACKAGED
    """Name of a model, hub repository, or folder: what `load_pretrained` takes. By default the
    model that comes with the package."""
    masked: bool = True
    """Hide each token in turn, in a pass of its own; or one pass in which the model sees all."""
    batching: BatchConfig = BatchConfig()
    """Size of windows and batches, devices."""
    compute: ComputeConfig = ComputeConfig()
    """Precision."""

    def __post_init__(self) -> None:
        require(self.margin >= 0, "margin", self.margin, "must be 0 or above")
        require(not self.margin or self.region is not None, "margin", self.margin, "needs a region")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodConfig(_SequencesConfig):
    """How likely sequences are: pseudo-log-likelihood and bits per nucleotide."""

    output: Path
    """File to write, .tsv: a row for each sequence."""
    track: Path | None = None
    """Track to write as well, .bedgraph, .bw or .bigwig: bits per nucleotide of each token. 2 are
    no knowledge at all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_suffix("output", self.output, (".tsv",))
        if self.track is not None:
            _check_suffix("track", self.track, TRACKS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig(_SequencesConfig):
    """Probabilities of A, C, G and T at every nucleotide."""

    output: Path
    """File to write: .tsv, a row for each nucleotide with all four; or a track, .bedgraph, .bw or
    .bigwig."""
    show: Shown = "ref"
    """What a track shows: the probability of what is there or of a letter, or the entropy in
    bits."""
    frames: int | None = None
    """Reading frames to average; all by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_suffix("output", self.output, (".tsv", *TRACKS))


class Piece(NamedTuple):
    """A sequence, and the part of it that is reported."""

    record: SequenceRecord
    start: int
    """First nucleotide of the sequence that is reported, from 0."""
    end: int
    """One past the last."""


def read_pieces(config: _SequencesConfig) -> list[Piece]:
    """The sequences of a file, or a region with its margins.

    Raises:
        MissingInputError, InputError: in one line, for what is wrong with the file or the region.
    """
    for output in (config.output, getattr(config, "track", None)):
        if output is not None and output.exists():
            raise OutputExistsError(f"{output}: exists already: delete it, or name another")
    if config.region is None:
        return [Piece(record, 0, len(record.sequence)) for record in read_sequences(config.input)]
    reference = open_reference(config.input)
    contig, start, end = find_region(config.region, reference)
    first = max(start - config.margin, 0)
    text = reference.fetch(contig, first, end + config.margin).decode()
    name = f"{contig}:{start}-{end}"
    record = SequenceRecord(name, text, contig, first, first + len(text))
    return [Piece(record, start - first, end - first)]


def write_likelihoods(
    model: Model, config: LikelihoodConfig, pieces: list[Piece], *, progress: bool = False
) -> list[Path]:
    """What `nt likelihood` does; returns the files, which appear whole or not at all.

    A token counts if all of it is reported. Bits per nucleotide are minus the sum of log2 p(token)
    by the nucleotides of the tokens; with 2 the model knows nothing.

    Args:
        model: what `load_pretrained(config.model, ...)` returns.
        config: files and options.
        pieces: what `read_pieces(config)` returned.
        progress: show a bar.
    """
    texts = [piece.record.sequence for piece in pieces]
    rows = token_log_likelihoods(model, texts, masked=config.masked, batching=config.batching)
    columns = ("name", "contig", "start", "end", "nucleotides", "tokens")
    header = (*columns, "log_likelihood", "bits_per_nucleotide")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_open_whole(config.output))
        file.write("\t".join(header) + "\n")
        add = _open_track(stack, config.track, pieces, "bits per nucleotide")
        bar = stack.enter_context(make_bar("nt", is_shown=progress))
        task = bar.add_task(config.output.name, total=sum(map(len, texts)))
        for piece, logs in zip(pieces, rows, strict=True):
            starts, widths = _find_tokens(model, piece.record.sequence)
            mine = (starts >= piece.start) & (starts + widths <= piece.end) & np.isfinite(logs)
            size, total = int(widths[mine].sum()), float(logs[mine].sum(dtype=np.float64))
            bits = -total / np.log(2) / size if size else float("nan")
            place = (piece.record.contig, piece.record.start + piece.start)
            row = (piece.record.name, *place, piece.record.start + piece.end, size, mine.sum())
            file.write("\t".join(map(str, row)) + f"\t{total:.6g}\t{bits:.6g}\n")
            for i in np.flatnonzero(mine):
                first = piece.record.start + int(starts[i])
                width = int(widths[i])
                value = -float(logs[i]) / np.log(2) / width
                add(piece.record.contig, first, first + width, value)
            bar.advance(task, len(piece.record.sequence))
    return [config.output, *([config.track] if config.track else [])]


def write_probabilities(
    model: Model, config: PredictConfig, pieces: list[Piece], *, progress: bool = False
) -> list[Path]:
    """What `nt predict-nucleotides` does; returns the file, which appears whole or not at all.

    Arguments as for `write_likelihoods`.
    """
    with contextlib.ExitStack() as stack:
        is_table = config.output.suffix == ".tsv"
        file = stack.enter_context(_open_whole(config.output)) if is_table else None
        track = None if is_table else config.output
        add = _open_track(stack, track, pieces, f"{config.show}")
        if file:
            file.write("\t".join(("contig", "position", "ref", *NUCLEOTIDES)) + "\n")
        bar = stack.enter_context(make_bar("nt", is_shown=progress))
        sizes = [len(piece.record.sequence) for piece in pieces]
        task = bar.add_task(config.output.name, total=sum(sizes))
        for piece, size in zip(pieces, sizes, strict=True):
            record = piece.record
            p = nucleotide_probabilities(
                model,
                record.sequence,
                masked=config.masked,
                frames=config.frames,
                batching=config.batching,
            )
            values = _choose(p, record.sequence, config.show)
            for i in range(piece.start, piece.end):
                place = record.start + i
                if file:
                    row = (record.contig, place + 1, record.sequence[i])
                    four = "\t".join(f"{x:.6g}" for x in p[i])
                    file.write("\t".join(map(str, row)) + f"\t{four}\n")
                elif not np.isnan(values[i]):
                    add(record.contig, place, place + 1, float(values[i]))
            bar.advance(task, size)
    return [config.output]


def _choose(
    p: Float[np.ndarray, "nucleotides 4"], sequence: str, show: Shown
) -> Float[np.ndarray, " nucleotides"]:
    """What a track shows of the probabilities; NaN at N."""
    letters = np.array([NUCLEOTIDES.find(letter) for letter in sequence.upper().replace("U", "T")])
    if show == "entropy":
        values = -(p * np.log2(np.where(p > 0, p, 1))).sum(axis=1)
    elif show == "ref":
        values = np.take_along_axis(p, np.maximum(letters, 0)[:, None], axis=1)[:, 0]
    else:
        values = p[:, NUCLEOTIDES.index(show)]
    return np.where(letters >= 0, values, np.nan)


def _find_tokens(model: Model, sequence: str) -> tuple[np.ndarray, np.ndarray]:
    """First nucleotide and width of every token, `<cls>` first: -1 and 0."""
    tokens = next(encode_sequences(model.tokenizer, [sequence]))
    first = model.config.first_kmer_id
    is_kmer = is_known(tokens, model.config) & (tokens < first + 4**model.config.k)
    widths = np.where(is_kmer, model.config.k, 1)
    widths[0] = 0
    starts = np.cumsum(widths) - widths
    starts[0] = -1
    return starts, widths


def _check_suffix(field: str, path: Path, suffixes: tuple[str, ...]) -> None:
    require(path.suffix in suffixes, field, str(path), f"must be a file {', '.join(suffixes)}")


@contextlib.contextmanager
def _open_whole(path: Path) -> Iterator[IO[str]]:
    """A text file that appears when all went well."""
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield file


def _open_track(
    stack: contextlib.ExitStack, path: Path | None, pieces: list[Piece], name: str
) -> Callable[[str, int, int, float], None]:
    """Opens a track; returns a function that adds contig, start, end and value, in order."""
    if path is None:
        return lambda *_: None
    if path.suffix == ".bedgraph":
        file = stack.enter_context(_open_whole(path))
        file.write(f'track type=bedGraph name="{name}"\n')
        return lambda c, a, b, value: _write(file, f"{c}\t{a}\t{b}\t{value:.6g}\n")
    import_bigwig(path)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = stack.enter_context(write_whole(path))
    sizes: dict[str, int] = {}
    for piece in pieces:
        contig = piece.record.contig
        if contig in sizes and piece.record.start < sizes[contig]:
            raise InputError(f"{path}: BigWig needs sequences in order: {contig} goes back")
        sizes[contig] = piece.record.end
    track: Any = stack.enter_context(open_bigwig(path, partial, sizes))
    return lambda c, a, b, value: track.addEntries([c], [a], ends=[b], values=[value])


def _write(file: IO[str], text: str) -> None:
    file.write(text)
