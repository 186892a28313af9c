"""The model: released names and sizes, and that how it is computed does not change what it is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model import count_parameters, init_params, make_forward
from nucleotide_transformer.model.layers import (
    make_rotary_angles,
    rotate,
)
from nucleotide_transformer.model.stacking import arrange_params

SMALL = ModelConfig(num_layers=3, embed_dim=32, num_heads=4, ffn_dim=48, max_positions=64)
SMALL_V1 = dataclasses.replace(
    SMALL,
    vocabulary="v1",
    position="learned",
    ffn_activation="gelu",
    ffn_gated=False,
    ffn_bias=True,
    token_dropout=True,
)


def make_tokens(config, num_tokens=20, seed=0):
    """Two sequences, with masks, an N and padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(config.first_kmer_id, config.vocabulary_size, (2, num_tokens))
    tokens[:, 0] = config.cls_token_id
    tokens[:, 3:5] = config.mask_token_id
    tokens[1, -6:] = config.pad_token_id
    return jnp.asarray(tokens, jnp.int32)


def apply(config, params, tokens, *args, compute=ComputeConfig(), **taps):
    forward = make_forward(config, compute)
    return jax.jit(lambda *args: forward.apply(*args, **taps))(params, tokens, *args)


@pytest.fixture(scope="module", params=[SMALL, SMALL_V1], ids=["v2", "v1"])
def config(request):
    return request.param


@functools.cache
def make_params(config):
    return init_params(jax.random.key(1), config)


@pytest.fixture(scope="module")
def params(config):
    return make_params(config)


@pytest.fixture(scope="module")
def logits(config, params):
    return apply(config, params, make_tokens(config)).logits


def differentiate(config, params, compute):
    """A loss of all logits, and its gradient."""

    def loss(params):
        return jnp.sum(jnp.sin(make_forward(config, compute).apply(params, tokens).logits))

    tokens = make_tokens(config)
    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def plain(config, params):
    """Of the plainest form of attention."""
    return differentiate(config, params, ComputeConfig(attention="einsum"))


@pytest.mark.parametrize(
    ("layers", "width", "hidden", "expected"),
    [
        (12, 512, 2048, 54_855_179),
        (22, 512, 2048, 96_839_179),
        (24, 768, 3072, 233_545_995),
        (29, 1024, 4096, 496_245_771),
    ],
)
def test_parameter_counts_of_released_v2_models(layers, width, hidden, expected):
    config = ModelConfig(num_layers=layers, embed_dim=width, ffn_dim=hidden)
    assert count_parameters(config) == expected


@pytest.mark.parametrize(
    "compute",
    [
        ComputeConfig(stack="loop"),
        ComputeConfig(attention="per_head"),
        ComputeConfig(remat="block"),
        ComputeConfig(remat="none", stack="loop"),
    ],
    ids=lambda compute: f"{compute.stack}-{compute.attention}-{compute.remat}",
)
def test_loss_and_gradients_do_not_depend_on_how_they_are_computed(config, params, plain, compute):
    # Gradients sum over 40 tokens and 4,107 logits: float32 rounding of about 1e-5.
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=5e-4, rtol=1e-3),
        plain,
        differentiate(config, params, compute),
    )


POSITIONS = jnp.array([[3, 4, 9], [4, 0, 1]], jnp.int32)


@pytest.mark.parametrize("attention", ["einsum", "per_head"])
def test_last_block_and_head_at_positions_equal_all_gathered(config, params, attention):
    tokens = make_tokens(config)
    forward = make_forward(config, ComputeConfig(attention=attention))

    def at_positions(params):
        return forward.apply(params, tokens, POSITIONS).logits

    def everywhere(params):
        logits = forward.apply(params, tokens).logits
        return jnp.take_along_axis(logits, POSITIONS[..., None], axis=1)

    def differentiate(run):
        def loss(params):
            logits = run(params)
            return jnp.sum(jnp.sin(logits)), logits

        gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
        return logits, gradient

    (logits, expected), (chosen, found) = map(differentiate, (everywhere, at_positions))
    assert chosen.shape == (2, 3, config.vocabulary_size)
    np.testing.assert_allclose(chosen, logits, atol=1e-5)
    # Gradients sum over 6 tokens and 4,107 logits: float32 rounding of about 1e-5.
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-3),
        expected,
        found,
    )


def test_last_block_runs_at_the_positions_alone(config, params):
    """At 3 of 20 tokens it and the head need little; what is asked of it besides gets all."""
    tokens, compute = make_tokens(config), ComputeConfig(stack="loop")

    def count_flops(num_layers, *args, **taps):
        shorter = dataclasses.replace(config, num_layers=num_layers)
        forward = make_forward(shorter, compute)
        run = jax.jit(lambda *args: forward.apply(*args, **taps))
        return run.lower(params, tokens, *args).cost_analysis()["flops"]

    whole, at_positions = count_flops(3), count_flops(3, POSITIONS)
    block = whole - count_flops(2)
    saved = whole - at_positions
    # With the last block's embeddings asked for, only the head runs at the positions.
    head = count_flops(3, layers=(3,)) - count_flops(3, POSITIONS, layers=(3,))
    assert saved - head > 0.5 * block
    run = functools.partial(apply, config, params, tokens, POSITIONS, compute=compute)
    outputs = run(layers=(3,), attention=(3,))
    assert outputs.embeddings[3].shape == (2, 20, 32)
    assert outputs.attention[3].shape == (2, 4, 20, 20)
    np.testing.assert_allclose(outputs.logits, run().logits, atol=1e-5)


def test_padding_does_not_change_real_tokens(config, params, logits):
    tokens = make_tokens(config)
    longer = jnp.pad(tokens, ((0, 0), (0, 9)), constant_values=config.pad_token_id)
    found = apply(config, params, longer).logits
    real = np.asarray(tokens != config.pad_token_id)
    # The softmax sums over more zeros: same terms, another order of sums.
    np.testing.assert_allclose(np.asarray(found)[:, :20][real], logits[real], atol=1e-5)


def test_taps_are_those_of_the_blocks_one_by_one(config, params):
    tokens = make_tokens(config)
    everything = apply(config, params, tokens, layers=(0, 1, 2, 3), attention=(1, 2, 3))
    assert sorted(everything.embeddings) == [0, 1, 2, 3]
    assert sorted(everything.attention) == [1, 2, 3]
    assert everything.attention[2].shape == (2, 4, 20, 20)
    one = apply(config, params, tokens, layers=(2,))
    np.testing.assert_allclose(one.embeddings[2], everything.embeddings[2], atol=1e-6)
    np.testing.assert_allclose(one.logits, everything.logits, atol=1e-5)
    shorter = dataclasses.replace(config, num_layers=2)
    cut = apply(shorter, params, tokens, layers=(0,))
    np.testing.assert_allclose(cut.embeddings[0], everything.embeddings[0], atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_finite_and_close(config, params, logits, dtype):
    compute = ComputeConfig(compute_dtype=dtype)
    rough = apply(config, params, make_tokens(config), compute=compute).logits
    assert np.isfinite(rough).all()
    assert rough.dtype == jnp.float32
    # About 20 roundings of relative size 2^-8 (bfloat16) or 2^-11 (float16), on logits near 1;
    # they add up like a random walk, so 5 of them, and 4 standard deviations.
    unit = {"bfloat16": 2**-8, "float16": 2**-11}[dtype]
    assert np.abs(rough - logits).max() < 20 * unit * np.abs(logits).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parameter_type_is_an_argument(config, dtype):
    compute = ComputeConfig(param_dtype=dtype)
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), config, compute))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ({"layers": (4,)}, "there is no layer 4; the model's are numbered 0 to 3"),
        ({"attention": (0,)}, "there is no layer 0; the model's are numbered 1 to 3"),
    ],
)
def test_layers_that_do_not_exist_are_named(config, params, taps, message):
    with pytest.raises(ValueError, match=message):
        make_forward(config).apply(params, make_tokens(config), **taps)


@pytest.mark.parametrize("stack", ["scan", "loop"])
def test_a_model_has_no_more_blocks_than_its_parameters(stack):
    """A scan would take the last stacked one again, without a word."""
    deeper = make_forward(dataclasses.replace(SMALL, num_layers=4), ComputeConfig(stack=stack))
    params = arrange_params(make_params(SMALL), stack)
    with pytest.raises(InputError, match=r"^num_layers = 4: there are parameters of 3 blocks$"):
        deeper.apply(params, make_tokens(SMALL))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((0,), r"tokens = \(0, 20\)"), ((2, 0), r"positions = \(2, 0\)")],
)
def test_a_batch_of_nothing_is_refused(shape, message):
    tokens = make_tokens(SMALL)[: shape[0]]
    positions = jnp.zeros(shape, jnp.int32) if shape[1:] else None
    with pytest.raises(InputError, match=f"^{message}: must not be empty$"):
        make_forward(SMALL).apply(make_params(SMALL), tokens, positions)


def test_learned_positions_have_an_end():
    message = "^tokens = 65: the model's learned positions end at 64 tokens$"
    with pytest.raises(InputError, match=message):
        make_forward(SMALL_V1).apply(make_params(SMALL_V1), make_tokens(SMALL_V1, 65))


def test_rotary_models_take_sequences_beyond_those_of_training():
    """They compute what a model does whose max_positions has room for them."""
    params, tokens = make_params(SMALL), make_tokens(SMALL, 65)
    found = apply(SMALL, params, tokens).logits
    roomy = dataclasses.replace(SMALL, max_positions=128)
    np.testing.assert_array_equal(found, apply(roomy, params, tokens).logits)
    assert found.shape == (2, 65, SMALL.vocabulary_size)


def test_rotary_angles_are_exact_to_float32_at_2048_tokens():
    angles = make_rotary_angles(2048, 32)
    exact = np.arange(2048)[:, None] / 10_000 ** (np.arange(0, 32, 2) / 32)
    # An angle near 2,048 has a float32 spacing of 1.2e-4; its frequency is rounded once.
    np.testing.assert_allclose(angles.cos, np.cos(exact), atol=3e-4)
    np.testing.assert_allclose(angles.sin, np.sin(exact), atol=3e-4)


def test_rotation_depends_on_distance_alone():
    query, key = (jax.random.normal(jax.random.key(i), (1, 1, 1, 16)) for i in (0, 1))
    turned = make_rotary_angles(40, 16)
    queries, keys = (rotate(jnp.tile(x, (1, 40, 1, 1)), turned)[0, :, 0] for x in (query, key))
    scores = np.asarray(queries @ keys.T)
    np.testing.assert_allclose(np.diag(scores, 5), scores[0, 5], atol=1e-5)
