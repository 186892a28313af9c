"""Means and their standard errors over sequences, paired differences, groups."""

import json
import math

import numpy as np
import pytest

from nucleotide_transformer.pretraining.report import describe_evaluation
from nucleotide_transformer.pretraining.scores import (
    MODEL,
    Difference,
    Scores,
    estimate_error,
    estimate_errors,
    find_difference,
    make_evaluation,
    make_metrics,
)


def make_scores(nats, num_correct, num_masked, num_nucleotides) -> Scores:
    columns = (num_correct, num_masked, num_nucleotides)
    return Scores(np.array(nats, float), *(np.array(column) for column in columns))


SCORES = make_scores([30.0, 2.0, 8.0], [5, 0, 1], [10, 1, 4], [60, 1, 19])


def draw_scores(rng: np.random.Generator, num_sequences: int) -> Scores:
    """Sequences that differ in kind, so that tokens of one are alike, and in masked tokens."""
    num_masked = rng.integers(5, 40, num_sequences)
    kinds = rng.normal(8, 1, num_sequences)
    nats = num_masked * kinds + rng.normal(0, 1, num_sequences) * np.sqrt(num_masked)
    return Scores(nats, rng.binomial(num_masked, 1 / (1 + kinds**2)), num_masked, 6 * num_masked)


def test_sequences_weigh_by_their_masked_tokens() -> None:
    metrics = make_metrics(SCORES)
    assert metrics.cross_entropy == pytest.approx(40 / 15)
    assert metrics.perplexity == pytest.approx(math.exp(40 / 15))
    assert metrics.accuracy == pytest.approx(6 / 15)
    assert metrics.bits_per_nucleotide == pytest.approx(40 / math.log(2) / 80)


def test_errors_are_the_spread_of_repeated_draws() -> None:
    """Of 4,000 sets of 200 sequences each: spread and mean error agree to 3 %."""
    rng = np.random.default_rng(0)
    sets = [draw_scores(rng, 200) for _ in range(4_000)]
    spread = np.std([make_metrics(scores) for scores in sets], axis=0)
    error = np.mean([estimate_errors(scores) for scores in sets], axis=0)
    np.testing.assert_allclose(error, spread, rtol=0.03)


def test_error_by_hand() -> None:
    """Three sequences of equal size: the standard error of a mean."""
    error = estimate_error(np.array([10.0, 12.0, 17.0]), np.array([5, 5, 5]))
    assert error == pytest.approx(np.std([2.0, 2.4, 3.4], ddof=1) / math.sqrt(3))


def test_differences_are_paired() -> None:
    """Sequences differ by 1 nat, what one model is ahead in each by 0.02 in 38 tokens."""
    rng = np.random.default_rng(1)
    num_masked = np.full(256, 38)
    kinds = rng.normal(8, 1, 256) * 38
    ahead = rng.normal(-0.05 * 38, 0.02 * 38, 256)
    other = Scores(kinds, num_masked, num_masked, num_masked)
    model = other._replace(nats=kinds + ahead)
    found = find_difference(model, other)
    assert found.cross_entropy == pytest.approx(ahead.mean() / 38)
    assert found.error == pytest.approx(ahead.std(ddof=1) / 16 / 38)
    assert found.error < 0.03 * estimate_error(kinds, num_masked)


def test_one_sequence_has_no_error() -> None:
    one = Scores(*(leaf[:1] for leaf in SCORES))
    assert estimate_errors(one) is None
    assert find_difference(one, one) == Difference(0.0, None)


def test_groups_hold_their_own_sequences() -> None:
    rng = np.random.default_rng(2)
    model, other = draw_scores(rng, 7), draw_scores(rng, 7)
    other = other._replace(num_masked=model.num_masked, num_nucleotides=model.num_nucleotides)
    groups = ("Fungi", "", "Fungi", "Bacteria", "Fungi", "", "Fungi")
    evaluation = make_evaluation({"chain": other, MODEL: model}, groups)
    assert list(evaluation.groups) == ["", "Bacteria", "Fungi"]
    for group, comparison in (("Fungi", evaluation.groups["Fungi"]), ("all", evaluation.overall)):
        chosen = [group in ("all", name) for name in groups]
        assert comparison.num_sequences == sum(chosen)
        assert comparison.num_masked == model.num_masked[chosen].sum()
        assert list(comparison.rows) == [MODEL, "chain"]
        for name, scores in ((MODEL, model), ("chain", other)):
            row = comparison.rows[name]
            mean = scores.nats[chosen].sum() / comparison.num_masked
            assert row.metrics.cross_entropy == pytest.approx(mean)
            error = estimate_error(scores.nats[chosen], scores.num_masked[chosen])
            assert row.errors.cross_entropy == pytest.approx(error)
        difference = comparison.rows["chain"].difference
        means = [row.metrics.cross_entropy for row in comparison.rows.values()]
        assert difference.cross_entropy == pytest.approx(means[0] - means[1])
        assert comparison.rows[MODEL].difference is None


def test_json_knows_all_numbers() -> None:
    """Of one sequence with an infinite perplexity, too: a file that any reader takes."""
    model = Scores(np.array([9_000.0]), np.array([1]), np.array([10]), np.array([60]))
    values = describe_evaluation(make_evaluation({MODEL: model, "other": model}, ["Fungi"]))
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["all"] == values["groups"]["Fungi"]
    assert values["all"]["num_sequences"] == 1
    assert values["all"]["predictors"]["other"] == {
        "cross_entropy": 900.0,
        "perplexity": None,
        "accuracy": 0.1,
        "bits_per_nucleotide": pytest.approx(150 / math.log(2)),
        "standard_errors": None,
        "difference": {"cross_entropy": 0.0, "error": None},
    }
    model = model._replace(nats=np.array([np.nan]))
    values = describe_evaluation(make_evaluation({MODEL: model, "other": model}, ["Fungi"]))
    unknown = {"cross_entropy": None, "error": None}
    assert values["all"]["predictors"]["other"]["difference"] == unknown
