"""The results of trials as files, one each, and what says whether one can be used again.

    FOLDER/results/TASK/METHOD-WEIGHTS-SEED.json

A result holds the fingerprint of what it was made with; see `tasks.make_fingerprint`.
"""

import json
from pathlib import Path
from typing import Any

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.files import write_json
from nucleotide_transformer.finetuning.methods import RUNS, Trial, find_default
from nucleotide_transformer.finetuning.probe import PRETRAINED


def find_record(folder: Path, trial: Trial) -> Path:
    """The file of a trial's result in the folder of a table."""
    return folder / "results" / trial.task / f"{trial.name}.json"


def check_record(path: Path, fingerprint: dict[str, Any]) -> bool:
    """Whether a result is there; an `InputError` if it was made with other settings.

    A field of `FinetuneConfig` that an older version did not have had its default. A fine-tuning
    run that the result came from may refuse the same setting.
    """
    if not path.exists():
        return False
    found = find_fingerprint(read_record(path))
    for name, value in fingerprint.items():
        before = found.get(name, find_default(name))
        if before != value:
            run = path.parents[2] / RUNS / path.parent.name / path.stem
            also = f", and {run} if that refuses, too" if run.is_dir() else ""
            rule = f"choose another output, or delete it{also}"
            raise InputError(f"{path}: was made with {name} = {before!r}, not {value!r}: {rule}")
    return True


def save_record(path: Path, record: dict[str, Any]) -> None:
    """Writes the result of a trial, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record, allow_nan=False)


def read_record(path: Path) -> dict[str, Any]:
    """Reads the result of a trial.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        # Metrics that were not defined were once written as NaN, which JSON has not.
        text = path.read_text(encoding="utf-8")
        return dict(json.loads(text, parse_constant=lambda _: None))
    except (TypeError, ValueError):
        raise InputError(f"{path}: damaged: delete it, and the trial runs again") from None


def find_fingerprint(record: dict[str, Any]) -> dict[str, Any]:
    """What a result was made with; older versions noted the resamples beside it alone."""
    return {"resamples": record.get("resamples")} | record.get("fingerprint", {})


def take_over(source: Path, output: Path, trial: Trial, fingerprint: dict[str, Any]) -> bool:
    """Copies the result of a control from another table.

    Returns:
        Whether it was there, made with the same settings.
    """
    path = find_record(source, trial)
    if trial.weights == PRETRAINED or not path.exists():
        return False
    record = read_record(path)
    if find_fingerprint(record) != fingerprint:
        return False
    save_record(find_record(output, trial), record | {"fingerprint": fingerprint})
    return True
