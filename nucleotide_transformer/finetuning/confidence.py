"""How sure a score is: test rows drawn again, or several seeds."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from nucleotide_transformer.finetuning.labels import Kind, Labels
from nucleotide_transformer.finetuning.metrics import METRICS, score_predictions
from nucleotide_transformer.types import Float, Int

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
    score = _choose_score(kind, labels, predictions)
    draws = []
    for _ in range(num_resamples):
        scores = score(random.integers(len(labels), size=len(labels)))
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


def _choose_score(
    kind: Kind, labels: Labels, predictions: Float[np.ndarray, "S C"]
) -> Callable[[Int[np.ndarray, " S"]], dict[str, float]]:
    """A function of rows: the metrics of these."""
    if kind == "classification" and np.isfinite(predictions).all():
        return make_class_score(np.asarray(labels), predictions)
    return lambda rows: score_predictions(kind, labels[rows], predictions[rows])


def make_class_score(
    labels: Int[np.ndarray, " S"], predictions: Float[np.ndarray, "S C"]
) -> Callable[[Int[np.ndarray, " S"]], dict[str, float]]:
    """A function of rows (repeated or not): what `score_predictions` says of these, sooner.

    scikit-learn checks and sorts at each call, which takes 10 ms for 6,000 rows; here the rows are
    sorted once, and a resample is counts of them.
    """
    num_classes = predictions.shape[1]
    cells = labels * num_classes + predictions.argmax(axis=1)
    first = 1 if num_classes == 2 else 0
    rankings = [
        functools.partial(
            _measure_auroc, np.unique(predictions[:, each], return_inverse=True)[1], labels == each
        )
        for each in range(first, num_classes)
    ]

    def score(rows: Int[np.ndarray, " S"]) -> dict[str, float]:
        table = np.bincount(cells[rows], minlength=num_classes**2)
        weights = np.bincount(rows, minlength=len(labels))
        areas = [value for rank in rankings if np.isfinite(value := rank(weights))]
        auroc = float(np.mean(areas)) if areas else float("nan")
        return _measure_table(table.reshape(num_classes, num_classes)) | {"auroc": auroc}

    return score


def _measure_table(table: Int[np.ndarray, "C C"]) -> dict[str, float]:
    """Metrics of a confusion matrix, as scikit-learn defines them: rows are true, columns said."""
    total, right = int(table.sum()), int(np.trace(table))
    true, said = table.sum(axis=1), table.sum(axis=0)
    shared = right * total - float(true @ said)
    spans = (total**2 - float(true @ true)) * (total**2 - float(said @ said))
    occur = (true + said) > 0
    f1 = np.where(occur, 2 * np.diag(table) / np.maximum(true + said, 1), 0.0)
    return {
        "mcc": shared / np.sqrt(spans) if spans > 0 else 0.0,
        "f1": float(f1[1] if len(table) == 2 else f1[occur].mean()),
        "accuracy": right / total,
    }


def _measure_auroc(
    ranks: Int[np.ndarray, " S"], members: np.ndarray, weights: Int[np.ndarray, " S"]
) -> float:
    """Share of the pairs of a member and another row that are in order; a tie is half of one.

    Args:
        ranks: of the predictions, equal ones alike.
        members: which rows are of the class.
        weights: how often each row counts.
    """
    ups = np.bincount(ranks, weights=weights * members)
    downs = np.bincount(ranks, weights=weights * ~members)
    pairs = ups.sum() * downs.sum()
    below = np.cumsum(downs) - downs / 2
    return float(ups @ below / pairs) if pairs else float("nan")
