"""Random models of a few thousand parameters, one of each kind that is released."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.pretrained import Model, load_pretrained
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights.assembly import expected_shapes
from nucleotide_transformer.weights.exports import save_folder
from nucleotide_transformer.weights.folders import Layout

V2 = ModelConfig(k=3, num_layers=2, embed_dim=16, num_heads=4, ffn_dim=24, max_positions=64)
V1 = dataclasses.replace(
    V2,
    vocabulary="v1",
    ffn_activation="gelu",
    ffn_gated=False,
    ffn_bias=True,
    position="learned",
    token_dropout=True,
)
AGRO = dataclasses.replace(V1, token_dropout=False, embed_layer_norm=True)
V2_BIASED = dataclasses.replace(V2, k=4, ffn_bias=True, layer_norm_epsilon=1e-12)
MODELS = {"v1": V1, "v2": V2, "agro": AGRO, "v2 with biases": V2_BIASED}


def random_params(config: ModelConfig, seed: int = 0) -> Params:
    """Parameters without any structure: no two are equal, and none is 0 or 1."""
    random = np.random.default_rng(seed)
    return {
        module: {
            name: jax.numpy.asarray(0.3 * random.standard_normal(shape, np.float32))
            for name, shape in shapes.items()
        }
        for module, shapes in expected_shapes(config).items()
    }


def make_model() -> Model:
    """One of v2, of 3-mers."""
    tokenizer = KmerTokenizer(vocabulary=V2.vocabulary, k=V2.k)
    return Model(params=random_params(V2), config=V2, tokenizer=tokenizer)


@pytest.fixture(scope="module", name="model")
def random_model() -> Model:
    return make_model()


@pytest.fixture(name="model")
def saved_model(tmp_path: Path) -> Model:
    """The same, loaded from the test's folder `model`."""
    save_model(tmp_path / "model", V2, "huggingface")
    return load_pretrained(tmp_path / "model")


def assert_same_params(found: Params, expected: Params) -> None:
    """Same names, types and bits."""
    assert found.keys() == expected.keys()
    for module, leaves in expected.items():
        assert found[module].keys() == leaves.keys()
        for name, leaf in leaves.items():
            array, right = np.asarray(found[module][name]), np.asarray(leaf)
            assert array.dtype == right.dtype
            assert array.shape == right.shape
            assert array.tobytes() == right.tobytes()


def save_model(
    folder: Path, config: ModelConfig, layout: Layout, params: Params | None = None
) -> Params:
    params = random_params(config) if params is None else params
    save_folder(folder, params, config, layout=layout, origin="random numbers")
    return params
