"""Scaled dot-product attention, plainly, and the forms that suit each platform: same numbers."""

import math

import jax
import jax.numpy as jnp

from nucleotide_transformer.config import Implementation
from nucleotide_transformer.model.kernels.cudnn import attend_by_cudnn
from nucleotide_transformer.model.kernels.per_head import attend_per_head
from nucleotide_transformer.model.remat import keep_for_backward
from nucleotide_transformer.types import Array, Bool, Float


def attention_weights(
    query: Float[Array, "B M H K"], key: Float[Array, "B T H K"], keep: Bool[Array, "B T"]
) -> Float[Array, "B H M T"]:
    """Softmax over the kept keys of query . key / sqrt(K), in float32.

    Hidden keys get the finite minimum of float32, not minus infinity, so that a row without any
    kept key is uniform and not NaN.
    """
    scores = jnp.einsum("bthk,bshk->bhts", query, key, preferred_element_type=jnp.float32)
    scores = scores / math.sqrt(query.shape[-1])
    scores = jnp.where(keep[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores, axis=-1)


def attend(
    query: Float[Array, "B M H K"],
    key: Float[Array, "B T H K"],
    value: Float[Array, "B T H K"],
    keep: Bool[Array, "B T"],
    implementation: Implementation,
) -> Float[Array, "B M H K"]:
    """Mean of the values, weighted by `attention_weights`, for every query and head.

    Args:
        query: queries, rotated already where the model is rotary.
        key: keys, likewise.
        value: values.
        keep: False for keys that no query may attend to (padding). The "cudnn" form takes it to
            be padding at the end of each sequence, as the tokenizer makes it.
        implementation: a form; what "auto" is was decided before (`platform.resolve_compute`).
    """
    if implementation == "per_head":
        return attend_per_head(query, key, value, keep)
    if implementation == "cudnn":
        return attend_by_cudnn(query, key, value, keep)
    weights = attention_weights(query, key, keep).astype(value.dtype)
    return keep_for_backward(jnp.einsum("bhts,bshk->bthk", weights, value))
