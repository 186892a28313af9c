"""Parameters of the blocks, by layer and stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.model import init_params, make_forward
from nucleotide_transformer.model.stacking import (
    read_block,
    read_stack,
    stack_blocks,
    unstack_blocks,
)

MODEL = ModelConfig(k=3, num_layers=11, embed_dim=16, num_heads=2, ffn_dim=24)
"""More than ten layers: names in alphabetical order are not in the order of the layers."""


@pytest.fixture(scope="module")
def params():
    return init_params(jax.random.key(0), MODEL)


def test_stacked_blocks_are_those_of_each_layer(params):
    stacked = stack_blocks(params)
    assert len(stacked) < len(params)
    name = "esm_transformer"
    jax.tree.map(
        np.testing.assert_array_equal,
        [read_block(params, name, index) for index in range(11)],
        [read_block(stacked, name, index) for index in range(11)],
    )
    run = range(3, 8)
    jax.tree.map(
        np.testing.assert_array_equal, read_stack(params, name, run), read_stack(stacked, name, run)
    )
    assert read_stack(params, name, run)["block/~/fc1"]["w"].shape == (5, 16, 48)


def test_unstacking_gives_the_same_bits_under_the_same_names(params):
    found = unstack_blocks(stack_blocks(params))
    assert set(found) == set(params)
    jax.tree.map(np.testing.assert_array_equal, found, dict(params))


def test_what_is_not_in_a_block_stays(params):
    stacked = stack_blocks(params)
    others = {name: leaves for name, leaves in params.items() if "attention_layer" not in name}
    assert {name: leaves for name, leaves in stacked.items() if name in others} == others


@pytest.mark.parametrize("stack", ["loop", "scan"])
def test_forward_takes_both(params, stack):
    tokens = jnp.arange(24).reshape(2, 12) + MODEL.first_kmer_id
    apply = make_forward(MODEL, ComputeConfig(stack=stack)).apply
    run = jax.jit(lambda params: apply(params, tokens, layers=(0, 4, 11), attention=(5, 11)))
    jax.tree.map(
        # Numbers near 1 from the same products, which the compiler may order otherwise.
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6),
        run(params),
        run(stack_blocks(params)),
    )
