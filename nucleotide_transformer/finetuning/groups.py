"""Sequences that are equal on some strand, and are not parted: all are held out, or none is."""

from collections.abc import Sequence

import numpy as np

from nucleotide_transformer.data.fasta import turn
from nucleotide_transformer.errors import InputError, import_extra, require
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.types import Int


def hold_out(
    data: LabelledSequences, share: float, seed: int
) -> tuple[LabelledSequences, LabelledSequences]:
    """A training set cut into one to train with and one to validate with.

    Of each class the same share is held out, rounded, and at least one of two or more, but never
    all. Equal sequences, or reverse complements of each other, are not parted.

    Args:
        data: all that there is.
        share: of the sequences that are held out.
        seed: of the choice.

    Raises:
        InputError: if there are too few.
    """
    rng = np.random.default_rng([seed, len(data)])
    groups, labels, counts = count_groups(data)
    total = counts.sum(axis=0)
    left, held = total.copy(), np.zeros(len(counts), bool)
    for label, size in enumerate(total):
        wanted = max(round(share * size), int(size > 1))
        for group in groups[rng.permutation(np.flatnonzero(labels == label))]:
            if size - left[label] >= wanted:
                break
            own = counts[group]
            if not held[group] and (left > own)[own > 0].all():
                held[group] = True
                left -= own
    if not held.any():
        rule = "too few different ones to hold some out"
        raise InputError(f"{data.source}: {len(data)} sequences: {rule}")
    is_held = held[groups]
    return data.take(np.flatnonzero(~is_held)), data.take(np.flatnonzero(is_held))


def group_equal(sequences: Sequence[str]) -> Int[np.ndarray, " S"]:
    """A number for each sequence, the same for those that are equal on some strand."""
    known: dict[str, int] = {}
    groups = [known.setdefault(min(text, turn(text)), len(known)) for text in sequences]
    return np.array(groups, np.int64)


def count_groups(
    data: LabelledSequences,
) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"], Int[np.ndarray, "G C"]]:
    """Group and class of each sequence, and how many each group has of each class.

    Where the labels are no classes, all are of class 0.
    """
    is_class = data.kind == "classification"
    groups = group_equal(data.sequences)
    labels = np.asarray(data.labels) if is_class else np.zeros(len(data), np.int64)
    counts = np.zeros((groups.max(initial=-1) + 1, len(data.classes) if is_class else 1), np.int64)
    np.add.at(counts, (groups, labels), 1)
    return groups, labels, counts


def part_groups(
    data: LabelledSequences, num_folds: int, seed: int
) -> list[tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]]]:
    """Rows to train on and rows that are held out, for each fold, with equal shares of each class.

    Equal sequences, or reverse complements of each other, are on one side.

    Raises:
        InputError: if there is but one class to train on in a fold, or an extra is missing.
    """
    selection = import_extra("sklearn.model_selection", "analysis", "to cross-validate")
    groups, labels, counts = count_groups(data)
    parts = selection.StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    folds = list(parts.split(labels, labels, groups))
    enough = data.kind != "classification" or all(np.ptp(labels[rows]) > 0 for rows, _ in folds)
    rule = "too few to cross-validate with copies, of several classes, on one side"
    require(enough, f"{data.source}: different sequences", len(counts), rule)
    return folds
