"""Encoder and head: each can be had without the other, and only what is asked for is computed."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import V1, V2, random_params

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.model import make_forward
from nucleotide_transformer.model.layers import Linear
from nucleotide_transformer.types import Array, Float

TOKENS = jnp.array([[3, 9, 2, 40, 12, 7], [3, 2, 30, 8, 1, 1]], jnp.int32)
POSITIONS = jnp.array([[2, 4, 5], [1, 0, 3]], jnp.int32)


@pytest.fixture(scope="module", params=[V1, V2], ids=["v1", "v2"])
def config(request):
    return request.param


@pytest.fixture(scope="module")
def params(config):
    return random_params(config)


class SegmentationHead(hk.Module):
    """Logits of two labels for every token."""

    def __init__(self, config, compute, name="segmentation_head"):  # noqa: ARG002
        super().__init__(name=name)
        self._linear = Linear(2, param_dtype=compute.param_dtype, name="labels")

    def __call__(self, x: Float[Array, "B M D"]) -> Float[Array, "B M 2"]:
        return self._linear(x)


@pytest.mark.parametrize("stack", ["scan", "loop"])
def test_a_new_head_is_one_class_and_one_line(config, stack):
    forward = make_forward(config, ComputeConfig(stack=stack), head=SegmentationHead)
    params = forward.init(jax.random.key(0))

    def loss(params):
        logits = forward.apply(params, TOKENS).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS % 2).sum()

    losses, learn = [], jax.jit(jax.value_and_grad(loss))
    for _ in range(5):
        value, gradient = learn(params)
        losses.append(float(value))
        params = jax.tree.map(lambda leaf, slope: leaf - 1e-3 * slope, params, gradient)
    head = gradient["esm_transformer/~/segmentation_head/~/labels"]
    assert head["w"].shape == (16, 2)
    assert all(jnp.abs(leaf).max() > 0 for leaf in head.values())
    assert jnp.abs(gradient["esm_transformer/~/embed"]["embeddings"]).max() > 0
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert not any("lm_head_fc_1" in name for name in params)


class Scale(hk.Module):
    """Twice the embedding: shows what a head is given."""

    def __init__(self, config, compute, factor):  # noqa: ARG002
        super().__init__()
        self._factor = factor

    def __call__(self, x):
        return self._factor * x


def test_a_head_reads_what_the_encoder_alone_gives(config, params):
    """The embedding of the last layer, at the positions; a head may have settings of its own."""
    encoded = make_forward(config, head=None).apply(params, TOKENS, layers=(2,))
    assert encoded.logits is None
    expected = make_forward(config).apply(params, TOKENS, layers=(2,)).embeddings[2]
    np.testing.assert_allclose(encoded.embeddings[2], expected, atol=1e-5)
    forward = make_forward(config, head=functools.partial(Scale, factor=2))
    found = forward.apply(params, TOKENS, POSITIONS).logits
    at = jnp.take_along_axis(expected, POSITIONS[..., None], axis=1)
    np.testing.assert_allclose(found, 2 * at, atol=1e-5)


@pytest.mark.parametrize("stack", ["scan", "loop"])
def test_only_what_is_asked_for_is_computed(config, params, stack):
    """Without logits no block runs behind the last layer asked for, and no head."""
    forward = make_forward(config, ComputeConfig(stack=stack, attention="einsum"))

    def count_products(**asked):
        run = functools.partial(forward.apply, **asked)
        return count_dots(jax.make_jaxpr(run)(params, TOKENS).jaxpr)

    block = 4 + 2  # queries, keys and values as one; output, feed-forward; scores, mixture
    of_head = 2
    assert count_products(logits=False) == 0
    assert count_products(layers=(0,), logits=False) == 0
    assert count_products(layers=(1,), logits=False) == block
    assert count_products(attention=(1,), logits=False) == block + 1
    assert count_products(layers=(1, 2), logits=False) == 2 * block
    assert count_products(layers=(1, 2)) == 2 * block + of_head
    whole = forward.apply(params, TOKENS, layers=(0, 1))
    part = forward.apply(params, TOKENS, layers=(0, 1), logits=False)
    assert part.logits is None
    for layer in (0, 1):
        np.testing.assert_allclose(part.embeddings[layer], whole.embeddings[layer], atol=1e-6)


def count_dots(program):
    """Matrix products of a program; those inside a scan once for each of its steps."""
    total = 0
    for equation in program.eqns:
        total += equation.primitive.name == "dot_general"
        for option in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(option, "jaxpr", option)
            if hasattr(inner, "eqns"):
                total += equation.params.get("length", 1) * count_dots(inner)
    return total


def test_the_derivatives_that_the_forward_pass_says_it_has():
    """Reverse mode, and forward over reverse; a second difference is the reference."""
    small = ModelConfig(k=3, num_layers=2, embed_dim=8, num_heads=2, ffn_dim=8)
    forward = make_forward(small)
    params = forward.init(jax.random.key(0))

    def spread(scale):
        scaled = jax.tree.map(lambda leaf: leaf * scale, params)
        return forward.apply(scaled, TOKENS).logits.std()

    slope = jax.jit(jax.grad(spread))
    slopes = [float(slope(scale)) for scale in (0.99, 1.01)]
    second = (slopes[1] - slopes[0]) / 0.02
    # The difference of slopes of about 1 in float32, over 0.02, and its own error of order 1e-4.
    np.testing.assert_allclose(jax.jit(jax.hessian(spread))(1.0), second, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(jax.jit(jax.grad(slope))(1.0), second, rtol=1e-2, atol=1e-2)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(spread, (1.0,), (1.0,))
