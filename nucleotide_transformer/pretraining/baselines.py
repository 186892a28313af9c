"""What can be said about masked tokens without a network: frequencies and Markov chains.

    baselines = load_baselines(manifest, tokenizer)     # what `nt corpus baselines` counted
    metrics = evaluate_baselines(baselines, tokens, positions, valid)
    metrics["frequency"].cross_entropy, metrics["markov_7"].accuracy

Computed for the masked tokens that the model is evaluated on, so that the numbers compare. NumPy
only.
"""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.data.manifest import Manifest
from nucleotide_transformer.data.parallel import count_cores
from nucleotide_transformer.errors import require
from nucleotide_transformer.pretraining.counts import (
    Counts,
    RecordReader,
    count_split,
    load_counts,
)
from nucleotide_transformer.pretraining.markov import (
    MAX_ORDER,
    UNKNOWN,
    Contexts,
    MarkovChains,
    find_contexts,
    fit_chains,
    iterate_batches,
    score_words,
)
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Bool, Float, Int

FREQUENCY = "frequency"


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


def load_baselines(manifest: Manifest, tokenizer: KmerTokenizer) -> Baselines | None:
    """The baselines of a corpus, as `nt corpus baselines` counted them; None if it never did.

    Raises:
        InputError: if they are those of another corpus or tokenizer, or damaged; in one line that
            says how to make them again.
    """
    counts = load_counts(manifest, tokenizer.k)
    return make_baselines(counts, tokenizer) if counts else None


def fit_baselines(
    reader: RecordReader, tokenizer: KmerTokenizer, max_nucleotides: int, max_order: int = MAX_ORDER
) -> Baselines:
    """Counts tokens and words of some records, here and now, and fits the baselines to them.

    See `counts.count_split` for the arguments and errors.
    """
    return make_baselines(count_split(reader, tokenizer, max_nucleotides, max_order), tokenizer)


def make_baselines(counts: Counts, tokenizer: KmerTokenizer) -> Baselines:
    """Fits the baselines to counts. Each token's count starts at one."""
    tokens = 1 + counts.tokens
    return Baselines(
        tokenizer=tokenizer,
        log_frequencies=np.log(tokens / tokens.sum()),
        chains=fit_chains(counts.words),
        num_nucleotides=counts.num_nucleotides,
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
    with ThreadPoolExecutor(count_cores()) as pool:  # NumPy's loops leave Python to the others
        for order in range(1, len(baselines.chains.log_probs)):
            predictions[f"markov_{order}"] = _predict(baselines, order, contexts, targets, pool)
    num_nucleotides = int(lengths.sum())
    return {
        name: _make_metrics(log_probs, best == targets, num_nucleotides)
        for name, (log_probs, best) in predictions.items()
    }


def best_markov(metrics: dict[str, Metrics]) -> tuple[str, Metrics]:
    """Name and metrics of the chain with the lowest cross-entropy."""
    chains = [(name, row) for name, row in metrics.items() if name != FREQUENCY]
    return min(chains, key=lambda item: item[1].cross_entropy)


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
    baselines: Baselines,
    order: int,
    contexts: Contexts,
    targets: Int[np.ndarray, " N"],
    pool: ThreadPoolExecutor,
) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Log probability of each target, and the most likely token, from the chain of one order."""
    k = baselines.tokenizer.k
    frequencies = np.exp(baselines.log_frequencies)
    shares = np.log([frequencies[: 4**k].sum(), frequencies[4**k :].sum()])
    log_probs = np.zeros(len(targets))
    best = np.zeros(len(targets), np.int64)

    def predict(batch: tuple[Int[np.ndarray, " b"], Contexts]) -> None:
        places, some = batch
        scores = [
            _normalise(score_words(baselines.chains, order, length, some)) + np.float32(share)
            for length, share in zip((k, 1), shares, strict=True)
        ]
        both = np.concatenate(scores, axis=1)
        log_probs[places] = both[np.arange(len(places)), targets[places]]
        best[places] = both.argmax(axis=1)

    for _ in pool.map(predict, iterate_batches(contexts, order)):
        pass  # an error is raised here
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
