"""Baselines: equal to enumeration by hand, blind to what is masked, right where that is known."""

import itertools
import math
import re
from collections import Counter
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucleotide_transformer.pretraining import markov
from nucleotide_transformer.pretraining.baselines import (
    Metrics,
    best_markov,
    evaluate_baselines,
    fit_baselines,
)
from nucleotide_transformer.pretraining.markov import (
    Contexts,
    WordCounter,
    encode_letters,
    fit_chains,
    score_words,
)
from nucleotide_transformer.tokenizers import KmerTokenizer

TOKENIZER = KmerTokenizer("v2", k=3)
LETTERS = "ATCG"
PRIOR_COUNT = 512
"""Weight of the next lower order, as the README's numbers have it."""
FLOAT32 = 1e-5
"""Relative: a sum of at most 20 logarithms in float32, each rounded to 6e-8 of about 10."""


class Records:
    """A reader of records in memory."""

    def __init__(self, *records: bytes) -> None:
        self._records = records
        self.read_indices: list[int] = []

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: np.ndarray) -> list[bytes]:
        self.read_indices += np.asarray(indices).tolist()
        return [self._records[index] for index in indices]


def make_text(length: int, seed: int) -> str:
    """Letters of which each depends on the one before, so that the orders differ."""
    steps = np.random.default_rng(seed).choice(4, length, p=[0.6, 0.2, 0.15, 0.05])
    return "".join(LETTERS[i] for i in np.cumsum(steps) % 4)


class PlainChain:
    """The smoothed chain of up to 4 letters as its formula is written."""

    def __init__(self, records: list[str]) -> None:
        self.counts = Counter[str]()
        for record in records:
            words = [record[end - 5 : end] for end in range(5, len(record) + 1)]
            for word, length in itertools.product(words, range(6)):
                if "N" not in word:
                    self.counts[word[5 - length :]] += 1

    def probability(self, context: str, letter: str) -> float:
        lower = self.probability(context[1:], letter) if context else 0.25
        total = sum(self.counts[context + other] for other in LETTERS)
        return (self.counts[context + letter] + PRIOR_COUNT * lower) / (total + PRIOR_COUNT)

    def predict(self, before: str, after: str, length: int, order: int) -> dict[str, float]:
        """Probability of each word of a length between two known texts."""
        joint = {}
        for letters in itertools.product(LETTERS, repeat=length):
            text = before + "".join(letters) + after
            joint["".join(letters)] = math.prod(
                self.probability(text[max(0, i - order) : i], text[i])
                for i in range(len(before), min(len(text), len(before) + length + order))
            )
        return {word: p / sum(joint.values()) for word, p in joint.items()}


def predict_plainly(
    chain: PlainChain, shares: dict[int, float], tokens: list[str], masked: int, order: int
) -> dict[str, float]:
    """Probability of every token at a place of a text in which `?` is masked."""
    before = re.split("[^ACGT]", "".join(tokens[:masked]))[-1]
    after = re.split("[^ACGT]", "".join(tokens[masked + 1 :]))[0]
    return {
        word: share * probability
        for length, share in shares.items()
        for word, probability in chain.predict(before, after, length, order).items()
    }


def measure_plainly(
    records: list[str], tokens: np.ndarray, masked: np.ndarray
) -> dict[str, tuple[float, float, float]]:
    """Cross-entropy, accuracy and bits per nucleotide of orders 1 to 4."""
    chain = PlainChain(records)
    counts = Counter(
        len(TOKENIZER.id_to_token(i))
        for r in records
        for i in TOKENIZER.encode(r)[1:]
        if TOKENIZER.id_to_token(i) != "N"
    )
    kinds = {3: counts[3] + 64, 1: counts[1] + 4}
    shares = {length: count / sum(kinds.values()) for length, count in kinds.items()}
    found = {}
    for order in range(1, 5):
        nats, correct, letters = 0.0, 0, 0
        for row, hidden in zip(tokens, masked, strict=True):
            texts = [TOKENIZER.id_to_token(i) for i in row]
            seen = ["?" if h else text for text, h in zip(texts, hidden, strict=True)]
            for place in np.flatnonzero(hidden).tolist():
                probabilities = predict_plainly(chain, shares, seen, place, order)
                nats -= math.log(probabilities[texts[place]])
                correct += max(probabilities, key=probabilities.__getitem__) == texts[place]
                letters += len(texts[place])
        total = masked.sum()
        found[f"markov_{order}"] = (nats / total, correct / total, nats / math.log(2) / letters)
    return found


def to_slots(masked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and valid slots, the valid ones first, as `mask_tokens` gives them."""
    positions = np.argsort(~masked, axis=1, kind="stable")
    valid = np.take_along_axis(masked, positions, axis=1)
    num_slots = valid.sum(1).max() + 1
    return positions[:, :num_slots], valid[:, :num_slots]


TRAINING = [make_text(3_000, 1), make_text(500, 2) + "NN" + make_text(700, 3), "ACGNA", "A"]
FITTED = fit_baselines(
    Records(*(record.encode() for record in TRAINING)), TOKENIZER, 10**9, max_order=4
)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.3, 0.6]))
def test_chains_equal_enumeration(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    sequences = [make_text(31, seed) + "N" + make_text(14, seed + 1), make_text(22, seed + 2)]
    tokens = TOKENIZER.encode_batch(sequences)
    is_nucleotide = (tokens >= 6) & (tokens < 6 + 68)
    masked = is_nucleotide & (rng.random(tokens.shape) < share)
    masked[0, 1] = True
    measured = evaluate_baselines(FITTED, tokens, *to_slots(masked))
    expected = measure_plainly(TRAINING, tokens, masked)
    assert list(measured) == ["frequency", *expected]
    for name, (cross_entropy, accuracy, bits) in expected.items():
        assert measured[name].cross_entropy == pytest.approx(cross_entropy, rel=FLOAT32)
        assert measured[name].perplexity == pytest.approx(math.exp(cross_entropy), rel=1e-4)
        assert measured[name].bits_per_nucleotide == pytest.approx(bits, rel=FLOAT32)
        assert measured[name].accuracy == accuracy


def test_frequency_is_that_of_the_training_tokens() -> None:
    records = ["ATTATTATTC", "ATTNGGGA"]
    baselines = fit_baselines(Records(*map(str.encode, records)), TOKENIZER, 10**9, max_order=1)
    tokens = TOKENIZER.encode_batch(["ATTGGGCCCAT"])  # ATT GGG CCC A T
    positions, valid = np.arange(1, 6)[None], np.ones((1, 5), bool)
    # 4 ATT, 1 GGG, 1 A, 1 C, and one more of each of the 68 tokens.
    likelihoods = np.array([5, 2, 1, 2, 1]) / (7 + 68)
    measured = evaluate_baselines(baselines, tokens, positions, valid)["frequency"]
    assert measured.cross_entropy == pytest.approx(-np.log(likelihoods).mean(), rel=1e-12)
    assert measured.perplexity == pytest.approx(math.exp(measured.cross_entropy), rel=1e-12)
    assert measured.accuracy == 1 / 5
    bits = -np.log2(likelihoods).sum() / (3 * 3 + 2)
    assert measured.bits_per_nucleotide == pytest.approx(bits, rel=1e-12)


def test_slots_that_are_not_valid_weigh_nothing() -> None:
    tokens = TOKENIZER.encode_batch([make_text(60, 5), make_text(60, 6)])
    positions = np.array([[3, 9, 0, 3], [7, 0, 9, 9]])
    valid = np.array([[True, True, False, False], [True, False, False, False]])
    other = np.where(valid, positions, 11)
    assert evaluate_baselines(FITTED, tokens, positions, valid) == evaluate_baselines(
        FITTED, tokens, other, valid
    )


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("num_before", [0, 1, 3, 4])
def test_words_without_right_side_sum_to_one(order: int, num_before: int) -> None:
    num_before = min(num_before, order)
    contexts = Contexts(*(np.array([value]) for value in (2_345, num_before, 0, 0)))
    scores = score_words(FITTED.chains, order, 3, contexts)
    assert scores.shape == (1, 64)
    assert np.exp(scores).sum() == pytest.approx(1, rel=FLOAT32)


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


def test_smoothing_by_hand() -> None:
    """Of 9 words of two letters, AT twice and AC once: 512 counts of each lower order are added."""
    counts = np.zeros(16, np.int64)
    counts[[0b0001, 0b0010, 0b0110]] = (2, 1, 6)
    order_0, order_1 = fit_chains(counts).log_probs
    letters = np.array([0, 2, 7, 0]) + 512 * 0.25
    np.testing.assert_allclose(np.exp(order_0), letters / (9 + 512), rtol=FLOAT32)
    after_a = np.array([0, 2, 1, 0]) + 512 * letters / (9 + 512)
    np.testing.assert_allclose(np.exp(order_1[:4]), after_a / (3 + 512), rtol=FLOAT32)


def test_chain_that_knows_the_text() -> None:
    """A period of 7 letters: order 3 knows what comes, order 0 would not."""
    text = "ATTGCAC" * 30_000
    baselines = fit_baselines(Records(text.encode()), TOKENIZER, 10**9, max_order=6)
    tokens = TOKENIZER.encode_batch([text[:700]])
    positions = np.arange(5, 225, 10)[None]
    measured = evaluate_baselines(baselines, tokens, positions, np.ones_like(positions, bool))
    assert measured["markov_6"].accuracy == 1
    assert measured["markov_6"].cross_entropy < 0.1
    assert measured["frequency"].cross_entropy > 1.5
    name, best = best_markov(measured)
    assert best == measured[name]
    assert best.cross_entropy == min(
        row.cross_entropy for key, row in measured.items() if key != "frequency"
    )


def test_eleven_letters_on_both_sides_of_a_6_mer() -> None:
    """The default order and tokens: letters 12 away change nothing, letters 11 away do."""
    tokenizer = KmerTokenizer()
    baselines = fit_baselines(Records(make_text(200_000, 7).encode()), tokenizer, 10**9)
    text = make_text(66, 8)
    positions, valid = np.array([[6]]), np.ones((1, 1), bool)  # letters 30 to 35

    def measure(text: str) -> list[Metrics]:
        rows = evaluate_baselines(baselines, tokenizer.encode_batch([text]), positions, valid)
        return list(rows.values())[1:]

    expected = measure(text)
    assert len(expected) == 11
    for order, place in itertools.product((10, 11), (30 - 12, 30 - 11, 35 + 11, 35 + 12)):
        other = "A" if text[place] != "A" else "C"
        changed = measure(text[:place] + other + text[place + 1 :])
        reaches = place in (19, 46) and order == 11
        assert (changed[order - 1] != expected[order - 1]) == reaches


def test_cap_reads_records_spread_over_the_split() -> None:
    reader = Records(*(make_text(100, seed).encode() for seed in range(50)))
    baselines = fit_baselines(reader, TOKENIZER, 1_000, max_order=2)
    assert baselines.num_nucleotides == 1_000
    assert reader.read_indices[-10:] == list(range(0, 50, 5))
    again = fit_baselines(reader, TOKENIZER, 1_000, max_order=2)
    np.testing.assert_array_equal(again.log_frequencies, baselines.log_frequencies)
    assert fit_baselines(reader, TOKENIZER, 10**6, max_order=2).num_nucleotides == 5_000


@pytest.mark.parametrize(("position", "token"), [(0, "<cls>"), (4, "N"), (6, "<pad>")])
def test_masked_token_must_be_known(position: int, token: str) -> None:
    tokens = TOKENIZER.encode_batch(["ATTGGGCNC"], length=7)
    with pytest.raises(ValueError, match="must spell known nucleotides") as error:
        evaluate_baselines(FITTED, tokens, np.array([[position]]), np.ones((1, 1), bool))
    assert repr(token) in str(error.value)


def test_bad_slots_and_limits() -> None:
    tokens = TOKENIZER.encode_batch(["ATTGGGCCC"])
    with pytest.raises(ValueError, match="masked twice"):
        evaluate_baselines(FITTED, tokens, np.array([[2, 2]]), np.ones((1, 2), bool))
    with pytest.raises(ValueError, match="at least one"):
        evaluate_baselines(FITTED, tokens, np.array([[2, 2]]), np.zeros((1, 2), bool))
    with pytest.raises(ValueError, match="max_nucleotides"):
        fit_baselines(Records(b"ACGT"), TOKENIZER, 0)
    with pytest.raises(ValueError, match="max_order"):
        fit_baselines(Records(b"ACGT"), TOKENIZER, 10, max_order=12)
