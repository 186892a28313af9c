"""Reference values from code that this project did not write; see ../shared/golden/README.md."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import assert_same_params

from nucleotide_transformer.config import ComputeConfig
from nucleotide_transformer.model.layers import make_rotary_angles, rotate
from nucleotide_transformer.pretrained import Model, get_pretrained_model, load_pretrained
from nucleotide_transformer.weights.exports import save_folder
from nucleotide_transformer.weights.folders import load_folder
from nucleotide_transformer.weights.huggingface import open_tensors, tensor_places

CASES = ("jax_v1_small", "jax_v2_small", "hf_v1_small", "hf_v2_small")
TOLERANCE = 1e-4
"""Absolute, in float32, as the reference asks for; the largest difference seen is 5.4e-6."""
ROUNDOFF = {"bfloat16": 2**-8, "float16": 2**-11}
"""Largest relative error of one rounding: significands have 8 and 11 bits."""
ROUNDINGS_OF_A_BLOCK = 14
"""Norm, query, key, value, two rotations, weights, mixture, projection, sum; norm, two products
(the gate with its activation) and sum. The head has no more."""
PAD = 1


def call(model: Model, tokens: Any) -> dict[str, np.ndarray]:
    """Everything that the model gives, under the names of the reference."""
    layers = range(model.config.num_layers + 1)
    outputs = model(tokens, layers=layers, attention=layers[1:])
    found = {"logits": outputs.logits}
    for layer, embedding in outputs.embeddings.items():
        found |= {f"embeddings_{layer}": embedding, f"hidden_states_{layer}": embedding}
    for layer, maps in outputs.attention.items():
        found[f"attention_layer_{layer}"] = maps
        found |= {f"attention_layer_{layer}_head_{i}": maps[:, i] for i in range(maps.shape[1])}
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


def select_real(name: str, array: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Values of real tokens; for attention, of real queries on real keys."""
    if not name.startswith("attention"):
        return array[keep]
    pairs = keep[:, :, None] & keep[:, None, :]
    return array[pairs] if array.ndim == 3 else array.swapaxes(0, 1)[:, pairs]


@pytest.mark.parametrize("case", CASES)
def test_every_value_within_1e4(case: str, shared: Path) -> None:
    folder = shared / "golden" / case
    expected = dict(np.load(folder / "expected.npz"))
    tokens = expected.pop("tokens")
    expected.pop("attention_mask", None)
    found = call(load_pretrained(folder), tokens)
    keep = tokens != PAD
    assert len(expected) >= 4
    for name, array in expected.items():
        difference = select_real(name, found[name], keep) - select_real(name, array, keep)
        assert np.abs(difference).max() < TOLERANCE, name


@pytest.mark.parametrize("dtype", ROUNDOFF)
@pytest.mark.parametrize("case", CASES)
def test_half_precision_stays_finite_and_close(case: str, dtype: Any, shared: Path) -> None:
    """Independent roundings add in squares: sqrt(14 (L + 1)) roundoffs of the root mean square.

    Seen: at most 0.5 of it. The largest of some 200,000 normal errors is below 5.5 standard
    deviations; 8 leaves room for products that amplify.
    """
    folder = shared / "golden" / case
    tokens = np.load(folder / "expected.npz")["tokens"]
    keep = tokens != PAD
    assert not keep.all()
    exact = call(load_pretrained(folder), tokens)
    compute = ComputeConfig(compute_dtype=dtype, param_dtype=dtype, output_dtype=dtype)
    model = load_pretrained(folder, compute=compute)
    found = call(model, tokens)
    depth = ROUNDINGS_OF_A_BLOCK * (model.config.num_layers + 1)
    tolerance = math.sqrt(depth) * ROUNDOFF[dtype]
    for name, array in found.items():
        assert np.isfinite(array).all(), name
        if name.startswith(("logits", "embeddings")):
            right = exact[name][keep]
            errors = (array[keep] - right) / np.sqrt(np.mean(right**2))
            assert np.sqrt(np.mean(errors**2)) < tolerance, name
            assert np.abs(errors).max() < 8 * tolerance, name


@pytest.mark.parametrize("key_dim", [16, 64])
def test_rotary_angles_keep_their_precision_at_2048_tokens(key_dim: int) -> None:
    """Against float64: an angle is below 2,048 and rounded some four times in float32, 2**-24 each.

    In bfloat16 the only further error is that of the rotated values: two products and their sum,
    whose rounding is of a value below sqrt(2). Angles rounded to bfloat16 would be off by up to 2.
    """
    frequencies = 10_000.0 ** -(np.arange(0, key_dim, 2) / key_dim)
    angles = np.arange(2048)[:, None] * frequencies
    found = make_rotary_angles(2048, key_dim)
    tolerance = 2048 * 4 * 2**-24
    assert np.abs(np.asarray(found.cos) - np.cos(angles)).max() < tolerance
    assert np.abs(np.asarray(found.sin) - np.sin(angles)).max() < tolerance
    ones = jnp.ones((1, 2048, 1, key_dim), jnp.bfloat16)
    rotated = rotate(ones, found)
    assert rotated.dtype == jnp.bfloat16
    turned = np.asarray(rotated, np.float64)[0, :, 0]
    right = np.concatenate([np.cos(angles) - np.sin(angles), np.cos(angles) + np.sin(angles)], 1)
    assert np.abs(turned - right).max() < 2**-8 * math.sqrt(2) + 2 * tolerance


@pytest.mark.parametrize("case", ["hf_v1_small", "hf_v2_small"])
def test_exported_again_the_tensors_are_bitwise_those_of_the_file(
    case: str, shared: Path, tmp_path: Path
) -> None:
    folder = shared / "golden" / case
    params, config = load_folder(folder, ComputeConfig())
    save_folder(tmp_path / "jax", params, config, layout="jax", origin=case)
    params, config = load_folder(tmp_path / "jax", ComputeConfig())
    save_folder(tmp_path / "hf", params, config, layout="huggingface", origin=case)
    there, here = (open_tensors(place / "model.safetensors") for place in (folder, tmp_path / "hf"))
    assert here.keys() == tensor_places(config).keys()
    for name, tensor in here.items():
        assert tensor.read().tobytes() == there[name].read().tobytes(), name
    assert (tmp_path / "hf" / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()


@pytest.mark.parametrize("case", ["jax_v1_small", "jax_v2_small"])
def test_jax_to_huggingface_and_back_is_bitwise_the_same(
    case: str, shared: Path, tmp_path: Path
) -> None:
    params, config = load_folder(shared / "golden" / case, ComputeConfig())
    save_folder(tmp_path / "hf", params, config, layout="huggingface", origin=case)
    found, _ = load_folder(tmp_path / "hf", ComputeConfig())
    assert_same_params(found, params)


@pytest.mark.parametrize(
    ("case", "name", "layers", "maps"),
    [
        ("jax_v1_small", "500M_human_ref", (2, 3), ((3, 2),)),
        ("jax_v2_small", "100M_multi_species_v2", (1, 3), ((1, 1), (2, 4))),
    ],
)
def test_the_published_interface_gives_the_documented_values(
    case: str, name: str, layers: Any, maps: Any, shared: Path
) -> None:
    """Heads are counted from 1, as documented; in the file from 0, each as what it is."""
    import haiku as hk

    folder = shared / "golden" / case
    expected = np.load(folder / "expected.npz")
    parameters, forward_fn, tokenizer, config = get_pretrained_model(
        model_name=name,
        embeddings_layers_to_save=layers,
        attention_maps_to_save=maps,
        max_positions=40,
        folder=folder,
    )
    forward_fn = hk.transform(forward_fn)
    tokens = jnp.asarray(expected["tokens"], dtype=jnp.int32)
    with jax.default_matmul_precision("highest"):
        outs = jax.jit(forward_fn.apply)(parameters, jax.random.PRNGKey(0), tokens)
    names = {f"embeddings_{layer}": f"embeddings_{layer}" for layer in layers}
    names |= {
        f"attention_map_layer_{layer}_number_{head}": f"attention_layer_{layer}_head_{head - 1}"
        for layer, head in maps
    }
    assert outs.keys() == {"logits", *names}
    keep = expected["tokens"] != PAD
    assert np.abs(outs["logits"] - expected["logits"]).max() < TOLERANCE  # padding is 0 in both
    assert not np.asarray(outs["logits"])[~keep].any()
    for ours, theirs in names.items():
        values = (np.asarray(outs[ours]), expected[theirs])
        found, right = (select_real(theirs, value, keep) for value in values)
        assert np.abs(found - right).max() < TOLERANCE, ours
    assert (config.num_layers, config.attention_heads, config.embed_dim) == (3, 4, 64)
    assert tokenizer.fixed_length == 40


@pytest.mark.parametrize(
    ("case", "asked"),
    [("jax_v1_small", (3, 0)), ("jax_v2_small", (1, -1)), ("jax_v2_small", (2, 2))],
)
def test_the_head_that_the_published_code_gives_has_the_number_that_is_written(
    case: str, asked: tuple[int, int], shared: Path
) -> None:
    """The published code, asked for (l, n), gives [:, n + 1] of the maps: (l, n + 2) here."""
    import haiku as hk

    folder = shared / "golden" / case
    expected = np.load(folder / "expected.npz")
    layer, number = asked
    name = f"attention_layer_{layer}_head_{number + 1}"
    family = {"jax_v1_small": "500M_human_ref", "jax_v2_small": "100M_multi_species_v2"}[case]
    maps = ((layer, number + 2),)
    published = get_pretrained_model(family, attention_maps_to_save=maps, folder=folder)
    tokens = jnp.asarray(expected["tokens"], dtype=jnp.int32)
    with jax.default_matmul_precision("highest"):
        outs = hk.transform(published[1]).apply(published[0], None, tokens)
    keep = expected["tokens"] != PAD
    (found,) = (array for key, array in outs.items() if key.startswith("attention"))
    difference = select_real(name, np.asarray(found), keep) - select_real(
        name, expected[name], keep
    )
    assert np.abs(difference).max() < TOLERANCE
