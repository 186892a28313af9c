"""Whether embeddings tell kinds of sequence apart: a linear probe, cross-validated.

Windows of one length from four kinds of elements, as many of each, all as the forward strand has
them and without what surrounds them. A logistic regression sees the mean embedding of a layer, of
the trained and of an untrained network, or the counts of the window's k-mers. Its strength of
regularisation is chosen within the training folds.

Two ways to split: by chromosome, and by family, where windows that share half of their 6-mers are
in one fold. Copies of one tRNA gene or LTR are on many chromosomes: what only the first split gives
is memory of a family.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nucleotide_transformer.analysis.estimates import resample_groups, to_numbers
from nucleotide_transformer.analysis.genome import Genome
from nucleotide_transformer.analysis.regions import KINDS, find_runs
from nucleotide_transformer.errors import import_extra
from nucleotide_transformer.tokenizers import number_kmers
from nucleotide_transformer.types import Bool, Float, Int, UInt8

PROBED = ("coding", "tRNA", "LTR", "intergenic")
"""Kinds that the probe tells apart; the label of a window is its place here."""
FEWEST = 20
"""Windows of each kind, and three chromosomes, below which nothing is measured."""
FOLDS, INNER_FOLDS = 8, 3
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of scikit-learn's `C` that are tried."""
NUM_RESAMPLES = 1_000
K = 6
"""Letters of the k-mers that are counted, and that windows of a family share."""
BY_COUNTS = f"counts_of_{K}mers"
"""What the probe of the counts is called in the JSON."""
SHARED = 0.5
"""Share of a window's k-mers above which two windows are of one family."""


class Windows(NamedTuple):
    """What is told apart."""

    codes: UInt8[np.ndarray, "windows size"]
    labels: Int[np.ndarray, " windows"]
    """Places in `PROBED`."""
    chromosomes: Int[np.ndarray, " windows"]
    """Numbers of the contigs."""
    families: Int[np.ndarray, " windows"]
    """Numbers; a window without a relative is a family of its own."""
    held_out: Bool[np.ndarray, " windows"] | None
    """Which lie in held-out blocks of the corpus; None where that is not known."""


def draw_windows(
    genome: Genome,
    kinds: UInt8[np.ndarray, " nucleotides"],
    held_out: Bool[np.ndarray, " nucleotides"] | None,
    *,
    size: int,
    count: int,
    random: np.random.Generator,
) -> Windows | str:
    """At most `count` windows of each kind, as many of each: one of an element, at random in it.

    Returns:
        The windows, or why there are none.
    """
    found = {kind: _cut_elements(genome, kinds, kind, size, count, random) for kind in PROBED}
    fewest = min(found, key=lambda kind: len(found[kind]))
    if len(found[fewest]) < FEWEST:
        return f"{len(found[fewest])} windows of {fewest}, must be {FEWEST} or more"
    places = np.concatenate([places[: len(found[fewest])] for places in found.values()])
    chromosomes = np.searchsorted(list(genome.starts.values()), places, side="right") - 1
    if len(np.unique(chromosomes)) < INNER_FOLDS:
        return f"{len(np.unique(chromosomes))} chromosomes, must be {INNER_FOLDS} or more"
    codes = np.stack([genome.codes[place : place + size] for place in places])
    inside = None
    if held_out is not None:
        inside = np.array([held_out[place : place + size].all() for place in places], bool)
    labels = np.repeat(np.arange(len(PROBED)), len(found[fewest]))
    return Windows(codes, labels, chromosomes, find_families(codes), inside)


def _cut_elements(
    genome: Genome,
    kinds: UInt8[np.ndarray, " nucleotides"],
    kind: str,
    size: int,
    count: int,
    random: np.random.Generator,
) -> Int[np.ndarray, " found"]:
    """First places of windows, each in an element of its own."""
    runs = find_runs(kinds, KINDS.index(kind))
    runs = random.permutation(runs[runs[:, 1] - runs[:, 0] >= size])
    places = [int(random.integers(start, end - size + 1)) for start, end in runs]
    known = [place for place in places if genome.read(place, 0, size - 1, "+") is not None]
    return np.array(known[:count], np.int64)


def count_words(codes: UInt8[np.ndarray, "windows size"], k: int) -> Int[np.ndarray, "windows C"]:
    """How often each k-mer occurs in each window, at any place."""
    return np.stack([np.bincount(number_kmers(row, k), minlength=4**k) for row in codes])


def find_families(codes: UInt8[np.ndarray, "windows size"]) -> Int[np.ndarray, " N"]:
    """Groups windows that share `SHARED` of their k-mers, on either strand, or are linked so."""
    forward = count_words(codes, K) > 0
    backward = count_words(3 - codes[:, ::-1], K) > 0
    most = forward.sum(axis=1)
    both = np.maximum(_count_shared(forward, forward), _count_shared(forward, backward))
    linked = both >= SHARED * np.minimum(most[:, None], most)
    csgraph = import_extra("scipy.sparse.csgraph", "analysis", "to find families")
    return csgraph.connected_components(linked, directed=False)[1]


def _count_shared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Words that each window of one set has in common with each of another."""
    return one.astype(np.float32) @ other.T.astype(np.float32)


def cross_validate_probe(
    features: Float[np.ndarray, "windows features"],
    labels: Int[np.ndarray, " windows"],
    groups: Int[np.ndarray, " windows"],
    *,
    scale: bool,
) -> Bool[np.ndarray, " windows"]:
    """Trains a probe on all folds but one, and asks it for that one; groups stay whole.

    Args:
        features: of each window.
        labels: kinds.
        groups: chromosomes or families.
        scale: give every feature a mean of 0 and a deviation of 1; counts stay as they are.

    Returns:
        Which windows a probe that did not see them is right about.
    """
    selection, linear, preprocessing, pipeline = (
        import_extra(f"sklearn.{module}", "analysis", "to train a probe")
        for module in ("model_selection", "linear_model", "preprocessing", "pipeline")
    )
    threads = import_extra("threadpoolctl", "analysis", "to train a probe")
    steps = [preprocessing.StandardScaler()] if scale else []
    model = pipeline.make_pipeline(*steps, linear.LogisticRegression(max_iter=2_000))
    grid = {"logisticregression__C": STRENGTHS}
    predicted = np.full(len(labels), -1)
    folds = selection.GroupKFold(min(FOLDS, len(np.unique(groups))))
    x = features.astype(np.float32)
    # The products are small: several threads would wait for each other most of the time.
    with threads.threadpool_limits(1):
        for train, test in folds.split(x, labels, groups):
            inner = selection.GroupKFold(min(INNER_FOLDS, len(np.unique(groups[train]))))
            search = selection.GridSearchCV(model, grid, cv=inner)
            search.fit(x[train], labels[train], groups=groups[train])
            predicted[test] = search.predict(x[test])
    return predicted == labels


def describe_mean(
    values: Float[np.ndarray, " windows"], weights: Float[np.ndarray, "resamples windows"]
) -> dict[str, Any]:
    """Mean, and the 2.5 % and 97.5 % points of the resamples."""
    sums, totals = weights @ values, weights.sum(axis=1)
    low, high = np.percentile(sums[totals > 0] / totals[totals > 0], [2.5, 97.5])
    return {"mean": to_numbers(values.mean()), "interval_95": to_numbers([low, high])}


def probe_all(
    windows: Windows,
    embeddings: Mapping[str, Mapping[int, Float[np.ndarray, "windows D"]]],
    random: np.random.Generator,
    report: Any,
) -> dict[str, Any]:
    """The section of the JSON, for both splits.

    Args:
        windows: what to tell apart.
        embeddings: name of a network -> layer -> the embedding of every window.
        random: source of the resamples.
        report: called after each probe; `count_probes` says how often.
    """
    counts = count_words(windows.codes, K).astype(np.float64)
    splits = {"chromosome": windows.chromosomes, "family": windows.families}
    result: dict[str, Any] = {}
    for split, groups in splits.items():
        weights = resample_groups(groups, NUM_RESAMPLES, random)
        by_counts = cross_validate_probe(counts, windows.labels, groups, scale=False)
        report()
        section: dict[str, Any] = {BY_COUNTS: _describe(by_counts, windows, weights)}
        for network, layers in embeddings.items():
            section[network] = {}
            for layer, x in layers.items():
                correct = cross_validate_probe(x, windows.labels, groups, scale=True)
                report()
                numbers = _describe(correct, windows, weights)
                ahead = correct.astype(np.float64) - by_counts
                numbers["ahead_of_counts"] = describe_mean(ahead, weights)
                section[network][str(layer)] = numbers
        result[split] = section
    return result


def count_probes(num_layers: int, num_networks: int) -> int:
    """Probes that `probe_all` trains."""
    return 2 * (1 + num_layers * num_networks)


def _describe(
    correct: Bool[np.ndarray, " windows"],
    windows: Windows,
    weights: Float[np.ndarray, "resamples windows"],
) -> dict[str, Any]:
    """Accuracy of all windows, of held-out ones, and by kind."""
    values = correct.astype(np.float64)
    by_kind = {kind: values[windows.labels == i].mean() for i, kind in enumerate(PROBED)}
    numbers: dict[str, Any] = {
        "accuracy": describe_mean(values, weights),
        "accuracy_by_kind": {kind: to_numbers(value) for kind, value in by_kind.items()},
    }
    kept = windows.held_out
    if kept is not None and kept.any():
        count = {"count": int(kept.sum())}
        numbers["held_out"] = describe_mean(values[kept], weights[:, kept]) | count
    return numbers


def list_layers(num_layers: int, most: int) -> list[int]:
    """At most so many layers, evenly spaced: the last one first of all, then the input (0)."""
    spaced = np.linspace(num_layers, 0, min(most, num_layers + 1))
    return [int(layer) for layer in np.unique(spaced.round())]
