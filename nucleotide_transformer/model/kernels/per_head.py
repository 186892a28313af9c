"""Attention a few heads at a time, whose scores stay in a processor's cache."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nucleotide_transformer.model.remat import KEYS, keep_for_backward
from nucleotide_transformer.types import Array, Bool, Float

OfHead = Callable[[tuple[Array, ...]], tuple[Array, ...]]
"""A function of arrays that belong to one head."""

SCORES_IN_CACHE = 2**19
"""Scores computed at once: 2 MiB of float32, or one head if that has more."""

HEADS_A_PASS = 2
"""Heads in one pass of the loop, where each is too large to share its operations with others: XLA
runs what does not depend on each other side by side. Measured: as fast forwards as 4, which take
twice the cache, and 7 % faster backwards."""


def attend_per_head(
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
    """In 16 bits a row's sum is one more column of the product with the values, not a pass.

    XLA's CPU compiler multiplies queries the fastest as [M, K] in 16 bits, in float32 as [K, M];
    there one more column costs more than the pass.
    """
    half = query.dtype != jnp.float32

    def attend_head(head: tuple[Array, ...]) -> tuple[Array, ...]:
        queries, keys, values, counts = head
        scores = _multiply(queries if half else queries.T, keys)  # [M, T]
        top = jnp.max(scores, axis=-1)
        exponentials = jnp.exp(scores - top[:, None]).astype(values.dtype)
        sums = _multiply(exponentials, values)
        total = sums[:, -1] if half else exponentials @ counts
        mixed = (sums[:, :-1] if half else sums) / total[:, None]
        return mixed.astype(values.dtype), top + jnp.log(total)

    query = keep_for_backward(query)
    key, value = keep_for_backward((key, value), KEYS)
    column = count[..., None].astype(value.dtype)
    values = jnp.concatenate([value, column], axis=-1) if half else value
    queries = query if half else query.swapaxes(1, 2)
    heads = (queries, key.swapaxes(1, 2), values, count)
    num_scores = query.shape[1] * key.shape[1]
    mixed, log_total = keep_for_backward(_map_heads(attend_head, heads, num_scores))
    return mixed, (query, key, value, count, mixed, log_total)


def _attend_heads_backward(
    saved: tuple[Array, ...], gradient: Float[Array, "G M K"]
) -> tuple[Array, Array, Array, None]:
    """A row for each key, not query, and queries' gradients as [K, M].

    So no product has to transpose an array [T, M].
    """

    def differentiate_head(head: tuple[Array, ...]) -> tuple[Array, ...]:
        query, key, keys, value, log_total, common, gradient = head
        dtype = query.dtype
        weights = jnp.exp(_multiply_rows(key, query) - log_total[None, :]).astype(dtype)  # [T, M]
        of_weights = _multiply_rows(value, gradient) - common[None, :]
        of_scores = (weights.astype(jnp.float32) * of_weights).astype(dtype)
        of_query = _multiply(keys, of_scores)  # [K, M]
        of_key, of_value = _multiply(of_scores, query), _multiply(weights, gradient)
        return tuple(leaf.astype(dtype) for leaf in (of_query, of_key, of_value))

    query, key, value, count, mixed, log_total = saved
    # The softmax's share: sum over keys of weight * its gradient, found from [M, K] alone.
    # No product: XLA would make it one of bfloat16, of a shape that its CPU library lacks.
    common = jnp.sum(mixed.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1)
    counts = count[..., None] > 0
    keys = jnp.where(counts, key, 0).swapaxes(1, 2)
    heads = (query, key, keys, value, log_total, common, gradient)
    num_scores = query.shape[1] * key.shape[1]
    of_query, of_key, of_value = _map_heads(differentiate_head, heads, num_scores)
    hidden = jnp.zeros((), query.dtype)
    of_key, of_value = (jnp.where(counts, leaf, hidden) for leaf in (of_key, of_value))
    return of_query.swapaxes(1, 2), of_key, of_value, None


_attend_heads.defvjp(_attend_heads_forward, _attend_heads_backward)


def _multiply(left: Float[Array, "M K"], right: Float[Array, "K N"]) -> Float[Array, "M N"]:
    """Matrix product with a float32 result."""
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _multiply_rows(left: Float[Array, "M K"], right: Float[Array, "N K"]) -> Float[Array, "M N"]:
    """The product left @ right^T with a float32 result.

    XLA's CPU compiler makes more of it than of a product with a transposed factor.
    """
    axes = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 2))
def _map_heads(function: OfHead, heads: tuple[Array, ...], num_scores: int) -> tuple[Array, ...]:
    """Applies a function of one head to all: many at once if small, else a few side by side.

    Args:
        function: of arrays without their axis of heads.
        heads: arrays whose first axis is that of the heads.
        num_scores: scores of one head, M * T.
    """
    dtypes = tuple(leaf.dtype for leaf in heads)
    results = jax.eval_shape(lambda heads: function(tuple(leaf[0] for leaf in heads)), heads)
    together = _count_at_once(heads[0].shape[0], num_scores) > 1

    def apply(packed: tuple[Array, ...]) -> tuple[Array, ...]:
        leaves = _unpack(packed, dtypes)
        if together:  # XLA's CPU library lacks some products of many small bfloat16 matrices
            leaves = tuple(leaf.astype(jnp.float32) for leaf in leaves)
        found = zip(function(leaves), results, strict=True)
        return _pack(tuple(leaf.astype(like.dtype) for leaf, like in found))

    packed = _loop_over_heads(apply, _pack(heads), num_scores)
    return _unpack(packed, tuple(leaf.dtype for leaf in results))


@_map_heads.defjvp
def _differentiate_map_heads(
    function: OfHead, num_scores: int, heads: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """By the plain loop: integers have no derivative."""
    return jax.jvp(lambda heads: _loop_over_heads(function, heads, num_scores), heads, tangents)


def _loop_over_heads(
    function: OfHead, heads: tuple[Array, ...], num_scores: int
) -> tuple[Array, ...]:
    """`_map_heads` without its packing."""
    num_heads = heads[0].shape[0]
    at_once = _count_at_once(num_heads, num_scores)
    if at_once > 1:
        return jax.lax.map(function, heads, batch_size=at_once)
    few = max(n for n in range(1, HEADS_A_PASS + 1) if num_heads % n == 0)

    def apply_few(group: tuple[Array, ...]) -> tuple[Array, ...]:
        results = [function(tuple(leaf[i] for leaf in group)) for i in range(few)]
        return tuple(jnp.stack(leaves) for leaves in zip(*results, strict=True))

    grouped = tuple(leaf.reshape(-1, few, *leaf.shape[1:]) for leaf in heads)
    return tuple(leaf.reshape(-1, *leaf.shape[2:]) for leaf in jax.lax.map(apply_few, grouped))


def _count_at_once(num_heads: int, num_scores: int) -> int:
    """Heads whose scores fit the cache together."""
    most = min(SCORES_IN_CACHE // num_scores, num_heads)
    return max((n for n in range(1, most + 1) if num_heads % n == 0), default=1)


def _pack(leaves: tuple[Array, ...]) -> tuple[Array, ...]:
    """16-bit numbers as integers of the same bits: XLA's CPU compiler moves these as they are.

    In a loop it would turn arrays of bfloat16 into float32, and each head back again.
    """
    return tuple(
        jax.lax.bitcast_convert_type(leaf, jnp.uint16) if leaf.dtype.itemsize == 2 else leaf
        for leaf in leaves
    )


def _unpack(leaves: tuple[Array, ...], dtypes: tuple[Any, ...]) -> tuple[Array, ...]:
    """The reverse of `_pack`."""
    return tuple(
        jax.lax.bitcast_convert_type(leaf, dtype) if leaf.dtype == jnp.uint16 else leaf
        for leaf, dtype in zip(leaves, dtypes, strict=True)
    )
