"""Adam with linear warm-up and inverse-square-root decay."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from nucleotide_transformer.config import OptimizerConfig
from nucleotide_transformer.types import Array, Float


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Learning rate as a function of the number of updates applied so far.

    Linear from `initial_learning_rate` at 0 to `peak_learning_rate` at `warmup_steps`, then
    peak * sqrt(warmup_steps / step) (Dalla-Torre et al. 2024, methods).
    """
    warmup = optax.linear_schedule(
        config.initial_learning_rate, config.peak_learning_rate, config.warmup_steps
    )

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        decay = jnp.sqrt(config.warmup_steps / jnp.maximum(step, config.warmup_steps))
        return warmup(step) * decay  # the warm-up stays at its peak once it is over

    return schedule


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Adam with the schedule, for whole parameters or for slices of them."""
    return optax.chain(
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.scale_by_learning_rate(make_schedule(config)),
    )


Gradient = TypeVar("Gradient")

NOT_DECAYED = ("b", "scale", "offset")
"""Parameters of linear layers and norms that are vectors."""


def clip_gradient(gradient: Gradient, norm: Float[Array, ""], config: OptimizerConfig) -> Gradient:
    """Scales a gradient (or a slice of it) down where its global norm is above `clip_norm`."""
    if config.clip_norm is None:
        return gradient
    factor = jnp.minimum(1.0, config.clip_norm / jnp.maximum(norm, 1e-30))
    return jax.tree.map(lambda leaf: leaf * factor, gradient)


def apply_updates(
    params: Any, updates: Any, learning_rate: Float[Array, ""], config: OptimizerConfig
) -> Any:
    """Adds updates to parameters; matrices, not biases and norms, also decay where asked.

    Which is which goes by name, since stacked biases have two axes as well.
    """
    if config.weight_decay == 0:
        return optax.apply_updates(params, updates)
    decay = learning_rate * config.weight_decay

    def apply(path: Any, param: Float[Array, "*shape"], update: Float[Array, "*shape"]) -> Array:
        return param + update - (0.0 if path[-1].key in NOT_DECAYED else decay * param)

    return jax.tree_util.tree_map_with_path(apply, params, updates)
