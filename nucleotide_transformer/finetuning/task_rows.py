"""Rows of a task table: methods beside their controls, joined over seeds, and published scores.

A row is a method with its weights on a task, over its seeds. A row of pretrained
weights is shown only if the same with random weights is there for the same seeds.
"""

import dataclasses
import math
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nucleotide_transformer.errors import InputError, MissingInputError, require
from nucleotide_transformer.finetuning.confidence import spread
from nucleotide_transformer.finetuning.labels import Kind
from nucleotide_transformer.finetuning.metrics import METRICS
from nucleotide_transformer.finetuning.probe import PRETRAINED, RANDOM


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A method with its weights on a task."""

    task: str
    method: str
    weights: str
    kind: Kind
    seeds: tuple[int, ...]
    num_train: int
    num_test: int
    leaks: dict[str, int]
    drop_leaks: bool
    scores: dict[str, float | None]
    """Metric -> mean over the seeds."""
    intervals: dict[str, tuple[float | None, float | None]]
    interval_of: str
    """What the intervals are over."""
    details: tuple[dict[str, Any], ...]
    """Of each seed: what the method chose or measured."""

    @property
    def metric(self) -> str:
        """The one that the plot and the short table show."""
        return METRICS[self.kind][0]

    @property
    def column(self) -> str:
        """Of the short table."""
        return f"{self.method}, random weights" if self.weights == RANDOM else self.method


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """Scores of others, from a file."""

    model: str
    source: str
    metric: str
    scores: dict[str, float]
    """Task -> score."""


def make_rows(records: Iterable[dict[str, Any]]) -> list[Row]:
    """Joins the records of several seeds, in the order of the records."""

    def key(record: dict[str, Any]) -> tuple[str, str, str]:
        return record["task"], record["method"], record["weights"]

    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return [_join(group) for group in groups.values()]


def _join(records: list[dict[str, Any]]) -> Row:
    """The row of some seeds."""
    first = records[0]
    metrics = METRICS[first["kind"]]
    if len(records) == 1:
        intervals = {name: tuple(first["intervals"][name]) for name in metrics}
        interval_of = f"95 % of {first['resamples']:,} resamples of the test rows"
    else:
        intervals = {
            name: _spread(record["scores"][name] for record in records) for name in metrics
        }
        interval_of = f"two standard deviations over {len(records)} seeds"
    return Row(
        task=first["task"],
        method=first["method"],
        weights=first["weights"],
        kind=first["kind"],
        seeds=tuple(record["seed"] for record in records),
        num_train=first["num_train"],
        num_test=first["num_test"],
        leaks=first["leaks"],
        drop_leaks=first["drop_leaks"],
        scores={name: _average([record["scores"][name] for record in records]) for name in metrics},
        intervals=intervals,
        interval_of=interval_of,
        details=tuple(record["details"] for record in records),
    )


def _average(values: Sequence[float | None]) -> float | None:
    """The mean; None if any is not defined."""
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 5) if len(known) == len(values) else None


def _spread(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None, None
    low, high = spread(known)
    return round(low, 5), round(high, 5)


def select_rows(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Drops what has no control.

    Returns:
        The rows to show, and a line for each that is not: a row of pretrained weights without the
        same method on the same task, with random weights, for the same seeds.
    """
    controls = {(row.task, row.method, row.seeds) for row in rows if row.weights == RANDOM}
    shown, notes = [], []
    for row in rows:
        if row.weights == PRETRAINED and (row.task, row.method, row.seeds) not in controls:
            notes.append(f"{row.task}: {row.method}: not shown: no result with random weights")
        else:
            shown.append(row)
    return shown, notes


def read_published(path: Path) -> list[Published]:
    """Reads scores of others: a table each with `model`, `source`, `metric` and `scores`.

    Raises:
        MissingInputError, InputError: in one line, for a file that can't be used.
    """
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file of published scores")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also of numbers and lists beyond Python's
        raise InputError(f"{path}: not TOML that can be read: {error}") from None
    known = sorted({metric for metrics in METRICS.values() for metric in metrics})
    found = []
    for name, table in tables.items():
        try:
            scores = {str(task): float(score) for task, score in dict(table["scores"]).items()}
            text = {field: str(table[field]) for field in ("model", "source", "metric")}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            rule = "must have model, source, metric and a table of scores by task"
            raise InputError(f"{path}: {name}: {error}: {rule}") from None
        rule = f"must be one of {', '.join(known)}"
        require(text["metric"] in known, f"{path}: {name}: metric", text["metric"], rule)
        for task, score in scores.items():
            rule = "must be a finite number"
            require(math.isfinite(score), f"{path}: {name}: scores: {task}", score, rule)
        found.append(Published(scores=scores, **text))
    return found
