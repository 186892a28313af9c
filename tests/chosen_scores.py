"""Scores of held-out sequences with a loss that a test chooses."""

from nucleotide_transformer.pretraining.evaluation import Evaluator
from nucleotide_transformer.pretraining.scores import Scores


def make_scores(evaluator: Evaluator, loss: float) -> Scores:
    """The same loss in all sequences of an evaluator, and half of the tokens right."""
    num_masked = evaluator._num_masked
    return Scores(loss * num_masked, num_masked // 2, num_masked, evaluator._num_nucleotides)
