"""`get_pretrained_model`: the published documentation's code runs, and what differs is written."""

import dataclasses
from pathlib import Path
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import V1, V2, save_model

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.pretrained import get_pretrained_model, load_pretrained


def load_published(folder: Path, name: str = "codon_nt", **arguments: Any) -> Any:
    return get_pretrained_model(name, folder=folder, max_positions=8, **arguments)


def test_code_of_the_published_documentation_runs(tmp_path: Path) -> None:
    save_model(tmp_path / "m", V2, "jax")
    parameters, forward_fn, tokenizer, config = get_pretrained_model(
        model_name="codon_nt",
        embeddings_layers_to_save=(1,),
        attention_maps_to_save=((1, 4), (2, 1)),
        max_positions=12,
        folder=tmp_path / "m",
    )
    forward_fn = hk.transform(forward_fn)
    sequences = ["ATTCCGATTCCGATTCCG", "ATTTCTCTCTCTCTCTGAGATCGA"]
    batch = tokenizer.batch_tokenize(sequences)
    tokens = jnp.asarray([b[1] for b in batch], dtype=jnp.int32)
    outs = forward_fn.apply(parameters, jax.random.PRNGKey(0), tokens)
    maps = {f"attention_map_layer_{name}": (2, 12, 12) for name in ("1_number_4", "2_number_1")}
    shapes = {"logits": (2, 12, 75), "embeddings_1": (2, 12, 16), **maps}
    assert {name: array.shape for name, array in outs.items()} == shapes
    assert batch[0][0][:3] == ["<cls>", "ATT", "CCG"]
    assert batch[0][0][7:] == ["<pad>"] * 5
    assert [tokenizer.token_to_id(token) for token in batch[0][0]] == batch[0][1]
    assert [tokenizer.id_to_token(i) for i in batch[0][1]] == batch[0][0]
    padding_mask = jnp.expand_dims(tokens[:, 1:] != tokenizer.pad_token_id, axis=-1)
    assert padding_mask.sum() == 6 + 8
    assert (config.alphabet_size, config.key_size, config.use_rotary_embedding) == (75, 4, True)
    direct = load_pretrained(tmp_path / "m")(tokens, attention=(1,))
    head = outs["attention_map_layer_1_number_4"]
    np.testing.assert_allclose(head, direct.attention[1][:, 3], rtol=0, atol=1e-6)


def test_the_published_function_makes_parameters_too(tmp_path: Path) -> None:
    """`hk.transform(forward_fn).init` gives the released names, and numbers of its key."""
    parameters = save_model(tmp_path / "m", V2, "jax")
    forward_fn = hk.transform(load_published(tmp_path / "m")[1])
    tokens = jnp.full((1, 8), 9)
    found = forward_fn.init(jax.random.key(0), tokens)
    assert jax.tree.map(jnp.shape, dict(found)) == jax.tree.map(jnp.shape, dict(parameters))
    other = forward_fn.init(jax.random.key(1), tokens)
    assert not np.array_equal(*(p["esm_transformer/~/embed"]["embeddings"] for p in (found, other)))
    assert np.isfinite(forward_fn.apply(found, None, tokens)["logits"]).all()


@pytest.mark.parametrize("config", [V1, V2])
def test_the_published_tokenizers_properties(config: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "m", dataclasses.replace(config, k=6), "jax")
    name = "500M_1000G" if config is V1 else "50M_multi_species_v2"
    tokenizer = load_published(tmp_path / "m", name)[2]
    assert tokenizer.vocabulary_size == len(tokenizer.vocabulary) == 4107
    assert len(tokenizer.standard_tokens) == 4096 + 5
    special = ["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>"]
    assert tokenizer.special_tokens == special
    late = [4105, 4106] if config is V1 else [4, 5]
    ids = [tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id]
    ids += [tokenizer.class_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id]
    assert ids == [0, 1, 2, 3, *late]
    assert [tokenizer.vocabulary[i] for i in ids] == special
    with pytest.raises(
        ValueError, match="sequence 1: 9 tokens with <cls>: more than max_positions"
    ):
        tokenizer.batch_tokenize(["ATG", "ATTCCG" * 8])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"embeddings_layers_to_save": (3,)},
            "there is no layer 3; the model's are numbered 1 to 2",
        ),
        ({"embeddings_layers_to_save": (0,)}, "there is no layer 0"),
        (
            {"attention_maps_to_save": ((1, 5),)},
            "there is no head 5; the model's are numbered 1 to 4",
        ),
        ({"attention_maps_to_save": ((1, 0),)}, "there is no head 0"),
        ({"attention_maps_to_save": ((3, 1),)}, "there is no layer 3"),
        ({"compute_dtype": jnp.int8}, "compute_dtype = 'int8': must be one of float32"),
        ({"name": "500M_human_ref"}, "500M_human_ref has 'v1'"),
        ({"name": "50M_multi_species_v2"}, "50M_multi_species_v2 has 6"),
    ],
)
def test_what_the_published_interface_refuses(arguments: Any, message: str, tmp_path: Path) -> None:
    save_model(tmp_path / "m", V2, "jax")
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        load_published(tmp_path / "m", **arguments)


def test_tokens_of_the_published_function_may_be_lists_and_must_fit(tmp_path: Path) -> None:
    parameters = save_model(tmp_path / "m", V2, "jax")
    apply = hk.transform(load_published(tmp_path / "m")[1]).apply
    tokens = [[3, 9, 40, 1]]
    expected = apply(parameters, None, jnp.array(tokens))["logits"]
    np.testing.assert_array_equal(apply(parameters, None, tokens)["logits"], expected)
    for wrong, place in (([[3, 75]], "0, 1"), ([[3, 1, 9]], "0, 2")):
        with pytest.raises(InputError, match=rf"^tokens\[{place}\] = "):
            apply(parameters, None, wrong)


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, np.dtype("float16")])
def test_types_of_the_published_interface(dtype: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "m", V2, "jax")
    types = dict.fromkeys(["compute_dtype", "param_dtype", "output_dtype"], dtype)
    parameters, forward_fn, tokenizer, _ = load_published(tmp_path / "m", **types)
    tokens = jnp.asarray([ids for _, ids in tokenizer.batch_tokenize(["ATTCCG"])])
    outs = hk.transform(forward_fn).apply(parameters, jax.random.key(0), tokens)
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {jnp.dtype(dtype)}
    assert outs["logits"].dtype == jnp.dtype(dtype)
    assert np.isfinite(np.asarray(outs["logits"], np.float32)).all()
