"""Learning rates at chosen updates, against numbers worked out by hand."""

import dataclasses
import math

import jax.numpy as jnp
import pytest

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.optimizer_config import OptimizerConfig
from nucleotide_transformer.training.schedule import SCHEDULES, make_schedule

SHORT = OptimizerConfig(
    initial_learning_rate=0.2, peak_learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10
)


def rate_at(step: int, config: OptimizerConfig, total_steps: int = 100) -> float:
    """As the optimiser asks for it: the step is an int32."""
    return float(make_schedule(config, total_steps)(jnp.int32(step)))


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
    """The run's length changes nothing."""
    rates = [rate_at(step, OptimizerConfig(), total) for total in (300_000, 1)]
    assert rates == [pytest.approx(expected, rel=1e-6)] * 2


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("step", "expected"), [(0, 0.2), (5, 0.6), (9, 0.92), (10, 1.0)])
def test_every_schedule_has_the_same_warmup(schedule, step, expected):
    config = dataclasses.replace(SHORT, schedule=schedule)
    assert rate_at(step, config) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("published", 40, 0.5),
        ("constant", 11, 1.0),
        ("constant", 99, 1.0),
        ("linear", 55, 0.55),
        ("linear", 99, 0.11),
        ("linear", 100, 0.1),
        ("linear", 200, 0.1),
        ("cosine", 40, 0.1 + 0.9 * (1 + math.cos(math.pi / 3)) / 2),
        ("cosine", 55, 0.55),
        ("cosine", 99, 0.1 + 0.9 * (1 + math.cos(math.pi * 89 / 90)) / 2),
        ("cosine", 100, 0.1),
        ("cosine", 200, 0.1),
    ],
)
def test_schedules_at_chosen_updates(schedule, step, expected):
    """A run of 100 updates. They end after the last one, which is number 99."""
    config = dataclasses.replace(SHORT, schedule=schedule)
    assert rate_at(step, config) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize(
    ("schedule", "before", "start"),
    [
        ("published", math.sqrt(10 / 79), math.sqrt(1 / 8)),
        ("constant", 1.0, 1.0),
        ("linear", 0.1 + 0.9 / 70, 0.1),
        ("cosine", 0.1 + 0.9 * (1 + math.cos(math.pi * 69 / 70)) / 2, 0.1),
    ],
)
def test_the_cooldown_is_linear_to_zero_from_where_the_schedule_was(schedule, before, start):
    """Over the last 20 of 100 updates. Cosine and linear end where it begins."""
    config = dataclasses.replace(SHORT, schedule=schedule, cooldown_share=0.2)
    expected = {79: before, 80: start, 85: 0.75 * start, 90: 0.5 * start, 99: 0.05 * start}
    for step, rate in expected.items():
        assert rate_at(step, config) == pytest.approx(rate, rel=2e-6), step
    assert rate_at(5, config) == pytest.approx(0.6, rel=1e-6)
    assert [rate_at(step, config) for step in (100, 101)] == [0.0, 0.0]


def test_a_final_rate_of_zero_is_zero():
    for schedule in ("cosine", "linear"):
        config = dataclasses.replace(SHORT, schedule=schedule, final_learning_rate=0.0)
        assert rate_at(100, config) == 0.0
        assert rate_at(99, config) > 0.0


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"schedule": "cosine"}, 10),
        ({"schedule": "linear"}, 10),
        ({"schedule": "constant", "cooldown_share": 0.2}, 8),
    ],
)
def test_a_run_too_short_for_its_schedule_is_refused(fields, end):
    config = dataclasses.replace(SHORT, **fields)
    with pytest.raises(InputError, match=f"optimizer.warmup_steps = 10: must be below {end}, the"):
        make_schedule(config, 10)
    assert 0 < float(make_schedule(config, 20)(0)) < 1


def test_a_schedule_is_one_entry_in_a_table(monkeypatch):
    """It has the peak and the warm-up as a factor, and may end where the cool-down begins."""
    monkeypatch.setitem(SCHEDULES, "halves", lambda _, end: lambda step: 0.5 ** (step // end))
    config = dataclasses.replace(SHORT, schedule="halves", cooldown_share=0.5)
    assert [rate_at(step, config) for step in (40, 50, 75)] == [1.0, 0.5, 0.25]


def test_an_unknown_schedule_is_named():
    config = dataclasses.replace(SHORT, schedule="cosin")
    with pytest.raises(InputError, match=r"optimizer.schedule = 'cosin': must be one of publishe"):
        make_schedule(config, 10)
