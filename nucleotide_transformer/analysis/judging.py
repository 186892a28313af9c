"""What the model says of hidden letters: nucleotides around a place, and whole tokens.

Both hide several tokens of a row at a time, as pre-training does, so that a row says more than one
thing. The nucleotides' distributions are those of `inference.nucleotides`: every reading frame,
k-mers marginalised to letters, the mean over the frames. There each token is hidden alone; with
`apart` tokens from one to the next, the neighbours that a k-mer depends on most stay in sight.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.inference.batching import BatchConfig, ModelTask, Row, run_rows
from nucleotide_transformer.inference.likelihoods import log_probability, mask_and_score
from nucleotide_transformer.inference.nucleotides import (
    TO_ACGT,
    MaskedMarginalsTask,
    encode_frame,
)
from nucleotide_transformer.model.stacking import AnyParams
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Array, Float, Int

APART = 6
"""Tokens from one hidden token to the next: one in six or seven is hidden in pre-training."""

Report = Callable[[], object]
"""Is called for every sequence or row that is finished."""


class TokenScores(NamedTuple):
    """How the model does at hidden tokens."""

    nats: Float[Array | np.ndarray, "*rows M"]
    """Minus the logarithm of the probability of the token that stood there."""
    correct: Float[Array | np.ndarray, "*rows M"]
    """1 where that token is the likeliest, else 0."""


class HiddenTokensTask(ModelTask):
    """Scores of the tokens at `numbers`, all of them hidden; softmax over the whole vocabulary."""

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B M"]
    ) -> TokenScores:
        """In float32."""
        scores = mask_and_score(self.config, self.compute, params, tokens, numbers)
        targets = jnp.take_along_axis(tokens, numbers, axis=1)
        return TokenScores(
            -log_probability(scores, targets),
            (jnp.argmax(scores, axis=-1) == targets).astype(jnp.float32),
        )


def judge_tokens(
    model: Model, rows: Iterable[Row], batching: BatchConfig = BatchConfig()
) -> Iterator[TokenScores]:
    """Yields the scores of the hidden tokens of every row: those at its numbers."""
    return run_rows(model, HiddenTokensTask(model.config, model.compute), rows, batching)


def judge_nucleotides(
    model: Model,
    sequences: Sequence[str],
    start: int,
    stop: int,
    *,
    apart: int = APART,
    batching: BatchConfig = BatchConfig(),
    report: Report = lambda: None,
) -> Iterator[Float[np.ndarray, "places 4"]]:
    """Yields the probabilities of A, C, G and T at some places of every sequence, each hidden.

    Args:
        model: what `load_pretrained` returns.
        sequences: A, C, G and T alone, that fit the model in one piece.
        start: first place to judge; at least k - 1, so that every frame has a k-mer there.
        stop: one past the last; at most the length less k - 1.
        apart: tokens from one hidden token to the next; as many as a sequence has hide each alone.
        batching: size of batches, devices.
        report: called for every sequence.
    """
    task = MaskedMarginalsTask(model.config, model.compute)
    plan_rows, plan_results = itertools.tee(_plan_all(model, sequences, start, stop, apart))
    rows = (row for plan in plan_rows for row, _ in plan)
    results = run_rows(model, task, rows, batching)
    for plan in plan_results:
        total = np.zeros((stop - start, 4), np.float64)
        for (_, firsts), marginals in zip(plan, results, strict=False):
            for first, marginal in zip(firsts, marginals.kmer, strict=False):
                low, high = max(first, start), min(first + model.config.k, stop)
                total[low - start : high - start] += marginal[low - first : high - first]
        report()
        yield (total / total.sum(axis=1, keepdims=True))[:, TO_ACGT].astype(np.float32)


RowPlan = tuple[Row, list[int]]
"""A row, and the first place of each of its hidden tokens (fewer than its numbers, which repeat the
last one where a row has fewer)."""


def _plan_all(
    model: Model, sequences: Iterable[str], start: int, stop: int, apart: int
) -> Iterator[list[RowPlan]]:
    """The rows of each sequence."""
    k = model.config.k
    most = -(-((stop - start + k - 2) // k + 1) // apart)
    for sequence in sequences:
        assert k - 1 <= start < stop <= len(sequence) - k + 1
        yield [
            row
            for frame in range(k)
            for row in _plan_frame(model, sequence, frame, start, stop, apart, most)
        ]


def _plan_frame(
    model: Model, sequence: str, frame: int, start: int, stop: int, apart: int, most: int
) -> Iterator[RowPlan]:
    """Rows that hide, between them, each k-mer of a frame that reaches into the places once."""
    encoded = encode_frame(model.tokenizer, sequence, frame)
    ends = encoded.starts + model.config.k
    wanted = np.flatnonzero(encoded.is_kmer & (ends > start) & (encoded.starts < stop))
    for first in range(min(apart, wanted.size)):
        chosen = wanted[first::apart]
        padded = np.concatenate([chosen, np.repeat(chosen[-1:], most - chosen.size)])
        row = Row(encoded.tokens, tuple(padded.tolist()))
        yield row, encoded.starts[chosen].tolist()
