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
    make_collect,
    make_train_step,
    place_state,
)

NUM_TOKENS, NUM_SEQUENCES = 24, 16
CONFIG = PretrainConfig(
    model=ModelConfig(k=3, num_layers=3, embed_dim=16, num_heads=2, ffn_dim=24),
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
    devices = find_devices(num_devices)
    state, step = (
        place_state(init_state(config), config, devices),
        make_train_step(config, devices),
    )
    metrics = []
    for seed in range(num_steps):
        batch = lay_out_batch(
            *make_batch(seed), num_devices=num_devices, sequences_per_device=sequences_per_device
        )
        state, one = step(state, batch)
        metrics.append(jax.device_get(one))
    return make_collect(config, devices)(state), metrics


@pytest.fixture(scope="module")
def reference():
    return run(1, NUM_SEQUENCES)


@pytest.mark.parametrize(
    ("num_devices", "at_once", "sharded"),
    [(1, 4, False), (2, 8, False), (8, 1, False), (8, 2, False), (8, 2, True)],
)
def test_devices_accumulation_and_sharding_do_not_change_an_update(
    reference, num_devices, at_once, sharded
):
    config = dataclasses.replace(CONFIG, shard_optimizer=sharded)
    state, metrics = run(num_devices, at_once, config=config)
    expected_state, expected = reference
    for one, other in zip(expected, metrics, strict=True):
        assert one.masked_tokens == other.masked_tokens
        np.testing.assert_allclose(one.loss, other.loss, atol=1e-5)
        np.testing.assert_allclose(one.gradient_norm, other.gradient_norm, atol=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (expected_state, state)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_loop_over_blocks_gives_the_update_of_the_scan_and_weights_alone_decay():
    decaying = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(weight_decay=10.0))
    loop = dataclasses.replace(decaying, compute=ComputeConfig(stack="loop"))
    (scanned, _), (looped, _), (whole, _) = (
        run(2, 4, config=config) for config in (decaying, loop, CONFIG)
    )
    for one, other in zip(*map(jax.tree.leaves, (looped, scanned)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    # Three updates with a learning rate of 5e-5: weights lose 1.5e-3 of their size; Adam moves each
    # parameter by 1.5e-4 at the most, in either direction.
    for module, leaves in whole.params.items():
        for name, leaf in leaves.items():
            share = 1.5e-3 if name in ("w", "embeddings") else 0.0
            np.testing.assert_allclose(
                scanned.params[module][name], leaf * (1 - share), atol=3.1e-4, err_msg=module + name
            )
    weights = [leaves["w"] for name, leaves in whole.params.items() if name.endswith("fc1")]
    assert len(weights) == 3
    assert min(abs(leaf).max() for leaf in weights) * 1.5e-3 > 6e-4


def test_replicas_hold_the_same_bits():
    """`out_axes=None` takes one device's result unchecked: look at every device's."""
    config, devices = CONFIG, find_devices(8)
    state = init_state(config)
    step = make_train_step(config, devices)
    batch = lay_out_batch(*make_batch(), num_devices=8, sequences_per_device=2)
    state, _ = step(state, batch)
    for leaf in jax.tree.leaves(state):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 8
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


def test_sharded_moments_take_an_eighth_of_the_memory():
    config = dataclasses.replace(CONFIG, shard_optimizer=True)
    state = place_state(init_state(config), config, find_devices(8))
    batch = lay_out_batch(*make_batch(), num_devices=8, sequences_per_device=2)
    state, _ = make_train_step(config, find_devices(8))(state, batch)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    params = jax.tree.leaves(state.params)
    sizes = [-(-leaf.size // 8) for leaf in params]
    assert [leaf.addressable_shards[0].data.size for leaf in moments] == sizes + sizes


def test_clipping_bounds_the_update_and_not_the_reported_norm():
    optimizer = OptimizerConfig(clip_norm=1e-3, beta1=0.0)
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    state, metrics = run(1, NUM_SEQUENCES, num_steps=1, config=config)
    assert metrics[0].gradient_norm > 0.1
    second = next(part.nu for part in state.opt_state if hasattr(part, "nu"))
    # Adam's second moment is 0.001 times the square of the clipped gradient.
    total = sum(float(leaf.sum()) for leaf in jax.tree.leaves(second))
    assert (total / 1e-3) ** 0.5 == pytest.approx(1e-3, rel=1e-4)


def test_a_step_is_compiled_once():
    """The state lies on the devices before the first update as it does after it."""
    compiled = []

    def listen(event, _seconds, **_):
        compiled.append(event) if "backend_compile" in event else None

    devices = find_devices(2)
    state, step = place_state(init_state(CONFIG), CONFIG, devices), make_train_step(CONFIG, devices)
    batch = lay_out_batch(*make_batch(), num_devices=2, sequences_per_device=2)
    jax.monitoring.register_event_duration_secs_listener(listen)
    state, _ = step(state, batch)
    assert len(compiled) >= 1
    compiled.clear()
    step(state, batch)
    assert compiled == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_of_a_float32_run_are_exact_on_accelerators_too(dtype):
    """GPUs would round their factors to 11 bits, TPUs to 8, backwards as well as forwards."""
    config = dataclasses.replace(CONFIG, compute=ComputeConfig(compute_dtype=dtype))
    devices = find_devices(1)
    state = place_state(init_state(config), config, devices)
    batch = lay_out_batch(*make_batch(), num_devices=1, sequences_per_device=2)

    def find_precisions(program):
        for equation in program.eqns:
            if equation.primitive.name == "dot_general":
                yield equation.params["precision"]
            for option in jax.tree.leaves(list(equation.params.values())):
                inner = getattr(option, "jaxpr", option)
                yield from find_precisions(inner) if hasattr(inner, "eqns") else ()

    traced = jax.make_jaxpr(make_train_step(config, devices))(state, batch)
    highest = (jax.lax.Precision.HIGHEST,) * 2
    found = list(find_precisions(traced.jaxpr))
    assert len(found) > 20
    assert set(found) == {highest if dtype == "float32" else None}
