"""Attention: every form computes the same numbers, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nucleotide_transformer.model.attention import attend, attention_weights
from nucleotide_transformer.model.kernels import per_head

FORMS = ("einsum", "per_head")


def make_inputs(num_tokens=24, seed=0, dtype=jnp.float32, num_heads=3):
    keys = jax.random.split(jax.random.key(seed), 3)
    arrays = [jax.random.normal(key, (2, num_tokens, num_heads, 8), dtype) for key in keys]
    keep = jnp.arange(num_tokens) < jnp.array([[num_tokens], [num_tokens - 7]])
    return *arrays, keep


def reference(query, key, value, keep):
    """Softmax attention, one query at a time, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros_like(value)
    for b, t, h in np.ndindex(query.shape[:3]):
        kept = np.asarray(keep)[b]
        scores = key[b, kept, h] @ query[b, t, h] / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights / weights.sum() @ value[b, kept, h]
    return out


@pytest.mark.parametrize("form", FORMS)
def test_equals_float64_reference(form):
    inputs = make_inputs()
    # Sums of 24 products of unit normals in float32: a few units of 1e-7.
    np.testing.assert_allclose(attend(*inputs, form), reference(*inputs), atol=2e-6)


@pytest.mark.parametrize("form", FORMS[1:])
def test_gradients_equal_einsum(form):
    *arrays, keep = make_inputs()

    def loss(form, *arrays):
        return jnp.sum(jnp.sin(attend(*arrays, keep, form)))

    expected = jax.grad(lambda *x: loss("einsum", *x), argnums=(0, 1, 2))(*arrays)
    found = jax.grad(lambda *x: loss(form, *x), argnums=(0, 1, 2))(*arrays)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)


@pytest.mark.parametrize("num_heads", [3, 4])
def test_heads_one_by_one_equal_einsum(num_heads, monkeypatch):
    """As with 1,000 tokens, where few heads fit the cache: two of 6 or 8 heads (both sequences
    together) side by side. The second sequence has no kept key at all: uniform weights."""
    monkeypatch.setattr(per_head, "SCORES_IN_CACHE", 0)
    *arrays, keep = make_inputs(num_heads=num_heads)
    keep = keep.at[1].set(False)

    def loss(form, *arrays):
        return jnp.sum(jnp.sin(attend(*arrays, keep, form)))

    expected, found = (
        jax.value_and_grad(loss, argnums=(1, 2, 3))(form, *arrays)
        for form in ("einsum", "per_head")
    )
    # The sum of 24 * 2 * 8 * heads sines in another order, and products in float32: some 1e-6.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), expected, found
    )


@pytest.mark.parametrize("at_once", [0, 2**19])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gradients_of_heads_in_half_precision(dtype, at_once, monkeypatch):
    """Of small gradients over many keys, where float16 is near the end of its range. The products
    round their factors (the weights and the scores' gradients, of about 1e-3 and 1e-5): 1 %."""
    monkeypatch.setattr(per_head, "SCORES_IN_CACHE", at_once)
    *arrays, keep = make_inputs(num_tokens=300, dtype=dtype)
    weights = jax.random.normal(jax.random.key(3), arrays[0].shape)

    def differentiate(form, arrays):
        def loss(*arrays):
            return 1e-2 * jnp.sum(attend(*arrays, keep, form).astype(jnp.float32) * weights)

        return jax.grad(loss, argnums=(0, 1, 2))(*arrays)

    exact = differentiate("einsum", [x.astype(jnp.float32) for x in arrays])
    for one, other in zip(exact, differentiate("per_head", arrays), strict=True):
        error = jnp.linalg.norm(one - other.astype(jnp.float32)) / jnp.linalg.norm(one)
        assert error < 1e-2


def test_an_odd_number_of_heads_goes_one_by_one(monkeypatch):
    monkeypatch.setattr(per_head, "SCORES_IN_CACHE", 0)
    inputs = [x[:1] for x in make_inputs(num_heads=3)]
    np.testing.assert_allclose(attend(*inputs, "per_head"), reference(*inputs), atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_finite_without_any_kept_key(form, dtype):
    *arrays, keep = make_inputs(dtype=dtype)
    assert jnp.isfinite(attend(*arrays, keep & False, form)).all()


@pytest.mark.parametrize("form", FORMS)
def test_hidden_keys_do_not_matter(form):
    query, key, value, keep = make_inputs()
    noise = jnp.where(keep[..., None, None], 0.0, 100.0)
    expected = attend(query, key, value, keep, form)
    np.testing.assert_array_equal(attend(query, key + noise, value + noise, keep, form), expected)


@pytest.mark.parametrize("form", FORMS)
def test_hidden_keys_do_not_raise_the_maximum(form):
    """Scores of kept keys at -200, of hidden ones (between and before the kept) at 0 or more.

    Heads have a width of 4, whose root divides exactly: the last bit of a score near -200 is 2e-5,
    and would depend on the order of a sum.
    """
    query, _, value, keep = make_inputs()
    query, value = query[..., :4], value[..., :4]
    keep = keep & (jnp.arange(keep.shape[1]) % 5 > 0)
    query, key = jnp.full_like(query, 10.0), jnp.full_like(value, -10.0)
    for hidden in (0.0, 10.0):
        inputs = query, jnp.where(keep[..., None, None], key, hidden), value, keep
        np.testing.assert_allclose(attend(*inputs, form), reference(*inputs), atol=2e-6)


def test_weights_are_distributions_over_kept_keys():
    query, key, _, keep = make_inputs()
    weights = attention_weights(query, key, keep)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
    assert (np.asarray(weights)[1, :, :, ~np.asarray(keep)[1]] == 0).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_softmax_is_in_float32_whatever_the_activations(dtype):
    """Products of 16-bit numbers are exact in float32: only sums of 8 are in another order."""
    query, key, _, keep = make_inputs(dtype=dtype)
    found = attention_weights(query, key, keep)
    assert found.dtype == jnp.float32
    exact = attention_weights(query.astype(jnp.float32), key.astype(jnp.float32), keep)
    np.testing.assert_allclose(found, exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(19, 128), (150, 1_000), (7, 33)])
def test_cudnn_takes_odd_numbers_of_tokens(num_queries, num_keys, monkeypatch):
    """Of shapes alone, which JAX checks while it traces: its kernel needs a GPU."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_000)
    query, key = (
        jax.ShapeDtypeStruct((2, size, 3, 8), jnp.bfloat16) for size in (num_queries, num_keys)
    )
    keep = jax.ShapeDtypeStruct((2, num_keys), jnp.bool_)

    def loss(query, key, value, keep):
        return attend(query, key, value, keep, "cudnn").sum()

    of_query, of_key, of_value = jax.eval_shape(jax.grad(loss, (0, 1, 2)), query, key, key, keep)
    assert (of_query.shape, of_key.shape, of_value.shape) == (query.shape, key.shape, key.shape)
