"""Estimators on features and k-mer counts: what they count, learn, choose and refuse."""

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
        sequences=["ACGT"] * len(labels),
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


@pytest.mark.parametrize("estimator", ["logistic", "mlp"])
@pytest.mark.parametrize("kind", list(METRICS))
def test_every_kind_is_learnt(kind: Kind, estimator: Estimator) -> None:
    """What two of eight features say is found again in rows that were not seen."""
    x = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    labels: Any = x[:, :2] > 0
    labels = {
        "classification": labels.sum(axis=1),
        "multilabel": labels.astype(np.int64),
        "regression": x[:, :2] @ np.array([[1.0, 0.0], [1.0, -1.0]], np.float32),
    }[kind]
    num_classes = 3 if kind == "classification" else 2
    fitted = fit(kind, estimator, labels[:200], x[:200], num_classes)
    predicted = fitted.predict(x[200:])
    assert predicted.shape == (100, num_classes)
    score = score_predictions(kind, labels[200:], predicted)[METRICS[kind][0]]
    assert score > 0.5
    assert fitted.score == pytest.approx(score, abs=0.2)
    assert fitted.strength in STRENGTHS[estimator]
    if kind == "classification":
        np.testing.assert_allclose(predicted.sum(axis=1), 1, rtol=1e-6)


def test_one_seed_gives_one_estimator() -> None:
    x = np.random.default_rng(0).standard_normal((60, 20)).astype(np.float32)
    data = make_data((x[:, 0] > 0).astype(np.int64))
    first, again = (fit_estimator(x, data, estimator="mlp", strengths=(1.0,)) for _ in range(2))
    assert np.array_equal(first.predict(x), again.predict(x))
    assert first.score == again.score


def test_a_class_of_which_no_row_is_left_has_no_probability() -> None:
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    with pytest.raises(InputError, match=r"x.csv: class = 'c1': has 0 sequences: there must be 2"):
        fit_estimator(x, make_data([0, 2] * 20, num_classes=3))
    with pytest.raises(InputError, match=r"class = 'c2': has 1 sequences"):
        fit_estimator(x[:5], make_data([0, 0, 1, 1, 2], num_classes=3))


def test_a_few_of_a_class_are_enough() -> None:
    x = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    fitted = fit_estimator(x, make_data([0] * 10 + [1] * 2))
    assert fitted.predict(x).shape == (12, 2)
    with pytest.raises(InputError, match=r"x.csv: sequences = 2: there must be 3"):
        fit("regression", "logistic", np.ones((2, 2), np.float32), x[:2])
