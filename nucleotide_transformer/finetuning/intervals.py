"""How sure a score is: test rows drawn again, or several seeds."""

from collections.abc import Sequence

import numpy as np

from nucleotide_transformer.finetuning.labels import Kind, Labels
from nucleotide_transformer.finetuning.metrics import METRICS, score_predictions
from nucleotide_transformer.types import Float

Interval = tuple[float, float]


def bootstrap(
    kind: Kind,
    labels: Labels,
    predictions: Float[np.ndarray, "S C"],
    *,
    num_resamples: int,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of each metric that hold 95 % of the resamples of the test rows.

    It says how a score depends on which test rows there are; not on the seed of a training, or on
    which training rows there are.

    Args:
        kind: what the labels are.
        labels: of the test rows.
        predictions: of the same rows.
        num_resamples: how often as many rows are drawn, with repetition.
        seed: of the draws: the same rows for every method that is asked with the same seed.
    """
    random = np.random.default_rng(seed)
    draws = []
    for _ in range(num_resamples):
        rows = random.integers(len(labels), size=len(labels))
        scores = score_predictions(kind, labels[rows], predictions[rows])
        draws.append([scores[name] for name in METRICS[kind]])
    values = np.array(draws)
    return {name: _cover(values[:, i]) for i, name in enumerate(METRICS[kind])}


def spread(values: Sequence[float]) -> Interval:
    """The mean minus and plus two standard deviations of scores of several seeds."""
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    return mean - 2 * deviation, mean + 2 * deviation


def _cover(values: Float[np.ndarray, " N"]) -> Interval:
    """The 2.5 % and 97.5 % points of the values that are defined; NaN if none is."""
    known = values[np.isfinite(values)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
