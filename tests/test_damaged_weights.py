"""Weight files that are damaged or say what this package can't do: one line with all of it."""

import dataclasses
import json
import pickle
import re
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import joblib
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_models import V1, V2, random_params, save_model

from nucleotide_transformer.config import ComputeConfig
from nucleotide_transformer.weights.folders import Layout, load_folder
from nucleotide_transformer.weights.huggingface import (
    load_huggingface,
    open_tensors,
    save_huggingface,
)
from nucleotide_transformer.weights.released_jax import load_released_jax

FLOAT32 = ComputeConfig()


def damage(tree: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Breaks five tensors of a saved model, each in its own way."""
    block = "esm_transformer/attention_layer_1/~"
    tree[f"{block}/fc1"]["w"] = tree[f"{block}/fc1"]["w"][:, :5]
    del tree[f"{block}/fc2"]["w"]
    scale = np.array(tree[f"{block}/final_layer_norm"]["scale"])
    scale[3:5] = np.inf, np.nan
    tree[f"{block}/final_layer_norm"]["scale"] = scale
    tree["esm_transformer/~/other"] = {"w": np.zeros(3, np.float32)}
    embed = tree["esm_transformer/~/embed"]
    embed["embeddings"] = np.asarray(embed["embeddings"]).astype(np.int32)
    return tree


def test_all_damaged_tensors_of_a_joblib_file_are_in_one_line(tmp_path: Path) -> None:
    save_model(tmp_path / "m", V2, "jax")
    file = tmp_path / "m" / "pytree_ckpt.joblib"
    joblib.dump(damage(joblib.load(file)), file)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        load_folder(tmp_path / "m", FLOAT32)
    block = "esm_transformer/attention_layer_1/~"
    assert str(caught.value) == (
        f"{file}: 5 tensors wrong; misshapen: {block}/fc1/w [16, 5], not [16, 48]; non-finite:"
        f" {block}/final_layer_norm/scale (2 values); not of floating point:"
        " esm_transformer/~/embed/embeddings (int32); unexpected: esm_transformer/~/other/w;"
        f" missing: {block}/fc2/w"
    )


def test_all_damaged_tensors_of_a_safetensors_file_are_in_one_line(tmp_path: Path) -> None:
    save_model(tmp_path / "m", V2, "huggingface")
    file = tmp_path / "m" / "model.safetensors"
    arrays = load_file(file)
    layer = "esm.encoder.layer.1"
    arrays[f"{layer}.LayerNorm.weight"][2] = np.inf
    arrays[f"{layer}.intermediate.dense.weight"] = np.ones((48, 15), np.float32)
    del arrays[f"{layer}.output.dense.weight"]
    arrays["esm.other"] = arrays.pop("lm_head.bias")
    save_file(arrays, file)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        load_folder(tmp_path / "m", FLOAT32)
    assert str(caught.value) == (
        f"{file}: 5 tensors wrong; non-finite: {layer}.LayerNorm.weight (1 values); misshapen:"
        f" {layer}.intermediate.dense.weight [48, 15], not [48, 16]; unexpected: esm.other;"
        f" missing: {layer}.output.dense.weight, lm_head.bias"
    )


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.999])
@pytest.mark.parametrize("layout", ["jax", "huggingface"])
def test_a_file_that_is_cut_short(layout: Any, part: float, tmp_path: Path) -> None:
    save_model(tmp_path / "m", V2, layout)
    names = {"jax": "pytree_ckpt.joblib", "huggingface": "model.safetensors"}
    file = tmp_path / "m" / names[layout]
    data = file.read_bytes()
    file.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=rf"^[^\n]*{file}: half-written[^\n]*: fetch it again$"):
        load_folder(tmp_path / "m", FLOAT32)


def test_names_of_tensors_do_not_reach_the_terminal_as_they_are(tmp_path: Path) -> None:
    save_model(tmp_path / "m", V2, "huggingface")
    file = tmp_path / "m" / "model.safetensors"
    odd = {"a\nb\x1b[31mred": np.ones(1, np.float32), "x" * 50_000: np.ones(1, np.float32)}
    save_file(load_file(file) | odd, file)
    save_model(tmp_path / "jax", V2, "jax")
    tree = joblib.load(tmp_path / "jax" / "pytree_ckpt.joblib")
    tree |= {"a\nb/\x1b[31mred": {"w\x1b": np.ones(1)}, "m/" + "x" * 50_000: {"w": np.ones(1)}}
    joblib.dump(tree, tmp_path / "jax" / "pytree_ckpt.joblib")
    for folder in ("m", "jax"):
        with pytest.raises(ValueError, match="2 tensors wrong; unexpected: ") as caught:
            load_folder(tmp_path / folder, FLOAT32)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600
        assert r"\x1b[31mred" in str(caught.value)


def test_a_tree_that_holds_itself(tmp_path: Path) -> None:
    save_model(tmp_path / "m", V2, "jax")
    tree: dict[str, Any] = {"b": {}}
    tree["a"] = tree
    (tmp_path / "m" / "pytree_ckpt.joblib").write_bytes(pickle.dumps(tree, 4))
    with pytest.raises(ValueError, match=r"^[^\n]*tensors wrong; [^\n]*$"):
        load_folder(tmp_path / "m", FLOAT32)


def test_a_matrix_without_axes(tmp_path: Path) -> None:
    """By its shape it is known whether the network is gated: it counts as one that is not."""
    save_model(tmp_path / "m", V2, "huggingface")
    file = tmp_path / "m" / "model.safetensors"
    name = "esm.encoder.layer.0.intermediate.dense.weight"
    save_file(load_file(file) | {name: np.ones((), np.float32)}, file)
    with pytest.raises(ValueError, match=rf"tensors wrong; misshapen: {name} \[\], not \[24, 16\]"):
        load_folder(tmp_path / "m", FLOAT32)


def save_shards(folder: Path) -> dict[str, Any]:
    """A model in shards, and its index."""
    save_huggingface(folder, random_params(V2), V2, max_shard_bytes=9_000)
    return json.loads((folder / "model.safetensors.index.json").read_text())


def test_a_shard_gives_no_tensor_of_another(tmp_path: Path) -> None:
    """What the index gives to another shard, or to none, is refused by name."""
    index = save_shards(tmp_path)
    embed = "esm.embeddings.word_embeddings.weight"
    last = tmp_path / max(index["weight_map"].values())
    assert index["weight_map"][embed] != last.name
    for name, owner in ((embed, index["weight_map"][embed]), ("other", "no file")):
        tensors = load_file(last)
        save_file(tensors | {name: np.full((75, 16), 7, np.float32)}, last)
        rule = f"{last}: holds {name}, which model.safetensors.index.json gives to {owner}"
        with pytest.raises(ValueError, match=f"^{re.escape(rule)}$"):
            load_huggingface(tmp_path, FLOAT32)
        save_file(tensors, last)
    assert len(load_huggingface(tmp_path, FLOAT32)[0]) > 5


def test_a_tensor_that_the_index_lists_and_no_shard_has(tmp_path: Path) -> None:
    index = save_shards(tmp_path)
    shard = tmp_path / index["weight_map"]["lm_head.bias"]
    save_file(
        {name: array for name, array in load_file(shard).items() if name != "lm_head.bias"}, shard
    )
    with pytest.raises(ValueError, match=r"1 tensor wrong; missing: lm_head\.bias$"):
        load_huggingface(tmp_path, FLOAT32)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1]},
        ["F32"],
    ],
)
def test_a_damaged_safetensors_header(entry: Any, tmp_path: Path) -> None:
    header, file = json.dumps({"w": entry}).encode(), tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match=r"^[^\n]*model\.safetensors: half-written or damaged \("):
        open_tensors(file)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "..", "", 3])
def test_an_index_names_files_of_its_own_folder_only(name: Any, tmp_path: Path) -> None:
    save_huggingface(tmp_path, random_params(V2), V2)
    (tmp_path / "model.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ValueError, match=r"weight_map must give each tensor a file name"):
        load_huggingface(tmp_path, FLOAT32)


@pytest.mark.parametrize(
    ("number", "dtype", "wider"),
    [(-1e5, "float16", "bfloat16"), (3.4e38, "bfloat16", "float32"), (1e300, "float32", None)],
)
def test_a_number_that_a_type_does_not_reach(
    number: float, dtype: Any, wider: Any, tmp_path: Path
) -> None:
    save_model(tmp_path / "m", V2, "jax")
    file = tmp_path / "m" / "pytree_ckpt.joblib"
    head = "esm_transformer/~/esm_roberta_lm_head/~/lm_final_fc"
    tree = joblib.load(file)
    tree[head]["b"] = tree[head]["b"].astype(np.float64)
    tree[head]["b"][0] = number
    joblib.dump(tree, file)
    rule = rf"1 tensor wrong; too large for {dtype}: .*lm_final_fc/b$"
    with pytest.raises(ValueError, match=rule):
        load_folder(tmp_path / "m", ComputeConfig(param_dtype=dtype))
    if wider:
        found, _ = load_folder(tmp_path / "m", ComputeConfig(param_dtype=wider))
        assert found[head]["b"].dtype == wider
        assert jnp.isfinite(found[head]["b"]).all()


@pytest.mark.parametrize(
    ("layout", "option", "value", "rule"),
    [
        ("jax", "add_bias_kv", True, "only False can be computed"),
        ("jax", "ffn_activation_name", "relu", "only 'swish' or 'silu' or 'gelu-no-approx'"),
        ("jax", "key_size", 7, "only 4 can be computed"),
        ("jax", "alphabet_size", 4106, r"must be 4\*\*k \+ 9"),
        ("jax", "k_for_kmers", 6, "only 3 can be computed"),
        ("jax", "num_layers", "2", "must be a int"),
        ("jax", "embed_dim", None, "is missing"),
        ("jax", "embed_dim", 18, "must be a multiple of num_heads"),
        ("jax", "positional_embedding", "learned", "only 'rotary' can be computed"),
        ("huggingface", "model_type", "bert", "only 'esm' can be computed"),
        ("huggingface", "position_embedding_type", "relative_key", "only 'rotary' or 'absolute'"),
        ("huggingface", "tie_word_embeddings", True, "only False can be computed"),
        ("huggingface", "vocab_size", 33, "must be"),
        ("huggingface", "rope_theta", 500.0, "only 10000.0 can be computed"),
        ("huggingface", "layer_norm_eps", "small", "must be a float"),
    ],
)
def test_options_that_are_not_computed(
    layout: Layout, option: str, value: Any, rule: str, tmp_path: Path
) -> None:
    save_model(tmp_path / "m", V2, layout)
    name, load = {
        "jax": ("hyperparams.json", load_released_jax),
        "huggingface": ("config.json", load_huggingface),
    }[layout]
    file = tmp_path / "m" / name
    file.write_text(json.dumps(json.loads(file.read_text()) | {option: value}))
    with pytest.raises(ValueError, match=rf"^[^\n]*{re.escape(name)}: [^\n]*{rule}[^\n]*$"):
        load(tmp_path / "m", FLOAT32)


@pytest.mark.parametrize(
    "change", [{"embed_scale": 2.0}, {"ffn_activation": "gelu"}, {"masking_ratio": 0.2}]
)
def test_what_the_huggingface_layout_has_no_words_for(change: Any, tmp_path: Path) -> None:
    config = dataclasses.replace(V2, token_dropout=True, **change)
    with pytest.raises(ValueError, match=f"^{next(iter(change))} = .*use layout jax$"):
        save_model(tmp_path / "m", config, "huggingface")
    assert list(tmp_path.iterdir()) == []
    save_model(tmp_path / "m", config, "jax")
    assert load_folder(tmp_path / "m", FLOAT32)[1] == config


def test_a_vocabulary_that_is_not_the_models(tmp_path: Path) -> None:
    save_model(tmp_path / "m", V1, "huggingface")
    file = tmp_path / "m" / "vocab.txt"
    file.write_text(
        file.read_text() + "\n<eos>\n<bos>\n"
    )  # as the released first generation has it
    load_folder(tmp_path / "m", FLOAT32)
    file.write_text(file.read_text().replace("ACG", "ACX"))
    with pytest.raises(ValueError, match=r"vocab\.txt: line \d+: 'ACX' should be 'ACG'$"):
        load_folder(tmp_path / "m", FLOAT32)
    file.write_text("A" * 5_000)
    with pytest.raises(ValueError, match=r"vocab\.txt: 5000 bytes: the vocabulary of this model"):
        load_folder(tmp_path / "m", FLOAT32)


def test_a_folder_without_a_model_and_one_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model: should hold .*hyperparams\.json"):
        load_folder(tmp_path, FLOAT32)
    for layout, config in (("jax", "hyperparams.json"), ("huggingface", "config.json")):
        save_model(tmp_path / layout, V2, layout)  # type: ignore[arg-type]
        (tmp_path / layout / config).unlink()
        with pytest.raises(FileNotFoundError, match=f"{config}: no such file"):
            load_folder(tmp_path / layout, FLOAT32)


def test_a_damaged_list_of_a_zip_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of PyTorch weights; its last bytes are as they should be."""
    save_model(tmp_path, V2, "huggingface")
    (tmp_path / "model.safetensors").unlink()
    file = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", bytes(100))
    file.write_bytes(file.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x03"))
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace())
    with pytest.raises(ValueError, match=r"^[^\n]*pytorch_model\.bin: damaged \(.*\): fetch it"):
        load_folder(tmp_path, FLOAT32)


def test_pytorch_weights_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "m", V2, "huggingface")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: .*needs torch"):
        load_folder(tmp_path / "m", FLOAT32)
