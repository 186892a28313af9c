"""What it costs to store a model in 16 bits: its logits on real DNA before and after."""

import dataclasses
import math
from typing import NamedTuple

import jax
import numpy as np

from nucleotide_transformer.config import ComputeConfig, Dtype, ModelConfig
from nucleotide_transformer.data.fasta import FastaReader
from nucleotide_transformer.data.sources import SHIPPED_GENOMES, load_sources
from nucleotide_transformer.model import exact_products, make_forward
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Bool, Float, Int, Params

STORED: tuple[Dtype, ...] = ("float16", "bfloat16")
"""The types of 16 bits."""
_PER_GENOME = 4
_MASKED_SHARE = 0.15


class Rounding(NamedTuple):
    """How far a model with rounded parameters is from the exact one, both computed in float32."""

    dtype: Dtype
    """Of the rounded parameters."""
    largest: float
    """Largest absolute difference of a logit."""
    typical: float
    """Root of the mean squared difference."""
    nats: float
    """Cross-entropy of the masked tokens, rounded minus exact."""


class Probe(NamedTuple):
    """Sequences of the genomes of this package, some of whose tokens are masked."""

    tokens: Int[np.ndarray, "B T"]
    """Nothing masked."""
    masked: Bool[np.ndarray, "B T"]


def make_probe(tokenizer: KmerTokenizer, num_tokens: int) -> Probe:
    """Four sequences of each genome, evenly spread over its first contig; always the same.

    Args:
        tokenizer: of the model.
        num_tokens: of a sequence, `<cls>` included.
    """
    length = tokenizer.k * (num_tokens - 1)
    texts = []
    for source in load_sources([SHIPPED_GENOMES]):
        contig = next(iter(FastaReader(source.file))).sequence
        starts = np.linspace(0, len(contig) - length, _PER_GENOME + 2).astype(int)[1:-1].tolist()
        texts += [contig[start : start + length].decode() for start in starts]
    tokens = tokenizer.encode_batch(texts, length=num_tokens, truncate=True)
    masked = np.random.default_rng(0).random(tokens.shape) < _MASKED_SHARE
    masked[:, 0] = False
    return Probe(tokens, masked)


def measure_roundings(params: Params, config: ModelConfig, probe: Probe) -> tuple[Rounding, ...]:
    """Compares the logits of a model with those of its parameters in each type of 16 bits.

    Args:
        params: float32.
        config: architecture.
        probe: on what.
    """
    compute = ComputeConfig()
    apply = jax.jit(make_forward(config, compute).apply)
    rounded = [_round(params, dtype) for dtype in STORED]
    sums = [_Sums() for _ in STORED]
    for tokens, masked in zip(*probe, strict=True):
        inputs = np.where(masked, config.mask_token_id, tokens)[None]
        with exact_products(compute):
            exact, *others = (
                np.asarray(apply(each, inputs).logits[0], np.float64) for each in (params, *rounded)
            )
        nats = _score(exact[masked], tokens[masked])
        for own, logits in zip(sums, others, strict=True):
            own.add(np.abs(logits - exact), _score(logits[masked], tokens[masked]) - nats)
    num_masked = int(probe.masked.sum())
    return tuple(
        Rounding(dtype, own.largest, math.sqrt(own.squares / own.count), own.nats / num_masked)
        for dtype, own in zip(STORED, sums, strict=True)
    )


def _round(params: Params, dtype: Dtype) -> Params:
    """Parameters rounded to a type, in float32."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype).astype("float32"), params)


@dataclasses.dataclass
class _Sums:
    """What is added up over the sequences."""

    largest: float = 0.0
    squares: float = 0.0
    count: int = 0
    nats: float = 0.0

    def add(self, differences: Float[np.ndarray, "T V"], nats: float) -> None:
        self.largest = max(self.largest, float(differences.max()))
        self.squares += float((differences**2).sum())
        self.count += differences.size
        self.nats += nats


def _score(logits: Float[np.ndarray, "M V"], targets: Int[np.ndarray, " M"]) -> float:
    """Nats of the right tokens, added up."""
    highest = logits.max(axis=1, keepdims=True)
    sums = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
    return float((sums - logits[np.arange(len(targets)), targets]).sum())
