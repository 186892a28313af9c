"""The step: the gradient of the mean loss, on any number of devices, with any objective."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_precision import find_precisions

from nucleotide_transformer.config import ComputeConfig, MaskingConfig, ModelConfig
from nucleotide_transformer.model import exact_products, init_params, make_forward
from nucleotide_transformer.model.stacking import arrange_params, name_params
from nucleotide_transformer.pretraining.masking import mask_tokens
from nucleotide_transformer.pretraining.objective import Sequences, make_blank, make_loss
from nucleotide_transformer.training.devices import find_devices, lay_out, plan_layout
from nucleotide_transformer.training.state import init_state
from nucleotide_transformer.training.step import fetch_state, make_train_step, place_state

NUM_TOKENS, NUM_SEQUENCES, SEED = 24, 16, 3
MODEL = ModelConfig(k=3, num_layers=2, embed_dim=16, num_heads=2, ffn_dim=24)
SCHEDULE = optax.linear_schedule(1e-3, 2e-3, 10)
OPTIMIZER = optax.adam(SCHEDULE, eps=1e-4)  # else it shows the noise of gradients near zero


pytestmark = pytest.mark.devices(8)


def make_batch(seed=0):
    """Sequences of very different lengths, so that devices hold unequal masked counts."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(MODEL.first_kmer_id, 70, (NUM_SEQUENCES, NUM_TOKENS), dtype=np.int32)
    tokens[:, 0] = MODEL.cls_token_id
    for row, sequence in enumerate(tokens):
        sequence[NUM_TOKENS - row :] = MODEL.pad_token_id
    return Sequences(tokens, np.arange(NUM_SEQUENCES, dtype=np.int32))


class Setting:
    """Everything of a step on some devices."""

    def __init__(self, num_devices=1, at_most=NUM_SEQUENCES, compute=None, optimizer=OPTIMIZER):
        self.compute = compute or ComputeConfig()
        self.devices = find_devices(num_devices)
        self.layout = plan_layout(
            NUM_SEQUENCES, at_most=at_most, num_local=num_devices, num_processes=1
        )
        forward = make_forward(MODEL, self.compute)
        self.step = make_train_step(
            make_loss(forward, MaskingConfig(), MODEL),
            optimizer,
            SCHEDULE,
            self.devices,
            seed=SEED,
            context=lambda: exact_products(self.compute),
        )
        params = init_params(jax.random.key(1), MODEL, self.compute)
        start = init_state(arrange_params(params, self.compute.stack), optimizer)
        self.start = jax.device_get(start)
        self.state = place_state(self.start, self.devices)
        self.stops = np.zeros(num_devices, bool)

    def again(self, step=0):
        """The same compiled update, from the first parameters."""
        other = copy.copy(self)
        other.state = place_state(self.start._replace(step=np.int32(step)), self.devices)
        return other

    def lay_out(self, batch):
        return lay_out(batch, make_blank(MODEL, NUM_TOKENS), self.layout)

    def update(self, batch):
        self.state, metrics = self.step(self.state, self.lay_out(batch), self.stops)
        return jax.device_get(metrics)

    def run(self, num_steps=3):
        metrics = [self.update(make_batch(seed)) for seed in range(num_steps)]
        return name_params(fetch_state(self.state)), metrics


@pytest.fixture(scope="module")
def alone():
    """One device, which takes all sequences at once."""
    return Setting()


@pytest.fixture(scope="module")
def reference(alone):
    return alone.again().run()


@pytest.mark.parametrize(("num_devices", "at_most"), [(1, 4), (3, 2), (6, 16), (8, 1)])
def test_devices_accumulation_and_blank_rows_do_not_change_an_update(
    reference, num_devices, at_most
):
    setting = Setting(num_devices, at_most)
    setting.stops[-1] = True  # of one device; all learn of it
    state, metrics = setting.run()
    expected_state, expected = reference
    assert [(one.stop, other.stop) for one, other in zip(expected, metrics, strict=True)] == (
        [(0, 1)] * 3
    )
    for one, other in zip(expected, metrics, strict=True):
        assert one.weight == other.weight
        np.testing.assert_allclose(one.loss, other.loss, atol=1e-5)
        np.testing.assert_allclose(one.means["accuracy"], other.means["accuracy"], atol=1e-6)
        np.testing.assert_allclose(one.gradient_norm, other.gradient_norm, atol=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (expected_state, state)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for leaf in jax.tree.leaves(setting.state):  # `out_axes=None` takes one device's unchecked
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == num_devices
        assert all(np.array_equal(shards[0], shard) for shard in shards[1:])


def test_one_update_is_the_gradient_of_the_mean_loss_written_out():
    """With plain descent the update shows the gradient itself, which Adam's scale would hide."""
    descent = optax.sgd(1.0)
    setting = Setting(2, 4, optimizer=descent)
    params = init_params(jax.random.key(1), MODEL)
    batch = make_batch(5)
    key = jax.random.fold_in(jax.random.key(SEED), 0)
    tokens, rows = map(jnp.asarray, batch)
    mask = jax.jit(mask_tokens, static_argnums=(3, 4))
    masked = jax.device_get(mask(tokens, rows, key, MaskingConfig(), MODEL))

    def mean_loss(params):
        logits = make_forward(MODEL).apply(params, jnp.asarray(masked.inputs)).logits
        log_probs = jax.nn.log_softmax(logits)
        nats = []
        for row in range(NUM_SEQUENCES):
            slots = np.flatnonzero(masked.valid[row])
            places, targets = masked.positions[row, slots], masked.targets[row, slots]
            nats.append(-log_probs[row, places, targets])
        return jnp.concatenate(nats).mean()

    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(params)
    metrics = setting.update(batch)
    assert metrics.loss == pytest.approx(float(loss), abs=1e-5)
    assert metrics.weight == np.sum(masked.valid)
    assert metrics.gradient_norm == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)
    found = name_params(fetch_state(setting.state)).trainable
    for module, leaves in gradient.items():
        for name, leaf in leaves.items():
            moved = np.asarray(params[module][name]) - found[module][name]
            np.testing.assert_allclose(moved, leaf, atol=1e-6, err_msg=f"{module}/{name}")


def test_a_loop_over_blocks_gives_the_update_of_the_scan(reference):
    looped, _ = Setting(2, 4, ComputeConfig(stack="loop")).run()
    for one, other in zip(*map(jax.tree.leaves, (looped, reference[0])), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_same_run_repeats_itself_bit_for_bit(alone, reference):
    again, _ = alone.again().run()
    for one, other in zip(*map(jax.tree.leaves, (reference[0], again)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_masks_follow_the_step_and_the_seed(alone):
    """The same parameters and batch have another loss at another step, and with another seed."""
    loss_fn = make_loss(make_forward(MODEL), MaskingConfig(), MODEL)
    other = alone.again()
    other.step = make_train_step(loss_fn, OPTIMIZER, SCHEDULE, alone.devices, seed=SEED + 1)
    settings = (alone.again(), alone.again(step=1), other)
    first, second, third = (float(setting.update(make_batch()).loss) for setting in settings)
    assert first not in (second, third)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loss_falls_on_one_batch_in_every_precision(dtype):
    setting = Setting(compute=ComputeConfig(compute_dtype=dtype), optimizer=optax.adam(1e-2))
    losses = [setting.update(make_batch()).loss for _ in range(60)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5
    assert int(setting.state.step) == 60


def test_metrics_name_the_rate(reference):
    rates = [metrics.learning_rate for metrics in reference[1]]
    np.testing.assert_allclose(rates, [1e-3, 1.1e-3, 1.2e-3])


def test_an_objective_without_a_transformer_takes_a_function():
    """A new objective: its loss, its counts, a batch and a blank row."""

    def loss_fn(params, micro, key):
        error = jnp.square(micro["x"] @ params["w"] - micro["y"]) * micro["real"]
        return error.sum(), {"weight": micro["real"].sum(), "absolute": jnp.sqrt(error).sum()}

    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4)).astype(np.float32)
    batch = {"x": x, "y": x @ np.ones(4, np.float32), "real": np.ones(5, np.float32)}
    blank = {name: np.zeros_like(leaf[:1]) for name, leaf in batch.items()}
    devices = find_devices(3)
    layout = plan_layout(5, at_most=1, num_local=3, num_processes=1)
    step = make_train_step(loss_fn, optax.sgd(0.1), lambda _: 0.1, devices, seed=0)
    params = {"w": np.zeros(4, np.float32)}
    state = place_state(init_state(params, optax.sgd(0.1)), devices)
    state, metrics = step(state, lay_out(batch, blank, layout), np.zeros(3, bool))
    assert metrics.weight == 5
    assert metrics.loss == pytest.approx(np.mean(batch["y"] ** 2), rel=1e-6)
    assert metrics.means["absolute"] == pytest.approx(np.mean(np.abs(batch["y"])), rel=1e-6)
    gradient = -2 * (x.T @ batch["y"]) / 5
    np.testing.assert_allclose(fetch_state(state).trainable["w"], -0.1 * gradient, rtol=1e-5)


def test_a_batch_of_blank_rows_alone_changes_nothing_but_the_step(alone):
    setting = alone.again()
    before = fetch_state(setting.state).trainable
    blank = jax.tree.map(lambda leaf: leaf.repeat(16, 0), make_blank(MODEL, NUM_TOKENS))
    metrics = setting.update(blank)
    assert (metrics.loss, metrics.weight, metrics.gradient_norm) == (0, 0, 0)
    after = fetch_state(setting.state).trainable
    for one, other in zip(*map(jax.tree.leaves, (before, after)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_state_that_goes_in_is_donated(alone):
    setting = alone.again()
    old = jax.tree.leaves(setting.state.trainable)
    setting.update(make_batch())
    assert all(leaf.is_deleted() for leaf in old)


def test_a_step_is_compiled_once():
    """The state lies on the devices before the first update as it does after it."""
    compiled = []

    def listen(event, _seconds, **_):
        compiled.append(event) if "backend_compile" in event else None

    setting = Setting(2, 4)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        setting.update(make_batch())
        assert len(compiled) >= 1
        compiled.clear()
        setting.update(make_batch(1))
        assert compiled == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_of_a_float32_run_are_exact_on_accelerators_too(dtype):
    """GPUs would round their factors to 11 bits, TPUs to 8, backwards as well as forwards."""
    setting = Setting(compute=ComputeConfig(compute_dtype=dtype))

    traced = jax.make_jaxpr(setting.step)(
        setting.state, setting.lay_out(make_batch()), setting.stops
    )
    highest = (jax.lax.Precision.HIGHEST,) * 2
    found = list(find_precisions(traced.jaxpr))
    assert len(found) > 20
    assert set(found) == {highest if dtype == "float32" else None}
