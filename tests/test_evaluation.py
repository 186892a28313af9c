"""Held-out evaluation: fixed masks, sums over counts, and no dependence on the layout."""

import functools
import math

import jax
import numpy as np
import pytest

from nucleotide_transformer.config import MaskingConfig, ModelConfig
from nucleotide_transformer.model import init_params, make_forward
from nucleotide_transformer.pretraining.evaluation import (
    Evaluator,
    count_nucleotides,
    make_metrics,
    mask_evaluation_set,
)
from nucleotide_transformer.pretraining.objective import predict_masked
from nucleotide_transformer.training.devices import find_devices, plan_layout
from nucleotide_transformer.training.step import make_sum_step

MODEL = ModelConfig(k=3, num_layers=1, embed_dim=16, num_heads=2, ffn_dim=24)


def make_tokens(num_sequences=7):
    rng = np.random.default_rng(0)
    tokens = rng.integers(MODEL.first_kmer_id, 74, (num_sequences, 20), dtype=np.int32)
    tokens[:, 0] = MODEL.cls_token_id
    tokens[3, 8:] = MODEL.pad_token_id
    return tokens


def test_every_selected_token_is_hidden_and_the_masks_are_fixed():
    masked = mask_evaluation_set(make_tokens(), MaskingConfig(), MODEL)
    seen = np.take_along_axis(masked.inputs, masked.positions, axis=1)
    assert (seen[masked.valid] == MODEL.mask_token_id).all()
    again = mask_evaluation_set(make_tokens(), MaskingConfig(), MODEL)
    assert all(np.array_equal(*pair) for pair in zip(masked, again, strict=True))


def test_nucleotides_of_masked_tokens_are_k_or_one():
    masked = mask_evaluation_set(make_tokens(), MaskingConfig(), MODEL)
    targets = masked.targets[masked.valid]
    kmers = targets < MODEL.first_kmer_id + 64
    assert count_nucleotides(masked, MODEL) == 3 * kmers.sum() + (~kmers).sum()


@pytest.mark.parametrize(("num_devices", "at_once"), [(1, 2), (2, 2), (3, 1), (8, 1)])
def test_equals_the_mean_over_all_masked_tokens(num_devices, at_once):
    masked = mask_evaluation_set(make_tokens(), MaskingConfig(), MODEL)
    params = init_params(jax.random.key(3), MODEL)
    logits = make_forward(MODEL).apply(params, jax.numpy.asarray(masked.inputs)).logits
    wide = np.asarray(logits, np.float64)
    log_probabilities = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    rows = np.arange(len(masked.inputs))[:, None]
    nats = -log_probabilities[rows, masked.positions, masked.targets][masked.valid]
    right = (wide[rows, masked.positions].argmax(-1) == masked.targets)[masked.valid]

    step = make_sum_step(
        functools.partial(predict_masked, make_forward(MODEL)), find_devices(num_devices)
    )
    like = plan_layout(
        num_devices * at_once, at_most=at_once, num_local=num_devices, num_processes=1
    )
    found = Evaluator(masked, MODEL, step, like=like).evaluate(params)
    assert found.cross_entropy == pytest.approx(nats.mean(), abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats.mean()), rel=1e-4)
    assert found.accuracy == pytest.approx(right.mean(), abs=1e-9)
    bits = nats.sum() / math.log(2) / count_nucleotides(masked, MODEL)
    assert found.bits_per_nucleotide == pytest.approx(bits, abs=1e-5)


def test_batches_weigh_by_their_masked_tokens():
    sums = [
        (np.float32(nats), {"weight": np.float32(masked), "accuracy": np.float32(correct)})
        for nats, masked, correct in ((30.0, 10, 5), (2.0, 1, 0))
    ]
    metrics = make_metrics(sums, 64)
    assert metrics.cross_entropy == pytest.approx(32 / 11)
    assert metrics.accuracy == pytest.approx(5 / 11)
    assert metrics.bits_per_nucleotide == pytest.approx(32 / math.log(2) / 64)
