"""How good predictions are: the numbers that task tables have, from scikit-learn and SciPy."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from nucleotide_transformer.errors import import_extra, require
from nucleotide_transformer.finetuning.labels import Kind, Labels
from nucleotide_transformer.types import Bool, Float, Int

METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("mcc", "f1", "accuracy", "auroc"),
    "multilabel": ("mcc", "f1", "accuracy", "auroc"),
    "regression": ("pearson", "spearman", "r2", "mse"),
}
"""Kind of task -> its metrics. The first one chooses: a layer, a strength, when to stop."""


def score_predictions(
    kind: Kind, labels: Labels, predictions: Float[np.ndarray, "S C"]
) -> dict[str, float]:
    """The metrics of a set of sequences, by name; what is not defined is NaN.

    - classification: `mcc` (Matthews correlation, for any number of classes), `f1` (of class 1 if
      there are two, else the mean over the classes), `accuracy`, `auroc` (of class 1 if there are
      two, else each class against the rest, and the mean over those that occur).
    - multilabel: the mean over the classes of the same for each, with a threshold of 0.5; `auroc`
      over the classes that some rows have and some have not.
    - regression: `pearson`, `spearman`, `r2` (1 - residual / total sum of squares) and `mse`, the
      mean over the targets. A constant has no correlation: NaN.

    Args:
        kind: what the labels are.
        labels: as in `LabelledSequences`.
        predictions: probabilities of the classes, or values of the targets.

    Raises:
        InputError: if there are no sequences, or not as many predictions as labels.
    """
    rule = f"there are {len(predictions)} predictions"
    require(0 < len(labels) == len(predictions), "labels", len(labels), rule)
    if not np.isfinite(predictions).all():  # of a training that diverged
        return dict.fromkeys(METRICS[kind], float("nan"))
    wide = np.asarray(predictions, np.float64)
    score = {"classification": _score_classes, "multilabel": _score_sets}.get(kind, _score_numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of scikit-learn, if one class occurs alone
        values = score(np.asarray(labels), wide)
    return {name: float(values[name]) for name in METRICS[kind]}


def _score_classes(
    labels: Int[np.ndarray, " S"], predictions: Float[np.ndarray, "S C"]
) -> dict[str, float]:
    metrics = _import_metrics()
    chosen = predictions.argmax(axis=1)
    is_binary = predictions.shape[1] == 2
    average: dict[str, Any] = {"average": "binary" if is_binary else "macro"}
    members = labels[:, None] == np.arange(predictions.shape[1])
    first = 1 if is_binary else 0
    return {
        "mcc": metrics.matthews_corrcoef(labels, chosen),
        "f1": metrics.f1_score(labels, chosen, zero_division=0.0, **average),
        "accuracy": metrics.accuracy_score(labels, chosen),
        "auroc": _average_auroc(members[:, first:], predictions[:, first:]),
    }


def _score_sets(
    labels: Int[np.ndarray, "S C"], predictions: Float[np.ndarray, "S C"]
) -> dict[str, float]:
    metrics = _import_metrics()
    chosen = (predictions >= 0.5).astype(np.int64)
    # Class by class: of a single column scikit-learn would take the values 0 and 1 for classes.
    pairs = list(zip(labels.T, chosen.T, strict=True))
    return {
        "mcc": np.mean([metrics.matthews_corrcoef(*pair) for pair in pairs]),
        "f1": np.mean([metrics.f1_score(*pair, zero_division=0.0) for pair in pairs]),
        "accuracy": np.mean(labels == chosen),
        "auroc": _average_auroc(labels == 1, predictions),
    }


def _score_numbers(
    labels: Float[np.ndarray, "S C"], predictions: Float[np.ndarray, "S C"]
) -> dict[str, float]:
    metrics = _import_metrics()
    stats = import_extra("scipy.stats", "analysis", "to score predictions")
    truth = np.asarray(labels, np.float64)
    enough = len(truth) > 1
    return {
        "pearson": _average_correlation(stats.pearsonr, truth, predictions),
        "spearman": _average_correlation(stats.spearmanr, truth, predictions),
        "r2": metrics.r2_score(truth, predictions) if enough else float("nan"),
        "mse": metrics.mean_squared_error(truth, predictions),
    }


def _average_auroc(
    members: Bool[np.ndarray, "S C"], predictions: Float[np.ndarray, "S C"]
) -> float:
    """The mean over the classes that some rows have and some have not; NaN without any."""
    metrics = _import_metrics()
    varied = members.any(axis=0) & ~members.all(axis=0)
    pairs = zip(members.T[varied], predictions.T[varied], strict=True)
    values = [metrics.roc_auc_score(truth, values) for truth, values in pairs]
    return float(np.mean(values)) if values else float("nan")


def _average_correlation(
    correlate: Callable[..., Any],
    labels: Float[np.ndarray, "S C"],
    predictions: Float[np.ndarray, "S C"],
) -> float:
    """The mean over the targets; NaN if one is constant."""
    if (np.ptp(labels, axis=0) == 0).any() or (np.ptp(predictions, axis=0) == 0).any():
        return float("nan")
    pairs = zip(labels.T, predictions.T, strict=True)
    return float(np.mean([correlate(*pair)[0] for pair in pairs]))


def _import_metrics() -> Any:
    return import_extra("sklearn.metrics", "analysis", "to score predictions")
