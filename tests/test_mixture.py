"""Mixture: weights of greatest likelihood in each class, and their mean of the chains."""

import numpy as np
import pytest

from nucleotide_transformer.pretraining.markov import PRIOR_COUNT
from nucleotide_transformer.pretraining.mixture import (
    COMPONENTS,
    NUM_CLASSES,
    Weights,
    fit_components,
    fit_weights,
    mix,
)


def measure(shares: np.ndarray, probs: np.ndarray) -> float:
    """Nats a word of a mixture."""
    return -np.log(shares @ probs).mean()


def draw(rng: np.random.Generator, shares: np.ndarray, num_words: int) -> np.ndarray:
    """Probabilities of words drawn from a mixture of three chains over four words."""
    chains = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4], [0.25, 0.65, 0.05, 0.05]])
    return chains[:, rng.choice(4, num_words, p=shares @ chains)]


def test_weights_are_those_that_the_words_were_drawn_with() -> None:
    """In two halves of 40,000 words, of which one is surer: to 0.02, twice the standard error."""
    rng = np.random.default_rng(0)
    expected = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    probs = np.concatenate([draw(rng, shares, 40_000) for shares in expected], axis=1)
    confidence = np.concatenate([rng.uniform(0, 0.4, 40_000), np.linspace(0.6, 1, 40_000)])
    weights = fit_weights(probs, confidence)
    assert weights.shares.shape == (NUM_CLASSES, 3)
    np.testing.assert_allclose(weights.shares.sum(axis=1), 1, rtol=1e-12)
    found = np.stack([weights.shares[0], weights.shares[1]])
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert 0.4 <= weights.edges[0] <= 0.6


def test_no_other_weights_are_better() -> None:
    rng = np.random.default_rng(1)
    probs = draw(rng, np.array([0.2, 0.5, 0.3]), 4_000)
    (shares,) = {tuple(row) for row in fit_weights(probs, np.zeros(4_000)).shares[-1:]}
    best = measure(np.array(shares), probs)
    for other in rng.dirichlet(np.ones(3), 200):
        assert measure(other, probs) > best - 1e-4


def test_classes_are_halves_of_what_is_left() -> None:
    confidence = np.random.default_rng(2).random(6_400)
    weights = fit_weights(np.full((2, 6_400), 0.5), confidence)
    sizes = np.bincount(np.digitize(confidence, weights.edges))
    np.testing.assert_allclose(sizes[:-1], 6_400 * 0.5 ** np.arange(1, NUM_CLASSES), atol=1)


def test_without_words_all_chains_weigh_the_same() -> None:
    weights = fit_weights(np.zeros((4, 0)), np.zeros(0))
    np.testing.assert_array_equal(weights.shares, np.full((1, 4), 0.25))
    assert len(weights.edges) == 0


def test_mean_by_hand() -> None:
    """A place that is as sure as an edge belongs to the class that begins there."""
    weights = Weights(np.array([0.5]), np.array([[0.75, 0.25], [0.0, 1.0]]))
    probs = np.array([[[0.2, 0.8]] * 3, [[0.6, 0.4]] * 3])
    found = mix(weights, probs, np.array([0.4, 0.5, 0.9]))
    np.testing.assert_allclose(found, [[0.3, 0.7], [0.6, 0.4], [0.6, 0.4]])


@pytest.mark.parametrize("max_order", [2, 9])
def test_components_have_their_order_or_the_highest(max_order: int) -> None:
    components = fit_components(np.ones(4 ** (max_order + 1), np.uint8))
    found = [component.order for component in components]
    assert found == [min(order, max_order) for order, _ in COMPONENTS]
    same = [prior == PRIOR_COUNT for _, prior in COMPONENTS]
    shared = [component.chains is components[0].chains for component in components]
    assert shared == same
