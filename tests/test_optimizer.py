"""The schedule and Adam, against the formulas written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nucleotide_transformer.config import OptimizerConfig
from nucleotide_transformer.training.optimizer import (
    apply_updates,
    clip_gradient,
    make_optimizer,
    make_schedule,
)

GRADIENT = np.array([0.3, -0.2, 0.0, 1e-4, 2.0])


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 5e-5),
        (8_000, 7.5e-5),
        (16_000, 1e-4),
        (64_000, 5e-5),
        (300_000, 1e-4 * (16_000 / 300_000) ** 0.5),
    ],
)
def test_schedule_of_the_published_run(step, expected):
    assert float(make_schedule(OptimizerConfig())(step)) == pytest.approx(expected, rel=1e-6)


def test_three_updates_equal_adam_in_float64():
    config = OptimizerConfig()
    optimizer, schedule = make_optimizer(config), make_schedule(config)
    gradient = jnp.asarray(GRADIENT, jnp.float32)
    state = optimizer.init(gradient)
    first = second = 0.0
    for step in range(3):
        updates, state = optimizer.update(gradient, state)
        first = 0.9 * first + 0.1 * GRADIENT
        second = 0.999 * second + 0.001 * GRADIENT**2
        corrected = np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        expected = -float(schedule(step)) * first / (1 - 0.9 ** (step + 1)) / corrected
        np.testing.assert_allclose(updates, expected, rtol=2e-5, atol=1e-12)


def test_weight_decay_spares_biases():
    """Stacked ones too, which have two axes as matrices have."""
    params = {"block": {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array([[0.1], [-0.1]])}}
    updates = jax.tree.map(jnp.ones_like, params)
    config = OptimizerConfig(weight_decay=0.1)
    decayed = apply_updates(params, updates, jnp.float32(0.5), config)
    np.testing.assert_allclose(decayed["block"]["w"], [[2.0 - 0.05, -1.0 + 0.1]], rtol=1e-6)
    np.testing.assert_allclose(decayed["block"]["b"], [[1.1], [0.9]], rtol=1e-6)


@pytest.mark.parametrize(("norm", "factor"), [(5.0, 0.1), (0.25, 1.0)])
def test_clipping_keeps_the_direction_and_bounds_the_norm(norm, factor):
    clipped = clip_gradient(
        jnp.array([3.0, 4.0]), jnp.float32(norm), OptimizerConfig(clip_norm=0.5)
    )
    np.testing.assert_allclose(clipped, [3.0 * factor, 4.0 * factor], rtol=1e-6)


@pytest.mark.parametrize(
    "fields", [{"beta1": 1.0}, {"warmup_steps": 0}, {"clip_norm": 0.0}, {"weight_decay": -1.0}]
)
def test_values_that_break_a_rule_are_named(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        OptimizerConfig(**fields)
