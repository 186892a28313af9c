"""Scaled dot-product attention in the forms that suit each platform: same numbers, other speed."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from nucleotide_transformer.config import (
    ComputeConfig,
    Implementation,
)
from nucleotide_transformer.errors import require
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
    implementation: Implementation = "auto",
) -> Float[Array, "B M H K"]:
    """Mean of the values, weighted by `attention_weights`, for every query and head.

    Args:
        query: queries, rotated already where the model is rotary.
        key: keys, likewise.
        value: values.
        keep: False for keys that no query may attend to (padding). The "cudnn" form takes it to
            be padding at the end of each sequence, as the tokenizer makes it.
        implementation: a form, or "auto" for the fastest of the platform.
    """
    if implementation == "auto":
        implementation = fastest_implementation(query.dtype, query.shape[-1])
    if implementation == "heads":
        return _attend_by_heads(query, key, value, keep)
    if implementation == "cudnn":
        return _attend_by_cudnn(query, key, value, keep)
    if implementation == "xla":
        mask = keep[:, None, None, :]
        return keep_for_backward(
            jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="xla")
        )
    weights = attention_weights(query, key, keep).astype(value.dtype)
    return keep_for_backward(jnp.einsum("bhts,bshk->bthk", weights, value))


def fastest_implementation(dtype: jnp.dtype, key_dim: int) -> Implementation:
    """The fastest form of this platform: measured on CPUs, expected on others so far.

    cuDNN's kernel takes 16-bit numbers and heads whose width is a multiple of 8, at most 128.
    """
    platform = jax.default_backend()
    half = dtype in (jnp.bfloat16, jnp.float16)
    if platform == "gpu" and half and key_dim % 8 == 0 and key_dim <= 128:
        return "cudnn"
    return "heads" if platform == "cpu" else "einsum"


def check_implementation(compute: ComputeConfig) -> None:
    """Raises a `ValueError` if this platform lacks the form of the attention that is asked for."""
    platform = jax.default_backend()
    here = platform == "gpu" and compute.compute_dtype != "float32"
    rule = f"needs a GPU and 16 bits; the platform is {platform}, {compute.compute_dtype}"
    require(compute.attention != "cudnn" or here, "compute.attention", compute.attention, rule)


def _attend_by_cudnn(
    query: Float[Array, "B M H K"],
    key: Float[Array, "B T H K"],
    value: Float[Array, "B T H K"],
    keep: Bool[Array, "B T"],
) -> Float[Array, "B M H K"]:
    """The flash kernel of cuDNN, by way of JAX.

    Lengths keep to that kernel, where a mask would become a [T, T] bias; at least one key, so that
    a sequence of nothing but padding stays finite. JAX's backward pass refuses odd numbers of
    queries or keys: one more of each is added, which no length counts, and taken off again.
    """
    num_queries = query.shape[1]
    lengths = jnp.maximum(keep.sum(axis=1, dtype=jnp.int32), 1)
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    mixed = jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return mixed[:, :num_queries]


SCORES_IN_CACHE = 2**19
"""Scores computed at once by the "heads" form: 2 MiB of float32, or one head if that has more."""

HEADS_A_PASS = 2
"""Heads in one pass of the loop, where each is too large to share its operations with others: XLA
runs what does not depend on each other side by side. Measured: as fast forwards as 4, which take
twice the cache, and 7 % faster backwards."""


def _attend_by_heads(
    query: Float[Array, "B M H K"],
    key: Float[Array, "B T H K"],
    value: Float[Array, "B T H K"],
    keep: Bool[Array, "B T"],
) -> Float[Array, "B M H K"]:
    """A few heads at a time, so that their scores stay in the processor's cache.

    The scores of all heads together would go through memory several times over. They are not
    kept for the backward pass, but computed again from the logarithm of the sum of each row of the
    softmax, as FlashAttention does (Dao et al. 2022).

    The mask costs no pass over the scores: a hidden key becomes the sequence's first kept one, so
    that it raises no row's maximum; its value is zero and the row's sum leaves it out. Without any
    kept key all become the same and all count, hence the uniform row.
    """
    num_heads = query.shape[2]

    def split(x: Float[Array, "B N H K"]) -> Float[Array, "G N K"]:
        return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])

    first = jnp.argmax(keep, axis=1)[:, None, None, None]
    first_kept = jax.lax.stop_gradient(jnp.take_along_axis(key, first, axis=1))  # [B, 1, H, K]
    count = keep | ~keep.any(axis=1, keepdims=True)
    query = query * (1 / math.sqrt(query.shape[-1]))
    key = jnp.where(keep[:, :, None, None], key, first_kept)
    value = jnp.where(count[:, :, None, None], value, 0)
    counts = jnp.repeat(count.astype(jnp.float32), num_heads, axis=0)
    mixed = _attend_heads(split(query), split(key), split(value), counts)
    return mixed.reshape(-1, num_heads, *mixed.shape[1:]).swapaxes(1, 2)


@jax.custom_vjp
def _attend_heads(
    query: Float[Array, "G M K"],
    key: Float[Array, "G T K"],
    value: Float[Array, "G T K"],
    count: Float[Array, "G T"],
) -> Float[Array, "G M K"]:
    """Attention of G heads by themselves; queries are scaled, hidden keys replaced already.

    Args:
        query: queries over the square root of K.
        key: keys.
        value: values, zero where a key does not count.
        count: 1 for keys that count in the softmax, else 0.
    """
    return _attend_heads_forward(query, key, value, count)[0]


def _attend_heads_forward(
    query: Float[Array, "G M K"],
    key: Float[Array, "G T K"],
    value: Float[Array, "G T K"],
    count: Float[Array, "G T"],
) -> tuple[Float[Array, "G M K"], tuple[Array, ...]]:
    def attend_head(head: tuple[Array, ...]) -> tuple[Array, ...]:
        queries, keys, value, count = head  # [K, M] and [K, T]: XLA multiplies them faster so
        scores = _multiply(queries.T, keys)  # [M, T]
        top = jnp.max(scores, axis=-1)
        exponentials = jnp.exp(scores - top[:, None])
        total = exponentials @ count
        mixed = _multiply(exponentials.astype(value.dtype), value) / total[:, None]
        return mixed.astype(value.dtype), top + jnp.log(total)

    query, key, value = keep_for_backward((query, key, value))
    heads = (query.swapaxes(1, 2), key.swapaxes(1, 2), value, count)
    mixed, log_total = keep_for_backward(
        _map_heads(attend_head, heads, query.shape[1] * key.shape[1])
    )
    return mixed, (query, key, value, count, mixed, log_total)


def _attend_heads_backward(
    saved: tuple[Array, ...], gradient: Float[Array, "G M K"]
) -> tuple[Array, Array, Array, None]:
    """A row for each key, not query, and queries' gradients as [K, M].

    So no product has to transpose an array [T, M].
    """

    def differentiate_head(head: tuple[Array, ...]) -> tuple[Array, ...]:
        query, key, value, count, mixed, log_total, gradient = head
        dtype, counts = query.dtype, count[:, None] > 0
        weights = jnp.exp(_multiply(key, query.T) - log_total[None, :])  # [T, M]
        # The softmax's share: sum over keys of weight * its gradient, found from [M, K] alone.
        common = jnp.sum(mixed * gradient, axis=-1, dtype=jnp.float32)
        of_scores = weights * (_multiply(value, gradient.T) - common[None, :])
        of_scores, weights = of_scores.astype(dtype), weights.astype(dtype)
        of_query = _multiply(jnp.where(counts, key, 0).T, of_scores)  # [K, M]
        of_key = jnp.where(counts, _multiply(of_scores, query), 0)
        of_value = jnp.where(counts, _multiply(weights, gradient), 0)
        return tuple(leaf.astype(dtype) for leaf in (of_query, of_key, of_value))

    query, key, *_ = saved
    of_query, of_key, of_value = _map_heads(
        differentiate_head, (*saved, gradient), query.shape[1] * key.shape[1]
    )
    return of_query.swapaxes(1, 2), of_key, of_value, None


_attend_heads.defvjp(_attend_heads_forward, _attend_heads_backward)


def _multiply(left: Float[Array, "M K"], right: Float[Array, "K N"]) -> Float[Array, "M N"]:
    """Matrix product with a float32 result."""
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _map_heads(
    function: Callable[[tuple[Array, ...]], tuple[Array, ...]],
    heads: tuple[Array, ...],
    num_scores: int,
) -> tuple[Array, ...]:
    """Applies a function of one head to all: many at once if small, else a few side by side.

    Args:
        function: of arrays without their axis of heads.
        heads: arrays whose first axis is that of the heads.
        num_scores: scores of one head, M * T.
    """
    num_heads = heads[0].shape[0]
    most = SCORES_IN_CACHE // num_scores
    at_once = max((n for n in range(1, most + 1) if num_heads % n == 0), default=1)
    if at_once > 1:
        return jax.lax.map(function, heads, batch_size=at_once)
    few = max(n for n in range(1, HEADS_A_PASS + 1) if num_heads % n == 0)

    def apply_few(group: tuple[Array, ...]) -> tuple[Array, ...]:
        results = [function(tuple(leaf[i] for leaf in group)) for i in range(few)]
        return tuple(jnp.stack(leaves) for leaves in zip(*results, strict=True))

    grouped = tuple(leaf.reshape(-1, few, *leaf.shape[1:]) for leaf in heads)
    return tuple(leaf.reshape(-1, *leaf.shape[2:]) for leaf in jax.lax.map(apply_few, grouped))
