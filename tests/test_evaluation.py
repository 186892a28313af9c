"""Held-out evaluation: fixed masks, sums over counts, and no dependence on the layout."""

import functools

import jax
import numpy as np
import pytest

from nucleotide_transformer.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    PretrainConfig,
)
from nucleotide_transformer.model import init_params, make_forward
from nucleotide_transformer.pretraining.evaluation import (
    Evaluator,
    HeldOut,
    count_spelled,
    mask_evaluation_set,
)
from nucleotide_transformer.pretraining.objective import score_sequences
from nucleotide_transformer.pretraining.run import make_evaluator
from nucleotide_transformer.pretraining.scores import estimate_errors, make_metrics
from nucleotide_transformer.training.devices import find_devices, plan_layout
from nucleotide_transformer.training.step import make_gather_step

MODEL = ModelConfig(k=3, num_layers=1, embed_dim=16, num_heads=2, ffn_dim=24)


def make_tokens(num_sequences=7):
    rng = np.random.default_rng(0)
    tokens = rng.integers(MODEL.first_kmer_id, 74, (num_sequences, 20), dtype=np.int32)
    tokens[:, 0] = MODEL.cls_token_id
    tokens[3, 8:] = MODEL.pad_token_id
    return tokens


def test_every_selected_token_is_hidden_and_the_masks_are_fixed():
    masked = mask_evaluation_set(make_tokens(), 0.15, MODEL)
    seen = np.take_along_axis(masked.inputs, masked.positions, axis=1)
    assert (seen[masked.valid] == MODEL.mask_token_id).all()
    again = mask_evaluation_set(make_tokens(), 0.15, MODEL)
    assert all(np.array_equal(*pair) for pair in zip(masked, again, strict=True))


def test_nucleotides_of_masked_tokens_are_k_or_one():
    masked = mask_evaluation_set(make_tokens(), 0.15, MODEL)
    for row, number in enumerate(count_spelled(masked, MODEL)):
        targets = masked.targets[row][masked.valid[row]]
        kmers = targets < MODEL.first_kmer_id + 64
        assert number == 3 * kmers.sum() + (~kmers).sum()


@pytest.mark.parametrize(("num_devices", "at_once"), [(1, 2), (2, 2), (3, 1), (8, 1)])
def test_scores_are_those_of_each_sequence(num_devices, at_once):
    """In the order of the set, however they lie on the devices."""
    masked = mask_evaluation_set(make_tokens(), 0.15, MODEL)
    params = init_params(jax.random.key(3), MODEL)
    logits = make_forward(MODEL).apply(params, jax.numpy.asarray(masked.inputs)).logits
    wide = np.asarray(logits, np.float64)
    log_probabilities = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    rows = np.arange(len(masked.inputs))[:, None]
    nats = -log_probabilities[rows, masked.positions, masked.targets]
    right = wide[rows, masked.positions].argmax(-1) == masked.targets

    step = make_gather_step(
        functools.partial(score_sequences, make_forward(MODEL)), find_devices(num_devices)
    )
    like = plan_layout(
        num_devices * at_once, at_most=at_once, num_local=num_devices, num_processes=1
    )
    evaluator = Evaluator(masked, MODEL, step, like=like)
    scores = evaluator.score(params)
    np.testing.assert_allclose(scores.nats, (nats * masked.valid).sum(1), rtol=1e-6)
    np.testing.assert_array_equal(scores.num_correct, (right & masked.valid).sum(1))
    np.testing.assert_array_equal(scores.num_masked, masked.valid.sum(1))
    np.testing.assert_array_equal(scores.num_nucleotides, count_spelled(masked, MODEL))

    values = evaluator.evaluate(params)
    metrics, errors = make_metrics(scores), estimate_errors(scores)
    assert values == {
        "score": metrics.cross_entropy,
        **metrics._asdict(),
        "standard_error": errors.cross_entropy,
    }
    for leaf, other in zip(evaluator.scores, scores, strict=True):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.parametrize(("num_tokens", "at_once"), [(20, 2), (40, 4), (10, 1), (5, 1)])
def test_as_many_tokens_at_once_as_in_training(num_tokens, at_once):
    """Held-out sequences have 20; of those of training a device takes two."""
    config = PretrainConfig(
        model=MODEL,
        data=DataConfig(sequence_tokens=num_tokens),
        evaluation=EvaluationConfig(sequence_tokens=20),
        tokens_per_update=2 * num_tokens,
        total_tokens=2 * num_tokens,
    )
    masked = mask_evaluation_set(make_tokens(), 0.15, MODEL)
    layout = plan_layout(2, at_most=2, num_local=1, num_processes=1)
    held_out = HeldOut(make_tokens(), masked, groups=())
    evaluator = make_evaluator(config, held_out, find_devices(1), layout)
    assert {batch.inputs.shape for batch in evaluator._batches} == {(1, at_once, 20)}


def test_the_rows_of_two_processes_come_back_in_the_order_of_the_set(monkeypatch):
    """Seven sequences, four and three, on two devices each that take one at a time."""
    masked = mask_evaluation_set(make_tokens(), 0.15, MODEL)
    like = plan_layout(4, at_most=1, num_local=2, num_processes=2)
    laid_out = []

    def step(_, batch):
        """What both processes' devices would answer: each row's first target."""
        first = np.concatenate([part[batch].targets[:, :, 0] for part in laid_out])
        return first.astype(np.float32), first

    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        evaluator = Evaluator(masked, MODEL, step, like=like)
        laid_out.append(evaluator._batches)
        evaluator._batches = list(range(len(evaluator._batches)))
    scores = evaluator.score(None)
    np.testing.assert_array_equal(scores.nats, masked.targets[:, 0])
    np.testing.assert_array_equal(scores.num_correct, masked.targets[:, 0])
