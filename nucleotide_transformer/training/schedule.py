"""Learning rates: a linear warm-up, a decay by name, and if wanted a cool-down to zero.

A new decay is one entry in `SCHEDULES`; its name there is its name in a config.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from nucleotide_transformer.errors import require
from nucleotide_transformer.optimizer_config import OptimizerConfig
from nucleotide_transformer.types import Array, Float


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Learning rate of an update, as a function of the number of updates before it.

    First linear from `initial_learning_rate` at 0 to `peak_learning_rate` at `warmup_steps`; then
    the schedule; over the last `cooldown_share` of the run linear to zero from where the schedule
    was (Zhai et al. 2022, arXiv 2106.04560; Hägele et al. 2024, arXiv 2405.18392). What ends with
    the run has its last value at `total_steps`, one after the last update. So no update is lost:
    the last one of a cool-down of n updates has 1/n of the rate before it.

    Args:
        config: the optimiser.
        total_steps: updates of the whole run. `published` and `constant` depend on it only where
            there is a cool-down.

    Raises:
        InputError: for an unknown schedule, or one that ends before its warm-up.
    """
    known = f"must be one of {', '.join(SCHEDULES)}"
    require(config.schedule in SCHEDULES, "optimizer.schedule", config.schedule, known)
    cooldown_steps = round(config.cooldown_share * total_steps)
    end = total_steps - cooldown_steps
    factor = SCHEDULES[config.schedule](config, end)
    warmup = optax.linear_schedule(
        config.initial_learning_rate, config.peak_learning_rate, config.warmup_steps
    )

    def schedule(step: jax.typing.ArrayLike) -> Float[Array, ""]:
        return warmup(step) * factor(step)  # the warm-up stays at its peak once it is over

    def cool_down(step: jax.typing.ArrayLike) -> Float[Array, ""]:
        left = jnp.clip((total_steps - step) / cooldown_steps, 0.0, 1.0)
        return schedule(jnp.minimum(step, end)) * left

    if cooldown_steps == 0:
        return schedule
    require_warmup_before(end, config)
    return cool_down


def require_warmup_before(end: int, config: OptimizerConfig) -> None:
    """Raises an `InputError` for a warm-up that is not over before step `end`."""
    rule = f"must be below {end}, the updates before the cool-down or the end of the run"
    require(config.warmup_steps < end, "optimizer.warmup_steps", config.warmup_steps, rule)


def decay_by_root(config: OptimizerConfig, end: int) -> optax.Schedule:
    """sqrt(warmup_steps / step), as published (Dalla-Torre et al. 2024, methods)."""
    del end
    warmup = config.warmup_steps
    return lambda step: jnp.sqrt(warmup / jnp.maximum(step, warmup))


def decay_by_cosine(config: OptimizerConfig, end: int) -> optax.Schedule:
    """Half a period of a cosine (Loshchilov & Hutter 2017, equation 5; arXiv 1608.03983)."""
    return decay_along(lambda share: (1 - jnp.cos(jnp.pi * share)) / 2, config, end)


def decay_linearly(config: OptimizerConfig, end: int) -> optax.Schedule:
    """A straight line."""
    return decay_along(lambda share: share, config, end)


def decay_along(
    curve: Callable[[Float[Array, ""]], Float[Array, ""]], config: OptimizerConfig, end: int
) -> optax.Schedule:
    """From the peak at `warmup_steps` to `final_learning_rate` at `end`, along a curve.

    Args:
        curve: share of the steps that have passed -> share of the way down; both from 0 to 1.
        config: the optimiser.
        end: the step at which the decay ends.
    """
    require_warmup_before(end, config)
    start, way = config.warmup_steps, 1 - config.final_learning_rate / config.peak_learning_rate
    return lambda step: 1 - way * curve(jnp.clip((step - start) / (end - start), 0.0, 1.0))


def stay(config: OptimizerConfig, end: int) -> optax.Schedule:
    """The peak, once the warm-up is over."""
    del config, end
    return lambda step: jnp.ones_like(step, dtype=jnp.float32)


SCHEDULES: dict[str, Callable[[OptimizerConfig, int], optax.Schedule]] = {
    "published": decay_by_root,
    "cosine": decay_by_cosine,
    "linear": decay_linearly,
    "constant": stay,
}
"""Factors on the peak, by the number of updates before this one: 1 during the warm-up. They take
the config and the step at which they end: where the cool-down begins, or else the run's end."""
