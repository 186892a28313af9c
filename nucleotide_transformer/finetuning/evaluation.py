"""Validation while a run is under way: predictions of both strands, their metrics, their score."""

import math
from typing import Any

import jax
import numpy as np

from nucleotide_transformer.finetuning.batches import turn
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.finetuning.metrics import METRICS, score_predictions
from nucleotide_transformer.finetuning.objective import Standard
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.training.devices import Layout
from nucleotide_transformer.types import Float, Int

WORST = 1.0
"""Score of a model whose metric is not defined: those of others are -1 for the best."""


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
                self._batches.append((places, self._lay_out(tokens, layout)))
        self._num_strands = 1 + both_strands

    def _lay_out(self, tokens: np.ndarray, layout: Layout) -> np.ndarray:
        """This process's share [N, B, T]."""
        by_device = tokens.reshape(layout.num_devices, layout.per_device, -1)
        first = jax.process_index() * layout.num_local
        return by_device[first : first + layout.num_local]

    def evaluate(self, params: Any) -> dict[str, float]:
        """The task's metrics, and the score of which the best has the lowest."""
        metrics = score_predictions(self._data.kind, self._data.labels, self.predict(params))
        chosen = metrics[METRICS[self._data.kind][0]]
        return {"score": -chosen if math.isfinite(chosen) else WORST, **metrics}

    def predict(self, params: Any) -> Float[np.ndarray, "S C"]:
        """Probabilities, or values."""
        outputs = jax.device_get([self._step(params, batch) for _, batch in self._batches])
        total = np.zeros((len(self._data), len(self._data.classes)), np.float64)
        for (places, _), output in zip(self._batches, outputs, strict=True):
            rows = output.reshape(-1, output.shape[-1])[: len(places)]
            total[places] += self._standard.restore(rows)
        return total / self._num_strands


def has_stalled(history: list[dict[str, Any]], metric: str, patience: int | None) -> bool:
    """Whether the last `patience` evaluations all failed to improve a metric.

    Args:
        history: metrics, oldest first; what is not defined counts as the worst.
        metric: whose highest value is the best.
        patience: None for never.
    """
    if patience is None:
        return False
    values = [line[metric] for line in history]
    values = [value if math.isfinite(value) else -WORST for value in values]
    best = max(range(len(values)), key=lambda i: values[i], default=0)
    return len(values) - 1 - best >= patience
