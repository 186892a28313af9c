"""Trainable and frozen parameters, and what an adapter takes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nucleotide_transformer.training.devices import find_devices
from nucleotide_transformer.training.state import init_state, merge, partition
from nucleotide_transformer.training.step import fetch_state, make_train_step, place_state

PARAMS = {
    "base": {"block/mha/query": {"w": jnp.eye(3), "b": jnp.ones(3)}, "head": {"w": jnp.ones(3)}},
    "lora": {"down": jnp.full((3, 1), 0.5), "up": jnp.zeros((1, 3))},
}


def test_a_partition_has_each_leaf_once_and_merges_back():
    trainable, frozen = partition(PARAMS, lambda path: path.startswith("lora") or path[-2:] == "/b")
    assert trainable["base"]["block/mha/query"]["w"] is None
    assert trainable["base"]["block/mha/query"]["b"] is PARAMS["base"]["block/mha/query"]["b"]
    assert frozen["lora"] == {"down": None, "up": None}
    assert len(jax.tree.leaves(trainable)) == 3
    assert len(jax.tree.leaves(frozen)) == 2
    merged = merge(trainable, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    assert all(map(lambda a, b: a is b, jax.tree.leaves(merged), jax.tree.leaves(PARAMS)))


def test_frozen_parameters_have_no_moments():
    state = init_state(PARAMS, optax.adam(1e-3), lambda path: path.startswith("lora"))
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state.opt_state))
    assert shapes == [(), (1, 3), (1, 3), (3, 1), (3, 1)]
    assert jax.tree.structure(state.params) == jax.tree.structure(PARAMS)


def test_an_adapter_trains_and_its_base_keeps_every_bit():
    """Low-rank updates of one matrix, fitted to targets: all that an adapter takes."""

    def adapter_loss(params, micro, key):
        base = params["base"]
        query = base["block/mha/query"]["w"] + params["lora"]["down"] @ params["lora"]["up"]
        predicted = micro["x"] @ query @ base["head"]["w"]
        return jnp.square(predicted - micro["y"]).sum(), {"weight": jnp.float32(len(predicted))}

    devices, optimizer = find_devices(2), optax.adam(3e-2)
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(2, 1, 8, 3)).astype(np.float32)}
    batch["y"] = batch["x"] @ np.float32([2.0, 0.0, 1.0])
    step = make_train_step(adapter_loss, optimizer, lambda _: 3e-2, devices, seed=0)
    state = place_state(init_state(PARAMS, optimizer, lambda p: p.startswith("lora")), devices)
    losses = []
    for _ in range(200):
        state, metrics = step(state, batch, np.zeros(2, bool))
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.01 * losses[0]
    frozen = fetch_state(state).frozen["base"]
    for one, other in zip(*map(jax.tree.leaves, (frozen, PARAMS["base"])), strict=True):
        np.testing.assert_array_equal(one, other)
