"""Cross-validation: a run for each part of the training set, all measured on one test set."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import jax
import numpy as np

from nucleotide_transformer.bars import show_steps
from nucleotide_transformer.configfile import check_config
from nucleotide_transformer.errors import InputError, OutputExistsError, require
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.groups import count_groups, part_groups
from nucleotide_transformer.finetuning.job import check_lengths, make_job
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.finetuning.predict import score_model
from nucleotide_transformer.finetuning.run import train_job
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.training.devices import (
    agree_on_any,
    fail_together,
    find_devices,
    join_processes,
)
from nucleotide_transformer.training.loop import catch_signals
from nucleotide_transformer.types import Int
from nucleotide_transformer.weights.runs import is_run


class FoldScores(NamedTuple):
    """The metrics of each fold's best model."""

    validation: list[dict[str, float]]
    """On the part that was held out."""
    test: list[dict[str, float]]
    """On the test set; empty without one."""

    def summarise(self) -> dict[str, dict[str, dict[str, float]]]:
        """Set -> metric -> mean over the folds, and two standard deviations (of a sample)."""
        return {
            name: {
                metric: {
                    "mean": float(np.mean([fold[metric] for fold in folds])),
                    "two_deviations": 2 * float(np.std([f[metric] for f in folds], ddof=1)),
                }
                for metric in folds[0]
            }
            for name, folds in self._asdict().items()
            if folds
        }


def cross_validate(
    model: Model,
    train: LabelledSequences,
    test: LabelledSequences | None,
    config: FinetuneConfig,
    *,
    show: bool = True,
) -> FoldScores | None:
    """Fine-tunes once for each of `config.folds` parts, which validates that run.

    The runs are in `config.output`/fold-0 and so on; called again, the function resumes those that
    were stopped. As many go side by side as there are devices, each on its share of them; several
    processes (`config.distributed`) take one after the other, together.

    Args:
        model: to start from, every time.
        train: what is cut into parts.
        test: what all runs are measured on.
        config: of every run, but for its output.
        show: print the plans and progress, or a bar of finished folds where several run at once.

    Returns:
        The scores; None if a run was stopped.

    Raises:
        InputError: as `finetune` does, for more folds than a class has sequences, for a test
            sequence that is too long, and for a folder that holds a run.
    """
    config = check_config(config)
    require(config.folds is not None, "folds", config.folds, "must be given")
    join_processes(distributed=config.distributed)
    rule = "holds a run of its own, whose results the folds' would replace: give another folder"
    with fail_together():
        if is_run(config.output):
            raise OutputExistsError(f"{config.output}: {rule}")
        parts = part_folds(train, config.folds or 2, config.seed)
        check_lengths(model, test, config)
    groups = share_devices(find_devices(config.num_devices), len(parts))
    alone = len(groups) == 1
    with (
        catch_signals(show=show) as stop,
        show_steps(show and not alone) as steps,
        ThreadPoolExecutor(len(groups)) as pool,
    ):
        lanes = Lanes(groups, stop)
        advance = steps(f"folds, {len(groups)} side by side", len(parts))

        def run(number: int) -> tuple[dict[str, float], dict[str, float]] | None:
            rest = np.setdiff1d(np.arange(len(train)), parts[number])
            fold = dataclasses.replace(config, output=name_fold(config.output, number), folds=None)
            sets = (train.take(rest), train.take(parts[number]), test)
            scores = run_fold(model, sets, fold, lanes, show=show and alone)
            if scores is not None:
                advance()
            return scores

        found = list((map if alone else pool.map)(run, range(len(parts))))
    finished = [scores for scores in found if scores is not None]
    if len(finished) < len(parts):
        return None
    tests = [] if test is None else [of_test for _, of_test in finished]
    return FoldScores([validation for validation, _ in finished], tests)


class Lanes:
    """Groups of devices, each for one run at a time, and the word that stops them all."""

    def __init__(self, groups: list[list[jax.Device]], stop: threading.Event):
        """Notes the groups, and the event that says that all runs are to save and end."""
        self.stop, self.scoring = stop, threading.Lock()
        self._free = SimpleQueue[list[jax.Device]]()
        for group in groups:
            self._free.put(group)

    @contextlib.contextmanager
    def take(self) -> Iterator[list[jax.Device]]:
        """A free group, as soon as there is one; a failure inside stops the other runs."""
        group = self._free.get()
        try:
            yield group
        except BaseException:
            self.stop.set()
            raise
        finally:
            self._free.put(group)


def run_fold(
    model: Model,
    sets: tuple[LabelledSequences, LabelledSequences, LabelledSequences | None],
    config: FinetuneConfig,
    lanes: Lanes,
    *,
    show: bool,
) -> tuple[dict[str, float], dict[str, float]] | None:
    """One fold's metrics on its validation set and on the test set; None if it was stopped.

    Args:
        model: to start from.
        sets: to train on, to validate with, and to test on.
        config: of the run.
        lanes: where a free group of devices is found.
        show: print the plan and progress.
    """
    train, validation, test = sets
    with lanes.take() as devices:
        if agree_on_any(lanes.stop.is_set()):
            return None
        job = make_job(model, train, validation, config, devices)
        result = train_job(job, lanes.stop, show=show)
        if result.model is None:
            return None
        with lanes.scoring:  # it may take devices of others
            batching = config.inference
            of_test = {} if test is None else score_model(result.model, test, batching=batching)
    return result.metrics, of_test


def share_devices(devices: list[jax.Device], num_folds: int) -> list[list[jax.Device]]:
    """The devices of each of the runs that go side by side: equally many, the rest idle.

    One run has them all where several processes train together: each of them takes its part in
    every run, and all must take the same one.
    """
    if jax.process_count() > 1:
        return [devices]
    lanes = min(len(devices), num_folds)
    size = len(devices) // lanes
    return [devices[i * size : (i + 1) * size] for i in range(lanes)]


def name_fold(output: Path, number: int) -> Path:
    """The folder of a fold's run."""
    return output / f"fold-{number}"


def part_folds(data: LabelledSequences, num_folds: int, seed: int) -> list[Int[np.ndarray, " N"]]:
    """The places of each part: equally many, with equal shares of each class, as far as can be.

    Equal sequences, or reverse complements of each other, are in one part.

    Raises:
        InputError: if a class, or the set, has fewer different sequences than there are folds, or
            there is but one class without a part.
    """
    _, _, counts = count_groups(data)
    rarest = int(np.count_nonzero(counts, axis=0).min())
    if rarest < num_folds:
        what = "the rarest class has" if data.kind == "classification" else "there are"
        rule = f"{what} {rarest} different sequences"
        raise InputError(f"{data.source}: folds = {num_folds}: {rule}")
    return [held for _, held in part_groups(data, num_folds, seed)]
