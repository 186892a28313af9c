"""What can be said about masked tokens without a network: frequencies and Markov chains.

    counts = load_counts(manifest, tokenizer.k)      # what `nt corpus baselines` counted
    baselines = fit_baselines(counts, tokenizer, num_tokens=256, share=0.15)
    scores = evaluate_baselines(baselines, tokens, positions, valid)
    make_metrics(scores["markov_mixture"]).cross_entropy

Computed for the masked tokens that the model is evaluated on, so that the numbers compare. NumPy
only.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.data.parallel import count_cores
from nucleotide_transformer.errors import RuleError, require
from nucleotide_transformer.pretraining.counts import Counts
from nucleotide_transformer.pretraining.markov import Contexts, find_contexts, iterate_batches
from nucleotide_transformer.pretraining.mixture import (
    Component,
    Weights,
    fit_components,
    fit_weights,
    mix,
    predict_words,
)
from nucleotide_transformer.pretraining.scores import Scores
from nucleotide_transformer.tokenizers import UNKNOWN, KmerTokenizer
from nucleotide_transformer.types import Bool, Float, Int

FREQUENCY = "frequency"
MARKOV = "markov_mixture"
NUM_FITTED = 6_000
"""Masked tokens of held-back records that weights are fitted to, about. With all that there are,
held-out DNA takes 0.001 nats less."""
_SEED = 12
"""Of the masks in them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baselines:
    """What was fitted to the training split."""

    tokenizer: KmerTokenizer
    frequencies: Float[np.ndarray, " _"]
    """[4**k + 4]: of the tokens that spell known nucleotides, in the order of their ids."""
    components: tuple[Component, ...]
    """Chains of the mixture."""
    weights: Weights
    """Of the chains."""
    kinds: Float[np.ndarray, "2"]
    """Shares of k-mers and of single letters among the tokens of sequences."""


class Hidden(NamedTuple):
    """N masked tokens, and what is known around them."""

    rows: Int[np.ndarray, " N"]
    """Sequence of each."""
    targets: Int[np.ndarray, " N"]
    """Id of each, counted from the first k-mer's."""
    num_letters: Int[np.ndarray, " N"]
    """Letters of each: k, or 1."""
    contexts: Contexts


def fit_baselines(
    counts: Counts, tokenizer: KmerTokenizer, *, num_tokens: int, share: float
) -> Baselines:
    """Fits the frequencies and chains to counts, and the rest to the records that were held back.

    These are cut to the length of a sequence and masked; the weights of the chains (see `mixture`)
    are those of greatest likelihood there, and the tokens say how frequent single letters are.
    Where none was held back, the weights are equal, and the records counted say it.

    Args:
        counts: of the training split.
        tokenizer: of the model.
        num_tokens: tokens of a sequence.
        share: of the tokens to mask.
    """
    tokens = 1 + counts.tokens  # each token's count starts at one
    frequencies = tokens / tokens.sum()
    components = fit_components(counts.words)
    num_kmers = 4**tokenizer.k
    kinds = np.array([frequencies[:num_kmers].sum(), frequencies[num_kmers:].sum()])
    num_records = min(len(counts.held_back), int(NUM_FITTED / (share * num_tokens)) + 1)
    probs, confidence = np.zeros((len(components), 0)), np.zeros(0)
    if num_records:
        chosen = np.arange(num_records) * len(counts.held_back) // num_records
        records = [counts.held_back[place] for place in chosen.tolist()]
        sequences = tokenizer.encode_batch(records, length=num_tokens, truncate=True)
        known = tokenizer.is_known(sequences)
        num_letters = int((sequences[known] >= tokenizer.first_letter_id).sum())
        kinds += [known.sum() - num_letters, num_letters]
        masked = known & (np.random.default_rng(_SEED).random(sequences.shape) < share)
        positions = np.broadcast_to(np.arange(num_tokens), sequences.shape)
        hidden = find_hidden(sequences, positions, masked, tokenizer)
        probs, confidence = _predict_targets(components, tokenizer.k, hidden)
    return Baselines(
        tokenizer=tokenizer,
        frequencies=frequencies,
        components=components,
        weights=fit_weights(probs, confidence),
        kinds=kinds / kinds.sum(),
    )


def evaluate_baselines(
    baselines: Baselines,
    tokens: Int[np.ndarray, "B T"],
    positions: Int[np.ndarray, "B M"],
    valid: Bool[np.ndarray, "B M"],
) -> dict[str, Scores]:
    """Predicts masked tokens from frequencies, and from a mixture of Markov chains.

    A chain sees the known nucleotides on both sides of a masked token up to the nearest other
    masked token, N or end, so never what is masked: p(k-mer | left, right) is proportional to
    the product of the chain's transitions through the k-mer and on to its right. Where a known
    context is shorter than the order, the lower order takes over, which the same counts give. (What
    lies beyond a masked neighbour is not used: summing over the neighbour gains 0.001 nats.)
    Single letters are predicted alike; between k-mers and letters the frequency of both kinds
    decides.

    Args:
        baselines: what `fit_baselines` made.
        tokens: ids of the evaluation sequences, `<cls>` first, nothing masked.
        positions: of the masked tokens in each sequence.
        valid: which of the positions count.

    Returns:
        Scores of the sequences under `FREQUENCY` and `MARKOV`.

    Raises:
        InputError: if a masked token spells no known nucleotide, is masked twice, or if none is
            masked.
    """
    hidden = find_hidden(tokens, positions, valid, baselines.tokenizer)
    likely = np.full(len(hidden.targets), baselines.frequencies.argmax())
    predictions = {
        FREQUENCY: (baselines.frequencies[hidden.targets], likely),
        MARKOV: _predict_tokens(baselines, hidden),
    }
    return {
        name: _add_up(hidden, probs, best == hidden.targets, len(tokens))
        for name, (probs, best) in predictions.items()
    }


def find_hidden(
    tokens: Int[np.ndarray, "B T"],
    positions: Int[np.ndarray, "B M"],
    valid: Bool[np.ndarray, "B M"],
    tokenizer: KmerTokenizer,
) -> Hidden:
    """The masked tokens, and the known nucleotides around them.

    Raises:
        InputError: as `evaluate_baselines`.
    """
    rows, slots = np.nonzero(valid)
    places = rows * tokens.shape[1] + positions[rows, slots]
    masked = tokens.ravel()[places]
    require(len(masked) > 0, "masked tokens", 0, "there must be at least one")
    for token in masked[~tokenizer.is_known(masked)][:1].tolist():
        rule = "must spell known nucleotides"
        raise RuleError("masked token", tokenizer.id_to_token(token), rule)
    num_twice = len(places) - len(np.unique(places))
    require(num_twice == 0, "tokens masked twice", num_twice, "must be 0")
    targets = masked.astype(np.int64) - tokenizer.first_kmer_id
    num_letters = np.where(tokenizer.is_kmer(masked), tokenizer.k, 1)
    contexts = _find_token_contexts(tokens, places, num_letters, tokenizer)
    return Hidden(rows, targets, num_letters, contexts)


def _find_token_contexts(
    tokens: Int[np.ndarray, "B T"],
    places: Int[np.ndarray, " N"],
    lengths: Int[np.ndarray, " N"],
    tokenizer: KmerTokenizer,
) -> Contexts:
    """The known nucleotides around the tokens at some places of the flattened `tokens`."""
    k = tokenizer.k
    ids = tokens.ravel().astype(np.int64)
    words, is_kmer = ids - tokenizer.first_kmer_id, tokenizer.is_kmer(ids)
    ends = np.cumsum(np.where(is_kmer, k, 1))
    starts = ends - np.where(is_kmer, k, 1)
    codes = np.full(ends[-1], UNKNOWN, np.uint8)
    for letter in range(k):
        codes[starts[is_kmer] + letter] = words[is_kmer] >> 2 * (k - 1 - letter) & 3
    is_letter = tokenizer.is_known(ids) & ~is_kmer
    codes[starts[is_letter]] = ids[is_letter] - tokenizer.first_letter_id
    for letter in range(k):
        hidden = places[lengths > letter]
        codes[starts[hidden] + letter] = UNKNOWN
    return find_contexts(codes, starts[places], ends[places])


def _predict_targets(
    components: tuple[Component, ...], k: int, hidden: Hidden
) -> tuple[Float[np.ndarray, "R N"], Float[np.ndarray, " N"]]:
    """What `fit_weights` takes: letters are words among four."""
    targets = hidden.targets
    probs = np.zeros((len(components), len(targets)))
    confidence = np.zeros(len(targets))

    def predict(places: Int[np.ndarray, " b"], contexts: Contexts) -> None:
        kmers, letters = (predict_words(components, length, contexts) for length in (k, 1))
        both = np.concatenate([kmers, letters], axis=2)
        probs[:, places] = both[:, np.arange(len(places)), targets[places]]
        confidence[places] = kmers[-1].max(axis=1)

    _run_batches(components, hidden, predict)
    return probs, confidence


def _predict_tokens(
    baselines: Baselines, hidden: Hidden
) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Probability of each masked token, and the most likely one, from the mixture."""
    components, k = baselines.components, baselines.tokenizer.k
    probs = np.zeros(len(hidden.targets))
    best = np.zeros(len(hidden.targets), np.int64)

    def predict(places: Int[np.ndarray, " b"], contexts: Contexts) -> None:
        kmers, letters = (predict_words(components, length, contexts) for length in (k, 1))
        confidence = kmers[-1].max(axis=1)
        kinds = zip(baselines.kinds, (kmers, letters), strict=True)
        mixed = [share * mix(baselines.weights, words, confidence) for share, words in kinds]
        both = np.concatenate(mixed, axis=1)
        probs[places] = both[np.arange(len(places)), hidden.targets[places]]
        best[places] = both.argmax(axis=1)

    _run_batches(components, hidden, predict)
    return probs, best


def _run_batches(
    components: tuple[Component, ...],
    hidden: Hidden,
    predict: Callable[[Int[np.ndarray, " b"], Contexts], None],
) -> None:
    """Predicts all masked tokens, on all cores: NumPy's loops leave Python to the others."""
    order = max(component.order for component in components)
    with ThreadPoolExecutor(count_cores()) as pool:
        for _ in pool.map(lambda batch: predict(*batch), iterate_batches(hidden.contexts, order)):
            pass  # an error is raised here


def _add_up(
    hidden: Hidden,
    probs: Float[np.ndarray, " N"],
    correct: Bool[np.ndarray, " N"],
    num_sequences: int,
) -> Scores:
    """The scores of each sequence."""

    def add(values: np.ndarray) -> np.ndarray:
        return np.bincount(hidden.rows, values, num_sequences)

    num_masked, num_letters = add(np.ones(len(probs))), add(hidden.num_letters)
    return Scores(
        nats=add(-np.log(probs)),
        num_correct=add(correct).astype(np.int64),
        num_masked=num_masked.astype(np.int64),
        num_nucleotides=num_letters.astype(np.int64),
    )
