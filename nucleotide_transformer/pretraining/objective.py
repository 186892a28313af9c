"""The objective of pre-training: cross-entropy of masked tokens, as a sum with its counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.config import MaskingConfig, ModelConfig
from nucleotide_transformer.pretraining.masking import MaskedTokens, mask_tokens
from nucleotide_transformer.training.step import WEIGHT, Counts, LossFn
from nucleotide_transformer.types import Array, Bool, Float, Int, PRNGKey


class Sequences(NamedTuple):
    """A batch of pre-training: whole, of a process, or laid out by device and micro-batch."""

    tokens: Int[Array | np.ndarray, "*lead T"]
    rows: Int[Array | np.ndarray, "*lead"]
    """Place of each sequence in the global batch, which decides its mask."""


def make_blank(config: ModelConfig, num_tokens: int) -> Sequences:
    """One row of nothing but padding: no token of it can be masked, so it weighs nothing."""
    tokens = np.full((1, num_tokens), config.pad_token_id, np.int32)
    return Sequences(tokens, np.zeros(1, np.int32))


def measure_fill(batch: Sequences, config: ModelConfig) -> float:
    """Share of the tokens of a batch in the host's memory that are not padding."""
    return float(np.mean(np.asarray(batch.tokens) != config.pad_token_id))


def make_loss(forward: Any, masking: MaskingConfig, model: ModelConfig) -> LossFn:
    """The loss of masked-language-model pre-training (Devlin et al. 2018).

    Args:
        forward: what `make_forward` gives, with a masked-LM head.
        masking: which tokens are predicted, and what the model sees in their place.
        model: says which ids are nucleotide tokens.
    """

    def masked_loss(params: Any, micro: Sequences, key: PRNGKey) -> tuple[Float[Array, ""], Counts]:
        tokens, rows = jnp.asarray(micro.tokens), jnp.asarray(micro.rows)
        masked = mask_tokens(tokens, rows, key, masking, model)
        # The head runs at the masked tokens alone.
        logits = forward.apply(params, masked.inputs, masked.positions).logits  # [B, M, V]
        return masked_cross_entropy(logits, masked.targets, masked.valid)

    return masked_loss


def score_sequences(
    forward: Any, params: Any, masked: MaskedTokens
) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
    """Nats of each sequence, and how many of its masked tokens are predicted right."""
    logits = forward.apply(params, masked.inputs, masked.positions).logits  # [B, M, V]
    nats, correct = score_tokens(logits, masked.targets)
    return jnp.sum(nats, axis=1, where=masked.valid), (correct & masked.valid).sum(axis=1)


def masked_cross_entropy(
    logits: Float[Array, "B M V"], targets: Int[Array, "B M"], valid: Bool[Array, "B M"]
) -> tuple[Float[Array, ""], Counts]:
    """Cross-entropy in nats, summed over the valid slots, and the counts to divide by.

    The counts are the masked tokens (`weight`) and those whose most likely token is the right one
    (`accuracy`).
    """
    nats, correct = score_tokens(logits, targets)
    num_correct = (valid & correct).sum(dtype=jnp.float32)
    counts = {WEIGHT: valid.sum(dtype=jnp.float32), "accuracy": num_correct}
    return jnp.sum(nats, where=valid), counts


def score_tokens(
    logits: Float[Array, "B M V"], targets: Int[Array, "B M"]
) -> tuple[Float[Array, "B M"], Bool[Array, "B M"]]:
    """Cross-entropy of each slot in nats, and whether its most likely token is the right one.

    Computed in float32 whatever the type of the logits.
    """
    logits = logits.astype(jnp.float32)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nats = jax.nn.logsumexp(logits, axis=-1) - target_logits
    return nats, jnp.argmax(logits, axis=-1) == targets
