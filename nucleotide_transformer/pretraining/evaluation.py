"""Held-out evaluation on fixed chunks with fixed masks, and the baselines beside it."""

import dataclasses
import math

import jax
import numpy as np

from nucleotide_transformer.config import MaskingConfig, ModelConfig, PretrainConfig
from nucleotide_transformer.data.dataset import make_evaluation_set
from nucleotide_transformer.data.manifest import Manifest
from nucleotide_transformer.data.reader import open_split
from nucleotide_transformer.model.stacking import AnyParams as Params
from nucleotide_transformer.pretraining.baselines import (
    FREQUENCY,
    Metrics,
    best_markov,
    evaluate_baselines,
    fit_baselines,
)
from nucleotide_transformer.pretraining.masking import MaskedTokens, mask_tokens
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.training.step import EvaluationStep, EvaluationSums
from nucleotide_transformer.types import Int

MASK_SEED = 850
"""Seed of the evaluation's masks: one for all runs, so that runs compare."""


def mask_evaluation_set(
    tokens: Int[np.ndarray, "S T"], config: MaskingConfig, model: ModelConfig
) -> MaskedTokens:
    """Masks held-out sequences once for all evaluations; NumPy arrays.

    As many tokens are selected as in training, but all of them become `<mask>`: with the 10 % that
    training leaves unchanged, a model would be told some of the answers and a baseline not.
    """
    hidden = dataclasses.replace(config, mask_probability=1.0, random_probability=0.0)
    rows = np.arange(len(tokens), dtype=np.int32)
    mask = jax.jit(mask_tokens, static_argnums=(3, 4))
    return jax.device_get(mask(tokens, rows, jax.random.key(MASK_SEED), hidden, model))


def read_evaluation_tokens(
    config: PretrainConfig, manifest: Manifest, tokenizer: KmerTokenizer
) -> Int[np.ndarray, "S T"]:
    """The held-out chunks that a run is evaluated on."""
    return make_evaluation_set(
        manifest,
        "validation",
        tokenizer=tokenizer,
        sequence_tokens=config.data.sequence_tokens,
        num_sequences=config.evaluation.num_sequences,
    )


def measure_baselines(
    config: PretrainConfig,
    manifest: Manifest,
    tokenizer: KmerTokenizer,
    tokens: Int[np.ndarray, "S T"],
    masked: MaskedTokens,
) -> dict[str, Metrics]:
    """Token frequencies and the best Markov chain, on the model's own masked tokens."""
    reader = open_split(manifest, "train")
    fitted = fit_baselines(reader, tokenizer, config.evaluation.baseline_nucleotides)
    hidden = (np.asarray(masked.positions), np.asarray(masked.valid))
    rows = evaluate_baselines(fitted, tokens, *hidden)
    name, best = best_markov(rows)
    return {FREQUENCY: rows[FREQUENCY], name: best}


def count_nucleotides(masked: MaskedTokens, model: ModelConfig) -> int:
    """Nucleotides that the masked tokens spell: k in a k-mer, 1 in a single letter."""
    is_kmer = masked.targets < model.first_kmer_id + 4**model.k
    return int((np.where(is_kmer, model.k, 1) * masked.valid).sum())


class Evaluator:
    """The held-out sequences, laid out for a device group once and evaluated many times."""

    def __init__(
        self,
        masked: MaskedTokens,
        config: PretrainConfig,
        step: EvaluationStep,
        *,
        num_devices: int,
    ):
        """Splits the sequences into batches of num_devices x sequences_per_device.

        Every process evaluates its share; what is left over is filled with sequences in which
        no token is masked, which weigh nothing.
        """
        self._step = step
        self._num_nucleotides = count_nucleotides(masked, config.model)
        per_device = min(config.sequences_per_device, math.ceil(len(masked.inputs) / num_devices))
        at_once = num_devices * per_device * jax.process_count()
        missing = -len(masked.inputs) % at_once
        padded = jax.tree.map(lambda leaf: _pad_rows(leaf, missing), masked)
        shape = (-1, jax.process_count(), num_devices, per_device)
        own = jax.tree.map(
            lambda leaf: leaf.reshape(*shape, leaf.shape[1])[:, jax.process_index()], padded
        )
        self._batches = [MaskedTokens(*leaves) for leaves in zip(*own, strict=True)]

    def evaluate(self, params: Params) -> Metrics:
        """Runs the model over all held-out sequences."""
        sums = [self._step(params, batch) for batch in self._batches]
        return make_metrics(jax.device_get(sums), self._num_nucleotides)


def make_metrics(sums: list[EvaluationSums], num_nucleotides: int) -> Metrics:
    """Adds up batches and divides once, in float64."""
    nats = sum(float(batch.nats) for batch in sums)
    num_masked = sum(float(batch.counts.masked) for batch in sums)
    correct = sum(float(batch.counts.correct) for batch in sums)
    cross_entropy = nats / num_masked
    perplexity = math.exp(cross_entropy) if cross_entropy < 700 else math.inf
    bits = nats / math.log(2) / num_nucleotides
    return Metrics(cross_entropy, perplexity, correct / num_masked, bits)


def _pad_rows(leaf: np.ndarray, missing: int) -> np.ndarray:
    """Repeats the first row `missing` times at the end; of a mask, rows of False."""
    row = np.zeros_like(leaf[:1]) if leaf.dtype == bool else leaf[:1]
    return np.concatenate([leaf, np.repeat(row, missing, axis=0)])
