"""Validation while a run is under way: predictions of both strands, their metrics, their score."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nucleotide_transformer.data.fasta import turn
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.finetuning.metrics import METRICS, score_predictions
from nucleotide_transformer.finetuning.objective import Standard
from nucleotide_transformer.finetuning.segments import UNKNOWN, SegmentedSequences, pick_nucleotides
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.training.devices import Layout
from nucleotide_transformer.types import Float, Int

UNDEFINED = 2.0
"""Score of a model whose metric is not defined: those of others lie between -1 and 1."""


class _Batch(NamedTuple):
    places: Int[np.ndarray, " B"]
    tokens: Int[np.ndarray, "B T"]
    is_other: bool
    """Whether the tokens are those of the other strand."""
    laid_out: Int[np.ndarray, "N B T"]


class Evaluator:
    """The validation set, tokenized and laid out on the devices once."""

    def __init__(
        self,
        data: LabelledSequences,
        *,
        tokenizer: KmerTokenizer,
        lengths: Int[np.ndarray, " S"],
        both_strands: bool,
        step: Any,
        layout: Layout,
        standard: Standard,
    ):
        """Splits the sequences into batches of one length.

        Args:
            data: the same in every process.
            tokenizer: of the model.
            lengths: padded tokens of each.
            both_strands: average the predictions of both.
            step: compiled: (parameters, tokens [N, B, T]) -> predictions [N, B, C] of all devices.
            layout: devices, and sequences that each takes at once.
            standard: of the targets that the model predicts.
        """
        self._data, self._step, self._standard = data, step, standard
        self._tokenizer = tokenizer
        order = np.argsort(lengths, kind="stable")
        size = layout.num_devices * layout.per_device
        self._batches = []
        for first in range(0, len(order), size):
            places = order[first : first + size]
            for is_other in (False, True)[: 1 + both_strands]:
                texts = [data.sequences[place] for place in places]
                texts = [turn(text) for text in texts] if is_other else texts
                length = int(lengths[places].max())
                tokens = np.full((size, length), tokenizer.pad_token_id, np.int32)
                tokens[: len(texts)] = tokenizer.encode_batch(texts, length=length)
                laid_out = self._lay_out(tokens, layout)
                self._batches.append(_Batch(places, tokens, is_other, laid_out))
        self._num_strands = 1 + both_strands

    def _lay_out(self, tokens: np.ndarray, layout: Layout) -> np.ndarray:
        """This process's share [N, B, T]."""
        by_device = tokens.reshape(layout.num_devices, layout.per_device, -1)
        first = jax.process_index() * layout.num_local
        return by_device[first : first + layout.num_local]

    def evaluate(self, params: Any) -> dict[str, float]:
        """The task's metrics, and the score of which the best has the lowest."""
        metrics = score_labelled(self._data, self.predict(params))
        return {"score": score_metric(metrics[find_metric(self._data)]), **metrics}

    def predict(self, params: Any) -> Float[np.ndarray, "..."]:
        """Probabilities, or values: [S, C], or [S, L, C] of nucleotides."""
        outputs = jax.device_get([self._step(params, batch.laid_out) for batch in self._batches])
        per_nucleotide = isinstance(self._data, SegmentedSequences)
        shape = self._data.labels.shape if per_nucleotide else (-1, len(self._data.classes))
        total = np.zeros((len(self._data), *shape[1:]), np.float64)
        for batch, output in zip(self._batches, outputs, strict=True):
            rows = output.reshape(-1, *output.shape[2:])[: len(batch.places)]
            if not per_nucleotide:
                total[batch.places] += self._standard.restore(rows)
                continue
            for place, tokens, row in zip(batch.places, batch.tokens, rows, strict=False):
                found = pick_nucleotides(row, tokens, self._tokenizer, is_reversed=batch.is_other)
                total[place, : len(found)] += found
        return total / self._num_strands


def score_labelled(
    data: LabelledSequences, predictions: Float[np.ndarray, "..."]
) -> dict[str, float]:
    """The metrics of predictions; those of nucleotides count each of them as several classes."""
    if not isinstance(data, SegmentedSequences):
        return score_predictions(data.kind, data.labels, predictions)
    known = data.labels[..., 0] != UNKNOWN
    labels = data.labels[known].astype(np.int64)
    return score_predictions("multilabel", labels, predictions[known])


def find_metric(data: LabelledSequences) -> str:
    """The metric that decides which updates were the best."""
    return METRICS["multilabel" if isinstance(data, SegmentedSequences) else data.kind][0]


def score_metric(value: float) -> float:
    """The score of a metric: the best has the lowest, what is not defined the highest."""
    return -value if math.isfinite(value) else UNDEFINED


def find_first_best(values: Sequence[float]) -> int:
    """The place of the best of some metrics: of equal ones the first."""
    return min(range(len(values)), key=lambda i: score_metric(values[i]), default=0)


def has_stalled(history: list[dict[str, Any]], metric: str, patience: int | None) -> bool:
    """Whether the last `patience` evaluations all failed to improve a metric.

    Args:
        history: metrics, oldest first.
        metric: whose highest value is the best.
        patience: None for never.
    """
    if patience is None:
        return False
    best = find_first_best([line[metric] for line in history])
    return len(history) - 1 - best >= patience
