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
from small_models import V2, assert_same_params, random_params, save_model

from nucleotide_transformer import pretrained
from nucleotide_transformer.config import ComputeConfig, PretrainConfig
from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.model import init_params
from nucleotide_transformer.pretrained import (
    Model,
    export_model,
    get_pretrained_model,
    load_pretrained,
)
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.weights.hub import RELEASED, find_released
from nucleotide_transformer.weights.sources import find_folder

REPOSITORY = "InstaDeepAI/nucleotide-transformer-v2-50m-3mer-multi-species"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    save_model(tmp_path / "model", V2, "huggingface")
    return load_pretrained(tmp_path / "model")


def make_cache(cache: Path, repository: str = REPOSITORY, below: str = "jax_model") -> Path:
    """A cache of huggingface_hub that holds one repository with a small model in it."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    snapshot = place / "snapshots" / ("0" * 40)
    save_model(snapshot / below, V2, "jax")
    return snapshot


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: huggingface_hub is told so, and does not try."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("100M_multi_species", "100M_multi_species_v2"),
        ("500m_human_ref", "500M_human_ref"),
        ("codon-nt", "codon_nt"),
        ("2B5_1000g", "2B5_1000G"),
    ],
)
def test_an_unknown_name_meets_the_nearest(name: str, nearest: str) -> None:
    pattern = rf"^{name!r} is no released model: did you mean {nearest}\? [^\n]*$"
    with pytest.raises(ValueError, match=pattern):
        load_pretrained(name)
    with pytest.raises(ValueError, match=pattern):
        get_pretrained_model(name)


def test_every_released_model_has_a_repository_of_its_own() -> None:
    repositories = {released.repository for released in RELEASED.values()} - {None}
    assert len(repositories) == len(RELEASED) - 1 == 10  # one comes with the package
    assert all(repository and repository.startswith("InstaDeepAI/") for repository in repositories)


@pytest.mark.parametrize("name", ["codon_nt", REPOSITORY])
def test_without_network_and_cache_one_line_says_what_to_do(
    name: str, offline: None, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_pretrained(name, cache=tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith(
        f"{REPOSITORY}: no such folder, not in the cache ({tmp_path / 'cache'})"
    )
    assert f"`hf download {REPOSITORY} --local-dir FOLDER`" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["codon_nt", REPOSITORY])
@pytest.mark.parametrize("below", ["jax_model", "."])
def test_without_network_the_cache_is_enough(
    name: str, below: str, offline: None, tmp_path: Path
) -> None:
    make_cache(tmp_path, below=below)
    model = load_pretrained(name, cache=tmp_path)
    assert model.config == V2
    assert_same_params(model.params, random_params(V2))
    assert (model.origin, model.license) == (REPOSITORY, "cc-by-nc-sa-4.0")


def test_a_cache_without_weights(offline: None, tmp_path: Path) -> None:
    for file in (make_cache(tmp_path) / "jax_model").iterdir():
        file.unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"^{REPOSITORY}: no model in the hub or the cache"
    ):
        load_pretrained("codon_nt", cache=tmp_path)


@pytest.mark.parametrize("layout", [None, "huggingface", "jax"])
def test_only_what_is_needed_is_fetched(
    layout: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def download(repository: str, *, allow_patterns: list[str], **_: Any) -> str:
        asked.append(allow_patterns)
        return str(tmp_path / "model")

    save_model(tmp_path / "model", V2, "jax" if layout == "jax" else "huggingface")
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    find_folder("codon_nt", layout)
    jax_files = {"jax_model/hyperparams.json", "jax_model/pytree_ckpt.joblib"}
    assert (jax_files <= set(asked[0])) == (layout != "huggingface")
    assert ("model.safetensors" in asked[-1]) == (layout != "jax")
    assert len(asked) == (2 if layout is None else 1)
    assert not any("pytorch" in name or "tf_model" in name for names in asked for name in names)


@pytest.mark.parametrize("name", ["codon_nt", REPOSITORY])
def test_the_revision_and_the_cache_that_are_asked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def download(repository: str, **options: Any) -> str:
        asked.append({"repository": repository} | options)
        return str(tmp_path / "model")

    save_model(tmp_path / "model", V2, "jax")
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_pretrained(name, revision="a1b2c3", cache=tmp_path / "cache")
    load_pretrained(name)
    for options in asked:
        del options["allow_patterns"]
    assert asked == [
        {"repository": REPOSITORY, "revision": "a1b2c3", "cache_dir": tmp_path / "cache"},
        {"repository": REPOSITORY, "revision": None, "cache_dir": None},
    ]


def test_paths_that_are_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "below" / "model.safetensors"
    file.parent.mkdir()
    file.touch()
    with pytest.raises(NotADirectoryError, match="is a file: give the folder"):
        load_pretrained(file)
    for missing in (tmp_path / "missing", str(tmp_path / "missing"), "./missing", "~/missing/x"):
        with pytest.raises(FileNotFoundError, match="no such folder"):
            load_pretrained(missing)
    with pytest.raises(FileNotFoundError, match=r"no model: should hold [^\n]*$"):
        load_pretrained(tmp_path)


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


def test_the_card_of_a_released_model_has_its_licence(offline: None, tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    load_pretrained("codon_nt", cache=tmp_path / "cache").save_pretrained(tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "license: cc-by-nc-sa-4.0" in card
    assert f"Made from: {REPOSITORY}." in card
    assert "trust_remote_code" in card  # what the gated architecture needs in transformers


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


def test_find_released_knows_the_family() -> None:
    families = {name: find_released(name).family for name in RELEASED}
    assert families["2B5_1000G"] == "v1"
    assert families["codon_nt"] == "codon"
    assert families["1B_agro_nt"] == "agro"
    assert families["250M_multi_species_v2"] == "v2"
