"""Adam with linear warm-up and inverse-square-root decay."""

import jax
import jax.numpy as jnp
import optax

from nucleotide_transformer.config import OptimizerConfig
from nucleotide_transformer.types import Params


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
    """Adam; gradient clipping and decoupled weight decay where the config asks for them.

    Adam runs over all parameters as one vector: one fused pass instead of one for each of
    hundreds of arrays, which also compiles in a fraction of the time.
    """
    adam = [optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)]
    if config.clip_norm is not None:
        adam.insert(0, optax.clip_by_global_norm(config.clip_norm))
    transforms = [optax.flatten(optax.chain(*adam))]
    if config.weight_decay > 0:
        transforms.append(optax.add_decayed_weights(config.weight_decay, mask=find_matrices))
    return optax.chain(*transforms, optax.scale_by_learning_rate(make_schedule(config)))


def find_matrices(params: Params) -> dict[str, dict[str, bool]]:
    """True for the parameters that weight decay applies to: matrices, not biases and norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
