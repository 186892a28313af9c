"""Probabilities per nucleotide from a model of k-mers.

How: the k reading frames of a sequence are tokenized one by one. In each, the distribution over
k-mers at a token is marginalised to each of its k nucleotides, and the k frames are averaged:

    p(x_i = b) = mean over frames f of  sum over k-mers w with w[i - start_f(i)] = b of  p_f(w),

where start_f(i) is the first nucleotide of the token that holds nucleotide i in frame f, and p_f is
the softmax of the logits at that token over the 4**k k-mers alone: it is known that a k-mer is
there, and no special token.

The frames: in frame f, every run of A, C, G and T gives its first f letters one token each; k-mers
follow, and what is left at the end of the run is one token a letter again. These single letters are
context for the other tokens. Their own distributions are used only in runs shorter than k, where
no frame has a k-mer: in all other runs every nucleotide lies in a k-mer in at least one frame, and
the mean goes over the frames in which it does. The first and the last k - 1 nucleotides of a run
have fewer such frames.

Fewer frames: k frames take k times the passes of one, and bring little. On the small model of
`make pretrain`, 15 sequences of 300 nucleotides, hidden nucleotides cost 1.334 nats with six frames
and 1.337 with the first alone; the standard error over sequences is 0.015. With fewer than k frames
the nucleotides at the end of a run that no k-mer holds have the distribution of a single letter.
"""

import collections
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.errors import require
from nucleotide_transformer.inference.batching import (
    BatchConfig,
    ModelTask,
    Row,
    encode_sequences,
    resolve_windows,
    run_rows,
)
from nucleotide_transformer.inference.likelihoods import LogitsTask, hide_in_turn, mask_and_score
from nucleotide_transformer.inference.windows import WindowSize, find_windows
from nucleotide_transformer.model.stacking import AnyParams
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer, Nucleotides
from nucleotide_transformer.types import Array, Bool, Float, Int

NUCLEOTIDES = "ACGT"
"""Order of the columns of `nucleotide_probabilities`."""
TO_ACGT = np.array([0, 2, 3, 1])
"""Columns A, T, C, G of the vocabulary in that order."""


def nucleotide_probabilities(
    model: Model,
    sequence: Nucleotides,
    *,
    masked: bool = True,
    frames: int | None = None,
    batching: BatchConfig = BatchConfig(),
) -> Float[np.ndarray, "nucleotides 4"]:
    """The probability of A, C, G and T (in this order) at every nucleotide of a sequence.

    The formula is at the top of this file. Rows sum to 1. At N (or another IUPAC code) all
    four have probability 0.25: there is no nucleotide to predict.

    Args:
        model: what `load_pretrained` returns.
        sequence: nucleotides, without special tokens; of any length.
        masked: hide each token in turn: the distribution given everything around it. With all
            frames, about one pass through the model for a nucleotide. False: a pass for each frame,
            in which the model sees the token that it scores, and mostly repeats it.
        frames: reading frames to average, 1 to k; all k by default. See above for what they bring.
        batching: size of windows and batches, devices. A token of a sequence longer than a window
            is judged in the window it belongs to.

    Returns:
        float32, a row for each nucleotide.

    Raises:
        InputError: for an empty sequence, an illegal character or a special token, or another
            number of frames.
    """
    read = read_frames(model, sequence, frames)
    every = (0, len(read.text))
    return average_frames(model, read, *every, masked=masked, batching=batching)


class Frame(NamedTuple):
    """A sequence as one reading frame has it."""

    tokens: Int[np.ndarray, " T"]
    """Token ids, `<cls>` first."""
    starts: Int[np.ndarray, " T"]
    """First nucleotide of each token, from 0, with no gap between tokens; -1 for `<cls>`."""
    is_kmer: np.ndarray
    """Which tokens are k-mers."""


def encode_frame(tokenizer: KmerTokenizer, text: str, frame: int) -> Frame:
    """Tokenizes a text of A, C, G, T and N so that k-mers start at letter `frame` of each run.

    Args:
        tokenizer: the model's.
        text: upper case.
        frame: 0 (the tokenizer's own frame) to k - 1.
    """
    ids = [np.array([tokenizer.cls_token_id], np.int32)]
    for run in re.findall("[ACGT]+|N+", text):
        head = frame if run[0] != "N" else 0
        ids += [tokenizer.encode(piece)[1:] for piece in (run[:head], run[head:])]
    tokens = np.concatenate(ids)
    is_kmer = tokenizer.is_kmer(tokens)
    widths = np.where(is_kmer, tokenizer.k, 1)
    return Frame(tokens, np.cumsum(widths) - widths - 1, is_kmer)


class Frames(NamedTuple):
    """A sequence in several reading frames."""

    text: str
    """A, C, G, T and N."""
    frames: list[Frame]
    is_left: Bool[np.ndarray, " nucleotides"]
    """Nucleotides that no k-mer of the frames holds."""

    def find_needed(self, frame: Frame, start: int, end: int) -> Int[np.ndarray, " W"]:
        """Tokens of a frame whose distributions count for the nucleotides `start` to `end - 1`."""
        first = int(np.searchsorted(frame.starts, start, side="right")) - 1  # has `start` in it
        places = np.arange(first, np.searchsorted(frame.starts, end))
        return places[frame.is_kmer[places] | self.is_left[frame.starts[places]]]


def read_frames(model: Model, sequence: Nucleotides, frames: int | None = None) -> Frames:
    """A sequence in its reading frames; arguments and errors as `nucleotide_probabilities`."""
    k = model.config.k
    num_frames = k if frames is None else frames
    require(1 <= num_frames <= k, "frames", num_frames, f"must lie between 1 and {k}")
    text = sequence if isinstance(sequence, str) else bytes(sequence).decode("latin-1")
    place = text.find("<")
    require(place < 0, f"sequence, position {place}", "<", "must not hold special tokens")
    tokens = next(encode_sequences(model.tokenizer, [text]))
    text = model.tokenizer.decode(tokens)
    encoded = [encode_frame(model.tokenizer, text, frame) for frame in range(num_frames)]
    is_left = np.frombuffer(text.encode(), np.uint8) != ord("N")
    for frame in encoded:
        starts = frame.starts[frame.is_kmer]
        is_left[starts[:, None] + np.arange(k)] = False
    return Frames(text, encoded, is_left)


def average_frames(
    model: Model,
    read: Frames,
    start: int,
    end: int,
    *,
    masked: bool = True,
    batching: BatchConfig = BatchConfig(),
) -> Float[np.ndarray, "nucleotides 4"]:
    """As `nucleotide_probabilities`, of the nucleotides `start` (from 0) to `end - 1` alone.

    Only the passes that these need are run; the windows are those of the whole sequence.
    """
    size = resolve_windows(model.config, batching)
    total = _Total(start, end, model.config.k)
    needed = [read.find_needed(frame, start, end) for frame in read.frames]
    add = _add_masked if masked else _add_unmasked
    add(total, model, list(zip(read.frames, needed, strict=True)), size, batching)
    return total.average()[:, TO_ACGT]


class _Total:
    """Sums over the frames of some nucleotides' distributions; letters as the tokenizer's."""

    def __init__(self, start: int, end: int, k: int) -> None:
        self._start, self._end, self._k = start, end, k
        self._kmers = np.zeros((end - start, 5), np.float64)  # four sums and a count
        self._singles = np.zeros((end - start, 5), np.float64)

    def add(self, start: int, is_kmer: bool, marginals: "Marginals") -> None:
        """Adds the distribution at the token that begins at nucleotide `start`."""
        if is_kmer:
            low, high = max(start, self._start), min(start + self._k, self._end)
            mine = slice(low - self._start, high - self._start)
            self._kmers[mine, :4] += marginals.kmer[low - start : high - start]
            self._kmers[mine, 4] += 1
        else:
            self._singles[start - self._start, :4] += marginals.single
            self._singles[start - self._start, 4] += 1

    def average(self) -> Float[np.ndarray, "nucleotides 4"]:
        """The mean of the k-mers' distributions, else of the single letters', else uniform."""
        sums = np.where(self._kmers[:, 4:] > 0, self._kmers, self._singles)
        known = sums[:, 4:] > 0
        mean = np.where(known, sums[:, :4], 0.25) / np.where(known, sums[:, 4:], 1)
        return (mean / mean.sum(axis=1, keepdims=True)).astype(np.float32)


class Marginals(NamedTuple):
    """Distributions of the nucleotides of a token, in the order A, T, C, G of the vocabulary."""

    kmer: Float[Array, "... k 4"]
    """Of each nucleotide, if the token is a k-mer."""
    single: Float[Array, "... 4"]
    """If the token is a single letter."""


def marginalise(scores: Float[Array, "*batch V"], config: ModelConfig) -> Marginals:
    """Softmax over the k-mers, summed over all but one of the k nucleotides; float32.

    A k-mer's id is a number of base 4, the first letter most significant (see `KmerTokenizer`).
    """
    first, end = config.first_kmer_id, config.first_letter_id
    kmers, singles = scores[..., first:end], scores[..., end : end + 4]
    kmers, singles = kmers.astype(jnp.float32), singles.astype(jnp.float32)
    probabilities = jax.nn.softmax(kmers, axis=-1)
    batch = probabilities.shape[:-1]
    each = [probabilities.reshape(*batch, 4**i, 4, -1).sum(axis=(-3, -1)) for i in range(config.k)]
    return Marginals(jnp.stack(each, axis=-2), jax.nn.softmax(singles, axis=-1))


class MarginalsTask(ModelTask):
    """Marginals at every token, in sight of the model."""

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B E"]
    ) -> Marginals:
        """[B, T, k, 4] and [B, T, 4]; `numbers` is not used."""
        scores = LogitsTask(self.config, self.compute)(params, tokens, numbers)
        return marginalise(scores, self.config)


class MaskedMarginalsTask(ModelTask):
    """Marginals at the tokens at `numbers`, all of them hidden by `<mask>`."""

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B M"]
    ) -> Marginals:
        """[B, M, k, 4] and [B, M, 4]."""
        scores = mask_and_score(self.config, self.compute, params, tokens, numbers)
        return marginalise(scores, self.config)


Needed = list[tuple[Frame, np.ndarray]]
"""Frames, and the indices of the tokens of each whose distributions count."""


def _add_masked(
    total: _Total, model: Model, frames: Needed, size: WindowSize, batching: BatchConfig
) -> None:
    """Adds all frames, each token hidden by `<mask>` in a row of its own."""
    places: collections.deque[tuple[int, bool]] = collections.deque()

    def make_rows() -> Iterator[Row]:
        for frame, needed in frames:
            for i, row in hide_in_turn(frame.tokens, needed, size):
                places.append((int(frame.starts[i]), bool(frame.is_kmer[i])))
                yield row

    task = MaskedMarginalsTask(model.config, model.compute)
    for marginals in run_rows(model, task, make_rows(), batching):
        total.add(*places.popleft(), Marginals(marginals.kmer[0], marginals.single[0]))


def _add_unmasked(
    total: _Total, model: Model, frames: Needed, size: WindowSize, batching: BatchConfig
) -> None:
    """Adds all frames, each in one pass (one a window)."""
    cuts = [
        (frame, *found)
        for frame, needed in frames
        for found in find_windows(needed, frame.tokens.size, size)
    ]
    rows = (Row(window.cut(frame.tokens)) for frame, window, _ in cuts)
    task = MarginalsTask(model.config, model.compute)
    results = run_rows(model, task, rows, batching)
    for (frame, window, mine), marginals in zip(cuts, results, strict=True):
        for i in mine.tolist():
            place = i - window.start + 1
            at_token = Marginals(marginals.kmer[place], marginals.single[place])
            total.add(int(frame.starts[i]), bool(frame.is_kmer[i]), at_token)
