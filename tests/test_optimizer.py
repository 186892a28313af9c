"""The schedule and Adam, against the formulas written out."""

import jax.numpy as jnp
import numpy as np
import pytest

from nucleotide_transformer.config import OptimizerConfig
from nucleotide_transformer.training.optimizer import make_optimizer, make_schedule

PARAMS = {"block": {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, -0.1])}}
GRADS = {"block": {"w": jnp.array([[0.3, -0.2], [0.0, 1e-4]]), "b": jnp.array([2.0, -1.0])}}


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
    state = optimizer.init(PARAMS)
    first = second = 0.0
    gradient = np.asarray(GRADS["block"]["w"], np.float64)
    for step in range(3):
        updates, state = optimizer.update(GRADS, state, PARAMS)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        expected = -float(schedule(step)) * first / (1 - 0.9 ** (step + 1)) / corrected
        np.testing.assert_allclose(updates["block"]["w"], expected, rtol=2e-5, atol=1e-12)


def test_weight_decay_spares_biases():
    config = OptimizerConfig(weight_decay=0.1)
    plain, _ = (o := make_optimizer(OptimizerConfig())).update(GRADS, o.init(PARAMS), PARAMS)
    decayed, _ = (o := make_optimizer(config)).update(GRADS, o.init(PARAMS), PARAMS)
    difference = decayed["block"]["w"] - plain["block"]["w"]
    np.testing.assert_allclose(difference, -5e-5 * 0.1 * PARAMS["block"]["w"], rtol=1e-3)
    np.testing.assert_array_equal(decayed["block"]["b"], plain["block"]["b"])


def test_clipping_keeps_the_direction_and_bounds_the_norm():
    optimizer = make_optimizer(OptimizerConfig(clip_norm=0.5, beta1=0.0))
    _, state = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    mean = next(s.mu for s in state if hasattr(s, "mu"))
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in mean["block"].values()))
    assert norm == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    "fields", [{"beta1": 1.0}, {"warmup_steps": 0}, {"clip_norm": 0.0}, {"weight_decay": -1.0}]
)
def test_values_that_break_a_rule_are_named(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        OptimizerConfig(**fields)
