"""Losses, as sums with their counts: a mean of means is wrong where counts differ."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nucleotide_transformer.types import Array, Bool, Float, Int


class TokenCounts(NamedTuple):
    """Counts over masked tokens, to be added up over micro-batches and devices."""

    masked: Float[Array, ""]
    """Masked tokens."""
    correct: Float[Array, ""]
    """Those whose most likely token is the right one."""


def masked_cross_entropy(
    logits: Float[Array, "B M V"], targets: Int[Array, "B M"], valid: Bool[Array, "B M"]
) -> tuple[Float[Array, ""], TokenCounts]:
    """Cross-entropy in nats, summed over the valid slots, and the counts to divide by.

    Computed in float32 whatever the type of the logits.
    """
    logits = logits.astype(jnp.float32)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nats = jax.nn.logsumexp(logits, axis=-1) - target_logits
    correct = valid & (jnp.argmax(logits, axis=-1) == targets)
    counts = TokenCounts(valid.sum(dtype=jnp.float32), correct.sum(dtype=jnp.float32))
    return jnp.sum(nats, where=valid), counts
