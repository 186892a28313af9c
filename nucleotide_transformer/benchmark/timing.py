"""Seconds of steps, taken in turns, and their spread."""

import collections
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Workload(Protocol):
    """Something that runs step by step."""

    overlaps: bool
    """Whether the device still computes a step while the host starts the next one."""

    def start(self) -> Any:
        """Starts a step; may return before it ends."""

    def wait(self, started: Any) -> None:
        """Waits for the end of a step, given what `start` returned."""


class Spread(NamedTuple):
    """Five numbers that say how a sample lies."""

    minimum: float
    first_quartile: float
    median: float
    third_quartile: float
    maximum: float


def summarize(values: Sequence[float]) -> Spread:
    """The spread of a sample; quartiles are interpolated linearly."""
    return Spread(*(float(value) for value in np.quantile(values, (0, 0.25, 0.5, 0.75, 1))))


def time_steps(workload: Workload, num_steps: int) -> list[float]:
    """Seconds of each of some steps in a row.

    Where steps overlap, the host waits for one only after it has started the next, so that the
    device is never without work: a step's seconds run from the end of the step before it to its
    own. The steps at both ends, which lack a neighbour, run beside the timed ones.
    """
    running = collections.deque(workload.start() for _ in range(2 if workload.overlaps else 0))
    if running:
        workload.wait(running.popleft())
    marks = [time.perf_counter()]
    for _ in range(num_steps):
        running.append(workload.start())
        workload.wait(running.popleft())
        marks.append(time.perf_counter())
    for started in running:
        workload.wait(started)
    return [end - start for start, end in itertools.pairwise(marks)]


def time_in_turns(
    workloads: Sequence[Workload],
    *,
    rounds: int,
    round_steps: int,
    advance: Callable[[], object] = lambda: None,
) -> list[list[list[float]]]:
    """Seconds of steps [workload][round][step]: in every round each workload has its turn.

    Whatever else the machine does for a while meets all of them alike. Where there are several
    workloads, the first step of a turn is not timed: it takes over memory that another workload
    freed, which a virtual machine may have to ask of its host (10 s were seen), and which no run of
    its own would do. `advance` is called after every turn.
    """
    seconds: list[list[list[float]]] = [[] for _ in workloads]
    for _ in range(rounds):
        for workload, own in zip(workloads, seconds, strict=True):
            if len(workloads) > 1:
                time_steps(workload, 1)
            own.append(time_steps(workload, round_steps))
            advance()
    return seconds


def compare_rates(ours: list[list[float]], theirs: list[list[float]]) -> Spread:
    """Our rate over theirs, round by round, above 1 where we are the faster.

    Args:
        ours: seconds [round][step].
        theirs: the same of the other one, of steps with as many tokens.
    """
    pairs = zip(ours, theirs, strict=True)
    return summarize([float(np.mean(their) / np.mean(our)) for our, their in pairs])
