"""What makes a run the same run: which settings may change when it resumes."""

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import optax

from nucleotide_transformer.configfile import config_from_dict, config_to_dict
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.weights.runs import read_json, read_record

REMOVED_FIELDS = ("shard_optimizer", "evaluation.baseline_nucleotides", "compute.attention")
"""Fields of earlier versions' configs that are gone, or whose choices have other names now. They
left every update as it was."""


def list_settings(config: Any, record: dict[str, Any]) -> dict[str, Any]:
    """What all processes of a run must have in common: its config and record, but for paths."""
    fields = flatten(dataclasses.asdict(config))
    return {name: value for name, value in fields.items() if not isinstance(value, Path)} | record


def check_same_run(
    checkpoint: Path, config: Any, *, free: Collection[str], record: dict[str, Any]
) -> Any:
    """Checks that a run resumes with what it began with.

    A field that an older version did not have had its default.

    Args:
        checkpoint: the newest of the run.
        config: a config dataclass, of the run that resumes.
        free: fields that may change, since they leave every update as it was; with a dot for
            nested ones. The name of a table frees all of its fields.
        record: what the config does not say: the `corpus`'s digest.

    Returns:
        The config that the run began with.

    Raises:
        InputError: one line that lists what differs.
    """
    saved = read_json(checkpoint, "config")
    saved_record = read_record(checkpoint)
    kept = drop_fields(saved, REMOVED_FIELDS)
    began_with = config_from_dict(type(config), kept, str(checkpoint))
    before = flatten(config_to_dict(began_with))
    now = flatten(config_to_dict(config))
    compared = [field for field in now if not is_among(field, free)]
    differing = [
        f"{field} = {before.get(field)!r} there, {now[field]!r} here"
        for field in compared
        if before.get(field) != now[field]
    ]
    differing += [
        f"{name} = {saved_record[name]!r} there, {value!r} here"
        for name, value in record.items()
        if saved_record.get(name, value) != value
    ]
    if differing:
        rule = "a run resumes with the config that it began with; give another output folder"
        raise InputError(f"{checkpoint}: {'; '.join(differing)}: {rule}")
    return began_with


def check_same_rates(
    checkpoint: Path, step: int, before: optax.Schedule, now: optax.Schedule
) -> None:
    """Checks that a run of another length would have had the same learning rates so far.

    Raises:
        InputError: if it would not, as with a cosine schedule or a cool-down that has begun.
    """
    for place in np.unique(np.linspace(0, max(step - 1, 0), 101).round()).astype(int).tolist():
        one, other = float(before(place)), float(now(place))
        if not math.isclose(one, other, rel_tol=1e-6):
            rule = "the schedule depends on the length; give another output folder"
            raise InputError(
                f"{checkpoint}: total_tokens: the learning rate of update {place + 1} was"
                f" {one:.3g} and would be {other:.3g} with the new length: {rule}"
            )


def is_among(field: str, names: Collection[str]) -> bool:
    """Whether a dotted field, or a table that it is in, is among some names."""
    return any(field == name or field.startswith(name + ".") for name in names)


def drop_fields(tree: dict[str, Any], names: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries without the fields of some dotted names."""
    return {
        name: drop_fields(value, names, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in tree.items()
        if not is_among(prefix + name, names)
    }


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat
