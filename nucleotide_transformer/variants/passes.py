"""What a model is asked about rows of tokens: three tasks, each with float32 results."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.inference.batching import ModelTask
from nucleotide_transformer.inference.likelihoods import mask_and_score
from nucleotide_transformer.model import make_forward
from nucleotide_transformer.model.heads import pool_known
from nucleotide_transformer.model.stacking import AnyParams
from nucleotide_transformer.types import Array, Float, Int

JSD_TOKENS = 8
"""Tokens before the changed one whose distributions `jsd` compares."""


class MaskedResult(NamedTuple):
    """Of one k-mer at a `<mask>`; log-probabilities in nats, letters in the order A, T, C, G.

    All are given that it is a k-mer: a softmax over the 4**k k-mers alone, in float32.
    """

    letters: Float[Array, "B k 4"]
    """Of each letter at each of the k places: the k-mers that have it there, summed."""
    changed: Float[Array, "B k 4"]
    """Of the k-mer with one letter replaced; the k-mer itself is among them, once a place."""
    own: Float[Array, " B"]
    """Of the k-mer itself."""


class MaskedTask(ModelTask):
    """Hides the k-mer at numbers[0] of each row."""

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B 1"]
    ) -> MaskedResult:
        """One pass serves the k-mer and all of its 3 k single changes."""
        scores = mask_and_score(self.config, self.compute, params, tokens, numbers)[:, 0]
        kmers = log_kmers(scores, self.config)
        own = jnp.take_along_axis(tokens, numbers, axis=1) - self.config.first_kmer_id
        own = jnp.clip(own, 0, kmers.shape[-1] - 1)  # of padding, which nobody reads
        weights = jnp.array([4**i for i in reversed(range(self.config.k))])
        digits = own // weights % 4
        changed = (own - digits * weights)[..., None] + weights[:, None] * jnp.arange(4)
        at = jnp.take_along_axis(kmers, changed.reshape(len(tokens), -1), axis=1)
        mine = jnp.take_along_axis(kmers, own, axis=1)[:, 0]
        return MaskedResult(log_letters(kmers, self.config.k), at.reshape(changed.shape), mine)


class WildTask(ModelTask):
    """Hides nothing."""

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B E"]
    ) -> Float[Array, "B T k 4"]:
        """Log-probabilities of the letters of every token; `numbers` is not used."""
        del numbers
        scores = make_forward(self.config, self.compute).apply(params, tokens).logits
        return log_letters(log_kmers(scores, self.config), self.config.k)


class SeenResult(NamedTuple):
    """Of a row in which nothing is hidden."""

    mean: Float[Array, "B D"]
    """Embedding of the layer, over the tokens of known nucleotides."""
    letters: Float[Array, "B J k 4"]
    """Log-probabilities of the letters of the tokens before numbers[0], the nearest first; J is 0
    where nobody asks."""


@dataclasses.dataclass(frozen=True)
class SeenTask(ModelTask):
    """The mean embedding of a row, and the distributions before the token at numbers[0]."""

    layer: int
    num_before: int
    """0 or `JSD_TOKENS`."""

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B 1"]
    ) -> SeenResult:
        """Places before the row's first token repeat `<cls>`: nobody reads them."""
        forward = make_forward(self.config, self.compute)
        positions = jnp.maximum(numbers - 1 - jnp.arange(self.num_before), 0)
        with_head = self.num_before > 0
        asked = (positions,) if with_head else ()
        outputs = forward.apply(params, tokens, *asked, layers=(self.layer,), logits=with_head)
        mean = pool_known(outputs.embeddings[self.layer], tokens, self.config, "mean")
        letters = jnp.zeros((len(tokens), 0, self.config.k, 4))
        if with_head:
            letters = log_letters(log_kmers(outputs.logits, self.config), self.config.k)
        return SeenResult(mean, letters)


def log_kmers(scores: Float[Array, "*batch V"], config: ModelConfig) -> Float[Array, "*batch W"]:
    """Log-softmax over the k-mers alone; float32 whatever the scores are."""
    kmers = scores[..., config.first_kmer_id : config.first_letter_id].astype(jnp.float32)
    return jax.nn.log_softmax(kmers, axis=-1)


def log_letters(kmers: Float[Array, "*batch W"], k: int) -> Float[Array, "*batch k 4"]:
    """Log-probability of each letter at each of the k places."""
    batch = kmers.shape[:-1]
    each = [jax.nn.logsumexp(kmers.reshape(*batch, 4**i, 4, -1), axis=(-3, -1)) for i in range(k)]
    return jnp.stack(each, axis=-2)
