"""Scaled dot-product attention in the forms that suit each platform: same numbers, other speed."""

import math

import jax
import jax.numpy as jnp

from nucleotide_transformer.config import Implementation
from nucleotide_transformer.types import Array, Bool, Float


def attention_weights(
    query: Float[Array, "B T H K"], key: Float[Array, "B T H K"], keep: Bool[Array, "B T"]
) -> Float[Array, "B H T T"]:
    """Softmax over the kept keys of query . key / sqrt(K), in float32.

    Hidden keys get the finite minimum of float32, not minus infinity, so that a row without any
    kept key is uniform and not NaN.
    """
    scores = jnp.einsum("bthk,bshk->bhts", query, key, preferred_element_type=jnp.float32)
    scores = scores / math.sqrt(query.shape[-1])
    scores = jnp.where(keep[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores, axis=-1)


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B T H K"],
    value: Float[Array, "B T H K"],
    keep: Bool[Array, "B T"],
    implementation: Implementation = "auto",
) -> Float[Array, "B T H K"]:
    """Mean of the values, weighted by `attention_weights`, for every query and head.

    Args:
        query: queries, rotated already where the model is rotary.
        key: keys, likewise.
        value: values.
        keep: False for keys that no query may attend to (padding).
        implementation: a form, or "auto" for the fastest of the platform.
    """
    if implementation == "auto":
        implementation = fastest_implementation(query.dtype)
    if implementation == "heads":
        return _attend_by_heads(query, key, value, keep)
    if implementation == "cudnn" or implementation == "xla":
        mask = jnp.broadcast_to(keep[:, None, None, :], (len(keep), 1, *[keep.shape[1]] * 2))
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, implementation=implementation
        )
    weights = attention_weights(query, key, keep).astype(value.dtype)
    return jnp.einsum("bhts,bshk->bthk", weights, value)


def fastest_implementation(dtype: jnp.dtype) -> Implementation:
    """The form that measured fastest on this platform; see experiments/README.md."""
    platform = jax.default_backend()
    if platform == "gpu" and dtype in (jnp.bfloat16, jnp.float16):
        return "cudnn"
    return "heads" if platform == "cpu" else "einsum"


def _attend_by_heads(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B T H K"],
    value: Float[Array, "B T H K"],
    keep: Bool[Array, "B T"],
) -> Float[Array, "B T H K"]:
    """One (sequence, head) at a time, its scores recomputed in the backward pass.

    The [T, T] scores of one head stay in the processor's cache, while those of all heads together
    go through memory several times over.
    """
    num_heads = query.shape[2]

    @jax.checkpoint
    def attend_head(
        head: tuple[
            Float[Array, "T K"], Float[Array, "T K"], Float[Array, "T K"], Bool[Array, " T"]
        ],
    ) -> Float[Array, "T K"]:
        query, key, value = (x[None, :, None, :] for x in head[:3])
        return attend(query, key, value, head[3][None], "einsum")[0, :, 0]

    def split(x: Float[Array, "B T H K"]) -> Float[Array, "BH T K"]:
        return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])

    rows = jnp.repeat(keep, num_heads, axis=0)
    mixed = jax.lax.map(attend_head, (split(query), split(key), split(value), rows))
    return mixed.reshape(-1, num_heads, *mixed.shape[1:]).swapaxes(1, 2)
