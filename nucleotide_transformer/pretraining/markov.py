"""Markov chains over nucleotides: fitted by counting, asked for hidden words from both sides.

A nucleotide is 0 to 3 for A, T, C, G, the order of the tokenizer's ids, and 4, `UNKNOWN`, for what
is not known: N, special tokens, hidden tokens. A word of several is the number that they spell in
base 4, the first one most significant.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.tokenizers import UNKNOWN, reverse_words, roll_words
from nucleotide_transformer.types import Float, Int, UInt, UInt8

MAX_ORDER = 12
"""The tables of all orders to 12 take 360 MB. Those to 13, 1.4 GB, are worth 0.007 to 0.018 nats
for masked 6-mers of held-out DNA, with the five genomes of the repository."""
PRIOR_COUNT = 512.0
"""Weight of the next lower order, in counts: see `fit_chains`."""

_LETTERS_AT_ONCE = 1 << 17
_ROWS_AT_ONCE = 64
"""Of a table that is transposed: a cache line of its rows."""
_WORDS_AT_ONCE = 64
"""Hidden words scored together: their 4**6 candidates stay in the cache of a core."""


class MarkovChains(NamedTuple):
    """Chains of order 0 to n, fitted to the same counts."""

    log_probs: tuple[Float[np.ndarray, " _"], ...]
    """For order q float32 [4**(q + 1)]: log p(last letter | the q letters before) of each word."""


class Contexts(NamedTuple):
    """What is known on both sides of each of B hidden words, up to `MAX_ORDER` letters."""

    before: Int[np.ndarray, " B"]
    """The word of the MAX_ORDER letters before, of which only the last num_before are known."""
    num_before: Int[np.ndarray, " B"]
    after: Int[np.ndarray, " B"]
    """The word of the MAX_ORDER letters after, of which only the first num_after are known."""
    num_after: Int[np.ndarray, " B"]


class WordCounter:
    """Counts how often each word without an unknown letter occurs.

    Of less than 2**31 letters in all: a count is an int32, so that the table is small. Texts are
    taken in blocks that stay in a core's cache; what takes the time are the steps from count to
    count, all over the table.
    """

    def __init__(self, length: int) -> None:
        """Counts words of `length` letters, up to 15."""
        self._length = length
        # The last one is for words with an unknown letter.
        self._counts = np.zeros(4**length + 1, np.int32)
        self._num_letters = 0

    def add(self, codes: UInt8[np.ndarray, " N"]) -> None:
        """Counts the words of a text."""
        self._num_letters += len(codes)
        assert self._num_letters < 2**31, "a count may overflow"
        length = self._length
        for first in range(0, len(codes) - length + 1, _LETTERS_AT_ONCE):
            block = codes[first : first + _LETTERS_AT_ONCE + length - 1]
            words = roll_words(block & 3, length, np.int32).astype(np.intp)
            unknown = np.flatnonzero(block == UNKNOWN)[:, None] - np.arange(length)
            words[unknown[(unknown >= 0) & (unknown < len(words))]] = 4**length
            np.add.at(self._counts, words, np.int32(1))

    @property
    def counts(self) -> Int[np.ndarray, " C"]:
        """int32 [4**length]."""
        return self._counts[:-1]


def add_reverse_complements(
    counts: Int[np.ndarray, " C"] | UInt[np.ndarray, " C"],
) -> Int[np.ndarray, " C"] | UInt[np.ndarray, " C"]:
    """Counts of words on both strands, from those on one: DNA is read from either end."""
    num_letters = (len(counts).bit_length() - 1) // 2
    first, last = num_letters // 2, num_letters - num_letters // 2
    # A and T, C and G differ in one bit.
    complements_of_first = reverse_words(np.arange(4**first), first, flip=1)
    complements_of_last = reverse_words(np.arange(4**last), last, flip=1)
    table = counts.reshape(4**first, 4**last)
    both = counts.astype(np.promote_types(counts.dtype, np.uint32)).reshape(4**last, 4**first)
    for start in range(0, 4**last, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        both[complements_of_last[rows]] += table[:, rows].T[:, complements_of_first]
    return both.ravel()


def fit_chains(
    counts: Int[np.ndarray, " C"] | UInt[np.ndarray, " C"], prior_count: float = PRIOR_COUNT
) -> MarkovChains:
    """Fits the chains of all orders below the length of the counted words.

    The counts of shorter words are sums over the first letter. Each order is smoothed with the
    next lower one, and order 0 with uniform letters, of which `prior_count` = a more are counted:

        p_q(x | context) = (n(context, x) + a p_{q-1}(x | context')) / (n(context) + a)

    where context' lacks the first letter: the posterior mean under a Dirichlet prior around the
    lower order. The default is measured: of 1, 4, 16, 64, 256, 512, 1,024 and 4,096 it gives the
    lowest cross-entropy for masked 6-mers of held-out DNA, with the five genomes of the repository
    (order 11, one strand: 7.785 nats; 9.00 with 4, 7.809 with 4,096).

    Args:
        counts: of all words of one length.
        prior_count: a.
    """
    counts_of_orders = [counts]
    while len(counts_of_orders[-1]) > 4:
        shorter = counts_of_orders[-1].reshape(4, -1).sum(axis=0, dtype=np.int64)
        counts_of_orders.append(shorter)
    lower = np.full((1, 4), 0.25, np.float32)
    log_probs = []
    for words in reversed(counts_of_orders):
        probs = np.empty((len(words) // lower.size, *lower.shape), np.float32)
        # One first letter after the other: the tables of the highest order are large.
        for letter, part in enumerate(words.reshape(probs.shape)):
            known = part.astype(np.float32)
            np.add(known, prior_count * lower, out=probs[letter])
            probs[letter] /= known.sum(axis=1, keepdims=True) + prior_count
        lower = probs.reshape(-1, 4)
        log_probs.append(np.log(lower).ravel())
    return MarkovChains(tuple(log_probs))


def find_contexts(
    codes: UInt8[np.ndarray, " N"], starts: Int[np.ndarray, " B"], ends: Int[np.ndarray, " B"]
) -> Contexts:
    """What is known around the words at [start, end), up to the nearest unknown letter.

    The letters of every hidden word must be `UNKNOWN` already: no context then looks past another
    hidden word, or into one.
    """
    edge = np.full(MAX_ORDER + 1, UNKNOWN, np.uint8)
    padded = np.concatenate([edge, codes, edge])
    words = roll_words(padded & 3, MAX_ORDER, np.int32)  # unknown as A
    places = np.arange(len(padded))
    unknown = padded == UNKNOWN
    last = np.maximum.accumulate(np.where(unknown, places, 0))
    following = np.minimum.accumulate(np.where(unknown, places, len(padded))[::-1])[::-1]
    starts, ends = starts + len(edge), ends + len(edge)
    return Contexts(
        before=words[starts - MAX_ORDER],
        num_before=np.minimum(starts - 1 - last[starts - 1], MAX_ORDER),
        after=words[ends],
        num_after=np.minimum(following[ends] - ends, MAX_ORDER),
    )


def iterate_batches(
    contexts: Contexts, order: int
) -> Iterator[tuple[Int[np.ndarray, " b"], Contexts]]:
    """Batches of contexts that know the same numbers of letters, as far as an order looks.

    Yields:
        Places of the batch's contexts, and the contexts.
    """
    num_before = np.minimum(contexts.num_before, order)
    num_after = np.minimum(contexts.num_after, order)
    kinds = num_before * (MAX_ORDER + 1) + num_after
    for kind in np.unique(kinds):
        places = np.flatnonzero(kinds == kind)
        for first in range(0, len(places), _WORDS_AT_ONCE):
            some = places[first : first + _WORDS_AT_ONCE]
            yield (
                some,
                Contexts(
                    contexts.before[some], num_before[some], contexts.after[some], num_after[some]
                ),
            )


def score_words(
    chains: MarkovChains, order: int, length: int, contexts: Contexts
) -> Float[np.ndarray, "b C"]:
    """Log probability of every word of `length` letters together with the known letters after it.

    The product of the chain's transitions from the first hidden letter to the last known one, or
    the order-th, after the word: later ones do not depend on it. Where fewer letters than the
    order are known before a letter, the chain of the lower order takes its place.

    Args:
        chains: fitted chains.
        order: 0 to the highest of the chains.
        length: letters of the hidden words.
        contexts: of one batch of `iterate_batches` for this order or a higher one.

    Returns:
        float32 [b, 4**length], not normalised over the words.
    """
    num_before = min(order, int(contexts.num_before[0]))
    num_after = min(order, int(contexts.num_after[0]))
    size = len(contexts.before)
    scores = np.zeros((size, 1), np.float32)
    for known in range(length):
        look = min(order, num_before + known)
        inside = min(known, look)
        before = contexts.before & (4 ** (look - inside) - 1)
        rows = chains.log_probs[look].reshape(-1, 1, 4**inside, 4)[before]
        scores = (scores.reshape(size, -1, 4**inside, 1) + rows).reshape(size, -1)
    tail = np.zeros((size, 1), np.float32)
    for known in reversed(range(num_after)):
        look = min(order, num_before + length + known)
        inside = min(length, look - known)
        before = contexts.before & (4 ** (look - known - inside) - 1)
        after = contexts.after >> 2 * (MAX_ORDER - known - 1)
        table = chains.log_probs[look].reshape(-1, 4**inside, 4 ** (known + 1))
        rows = table[before, :, after]
        tail = (tail[:, None, :] + rows.reshape(size, -1, tail.shape[1])).reshape(size, -1)
    return (scores.reshape(size, -1, tail.shape[1]) + tail[:, None, :]).reshape(size, -1)
