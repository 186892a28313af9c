"""The gate of the feed-forward network, with both gradients written in one pass."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from nucleotide_transformer.types import Array, Float

Activation = Callable[[Float[Array, "*batch F"]], Float[Array, "*batch F"]]


def plain_apply_gate(
    activate: Activation, hidden: Float[Array, "*batch FF"]
) -> Float[Array, "*batch F"]:
    """act(first half) * second half, F = FF / 2, in float32 and rounded once."""
    gate, linear = jnp.split(hidden.astype(jnp.float32), 2, axis=-1)
    return (activate(gate) * linear).astype(hidden.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def apply_gate(activate: Activation, hidden: Float[Array, "*batch FF"]) -> Float[Array, "*batch F"]:
    """The gate; JAX's own backward pass writes each gradient by itself, then puts them together.

    On a CPU this takes more than twice as long.
    """
    return plain_apply_gate(activate, hidden)


def _apply_gate_forward(
    activate: Activation, hidden: Float[Array, "*batch FF"]
) -> tuple[Float[Array, "*batch F"], Array]:
    return plain_apply_gate(activate, hidden), hidden


def _apply_gate_backward(
    activate: Activation, hidden: Float[Array, "*batch FF"], gradient: Float[Array, "*batch F"]
) -> tuple[Float[Array, "*batch FF"]]:
    gate, linear = jnp.split(hidden.astype(jnp.float32), 2, axis=-1)
    active, differentiate = jax.vjp(activate, gate)
    wide = gradient.astype(jnp.float32)
    (of_gate,) = differentiate(wide * linear)
    both = jnp.stack([of_gate, wide * active], axis=-2)  # [*batch, 2, F]
    return (both.reshape(hidden.shape).astype(hidden.dtype),)


apply_gate.defvjp(_apply_gate_forward, _apply_gate_backward)
