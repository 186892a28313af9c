"""The two forms of the parameters: by released names, and with the blocks stacked for a scan."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import assert_same_params, random_params

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model import make_forward
from nucleotide_transformer.model.stacking import (
    StackedParams,
    arrange_like,
    arrange_params,
    name_block,
    name_params,
    stack_params,
    take_block,
)

MODEL = ModelConfig(k=3, num_layers=11, embed_dim=16, num_heads=2, ffn_dim=24)
"""More than ten layers: names in alphabetical order are not in the order of the layers."""
ONE_BLOCK = dataclasses.replace(MODEL, num_layers=1)
FC1 = "esm_transformer/attention_layer_{}/~/fc1"


@pytest.fixture(scope="module", params=[MODEL, ONE_BLOCK], ids=["11", "1"])
def params(request):
    return random_params(request.param)


@pytest.fixture(scope="module")
def deep():
    return random_params(MODEL)


def test_stacked_blocks_are_those_of_each_layer(deep):
    stacked = stack_params(deep)
    assert isinstance(stacked, StackedParams)
    assert stacked.blocks["block/~/fc1"]["w"].shape == (10, 16, 48)
    for index in range(10):
        np.testing.assert_array_equal(
            stacked.blocks["block/~/fc1"]["w"][index], deep[FC1.format(index)]["w"]
        )
    assert {name.rpartition("/~/")[0] for name in stacked.last} >= {name_block(10)}
    np.testing.assert_array_equal(stacked.last[FC1.format(10)]["w"], deep[FC1.format(10)]["w"])
    assert not any("attention_layer" in name for name in stacked.rest)
    for index in (0, 9, 10):
        one, other = take_block(deep, index), take_block(stacked, index)
        assert len(one) == 8
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_single_block_is_the_last(params):
    stacked = stack_params(params)
    assert bool(stacked.blocks) == (len(params) > 20)
    assert len(stacked.last) == 8


def test_named_again_they_have_the_same_names_and_bits(params):
    assert_same_params(name_params(stack_params(params)), params)
    assert name_params(params) is not None
    assert_same_params(name_params(params), params)


def test_arranged_for_a_loop_they_are_what_they_were(deep):
    assert arrange_params(deep, "loop") is deep
    stacked = arrange_params(deep, "scan")
    assert isinstance(stacked, StackedParams)
    assert_same_params(name_params(stacked), deep)


def test_of_numpy_arrays_names_are_views_and_stacks_stay_in_numpy(deep):
    stacked = jax.tree.map(np.asarray, stack_params(deep))
    named = name_params(stacked)
    block, stack = named[FC1.format(3)]["w"], stacked.blocks["block/~/fc1"]["w"]
    assert type(block) is np.ndarray
    assert np.shares_memory(block, stack)
    assert {type(leaf) for leaf in jax.tree.leaves(stack_params(named))} == {np.ndarray}


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.lion(0.1), optax.sgd(0.1, 0.9)])
def test_any_tree_is_named_and_arranged_as_its_template(params, optimizer):
    """An optimiser's state, of which nothing is known but that it holds parameters."""
    stacked = stack_params(params)
    state = {"opt": optimizer.init(stacked), "params": stacked, "step": jnp.int32(7)}
    state = jax.tree.map(lambda leaf: leaf + 3, state)
    named = name_params(state)
    assert not any(isinstance(node, StackedParams) for node in nodes(named))
    assert jax.tree.structure(named["opt"]) == jax.tree.structure(optimizer.init(params))
    template = jax.eval_shape(lambda: state)
    found = arrange_like(template, named)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found, state)


def nodes(tree):
    """All nodes of a tree at which there is a StackedParams."""
    found = []
    jax.tree.map(found.append, tree, is_leaf=lambda node: isinstance(node, StackedParams))
    return found


def only(params, keep):
    """Parameters with None for the leaves whose module `keep` refuses."""
    return {
        module: {name: leaf if keep(module) else None for name, leaf in leaves.items()}
        for module, leaves in params.items()
    }


@pytest.mark.parametrize(
    "keep",
    [
        lambda module: "lm_head" in module,
        lambda module: "/fc" in module,
        lambda module: "attention_layer_10/" in module,
        lambda module: module is None,
    ],
    ids=["head", "fc", "last block", "nothing"],
)
def test_none_stands_for_what_belongs_to_the_other_half(deep, keep):
    """Even where no block keeps anything, nothing is forgotten of how many there are."""
    half = only(deep, keep)
    stacked = stack_params(half)
    named = name_params(stacked)
    assert named.keys() == half.keys()
    for module, leaves in half.items():
        assert named[module].keys() == leaves.keys()
        for name, leaf in leaves.items():
            found = named[module][name]
            assert (found is None) == (leaf is None)
            if leaf is not None:
                np.testing.assert_array_equal(found, leaf)
    again = arrange_like(jax.eval_shape(lambda: stacked), named)
    assert jax.tree.structure(again) == jax.tree.structure(stacked)


def test_halves_that_part_the_blocks_cannot_be_stacked(deep):
    with pytest.raises(InputError, match=r"compute\.stack = 'scan': the blocks before the last"):
        stack_params(only(deep, lambda module: "attention_layer_4/" not in module))
    some = {name: leaves for name, leaves in deep.items() if "attention_layer_4/" not in name}
    with pytest.raises(InputError, match=r"attention_layer_4.*missing among 11 blocks"):
        stack_params(some)


@pytest.mark.parametrize("stack", ["loop", "scan"])
def test_forward_takes_both(deep, stack):
    tokens = jnp.arange(24).reshape(2, 12) + MODEL.first_kmer_id
    apply = make_forward(MODEL, ComputeConfig(stack=stack)).apply
    run = jax.jit(lambda params: apply(params, tokens, layers=(0, 4, 11), attention=(5, 11)))
    jax.tree.map(
        # Numbers near 1 from the same products, which the compiler may order otherwise.
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5),
        run(deep),
        run(stack_params(deep)),
    )


@pytest.mark.parametrize("arrange", [lambda params: params, stack_params], ids=["named", "stacked"])
def test_a_scan_runs_over_stacked_blocks_and_a_loop_over_named_ones(deep, arrange):
    def count_scans(stack):
        apply = make_forward(MODEL, ComputeConfig(stack=stack, attention="einsum")).apply
        program = jax.make_jaxpr(apply)(arrange(deep), jnp.full((1, 5), 9))
        return sum(equation.primitive.name == "scan" for equation in program.eqns)

    assert count_scans("scan") == 1
    assert count_scans("loop") == (0 if arrange is not stack_params else 1)
