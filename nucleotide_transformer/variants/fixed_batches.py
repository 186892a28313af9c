"""Rows of one length through the model, with bits that depend on nothing but the row.

`run_rows` fills batches as they come. What a processor computes for a row may then differ in the
last bits with its batch: products of other shapes are cut into other pieces. Here every row is
computed alike. On a CPU a batch is a loop over its rows; elsewhere all batches have one shape,
padding at their end.
"""

import collections
import dataclasses
from typing import Any

import jax
import numpy as np

from nucleotide_transformer.inference.batching import (
    BATCHES_IN_FLIGHT,
    SIZES_ELSEWHERE,
    PlacedModel,
)
from nucleotide_transformer.model.stacking import AnyParams
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Array, Int

ROWS_ON_CPU = 8
"""Of a batch on one device. It is a loop over them: more would save no time."""


@dataclasses.dataclass(frozen=True)
class RowByRow:
    """A `Task`, computed for one row after the other."""

    task: Any

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B E"]
    ) -> Any:
        """What the task returns."""

        def run_row(row: tuple[Array, Array]) -> Any:
            results = self.task(params, row[0][None], row[1][None])
            return jax.tree.map(lambda leaf: leaf[0], results)

        return jax.lax.map(run_row, (tokens, numbers))


class FixedBatches:
    """A model on some devices, for rows that are all of one length."""

    def __init__(self, model: Model, num_devices: int | None = None) -> None:
        """Puts the parameters on the devices: all those of this process by default.

        Raises:
            InputError: for more devices than there are.
        """
        self._placed, self._pad = PlacedModel(model, num_devices), model.config.pad_token_id

    def num_rows(self, num_tokens: int) -> int:
        """Rows of a batch, all devices together."""
        rows = max(1, SIZES_ELSEWHERE.batch_tokens // num_tokens)
        return self._placed.num_devices * (ROWS_ON_CPU if self._placed.is_cpu else rows)

    def run(
        self, task: Any, tokens: Int[np.ndarray, "N T"], numbers: Int[np.ndarray, "N E"]
    ) -> Any:
        """The task's results for all rows, as NumPy arrays, in their order.

        Args:
            task: a `Task` of `inference/batching.py`.
            tokens: ids, a row each.
            numbers: what else the task needs to know of each row.
        """
        size, parts = self.num_rows(tokens.shape[1]), []
        running: collections.deque[Any] = collections.deque()
        for first in range(0, max(len(tokens), 1), size):
            batch = slice(first, first + size)
            running.append(self._start(task, tokens[batch], numbers[batch], size))
            if len(running) > BATCHES_IN_FLIGHT:
                parts.append(jax.device_get(running.popleft()))
        parts += [jax.device_get(results) for results in running]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(tokens)], *parts)

    def _start(self, task: Any, tokens: np.ndarray, numbers: np.ndarray, size: int) -> Any:
        """Dispatches a batch, filled up with empty rows."""
        rows = np.full((size, tokens.shape[1]), self._pad, np.int32)
        others = np.zeros((size, numbers.shape[1]), np.int32)
        rows[: len(tokens)], others[: len(tokens)] = tokens, numbers
        return self._placed.start(RowByRow(task) if self._placed.is_cpu else task, rows, others)
