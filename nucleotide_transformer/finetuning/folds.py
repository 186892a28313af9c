"""Cross-validation: a run for each part of the training set, all measured on one test set."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.finetuning.batches import group_equal
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.finetuning.predict import score_model
from nucleotide_transformer.finetuning.run import finetune
from nucleotide_transformer.inference.sequence_io import import_extra
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Int


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

    The runs are in `config.output`/fold-0 and so on; called again, the function resumes the one
    that was stopped. Each uses all devices.

    Args:
        model: to start from, every time.
        train: what is cut into parts.
        test: what all runs are measured on.
        config: of every run, but for its output.
        show: print the plans and progress.

    Returns:
        The scores; None if a run was stopped.

    Raises:
        InputError: as `finetune` does, and for more folds than a class has sequences.
    """
    require(config.folds is not None, "folds", config.folds, "must be given")
    scores = FoldScores([], [])
    for number, held in enumerate(part_folds(train, config.folds or 2, config.seed)):
        rest = np.setdiff1d(np.arange(len(train)), held)
        fold = dataclasses.replace(config, output=name_fold(config.output, number), folds=None)
        result = finetune(model, train.take(rest), train.take(held), fold, show=show)
        if result.model is None:
            return None
        scores.validation.append(result.metrics)
        if test is not None:
            scores.test.append(score_model(result.model, test, batching=config.batching))
    return scores


def name_fold(output: Path, number: int) -> Path:
    """The folder of a fold's run."""
    return output / f"fold-{number}"


def part_folds(data: LabelledSequences, num_folds: int, seed: int) -> list[Int[np.ndarray, " N"]]:
    """The places of each part: equally many, with equal shares of each class, as far as can be.

    Equal sequences, or reverse complements of each other, are in one part.

    Raises:
        InputError: if a class, or the set, has fewer sequences than there are folds.
    """
    selection = import_extra("sklearn.model_selection", "analysis", "to cross-validate")
    groups = group_equal(data.sequences)
    is_class = data.kind == "classification"
    labels = np.asarray(data.labels) if is_class else np.zeros(len(data), np.int64)
    rarest = int(np.bincount(labels, minlength=len(data.classes) if is_class else 1).min())
    if min(rarest, len(np.unique(groups))) < num_folds:
        what = "the rarest class has" if is_class else "there are"
        raise InputError(f"{data.source}: folds = {num_folds}: {what} {rarest} sequences")
    parts = selection.StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    return [held for _, held in parts.split(np.zeros(len(data)), labels, groups)]
