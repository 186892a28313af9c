"""Labelled sequences in batches: shuffle, group by length, strand, tokenize, pad.

Update n is a pure function of (sequences, seed, n), whose number is the whole state of the input.
An epoch reads every sequence once: shuffled, then sorted by their padded length, cut into batches,
and the batches shuffled. So nearly all sequences of a batch have one length, and there are few.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from nucleotide_transformer.data.fasta import turn
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.finetuning.objective import Examples
from nucleotide_transformer.finetuning.segments import UNKNOWN, SegmentedSequences, lay_labels
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.training.devices import Layout
from nucleotide_transformer.types import Int

_MOST_LENGTHS = 8
"""Lengths of batches, for each of which a step is compiled."""
_LENGTH_STEP = 8
"""Lengths are multiples of this."""
_ORDER, _STRANDS = 1, 2
"""Draw different random numbers from one seed."""


def count_tokens(
    data: LabelledSequences, tokenizer: KmerTokenizer, most: int
) -> Int[np.ndarray, " S"]:
    """Tokens of each sequence, `<cls>` included; those of the other strand are as many.

    Raises:
        InputError: for the first sequence that has more than `most`, or a character that is no
            nucleotide.
    """
    sizes = np.empty(len(data), np.int64)
    for index, sequence in enumerate(data.sequences):
        try:
            sizes[index] = tokenizer.encode(sequence).size
        except InputError as error:
            place = f"{data.source}: sequence {data.names[index]!r}"
            raise InputError(f"{place}: {error}") from None
        if sizes[index] > most:
            raise InputError(
                f"{data.source}: sequence {data.names[index]!r}: {len(sequence)} nt are"
                f" {sizes[index]} tokens: the model takes {most} (max_tokens)"
            )
    return sizes


def round_lengths(sizes: Int[np.ndarray, " S"], limit: int | None) -> Int[np.ndarray, " S"]:
    """The padded length of each sequence: few different ones, and as little padding as can be.

    Args:
        sizes: tokens of each.
        limit: of the model's learned positions; None for rotary models.
    """
    step = _LENGTH_STEP
    while len(np.unique(-(-sizes // step))) > _MOST_LENGTHS:
        step *= 2
    rounded = -(-sizes // step) * step
    return rounded if limit is None else np.minimum(rounded, limit)


class Batches:
    """The endless updates of a training set; an iterator with a state."""

    def __init__(
        self,
        data: LabelledSequences,
        labels: np.ndarray,
        weights: np.ndarray,
        *,
        tokenizer: KmerTokenizer,
        lengths: Int[np.ndarray, " S"],
        sequences_per_update: int,
        layout: Layout,
        both_strands: bool,
        seed: int,
    ):
        """Takes the sequences.

        Args:
            data: the training set.
            labels: of each, as the loss takes them.
            weights: of each, in the loss.
            tokenizer: of the model.
            lengths: padded tokens of each.
            sequences_per_update: over all devices and processes.
            layout: how an update lies on them; rows that weigh nothing fill it up.
            both_strands: read a sequence from either strand, with equal chances.
            seed: of the order and the strands.
        """
        self._data, self._labels, self._weights = data, labels, weights
        self._tokenizer, self._lengths = tokenizer, lengths
        self._size, self._layout, self._seed = sequences_per_update, layout, seed
        self._both_strands = both_strands
        self._next = 0
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)  # folds have one each

    def __iter__(self) -> Iterator[Examples]:
        return self

    def __next__(self) -> Examples:
        update, self._next = self._next, self._next + 1
        return self.load(update)

    def get_state(self) -> dict[str, Any]:
        """The number of the next update."""
        return {"next_update": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to an update."""
        self._next = int(state["next_update"])

    def load(self, update: int) -> Examples:
        """This process's rows of an update, blank ones among them."""
        epoch, number = divmod(update, -(-len(self._data) // self._size))
        batches, reversed_ = self._plan(epoch)
        places = batches[number]
        length = int(self._lengths[places].max())
        rows = self._layout.accumulation * self._layout.per_device * self._layout.num_local
        first = jax.process_index() * rows
        return self._take(places[first : first + rows], reversed_, length, rows)

    def _take(
        self, places: Int[np.ndarray, " B"], reversed_: np.ndarray, length: int, rows: int
    ) -> Examples:
        texts = [
            turn(self._data.sequences[place]) if reversed_[place] else self._data.sequences[place]
            for place in places
        ]
        tokens = np.full((rows, length), self._tokenizer.pad_token_id, np.int32)
        tokens[: len(texts)] = self._tokenizer.encode_batch(texts, length=length)
        labels = self._take_labels(places, reversed_, tokens)
        weights = np.zeros(rows, np.float32)
        weights[: len(texts)] = self._weights[places]
        return Examples(tokens, labels, weights)

    def _take_labels(
        self, places: Int[np.ndarray, " B"], reversed_: np.ndarray, tokens: np.ndarray
    ) -> np.ndarray:
        """Labels of the rows of a batch, as the loss takes them."""
        if isinstance(self._data, SegmentedSequences):
            shape = (*tokens.shape, self._tokenizer.k, self._labels.shape[-1])
            labels = np.full(shape, UNKNOWN, self._labels.dtype)
            for row, place in enumerate(places):
                labels[row] = lay_labels(
                    self._labels[place],
                    tokens[row],
                    self._tokenizer,
                    is_reversed=bool(reversed_[place]),
                )
            return labels
        labels = np.zeros((len(tokens), *self._labels.shape[1:]), self._labels.dtype)
        labels[: len(places)] = self._labels[places]
        return labels

    def _make_plan(self, epoch: int) -> tuple[list[Int[np.ndarray, " B"]], np.ndarray]:
        """The batches of an epoch, and which sequences are read from the other strand."""
        rng = np.random.default_rng([self._seed, _ORDER, epoch])
        order = rng.permutation(len(self._data))
        order = order[np.argsort(self._lengths[order], kind="stable")]
        batches = [order[first : first + self._size] for first in range(0, len(order), self._size)]
        rng.shuffle(batches)
        draws = np.random.default_rng([self._seed, _STRANDS, epoch]).random(len(order))
        return batches, (draws < 0.5) & self._both_strands
