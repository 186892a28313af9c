"""Counts of k-mers, and logistic regression on them: what a network has to beat."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from nucleotide_transformer.errors import require
from nucleotide_transformer.finetuning.estimators import Fitted, fit_estimator
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.tokenizers import roll_words
from nucleotide_transformer.types import UInt

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Values of scikit-learn's `C` for rows of length 1."""


def fit_kmers(train: LabelledSequences, k: int, *, stranded: bool, seed: int = 0) -> Fitted:
    """Logistic regression (ridge for numbers) on the k-mer counts of a training set.

    Its strength is chosen by cross-validation among `STRENGTHS`. Predict with what `count_kmers`
    gives for the same k and strands.
    """
    features = count_kmers(train.sequences, k, stranded=stranded)
    return fit_estimator(features, train, strengths=STRENGTHS, standardise=False, seed=seed)


def count_kmers(sequences: Sequence[str], k: int, *, stranded: bool) -> sparse.csr_matrix:
    """How often each k-mer is in each sequence, at any place; each row is scaled to length 1.

    Args:
        sequences: in upper case; k-mers with another letter than A, C, G, T don't count.
        k: letters of a k-mer, 1 to 8.
        stranded: False to count both strands: a k-mer and its reverse complement are one.

    Returns:
        float32 [S, 4**k]; without strands, the columns of the larger of each pair are empty.
    """
    require(1 <= k <= 8, "k", k, "must lie between 1 and 8")
    found = [number_words(text, k, stranded=stranded).astype(np.int64) for text in sequences]
    rows = np.repeat(np.arange(len(found)), [len(words) for words in found])
    columns = np.concatenate(found) if found else np.zeros(0, np.int64)
    ones = np.ones(len(rows), np.float32)
    counts = sparse.csr_matrix((ones, (rows, columns)), (len(found), 4**k))  # sums what is there
    squares = np.asarray(counts.multiply(counts).sum(axis=1)).ravel()
    scale = 1 / np.sqrt(np.maximum(squares, 1))
    return sparse.csr_matrix(sparse.diags(scale.astype(np.float32)) @ counts)


def number_words(sequence: str, size: int, *, stranded: bool = False) -> UInt[np.ndarray, " W"]:
    """The words at every place, as numbers.

    Args:
        sequence: words with another letter than A, C, G, T are left out.
        size: letters of a word, at most 31.
        stranded: False to take, of a word and its reverse complement, the smaller number.
    """
    codes = _CODES[np.frombuffer(sequence.encode(), np.uint8)]
    forward = roll_words(codes & 3, size, np.uint64)
    backward = roll_words(~codes[::-1] & 3, size, np.uint64)[::-1]
    unknown = np.concatenate([[0], np.cumsum(codes > 3)])
    is_known = unknown[size:] == unknown[:-size]
    return (forward if stranded else np.minimum(forward, backward))[is_known]


def _make_codes() -> UInt[np.ndarray, "256"]:
    """A, C, G, T to 0 to 3, so that the complement of n is 3 - n; anything else to 4."""
    codes = np.full(256, 4, np.uint8)
    codes[list(b"ACGT")] = np.arange(4)
    return codes


_CODES = _make_codes()
