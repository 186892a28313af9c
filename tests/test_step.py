"""The step: the same update on 1, 2 and 8 devices, replicas that agree, and a loss that falls."""

import dataclasses

import jax
import numpy as np
import pytest

from nucleotide_transformer.config import (
    ComputeConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
)
from nucleotide_transformer.training.step import (
    find_devices,
    init_state,
    lay_out_batch,
    make_train_step,
)

NUM_TOKENS, NUM_SEQUENCES = 24, 16
CONFIG = PretrainConfig(
    model=ModelConfig(k=3, num_layers=2, embed_dim=16, num_heads=2, ffn_dim=24),
    data=DataConfig(sequence_tokens=NUM_TOKENS),
    tokens_per_update=NUM_SEQUENCES * NUM_TOKENS,
    sequences_per_device=2,
)


def make_batch(seed=0):
    """Sequences of very different lengths, so that devices hold unequal masked counts."""
    rng = np.random.default_rng(seed)
    model = CONFIG.model
    tokens = rng.integers(model.first_kmer_id, 70, (NUM_SEQUENCES, NUM_TOKENS), dtype=np.int32)
    tokens[:, 0] = model.cls_token_id
    for row, sequence in enumerate(tokens):
        sequence[NUM_TOKENS - row :] = model.pad_token_id
    return tokens, np.arange(NUM_SEQUENCES, dtype=np.int32)


def run(num_devices, sequences_per_device, num_steps=3, config=CONFIG):
    config = dataclasses.replace(config, sequences_per_device=sequences_per_device)
    state, step = init_state(config), make_train_step(config, find_devices(num_devices))
    metrics = []
    for seed in range(num_steps):
        batch = lay_out_batch(
            *make_batch(seed), num_devices=num_devices, sequences_per_device=sequences_per_device
        )
        state, one = step(state, batch)
        metrics.append(jax.device_get(one))
    return state, metrics


@pytest.fixture(scope="module")
def reference():
    return run(1, NUM_SEQUENCES)


@pytest.mark.parametrize(("num_devices", "at_once"), [(1, 4), (2, 8), (8, 1), (8, 2)])
def test_devices_and_accumulation_do_not_change_an_update(reference, num_devices, at_once):
    state, metrics = run(num_devices, at_once)
    expected_state, expected = reference
    for one, other in zip(expected, metrics, strict=True):
        assert one.masked_tokens == other.masked_tokens
        np.testing.assert_allclose(one.loss, other.loss, atol=1e-5)
        np.testing.assert_allclose(one.gradient_norm, other.gradient_norm, atol=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (expected_state, state)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_replicas_hold_the_same_bits():
    """`out_axes=None` takes one device's result unchecked: look at every device's."""
    config, devices = CONFIG, find_devices(8)
    state = init_state(config)
    step = make_train_step(config, devices)
    batch = lay_out_batch(*make_batch(), num_devices=8, sequences_per_device=2)
    state, _ = step(state, batch)
    for leaf in jax.tree.leaves(state):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert all(np.array_equal(shards[0], shard) for shard in shards[1:])


def test_the_same_run_repeats_itself_bit_for_bit(reference):
    again, _ = run(1, NUM_SEQUENCES)
    for one, other in zip(*map(jax.tree.leaves, (reference[0], again)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_masks_follow_the_step_and_not_the_batch():
    """Two updates on one batch mask it differently: another step, another mask."""
    config = dataclasses.replace(
        CONFIG, optimizer=OptimizerConfig(peak_learning_rate=1e-30, initial_learning_rate=0.0)
    )
    state, step = init_state(config), make_train_step(config, find_devices(1))
    batch = lay_out_batch(*make_batch(), num_devices=1, sequences_per_device=2)
    state, first = step(state, batch)
    state, second = step(state, batch)
    assert float(first.loss) != float(second.loss)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_loss_falls_on_one_batch_in_every_precision(dtype):
    optimizer = OptimizerConfig(
        initial_learning_rate=1e-2, peak_learning_rate=1e-2, warmup_steps=100
    )
    compute = ComputeConfig(compute_dtype=dtype)
    config = dataclasses.replace(CONFIG, optimizer=optimizer, compute=compute)
    state, step = init_state(config), make_train_step(config, find_devices(1))
    batch = lay_out_batch(*make_batch(), num_devices=1, sequences_per_device=2)
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch)
        losses.append(float(metrics.loss))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5
    assert int(state.step) == 60


def test_learning_rate_of_the_first_update_is_the_initial_one(reference):
    _, metrics = reference
    assert float(metrics[0].learning_rate) == pytest.approx(5e-5)


def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="num_devices = 9: this process has 8 of the platform cpu"):
        find_devices(9)


def test_an_update_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="16 sequences must be a multiple of 8 devices x 4"):
        dataclasses.replace(CONFIG, sequences_per_device=4).accumulation_steps(8)
