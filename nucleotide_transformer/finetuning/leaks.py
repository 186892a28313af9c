"""Test sequences that the training set has too: the same, from the other strand, or nearly so.

Two sequences are nearly the same if the words of `WORD` nucleotides that both have, on either
strand, could be one common stretch of at least half of the shorter one. (A stretch of n nucleotides
has n - WORD + 1 words.) So two probes of a chromosome that overlap by half are found, and so are
sequences of one length that differ in 1 nucleotide of 30, spread evenly. Words of 14 are long
enough that two sequences hardly share one by chance, and short enough to lie between differences.
Each word counts once: a repeat of two letters is no common stretch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from nucleotide_transformer.data.fasta import turn
from nucleotide_transformer.finetuning.kmer_counts import number_words
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.types import Bool, Int, UInt

WORD = 14
"""Nucleotides of a word."""
SHARED = 0.5
"""Share of the shorter sequence that two nearly equal ones have in common, at least."""
_ROWS_AT_ONCE = 512


class Leaks(NamedTuple):
    """Rows of a test set that have a relative in the training set; each is in one list only."""

    identical: Int[np.ndarray, " N"]
    reverse_complement: Int[np.ndarray, " N"]
    """Equal to the other strand of a training sequence."""
    near: Int[np.ndarray, " N"]
    """Nearly equal to one, on either strand."""
    train: Int[np.ndarray, " N"]
    """Rows of the training set that are relatives of any of these."""

    def count_rows(self) -> dict[str, int]:
        """Kind of leak -> test rows; `train` -> training rows."""
        return {name: len(rows) for name, rows in self._asdict().items()}


def find_leaks(train: Sequence[str], test: Sequence[str]) -> Leaks:
    """Finds the test sequences that a training set has too.

    30,000 training and 6,000 test sequences of 300 nt take about 15 seconds.

    Args:
        train: sequences in upper case; words with another letter than A, C, G, T don't count.
        test: the same.
    """
    others = [turn(text) for text in test]
    known = set(train)
    identical = np.array([text in known for text in test], bool)
    reversed_ = np.array([text in known for text in others], bool) & ~identical
    near_test, near_train = _find_near(train, test)
    seen = set(test) | set(others)
    is_copy = np.array([text in seen for text in train], bool)
    near = near_test & ~identical & ~reversed_
    rows = (identical, reversed_, near, near_train | is_copy)
    return Leaks(*map(np.flatnonzero, rows))


def drop_leaks(train: LabelledSequences, leaks: Leaks) -> LabelledSequences:
    """The training set without the relatives of test sequences."""
    return train.take(np.setdiff1d(np.arange(len(train)), leaks.train))


def describe_leaks(counts: dict[str, int], num_test: int) -> str:
    """What `Leaks.count_rows` says, in words."""
    return (
        f"of {num_test:,} test sequences, the training set has {counts['identical']:,} too,"
        f" {counts['reverse_complement']:,} as reverse complement, {counts['near']:,} nearly"
    )


def _find_near(
    train: Sequence[str], test: Sequence[str]
) -> tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " M"]]:
    """Which test and which training rows have a near relative in the other set."""
    of_train, of_test = _list_words(train), _list_words(test)
    common = np.intersect1d(of_train.words, of_test.words)
    right = _make_table(of_train, common, len(train)).T.tocsr()
    left = _make_table(of_test, common, len(test))
    sizes = [np.array([_count_known(text) for text in texts], np.int64) for texts in (train, test)]
    near_test, near_train = np.zeros(len(test), bool), np.zeros(len(train), bool)
    for start in range(0, len(test), _ROWS_AT_ONCE):
        shared = (left[start : start + _ROWS_AT_ONCE] @ right).tocoo()
        rows, columns = shared.row + start, shared.col
        shorter = np.minimum(sizes[1][rows], sizes[0][columns])
        is_near = shared.data + WORD - 1 >= SHARED * shorter
        near_test[rows[is_near]] = True
        near_train[columns[is_near]] = True
    return near_test, near_train


def _count_known(sequence: str) -> int:
    """Letters but N, of which no word has any: tables pad sequences with it."""
    return len(sequence) - sequence.count("N")


class _Words(NamedTuple):
    """The words of all sequences, each once a sequence."""

    rows: Int[np.ndarray, " W"]
    words: UInt[np.ndarray, " W"]


def _list_words(sequences: Sequence[str]) -> _Words:
    """The words of every sequence: of a word and its reverse complement the smaller number."""
    rows, words = [], []
    for row, text in enumerate(sequences):
        found = np.unique(number_words(text, WORD))
        words.append(found)
        rows.append(np.full(len(found), row, np.int64))
    empty = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    return _Words(np.concatenate(rows or empty[0]), np.concatenate(words or empty[1]))


def _make_table(words: _Words, common: UInt[np.ndarray, " W"], num_rows: int) -> sparse.csr_matrix:
    """A row a sequence, a column a common word: 1 where the sequence has it."""
    columns = np.searchsorted(common, words.words)
    columns = np.minimum(columns, max(len(common) - 1, 0))
    kept = common[columns] == words.words if len(common) else np.zeros(len(columns), bool)
    place = (words.rows[kept], columns[kept])
    ones = np.ones(len(place[0]), np.int32)
    return sparse.csr_matrix((ones, place), (num_rows, len(common)))
