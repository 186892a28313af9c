"""The table of `llr_calibrated`, from random pieces of a genome: what `nt calibrate` does."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.bars import make_bar
from nucleotide_transformer.config import require_positive
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.files import check_new
from nucleotide_transformer.inference.blocks import Arrays, Blocks, run_jobs
from nucleotide_transformer.inference.nucleotides import NUCLEOTIDES
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import reverse_words
from nucleotide_transformer.types import Float, Int
from nucleotide_transformer.variants.calibration import (
    FILE_NAME,
    NUM_CONTEXTS,
    Calibration,
    make_run_settings,
    make_settings,
)
from nucleotide_transformer.variants.changes import Change
from nucleotide_transformer.variants.config import WindowConfig
from nucleotide_transformer.variants.evidence import COMPLEMENT, CONTEXT
from nucleotide_transformer.variants.reference import Reference, open_reference
from nucleotide_transformer.variants.scores import llr
from nucleotide_transformer.variants.scoring import Scorer
from nucleotide_transformer.weights.hub import LoadConfig

PIECE = 60
"""Nucleotides of a piece: all of their changes share passes."""
_PIECES_AT_ONCE = 16
_TRIES = 1_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrateConfig(WindowConfig, LoadConfig):
    """The mean of llr over a background, by the change and the five nucleotides around it."""

    fasta: Path
    """The genome that the background is drawn from: FASTA, plain, bgzip or gzip."""
    output: Path | None = None
    """File to write, .json; llr_calibration.json in the model's folder by default, where
    `nt score-variants` looks for it. What is unfinished lies in <output>.parts."""
    num_places: int = 60_000
    """Nucleotides of the background, in pieces of 60 from random places; about two passes each."""
    seed: int = 0
    """Of the places."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "num_places")
        require(0 <= self.seed < 2**32, "seed", self.seed, "must lie in [0, 2**32)")
        output = self.find_output()
        require(output.suffix == ".json", "output", str(output), "must be a file .json")

    def find_output(self) -> Path:
        """The file to write; an `InputError` where the model has no folder and none is named."""
        if self.output is not None:
            return self.output
        is_folder = Path(self.model).is_dir()
        require(is_folder, "output", None, f"must be given: {self.model} is not a folder")
        return Path(self.model) / FILE_NAME


class _Sums(NamedTuple):
    """Sums of `llr` by context and new nucleotide, and how many they are of."""

    totals: Float[np.ndarray, "C 4"]
    counts: Int[np.ndarray, "C 4"]


def calibrate(
    model: Model,
    config: CalibrateConfig,
    *,
    blocks: Blocks | None = None,
    progress: bool = False,
) -> Calibration:
    """Computes the table of a model.

    Every change counts for its context and for the reverse complement of it. Where the background
    has no such change, the mean is that of the three nucleotides around the place, or else that of
    the change alone.

    Args:
        model: what `load_pretrained(config.model, ...)` returns.
        config: genome and options.
        blocks: of a run that was stopped; what is finished is kept there. By default nowhere.
        progress: show a bar.

    Raises:
        InputError: for a genome without a piece of 60 known nucleotides, or if the blocks are those
            of a run with other arguments, or other letters in reach of its pieces.
    """
    reference = open_reference(config.fasta)
    scorer = Scorer(model, reference, ("llr",), around=config)
    background = {"num_places": config.num_places, "seed": config.seed}
    num_pieces = -(-config.num_places // PIECE)
    if blocks:
        pieces = draw_pieces(reference, num_pieces, config.seed)
        spans = [Change(x[0].contig, x[0].start, x[-1].end, b"", b"") for x in pieces]
        letters = {"fasta_letters": scorer.digest_letters(spans)}
        blocks.keep_settings(make_run_settings(model, config, reference) | background | letters)

    def compute(changes: list[Change]) -> Arrays:
        evidence = scorer.find_evidence(changes)
        return {"contexts": evidence.context, "alts": evidence.alt, "values": llr(evidence)}

    sums = _Sums(np.zeros((NUM_CONTEXTS, 4)), np.zeros((NUM_CONTEXTS, 4), np.int64))
    jobs = _join_pieces(draw_pieces(reference, num_pieces, config.seed))
    with make_bar("nt", is_shown=progress) as bar:
        task = bar.add_task(f"{config.model}: background", total=num_pieces * PIECE)
        for changes, arrays in run_jobs(jobs, compute, blocks):
            _add(sums, **arrays)
            bar.advance(task, len(changes) // 3)
    settings = make_settings(model, config) | {"fasta": config.fasta.name} | background
    return Calibration(_fill(sums), sums.counts, settings)


def calibrate_to_file(model: Model, config: CalibrateConfig, *, progress: bool = False) -> Path:
    """What `nt calibrate` does; returns the file, which appears whole or not at all.

    Finished blocks are kept in the folder `<output>.parts`; called again with the same arguments,
    the function resumes after them. Arguments and errors as of `calibrate`.
    """
    output = config.find_output()
    check_new(output)
    with Blocks(output) as blocks:
        calibrate(model, config, blocks=blocks, progress=progress).save(output)
    return output


def _join_pieces(pieces: Iterator[list[Change]]) -> Iterator[list[Change]]:
    """The changes of some pieces at a time."""
    while some := list(itertools.islice(pieces, _PIECES_AT_ONCE)):
        yield [change for piece in some for change in piece]


def draw_pieces(reference: Reference, count: int, seed: int) -> Iterator[list[Change]]:
    """Yields all changes of random pieces without N.

    Raises:
        InputError: where 1,000 places in a row have none.
    """
    contigs = {name: size for name, size in reference.lengths.items() if size >= PIECE}
    random = np.random.default_rng(seed)
    ends = np.cumsum([size - PIECE + 1 for size in contigs.values()])
    names = list(contigs)
    for _ in range(count):
        for _ in range(_TRIES if contigs else 0):
            number = int(random.integers(ends[-1]))
            which = int(np.searchsorted(ends, number, side="right"))
            start = number - (int(ends[which - 1]) if which else 0)
            text = reference.fetch(names[which], start, start + PIECE)
            if b"N" not in text:
                break
        else:
            raise InputError(f"{reference.path}: no {PIECE} nucleotides in a row without N")
        yield [
            Change(names[which], start + i, start + i + 1, text[i : i + 1], letter.encode())
            for i in range(PIECE)
            for letter in NUCLEOTIDES
            if text[i] != ord(letter)
        ]


def _add(
    sums: _Sums,
    contexts: Int[np.ndarray, " N"],
    alts: Int[np.ndarray, " N"],
    values: Float[np.ndarray, " N"],
) -> None:
    """Adds changes, as both strands have them."""
    known = (contexts >= 0) & ~np.isnan(values)
    contexts, alts, values = contexts[known], alts[known], values[known]
    reverse = reverse_words(contexts, 2 * CONTEXT + 1)
    for context, alt in ((contexts, alts), (reverse, COMPLEMENT[alts])):
        np.add.at(sums.totals, (context, alt), values)
        np.add.at(sums.counts, (context, alt), 1)


def _fill(sums: _Sums) -> Float[np.ndarray, "C 4"]:
    """Means, those that are missing from the changes of shorter contexts; NaN on the diagonal."""
    shape = (4,) * (2 * CONTEXT + 1) + (4,)
    totals, counts = sums.totals.reshape(shape), sums.counts.reshape(shape)
    means = np.full(shape, np.nan)
    for outer in ((), (0, 4), (0, 1, 3, 4)):
        total, count = (x.sum(axis=outer, keepdims=True) for x in (totals, counts))
        guess = np.broadcast_to(total / np.where(count, count, np.nan), shape)
        means = np.where(np.isnan(means), guess, means)
    centre = np.arange(NUM_CONTEXTS) // 4**CONTEXT % 4
    means = means.reshape(NUM_CONTEXTS, 4).copy()
    means[np.arange(NUM_CONTEXTS), centre] = np.nan
    return means
