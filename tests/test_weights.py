"""The two layouts: bit for bit there and back, and one line for everything that is wrong."""

import json
import sys
import types
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pytest
from golden.make_parameters import golden_file
from small_models import (
    MODELS,
    V1,
    V2,
    V2_BIASED,
    assert_same_params,
    random_params,
    save_model,
)

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.model import count_parameters
from nucleotide_transformer.pretrained import export_model
from nucleotide_transformer.weights.assembly import expected_shapes
from nucleotide_transformer.weights.configs import find_vocabulary, make_hyperparams
from nucleotide_transformer.weights.folders import Layout, load_folder
from nucleotide_transformer.weights.hub import RELEASED
from nucleotide_transformer.weights.huggingface import (
    load_huggingface,
    open_tensors,
    save_huggingface,
    tensor_places,
)

FLOAT32 = ComputeConfig()
LAYOUTS: tuple[Layout, ...] = ("huggingface", "jax")


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_of_released_models_have_the_frozen_names_and_shapes(name: str) -> None:
    frozen = json.loads(golden_file(name).read_text())
    shapes = expected_shapes(RELEASED[name].config)
    assert frozen == {
        f"{module}/{leaf}": list(shape)
        for module, leaves in shapes.items()
        for leaf, shape in leaves.items()
    }


def test_released_models_have_the_published_numbers_of_parameters() -> None:
    """From the `hyperparams.json` of 1B_agro_nt, and from the sizes of published files."""
    assert count_parameters(RELEASED["1B_agro_nt"].config) == 991_260_405
    pickle_bytes = 16_791  # names and descriptions of the 177 arrays of a 12-layer v2 model
    for name, file_size in (("50M_multi_species_v2", 219_437_507), ("codon_nt", 202_906_307)):
        assert 4 * count_parameters(RELEASED[name].config) + pickle_bytes == file_size


def test_vocabulary_sizes_tell_vocabulary_and_k() -> None:
    assert [find_vocabulary(size) for size in (4105, 4107, 75, 4106)] == [
        ("v1", 6),
        ("v2", 6),
        ("v2", 3),
        None,
    ]


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("kind", MODELS)
def test_there_and_back_gives_the_same_bits(kind: str, first: Layout, tmp_path: Path) -> None:
    config = MODELS[kind]
    params = save_model(tmp_path / "1", config, first)
    once, found = load_folder(tmp_path / "1", FLOAT32)
    assert_same_params(once, params)
    assert found == config
    second: Layout = "jax" if first == "huggingface" else "huggingface"
    save_model(tmp_path / "2", found, second, once)
    twice, config_twice = load_folder(tmp_path / "2", FLOAT32)
    assert_same_params(twice, params)
    assert config_twice == config
    save_model(tmp_path / "3", config_twice, first, twice)
    for file in (tmp_path / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "3" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_survives(layout: Layout, dtype: Any, tmp_path: Path) -> None:
    params = {
        module: {name: leaf.astype(dtype) for name, leaf in leaves.items()}
        for module, leaves in random_params(V2).items()
    }
    save_model(tmp_path / "m", V2, layout, params)
    assert_same_params(load_folder(tmp_path / "m", ComputeConfig(param_dtype=dtype))[0], params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_config_json_says_what_the_numbers_are(dtype: Any, tmp_path: Path) -> None:
    """transformers loads the weights in the type that stands there."""
    compute = ComputeConfig(param_dtype=dtype)
    save_model(tmp_path / "m", V2, "jax")
    export_model(tmp_path / "m", tmp_path / "hf", compute=compute)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["torch_dtype"] == dtype
    tensors = open_tensors(tmp_path / "hf" / "model.safetensors")
    assert {str(tensor.read().dtype) for tensor in tensors.values()} == {dtype}


class FakeTensor(NamedTuple):
    """As much of a tensor of torch as is asked for."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def numel(self) -> int:
        return self.array.size

    def element_size(self) -> int:
        return self.array.itemsize

    def detach(self) -> "FakeTensor":
        return self

    def numpy(self) -> np.ndarray:
        return self.array


@pytest.mark.parametrize("is_sharded", [False, True])
def test_pytorch_weights_are_read_by_torch_as_weights_only(
    is_sharded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which keeps a pickle from running code. Torch itself is asked in tests/interop."""
    params = save_model(tmp_path, V2, "huggingface")
    file = tmp_path / "model.safetensors"
    tensors = {name: FakeTensor(tensor.read()) for name, tensor in open_tensors(file).items()}
    file.unlink()
    files = [f"pytorch_model-{i}.bin" for i in (1, 2)] if is_sharded else ["pytorch_model.bin"]
    parts = dict(
        zip(files, (dict(tuple(tensors.items())[i :: len(files)]) for i in (0, 1)), strict=False)
    )
    for name in files:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("data", bytes(100_000))
    if is_sharded:
        index = {"weight_map": {name: file for file in files for name in parts[file]}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    asked: list[dict[str, Any]] = []

    def load(file: Path, **options: Any) -> dict[str, FakeTensor]:
        asked.append({"file": file.name} | options)
        return parts[file.name]

    torch = types.SimpleNamespace(
        load=load, bfloat16="bf16", is_tensor=lambda x: isinstance(x, FakeTensor)
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert_same_params(load_folder(tmp_path, FLOAT32)[0], params)
    assert [options["file"] for options in asked] == files
    assert all(options["weights_only"] is True for options in asked)
    for name, source in open_tensors(tmp_path / files[0]).items():  # torch maps the file
        assert not np.shares_memory(source.read(), parts[files[0]][name].array)


def test_shards_hold_the_same_tensors(tmp_path: Path) -> None:
    params = random_params(V1)
    save_huggingface(tmp_path, params, V1, max_shard_bytes=9000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    assert_same_params(load_huggingface(tmp_path, FLOAT32)[0], params)


def test_joblib_and_safetensors_read_what_is_written(tmp_path: Path) -> None:
    params = save_model(tmp_path / "jax", V2, "jax")
    assert_same_params(joblib.load(tmp_path / "jax" / "pytree_ckpt.joblib"), params)
    library = pytest.importorskip("safetensors.numpy")
    save_model(tmp_path / "hf", V2, "huggingface")
    tensors = library.load_file(tmp_path / "hf" / "model.safetensors")
    assert tensors.keys() == tensor_places(V2).keys()
    for name, place in tensor_places(V2).items():
        right = np.asarray(params[place.module][place.name])
        np.testing.assert_array_equal(tensors[name], right.T if place.is_transposed else right)


def test_no_file_stays_in_memory_after_a_tensor_was_read(tmp_path: Path) -> None:
    """A mapped file counts as memory as far as it was read."""
    save_model(tmp_path / "m", V2, "huggingface")
    file = tmp_path / "m" / "model.safetensors"
    tensors = open_tensors(file)
    arrays = [tensor.read() for tensor in tensors.values()]
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the system does not say what is mapped")
    assert len(arrays) > 30
    assert str(file) not in maps.read_text()


def test_safetensors_written_by_the_library(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    params = save_model(tmp_path / "m", V2, "huggingface")
    file = tmp_path / "m" / "model.safetensors"
    library.save_file(library.load_file(file), file, metadata={"format": "pt"})
    assert_same_params(load_folder(tmp_path / "m", FLOAT32)[0], params)


@pytest.mark.parametrize(
    ("prefix", "is_renamed"),
    [
        ("esm_transformer", True),
        ("nucleotide_transformer500M_human_ref", True),
        ("dcnuc_v2", False),
    ],
)
@pytest.mark.parametrize("config", [V1, V2])
def test_names_of_modules_of_every_release(
    config: ModelConfig, prefix: str, is_renamed: bool, tmp_path: Path
) -> None:
    params = save_model(tmp_path / "m", config, "jax")
    tree = {}
    for module, leaves in params.items():
        renamed = module.replace("esm_transformer", prefix)
        if is_renamed:
            renamed = renamed.replace("/mha/", "/self_attention/")
            renamed = renamed.replace("mha_layer_norm", "self_attention_layer_norm")
            renamed = renamed.replace("esm_roberta_lm_head", "roberta_lm_head")
        tree[renamed] = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    joblib.dump(tree, tmp_path / "m" / "pytree_ckpt.joblib")
    assert_same_params(load_folder(tmp_path / "m", FLOAT32)[0], params)


def test_the_oldest_hyperparameters_lack_what_did_not_vary(tmp_path: Path) -> None:
    params = save_model(tmp_path / "m", V1, "jax")
    file = tmp_path / "m" / "hyperparams.json"
    names = ["alphabet_size", "max_positions", "embed_dim", "ffn_embed_dim", "num_layers"]
    names += ["attention_heads", "token_dropout", "masking_ratio", "masking_prob", "k_for_kmers"]
    content = make_hyperparams(V1)
    old = {name: content[name] for name in names} | {"key_dim": None, "dataset_name": "x"}
    file.write_text(json.dumps(old | {"learned_positional_embedding": True}))
    found, config = load_folder(tmp_path / "m", FLOAT32)
    assert config == V1
    assert_same_params(found, params)


def test_the_old_name_of_a_checkpoint(tmp_path: Path) -> None:
    """As older published code left it in its cache; the new name comes first."""
    params = save_model(tmp_path / "m", V1, "jax")
    file = tmp_path / "m" / "pytree_ckpt.joblib"
    file.rename(tmp_path / "m" / "ckpt.joblib")
    assert_same_params(load_folder(tmp_path / "m", FLOAT32)[0], params)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"pytree_ckpt\.joblib: half-written"):
        load_folder(tmp_path / "m", FLOAT32)


def test_a_folder_below_and_both_layouts_in_one(tmp_path: Path) -> None:
    params = save_model(tmp_path / "m", V2_BIASED, "huggingface")
    other = random_params(V2_BIASED, seed=1)
    save_model(tmp_path / "m" / "jax_model", V2_BIASED, "jax", other)
    assert_same_params(load_folder(tmp_path / "m", FLOAT32)[0], other)
    assert_same_params(load_folder(tmp_path / "m", FLOAT32, "huggingface")[0], params)


def test_tensors_that_the_model_never_reads_are_skipped(tmp_path: Path) -> None:
    params = save_model(tmp_path / "m", V2, "huggingface")
    file = tmp_path / "m" / "model.safetensors"
    library = pytest.importorskip("safetensors.numpy")
    unused = {
        "esm.contact_head.regression.weight": np.ones((1, 8), np.float32),
        "esm.embeddings.position_ids": np.arange(66)[None],
        "esm.embeddings.position_embeddings.weight": np.full((66, 16), np.nan, np.float32),
        "esm.encoder.layer.1.attention.self.rotary_embeddings.inv_freq": np.ones(2, np.float32),
    }
    library.save_file(library.load_file(file) | unused, file)
    assert_same_params(load_folder(tmp_path / "m", FLOAT32)[0], params)
