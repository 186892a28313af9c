"""Random samples of places, held-out ones apart from those in training blocks.

Held-out blocks are a small part of a genome that was trained on. Half of a sample comes from them,
half from the rest, and what is said of the whole weighs the two by their shares of it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from nucleotide_transformer.analysis.estimates import Estimate, combine
from nucleotide_transformer.types import Bool

Item = TypeVar("Item")

WHOLE, HELD_OUT, TRAIN = "all", "held_out", "train"


@dataclasses.dataclass(frozen=True)
class Sample(Generic[Item]):
    """What was drawn of a part of a population."""

    part: str
    """"all", or "held_out" or "train"."""
    share: float
    """The part's share of the population."""
    items: list[Item]


def draw(
    random: np.random.Generator,
    size: int,
    held_out: Bool[np.ndarray, " size"] | None,
    count: int,
    accept: Callable[[int], Item | None],
) -> list[Sample[Item]]:
    """Draws members of a population without repetition.

    Args:
        random: source of the choice.
        size: members of the population.
        held_out: which of them are held out; None where that is not known, or all or none are.
        count: members to draw in all: half of the held-out ones, half of the others, and where
            one part has fewer, more of the other.
        accept: is given the index of a member; None leaves it out, for another one.

    Returns:
        One sample, or one of each part that has members.
    """
    parts = {WHOLE: np.arange(size)}
    if held_out is not None:
        parts = {HELD_OUT: np.flatnonzero(held_out), TRAIN: np.flatnonzero(~held_out)}
    parts = {name: members for name, members in parts.items() if members.size}
    wanted = _divide(count, [members.size for members in parts.values()])
    samples = []
    for (name, members), most in zip(parts.items(), wanted, strict=True):
        items: list[Item] = []
        for member in random.permutation(members):
            if len(items) == most:
                break
            item = accept(int(member))
            if item is not None:
                items.append(item)
        samples.append(Sample(name, members.size / size, items))
    return samples


def _divide(count: int, sizes: Sequence[int]) -> list[int]:
    """How many to take of one or two parts."""
    if len(sizes) < 2:
        return [min(count, size) for size in sizes]
    first = min(sizes[0], max(count // 2, count - sizes[1]))
    return [first, min(sizes[1], count - first)]


def estimate_parts(
    samples: Sequence[Sample[Item]], measure: Callable[[list[Item]], Mapping[str, Estimate]]
) -> dict[str, dict[str, Any]]:
    """Part -> what was measured of its sample, and of the whole put together, for the JSON.

    Args:
        samples: those of `draw`; the items may be results of theirs.
        measure: items -> name of a number -> its estimate.
    """
    filled = [sample for sample in samples if sample.items]
    parts = {sample.part: measure(sample.items) for sample in filled}
    shares = [sample.share for sample in filled]
    report: dict[str, dict[str, Any]] = {}
    if parts and WHOLE not in parts:
        names = next(iter(parts.values()))
        whole = {name: combine([part[name] for part in parts.values()], shares) for name in names}
        parts = {WHOLE: whole, **parts}
    for name, estimates in parts.items():
        numbers = {key: estimate.to_json() for key, estimate in estimates.items()}
        report[name] = {"count": next(iter(estimates.values())).count, **numbers}
    return report
