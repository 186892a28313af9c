"""Metrics of tasks, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning.metrics import METRICS, score_predictions

NAN = float("nan")


def close(found: dict[str, float], **expected: float) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-7, nan_ok=True), name


def test_two_classes() -> None:
    """3 true and 1 false positives, 2 true and 1 false negatives."""
    labels = np.array([1, 1, 1, 1, 0, 0, 0])
    first = np.array([0.9, 0.8, 0.7, 0.3, 0.6, 0.2, 0.1])
    mcc = (3 * 2 - 1 * 1) / math.sqrt(4 * 4 * 3 * 3)
    pairs_in_order = 3 + 3 + 3 + 2  # of 12 pairs of a positive and a negative
    found = score_predictions("classification", labels, np.stack([1 - first, first], axis=1))
    close(found, mcc=mcc, f1=3 / 4, accuracy=5 / 7, auroc=pairs_in_order / 12)


def test_three_classes() -> None:
    labels = np.array([0, 1, 2, 2])
    predictions = np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.3, 0.5, 0.2]])
    # MCC for several classes: (correct n - sum of true x predicted) / root of the product of the
    # same for each with itself; 3 of 4 are correct.
    mcc = (3 * 4 - (1 + 1 * 2 + 2 * 1)) / math.sqrt((16 - 6) * (16 - 6))
    f1 = (1 + 2 / 3 + 2 / 3) / 3
    auroc = (1 + 2.5 / 3 + 3 / 4) / 3
    found = score_predictions("classification", labels, predictions)
    close(found, mcc=mcc, f1=f1, accuracy=3 / 4, auroc=auroc)


def test_several_classes_a_row() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0]])
    predictions = np.array([[0.9, 0.6], [0.8, 0.7], [0.2, 0.9], [0.1, 0.1]])
    found = score_predictions("multilabel", labels, predictions)
    second = (2 * 1 - 0) / math.sqrt(3 * 2 * 2 * 1)
    close(found, mcc=(1 + second) / 2, f1=(1 + 4 / 5) / 2, accuracy=7 / 8, auroc=1.0)


@pytest.mark.parametrize("num_columns", [1, 2])
def test_one_class_a_row_is_scored_as_several_are(num_columns: int) -> None:
    """Not the mean over the values 0 and 1; a class that is never predicted has an F1 of 0."""
    labels = np.array([[1, 0, 0, 0, 1, 0]] * num_columns).T
    predictions = np.array([[0.9, 0.1, 0.2, 0.7, 0.2, 0.1]] * num_columns).T
    assert score_predictions("multilabel", labels, predictions)["f1"] == pytest.approx(0.5)
    assert score_predictions("multilabel", labels, 0 * predictions)["f1"] == 0


def test_numbers() -> None:
    labels = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    predictions = np.array([[1.0], [3.0], [2.0], [10.0]])
    pearson = 13 / math.sqrt(5 * 50)
    found = score_predictions("regression", labels, predictions)
    close(found, pearson=pearson, spearman=0.8, r2=1 - 38 / 5, mse=38 / 4)


def test_what_is_not_defined_is_nan() -> None:
    predictions = np.array([[0.2, 0.8], [0.7, 0.3]])
    one_class = score_predictions("classification", np.array([1, 1]), predictions)
    close(one_class, mcc=0.0, f1=2 / 3, accuracy=0.5, auroc=NAN)
    constant = score_predictions("regression", np.array([[1.0], [2.0]]), np.ones((2, 1)))
    close(constant, pearson=NAN, spearman=NAN, r2=-1.0, mse=0.5)
    diverged = score_predictions("classification", np.array([0, 1]), np.full((2, 2), np.nan))
    assert list(diverged) == list(METRICS["classification"])
    assert all(math.isnan(value) for value in diverged.values())


def test_a_class_that_the_test_rows_lack_counts_for_nothing() -> None:
    predictions = np.array([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2]])
    found = score_predictions("classification", np.array([0, 1]), predictions)
    close(found, mcc=1.0, f1=1.0, accuracy=1.0, auroc=1.0)


def test_nothing_to_score_is_said() -> None:
    with pytest.raises(InputError, match="labels = 0: there are 0 predictions"):
        score_predictions("classification", np.array([], np.int64), np.zeros((0, 2)))
