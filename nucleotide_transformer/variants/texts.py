"""Stretches of DNA, both strands, and the rows of tokens that show a model one k-mer of them.

A row shows a k-mer in the middle of a window: `<cls>`, k-mers before it, the k-mer, k-mers after
it, all in its reading frame, the same number on both sides (of an even number one more before it).
Near the end of a contig the window is moved inwards by whole tokens. So the row of a k-mer depends
on the k-mer's place and strand alone: whatever asks for it, and with whatever else, gets the same
tokens. Of a k-mer of the window with an N, every letter is a token of its own; there are as many
tokens as without.

Coordinates along the minus strand are those of the reverse complement, from its own start.
"""

from typing import Any, NamedTuple

import numpy as np

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.tokenizers import UNKNOWN, encode_letters, number_kmers
from nucleotide_transformer.types import Bool, Int, UInt8

LETTERS = b"ATCG"
"""In the order of the vocabulary; the complement of letter i is letter i ^ 1."""


class Rows(NamedTuple):
    """Rows of tokens; padded at the end where a contig is shorter than a window."""

    tokens: Int[np.ndarray, "N T"]
    """Ids, `<cls>` first."""
    places: Int[np.ndarray, "N T"]
    """Where in the texts each token begins; -1 for `<cls>`, padding."""
    centres: Int[np.ndarray, " N"]
    """Index of the k-mer that the row was made for."""


class Text(NamedTuple):
    """A stretch of DNA among the texts, by where its strands begin."""

    plus: int
    minus: int
    size: int
    """Nucleotides."""


class Texts:
    """Texts in a row, and all their k-mers. Add what is needed, then ask for rows.

    A place is an index over all texts: `text.plus + i` is nucleotide i of a text's plus strand.
    """

    def __init__(self, config: ModelConfig, num_kmers: int) -> None:
        """Takes the model's vocabulary, and the k-mers of a window."""
        self._config, self._k, self._num_kmers = config, config.k, num_kmers
        self._codes: list[np.ndarray] = []
        self._bounds = [0]
        self._joined = np.zeros(0, np.uint8)
        self._kmers = np.zeros(0, np.int32)

    def add(self, letters: bytes) -> Text:
        """Adds a text, A, C, G, T and N, on both strands.

        It must reach a window's length beyond every k-mer that is asked for, or to the end of the
        contig.
        """
        codes = encode_letters(letters)
        other = np.where(codes < UNKNOWN, codes ^ 1, codes)[::-1]
        plus = self._bounds[-1]
        minus = plus + len(letters)
        self._codes += [codes, other]
        self._bounds += [minus, minus + len(letters)]
        return Text(plus, minus, len(letters))

    @property
    def codes(self) -> UInt8[np.ndarray, " N"]:
        """All letters as numbers of `LETTERS`, N as 4."""
        self._join()
        return self._joined

    @property
    def kmers(self) -> Int[np.ndarray, " N"]:
        """The number of the k-mer that begins at each letter, -1 where there is none."""
        self._join()
        return self._kmers

    def _join(self) -> None:
        if self._joined.size != self._bounds[-1]:
            self._joined = np.concatenate(self._codes)
            self._kmers = _number_kmers(self._joined, self._k)

    def is_kmer(
        self, firsts: Int[np.ndarray, "..."], places: Int[np.ndarray, "..."], sizes: Any
    ) -> Bool[np.ndarray, "..."]:
        """Whether k known letters begin at a place, all of one strand.

        Args:
            firsts: where the strand begins.
            places: may lie outside of it.
            sizes: nucleotides of the strand.
        """
        inside = (places >= firsts) & (places + self._k <= firsts + sizes)
        return inside & (self.kmers[np.where(inside, places, 0)] >= 0)

    def make_rows(self, places: Int[np.ndarray, " N"]) -> Rows:
        """The rows of the k-mers at some places."""
        k, width = self._k, self._num_kmers
        codes, bounds = self.codes, np.array(self._bounds)
        text = np.searchsorted(bounds, places, side="right") - 1
        before = (places - bounds[text]) // k
        after = (bounds[text + 1] - places - k) // k
        left, right = _fit(before, after, width)
        first = places - k * left
        columns = np.arange(width)
        starts = first[:, None] + k * columns
        is_there = columns < (left + right + 1)[:, None]
        kmers = self.kmers[np.where(is_there, starts, 0)]
        ids = np.where(is_there, kmers + self._config.first_kmer_id, self._config.pad_token_id)
        starts = np.where(is_there, starts, -1)
        for row in np.flatnonzero((is_there & (kmers < 0)).any(axis=1)):
            ids[row], starts[row], left[row] = self._spell_row(
                int(places[row]), int(bounds[text[row]]), int(bounds[text[row] + 1]), codes
            )
        cls = np.full((len(places), 1), self._config.cls_token_id)
        none = np.full((len(places), 1), -1)
        return Rows(
            np.concatenate([cls, ids], axis=1).astype(np.int32),
            np.concatenate([none, starts], axis=1),
            left + 1,
        )

    def _spell_row(
        self, place: int, low: int, high: int, codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Ids and places of a row whose window has an N, and the k-mers before its own."""
        k, width = self._k, self._num_kmers
        single = self._config.first_letter_id

        def spell(start: int) -> list[tuple[int, int]]:
            if self._kmers[start] >= 0:
                return [(int(self._kmers[start]) + self._config.first_kmer_id, start)]
            return [(single + int(codes[i]), i) for i in range(start, start + k)]

        before: list[tuple[int, int]] = []
        start = place - k
        while start >= low and len(before) < width:
            before[:0] = spell(start)
            start -= k
        after: list[tuple[int, int]] = []
        start = place + k
        while start + k <= high and len(after) < width:
            after += spell(start)
            start += k
        left, right = (int(n) for n in _fit(len(before), len(after), width))
        row = [*before[len(before) - left :], *spell(place), *after[:right]]
        row += [(self._config.pad_token_id, -1)] * (width - len(row))
        ids, starts = np.array(row[:width]).T  # longer if its own token is no k-mer
        return ids, starts, left


def _fit(before: Any, after: Any, width: int) -> tuple[Any, Any]:
    """How many tokens of those there are a window takes before its own token, and after it."""
    wanted = width // 2
    left = np.minimum(wanted, before)
    right = np.minimum(width - 1 - left, after)
    return np.minimum(width - 1 - right, before), right


def _number_kmers(codes: np.ndarray, k: int) -> Int[np.ndarray, " N"]:
    """The number of the k-mer that begins at each letter; -1 where one of its letters is N.

    A k-mer may reach into the next text: nobody asks for it, as it is beyond the end of its own.
    """
    numbers = number_kmers(codes, k).astype(np.int32)
    return np.pad(numbers, (0, codes.size - numbers.size), constant_values=-1)
