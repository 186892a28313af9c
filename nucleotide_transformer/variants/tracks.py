"""Likelihoods and probabilities of nucleotides of sequences and regions, as tables and tracks.

They are computed in blocks of so many nucleotides, each by itself: a run that was stopped resumes
after its last block, and writes the same bytes as one that was not. One sequence is in memory, and
the results of one block.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np

from nucleotide_transformer.bars import make_bar
from nucleotide_transformer.data.tracks import TRACKS, AddEntries, check_track_room, open_track
from nucleotide_transformer.errors import require, require_choices
from nucleotide_transformer.files import write_whole
from nucleotide_transformer.inference.batching import encode_sequences, resolve_windows
from nucleotide_transformer.inference.blocks import Arrays, Blocks, describe_model, run_jobs
from nucleotide_transformer.inference.likelihoods import TokenChoice, score_tokens
from nucleotide_transformer.inference.nucleotides import NUCLEOTIDES, average_frames, read_frames
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Float, Int
from nucleotide_transformer.variants.pieces import (
    Part,
    Piece,
    Sequences,
    SequencesConfig,
    check_sequences,
    cut_parts,
    find_block_size,
)

Shown = Literal["ref", "A", "C", "G", "T", "entropy"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodConfig(SequencesConfig):
    """How likely sequences are: pseudo-log-likelihood and bits per nucleotide."""

    output: Path
    """File to write, .tsv: a row for each sequence. What is unfinished lies in <output>.parts."""
    track: Path | None = None
    """Track to write as well, .bedgraph, .bw or .bigwig: bits per nucleotide of each token. 2 are
    no knowledge at all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_suffix("output", self.output, ("tsv",))
        if self.track is not None:
            _check_suffix("track", self.track, TRACKS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig(SequencesConfig):
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
        require_choices(self)
        _check_suffix("output", self.output, ("tsv", *TRACKS))
        is_track = self.output.suffix != ".tsv"
        require(is_track or self.show == "ref", "show", self.show, "needs a track as output")


def write_likelihoods(
    model: Model,
    config: LikelihoodConfig,
    sequences: Sequences | None = None,
    *,
    progress: bool = False,
) -> list[Path]:
    """What `nt likelihood` does; returns the files, which appear whole or not at all.

    A token counts if all of it is reported. Bits per nucleotide are minus the sum of log2 p(token)
    by the nucleotides of the tokens; with 2 the model knows nothing.

    Finished blocks are kept in the folder `<output>.parts`; called again with the same arguments,
    the function resumes after them.

    Args:
        model: what `load_pretrained(config.model, ...)` returns.
        config: files and options.
        sequences: what `check_sequences(config)` returned, if it was called before the model was
            loaded.
        progress: show a bar with rate and time left.

    Raises:
        InputError: as `check_sequences`, for windows that the model can't take, or if the folder
            of parts is that of a run with other arguments, or another process writes there.
    """
    sequences = check_sequences(config) if sequences is None else sequences
    find = functools.lru_cache(maxsize=1)(functools.partial(_find_tokens, model))

    def compute(parts: list[Part]) -> list[np.ndarray]:
        found = [_choose_tokens(part, *find(part.piece.record.sequence)) for part in parts]
        choices = [choice for choice, _ in found]
        scores = score_tokens(model, choices, masked=config.masked, batching=config.batching)
        return [np.column_stack([where, x]) for (_, where), x in zip(found, scores, strict=True)]

    check_track_room(config.track, sequences.ends, sequences.num_reported // model.config.k)
    with contextlib.ExitStack() as stack:
        blocks = stack.enter_context(Blocks(config.output))
        num_tokens = _run_blocks(model, config, sequences, blocks, compute, progress)
        file = stack.enter_context(_open_whole(config.output))
        columns = ("name", "contig", "start", "end", "nucleotides", "tokens")
        file.write("\t".join((*columns, "log_likelihood", "bits_per_nucleotide")) + "\n")
        name = "bits per nucleotide"
        add = _open_track(stack, config.track, name, sequences, num_tokens)
        sums = np.zeros(3)
        for (piece, _, end), tokens in _read_blocks(config, sequences, blocks):
            sums += (len(tokens), *tokens[:, 1:].sum(axis=0))
            places, widths = tokens[:, :2].astype(np.int64).T
            starts = piece.record.start + places
            add(piece.record.contig, starts, starts + widths, -tokens[:, 2] / np.log(2) / widths)
            if end == piece.end:
                file.write(_describe_piece(piece, *sums.tolist()))
                sums[:] = 0
    return [config.output, *([config.track] if config.track else [])]


def _choose_tokens(
    part: Part, tokens: np.ndarray, starts: np.ndarray, widths: np.ndarray, known: np.ndarray
) -> tuple[TokenChoice, Int[np.ndarray, "W 2"]]:
    """The tokens that begin in a part and are reported whole, and their starts and widths."""
    wanted = np.arange(*np.searchsorted(starts, (part.start, part.end)))
    fits = starts[wanted] + widths[wanted] <= part.piece.end
    wanted = wanted[known[wanted] & fits]
    return TokenChoice(tokens, wanted), np.column_stack([starts[wanted], widths[wanted]])


def _describe_piece(piece: Piece, num_tokens: float, size: float, log_p: float) -> str:
    """The row of a sequence."""
    record = piece.record
    bits = -log_p / np.log(2) / size if size else float("nan")
    place = (record.contig, record.start + piece.start, record.start + piece.end)
    row = (record.name, *place, int(size), int(num_tokens), f"{log_p:.10g}", f"{bits:.6g}")
    return "\t".join(map(str, row)) + "\n"


def write_probabilities(
    model: Model,
    config: PredictConfig,
    sequences: Sequences | None = None,
    *,
    progress: bool = False,
) -> list[Path]:
    """What `nt predict-nucleotides` does; returns the file, which appears whole or not at all.

    Arguments, errors and resumption as for `write_likelihoods`.
    """
    sequences = check_sequences(config) if sequences is None else sequences
    read = functools.lru_cache(maxsize=1)(
        functools.partial(read_frames, model, frames=config.frames)
    )
    average = functools.partial(
        average_frames, model, masked=config.masked, batching=config.batching
    )

    def compute(parts: list[Part]) -> list[np.ndarray]:
        return [average(read(piece.record.sequence), *place) for piece, *place in parts]

    check_track_room(config.output, sequences.ends, sequences.num_reported)
    with contextlib.ExitStack() as stack:
        blocks = stack.enter_context(Blocks(config.output))
        size = _run_blocks(model, config, sequences, blocks, compute, progress)
        if config.output.suffix == ".tsv":
            file = stack.enter_context(_open_whole(config.output))
            _write_rows(file, _read_blocks(config, sequences, blocks))
            return [config.output]
        add = _open_track(stack, config.output, config.show, sequences, size)
        for (piece, start, end), p in _read_blocks(config, sequences, blocks):
            values = _choose(p, piece.record.sequence[start:end], config.show)
            known = np.flatnonzero(~np.isnan(values))
            starts = piece.record.start + start + known
            add(piece.record.contig, starts, starts + 1, values[known])
    return [config.output]


def _write_rows(file: IO[str], parts: Iterator[tuple[Part, np.ndarray]]) -> None:
    """Writes a row for each nucleotide, with its position from 1."""
    file.write("\t".join(("contig", "position", "ref", *NUCLEOTIDES)) + "\n")
    for (piece, start, end), p in parts:
        first = piece.record.start + start + 1
        for place, letter in enumerate(piece.record.sequence[start:end]):
            four = "\t".join(f"{x:.6g}" for x in p[place])
            file.write(f"{piece.record.contig}\t{first + place}\t{letter}\t{four}\n")


def _run_blocks(
    model: Model,
    config: SequencesConfig,
    sequences: Sequences,
    blocks: Blocks,
    compute: Callable[[list[Part]], list[np.ndarray]],
    progress: bool,
) -> int:
    """Computes the blocks that are not there yet; returns the length of all arrays together.

    Args:
        model: for what the result depends on.
        config: as it was given.
        sequences: what `check_sequences` found.
        blocks: takes them.
        compute: gives an array for each part of a block.
        progress: show a bar.
    """
    settings = {
        **describe_model(model, config.model),
        "result": type(config).__name__,
        "masked": config.masked,
        "frames": getattr(config, "frames", None),
        **resolve_windows(model.config, config.batching)._asdict(),
        "input": config.input.name,
        "region": config.region,
        "block_nucleotides": find_block_size(config.masked),
        "num_nucleotides": sequences.num_reported,
        "sequences": sequences.totals.digest,
    }
    blocks.keep_settings(settings)

    def join(parts: list[Part]) -> Arrays:
        arrays = compute(parts)
        return {"values": np.concatenate(arrays), "sizes": np.array([len(a) for a in arrays])}

    length = 0
    with make_bar("nt", is_shown=progress) as bar:
        task = bar.add_task(config.output.name, total=sequences.num_reported)
        for parts, arrays in run_jobs(cut_parts(config, sequences), join, blocks):
            length += len(arrays["values"])
            bar.advance(task, sum(part.end - part.start for part in parts))
    return length


def _read_blocks(
    config: SequencesConfig, sequences: Sequences, blocks: Blocks
) -> Iterator[tuple[Part, np.ndarray]]:
    """Every part with its array."""
    for index, parts in enumerate(cut_parts(config, sequences)):
        block = blocks.load(index)
        yield from zip(
            parts, np.split(block["values"], np.cumsum(block["sizes"])[:-1]), strict=True
        )


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


def _find_tokens(model: Model, sequence: str) -> tuple[np.ndarray, ...]:
    """Ids, first nucleotides, widths of all tokens, and which are known; `<cls>` at -1."""
    tokens = next(encode_sequences(model.tokenizer, [sequence]))
    widths = np.where(model.config.is_kmer(tokens), model.config.k, 1)
    return tokens, np.cumsum(widths) - widths - 1, widths, model.config.is_known(tokens)


def _check_suffix(field: str, path: Path, suffixes: tuple[str, ...]) -> None:
    rule = f"must be a file .{', .'.join(suffixes)}"
    require(path.suffix[1:] in suffixes, field, str(path), rule)


@contextlib.contextmanager
def _open_whole(path: Path) -> Iterator[IO[str]]:
    """A text file that appears when all went well."""
    with write_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield file


def _open_track(
    stack: contextlib.ExitStack,
    path: Path | None,
    name: str,
    sequences: Sequences,
    num_entries: int,
) -> AddEntries:
    """A track that appears when all went well."""
    if path is None:
        return lambda *_: None
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = stack.enter_context(write_whole(path))
    return stack.enter_context(open_track(path, partial, name, sequences.ends, num_entries))
