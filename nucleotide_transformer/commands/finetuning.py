"""The commands `nt finetune` and `nt predict`."""

from typing import Any

import jax

from nucleotide_transformer.console import INTERRUPTED, say
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.files import drop_nan, write_json
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.folds import cross_validate
from nucleotide_transformer.finetuning.job import check_lengths
from nucleotide_transformer.finetuning.labels import LabelledSequences, read_labelled
from nucleotide_transformer.finetuning.leaks import find_leaks
from nucleotide_transformer.finetuning.predict import score_model
from nucleotide_transformer.finetuning.prediction_files import (
    PredictLabelsConfig,
    check_files,
    predict_file,
)
from nucleotide_transformer.finetuning.run import finetune as run_finetuning
from nucleotide_transformer.finetuning.segments import read_segments
from nucleotide_transformer.pretrained import Model, load_pretrained
from nucleotide_transformer.training.devices import fail_together, find_devices, join_processes

RESULTS = "results.json"
"""Of a run: what the best model gets right, and what was trained."""


def finetune(config: FinetuneConfig) -> int:
    """`nt finetune`."""
    if config.train is None:
        raise InputError("nt finetune: --train: must be given")
    join_processes(distributed=config.distributed)  # first: JAX must not have begun
    find_devices(config.num_devices)
    with fail_together():
        train = read_table(config, "train")
        validation, test = (
            None if getattr(config, name) is None else read_table(config, name, like=train)
            for name in ("validation", "test")
        )
        for data in (validation, test):
            if data is not None:
                tell_leaks(train, data)
        model = load_pretrained(config.model, compute=config.compute)
        check_lengths(model, test, config)  # before the training, not after it
    if config.folds is not None:
        return finetune_folds(model, train, test, config)
    result = run_finetuning(model, train, validation, config)
    if result.model is None:
        say(f"stopped after update {result.step:,}; the same command resumes there")
        return INTERRUPTED
    scores = {"validation": result.metrics}
    counts = {"step": result.step, "best_step": result.best_step, "num_trained": result.num_trained}
    write_results(config, {**counts, **scores})
    if test is not None:
        # In every process: at its end one waits minutes for the others, no longer.
        scores["test"] = score_model(result.model, test, batching=config.inference)
        write_results(config, {**counts, **scores})
    for name, metrics in scores.items():
        words = ", ".join(f"{metric} {value:.3f}" for metric, value in metrics.items())
        say_once(f"{name:10} {words}")
    say_once(f"best after update {result.best_step:,} of {result.step:,}; wrote {result.adapter}")
    return 0


def finetune_folds(
    model: Model, train: LabelledSequences, test: LabelledSequences | None, config: FinetuneConfig
) -> int:
    """`nt finetune --folds N`."""
    scores = cross_validate(model, train, test, config)
    if scores is None:
        say("stopped; the same command resumes there")
        return INTERRUPTED
    summary = scores.summarise()
    write_results(config, {**scores._asdict(), "summary": summary})
    for name, metrics in summary.items():
        words = (f"{m} {v['mean']:.3f} ± {v['two_deviations']:.3f}" for m, v in metrics.items())
        say_once(f"{name:10} {', '.join(words)}")
    say_once(f"means of {config.folds} folds ± two standard deviations; wrote {config.output}")
    return 0


def predict(config: PredictLabelsConfig) -> int:
    """`nt predict`."""
    totals = check_files(config)  # before the model: a typo should not cost a download
    find_devices(None)
    model = load_pretrained(config.model, compute=config.compute, base=config.base)
    say(f"wrote {predict_file(model, config, totals=totals, progress=True)}")
    return 0


def read_table(
    config: FinetuneConfig, name: str, *, like: LabelledSequences | None = None
) -> LabelledSequences:
    """The sequences and labels of `train`, `validation` or `test`.

    Args:
        config: where they are.
        name: which of the three.
        like: the training set, for the others: their classes are those that it has.
    """
    path, bed = getattr(config, name), getattr(config, f"{name}_labels")
    classes = None if like is None else like.classes
    if config.kind == "segmentation":
        return read_segments(path, bed, window=config.window, classes=classes)
    return read_labelled(
        path,
        kind=config.kind,
        sequence_column=config.sequence_column,
        label_column=config.label_column,
        name_column=config.name_column,
        separator=config.separator,
        classes=classes,
    )


def tell_leaks(train: LabelledSequences, other: LabelledSequences) -> None:
    """Says how many sequences of a validation or test set the training set has too."""
    found = find_leaks(train.sequences, other.sequences).count_rows()
    found.pop("train")
    if any(found.values()):
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.items())
        say_once(
            f"note: {other.source}: of {len(other)} sequences {counts} are in {train.source} too"
        )


def say_once(text: str) -> None:
    """Prints a line; the first process does so for all."""
    if jax.process_index() == 0:
        say(text)


def write_results(config: FinetuneConfig, content: dict[str, Any]) -> None:
    """Writes what a run came to, for tables and pictures; the first process does so for all.

    What is not defined, such as the AUROC of one class, is null.
    """
    if jax.process_index() == 0:
        write_json(config.output / RESULTS, drop_nan(content), allow_nan=False)
