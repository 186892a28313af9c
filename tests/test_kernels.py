"""What is tuned for a compiler computes what its plain form says: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from nucleotide_transformer.model.kernels import gate, layer_norm, products
from nucleotide_transformer.model.layers import gelu, take_tokens

UNIT = {"float32": 2**-23, "bfloat16": 2**-7}
"""Distance of 1 to the next number."""


def draw(seed, *shape, dtype="float32"):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def assert_close(found, expected, atol):
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(
        np.asarray(found, np.float64), np.asarray(expected, np.float64), atol=atol, rtol=0
    )


def differentiate(function, weights, *inputs):
    """Value and gradients of a sum with weights, which is taken in float32."""

    def total(*inputs):
        result = function(*inputs)
        return jnp.sum(result.astype(jnp.float32) * weights), result

    (_, result), gradients = jax.value_and_grad(total, tuple(range(len(inputs))), has_aux=True)(
        *inputs
    )
    return result, gradients


@pytest.mark.parametrize("output_dtype", [None, "float32"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(2, 6, 8), (1, 13, 8), (7, 8)])
def test_multiply_is_the_product(shape, dtype, bias, output_dtype):
    x, w, b = draw(0, *shape, dtype=dtype), draw(1, 8, 5), draw(2, 5) if bias else None
    inputs = (x, w, b) if bias else (x, w)
    arguments = () if bias else (None,)
    weights = draw(3, *shape[:-1], 5)
    found, expected = (
        differentiate(
            lambda *inputs, form=form: form(*inputs, *arguments, output_dtype), weights, *inputs
        )
        for form in (products.multiply, products.plain_multiply)
    )
    assert found[0].dtype == (output_dtype or dtype)
    # Sums of 5 to 13 products of unit normals, below 16, in another order: some roundings of 8 in
    # float32; results in 16 bits, the gradient of x among them, are rounded once more.
    exact, rough = 8 * 4 * UNIT["float32"], 16 * UNIT[dtype]
    assert_close(found[0], expected[0], exact if output_dtype else rough)
    assert_close(found[1][0], expected[1][0], rough)
    # In bfloat16 the gradient that arrives is rounded before it is multiplied by x: both forms do.
    for one, other in zip(found[1][1:], expected[1][1:], strict=True):
        assert_close(one, other, 8 * 4 * UNIT["float32"] if dtype == "float32" else rough)


def test_gradients_of_parameters_are_summed_and_leave_in_float32():
    """4,096 rows of 1 + 2^-8 each: in bfloat16 a sum of ones stays at 256, and the sum is rounded
    to 8 bits. A gradient that was rounded once is wrong by up to 2^-9 of itself."""
    rows = 4_096
    x = jnp.full((rows, 2), 1 + 2**-7, jnp.bfloat16)
    w, b = jnp.ones((2, 3)), jnp.ones(3)
    arriving = jnp.ones((rows, 3), jnp.bfloat16).at[0].set(1 + 2**-7)
    _, of_w, of_b = jax.vjp(products.multiply, x, w, b)[1](arriving)
    assert (of_w.dtype, of_b.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_array_equal(of_b, np.full(3, rows + 2**-7))
    exact = (1 + 2**-7) * (rows - 1) + (1 + 2**-7) ** 2
    # Sums of 4,096 numbers near 1 in float32, in some order.
    np.testing.assert_allclose(of_w, np.full((2, 3), exact), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_joint_product_is_that_of_each(dtype):
    x, weights = draw(0, 2, 6, 8, dtype=dtype), [draw(i, 8, size) for i, size in ((1, 5), (2, 3))]
    biases, other = [draw(3, 5), draw(4, 3)], draw(5, 2, 6, 8)

    def jointly(x, *parameters):
        return jnp.concatenate(products.multiply_jointly(x, parameters[:2], parameters[2:]), -1)

    def one_by_one(x, *parameters):
        pairs = zip(parameters[:2], parameters[2:], strict=True)
        return jnp.concatenate([products.plain_multiply(x, w, b) for w, b in pairs], -1)

    found, expected = (
        differentiate(form, other, x, *weights, *biases) for form in (jointly, one_by_one)
    )
    # As above; the gradient of x is here rounded once, there in both parts and their sum.
    assert_close(found[0], expected[0], 16 * UNIT[dtype])
    for one, two in zip(found[1], expected[1], strict=True):
        assert_close(one, two, 16 * UNIT[dtype])


def test_logits_in_float32_are_not_rounded_to_the_type_of_the_activations():
    x, w = draw(0, 64, 32, dtype="bfloat16"), draw(1, 32, 16)
    exact = np.asarray(x, np.float64) @ np.asarray(w.astype("bfloat16"), np.float64)
    found = np.asarray(products.multiply(x, w, None, "float32"), np.float64)
    # Sums of 32 products near 6: a few roundings of 2^-24 each; bfloat16 would give 2^-6.
    assert np.abs(found - exact).max() < 2**-18


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64, 97, 300])
def test_transpose_in_memory_is_the_transposed(num_rows):
    x = draw(0, num_rows, 5, dtype="bfloat16")
    np.testing.assert_array_equal(products.transpose_in_memory(x), x.T)


@pytest.mark.parametrize("activate", [jax.nn.silu, gelu])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gate_is_the_formula(activate, dtype):
    hidden, weights = draw(0, 2, 3, 10, dtype=dtype) * 3, draw(1, 2, 3, 5)
    found, expected = (
        differentiate(lambda h, form=form: form(activate, h), weights, hidden)
        for form in (gate.apply_gate, gate.plain_apply_gate)
    )
    # A few products of numbers below 10 each, in another order; 16-bit results are rounded once.
    assert_close(found[0], expected[0], 100 * UNIT[dtype])
    assert_close(found[1][0], expected[1][0], 100 * UNIT[dtype])


@pytest.mark.parametrize("activate", [jax.nn.silu, gelu])
def test_the_gate_is_computed_in_float32_and_rounded_once(activate):
    hidden = draw(0, 2, 3, 10, dtype="bfloat16") * 3
    exact = gate.apply_gate(activate, hidden.astype("float32"))
    np.testing.assert_array_equal(gate.apply_gate(activate, hidden), exact.astype("bfloat16"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_layer_norm_is_the_formula(dtype):
    x, weights = draw(0, 2, 3, 16, dtype=dtype) * 2 + 1, draw(1, 2, 3, 16)
    scale, offset = draw(2, 2, 16)
    found, expected = (
        differentiate(lambda *inputs, form=form: form(*inputs, 0.1), weights, x, scale, offset)
        for form in (layer_norm.normalise, layer_norm.plain_normalise)
    )
    # Sums of up to 16 products, near 10, in another order; x's gradient is rounded to its own type.
    exact = 30 * UNIT["float32"]
    rounded = max(exact, 4 * UNIT[dtype])
    assert_close(found[0], expected[0], rounded)
    for one, other, atol in zip(found[1], expected[1], (rounded, exact, exact), strict=True):
        assert_close(one, other, atol)


FORMS = {
    "products": lambda x, w: products.multiply(x, w, w[0]),
    "gate": lambda x, w: gate.apply_gate(jax.nn.silu, x) * w[0, 0],
    "norm": lambda x, w: layer_norm.normalise(x, w[0], w[1], 0.1),
}


@pytest.mark.parametrize("name", FORMS)
def test_gradients_have_gradients(name):
    """Forwards over reverse too, as the docstring of the room says, against finite differences."""
    x, w = draw(0, 3, 4), draw(1, 4, 4)

    def total(x, w):
        return jnp.sum(jnp.sin(FORMS[name](x, w)))

    # Differences of 1e-3 to the third digit, in float32.
    check_grads(jax.jit(total), (x, w), order=1, modes=["rev"], atol=3e-2, rtol=3e-2, eps=1e-3)
    gradient = jax.grad(lambda x: total(x, w))
    direction = draw(2, 3, 4)
    forwards = jax.jvp(gradient, (x,), (direction,))[1]
    backwards = jax.grad(lambda x: jnp.vdot(gradient(x), direction))(x)
    # The Hessian is symmetric: the same numbers near 1 to a few roundings of their sums.
    np.testing.assert_allclose(forwards, backwards, atol=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_forward_mode_alone_is_refused(name):
    x, w = draw(0, 3, 4), draw(1, 4, 4)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda x: FORMS[name](x, w), (x,), (x,))


def test_tokens_at_positions_are_those_and_their_gradient_goes_there():
    x, positions = draw(0, 2, 5, 3, dtype="bfloat16"), jnp.array([[4, 0], [1, 2]])
    weights = draw(1, 2, 2, 3)
    found, (gradient,) = differentiate(lambda x: take_tokens(x, positions), weights, x)
    np.testing.assert_array_equal(found, jnp.take_along_axis(x, positions[..., None], axis=1))
    expected = np.zeros((2, 5, 3), np.float32)
    for row, slot in np.ndindex(2, 2):
        expected[row, positions[row, slot]] = weights[row, slot].astype("bfloat16")
    np.testing.assert_array_equal(np.asarray(gradient, np.float32), expected)
