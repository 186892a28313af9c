"""What a model says of hidden letters and tokens, against passes of the bare model, one by one.

TOLERANCE: float32 sums in another order, of numbers of order 1.
"""

import jax
import numpy as np
import pytest
from small_genomes import random_letters
from small_models import V2, random_params

from nucleotide_transformer.analysis.judging import judge_nucleotides, judge_tokens
from nucleotide_transformer.inference import BatchConfig, nucleotide_probabilities
from nucleotide_transformer.inference.batching import Row
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer

TOLERANCE = 2e-5
ONE = BatchConfig(num_devices=1, batch_tokens=256)
LENGTH = 64
"""Tokens of a reference pass: one compiled program."""


@pytest.fixture(scope="module")
def model():
    params = random_params(V2)
    sharper = jax.tree.map(lambda x: 2 * x, params)  # far from uniform
    return Model(params=sharper, config=V2, tokenizer=KmerTokenizer(k=V2.k))


@pytest.fixture(scope="module")
def sequences():
    random = np.random.default_rng(0)
    return [random_letters(random, 41) for _ in range(3)]


def pass_hidden(model, tokens, hidden):
    """Logits [T, V] of one sequence with `<mask>` at some places, in a pass of its own."""
    padded = np.full((1, LENGTH), model.config.pad_token_id, np.int32)
    padded[0, : tokens.size] = tokens
    padded[0, hidden] = model.config.mask_token_id
    return np.asarray(model(padded).logits)[0].astype(np.float64)


def softmax(x):
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()


def test_tokens_hidden_alone_give_the_probabilities_of_the_package(model, sequences):
    found = judge_nucleotides(model, sequences, 9, 30, apart=99, batching=ONE)
    for rows, sequence in zip(found, sequences, strict=True):
        assert rows.shape == (21, 4)
        expected = nucleotide_probabilities(model, sequence, batching=ONE)[9:30]
        assert np.abs(expected - 0.25).max() > 0.1
        np.testing.assert_allclose(rows, expected, atol=TOLERANCE)


@pytest.mark.parametrize(("start", "stop", "apart"), [(9, 30, 2), (2, 39, 3), (20, 21, 2)])
def test_each_token_is_hidden_once_with_those_so_far_apart(model, sequences, start, stop, apart):
    """The frames spelled out: letters before the frame, k-mers, what is left over."""
    k, tokenizer, (sequence, *_) = model.config.k, model.tokenizer, sequences
    total = np.zeros((len(sequence), 4))
    for frame in range(k):
        size = (len(sequence) - frame) // k * k
        pieces = [*sequence[:frame]]
        starts = list(range(frame))
        for first in range(frame, frame + size, k):
            pieces.append(sequence[first : first + k])
            starts.append(first)
        pieces += sequence[frame + size :]
        ids = [tokenizer.token_to_id(piece) for piece in pieces]
        tokens = np.array([model.config.cls_token_id, *ids], np.int32)
        wanted = [i for i, s in enumerate(starts) if start - k < s < stop and len(pieces[i]) == k]
        for row in range(apart):
            hidden = wanted[row::apart]
            logits = pass_hidden(model, tokens, [i + 1 for i in hidden])
            for i in hidden:
                words = [t for t in tokenizer.tokens if len(t) == k and set(t) <= set("ACGT")]
                p = softmax(logits[i + 1][[tokenizer.token_to_id(word) for word in words]])
                for word, probability in zip(words, p, strict=True):
                    for place, letter in enumerate(word, start=starts[i]):
                        total[place, "ACGT".index(letter)] += probability / k
    (found,) = judge_nucleotides(model, [sequence], start, stop, apart=apart, batching=ONE)
    np.testing.assert_allclose(found, total[start:stop], atol=TOLERANCE)


def test_scores_of_tokens_hidden_together(model, sequences):
    hidden = [(1, 4, 13), (2, 6, 7), (3, 5, 11)]
    encoded = [model.tokenizer.encode(sequence) for sequence in sequences]
    rows = [Row(tokens, places) for tokens, places in zip(encoded, hidden, strict=True)]
    scores = list(judge_tokens(model, rows, ONE))
    for tokens, places, found in zip(encoded, hidden, scores, strict=True):
        logits = pass_hidden(model, tokens, list(places))
        nats = [-np.log(softmax(logits[place])[tokens[place]]) for place in places]
        np.testing.assert_allclose(found.nats, nats, atol=TOLERANCE)
        best = [float(logits[place].argmax() == tokens[place]) for place in places]
        assert found.correct.tolist() == best


def test_a_step_is_told_for_every_sequence(model, sequences):
    steps = []
    found = judge_nucleotides(
        model, sequences, 20, 22, batching=ONE, report=lambda: steps.append(1)
    )
    assert [len(steps) for _ in found] == [1, 2, 3]
