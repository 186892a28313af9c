"""Many tasks, many methods, one table: each trial is a file, and what is there is not run again.

Beside each pretrained network runs the same with random weights, under the same method and seed.

    OUTPUT/results/TASK/METHOD-WEIGHTS-SEED.json   one trial each; see `make_record`
    OUTPUT/{table.md,table.json,table.parquet,table.png}
    OUTPUT/embeddings, OUTPUT/finetuning           what probes and fine-tuning keep
    OUTPUT/data                                    tasks from the hub
"""

import dataclasses
import fnmatch
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.errors import (
    MissingInputError,
    require,
    require_choices,
    require_positive,
)
from nucleotide_transformer.files import open_output, require_local
from nucleotide_transformer.finetuning.confidence import bootstrap
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.estimators import Estimator
from nucleotide_transformer.finetuning.job import check_lengths, digest_labelled
from nucleotide_transformer.finetuning.leaks import describe_leaks, drop_leaks, find_leaks
from nucleotide_transformer.finetuning.methods import (
    METHODS,
    NO_WEIGHTS,
    SET_BY_TRIAL,
    Outcome,
    Setting,
    Trial,
)
from nucleotide_transformer.finetuning.metrics import METRICS, score_predictions
from nucleotide_transformer.finetuning.probe import PRETRAINED, RANDOM
from nucleotide_transformer.finetuning.task_records import (
    check_record,
    find_record,
    read_record,
    save_record,
    take_over,
)
from nucleotide_transformer.finetuning.task_sources import (
    ColumnsConfig,
    Tables,
    find_tasks,
    read_tables,
)
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.model.encoder import check_layers
from nucleotide_transformer.pretrained import Model, randomise
from nucleotide_transformer.weights.adapter_files import Strand
from nucleotide_transformer.weights.assembly import digest_params
from nucleotide_transformer.weights.hub import LoadConfig

FORMAT_VERSION = 2
"""Of results. Those of version 1 had another loss under class weights, and in 16 bits heads that
were rounded, too; all others are the same in both, and keep the number 1."""
DIGITS = 5
"""Decimals of the scores."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TasksConfig(LoadConfig):
    """Methods on tasks, beside k-mer counts and the same network with random weights."""

    tasks: str
    """Folder with a folder for each task, which holds train and test as .csv, .tsv (also with .gz)
    or .parquet; or a dataset of the hub, owner/name."""
    output: Path
    """Folder for the results of each trial and the table; what is there is not run again."""
    methods: tuple[str, ...] = ("kmers4", "kmers6", "probe")
    """kmers4, kmers6: logistic regression on k-mer counts; probe: on embeddings; head, ia3, lora,
    full: fine-tuning."""
    only: tuple[str, ...] = ()
    """Names of tasks; all by default."""
    seeds: int = 1
    """Seeds 0, 1, ... of each method that draws random numbers."""
    drop_leaks: bool = False
    """Leave out training sequences that the test set has too, or nearly so."""
    stranded: tuple[str, ...] = ("promoter_*", "splice_sites_*")
    """Tasks, by name or pattern, whose sequences have a strand. For all others both are read."""
    controls: Path | None = None
    """Folder of another table, such as that of earlier weights: what it has of k-mers and of random
    weights, made with the same data and settings, is taken over and not run again."""
    published: Path | None = None
    """TOML file with published scores to show beside; see experiments/finetune."""
    revision: str | None = None
    """Of the dataset on the hub."""
    columns: ColumnsConfig = ColumnsConfig()
    """What the tables hold."""
    estimator: Estimator = "logistic"
    """What a probe trains on embeddings: logistic regression (ridge for numbers), or a network with
    one hidden layer."""
    layers: tuple[int, ...] = ()
    """Layers that are probed, 0 (the input of the first block) to the number of blocks; all by
    default."""
    resamples: int = 500
    """Resamples of the test rows for the interval of a score of one seed."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Updates, batch and learning rate of head, ia3, lora and full."""
    batching: BatchConfig = BatchConfig()
    """Size of windows and batches, devices."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_local("output", self.output)
        require_positive(self, "seeds", "resamples")
        rule = f"must be some of {', '.join(METHODS)}"
        require(
            bool(self.methods) and set(self.methods) <= set(METHODS), "methods", self.methods, rule
        )
        rule = "must be named once each"
        for field in ("methods", "only"):
            value = getattr(self, field)
            require(len(set(value)) == len(value), field, value, rule)
        for field in SET_BY_TRIAL:
            value = getattr(self.finetune, field)
            default = getattr(FinetuneConfig(), field)
            require(value == default, f"finetune.{field}", value, "is set by nt tasks run itself")

    @property
    def uses_network(self) -> bool:
        """Whether any method needs the model."""
        return any(METHODS[name].uses_network for name in self.methods)

    def find_strand(self, task: str) -> Strand:
        """How the sequences of a task are read."""
        has_one = any(fnmatch.fnmatchcase(task, pattern) for pattern in self.stranded)
        return "one" if has_one else "both"


Note = Callable[[str], object]


def load_tables(config: TasksConfig) -> dict[str, Tables]:
    """Task -> its sequences; all are read and checked.

    Raises:
        MissingInputError, InputError: in one line, for what can't be found or used.
    """
    cache = config.output / "data"
    tasks = find_tasks(config.tasks, cache, names=config.only, revision=config.revision)
    return {task.name: read_tables(task, config.columns) for task in tasks}


def run_tasks(
    config: TasksConfig,
    tables: dict[str, Tables],
    model: Model | None,
    *,
    note: Note = lambda _: None,
    show: bool = False,
) -> list[dict[str, Any]]:
    """Runs every trial that has no result yet; what `nt tasks run` does before it draws the table.

    Args:
        config: methods, and how tasks are read.
        tables: what `load_tables` returns.
        model: what `load_pretrained(config.model)` returns; None if no method uses one.
        note: takes a line about each step.
        show: show the progress of fine-tuning runs.

    Returns:
        The records of all trials; see `make_record`.

    Raises:
        InputError: in one line: for a layer that the model does not have, a result that was made
            with other settings, labels that can't be learnt, a sequence that is too long to
            fine-tune with, or another process that writes to the
            folder.
        NotAFolderError, UnwritableOutputError: if nothing can be written there.
        KeyboardInterrupt: if it was stopped; the same command resumes it.
    """
    if config.controls and not config.controls.is_dir():
        raise MissingInputError(f"{config.controls}: no such folder of a table, for its controls")
    if model is not None:
        check_layers(model.config, config.layers)
        check_layers(model.config, config.finetune.layers, field="finetune.layers")
    with open_output(config.output):
        return _run_tasks(config, tables, model, note, show)


def _run_tasks(
    config: TasksConfig, tables: dict[str, Tables], model: Model | None, note: Note, show: bool
) -> list[dict[str, Any]]:
    """`run_tasks` in its folder."""
    trials = [trial for name in tables for trial in list_trials(config, name)]

    @functools.cache
    def describe(random_seed: int | None) -> dict[str, Any]:
        return describe_network(model, config.batching, random_seed) if model else {}

    waiting, num_taken = [], 0
    for trial in trials:
        network = describe(trial.seed if trial.weights == RANDOM else None)
        prints = make_fingerprint(config, trial, tables[trial.task], network)
        if check_record(find_record(config.output, trial), prints):
            continue
        if config.controls and take_over(config.controls, config.output, trial, prints):
            num_taken += 1
            continue
        waiting.append((trial, prints))
    num_before = len(trials) - len(waiting) - num_taken
    note(f"{len(tables)} tasks, {len(trials)} trials, {num_before} done before")
    if config.controls:
        note(f"{num_taken} controls taken from {config.controls}")
    for task in {trial.task: None for trial, _ in waiting if METHODS[trial.method].is_whole}:
        assert model, "given where a method uses a network"
        for data in tables[task]:
            check_lengths(model, data, config.finetune)
    for task, group in itertools.groupby(waiting, lambda pair: pair[0].task):
        prepared = prepare(config, tables[task])
        note(f"{task}: {describe_leaks(prepared.leaks, len(tables[task].test))}")
        setting = make_setting(config, task, model, note=note, show=show)
        for trial, prints in group:
            record = run_trial(config, trial, prepared, setting)
            save_record(find_record(config.output, trial), record | {"fingerprint": prints})
            note(describe_record(record))
    return [read_record(find_record(config.output, trial)) for trial in trials]


def list_trials(config: TasksConfig, task: str) -> Iterator[Trial]:
    """The trials of a task; a random twin follows each pretrained one."""
    for name in config.methods:
        method = METHODS[name]
        for seed in range(config.seeds if method.is_random else 1):
            for weights in (PRETRAINED, RANDOM) if method.uses_network else (NO_WEIGHTS,):
                yield Trial(task, name, weights, seed)


def make_setting(
    config: TasksConfig, task: str, model: Model | None, *, note: Note, show: bool
) -> Setting:
    """What the methods may ask for on a task."""
    return Setting(
        model=model,
        strand=config.find_strand(task),
        estimator=config.estimator,
        layers=config.layers,
        finetune=config.finetune,
        batching=config.batching,
        output=config.output,
        note=note,
        show=show,
    )


def describe_network(
    model: Model, batching: BatchConfig, random_seed: int | None
) -> dict[str, Any]:
    """What the results of a network's trials depend on, in types that JSON has.

    Args:
        model: the pretrained one.
        batching: windows.
        random_seed: of its twin with random weights, on which the model's own have no influence;
            None describes the model itself.
    """
    settings = {}
    if random_seed is not None:
        default = ModelConfig()
        changed = config_to_dict(model.config).items() - config_to_dict(default).items()
        settings = {"network": dict(sorted(changed))}
        model = randomise(model, random_seed)
    return settings | {
        "parameters": digest_params(model.params),
        "compute_dtype": model.compute.compute_dtype,
        "window_tokens": batching.window_tokens,
        "overlap_tokens": batching.overlap_tokens,
    }


def make_fingerprint(
    config: TasksConfig, trial: Trial, tables: Tables, network: dict[str, Any]
) -> dict[str, Any]:
    """What a result depends on, in types that JSON has; see `describe_network`."""
    method = METHODS[trial.method]
    setting = make_setting(config, trial.task, None, note=lambda _: None, show=False)
    settings = (network if method.uses_network else {}) | method.describe(setting)
    weights = settings.get("finetune.class_weights")  # None: nothing is fine-tuned
    is_as_before = not weights or (weights, settings["compute_dtype"]) == ("none", "float32")
    return {
        "train": digest_labelled(tables.train),
        "test": digest_labelled(tables.test),
        "drop_leaks": config.drop_leaks,
        "resamples": config.resamples,
        **settings,
        # Last: what differs is named by the first that does, and precisions have two versions.
        "version": 1 if is_as_before else FORMAT_VERSION,
    }


class Prepared(NamedTuple):
    """A task that is ready to be learnt."""

    tables: Tables
    leaks: dict[str, int]
    """See `Leaks.count_rows`; before any are dropped."""


def prepare(config: TasksConfig, tables: Tables) -> Prepared:
    """Counts leaks, and takes them out of the training set if that was asked for."""
    leaks = find_leaks(tables.train.sequences, tables.test.sequences)
    train = drop_leaks(tables.train, leaks) if config.drop_leaks else tables.train
    return Prepared(Tables(train, tables.test), leaks.count_rows())


def run_trial(
    config: TasksConfig, trial: Trial, prepared: Prepared, setting: Setting
) -> dict[str, Any]:
    """Trains and predicts; returns the record of a trial, but for its fingerprint."""
    train, test = prepared.tables
    start = time.monotonic()
    outcome = METHODS[trial.method].run(trial, train, test.sequences, setting)
    seconds = time.monotonic() - start
    return make_record(config, trial, prepared, outcome) | {"seconds": round(seconds, 2)}


def describe_record(record: dict[str, Any]) -> str:
    """A trial in a line."""
    metric = METRICS[record["kind"]][0]
    value = record["scores"][metric]
    shown = "not defined" if value is None else f"{value:.3f}"
    weights = "" if record["weights"] == NO_WEIGHTS else f", {record['weights']} weights"
    name = f"{record['task']}: {record['method']}{weights}, seed {record['seed']}"
    return f"{name}: {metric} {shown} in {record['seconds']:,.1f} s"


def make_record(
    config: TasksConfig, trial: Trial, prepared: Prepared, outcome: Outcome
) -> dict[str, Any]:
    """What is known of a trial, in types that JSON has; what is not defined is None."""
    train, test = prepared.tables
    scores = score_predictions(test.kind, test.labels, outcome.predictions)
    intervals = bootstrap(
        test.kind, test.labels, outcome.predictions, num_resamples=config.resamples
    )
    return {
        **trial._asdict(),
        "kind": test.kind,
        "classes": list(test.classes),
        "num_train": len(train),
        "num_test": len(test),
        "leaks": prepared.leaks,
        "drop_leaks": config.drop_leaks,
        "scores": {name: _round(value) for name, value in scores.items()},
        "intervals": {name: [_round(v) for v in pair] for name, pair in intervals.items()},
        "resamples": config.resamples,
        "details": outcome.details,
    }


def _round(value: float) -> float | None:
    return round(value, DIGITS) if np.isfinite(value) else None
