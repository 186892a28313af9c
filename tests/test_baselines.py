"""Baselines: equal to enumeration by hand, blind to what is masked, right where that is known."""

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_chains import PlainChain, Records, make_text

from nucleotide_transformer.pretraining import mixture
from nucleotide_transformer.pretraining.baselines import (
    FREQUENCY,
    MARKOV,
    Baselines,
    evaluate_baselines,
    fit_baselines,
)
from nucleotide_transformer.pretraining.counts import count_split
from nucleotide_transformer.pretraining.markov import MAX_ORDER
from nucleotide_transformer.pretraining.mixture import Weights
from nucleotide_transformer.pretraining.scores import Metrics, Scores, make_metrics
from nucleotide_transformer.tokenizers import KmerTokenizer

TOKENIZER = KmerTokenizer("v2", k=3)
COMPONENTS = ((1, 512.0), (3, 512.0), (4, 512.0), (4, 4.0))
WEIGHTS = Weights(
    np.array([0.05, 0.1, 0.2]),
    np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.0, 0.5, 0.0, 0.5], [0.7, 0, 0, 0.3]]),
)
FLOAT32 = 1e-5
"""Relative: a sum of at most 20 logarithms in float32, each rounded to 6e-8 of about 10."""
TRAINING = [make_text(3_000, 1), make_text(500, 2) + "NN" + make_text(700, 3), "ACGNA", "A"]


def fit(records: list[str], tokenizer: KmerTokenizer = TOKENIZER, **options: int) -> Baselines:
    counts = count_split(Records(*map(str.encode, records)), tokenizer, 10**9, **options)
    return fit_baselines(counts, tokenizer, num_tokens=30, share=0.15)


@pytest.fixture(scope="module")
def fitted() -> Baselines:
    """Chains of four orders and kinds, with weights of four classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "COMPONENTS", COMPONENTS)
        return dataclasses.replace(fit(TRAINING, max_order=4), weights=WEIGHTS)


def predict_plainly(
    chains: list[PlainChain], kinds: dict[int, float], tokens: list[str], masked: int
) -> dict[str, float]:
    """Probability of every token at a place of a text in which `?` is masked."""
    before = re.split("[^ACGT]", "".join(tokens[:masked]))[-1]
    after = re.split("[^ACGT]", "".join(tokens[masked + 1 :]))[0]
    predicted = {
        length: [
            chain.predict(before, after, length, order)
            for chain, (order, _) in zip(chains, COMPONENTS, strict=True)
        ]
        for length in kinds
    }
    sure = max(predicted[3][-1].values())
    shares = WEIGHTS.shares[sum(edge <= sure for edge in WEIGHTS.edges)]
    return {
        word: kind * sum(s * each[word] for s, each in zip(shares, predicted[length], strict=True))
        for length, kind in kinds.items()
        for word in predicted[length][0]
    }


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.3, 0.6]))
def test_mixture_equals_enumeration(fitted: Baselines, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    sequences = [make_text(31, seed) + "N" + make_text(14, seed + 1), make_text(22, seed + 2)]
    tokens = TOKENIZER.encode_batch(sequences)
    known = (tokens >= 6) & (tokens < 6 + 68)
    masked = known & (rng.random(tokens.shape) < share)
    masked[0, 1] = True
    found = evaluate_baselines(fitted, tokens, *to_slots(masked))[MARKOV]
    chains = [PlainChain(TRAINING, prior) for _, prior in COMPONENTS]
    kinds = dict(zip((3, 1), fitted.kinds.tolist(), strict=True))
    for row, hidden in enumerate(masked):
        texts = [TOKENIZER.id_to_token(i) for i in tokens[row]]
        seen = ["?" if h else text for text, h in zip(texts, hidden, strict=True)]
        nats, num_correct, num_letters = 0.0, 0, 0
        for place in np.flatnonzero(hidden).tolist():
            probs = predict_plainly(chains, kinds, seen, place)
            nats -= math.log(probs[texts[place]])
            num_correct += max(probs, key=probs.__getitem__) == texts[place]
            num_letters += len(texts[place])
        assert found.nats[row] == pytest.approx(nats, rel=FLOAT32)
        assert found.num_correct[row] == num_correct
        assert (found.num_masked[row], found.num_nucleotides[row]) == (hidden.sum(), num_letters)


def to_slots(masked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and valid slots, the valid ones first, as `mask_tokens` gives them."""
    positions = np.argsort(~masked, axis=1, kind="stable")
    valid = np.take_along_axis(masked, positions, axis=1)
    num_slots = valid.sum(1).max() + 1
    return positions[:, :num_slots], valid[:, :num_slots]


@pytest.mark.parametrize("name", [FREQUENCY, MARKOV])
def test_all_tokens_sum_to_one_whatever_is_hidden_beside_them(fitted: Baselines, name: str) -> None:
    """Two masked neighbours, with each pair of the 68 tokens put there in turn.

    The probability of a pair is the product of the two, each the same whatever the other is.
    """
    pairs = np.array(list(itertools.product(range(68), repeat=2)))
    tokens = np.repeat(TOKENIZER.encode_batch([make_text(30, 4)]), len(pairs), axis=0)
    tokens[:, 4:6] = TOKENIZER.first_kmer_id + pairs
    positions = np.tile([4, 5], (len(pairs), 1))
    scores = evaluate_baselines(fitted, tokens, positions, np.ones(positions.shape, bool))
    probs = np.exp(-scores[name].nats).reshape(68, 68)
    assert probs.sum() == pytest.approx(1, rel=FLOAT32)
    product = np.outer(probs.sum(axis=1), probs.sum(axis=0))
    np.testing.assert_allclose(probs, product, rtol=10 * FLOAT32)


def measure(baselines: Baselines, *arguments: np.ndarray) -> dict[str, Metrics]:
    scores = evaluate_baselines(baselines, *arguments)
    return {name: make_metrics(row) for name, row in scores.items()}


def test_frequency_is_that_of_the_training_tokens() -> None:
    baselines = fit(["ATTATTATTC", "ATTNGGGA"], max_order=1)
    tokens = TOKENIZER.encode_batch(["ATTGGGCCCAT"])  # ATT GGG CCC A T
    positions, valid = np.arange(1, 6)[None], np.ones((1, 5), bool)
    # 4 ATT, 1 GGG, 1 A, 1 C, and one more of each of the 68 tokens.
    likelihoods = np.array([5, 2, 1, 2, 1]) / (7 + 68)
    found = measure(baselines, tokens, positions, valid)[FREQUENCY]
    assert found.cross_entropy == pytest.approx(-np.log(likelihoods).mean(), rel=1e-12)
    assert found.perplexity == pytest.approx(math.exp(found.cross_entropy), rel=1e-12)
    assert found.accuracy == 1 / 5
    bits = -np.log2(likelihoods).sum() / (3 * 3 + 2)
    assert found.bits_per_nucleotide == pytest.approx(bits, rel=1e-12)


def assert_equal(found: dict[str, Scores], expected: dict[str, Scores]) -> None:
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        for leaf, other in zip(found[name], scores, strict=True):
            np.testing.assert_array_equal(leaf, other)


def test_slots_that_are_not_valid_weigh_nothing(fitted: Baselines) -> None:
    tokens = TOKENIZER.encode_batch([make_text(60, 5), make_text(60, 6)])
    positions = np.array([[3, 9, 0, 3], [7, 0, 9, 9]])
    valid = np.array([[True, True, False, False], [True, False, False, False]])
    expected = evaluate_baselines(fitted, tokens, positions, valid)
    other = np.where(valid, positions, 11)
    assert_equal(evaluate_baselines(fitted, tokens, other, valid), expected)


def test_chain_that_knows_the_text() -> None:
    """A period of 7 letters: order 3 knows what comes, order 0 would not."""
    text = "ATTGCAC" * 30_000
    baselines = fit([text], max_order=6)
    tokens = TOKENIZER.encode_batch([text[:700]])
    positions = np.arange(5, 225, 10)[None]
    found = measure(baselines, tokens, positions, np.ones_like(positions, bool))
    assert found[MARKOV].accuracy == 1
    assert found[MARKOV].cross_entropy < 0.1
    assert found[FREQUENCY].cross_entropy > 1.5


def test_both_strands_are_known() -> None:
    """Held-out DNA that is the reverse complement of the training text."""
    text = make_text(40_000, 9)
    other = text.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    baselines = fit([text], max_order=8)
    positions = np.arange(5, 6_000, 10)[None]
    found = [
        measure(baselines, TOKENIZER.encode_batch([t]), positions, np.ones_like(positions, bool))
        for t in (text, other)
    ]
    one, reverse = (row[MARKOV].cross_entropy for row in found)
    assert found[1][FREQUENCY].cross_entropy - reverse > 0.5
    assert abs(one - reverse) < 0.1


def test_twelve_letters_on_both_sides_of_a_6_mer() -> None:
    """The default order and tokens: letters 13 away change nothing, letters 12 away do."""
    tokenizer = KmerTokenizer()
    baselines = fit([make_text(200_000, 7)], tokenizer)
    text = make_text(66, 8)
    positions, valid = np.array([[6]]), np.ones((1, 1), bool)  # letters 30 to 35

    def score(text: str) -> float:
        tokens = tokenizer.encode_batch([text])
        return float(evaluate_baselines(baselines, tokens, positions, valid)[MARKOV].nats[0])

    expected = score(text)
    assert MAX_ORDER == 12
    for place in (30 - 13, 30 - 12, 35 + 12, 35 + 13):
        other = "A" if text[place] != "A" else "C"
        changed = score(text[:place] + other + text[place + 1 :])
        assert (changed != expected) == (place in (18, 47))


def make_repeats(num_records: int) -> list[str]:
    """Records of noise, half of each a piece of one text that all of them repeat."""
    rng = np.random.default_rng(10)
    repeated = "".join(rng.choice(list("ACGT"), 3_000))
    records = []
    for _ in range(num_records):
        start = int(rng.integers(0, 2_800))
        noise = "".join(rng.choice(list("ACGT"), 200))
        records.append(noise + repeated[start : start + 200])
    return records


def test_weights_are_fitted_to_held_back_records() -> None:
    """Where 400 records are read, the sharp chain gets the places where it is sure.

    Held-out DNA of the same kind is predicted better than with equal weights.
    """
    tokenizer = KmerTokenizer()
    counts = count_split(
        Records(*map(str.encode, make_repeats(400))), tokenizer, 10**9, max_order=8
    )
    assert len(counts.held_back) == 6
    baselines = fit_baselines(counts, tokenizer, num_tokens=67, share=0.15)
    alone = dataclasses.replace(counts, held_back=())
    equal = fit_baselines(alone, tokenizer, num_tokens=67, share=0.15)
    np.testing.assert_array_equal(equal.weights.shares, np.full((1, 4), 0.25))
    assert baselines.weights.shares[-1, -1] > 0.5 > baselines.weights.shares[0, -1]

    tokens = tokenizer.encode_batch(make_repeats(430)[400:])
    positions = np.tile(np.arange(2, 66, 7), (30, 1))
    valid = np.ones_like(positions, bool)
    better, worse = (measure(b, tokens, positions, valid)[MARKOV] for b in (baselines, equal))
    assert better.cross_entropy < worse.cross_entropy - 0.1


def test_kinds_of_tokens_are_those_of_sequences() -> None:
    """A record goes on behind a sequence, whose tokens are 6-mers but for those around an N."""
    tokenizer = KmerTokenizer()
    record = make_text(60, 11) + "ACNGT" + make_text(29, 12)
    counts = count_split(Records(*[record.encode()] * 400), tokenizer, 10**9, max_order=2)
    # A sequence has <cls>, 10 6-mers, A, C, N, and two 6-mers: GTxxxx, xxxxxx.
    fitted = fit_baselines(counts, tokenizer, num_tokens=16, share=0.15)
    assert fitted.kinds.sum() == pytest.approx(1)
    assert fitted.kinds[1] == pytest.approx(2 / 14, rel=0.01)


@pytest.mark.parametrize(("position", "token"), [(0, "<cls>"), (4, "N"), (6, "<pad>")])
def test_masked_token_must_be_known(fitted: Baselines, position: int, token: str) -> None:
    tokens = TOKENIZER.encode_batch(["ATTGGGCNC"], length=7)
    with pytest.raises(ValueError, match="must spell known nucleotides") as error:
        evaluate_baselines(fitted, tokens, np.array([[position]]), np.ones((1, 1), bool))
    assert repr(token) in str(error.value)


def test_bad_slots(fitted: Baselines) -> None:
    tokens = TOKENIZER.encode_batch(["ATTGGGCCC"])
    with pytest.raises(ValueError, match="masked twice"):
        evaluate_baselines(fitted, tokens, np.array([[2, 2]]), np.ones((1, 2), bool))
    with pytest.raises(ValueError, match="at least one"):
        evaluate_baselines(fitted, tokens, np.array([[2, 2]]), np.zeros((1, 2), bool))
