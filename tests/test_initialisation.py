"""Parameters before training: drawn as published, and the same whatever they are used for."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from test_model import SMALL, SMALL_V1

from nucleotide_transformer.config import ComputeConfig
from nucleotide_transformer.model import init_params, make_forward

TRUNCATED = 0.8796256610342398
"""Standard deviation of a unit normal that is cut off at -2 and 2."""
WIDTH, HIDDEN = 128, 192


def expected_spread(init):
    """Standard deviation and bound of every kind of parameter, as the published code draws them."""
    he = (math.sqrt(2 / WIDTH), math.sqrt(6 / WIDTH))
    zero, one = (0, 0), (0, 1)

    def normal(stddev):
        return (TRUNCATED * stddev, 2 * stddev)

    in_width, in_hidden = normal(WIDTH**-0.5), normal(HIDDEN**-0.5)
    norms = {"scale": one, "offset": zero}
    attention = {"w": he, "b": he} if init == "he_uniform" else {"w": in_width, "b": zero}
    return {
        "embed": {"embeddings": normal(1)},
        "positions": {"embeddings": normal(1 if init == "he_uniform" else 0.02)},
        **dict.fromkeys(("query", "key", "value", "mha_output"), attention),
        "fc1": {"w": in_width, "b": zero},
        "fc2": {"w": in_hidden, "b": zero},
        "lm_head_fc_1": {"w": in_width, "b": zero},
        "lm_final_fc": {"w": in_width, "b": zero},
        **dict.fromkeys(("mha_layer_norm", "final_layer_norm"), norms),
        **dict.fromkeys(("emb_layer_norm_after", "lm_head_layer_norm"), norms),
        "emb_layer_norm_before": norms,
    }


@pytest.mark.parametrize("init", ["he_uniform", "truncated_normal"])
def test_initial_parameters_have_the_published_spread(init):
    """Of each kind over all layers: 768 numbers for a bias, 10,000 and more for a weight.

    The standard deviation of n numbers is off by 1 / sqrt(2 n) of itself for a normal, by less for
    a uniform: 2.6 % and 0.7 %; four times that is allowed. The mean is off by 1 / sqrt(n) of it.
    """
    config = dataclasses.replace(
        SMALL_V1, embed_dim=WIDTH, ffn_dim=HIDDEN, num_layers=6, embed_layer_norm=True, init=init
    )
    kinds = {}
    for module, leaves in init_params(jax.random.key(3), config).items():
        table = "positions" if "positional" in module else module.rpartition("/")[2]
        for name, leaf in leaves.items():
            kinds.setdefault((table, name), []).append(np.asarray(leaf).ravel())
    expected = {
        (module, name): numbers
        for module, leaves in expected_spread(init).items()
        for name, numbers in leaves.items()
    }
    assert kinds.keys() == expected.keys()
    for kind, (deviation, bound) in expected.items():
        values = np.concatenate(kinds[kind])
        if deviation == 0:
            assert set(values) == {bound}, kind
            continue
        assert values.std() == pytest.approx(deviation, rel=4 / math.sqrt(2 * values.size)), kind
        assert abs(values.mean()) < 4 * deviation / math.sqrt(values.size), kind
        assert 0.98 * bound < abs(values).max() <= bound, kind


def test_initial_parameters_are_the_same_however_they_are_used():
    base = init_params(jax.random.key(2), SMALL)
    same = (
        init_params(jax.random.key(2), SMALL, ComputeConfig(stack="loop", remat="none")),
        jax.jit(init_params, static_argnums=1)(jax.random.key(2), SMALL),
        dict(base) | make_forward(SMALL, head=None).init(jax.random.key(2)),
    )
    for other in same:
        jax.tree.map(np.testing.assert_array_equal, dict(base), dict(other))
    weights = [base[f"esm_transformer/attention_layer_{i}/~/fc2"]["w"] for i in range(3)]
    weights += [
        init_params(jax.random.key(4), SMALL)["esm_transformer/attention_layer_0/~/fc2"]["w"]
    ]
    distinct = {np.asarray(weight).tobytes() for weight in weights}
    assert len(distinct) == 4  # each layer and each seed draws its own
