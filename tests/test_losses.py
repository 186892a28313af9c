"""Cross-entropy over masked tokens, against float64."""

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.pretraining.objective import masked_cross_entropy


def test_sum_and_counts_equal_float64_reference():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 11)).astype(np.float32)
    targets = rng.integers(0, 11, (3, 5))
    targets[0, :2] = logits[0, :2].argmax(-1)
    valid = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    wide = logits.astype(np.float64)
    log_probabilities = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_probabilities, targets[..., None], -1)[..., 0][valid].sum()
    nats, counts = masked_cross_entropy(*map(jnp.asarray, (logits, targets, valid)))
    np.testing.assert_allclose(nats, expected, rtol=1e-6)
    assert counts["weight"] == 4
    assert counts["accuracy"] == ((logits.argmax(-1) == targets) & valid).sum() >= 2


def test_unused_slots_have_no_gradient_even_where_their_logits_overflow():
    logits = jnp.zeros((1, 2, 3)).at[0, 1].set(jnp.array([1e38, -1e38, 0.0]))
    valid = jnp.array([[True, False]])
    targets = jnp.array([[0, 1]])
    gradient = jax.grad(lambda x: masked_cross_entropy(x, targets, valid)[0])(logits)
    assert jnp.isfinite(gradient).all()
    assert (gradient[0, 1] == 0).all()


def test_half_precision_logits_are_summed_in_float32():
    logits = jnp.zeros((64, 64, 7), jnp.float16)
    nats, _ = masked_cross_entropy(logits, jnp.zeros((64, 64), jnp.int32), jnp.ones((64, 64), bool))
    # 4,096 float32 terms, summed in the compiler's order; float16 would be off by 5e-4.
    np.testing.assert_allclose(nats, 4096 * np.log(7), rtol=1e-5)
