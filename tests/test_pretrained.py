"""Models from any source: names, the hub's cache, folders, runs; calls; what is refused."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import V2, assert_same_params, save_model

from nucleotide_transformer import pretrained
from nucleotide_transformer.config import ComputeConfig, PretrainConfig
from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.model import init_params
from nucleotide_transformer.pretrained import (
    Model,
    export_model,
    load_pretrained,
)
from nucleotide_transformer.tokenizers import KmerTokenizer

REPOSITORY = "InstaDeepAI/nucleotide-transformer-v2-50m-3mer-multi-species"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    save_model(tmp_path / "model", V2, "huggingface")
    return load_pretrained(tmp_path / "model")


def test_outputs_have_their_shapes_and_types(model: Model) -> None:
    tokens = model.tokenizer.encode_batch(["ATTCCGATTCCG", "ATTCCG<mask>"])
    outputs = model(tokens, layers=(2, 0, 2), attention=[1])
    assert model.tokenizer == KmerTokenizer(vocabulary="v2", k=3)
    assert outputs.logits.shape == (2, 5, 75)
    assert {layer: x.shape for layer, x in outputs.embeddings.items()} == {
        0: (2, 5, 16),
        2: (2, 5, 16),
    }
    assert outputs.attention[1].shape == (2, 4, 5, 5)
    assert outputs.logits.dtype == jnp.float32
    np.testing.assert_array_equal(model(jnp.asarray(tokens)).logits, model(tokens.tolist()).logits)


def test_equal_calls_are_compiled_once(model: Model) -> None:
    tokens = model.tokenizer.encode_batch(["ATTCCGATTCCG"])
    model(tokens, layers=(1, 2))
    with jax.no_tracing():
        for layers in ((1, 2), [2, 1], (1, 1, 2)):
            model(tokens, layers=layers)
        with pytest.raises(RuntimeError, match="tracing"):
            model(tokens)


def test_gradients_pass_through_a_call(model: Model) -> None:
    tokens = jnp.asarray(model.tokenizer.encode_batch(["ATTCCGATTCCG"]))

    def loss(params: Any) -> Any:
        return dataclasses.replace(model, params=params)(tokens).logits.sum()

    norms = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(jax.grad(loss)(model.params))]
    assert all(np.isfinite(norms))
    assert max(norms) > 0


@pytest.mark.parametrize(
    ("tokens", "rule"),
    [
        ([[3, 75]], r"tokens\[0, 1\] = 75: must lie between 0 and 74"),
        ([[3, 4], [-1, 3]], r"tokens\[1, 0\] = -1: must lie"),
        (np.arange(3), r"tokens: shape \[3\]: must be \[sequences, tokens\]"),
        (np.zeros((0, 3), int), r"tokens: shape \[0, 3\]"),
        (np.zeros((1, 3)), "tokens: float64: must be integers"),
    ],
)
def test_tokens_that_do_not_fit(tokens: Any, rule: str, model: Model) -> None:
    with pytest.raises(ValueError, match=rf"^{rule}[^\n]*$"):
        model(tokens)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": (3,)}, "layers: there is no layer 3; the model's are numbered 0 to 2"),
        ({"layers": (-1,)}, "layers: there is no layer -1; the model's are numbered 0 to 2"),
        ({"attention": (0,)}, "attention: there is no layer 0; the model's are numbered 1 to 2"),
    ],
)
def test_layers_that_do_not_exist(asked: Any, message: str, model: Model) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        model([[3, 4]], **asked)


def test_a_run_of_ours_loads_with_its_checkpoint(tmp_path: Path) -> None:
    import optax

    from nucleotide_transformer.training.checkpoints import Checkpointer
    from nucleotide_transformer.training.state import init_state

    data = dataclasses.replace(PretrainConfig().data, sequence_tokens=10)
    config = PretrainConfig(model=V2, data=data, tokens_per_update=100, sequences_per_device=1)
    params = init_params(jax.random.key(config.seed), V2)
    state = jax.tree.map(np.asarray, init_state(params, optax.adam(1e-3)))
    checkpointer = Checkpointer(tmp_path / "run", keep=1)
    checkpointer.save(state, {"next": 0}, config_to_dict(config), {"corpus": "abc"}, {})
    checkpointer.wait()
    for source in (tmp_path / "run", checkpointer.path(0)):
        model = load_pretrained(source)
        assert model.config == V2
        assert_same_params(model.params, state.params)
    checkpointer.close()
    export_model(tmp_path / "run", tmp_path / "exported")
    assert_same_params(load_pretrained(tmp_path / "exported").params, state.params)


def test_an_export_is_a_complete_folder(model: Model, tmp_path: Path) -> None:
    tokenizer_files = {"vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "README.md"}
    weights = {
        "huggingface": {"config.json", "model.safetensors"},
        "jax": {"hyperparams.json", "pytree_ckpt.joblib"},
    }
    for layout, files in weights.items():
        export_model(tmp_path / "model", tmp_path / layout, layout=layout)  # type: ignore[arg-type]
        names = {path.name for path in (tmp_path / layout).iterdir()}
        assert names == tokenizer_files | files
        card = (tmp_path / layout / "README.md").read_text()
        assert "CC BY-NC-SA 4.0" in card
        assert str(tmp_path) not in card
        assert_same_params(load_pretrained(tmp_path / layout).params, model.params)
    assert (tmp_path / "huggingface" / "vocab.txt").stat().st_size == 302  # as the released one


def test_nothing_is_overwritten_unasked(model: Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "e")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "e").iterdir()}
    with pytest.raises(FileExistsError, match="is not empty"):
        model.save_pretrained(tmp_path / "e")
    with pytest.raises(FileExistsError, match="is not empty"):
        export_model(tmp_path / "no such model", tmp_path / "e")  # before anything is loaded
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "e").iterdir()}
    model.save_pretrained(tmp_path / "e", "jax", overwrite=True)
    assert not (tmp_path / "e" / "model.safetensors").exists()
    (tmp_path / "e" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"holds notes\.txt, which no export wrote"):
        model.save_pretrained(tmp_path / "e", overwrite=True)
    assert (tmp_path / "e" / "hyperparams.json").exists()


def test_an_export_that_fails_leaves_nothing(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    model.save_pretrained(tmp_path / "old")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("nucleotide_transformer.weights.cards.write_card", fail)
    for folder, overwrite in ((tmp_path / "new" / "er", False), (tmp_path / "old", True)):
        with pytest.raises(OSError, match="disk full"):
            model.save_pretrained(folder, overwrite=overwrite)
    assert sorted(set(tmp_path.rglob("*")) - {tmp_path / "new"}) == before


def test_folders_that_can_not_be_written(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file; an export is a folder"):
        model.save_pretrained(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match=r"file/below: can't be written: [^\n]*$"):
        model.save_pretrained(tmp_path / "file" / "below")


def test_two_models_of_different_precision_do_not_change_each_other(model: Model) -> None:
    half = dataclasses.replace(model, compute=ComputeConfig(compute_dtype="bfloat16"))
    tokens = model.tokenizer.encode_batch(["ATTCCGATTCCG"])
    before = np.asarray(model(tokens).logits)
    assert not np.array_equal(half(tokens).logits, before)
    np.testing.assert_array_equal(model(tokens).logits, before)


def test_loading_does_not_import_what_trains(tmp_path: Path) -> None:
    save_model(tmp_path / "m", V2, "jax")
    code = (
        "import sys; from nucleotide_transformer.pretrained import load_pretrained;"
        f"load_pretrained({str(tmp_path / 'm')!r});"
        "names = ('orbax', 'optax', 'grain', 'torch', 'joblib', 'safetensors');"
        "print([name for name in names if name in sys.modules])"
    )
    root = Path(pretrained.__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert (run.stdout, run.stderr) == ("[]\n", "")
