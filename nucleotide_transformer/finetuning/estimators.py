"""scikit-learn's estimators for each kind of label, their strength chosen within a training set."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from nucleotide_transformer.errors import import_extra, require
from nucleotide_transformer.finetuning.groups import count_groups, part_groups
from nucleotide_transformer.finetuning.labels import Kind, LabelledSequences
from nucleotide_transformer.finetuning.metrics import METRICS, score_predictions
from nucleotide_transformer.types import Float, Int

Estimator = Literal["logistic", "mlp"]
"""Logistic regression (ridge regression for numbers), or a network with one hidden layer."""
Features = Any
"""[S, features], a NumPy array or a sparse matrix of SciPy."""

FOLDS = 3
STRENGTHS: dict[Estimator, tuple[float, ...]] = {
    "logistic": (0.0001, 0.001, 0.01, 0.1, 1.0),
    "mlp": (0.01, 0.1, 1.0, 10.0),
}
"""Inverse weights of the penalty for standardised features (scikit-learn's `C`, or 1 / `alpha`):
those that are tried. The strongest penalty, which comes first, wins a tie."""
HIDDEN, BATCH, EPOCHS = 64, 32, 100
"""Of the network: hidden units, rows of an update, and passes at most."""
CERTAIN = 7.0
"""The logit of a label that never varies: a probability of 0.999."""
_PURPOSE = "to train on features"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """An estimator, trained on a whole training set."""

    estimator: Any = dataclasses.field(repr=False)
    kind: Kind
    num_outputs: int
    """Classes or targets."""
    strength: float
    """The inverse weight of the penalty that had the highest score."""
    score: float
    """Mean of the first metric of the kind over the folds of the training set."""

    def predict(self, features: Features) -> Float[np.ndarray, "S C"]:
        """Probabilities of the classes, or values of the targets."""
        return _predict(self.estimator, features, self.kind, self.num_outputs)

    def unfold(self) -> tuple[Float[np.ndarray, "D C"], Float[np.ndarray, " C"]]:
        """Weights and bias of the logits, or of the values, for features that nothing scaled.

        Of a linear estimator, "logistic". A label that all rows have, or none, gets a logit of
        `CERTAIN` or minus that.
        """
        scaler, linear = self.estimator
        if self.kind == "multilabel":
            each = [_unfold_one(one) for one in linear.estimators_[: self.num_outputs]]
            weights, bias = (np.concatenate(leaves) for leaves in zip(*each, strict=True))
        else:
            weights, bias = _unfold_one(linear)
        if self.kind == "classification" and self.num_outputs == 2:
            weights, bias = (np.concatenate([-leaf, leaf]) / 2 for leaf in (weights, bias))
        if scaler != "passthrough":
            weights = weights / scaler.scale_
            bias = bias - weights @ scaler.mean_
        return weights.T, bias


def fit_estimator(
    features: Features,
    train: LabelledSequences,
    *,
    estimator: Estimator = "logistic",
    strengths: Sequence[float] = (),
    standardise: bool = True,
    seed: int = 0,
) -> Fitted:
    """Chooses the strength of regularisation by cross-validation, and trains on all rows with it.

    No other rows than those of the training set are looked at. Equal sequences, or reverse
    complements of each other, are not parted by its folds.

    Args:
        features: a row for each of the sequences.
        train: the labels.
        estimator: which one.
        strengths: inverse weights of the penalty; those of `STRENGTHS` by default.
        standardise: give every feature a mean of 0 and a deviation of 1, as the training rows of
            each fold have it.
        seed: of the folds, and of the network's first weights.

    Raises:
        InputError: if a class has fewer than two different sequences, or an extra is missing.
    """
    selection = import_extra("sklearn.model_selection", "analysis", _PURPOSE)
    num_outputs = len(train.classes)
    strengths = tuple(strengths) or STRENGTHS[estimator]
    batch = min(BATCH, max(1, len(train) // 2))
    folds = _part_folds(train, seed)
    first = METRICS[train.kind][0]

    def score(fitted: Any, rows: Features, truth: Any) -> float:
        if train.kind != "classification":
            truth = truth.reshape(len(truth), -1)[:, :num_outputs]
        predicted = _predict(fitted, rows, train.kind, num_outputs)
        value = score_predictions(train.kind, truth, predicted)[first]
        return value if np.isfinite(value) else -1.0

    def make(strength: float) -> Any:
        return _make_estimator(train.kind, estimator, strength, batch, seed)

    search = selection.GridSearchCV(
        _make_pipeline(make(1.0), standardise),
        {"estimator": [make(strength) for strength in strengths]},
        scoring=score,
        cv=folds,
        error_score="raise",
    )
    with _quiet():
        search.fit(features, _shape_labels(train))
    return Fitted(
        estimator=search.best_estimator_,
        kind=train.kind,
        num_outputs=num_outputs,
        strength=float(strengths[search.best_index_]),
        score=float(search.best_score_),
    )


def _unfold_one(linear: Any) -> tuple[Float[np.ndarray, "C D"], Float[np.ndarray, " C"]]:
    """Coefficients and intercepts of one of scikit-learn's linear estimators."""
    if not hasattr(linear, "coef_"):  # all of its labels were the same
        bias = CERTAIN * (2 * np.asarray(linear.y_, np.float64) - 1)
        return np.zeros((len(bias), linear.n_features_in_)), bias
    bias = np.atleast_1d(np.asarray(linear.intercept_, np.float64))
    return np.reshape(linear.coef_, (len(bias), -1)), bias


def _shape_labels(train: LabelledSequences) -> np.ndarray:
    """Labels as scikit-learn takes them.

    A single column of 0 and 1 would be two classes there: it gets a second label, of no row. One of
    numbers is a vector.
    """
    labels = np.asarray(train.labels)
    if labels.shape[1:] != (1,):
        return labels
    return np.pad(labels, ((0, 0), (0, 1))) if train.kind == "multilabel" else labels[:, 0]


def _part_folds(
    train: LabelledSequences, seed: int
) -> list[tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]]]:
    """Rows to train on and rows to score, for each fold; each has the same share of each class.

    Equal sequences, or reverse complements of each other, are on one side.
    """
    _, labels, counts = count_groups(train)
    num_groups, is_class = len(counts), train.kind == "classification"
    num_folds = FOLDS
    if is_class:
        distinct = np.count_nonzero(counts, axis=0).tolist()
        fewest = distinct.index(min(distinct))
        place = f"{train.source}: class"
        rule = f"has {distinct[fewest]} different sequences: there must be 2 or more"
        require(distinct[fewest] >= 2, place, train.classes[fewest], f"{rule} for cross-validation")
        num_folds = min(FOLDS, distinct[fewest])
    else:
        rule = f"there must be {FOLDS} or more for cross-validation"
        require(num_groups >= FOLDS, f"{train.source}: different sequences", num_groups, rule)
    if num_groups < len(train):
        return part_groups(train, num_folds, seed)
    selection = import_extra("sklearn.model_selection", "analysis", _PURPOSE)
    plain = selection.StratifiedKFold if is_class else selection.KFold
    return list(plain(num_folds, shuffle=True, random_state=seed).split(labels, labels))


def _make_pipeline(last: Any, standardise: bool) -> Any:
    pipeline, preprocessing = (
        import_extra(f"sklearn.{module}", "analysis", _PURPOSE)
        for module in ("pipeline", "preprocessing")
    )
    scale = preprocessing.StandardScaler() if standardise else "passthrough"
    return pipeline.Pipeline([("scale", scale), ("estimator", last)])


def _make_estimator(
    kind: Kind, estimator: Estimator, strength: float, batch: int, seed: int
) -> Any:
    """One of scikit-learn's, with a strength of regularisation."""
    linear, networks, multiclass, compose, preprocessing = (
        import_extra(f"sklearn.{module}", "analysis", _PURPOSE)
        for module in ("linear_model", "neural_network", "multiclass", "compose", "preprocessing")
    )
    if estimator == "mlp":
        make = networks.MLPRegressor if kind == "regression" else networks.MLPClassifier
        network = make(
            hidden_layer_sizes=(HIDDEN,),
            alpha=1 / strength,
            batch_size=batch,
            max_iter=EPOCHS,
            random_state=seed,
        )
        if kind != "regression":
            return network
        return compose.TransformedTargetRegressor(
            network, transformer=preprocessing.StandardScaler(), check_inverse=False
        )
    if kind == "regression":
        return linear.Ridge(alpha=1 / strength)
    logistic = linear.LogisticRegression(C=strength, max_iter=1_000)
    return multiclass.OneVsRestClassifier(logistic) if kind == "multilabel" else logistic


def _predict(
    estimator: Any, features: Features, kind: Kind, num_outputs: int
) -> Float[np.ndarray, "S C"]:
    if kind == "regression":
        return np.asarray(estimator.predict(features), np.float64).reshape(-1, num_outputs)
    probabilities = np.asarray(estimator.predict_proba(features), np.float64)
    if kind == "multilabel":
        return probabilities[:, :num_outputs]
    full = np.zeros((len(probabilities), num_outputs))
    full[:, np.asarray(estimator.classes_, np.int64)] = probabilities
    return full


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """One thread, and no remark on labels that never vary, or on what has not converged.

    Weak penalties lose anyway. The products are small: several threads would wait for each other
    most of the time.
    """
    threads = import_extra("threadpoolctl", "analysis", _PURPOSE)
    exceptions = import_extra("sklearn.exceptions", "analysis", _PURPOSE)
    with threads.threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")
        yield
