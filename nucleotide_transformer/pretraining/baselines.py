"""What can be said about masked tokens without a network: frequencies and Markov chains.

    baselines = fit_baselines(open_split(manifest, "train"), tokenizer, 1_000_000_000)
    metrics = evaluate_baselines(baselines, tokens, positions, valid)
    metrics["frequency"].cross_entropy, metrics["markov_7"].accuracy

Computed for the masked tokens that the model is evaluated on, so that the numbers compare. NumPy
only.
"""

import dataclasses
import math
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from nucleotide_transformer.errors import require
from nucleotide_transformer.pretraining.markov import (
    MAX_ORDER,
    UNKNOWN,
    Contexts,
    MarkovChains,
    count_words,
    encode_letters,
    find_contexts,
    fit_chains,
    iterate_batches,
    score_words,
)
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Bool, Float, Int

FREQUENCY = "frequency"
_RECORDS_AT_ONCE = 2_500


@runtime_checkable
class RecordReader(Protocol):
    """Numbered records of nucleotides, such as `data.corpus.SplitReader`."""

    def __len__(self) -> int:
        """Number of records."""

    def read(self, indices: Int[np.ndarray, " B"]) -> list[bytes]:
        """The records of these numbers."""


class Metrics(NamedTuple):
    """How well masked tokens are predicted."""

    cross_entropy: float
    """Nats per masked token."""
    perplexity: float
    """exp(cross_entropy)."""
    accuracy: float
    """Share of masked tokens whose most likely token is the right one."""
    bits_per_nucleotide: float
    """Bits per nucleotide of the masked tokens (k in a k-mer, 1 in a single letter)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baselines:
    """What was counted in the training split."""

    tokenizer: KmerTokenizer
    log_frequencies: Float[np.ndarray, " _"]
    """float64 [4**k + 4]: of the tokens that spell known nucleotides, in the order of their ids."""
    chains: MarkovChains
    """Orders 0 to 11."""
    num_nucleotides: int
    """Letters of the records that were counted."""


def fit_baselines(
    reader: RecordReader, tokenizer: KmerTokenizer, max_nucleotides: int, max_order: int = MAX_ORDER
) -> Baselines:
    """Counts tokens and nucleotide words in the training split.

    Where the split is larger than `max_nucleotides`, records spread evenly over it are read. What
    two neighbouring records share (3 % by default) counts twice. Each token's count starts at one.

    Args:
        reader: the training split.
        tokenizer: of the model.
        max_nucleotides: nucleotides to read, at most (but at least one record).
        max_order: highest order of the chains, up to 11.

    Raises:
        ValueError: if a limit is not above 0, or the order is too high.
    """
    require(max_nucleotides > 0, "max_nucleotides", max_nucleotides, "must be above 0")
    require(1 <= max_order <= MAX_ORDER, "max_order", max_order, f"must be 1 to {MAX_ORDER}")
    records = _choose_records(reader, max_nucleotides)
    tokens = np.zeros(tokenizer.vocabulary_size, np.int64)
    words = np.zeros(4 ** (max_order + 1), np.int64)
    num_nucleotides = 0
    for first in range(0, len(records), _RECORDS_AT_ONCE):
        texts = reader.read(records[first : first + _RECORDS_AT_ONCE])
        ids = tokenizer.encode_batch(texts)
        tokens += np.bincount(ids.ravel(), minlength=len(tokens))
        words += count_words(encode_letters(b"N".join(texts)), max_order + 1)
        num_nucleotides += sum(map(len, texts))
    counts = 1 + tokens[tokenizer.first_kmer_id :][: 4**tokenizer.k + 4]
    return Baselines(
        tokenizer=tokenizer,
        log_frequencies=np.log(counts / counts.sum()),
        chains=fit_chains(words),
        num_nucleotides=num_nucleotides,
    )


def evaluate_baselines(
    baselines: Baselines,
    tokens: Int[np.ndarray, "B T"],
    positions: Int[np.ndarray, "B M"],
    valid: Bool[np.ndarray, "B M"],
) -> dict[str, Metrics]:
    """Predicts masked tokens from frequencies, and from the chain of every order.

    A chain sees the known nucleotides on both sides of a masked token up to the nearest other
    masked token, N or end, so never what is masked: p(k-mer | left, right) is proportional to
    the product of the chain's transitions through the k-mer and on to its right. Where a known
    context is shorter than the order, the lower order takes over, which the same counts give.
    Single letters are predicted alike; between k-mers and letters the frequency of both kinds in
    the training split decides.

    Args:
        baselines: what `fit_baselines` made.
        tokens: ids of the evaluation sequences, `<cls>` first, nothing masked.
        positions: of the masked tokens in each sequence.
        valid: which of the positions count.

    Returns:
        Metrics under "frequency", "markov_1", "markov_2" and so on to the highest order.

    Raises:
        ValueError: if a masked token spells no known nucleotide, is masked twice, or if none is
            masked.
    """
    tokenizer = baselines.tokenizer
    rows, slots = np.nonzero(valid)
    places = rows * tokens.shape[1] + positions[rows, slots]
    targets = tokens.ravel()[places].astype(np.int64) - tokenizer.first_kmer_id
    _check_masked(targets, places, tokenizer)
    lengths = np.where(targets < 4**tokenizer.k, tokenizer.k, 1)
    contexts = _find_contexts(tokens, places, lengths, tokenizer)
    best = np.full(len(targets), baselines.log_frequencies.argmax())
    predictions = {FREQUENCY: (baselines.log_frequencies[targets], best)}
    for order in range(1, len(baselines.chains.log_probs)):
        predictions[f"markov_{order}"] = _predict(baselines, order, contexts, targets)
    num_nucleotides = int(lengths.sum())
    return {
        name: _make_metrics(log_probs, best == targets, num_nucleotides)
        for name, (log_probs, best) in predictions.items()
    }


def best_markov(metrics: dict[str, Metrics]) -> tuple[str, Metrics]:
    """Name and metrics of the chain with the lowest cross-entropy."""
    chains = [(name, row) for name, row in metrics.items() if name != FREQUENCY]
    return min(chains, key=lambda item: item[1].cross_entropy)


def _choose_records(reader: RecordReader, max_nucleotides: int) -> Int[np.ndarray, " N"]:
    """Numbers of records spread evenly over a reader, about `max_nucleotides` in all."""
    sample = np.arange(min(len(reader), 1_000)) * len(reader) // min(len(reader), 1_000)
    mean_length = sum(map(len, reader.read(sample))) / len(sample)
    num_records = min(len(reader), max(1, int(max_nucleotides / mean_length)))
    return np.arange(num_records) * len(reader) // num_records


def _check_masked(
    targets: Int[np.ndarray, " N"], places: Int[np.ndarray, " N"], tokenizer: KmerTokenizer
) -> None:
    """Raises a `ValueError` unless all masked tokens are nucleotides, each masked once."""
    require(len(targets) > 0, "masked tokens", 0, "there must be at least one")
    is_nucleotide = (targets >= 0) & (targets < 4**tokenizer.k + 4)
    for target in targets[~is_nucleotide][:1].tolist():
        token = tokenizer.id_to_token(target + tokenizer.first_kmer_id)
        require(False, "masked token", token, "must spell known nucleotides")
    num_twice = len(places) - len(np.unique(places))
    require(num_twice == 0, "tokens masked twice", num_twice, "must be 0")


def _find_contexts(
    tokens: Int[np.ndarray, "B T"],
    places: Int[np.ndarray, " N"],
    lengths: Int[np.ndarray, " N"],
    tokenizer: KmerTokenizer,
) -> Contexts:
    """The known nucleotides around the tokens at some places of the flattened `tokens`."""
    k = tokenizer.k
    words = tokens.ravel().astype(np.int64) - tokenizer.first_kmer_id
    is_kmer = (words >= 0) & (words < 4**k)
    ends = np.cumsum(np.where(is_kmer, k, 1))
    starts = ends - np.where(is_kmer, k, 1)
    codes = np.full(ends[-1], UNKNOWN, np.uint8)
    for letter in range(k):
        codes[starts[is_kmer] + letter] = words[is_kmer] >> 2 * (k - 1 - letter) & 3
    is_letter = (words >= 4**k) & (words < 4**k + 4)
    codes[starts[is_letter]] = words[is_letter] - 4**k
    for letter in range(k):
        hidden = places[lengths > letter]
        codes[starts[hidden] + letter] = UNKNOWN
    return find_contexts(codes, starts[places], ends[places])


def _predict(
    baselines: Baselines, order: int, contexts: Contexts, targets: Int[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Log probability of each target, and the most likely token, from the chain of one order."""
    k = baselines.tokenizer.k
    frequencies = np.exp(baselines.log_frequencies)
    shares = np.log([frequencies[: 4**k].sum(), frequencies[4**k :].sum()])
    log_probs = np.zeros(len(targets))
    best = np.zeros(len(targets), np.int64)
    for places, some in iterate_batches(contexts, order):
        scores = [
            _normalise(score_words(baselines.chains, order, length, some)) + np.float32(share)
            for length, share in zip((k, 1), shares, strict=True)
        ]
        both = np.concatenate(scores, axis=1)
        log_probs[places] = both[np.arange(len(places)), targets[places]]
        best[places] = both.argmax(axis=1)
    return log_probs, best


def _normalise(scores: Float[np.ndarray, "b C"]) -> Float[np.ndarray, "b C"]:
    """Log softmax."""
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def _make_metrics(
    log_probs: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], num_nucleotides: int
) -> Metrics:
    nats = -float(log_probs.sum())
    cross_entropy = nats / len(log_probs)
    return Metrics(
        cross_entropy=cross_entropy,
        perplexity=math.exp(cross_entropy),
        accuracy=float(correct.mean()),
        bits_per_nucleotide=nats / math.log(2) / num_nucleotides,
    )
