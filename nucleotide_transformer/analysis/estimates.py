"""Means with their standard errors, and those of parts put together."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from nucleotide_transformer.pretraining.scores import estimate_error
from nucleotide_transformer.types import Float, Int

DIGITS = 5
"""Decimals of the numbers in the JSON."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean (or several at a time) and its standard error, which is NaN for less than two."""

    mean: Float[np.ndarray, "..."]
    error: Float[np.ndarray, "..."]
    count: int
    """Independent units: sites, stretches or elements."""

    def to_json(self) -> dict[str, Any]:
        """`mean` and `standard_error`, rounded; NaN is None."""
        return {"mean": to_numbers(self.mean), "standard_error": to_numbers(self.error)}


def to_numbers(values: Any) -> Any:
    """Rounded floats, in lists as the array has them; None for NaN and the infinite."""
    array = np.round(np.asarray(values, np.float64), DIGITS)
    numbers = np.array(array, object)
    numbers[~np.isfinite(array)] = None
    return numbers.tolist()


def average(values: Float[np.ndarray, "N ..."]) -> Estimate:
    """The mean over the first axis, whose entries are independent."""
    count = len(values)
    wide = np.asarray(values, np.float64)
    if count < 2:
        mean = wide[0] if count else np.full(wide.shape[1:], np.nan)
        return Estimate(np.asarray(mean), np.full(wide.shape[1:], np.nan), count)
    error = wide.std(axis=0, ddof=1) / np.sqrt(count)
    return Estimate(np.asarray(wide.mean(axis=0)), np.asarray(error), count)


def average_ratio(sums: Float[np.ndarray, " N"], weights: Float[np.ndarray, " N"]) -> Estimate:
    """sum(sums) / sum(weights), where the pairs are independent and each pair is not."""
    kept = weights > 0
    sums, weights = sums[kept].astype(np.float64), weights[kept].astype(np.float64)
    count = len(sums)
    mean = sums.sum() / weights.sum() if count else np.nan
    error = estimate_error(sums, weights) if count > 1 else np.nan
    return Estimate(np.asarray(mean), np.asarray(error), count)


def combine(parts: Sequence[Estimate], shares: Sequence[float]) -> Estimate:
    """The mean of a whole that was sampled in parts: each part counts with its share of it."""
    if len(parts) == 1:
        return parts[0]
    weights = np.asarray(shares, np.float64) / np.sum(shares)
    mean = sum(weight * part.mean for weight, part in zip(weights, parts, strict=True))
    variance = sum((w * part.error) ** 2 for w, part in zip(weights, parts, strict=True))
    count = sum(part.count for part in parts)
    return Estimate(np.asarray(mean), np.asarray(np.sqrt(variance)), count)


def resample_groups(
    groups: Int[np.ndarray, " N"], count: int, random: np.random.Generator
) -> Float[np.ndarray, "resamples N"]:
    """How often each member is in each of `count` resamples: whole groups are drawn, and again."""
    names, members = np.unique(groups, return_inverse=True)
    draws = random.multinomial(len(names), np.full(len(names), 1 / len(names)), count)
    return draws[:, members].astype(np.float64)
