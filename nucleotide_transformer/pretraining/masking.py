"""Which tokens a model must predict, and what it sees in their place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.config import MaskingConfig, ModelConfig
from nucleotide_transformer.types import Array, Bool, Int, PRNGKey


class MaskedTokens(NamedTuple):
    """Corrupted sequences and what was in them. M slots a sequence, the valid ones first."""

    inputs: Int[Array, "B T"]
    """What the model sees."""
    positions: Int[Array, "B M"]
    """Places of the selected tokens, in random order; a slot that is not valid points anywhere."""
    targets: Int[Array, "B M"]
    """The tokens that stood there."""
    valid: Bool[Array, "B M"]
    """False for the slots that a short sequence leaves over; they weigh nothing."""


def count_slots(num_tokens: int, config: MaskingConfig) -> int:
    """Slots for masked tokens of a sequence of `num_tokens`: as many as can ever be selected."""
    return max(1, round(config.ratio * num_tokens))


def mask_tokens(
    tokens: Int[Array, "B T"],
    rows: Int[Array, " B"],
    key: PRNGKey,
    config: MaskingConfig,
    model: ModelConfig,
) -> MaskedTokens:
    """Selects round(ratio * n) of the n maskable tokens of each sequence, and corrupts them.

    Maskable are the tokens that spell known nucleotides: never special tokens, padding or N. Of
    the selected, `mask_probability` become `<mask>`, `random_probability` another nucleotide token
    (each of the others equally likely), the rest stay as they are (Devlin et al. 2018).

    Args:
        tokens: token ids.
        rows: place of each sequence in the global batch. With the key, this alone decides the
            mask: which device a sequence sits on, and beside which others, does not matter.
        key: key of the run, with the step folded in.
        config: ratio and shares.
        model: says which ids are nucleotide tokens.
    """
    num_slots = count_slots(tokens.shape[1], config)
    # A table, because 0.15 * n in float32 would round some halves the wrong way.
    counts = np.rint(config.ratio * np.arange(tokens.shape[1] + 1)).astype(np.int32)

    def mask_row(tokens: Int[Array, " T"], row: Int[Array, ""]) -> MaskedTokens:
        select_key, share_key, other_key = jax.random.split(jax.random.fold_in(key, row), 3)
        maskable = model.is_known(tokens)
        scores = jnp.where(maskable, jax.random.uniform(select_key, tokens.shape), -1.0)
        positions = jax.lax.top_k(scores, num_slots)[1]
        valid = jnp.arange(num_slots) < jnp.asarray(counts)[maskable.sum()]
        targets = tokens[positions]

        share = jax.random.uniform(share_key, (num_slots,))
        others = model.num_nucleotide_tokens
        shift = jax.random.randint(other_key, (num_slots,), 1, others)
        other = model.first_kmer_id + (targets - model.first_kmer_id + shift) % others
        random_end = config.mask_probability + config.random_probability
        seen = jnp.where(share < random_end, other, targets)
        seen = jnp.where(share < config.mask_probability, model.mask_token_id, seen)
        inputs = tokens.at[positions].set(jnp.where(valid, seen, targets))
        return MaskedTokens(inputs, positions, targets, valid)

    return jax.vmap(mask_row)(tokens, rows)
