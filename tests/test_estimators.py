"""Estimators on features and k-mer counts: what they count, learn, choose and refuse."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning.estimators import STRENGTHS, Estimator, Fitted, fit_estimator
from nucleotide_transformer.finetuning.kmer_counts import count_kmers, fit_kmers
from nucleotide_transformer.finetuning.labels import Kind, LabelledSequences
from nucleotide_transformer.finetuning.metrics import METRICS, score_predictions


def make_data(
    labels: Any, kind: Kind = "classification", num_classes: int = 2
) -> LabelledSequences:
    names = [str(i) for i in range(len(labels))]
    return LabelledSequences(
        names=names,
        sequences=["A" * (i + 1) for i in range(len(labels))],
        labels=np.asarray(labels),
        kind=kind,
        classes=tuple(f"c{i}" for i in range(num_classes)),
        source="x.csv",
    )


def test_kmers_are_counted_at_every_place() -> None:
    rows = count_kmers(["AACA", "ANAA", "A", "TTTT"], 2, stranded=True).toarray()
    aa, ac, ca, tt = 0, 1, 4, 15
    assert np.flatnonzero(rows[0]).tolist() == [aa, ac, ca]
    np.testing.assert_allclose(rows[0, [aa, ac, ca]], 1 / np.sqrt(3), rtol=1e-6)
    assert (rows[1, aa], rows[2].sum(), rows[3, tt]) == (1, 0, 1)


def test_both_strands_are_one_without_a_strand() -> None:
    forward, backward = "AACCGTTAGCAT", "ATGCTAACGGTT"
    both = count_kmers([forward, backward], 4, stranded=False).toarray()
    one = count_kmers([forward, backward], 4, stranded=True).toarray()
    assert np.array_equal(both[0], both[1])
    assert not np.array_equal(one[0], one[1])


def test_kmer_counts_tell_compositions_apart() -> None:
    random = np.random.default_rng(0)
    weights = {0: (0.4, 0.1, 0.1, 0.4), 1: (0.1, 0.4, 0.4, 0.1)}
    labels = np.arange(60) % 2
    texts = ["".join(random.choice(list("ACGT"), 60, p=weights[label])) for label in labels]
    data = LabelledSequences(
        names=texts,
        sequences=texts,
        labels=labels,
        kind="classification",
        classes=("at", "cg"),
        source="x.csv",
    )
    fitted = fit_kmers(data.take(range(40)), 4, stranded=False)
    predicted = fitted.predict(count_kmers(texts[40:], 4, stranded=False))
    assert score_predictions("classification", labels[40:], predicted)["mcc"] == 1.0


def fit(kind: Kind, estimator: Estimator, labels: Any, x: Any, num_classes: int = 2) -> Fitted:
    return fit_estimator(x, make_data(labels, kind, num_classes), estimator=estimator)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("estimator", ["logistic", "mlp"])
@pytest.mark.parametrize(
    ("kind", "num_classes"),
    [
        ("classification", 3),
        *(("multilabel", 1), ("multilabel", 2)),
        *(("regression", 1), ("regression", 2)),
    ],
)
def test_every_kind_is_learnt(kind: Kind, num_classes: int, estimator: Estimator) -> None:
    """What two of eight features say is found again in rows that were not seen.

    Numbers may be far from zero.
    """
    x = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    labels: Any = x[:, :2] > 0
    labels = {
        "classification": labels.sum(axis=1),
        "multilabel": labels[:, :num_classes].astype(np.int64),
        "regression": 1_000 + 50 * x[:, :2] @ np.float32([[1, 0], [1, -1]])[:, :num_classes],
    }[kind]
    fitted = fit(kind, estimator, labels[:200], x[:200], num_classes)
    predicted = fitted.predict(x[200:])
    assert predicted.shape == (100, num_classes)
    score = score_predictions(kind, labels[200:], predicted)[METRICS[kind][0]]
    assert score > 0.5
    assert fitted.score == pytest.approx(score, abs=0.2)
    assert fitted.strength in STRENGTHS[estimator]
    if kind == "classification":
        np.testing.assert_allclose(predicted.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("estimator", ["logistic", "mlp"])
@pytest.mark.parametrize("value", [0, 1])
def test_a_single_label_may_be_constant(value: int, estimator: Estimator) -> None:
    """It is where a few rows of a training set are held out."""
    x = np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32)
    fitted = fit("multilabel", estimator, np.full((30, 1), value), x, num_classes=1)
    assert np.rint(fitted.predict(x)).tolist() == [[value]] * 30


@pytest.mark.parametrize("kind", list(METRICS))
def test_copies_choose_no_strength(kind: Kind) -> None:
    """Noise, each row of which is there twice: what was learnt by heart is no score."""
    random = np.random.default_rng(0)
    x = np.tile(random.standard_normal((40, 60)), (2, 1)).astype(np.float32)
    labels: Any = np.tile(random.permutation(40) % 2, 2)
    labels = {"classification": labels, "regression": labels.astype(np.float32)[:, None]}.get(
        kind, labels[:, None]
    )
    data = make_data(labels, kind, 2 if kind == "classification" else 1)
    copies = [text if i < 40 else "T" * (i - 39) for i, text in enumerate(data.sequences)]
    assert fit_estimator(x, data).score > 0.6
    score = fit_estimator(x, dataclasses.replace(data, sequences=copies)).score
    assert score < 0.3
    with pytest.raises(InputError, match="different sequences"):
        fit_estimator(x, dataclasses.replace(data, sequences=["ACGT"] * 80))


def test_copies_of_several_classes_may_leave_too_few() -> None:
    data = dataclasses.replace(make_data([0, 0, 1, 1]), sequences=["A", "AA", "AA", "AAA"])
    with pytest.raises(InputError, match="different sequences = 3: too few to cross-validate"):
        fit_estimator(np.eye(4), data)


def test_one_seed_gives_one_estimator() -> None:
    x = np.random.default_rng(0).standard_normal((60, 20)).astype(np.float32)
    data = make_data((x[:, 0] > 0).astype(np.int64))
    first, again = (fit_estimator(x, data, estimator="mlp", strengths=(1.0,)) for _ in range(2))
    assert np.array_equal(first.predict(x), again.predict(x))
    assert first.score == again.score


def test_a_class_of_which_no_row_is_left_has_no_probability() -> None:
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    with pytest.raises(InputError, match=r"class = 'c1': has 0 different sequences: there must"):
        fit_estimator(x, make_data([0, 2] * 20, num_classes=3))
    with pytest.raises(InputError, match=r"class = 'c2': has 1 different sequences"):
        fit_estimator(x[:5], make_data([0, 0, 1, 1, 2], num_classes=3))


def test_a_few_of_a_class_are_enough() -> None:
    x = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    fitted = fit_estimator(x, make_data([0] * 10 + [1] * 2))
    assert fitted.predict(x).shape == (12, 2)
    with pytest.raises(InputError, match=r"x.csv: different sequences = 2: there must be 3"):
        fit("regression", "logistic", np.ones((2, 2), np.float32), x[:2])
