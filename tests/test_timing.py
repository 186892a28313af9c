"""Timing: which steps the clock counts, whose turn it is, and ratios."""

import numpy as np
import pytest

from nucleotide_transformer.benchmark import timing


class FakeSteps:
    """Steps of 1, 2, 3, ... seconds by a clock of its own."""

    def __init__(self, clock, overlaps):
        self.clock, self.overlaps = clock, overlaps
        self.num_started, self.order = 0, []

    def start(self):
        self.num_started += 1
        self.order.append(f"start {self.num_started}")
        return self.num_started

    def wait(self, started):
        self.order.append(f"wait {started}")
        self.clock[0] += started


@pytest.mark.parametrize(
    ("overlaps", "seconds", "order"),
    [
        (False, [1, 2], ["start 1", "wait 1", "start 2", "wait 2"]),
        (
            True,
            [2, 3],
            ["start 1", "start 2", "wait 1", "start 3", "wait 2", "start 4", "wait 3", "wait 4"],
        ),
    ],
)
def test_steps_are_timed_from_end_to_end(monkeypatch, overlaps, seconds, order):
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    steps = FakeSteps(clock, overlaps)
    assert timing.time_steps(steps, 2) == seconds
    assert steps.order == order


def test_turns_alternate_and_ratios_are_of_rounds():
    clock = [0.0]
    turns = []
    one, other = FakeSteps(clock, False), FakeSteps(clock, False)
    seconds = timing.time_in_turns(
        [one, other],
        rounds=2,
        round_steps=3,
        advance=lambda: turns.append((one.num_started, other.num_started)),
    )
    assert turns == [(4, 0), (4, 4), (8, 4), (8, 8)]  # three timed, after one that is not
    assert np.shape(seconds) == (2, 2, 3)
    ratio = timing.compare_rates([[1.0, 1.0], [1.0, 3.0]], [[2.0, 2.0], [3.0, 3.0]])
    assert ratio == (1.5, 1.625, 1.75, 1.875, 2.0)
    assert timing.summarize([4.0, 0.0, 1.0, 3.0, 2.0]) == (0, 1, 2, 3, 4)
