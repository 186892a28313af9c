"""Tasks from folders or from the Hugging Face hub: each a training and a test set.

A folder holds a folder for each task, with `train` and `test` as .csv, .tsv (also with .gz) or
.parquet. A dataset of the hub has a configuration for each task, or a column `task`; it is written
into such a folder first.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nucleotide_transformer.errors import (
    InputError,
    MissingInputError,
    describe_error,
    import_extra,
    require,
)
from nucleotide_transformer.files import keep_settings, read_path, write_whole
from nucleotide_transformer.finetuning.labels import Kind, LabelledSequences, read_labelled

SPLITS = ("train", "test")
TASK_COLUMN = "task"
_SUFFIXES = (".csv.gz", ".csv", ".tsv.gz", ".tsv", ".parquet")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class Task(NamedTuple):
    """Where a task is."""

    name: str
    train: Path
    test: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnsConfig:
    """What the tables of a task hold."""

    kind: Kind = "classification"
    """What the labels are: one class a sequence, any number of classes, or numbers."""
    sequence: str = "sequence"
    """Column with the sequences."""
    label: tuple[str, ...] = ("label",)
    """Column with the labels; several for multilabel (0 and 1) and regression."""
    name: str = "name"
    """Column with the names; rows are numbered without it."""
    separator: str = ";"
    """Between the classes of a multilabel row."""


class Tables(NamedTuple):
    """The sequences of a task."""

    train: LabelledSequences
    test: LabelledSequences


def find_tasks(
    source: str, cache: Path, *, names: tuple[str, ...] = (), revision: str | None = None
) -> list[Task]:
    """The tasks of a folder, or of a dataset of the hub, by name.

    Args:
        source: a folder, or owner/name on the hub.
        cache: folder for the tables of a dataset, which is not asked for again once it is there.
        names: those to take, in this order; all by default.
        revision: of the dataset.

    Raises:
        MissingInputError: if there is no such folder or dataset, or no task in it.
        InputError: for a task without a table, a name that is no task, or a cache of another
            dataset or revision.
    """
    folder = read_path("tasks", source)
    if not folder.is_dir():
        if not _REPOSITORY.fullmatch(source):
            raise MissingInputError(f"{source}: no such folder, and no owner/name of the hub")
        if cache.is_dir():
            _keep_source(cache, source, revision)
            folder = cache
        else:
            folder = fetch_tasks(source, cache, revision=revision)
    places = {place.name: place for place in sorted(folder.iterdir()) if place.is_dir()}
    every = [name for name, place in places.items() if any(_find_tables(place).values())]
    if not every:
        rule = "must hold a folder for each task, with train.csv and test.csv (or .tsv, .parquet)"
        raise MissingInputError(f"{folder}: no task: {rule}")
    for name in names:
        require(name in every, f"{source}: task", name, f"there are {', '.join(every)}")
    return [_make_task(places[name]) for name in names or every]


def read_tables(task: Task, columns: ColumnsConfig) -> Tables:
    """Reads a task; the test set has the classes of the training set.

    Raises:
        InputError: in one line, for a table that can't be used; see `read_labelled`.
    """
    read = functools.partial(
        read_labelled,
        kind=columns.kind,
        sequence_column=columns.sequence,
        label_column=columns.label,
        name_column=columns.name,
        separator=columns.separator,
    )
    train = read(task.train)
    return Tables(train, read(task.test, classes=train.classes))


def _find_tables(folder: Path) -> dict[str, list[Path]]:
    """Split -> the files that may hold it."""
    paths = {split: [folder / f"{split}{suffix}" for suffix in _SUFFIXES] for split in SPLITS}
    return {split: [path for path in there if path.is_file()] for split, there in paths.items()}


def _make_task(folder: Path) -> Task:
    """The task of a folder, if it has one table for each split."""
    found = _find_tables(folder)
    for split, paths in found.items():
        if not paths:
            shown = ", ".join(f"{split}{suffix}" for suffix in _SUFFIXES)
            raise MissingInputError(f"{folder}: no {split} set: must have one of {shown}")
        if len(paths) > 1:
            shown = ", ".join(path.name for path in paths)
            raise InputError(f"{folder}: {shown}: must be one of them")
    return Task(folder.name, *(paths[0] for paths in found.values()))


def fetch_tasks(source: str, folder: Path, *, revision: str | None = None) -> Path:
    """Writes the tasks of a dataset as Parquet files into a new folder, which appears whole.

    Args:
        source: owner/name on the hub, or a folder that `datasets` can load.
        folder: where to; a folder for each task.
        revision: of the dataset on the hub.

    Raises:
        InputError: if there is no such dataset, no network, or no test set, for a task whose name
            is no name of a folder, or without `datasets`.
    """
    datasets = import_extra("datasets", "hub", f"{source}: to load it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        names = datasets.get_dataset_config_names(source, revision=revision)
        with write_whole(folder) as partial:
            partial.mkdir()
            _keep_source(partial, source, revision)
            for name in names:
                loaded = datasets.load_dataset(source, name, revision=revision)
                for task, tables in _split_tasks(source, name, loaded):
                    plain = Path(task).name == task and not task.startswith(".")
                    require(plain, f"{source}: task", task, "must be a name without a folder")
                    (partial / task).mkdir()
                    for split, table in tables.items():
                        table.to_parquet(partial / task / f"{split}.parquet")
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{source}: can't be loaded: {describe_error(error)}") from None
    return folder


def _keep_source(folder: Path, source: str, revision: str | None) -> None:
    """Notes of what dataset a folder holds tables, or compares it with what it says."""
    settings = {"source": source, "revision": revision}
    keep_settings(folder, settings, "holds tables", "choose another output, or delete this folder")


def _split_tasks(source: str, name: str, loaded: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The tasks of a configuration: by its column `task`, or itself."""
    for split in SPLITS:
        if split not in loaded:
            raise InputError(f"{source}: {name}: no split {split!r}; has {', '.join(loaded)}")
    if TASK_COLUMN not in loaded["train"].column_names:
        yield name, {split: loaded[split] for split in SPLITS}
        return
    rows: dict[str, dict[str, list[int]]] = {}
    for split in SPLITS:
        for row, task in enumerate(loaded[split][TASK_COLUMN]):
            rows.setdefault(str(task), {part: [] for part in SPLITS})[split].append(row)
    for task, chosen in rows.items():
        yield task, {split: loaded[split].select(chosen[split]) for split in SPLITS}
