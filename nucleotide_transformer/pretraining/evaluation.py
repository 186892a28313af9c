"""Held-out evaluation on fixed sequences with fixed masks."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nucleotide_transformer.config import MaskingConfig, ModelConfig
from nucleotide_transformer.pretraining.baselines import Metrics
from nucleotide_transformer.pretraining.masking import MaskedTokens, mask_tokens
from nucleotide_transformer.training.devices import Layout, lay_out, plan_layout
from nucleotide_transformer.training.step import WEIGHT, Counts
from nucleotide_transformer.types import Array, Float, Int

MASK_SEED = 850
"""Seed of the evaluation's masks: one for all runs, so that runs compare."""

EvaluationStep = Callable[[Any, MaskedTokens], tuple[Float[Array, ""], Counts]]
"""Nats and counts over all devices and processes, of masked sequences [N, B, ...]."""


def mask_evaluation_set(
    tokens: Int[np.ndarray, "S T"], config: MaskingConfig, model: ModelConfig
) -> MaskedTokens:
    """Masks held-out sequences once for all evaluations; NumPy arrays.

    All selected tokens become `<mask>`: with the 10 % that training leaves unchanged, a model would
    be told some of the answers and a baseline not.
    """
    hidden = dataclasses.replace(config, mask_probability=1.0, random_probability=0.0)
    rows = np.arange(len(tokens), dtype=np.int32)
    mask = jax.jit(mask_tokens, static_argnums=(3, 4))
    return jax.device_get(mask(tokens, rows, jax.random.key(MASK_SEED), hidden, model))


def count_nucleotides(masked: MaskedTokens, model: ModelConfig) -> int:
    """Nucleotides that the masked tokens spell: k in a k-mer, 1 in a single letter."""
    is_kmer = masked.targets < model.first_kmer_id + 4**model.k
    return int((np.where(is_kmer, model.k, 1) * masked.valid).sum())


class Evaluator:
    """Held-out sequences, laid out on the devices once and evaluated many times."""

    def __init__(
        self, masked: MaskedTokens, model: ModelConfig, step: EvaluationStep, *, like: Layout
    ):
        """Splits the sequences into batches, of which every process evaluates its share.

        Args:
            masked: the sequences, the same in every process.
            model: says how many nucleotides a token spells.
            step: compiled sum over the devices.
            like: devices, and sequences that each takes at once.
        """
        self._step = step
        self._num_nucleotides = count_nucleotides(masked, model)
        layout = plan_layout(
            len(masked.inputs),
            at_most=like.per_device,
            num_local=like.num_local,
            num_processes=like.num_processes,
        )
        shares = np.array_split(np.arange(len(masked.inputs)), like.num_processes)
        own = jax.tree.map(lambda leaf: leaf[shares[jax.process_index()]], masked)
        blank = jax.tree.map(lambda leaf: leaf[:1], masked)
        blank = blank._replace(valid=np.zeros_like(blank.valid))
        laid_out = lay_out(own, blank, layout)
        self._batches = [
            jax.tree.map(lambda leaf, index=index: leaf[:, index], laid_out)
            for index in range(layout.accumulation)
        ]

    def evaluate(self, params: Any) -> Metrics:
        """Runs the model over all held-out sequences."""
        sums = [self._step(params, batch) for batch in self._batches]
        return make_metrics(jax.device_get(sums), self._num_nucleotides)


def make_metrics(sums: list[tuple[Any, Counts]], num_nucleotides: int) -> Metrics:
    """Adds up batches and divides once, in float64."""
    nats = sum(float(batch) for batch, _ in sums)
    num_masked = sum(float(counts[WEIGHT]) for _, counts in sums)
    correct = sum(float(counts["accuracy"]) for _, counts in sums)
    cross_entropy = nats / num_masked
    perplexity = math.exp(cross_entropy) if cross_entropy < 700 else math.inf
    bits = nats / math.log(2) / num_nucleotides
    return Metrics(cross_entropy, perplexity, correct / num_masked, bits)
