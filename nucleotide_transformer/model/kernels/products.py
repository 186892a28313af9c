"""Products with parameters: 16-bit factors, float32 sums, and gradients in float32.

Whatever the type of the activations, each product is summed in float32, and the gradients of
parameters leave it in float32: they are added up over micro-batches and devices before they are
used. Compilers want to hear this in different ways:

- XLA on CPUs has fast 16-bit products (AMX and AVX-512 on Intel) for a float32 result alone, whose
  left factor lies in memory row by row; others it converts to float32 first. Ten times slower.
- On GPUs and TPUs a 16-bit result is summed in float32 and rounded once, inside the kernel. A
  float32 result would go through memory at twice the size.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from nucleotide_transformer.types import Array, Float

Contraction = tuple[tuple[int, ...], tuple[int, ...]]
"""Axes of the left and of the right factor that are summed over."""


def plain_multiply(
    x: Float[Array, "*batch D"],
    w: Float[Array, "D F"],
    b: Float[Array, " F"] | None = None,
    output_dtype: str | None = None,
) -> Float[Array, "*batch F"]:
    """What `multiply` computes, as one writes it; differentiated by JAX."""
    y = jnp.matmul(x, w.astype(x.dtype), preferred_element_type=jnp.float32)
    y = y if b is None else y + b.astype(jnp.float32)
    return y.astype(output_dtype or x.dtype)


def multiply(
    x: Float[Array, "*batch D"],
    w: Float[Array, "D F"],
    b: Float[Array, " F"] | None = None,
    output_dtype: str | None = None,
) -> Float[Array, "*batch F"]:
    """The product x @ w, plus b, in the type of x.

    Args:
        x: activations.
        w: weights, in the type in which they are kept and in which their gradient is wanted.
        b: bias, likewise, or None.
        output_dtype: type of the result; that of x by default. float32 is exact to the rounding of
            the factors: what comes out of the sum is not rounded again.
    """
    return _multiply(x, (w,), None if b is None else (b,), output_dtype)


def multiply_jointly(
    x: Float[Array, "*batch D"],
    weights: Sequence[Float[Array, "D _"]],
    biases: Sequence[Float[Array, " _"]] | None = None,
) -> list[Float[Array, "*batch _"]]:
    """Products of the same x with several weights, as one: x goes through memory once.

    And so do the gradients: that of x is one sum, not rounded between its parts.
    """
    ends = list(itertools.accumulate(w.shape[1] for w in weights))[:-1]
    joined = _multiply(x, tuple(weights), None if biases is None else tuple(biases), None)
    return jnp.split(joined, ends, axis=-1)


Parameters = tuple[Array, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _multiply(
    x: Float[Array, "*batch D"],
    weights: Parameters,
    biases: Parameters | None,
    output_dtype: str | None,
) -> Float[Array, "*batch F"]:
    """The product with weights and biases side by side."""
    return _multiply_forward(x, weights, biases, output_dtype)[0]


def _multiply_forward(
    x: Float[Array, "*batch D"],
    weights: Parameters,
    biases: Parameters | None,
    output_dtype: str | None,
) -> tuple[Float[Array, "*batch F"], tuple[Array, Parameters, Parameters | None]]:
    dtype = jnp.dtype(output_dtype or x.dtype)
    rows = x.reshape(-1, x.shape[-1])
    b = None if biases is None else jnp.concatenate(biases)
    y = contract(rows, _join(weights, x.dtype), ((1,), (0,)), dtype, b)
    return y.reshape(*x.shape[:-1], -1), (x, weights, biases)


def _multiply_backward(
    output_dtype: str | None,
    saved: tuple[Array, Parameters, Parameters | None],
    gradient: Float[Array, "*batch F"],
) -> tuple[Float[Array, "*batch D"], Parameters, Parameters | None]:
    del output_dtype
    x, weights, biases = saved
    rows, of_rows = (leaf.reshape(-1, leaf.shape[-1]) for leaf in (x, gradient))
    of_biases = None if biases is None else _part(jnp.sum(of_rows, 0, jnp.float32), biases)
    of_rows = of_rows.astype(x.dtype)
    of_x = contract(of_rows, _join(weights, x.dtype), ((1,), (1,)), x.dtype)
    of_weights = _part(contract_rows(rows, of_rows), weights)
    return of_x.reshape(x.shape), of_weights, of_biases


_multiply.defvjp(_multiply_forward, _multiply_backward)


def _join(weights: Parameters, dtype: jnp.dtype) -> Float[Array, "D F"]:
    """Weights side by side, in the type in which they are multiplied."""
    return jnp.concatenate([w.astype(dtype) for w in weights], axis=1)


def _part(gradient: Float[Array, "*batch F"], parameters: Parameters) -> Parameters:
    """The reverse of `_join`, in the parameters' own types."""
    ends = list(itertools.accumulate(leaf.shape[-1] for leaf in parameters))[:-1]
    parts = jnp.split(gradient, ends, axis=-1)
    return tuple(part.astype(leaf.dtype) for part, leaf in zip(parts, parameters, strict=True))


def contract(
    left: Float[Array, "N D"],
    right: Float[Array, "D F"] | Float[Array, "F D"],
    axes: Contraction,
    dtype: jnp.dtype,
    bias: Float[Array, " F"] | None = None,
) -> Float[Array, "N F"]:
    """A product of two matrices with float32 sums, rounded to `dtype` once, plus a bias.

    Args:
        left: factor, of the type in which the processor multiplies.
        right: factor of the same type.
        axes: what is summed over.
        dtype: of the result.
        bias: added in float32 where the sums are at hand, else to the result.
    """

    def in_float32(left: Array, right: Array) -> Array:
        y = lax.dot_general(left, right, (axes, ((), ())), preferred_element_type=jnp.float32)
        return (y if bias is None else y + bias.astype(jnp.float32)).astype(dtype)

    def in_kernel(left: Array, right: Array) -> Array:
        y = lax.dot_general(left, right, (axes, ((), ())), preferred_element_type=dtype)
        return y if bias is None else y + bias.astype(dtype)

    if dtype == jnp.float32:
        return in_float32(left, right)
    return lax.platform_dependent(left, right, cpu=in_float32, default=in_kernel)


def contract_rows(left: Float[Array, "N D"], right: Float[Array, "N F"]) -> Float[Array, "D F"]:
    """left^T @ right in float32: the gradient of weights, a sum over tokens.

    JAX's own rule asks for right^T left, transposed, of which XLA's CPU compiler would write the
    transposed right factor to memory.
    """

    def directly(left: Array, right: Array) -> Array:
        axes: Contraction = ((0,), (0,))
        return lax.dot_general(left, right, (axes, ((), ())), preferred_element_type=jnp.float32)

    def by_rows(left: Array, right: Array) -> Array:
        num_rows, (width, other) = left.shape[0], (left.shape[1], right.shape[1])
        if num_rows * width <= num_rows * other + width * other:
            turned = transpose_in_memory(left)
            return jnp.matmul(turned, right, preferred_element_type=jnp.float32)
        turned = transpose_in_memory(right)  # less to turn, though the result has to be too
        found = jnp.matmul(turned, left, preferred_element_type=jnp.float32)
        return transpose_in_memory(found)

    if left.dtype == jnp.float32:
        return directly(left, right)
    return lax.platform_dependent(left, right, cpu=by_rows, default=directly)


def transpose_in_memory(x: Float[Array, "N D"]) -> Float[Array, "D N"]:
    """x^T, laid out row by row, which XLA's CPU compiler would take back into the product.

    It does not where the transposition has three axes: the rows are split into two.
    """
    num_rows, width = x.shape
    part = next((n for n in range(2, 65) if num_rows % n == 0), 1)
    return x.reshape(part, num_rows // part, width).transpose(2, 0, 1).reshape(width, num_rows)
