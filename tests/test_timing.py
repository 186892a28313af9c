"""Timing: which steps the clock counts, whose turn it is, and ratios."""

from unittest.mock import Mock

import numpy as np
import pytest

from nucleotide_transformer.benchmark import run, timing
from nucleotide_transformer.benchmark.config import BenchmarkConfig, list_cases


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


class GreedyPeer:
    """A peer on torch that has memory for some steps."""

    name, overlaps = "torch", False

    def __init__(self, num_steps):
        self.num_steps = num_steps

    def start(self):
        self.num_steps -= 1
        if self.num_steps < 0:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def wait(self, started):
        pass

    @staticmethod
    def free_memory():
        pass


@pytest.mark.parametrize("num_steps", [0, 1, 2, 99])
def test_ours_is_timed_alone_once_the_peer_is_out_of_memory(monkeypatch, num_steps):
    monkeypatch.setattr(run, "explain_absence", lambda *_: None)
    make_peer = Mock(side_effect=lambda *_: GreedyPeer(num_steps))
    make_peer.free_memory = GreedyPeer.free_memory
    monkeypatch.setattr(run, "TorchPeer", make_peer)
    config = BenchmarkConfig(warmup_steps=1, rounds=2, round_steps=3)
    (case, _) = list_cases(config, num_local_devices=1, platform="cpu")
    with run.BenchmarkProgress(config, [case], show=False) as bar:
        ours = FakeSteps([0.0], overlaps=False)
        seconds, peer, absence = run.time_case(ours, case, config, bar)
        assert bar.num_done == 1 + 2 * 3
    assert np.shape(seconds) == (2, 3)
    assert (peer is None) == (num_steps < 99)
    hint = "the peer is out of memory; XLA_PYTHON_CLIENT_PREALLOCATE=false leaves it more"
    assert absence == (None if peer else hint)
