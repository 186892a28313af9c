"""How well masked tokens were predicted: sums for each sequence, and means with their errors.

    rows = {"this model": scores, "frequency": other}       # of the same masked tokens
    evaluation = make_evaluation(rows, groups)              # all of them, and by group of species
    evaluation.overall.rows["frequency"].difference         # nats that the model is ahead

A sequence is the unit of the errors: masked tokens of one are alike. NumPy only.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.types import Bool, Float, Int

MODEL = "this model"
"""Name of the row that the others are compared with."""


class Scores(NamedTuple):
    """What was added up over the masked tokens of each of S sequences."""

    nats: Float[np.ndarray, " S"]
    """float64: minus the log probabilities of the right tokens."""
    num_correct: Int[np.ndarray, " S"]
    """Masked tokens whose most likely token is the right one."""
    num_masked: Int[np.ndarray, " S"]
    """Masked tokens."""
    num_nucleotides: Int[np.ndarray, " S"]
    """Nucleotides that the masked tokens spell: k in a k-mer, 1 in a single letter."""


class Metrics(NamedTuple):
    """How well masked tokens are predicted; or the standard errors of these numbers."""

    cross_entropy: float
    """Nats per masked token."""
    perplexity: float
    """exp(cross_entropy)."""
    accuracy: float
    """Share of masked tokens whose most likely token is the right one."""
    bits_per_nucleotide: float
    """Bits per nucleotide of the masked tokens (k in a k-mer, 1 in a single letter)."""


class Difference(NamedTuple):
    """The model's cross-entropy minus another one on the same masked tokens."""

    cross_entropy: float
    """Nats per masked token: negative where the model is ahead."""
    error: float | None
    """Its standard error, of the differences sequence by sequence; None for one sequence."""


class Row(NamedTuple):
    """One predictor."""

    metrics: Metrics
    errors: Metrics | None
    """Standard errors of the metrics over sequences; None for one sequence."""
    difference: Difference | None
    """None in the model's own row."""


class Comparison(NamedTuple):
    """The predictors on the same masked tokens."""

    num_sequences: int
    num_masked: int
    num_nucleotides: int
    rows: dict[str, Row]
    """The model's is the first."""


class Evaluation(NamedTuple):
    """What a run ends with; plain numbers."""

    overall: Comparison
    groups: dict[str, Comparison]
    """Group of species -> the same for its sequences, sorted by name."""


def make_evaluation(scores: Mapping[str, Scores], groups: Sequence[str]) -> Evaluation:
    """Compares predictors on all sequences, and on those of each group.

    Args:
        scores: name -> of the same masked tokens; `MODEL` must be there.
        groups: of each sequence.
    """
    names = np.asarray(groups)
    by_group = {
        group: compare({name: select_scores(row, names == group) for name, row in scores.items()})
        for group in sorted(set(groups))
    }
    return Evaluation(compare(scores), by_group)


def compare(scores: Mapping[str, Scores]) -> Comparison:
    """Metrics of predictors of the same masked tokens, and how far the model is ahead of each."""
    model = scores[MODEL]
    names = [MODEL, *(name for name in scores if name != MODEL)]
    rows = {
        name: Row(
            make_metrics(scores[name]),
            estimate_errors(scores[name]),
            None if name == MODEL else find_difference(model, scores[name]),
        )
        for name in names
    }
    sizes = (len(model.nats), int(model.num_masked.sum()), int(model.num_nucleotides.sum()))
    return Comparison(*sizes, rows)


def make_metrics(scores: Scores) -> Metrics:
    """Means over all masked tokens: added up, and divided once."""
    nats = float(scores.nats.sum())
    cross_entropy = nats / int(scores.num_masked.sum())
    perplexity = math.exp(cross_entropy) if cross_entropy < 700 else math.inf
    accuracy = int(scores.num_correct.sum()) / int(scores.num_masked.sum())
    bits = nats / math.log(2) / int(scores.num_nucleotides.sum())
    return Metrics(cross_entropy, perplexity, accuracy, bits)


def estimate_errors(scores: Scores) -> Metrics | None:
    """Standard errors of the metrics over sequences; None for one sequence."""
    if len(scores.nats) < 2:
        return None
    cross_entropy = estimate_error(scores.nats, scores.num_masked)
    accuracy = estimate_error(scores.num_correct, scores.num_masked)
    bits = estimate_error(scores.nats / math.log(2), scores.num_nucleotides)
    return Metrics(cross_entropy, make_metrics(scores).perplexity * cross_entropy, accuracy, bits)


def find_difference(model: Scores, other: Scores) -> Difference:
    """How far the model is ahead, with the error of the paired differences."""
    differences, num_masked = model.nats - other.nats, model.num_masked
    mean = float(differences.sum()) / int(num_masked.sum())
    paired = len(differences) > 1
    return Difference(mean, estimate_error(differences, num_masked) if paired else None)


def estimate_error(
    sums: Float[np.ndarray, " S"] | Int[np.ndarray, " S"],
    counts: Float[np.ndarray, " S"] | Int[np.ndarray, " S"],
) -> float:
    """Standard error of the ratio sum(sums) / sum(counts), for S sequences drawn at random.

    Cochran, Sampling Techniques (1977), equation 6.13 without the share of the population drawn.
    """
    residuals = sums - sums.sum() / counts.sum() * counts
    variance = len(sums) / (len(sums) - 1) * float(residuals @ residuals)
    return math.sqrt(variance) / float(counts.sum())


def select_scores(scores: Scores, chosen: Bool[np.ndarray, " S"]) -> Scores:
    """The scores of some of the sequences."""
    return Scores(*(leaf[chosen] for leaf in scores))
