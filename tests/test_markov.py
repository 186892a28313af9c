"""Chains: words counted and turned round, smoothing by hand, probabilities that sum to one."""

from collections import Counter
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_chains import LETTERS, make_text
from small_genomes import reverse_complement

from nucleotide_transformer.pretraining import markov
from nucleotide_transformer.pretraining.markov import (
    Contexts,
    WordCounter,
    add_reverse_complements,
    fit_chains,
    score_words,
)
from nucleotide_transformer.tokenizers import encode_letters

FLOAT32 = 1e-5
"""Relative: a sum of at most 20 logarithms in float32, each rounded to 6e-8 of about 10."""


def count_words(text: str, length: int) -> np.ndarray:
    counter = WordCounter(length)
    counter.add(encode_letters(text.encode()))
    return counter.counts


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text("ACGTN", max_size=60), max_size=3),
    length=st.integers(1, 7),
    letters_at_once=st.sampled_from([1, 2, 7, 50, 1_000]),
)
def test_word_counts(texts: list[str], length: int, letters_at_once: int) -> None:
    """Of several texts, each cut into blocks of any length."""
    counter = WordCounter(length)
    with mock.patch.object(markov, "_LETTERS_AT_ONCE", letters_at_once):
        for text in texts:
            counter.add(encode_letters(text.encode()))
    counts = counter.counts
    expected = Counter(
        sum(LETTERS.index(letter) * 4 ** (length - 1 - i) for i, letter in enumerate(word))
        for text in texts
        for word in (text[start : start + length] for start in range(len(text) - length + 1))
        if "N" not in word
    )
    assert counts.shape == (4**length,)
    assert {int(word): int(counts[word]) for word in np.flatnonzero(counts)} == expected


@pytest.mark.parametrize("length", range(1, 10))
@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64])
def test_counts_of_both_strands_are_those_of_the_text_and_its_reverse(
    length: int, kind: type
) -> None:
    text = make_text(900, length) + "N" + make_text(700, length + 1)
    one = np.minimum(count_words(text, length), 255).astype(kind)
    other = np.minimum(count_words(reverse_complement(text), length), 255)
    before = one.copy()
    np.testing.assert_array_equal(add_reverse_complements(one), before + other.astype(np.int64))
    np.testing.assert_array_equal(one, before)


def test_smoothing_by_hand() -> None:
    """Of 9 words of two letters, AT twice and AC once: 512 counts of each lower order are added."""
    counts = np.zeros(16, np.int64)
    counts[[0b0001, 0b0010, 0b0110]] = (2, 1, 6)
    order_0, order_1 = fit_chains(counts).log_probs
    letters = np.array([0, 2, 7, 0]) + 512 * 0.25
    np.testing.assert_allclose(np.exp(order_0), letters / (9 + 512), rtol=FLOAT32)
    after_a = np.array([0, 2, 1, 0]) + 512 * letters / (9 + 512)
    np.testing.assert_allclose(np.exp(order_1[:4]), after_a / (3 + 512), rtol=FLOAT32)


CHAINS = fit_chains(count_words(make_text(3_000, 1), 5))


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("num_before", [0, 1, 3, 4])
def test_words_without_right_side_sum_to_one(order: int, num_before: int) -> None:
    contexts = Contexts(*(np.array([value]) for value in (2_345, num_before, 0, 0)))
    scores = score_words(CHAINS, order, 3, contexts)
    assert scores.shape == (1, 64)
    assert np.exp(scores).sum() == pytest.approx(1, rel=FLOAT32)


@pytest.mark.parametrize("order", range(4))
def test_an_order_looks_no_further_than_it_should(order: int) -> None:
    """Where more letters are known, those beyond the order change nothing."""
    shift = 2 * (markov.MAX_ORDER - 4)
    known = Contexts(*(np.array([n]) for n in (0b11_01_10_00, 4, 0b01_11_00_10 << shift, 4)))
    fewer = known._replace(num_before=np.array([order]), num_after=np.array([order]))
    np.testing.assert_array_equal(
        score_words(CHAINS, order, 3, known), score_words(CHAINS, order, 3, fewer)
    )
