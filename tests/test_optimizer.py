"""Optimisers against their formulas written out in NumPy, at settings off the defaults.

float32 against float64: a few roundings of 6e-8 each, so rtol = 1e-5, if not said otherwise.
"""

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.optimizer_config import (
    Group,
    GroupConfig,
    NormsConfig,
    OptimizerConfig,
)
from nucleotide_transformer.training.optimizer import OPTIMIZERS, find_group, make_optimizer

GOLDEN = Path(__file__).parent / "golden"
CONSTANT = OptimizerConfig(
    schedule="constant", initial_learning_rate=0.5, peak_learning_rate=0.5, warmup_steps=1
)
"""A learning rate of 0.5, exact in binary."""
BLOCK = "nt/attention_layer_{}/~/{}"
HEAD = "nt/~/esm_roberta_lm_head/~/{}"
SHAPES = {
    "nt/~/embed": {"embeddings": (5, 4)},
    BLOCK.format(0, "mha/query"): {"w": (4, 4), "b": (4,)},
    BLOCK.format(0, "fc1"): {"w": (4, 6)},
    BLOCK.format(0, "fc2"): {"w": (3, 4)},
    BLOCK.format(0, "mha_layer_norm"): {"scale": (4,), "offset": (4,)},
    HEAD.format("emb_layer_norm_after"): {"scale": (4,), "offset": (4,)},
    HEAD.format("lm_final_fc"): {"w": (4, 5), "b": (5,)},
}
GROUPS = {
    "nt/~/embed/embeddings": "tables",
    BLOCK.format(0, "mha/query/w"): "matrices",
    BLOCK.format(0, "mha/query/b"): "norms",
    BLOCK.format(0, "fc1/w"): "matrices",
    BLOCK.format(0, "fc2/w"): "matrices",
    BLOCK.format(0, "mha_layer_norm/scale"): "norms",
    BLOCK.format(0, "mha_layer_norm/offset"): "norms",
    HEAD.format("emb_layer_norm_after/scale"): "norms",
    HEAD.format("emb_layer_norm_after/offset"): "norms",
    HEAD.format("lm_final_fc/w"): "head",
    HEAD.format("lm_final_fc/b"): "norms",
}


class StackedParams(NamedTuple):
    """Parameters as training holds them: blocks but the last with an axis of layers."""

    rest: Any
    blocks: Any
    last: Any


def draw(seed: int, shapes: Any = SHAPES) -> Any:
    """Numbers from a normal distribution; no parameter, offsets included, is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes, is_leaf=is_shape
    )


def is_shape(leaf: Any) -> bool:
    return type(leaf) is tuple


def is_none(leaf: Any) -> bool:
    return leaf is None


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Path -> leaf in float64."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, np.float64)
        for path, leaf in leaves
    }


def run(config: OptimizerConfig, params: Any, gradients: list[Any], total_steps: int = 100) -> Any:
    """The updates of each gradient in turn, while the parameters stay as they are."""
    optimizer = make_optimizer(config, total_steps)
    state, updates = optimizer.init(params), []
    for gradient in gradients:
        update, state = jax.jit(optimizer.update)(gradient, state, params)
        updates.append(update)
    return updates


def compare(updates: Any, expected: dict[str, np.ndarray], **tolerances: float) -> None:
    found = flat(updates)
    assert found.keys() == expected.keys()
    for name, update in found.items():
        np.testing.assert_allclose(update, expected[name], err_msg=name, **tolerances)


def adam_directions(gradients: list[np.ndarray], beta1: float, beta2: float, epsilon: float) -> Any:
    """Kingma & Ba 2015, algorithm 1: the direction after the last of the gradients."""
    first = second = 0.0
    for gradient in gradients:
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
    count = len(gradients)
    return first / (1 - beta1**count) / (np.sqrt(second / (1 - beta2**count)) + epsilon)


def test_the_default_updates_are_those_of_the_published_run_to_the_bit():
    """A pair of Adam's moments and a count, as runs before this had."""
    config = OptimizerConfig()

    def published(step):
        warmup = optax.linear_schedule(5e-5, 1e-4, 16_000)
        return warmup(step) * jnp.sqrt(16_000 / jnp.maximum(step, 16_000))

    chain = optax.chain(
        optax.scale_by_adam(0.9, 0.999, 1e-8), optax.scale_by_learning_rate(published)
    )
    optimizer, params = make_optimizer(config, 300_000), draw(0)
    state, expected_state = optimizer.init(params), chain.init(params)
    for step in range(3):
        gradient = draw(1 + step)
        updates, state = jax.jit(optimizer.update)(gradient, state, params)
        expected, expected_state = jax.jit(chain.update)(gradient, expected_state, params)
        jax.tree.map(np.testing.assert_array_equal, (updates, state), (expected, expected_state))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_three_updates_equal_adamw(name):
    config = dataclasses.replace(
        CONSTANT, name=name, beta1=0.7, beta2=0.9, epsilon=0.1, weight_decay=0.25
    )
    params, gradients = draw(0), [draw(1), draw(2), draw(3)]
    updates = run(config, params, gradients)
    values, gradients = flat(params), [flat(gradient) for gradient in gradients]
    for step in range(3):
        expected = {}
        for name, value in values.items():
            so_far = [gradient[name] for gradient in gradients[: step + 1]]
            decay = 0.0 if GROUPS[name] == "norms" else 0.25 * value
            expected[name] = -0.5 * (adam_directions(so_far, 0.7, 0.9, 0.1) + decay)
        compare(updates[step], expected, rtol=1e-5, atol=1e-6)


def test_two_updates_equal_lion():
    """Exact: a sign, a rate and a decay that are powers of two, parameters of a few bits."""
    config = dataclasses.replace(CONSTANT, name="lion", beta1=0.75, beta2=0.5, weight_decay=0.25)
    params = jax.tree.map(lambda leaf: jnp.round(leaf * 16) / 16, draw(0))
    gradients = [draw(1), draw(2)]
    updates = run(config, params, gradients)
    first, second = map(flat, gradients)
    expected: list[dict[str, np.ndarray]] = [{}, {}]
    for name, value in flat(params).items():
        decay = 0.0 if GROUPS[name] == "norms" else 0.25 * value
        moment = 0.5 * first[name]
        expected[0][name] = -0.5 * (np.sign(first[name]) + decay)
        expected[1][name] = -0.5 * (np.sign(0.75 * moment + 0.25 * second[name]) + decay)
    compare(updates[0], expected[0], rtol=0)
    compare(updates[1], expected[1], rtol=0)


def orthogonalise(matrix: np.ndarray) -> np.ndarray:
    """Five Newton-Schulz iterations (Jordan 2024), on the side with fewer rows."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalise(matrix.T).T
    matrix = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = matrix @ matrix.T
        matrix = 3.4445 * matrix + (-4.7750 * square + 2.0315 * square @ square) @ matrix
    return matrix


def test_two_updates_equal_muon_for_matrices_and_adam_for_the_rest():
    """Five iterations with slope 3.4 multiply roundings by up to 500: 3e-5."""
    config = dataclasses.replace(
        CONSTANT, name="muon", momentum=0.8, beta1=0.7, beta2=0.9, epsilon=0.1, weight_decay=0.25
    )
    params, gradients = draw(0), [draw(1), draw(2)]
    updates = run(config, params, gradients)[1]
    first, second = map(flat, gradients)
    expected = {}
    for name, value in flat(params).items():
        if GROUPS[name] == "matrices":
            moment = 0.2 * (0.8 * first[name] + second[name])
            nesterov = 0.8 * moment / (1 - 0.8**3) + 0.2 * second[name] / (1 - 0.8**2)
            direction = 0.2 * np.sqrt(max(value.shape)) * orthogonalise(nesterov)
        else:
            direction = adam_directions([first[name], second[name]], 0.7, 0.9, 0.1)
        decay = 0.0 if GROUPS[name] == "norms" else 0.25 * value
        expected[name] = -0.5 * (direction + decay)
    compare(updates, expected, rtol=0, atol=5e-5)


def test_muons_directions_are_about_as_long_as_adams():
    """Their root mean square is 0.2 times singular values of 0.7 to 1.2, whatever the shape."""
    config = dataclasses.replace(CONSTANT, name="muon", initial_learning_rate=1.0)
    for shape in [(8, 8), (8, 64), (64, 8)]:
        params = draw(0, {"fc1": {"w": shape}})
        (update,) = run(config, params, [params])
        assert 0.2 * 0.65 < np.sqrt(np.mean(flat(update)["fc1/w"] ** 2)) < 0.2 * 1.25, shape


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_stacked_blocks_get_the_updates_of_separate_ones(name):
    """Biases have two axes there, and matrices three. Batched products round on their own."""
    config = dataclasses.replace(
        CONSTANT,
        name=name,
        weight_decay=0.25,
        clip_norm=0.5,
        matrices=GroupConfig(rate=0.5, decay=0.5),
        norms=NormsConfig(rate=2.0),
    )

    def name_blocks(blocks: list[Any]) -> Any:
        named = [{k.format(i): v for k, v in b.items()} for i, b in enumerate(blocks)]
        return {k: v for block in named for k, v in block.items()}

    shapes = {BLOCK.format("{}", "fc"): {"w": (4, 6), "b": (6,)}}
    trees = [[draw(10 * kind + layer, shapes) for layer in range(3)] for kind in range(3)]

    def stack(blocks: list[Any]) -> StackedParams:
        *stacked, last = blocks
        return StackedParams({}, jax.tree.map(lambda *leaves: jnp.stack(leaves), *stacked), last)

    separate = run(config, name_blocks(trees[0]), [name_blocks(tree) for tree in trees[1:]])
    together = run(config, stack(trees[0]), [stack(tree) for tree in trees[1:]])
    for updates, expected in zip(together, separate, strict=True):
        unstacked = [jax.tree.map(lambda leaf, i=i: leaf[i], updates.blocks) for i in range(2)]
        named = name_blocks([*unstacked, updates.last])
        compare(named, flat(expected), rtol=1e-6, atol=1e-5 if name == "muon" else 1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_are_left_out_wherever_they_are(name):
    """As None, inside further dictionaries; the others are updated as if they were alone."""
    config = dataclasses.replace(CONSTANT, name=name, weight_decay=0.25, clip_norm=0.5)
    adapter = {"nt/~/adapter": {"down": (4, 2), "b": (2,)}, "nt/~/norm": {"scale": (4,)}}
    params, gradient = draw(0, adapter), draw(1, adapter)
    frozen = jax.tree.map(lambda _: None, SHAPES, is_leaf=is_shape)
    whole = [{"encoder": frozen, "adapter": {"first": tree}} for tree in (params, gradient)]
    (alone,) = run(config, params, [gradient])
    (update,) = run(config, whole[0], [whole[1]])
    assert jax.tree.structure(update) == jax.tree.structure(whole[0])
    jax.tree.map(np.testing.assert_array_equal, update["adapter"]["first"], alone)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_remembered_has_the_structure_of_the_parameters(name):
    """So that a state can be stacked, sliced and saved as the parameters are.

    Muon has one moment of its matrices, two of the rest, and None for what is not there.
    """
    params = draw(0)
    rule, count = make_optimizer(dataclasses.replace(CONSTANT, name=name), 10).init(params)
    assert jax.tree.leaves(count) == [0]
    leaves = jax.tree.leaves(rule, is_leaf=lambda leaf: isinstance(leaf, dict))
    moments = [leaf for leaf in leaves if isinstance(leaf, dict)]
    for moment in moments:
        assert jax.tree.structure(moment, is_leaf=is_none) == jax.tree.structure(params)
    sizes = {name: leaf.size for name, leaf in flat(params).items()}
    whole = sum(sizes.values())
    matrices = sum(size for name, size in sizes.items() if GROUPS[name] == "matrices")
    expected = {"lion": whole, "muon": 2 * whole - matrices}.get(name, 2 * whole)
    assert sum(leaf.size for leaf in jax.tree.leaves(moments)) == expected


def test_groups_go_by_name():
    params = StackedParams(draw(0), {}, {})
    paths = jax.tree_util.tree_leaves_with_path({"trainable": params})
    found = {
        jax.tree_util.keystr(path[2:], simple=True, separator="/"): find_group(path)
        for path, _ in paths
    }
    assert found == GROUPS
    assert set(found.values()) == set(get_args(Group))


def test_groups_of_a_released_model():
    """24 blocks with six matrices, six biases and two norms each; two tables; two norms, two
    matrices and two biases in the head."""
    names = json.loads((GOLDEN / "parameters_500M_human_ref.json").read_text())
    paths = [tuple(map(jax.tree_util.DictKey, name.rsplit("/", 1))) for name in names]
    groups = collections.Counter(map(find_group, paths))
    assert groups == {"matrices": 144, "norms": 24 * 10 + 6, "tables": 2, "head": 2}


def test_what_decays_by_default():
    """With a gradient of zero the update is the decay alone. Offsets are not zero here."""
    config = dataclasses.replace(CONSTANT, weight_decay=0.125)
    params = draw(0)
    (updates,) = run(config, params, [jax.tree.map(jnp.zeros_like, params)])
    decayed = {name for name, update in flat(updates).items() if np.any(update != 0)}
    assert decayed == {name for name, group in GROUPS.items() if group != "norms"}
    expected = {k: -0.5 * 0.125 * v * (k in decayed) for k, v in flat(params).items()}
    compare(updates, expected, rtol=1e-6)


def test_rates_and_decays_by_group():
    """A gradient of one is a direction of one in Adam's first update."""
    config = dataclasses.replace(
        CONSTANT,
        beta1=0.5,
        beta2=0.5,
        weight_decay=0.25,
        tables=GroupConfig(rate=2.0, decay=3.0),
        head=GroupConfig(rate=0.25),
        norms=NormsConfig(rate=0.5, decay=2.0),
        matrices=GroupConfig(rate=0.0, decay=7.0),
    )
    rates = {"tables": 2.0, "head": 0.25, "norms": 0.5, "matrices": 0.0}
    decays = {"tables": 3.0, "head": 1.0, "norms": 2.0, "matrices": 7.0}
    params = draw(0)
    (updates,) = run(config, params, [jax.tree.map(jnp.ones_like, params)])
    expected = {
        name: -0.5 * rates[GROUPS[name]] * (1 + 0.25 * decays[GROUPS[name]] * value)
        for name, value in flat(params).items()
    }
    compare(updates, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("clip_norm", "factor"), [(6.5, 0.5), (13.0, 1.0), (14.0, 1.0), (None, 1.0)]
)
def test_clipping_is_by_the_norm_of_all_trainable_parameters(clip_norm, factor, monkeypatch):
    """The norm of (3, 4, 12) is 13."""
    monkeypatch.setitem(OPTIMIZERS, "sgd", lambda _: optax.identity())
    config = dataclasses.replace(CONSTANT, name="sgd", clip_norm=clip_norm)
    gradient = {
        "fc1": {"w": jnp.array([[3.0, 4.0]]), "frozen": None},
        "head": {"b": jnp.array([12.0])},
    }
    (updates,) = run(config, gradient, [gradient])
    expected = {"fc1/w": [[-1.5 * factor, -2.0 * factor]], "head/b": [-6.0 * factor]}
    compare(updates, {name: np.array(update) for name, update in expected.items()}, rtol=0)


def test_a_gradient_of_zero_is_clipped_to_zero():
    config = dataclasses.replace(CONSTANT, clip_norm=1.0)
    zeros = jax.tree.map(jnp.zeros_like, draw(0))
    (updates,) = run(config, zeros, [zeros])
    assert all(np.all(update == 0) for update in flat(updates).values())


def test_an_optimiser_is_one_entry_in_a_table(monkeypatch):
    """Schedule, decay, groups and clipping come with it."""
    monkeypatch.setitem(
        OPTIMIZERS, "adagrad", lambda config: optax.scale_by_rss(0.0, config.epsilon)
    )
    config = OptimizerConfig(
        name="adagrad",
        schedule="linear",
        initial_learning_rate=0.25,
        peak_learning_rate=0.5,
        warmup_steps=1,
        weight_decay=0.125,
        tables=GroupConfig(rate=0.5),
    )
    params = {"embed": {"embeddings": jnp.array([[4.0]])}, "norm": {"offset": jnp.array([4.0])}}
    gradient = jax.tree.map(jnp.ones_like, params)
    updates = run(config, params, [gradient, gradient], total_steps=5)
    for update, rate, summed in zip(updates, (0.25, 0.5), (1, 2), strict=True):
        direction = summed**-0.5
        expected = {
            "embed/embeddings": np.array([[-rate * 0.5 * (direction + 0.5)]]),
            "norm/offset": np.array([-rate * direction]),
        }
        compare(update, expected, rtol=1e-6)


def test_an_unknown_optimiser_is_named():
    config = dataclasses.replace(CONSTANT, name="adma")
    with pytest.raises(InputError, match=r"optimizer.name = 'adma': must be one of adam, adamw, "):
        make_optimizer(config, 10)
