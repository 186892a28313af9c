"""FLOPs against sums worked out by hand, and against XLA's own count of the plain form."""

import jax
import jax.numpy as jnp
import pytest

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.model import count_parameters, init_params, make_forward
from nucleotide_transformer.model.flops import count_forward_flops, count_update_flops

TINY = ModelConfig(k=3, num_layers=2, embed_dim=4, num_heads=2, ffn_dim=8)  # 75 tokens


def test_forward_flops_of_a_tiny_model_by_hand():
    projections = 2 * (4 * 4 * 4 + 3 * 4 * 8)  # q, k, v, output; three feed-forward matrices
    attention = 2 * 2 * 10 * 4  # scores and their use, against 10 keys of width 4
    head = 2 * (4 * 4 + 4 * 75)
    both = 2 * 10 * (projections + attention)
    assert count_forward_flops(TINY, num_tokens=10, num_head_tokens=0) == both
    assert count_forward_flops(TINY, num_tokens=10, num_head_tokens=10) == both + 10 * head
    # With 3 tokens in the head the last block makes keys and values of 10, the rest of 3.
    unused = 7 * (projections - 2 * 2 * 4 * 4 + attention)
    expected = both - unused + 3 * head
    assert count_forward_flops(TINY, num_tokens=10, num_head_tokens=3) == expected


def test_update_flops_of_a_tiny_model_by_hand():
    """320 a token in projections and 160 in attention: see the sums above."""
    block, keys_and_values, head = 320 + 160, 64, 632
    forward = 10 * block + 3 * block + 7 * keys_and_values + 3 * head
    found = count_update_flops(TINY, num_sequences=5, num_tokens=10, num_head_tokens=3)
    assert found == 3 * 5 * forward


def test_update_flops_of_the_published_100m_are_about_six_a_parameter():
    """Six a parameter and attention's 12 L T D on top, less 85 % of the head and of the last block
    but for its keys and values: 15 % of the tokens are masked."""
    config = ModelConfig()
    matrices = count_parameters(config) - 4107 * 512
    head, block = 512 * 4107 + 512**2, 2 * 512**2 + 3 * 512 * 2048
    a_token = 6 * (matrices - 0.85 * (head + block)) + 12 * (22 - 0.85) * 1000 * 512
    found = count_update_flops(config, num_sequences=1000, num_tokens=1000, num_head_tokens=150)
    assert found == pytest.approx(1e6 * a_token, rel=1e-3)  # biases and norms do not multiply


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("num_head_tokens", [0, 5, 48])
def test_forward_flops_are_those_that_xla_counts(gated, num_head_tokens):
    """XLA counts norms, softmax and activations too: some 20 of them for each number of a token,
    beside 2 x 10 products of 256; no product may be missing, nor one too many."""
    config = ModelConfig(
        k=3, num_layers=2, embed_dim=256, num_heads=2, ffn_dim=512, ffn_gated=gated
    )
    forward = make_forward(config, ComputeConfig(attention="einsum", stack="loop"))
    params = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((1, 48), jnp.int32)
    positions = jax.ShapeDtypeStruct((1, num_head_tokens), jnp.int32)

    def run(params, tokens, positions):
        if not num_head_tokens:
            return forward.apply(params, tokens, layers=(2,)).embeddings
        return forward.apply(params, tokens, positions).logits

    analysis = jax.jit(run).lower(params, tokens, positions).compile().cost_analysis()
    found = count_forward_flops(config, num_tokens=48, num_head_tokens=num_head_tokens)
    assert found < analysis["flops"] < 1.05 * found
