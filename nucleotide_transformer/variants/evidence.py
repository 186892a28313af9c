"""What the scores of a block of changes are computed from: every pass that they need, once.

Frames and strands: nucleotide i lies in k k-mers, which begin at i - k + 1 to i, each in a reading
frame of its own; on both strands these are 2 k. Arrays have them as [strand, j]: the k-mer that
begins j nucleotides before the changed one, as its strand is read. So the reverse complement of
everything exchanges the two strands, and sums over j, then over the strands, are the same to the
last bit.

- masked: the k-mer hidden, in the middle of its window. The passes of neighbours are shared: one
  serves the k-mer and its 3 k single changes, and the pseudo-log-likelihoods of the reference.
- wild: nothing hidden. Windows are half a window apart, and shared: each judges the k-mers in the
  middle half of it. A letter of N is a token; a k-mer that others push out has a window of its own.
- seen: nothing hidden, the k-mer in the middle of its window; in the reference, and in the change.
"""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nucleotide_transformer.inference.nucleotides import TO_ACGT
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Bool, Float, Int
from nucleotide_transformer.variants.changes import Change
from nucleotide_transformer.variants.fixed_batches import FixedBatches
from nucleotide_transformer.variants.passes import (
    JSD_TOKENS,
    MaskedResult,
    MaskedTask,
    SeenTask,
    WildTask,
)
from nucleotide_transformer.variants.reference import Reference
from nucleotide_transformer.variants.stretches import Stretches, cut_reference, write_changed
from nucleotide_transformer.variants.texts import Texts

ROWS_AT_ONCE = 1_024
"""Rows whose results are on the host before they are reduced to what is kept."""
CHANGES_AT_ONCE = 64
"""Changes whose sequences are written out at a time."""
CONTEXT = 2
"""Nucleotides on either side of the changed one in the table of `llr_calibrated`."""
COMPLEMENT = np.array([3, 2, 1, 0])
"""Of A, C, G, T."""
_FROM_CODE = np.array([0, 3, 1, 2, -1])
"""Of the codes of texts (A, T, C, G, N) to A, C, G, T."""


@dataclasses.dataclass
class Evidence:
    """Arrays with a row for each change; NaN where the DNA or the change has no such thing.

    Nucleotides are 0 to 3, in the order A, C, G, T of the plus strand.
    """

    ref: Int[np.ndarray, " N"]
    """The nucleotide of a single-nucleotide change, before; -1 for other changes."""
    alt: Int[np.ndarray, " N"]
    """And after."""
    context: Int[np.ndarray, " N"]
    """Number, base 4, of the five nucleotides around it; -1 where one is unknown."""
    masked: Float[np.ndarray, "N 2 k 4"] | None = None
    """Probabilities of the nucleotide, its k-mer hidden."""
    kmers: Float[np.ndarray, "N 2 4"] | None = None
    """Log-probabilities of the k-mers with each nucleotide at the place, hidden, in the frame that
    has it nearest to letter k // 2."""
    wild: Float[np.ndarray, "N 2 k 4"] | None = None
    """Probabilities of the nucleotide, nothing hidden."""
    ref_pll: Float[np.ndarray, " N"] | None = None
    """Pseudo-log-likelihood of a nucleotide, in nats: the mean over both strands and all k-mers of
    the stretch and its flanks of log p(k-mer, hidden), divided by k."""
    alt_pll: Float[np.ndarray, " N"] | None = None
    """Of the changed sequence."""
    pll_size: Int[np.ndarray, " N"] | None = None
    """Nucleotides of the stretch and its flanks in the reference."""
    ref_seen: Float[np.ndarray, "N D"] | None = None
    """Mean embedding of the window, over frames and strands."""
    alt_seen: Float[np.ndarray, "N D"] | None = None
    """Of the changed sequence."""
    divergence: Float[np.ndarray, " N"] | None = None
    """Mean Jensen-Shannon divergence of the nucleotides before the change, as a strand is read."""
    background: Float[np.ndarray, " N"] | None = None
    """Mean of `llr` for such a change in such a context, from the table of `nt calibrate`."""

    def take(self, rows: Int[np.ndarray, " M"]) -> "Evidence":
        """That of some of the changes."""
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        taken: dict[str, Any] = {n: None if a is None else a[rows] for n, a in arrays.items()}
        return Evidence(**taken)


class Settings(NamedTuple):
    """What the passes depend on, beside the model and the DNA."""

    num_kmers: int
    """Of a window."""
    flank: int
    """Nucleotides on either side of a change that pll goes over."""
    layer: int
    """Whose embeddings are compared."""
    frames: int
    """Reading frames of each strand."""


class Collector:
    """Finds and runs the passes that changes need.

    Attributes:
        margin: nucleotides on either side of a change that any of its evidence depends on.
    """

    def __init__(
        self, model: Model, reference: Reference, settings: Settings, num_devices: int | None = None
    ) -> None:
        self._model, self._reference, self._settings = model, reference, settings
        self._k = model.config.k
        self._batches = FixedBatches(model, num_devices)
        # Beyond a change: its own k-mer, a window that is moved, and the one of `wild`.
        self.margin = (2 * settings.num_kmers + 2) * self._k + settings.flank

    def collect(self, changes: Sequence[Change], needs: Collection[str]) -> Evidence:
        """The evidence for some changes: what is asked for, and the fields without a default.

        Args:
            changes: of the reference; those that are close to one another share passes.
            needs: of "masked", "wild", "pll", "seen" and "divergence".
        """
        distinct = list(dict.fromkeys(changes))
        stretches = cut_reference(distinct, self._reference, self._make_texts(), self.margin)
        evidence = describe(distinct, stretches)
        if {"masked", "pll"} & set(needs):
            self._add_masked(evidence, distinct, stretches, "pll" in needs)
        if "wild" in needs:
            self._add_wild(evidence, stretches)
        if {"seen", "divergence"} & set(needs):
            self._add_seen(evidence, distinct, stretches, "divergence" in needs)
        number = {change: i for i, change in enumerate(distinct)}
        rows = np.array([number[change] for change in changes], np.int64)
        return evidence.take(rows)

    def _make_texts(self) -> Texts:
        return Texts(self._model.config, self._settings.num_kmers)

    def _write_changed(self, changes: Sequence[Change]) -> Iterator[tuple[slice, Stretches]]:
        """Yields the changed sequences, some at a time."""
        for first in range(0, len(changes), CHANGES_AT_ONCE):
            some = slice(first, first + CHANGES_AT_ONCE)
            texts = self._make_texts()
            yield some, write_changed(changes[some], self._reference, texts, self.margin)

    def _run_masked(self, texts: Texts, places: Int[np.ndarray, " N"]) -> Any:
        """The `MaskedResult` of the passes that hide the k-mers at some places."""
        task, k = MaskedTask(self._model.config, self._model.compute), self._k
        if not len(places):  # what is looked up in them is not valid
            none: list[Any] = [np.zeros((1, k, 4)), np.zeros((1, k, 4)), np.zeros(1)]
            return MaskedResult(*none)
        parts = []
        for first in range(0, len(places), ROWS_AT_ONCE):
            rows = texts.make_rows(places[first : first + ROWS_AT_ONCE])
            parts.append(self._batches.run(task, rows.tokens, rows.centres[:, None]))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def _add_masked(
        self, evidence: Evidence, changes: list[Change], stretches: Stretches, with_pll: bool
    ) -> None:
        """Fills in `masked` and `kmers`, and what pll needs."""
        k, flank, frames = self._k, self._settings.flank, self._settings.frames
        places, valid = stretches.find_kmers(k, self._settings.frames)
        valid &= (evidence.ref >= 0)[:, None, None]
        lists = list(stretches.list_kmers(flank, k, frames)) if with_pll else []
        needed = np.unique(np.concatenate([places[valid], *(p for pair in lists for p in pair)]))
        results = self._run_masked(stretches.texts, needed)
        index = np.where(valid, np.searchsorted(needed, places), 0)
        letters = results.letters[index, np.arange(k)]
        evidence.masked = np.exp(_to_acgt(letters, valid))
        evidence.kmers = _to_acgt(*_choose_frame(results.changed[index, np.arange(k)], valid))[
            :, :, 0
        ]
        if not with_pll:
            return
        lows, highs = stretches.find_spans(flank)
        evidence.pll_size = highs - lows
        evidence.ref_pll = _mean_own(lists, needed, results, k)
        evidence.alt_pll = np.full(len(changes), np.nan)
        for some, changed in self._write_changed(changes):
            lists = list(changed.list_kmers(flank, k, frames))
            needed = np.unique(np.concatenate([p for pair in lists for p in pair]))
            results = self._run_masked(changed.texts, needed)
            evidence.alt_pll[some] = _mean_own(lists, needed, results, k)

    def _add_wild(self, evidence: Evidence, stretches: Stretches) -> None:
        """Fills in `wild`: in the windows that k-mers share, or else in their own."""
        k, config = self._k, self._model.config
        places, valid = stretches.find_kmers(k, self._settings.frames)
        valid &= (evidence.ref >= 0)[:, None, None]
        found, left = np.full((*places.shape, 4), np.nan), valid.copy()
        task = WildTask(config, self._model.compute)
        for centres in (_find_centres(stretches, places, k, self._settings.num_kmers), places):
            needed = np.unique(centres[left])
            for first in range(0, len(needed), ROWS_AT_ONCE):
                some = needed[first : first + ROWS_AT_ONCE]
                rows = stretches.texts.make_rows(some)
                results = self._batches.run(task, rows.tokens, rows.centres[:, None])
                at = np.nonzero(left & np.isin(centres, some))
                row = np.searchsorted(some, centres[at])
                column = (rows.places[row] == places[at][:, None]).argmax(axis=1)
                is_there = rows.places[row, column] == places[at]
                at = tuple(each[is_there] for each in at)
                found[at] = results[row[is_there], column[is_there], at[2]]
                left[at] = False
        evidence.wild = np.exp(_to_acgt(found, valid))

    def _add_seen(
        self,
        evidence: Evidence,
        changes: list[Change],
        stretches: Stretches,
        with_divergence: bool,
    ) -> None:
        """Fills in `ref_seen`, `alt_seen` and `divergence`."""
        width = self._model.config.embed_dim
        evidence.ref_seen = np.full((len(changes), width), np.nan)
        evidence.alt_seen = np.full((len(changes), width), np.nan)
        divergence = np.full(len(changes), np.nan)
        for some, changed in self._write_changed(changes):
            of_ref, before = self._run_seen(_take(stretches, some), with_divergence)
            of_alt, after = self._run_seen(changed, with_divergence)
            evidence.ref_seen[some] = average(of_ref)
            evidence.alt_seen[some] = average(of_alt)
            if with_divergence:
                divergence[some] = average(_diverge(before, after))[:, 0]
        evidence.divergence = divergence if with_divergence else None

    def _run_seen(
        self, stretches: Stretches, with_divergence: bool
    ) -> tuple[Float[np.ndarray, "N 2 k D"], Float[np.ndarray, "N 2 k J k 4"]]:
        """Mean embeddings, and the distributions of the letters before; NaN where there is none."""
        model, k = self._model, self._k
        num_before = JSD_TOKENS if with_divergence else 0
        task = SeenTask(model.config, model.compute, self._settings.layer, num_before)
        places, valid = stretches.find_kmers(k, self._settings.frames)
        needed, index = np.unique(places[valid], return_inverse=True)
        rows = stretches.texts.make_rows(needed)
        results = self._batches.run(task, rows.tokens, rows.centres[:, None])
        columns = rows.centres[:, None] - 1 - np.arange(num_before)
        at = np.maximum(columns, 0)
        tokens = np.take_along_axis(rows.tokens, at, axis=1)
        is_kmer = (columns > 0) & model.config.is_kmer(tokens)
        letters = np.where(is_kmer[..., None, None], results.letters, np.nan)
        means = np.full((*places.shape, results.mean.shape[1]), np.nan)
        before = np.full((*places.shape, *letters.shape[1:]), np.nan)
        means[valid], before[valid] = results.mean[index], letters[index]
        return means, before


def describe(changes: Sequence[Change], stretches: Stretches) -> Evidence:
    """What is known of changes without a model."""
    is_snv = np.array([change.is_snv for change in changes], bool)
    codes, first = stretches.texts.codes, stretches.plus + stretches.starts
    ref = np.where(is_snv, _FROM_CODE[codes[np.where(is_snv, first, 0)]], -1)
    alts = [b"ACGT".index(change.alt) if change.is_snv else -1 for change in changes]
    near = stretches.starts[:, None] + np.arange(-CONTEXT, CONTEXT + 1)
    inside = (near >= 0) & (near < stretches.sizes[:, None]) & is_snv[:, None]
    letters = _FROM_CODE[codes[np.where(inside, stretches.plus[:, None] + near, 0)]]
    known = (inside & (letters >= 0)).all(axis=1)
    number = letters @ 4 ** np.arange(2 * CONTEXT, -1, -1)
    return Evidence(ref, np.array(alts, np.int64), np.where(known, number, -1))


def _to_acgt(
    values: Float[np.ndarray, "N 2 J 4"], valid: Bool[np.ndarray, "N 2 J"]
) -> Float[np.ndarray, "N 2 J 4"]:
    """Letters in the order A, C, G, T of the plus strand, float64; NaN where not valid."""
    values = values[..., TO_ACGT].astype(np.float64)
    values[:, 1] = values[:, 1][..., COMPLEMENT]
    values[~valid] = np.nan
    return values


def _choose_frame(
    values: Float[np.ndarray, "N 2 k 4"], valid: Bool[np.ndarray, "N 2 k"]
) -> tuple[Float[np.ndarray, "N 2 1 4"], Bool[np.ndarray, "N 2 1"]]:
    """The values of the valid frame that has the place nearest to the middle of its k-mer."""
    k = valid.shape[2]
    order = np.array(sorted(range(k), key=lambda j: (abs(j - k // 2), j)))
    best = order[valid[:, :, order].argmax(axis=2)][..., None]
    chosen = np.take_along_axis(values, best[..., None], axis=2)
    return chosen, np.take_along_axis(valid, best, axis=2)


def _mean_own(
    lists: list[list[np.ndarray]],
    places: Int[np.ndarray, " places"],
    results: Any,
    k: int,
) -> Float[np.ndarray, " N"]:
    """The mean log-probability of each list's k-mers themselves, divided by k; NaN without any."""
    own = results.own.astype(np.float64) / k
    means = []
    for plus, minus in lists:
        count = len(plus) + len(minus)
        total = sum(own[np.searchsorted(places, strand)].sum() for strand in (plus, minus))
        means.append(total / count if count else np.nan)
    return np.array(means)


def _find_centres(
    stretches: Stretches,
    places: Int[np.ndarray, "N 2 k"],
    k: int,
    num_kmers: int,
) -> Int[np.ndarray, "N 2 k"]:
    """The k-mer in the middle of the window that each k-mer is judged in.

    In its frame the contig's k-mers are numbered from the start of the strand; those of a window
    are the `num_kmers // 2` in the middle of it, from a multiple of that number on.
    """
    half = max(num_kmers // 2, 1)
    on_strand = stretches.find_on_strand(places)
    number, frame = np.divmod(on_strand, k)
    lengths = stretches.before + stretches.sizes + stretches.after
    last = (lengths[:, None, None] - k - frame) // k
    centre = np.minimum(number // half * half + half // 2, last)
    return places + frame + k * centre - on_strand


def _take(stretches: Stretches, some: slice) -> Stretches:
    """Some of the stretches."""
    return Stretches(stretches.texts, *(values[some] for values in stretches[1:]))


def average(values: Float[np.ndarray, "N 2 k D"] | None) -> Float[np.ndarray, "N D"]:
    """The mean over frames and strands, the strands added last; NaN where there is none."""
    assert values is not None
    valid = ~np.isnan(values[..., 0])
    filled = np.where(valid[..., None], values, 0)
    total = _add_in_order(filled[:, 0]) + _add_in_order(filled[:, 1])
    count = valid.sum(axis=(1, 2))
    return total / np.where(count, count, np.nan)[:, None]


def _add_in_order(values: Float[np.ndarray, "_ _ ..."]) -> Float[np.ndarray, "_ ..."]:
    """The sum over the second axis, one after the other: the same for any number of rows."""
    total: Any = np.zeros_like(values[:, 0])
    for j in range(values.shape[1]):
        total = total + values[:, j]
    return total


def _diverge(
    before: Float[np.ndarray, "N 2 k J k 4"], after: Float[np.ndarray, "N 2 k J k 4"]
) -> Float[np.ndarray, "N 2 k 1"]:
    """The mean Jensen-Shannon divergence of the letters of a row, in nats."""
    p, q = np.exp(before.astype(np.float64)), np.exp(after.astype(np.float64))
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(x > 0, x * np.log(x / middle), 0 * x) for x in (p, q)]
    each = ((parts[0] + parts[1]) / 2).sum(axis=-1)
    valid = ~np.isnan(each)
    rows = each.reshape(*each.shape[:3], -1), valid.reshape(*each.shape[:3], -1)
    total = np.where(rows[1], rows[0], 0).sum(axis=-1, keepdims=True)
    count = rows[1].sum(axis=-1, keepdims=True)
    return total / np.where(count, count, np.nan)
