"""The flash attention of cuDNN, by way of JAX: CUDA since Ampere, 16 bits."""

import jax
import jax.numpy as jnp

from nucleotide_transformer.types import Array, Bool, Float


def attend_by_cudnn(
    query: Float[Array, "B M H K"],
    key: Float[Array, "B T H K"],
    value: Float[Array, "B T H K"],
    keep: Bool[Array, "B T"],
    *,
    masked: bool = True,
) -> Float[Array, "B M H K"]:
    """Attention in one kernel, which keeps no scores; see `attention.attend`.

    Lengths keep to that kernel, where a mask would become a [T, T] bias; at least one key, so that
    a sequence of nothing but padding stays finite. JAX's backward pass refuses odd numbers of
    queries or keys: one more of each is added, which no length counts, and taken off again.

    Args:
        query: queries.
        key: keys.
        value: values.
        keep: False for padding, which is at the end of each sequence.
        masked: False where no sequence has padding: `keep` is not read, and the kernel needs no
            lengths if the numbers of tokens are even.
    """
    num_queries, num_keys = query.shape[1], key.shape[1]
    lengths = jnp.maximum(keep.sum(axis=1, dtype=jnp.int32), 1)
    needs_lengths = masked or num_keys % 2 == 1
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        key_value_seq_lengths=lengths if needs_lengths else None,
        implementation="cudnn",
    )
    return mixed[:, :num_queries]
