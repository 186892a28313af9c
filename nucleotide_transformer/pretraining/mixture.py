"""A mixture of Markov chains for hidden words, with weights fitted to text that was not counted.

Of several chains, each asked from both sides, the mixture gives the mean probability of each word:

    p(w | left, right) = sum over chains i of weight_i(c) p_i(w | left, right)

The class c of a place is how sure the last chain is there, that is, the probability of its most
likely word. With little smoothing, that chain knows what is repeated (transposons, duplicated
genes), and is wrong elsewhere: where it is sure, it is worth more.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.pretraining.markov import (
    PRIOR_COUNT,
    Contexts,
    MarkovChains,
    add_reverse_complements,
    fit_chains,
    score_words,
)
from nucleotide_transformer.types import Float, Int, UInt

COMPONENTS = ((6, PRIOR_COUNT), (9, PRIOR_COUNT), (12, PRIOR_COUNT), (12, 4.0))
"""Order and `prior_count` of the chains; the last one is asked how sure it is. Chosen on test
blocks of the five genomes of the repository, where all orders with 4, 16 and 512 together gain
another 0.002 nats."""
NUM_CLASSES = 8
"""Half of all places are in the first class, a quarter in the second, and so on."""
NUM_STEPS = 100
"""Of expectation and maximisation; the cross-entropy then changes by less than 1e-4 nats."""


class Component(NamedTuple):
    """One chain of a mixture."""

    chains: MarkovChains
    order: int


class Weights(NamedTuple):
    """How much each of R chains counts in each class of places."""

    edges: Float[np.ndarray, " _"]
    """Rising: the probability of the most likely word that each class but the first begins at."""
    shares: Float[np.ndarray, "_ R"]
    """Of each class; they sum to one."""


def fit_components(
    counts: Int[np.ndarray, " C"] | UInt[np.ndarray, " C"],
) -> tuple[Component, ...]:
    """The chains of `COMPONENTS` from counts on one strand, or of the highest order there is."""
    both = add_reverse_complements(counts)
    fitted = {prior: fit_chains(both, prior) for prior in {prior for _, prior in COMPONENTS}}
    return tuple(
        Component(fitted[prior], min(order, len(fitted[prior].log_probs) - 1))
        for order, prior in COMPONENTS
    )


def predict_words(
    components: Sequence[Component], length: int, contexts: Contexts
) -> Float[np.ndarray, "R b C"]:
    """Probability of every word of `length` letters, from each chain.

    Args:
        components: the chains.
        length: letters of the hidden words.
        contexts: of one batch of `iterate_batches` for the highest order.
    """
    probs = [
        score_words(component.chains, component.order, length, contexts) for component in components
    ]
    for scores in probs:
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
    return np.stack(probs)


def fit_weights(probs: Float[np.ndarray, "R N"], confidence: Float[np.ndarray, " N"]) -> Weights:
    """The weights of greatest likelihood in each class, by expectation and maximisation.

    In each class one word more is counted, with the weights of all classes together; of all
    together one with equal weights. So they are known even where no word is.

    Args:
        probs: of the right word of each of N places, from each chain.
        confidence: probability of the last chain's most likely word.
    """
    equal = np.full(len(probs), 1 / len(probs))
    overall = _maximise(probs, equal)
    quantiles = 1 - 0.5 ** np.arange(1, NUM_CLASSES)
    edges = np.quantile(confidence, quantiles) if len(confidence) else np.zeros(0)
    classes = np.digitize(confidence, edges)
    shares = [_maximise(probs[:, classes == number], overall) for number in range(len(edges) + 1)]
    return Weights(edges, np.stack(shares))


def mix(
    weights: Weights, probs: Float[np.ndarray, "R b C"], confidence: Float[np.ndarray, " b"]
) -> Float[np.ndarray, "b C"]:
    """Probability of every word from all chains together.

    Args:
        weights: of the chains.
        probs: from each chain.
        confidence: probability of the last chain's most likely word.
    """
    shares = weights.shares[np.digitize(confidence, weights.edges)].astype(probs.dtype)
    return np.einsum("br,rbc->bc", shares, probs)


def _maximise(
    probs: Float[np.ndarray, "R N"], prior: Float[np.ndarray, " R"]
) -> Float[np.ndarray, " R"]:
    """The weights of greatest likelihood, with one more word that is shared out by a prior."""
    probs, weights = probs.astype(np.float64), prior
    for _ in range(NUM_STEPS):
        joint = weights[:, None] * probs
        weights = (joint / joint.sum(axis=0)).sum(axis=1) + prior
        weights = weights / weights.sum()
    return weights
