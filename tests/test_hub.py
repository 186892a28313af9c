"""Released models by name: the table, its pins, the hub's cache, and folders of the same names."""

import dataclasses
import errno
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import joblib
import pytest
from huggingface_hub.errors import HTTPError
from small_models import V2, assert_same_params, random_params, save_model

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model import count_parameters
from nucleotide_transformer.pretrained import get_pretrained_model, load_pretrained
from nucleotide_transformer.weights import hub
from nucleotide_transformer.weights.folders import Layout, find_folder
from nucleotide_transformer.weights.hub import PACKAGED, RELEASED
from nucleotide_transformer.weights.released_jax import check_size

REPOSITORY = "InstaDeepAI/nucleotide-transformer-v2-50m-3mer-multi-species"


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Changes the entry of codon_nt in the table; to a small model and no pins if not said."""

    def change(**entry: Any) -> None:
        known = {"config": V2, "revision": None, "files": {}} | entry
        changed = dataclasses.replace(RELEASED["codon_nt"], **known)
        monkeypatch.setattr(hub, "RELEASED", dict(RELEASED) | {"codon_nt": changed})

    return change


def make_cache(
    cache: Path,
    repository: str = REPOSITORY,
    below: str = "jax_model",
    revision: str = "0" * 40,
    layout: Layout = "jax",
) -> Path:
    """A cache of huggingface_hub that holds one repository with a small model in it."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(revision)
    snapshot = place / "snapshots" / revision
    save_model(snapshot / below, V2, layout)
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
        ("250m", "250M_multi_species_v2"),
        ("10m_multi_species_v2", "10M_multi_species_v2"),  # no repository: its name is exact
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
    revision = RELEASED["codon_nt"].revision
    assert f"`hf download {REPOSITORY} --revision {revision} --local-dir FOLDER`" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["codon_nt", REPOSITORY])
@pytest.mark.parametrize("below", ["jax_model", "."])
def test_without_network_the_cache_is_enough(
    name: str, below: str, offline: None, release: Any, tmp_path: Path
) -> None:
    release()
    make_cache(tmp_path, below=below)
    model = load_pretrained(name, cache=tmp_path)
    assert model.config == V2
    assert_same_params(model.params, random_params(V2))
    assert (model.origin, model.license) == (REPOSITORY, "cc-by-nc-sa-4.0")


@pytest.mark.parametrize("revision", ["0" * 40, None])  # a pinned one, and what main means
@pytest.mark.parametrize(
    ("layout", "file"),
    [("huggingface", "model.safetensors"), ("jax", "jax_model/pytree_ckpt.joblib")],
)
def test_without_network_one_layout_in_the_cache_is_enough(
    layout: Layout, file: str, revision: Any, offline: None, release: Any, tmp_path: Path
) -> None:
    """Where the cache has the list of the repository's files, and knows which it lacks."""
    release(revision=revision)
    snapshot = make_cache(tmp_path, below=str(Path(file).parent), layout=layout)
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "jax_model/hyperparams.json"]
    names.append("jax_model/pytree_ckpt.joblib")
    files = {name: {"size": 1, "blob_id": "0"} for name in names}
    trees = snapshot.parent.parent / "trees"
    trees.mkdir()
    (trees / f"{snapshot.name}.json").write_text(json.dumps({"format_version": 1, "files": files}))
    assert find_folder("codon_nt", cache=tmp_path) == snapshot
    (snapshot / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"^{REPOSITORY}: .* or only in part, [^\n]*$"):
        find_folder("codon_nt", cache=tmp_path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HTTPError("peer closed\nthe connection"), "peer closed the connection"),  # of httpx
        (OSError("Consistency check failed: 5 bytes"), "Consistency check failed: 5 bytes"),
        (RuntimeError("CAS Client Error"), "CAS Client Error"),  # of xet
        (HTTPError(""), "HTTPError"),
    ],
)
def test_a_download_that_breaks_off_is_one_line(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", Mock(side_effect=error))
    with pytest.raises(InputError) as caught:
        find_folder("codon_nt")
    assert str(caught.value) == f"{REPOSITORY}: the download broke off ({reason}): run it again"


def test_a_full_disk_is_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("huggingface_hub.snapshot_download", Mock(side_effect=error))
    with pytest.raises(OSError, match=r"^\[Errno \d+\] No space left on device$"):
        find_folder("codon_nt")


def test_a_cache_without_weights(offline: None, release: Any, tmp_path: Path) -> None:
    release()
    for file in (make_cache(tmp_path) / "jax_model").iterdir():
        file.unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"^{REPOSITORY}: no model in the hub or the cache"
    ):
        load_pretrained("codon_nt", cache=tmp_path)


@pytest.mark.parametrize("layout", [None, "huggingface", "jax"])
def test_only_what_is_needed_is_fetched(
    layout: Any, release: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release()
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
    name: str, release: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(revision="b" * 40)
    asked: list[dict[str, Any]] = []

    def download(repository: str, **options: Any) -> str:
        asked.append({"repository": repository} | options)
        return str(tmp_path / "model")

    save_model(tmp_path / "model", V2, "jax")
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_pretrained(name, revision="a1b2c3", cache=tmp_path / "cache")
    load_pretrained(name)
    for options in asked:
        del options["allow_patterns"], options["local_files_only"]
    assert asked == [
        {"repository": REPOSITORY, "revision": "a1b2c3", "cache_dir": tmp_path / "cache"},
        {"repository": REPOSITORY, "revision": "b" * 40, "cache_dir": None},
    ]


@pytest.mark.parametrize("name", ["codon_nt", REPOSITORY])
def test_a_name_stands_for_the_pinned_revision(
    name: str, offline: None, release: Any, tmp_path: Path
) -> None:
    release(revision="b" * 40)
    make_cache(tmp_path, revision="0" * 40)  # another one, which main means
    with pytest.raises(FileNotFoundError, match=f"--revision {'b' * 40} "):
        load_pretrained(name, cache=tmp_path)
    assert load_pretrained(name, cache=tmp_path, revision="main").config == V2
    make_cache(tmp_path, revision="b" * 40)
    assert load_pretrained(name, cache=tmp_path).config == V2


def test_every_revision_is_a_commit_and_every_pinned_file_has_its_size() -> None:
    pinned = {name: released.revision for name, released in RELEASED.items() if released.revision}
    assert len(set(pinned.values())) == len(pinned) == 9
    assert all(re.fullmatch("[0-9a-f]{40}", revision) for revision in pinned.values())
    for released in RELEASED.values():
        for name, file in released.files.items():
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            if name.endswith((".joblib", ".safetensors")):
                overhead = file.size - 4 * count_parameters(released.config)
                assert 10_000 < overhead < 5_000_000, name  # names, and a table of positions


def test_files_that_are_not_those_that_were_pinned(
    offline: None, release: Any, tmp_path: Path
) -> None:
    file = make_cache(tmp_path) / "jax_model" / "pytree_ckpt.joblib"
    name, data = "jax_model/pytree_ckpt.joblib", file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    release(files={name: hub.PinnedFile(len(data), digest)})
    load_pretrained("codon_nt", cache=tmp_path)
    release(files={name: hub.PinnedFile(len(data) + 1, digest)})
    with pytest.raises(
        InputError, match=rf"{name}: bytes = {len(data)}: should be {len(data) + 1}"
    ):
        load_pretrained("codon_nt", cache=tmp_path)
    release(files={name: hub.PinnedFile(len(data), "0" * 64)})
    with pytest.raises(InputError, match=rf"{name}: SHA-256 = '{digest}': should be 0000"):
        load_pretrained(REPOSITORY, cache=tmp_path)


@pytest.mark.parametrize("below", ["jax_model", "."])
@pytest.mark.parametrize(
    "change",
    [lambda data: data + bytes(100_000), lambda data: data[: len(data) // 2], lambda _: b""],
    ids=["longer", "half", "empty"],
)
def test_a_file_without_a_pin_has_the_size_of_its_parameters(
    change: Any, below: str, offline: None, release: Any, tmp_path: Path
) -> None:
    release()
    file = make_cache(tmp_path, below=below) / below / "pytree_ckpt.joblib"
    data = change(file.read_bytes())
    file.write_bytes(data)
    least = 4 * count_parameters(V2)
    rule = rf"must be {least} to \d+: 4 for each parameter, and their names"
    for name in ("codon_nt", REPOSITORY):
        with pytest.raises(InputError, match=rf"ckpt\.joblib: bytes = {len(data)}: {rule}"):
            find_folder(name, cache=tmp_path)


@pytest.mark.parametrize("compression", [("zlib", 3), ("gzip", 3)])
def test_a_file_without_a_pin_may_be_compressed(
    compression: Any, offline: None, release: Any, tmp_path: Path
) -> None:
    """As those of 2.5 billion parameters are, by their size."""
    release()
    file = make_cache(tmp_path) / "jax_model" / "pytree_ckpt.joblib"
    joblib.dump(joblib.load(file), file, compress=compression)
    assert file.stat().st_size < 4 * count_parameters(V2)
    assert_same_params(load_pretrained("codon_nt", cache=tmp_path).params, random_params(V2))


def test_the_sizes_that_are_known_are_those_that_are_demanded(tmp_path: Path) -> None:
    sizes = {
        name: released.files["jax_model/pytree_ckpt.joblib"].size
        for name, released in RELEASED.items()
        if released.files
    }
    assert len(sizes) == 3
    for name, size in sizes.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # a hole: takes no room
        check_size(tmp_path / name, RELEASED[name].config)


def test_another_revision_may_have_files_of_any_size(
    offline: None, release: Any, tmp_path: Path
) -> None:
    release(config=dataclasses.replace(V2, num_layers=3))
    make_cache(tmp_path)
    assert find_folder("codon_nt", cache=tmp_path, revision="main")


def test_a_field_that_is_not_computed_with_may_differ(
    offline: None, release: Any, tmp_path: Path
) -> None:
    release(config=dataclasses.replace(V2, masking_ratio=0.3))
    make_cache(tmp_path)
    assert load_pretrained("codon_nt", cache=tmp_path).config == V2


@pytest.mark.parametrize("change", [{"num_heads": 2}, {"token_dropout": True}])
def test_a_config_that_is_not_that_of_the_table(
    change: Any, offline: None, release: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(config=dataclasses.replace(V2, **change))
    make_cache(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    rule = f"{next(iter(change))} = .*: {REPOSITORY} has "
    with pytest.raises(InputError, match=rule):
        load_pretrained("codon_nt", cache=tmp_path)
    with pytest.raises(InputError, match=rule):
        get_pretrained_model("codon_nt")


def test_a_folder_does_not_shadow_a_released_name(
    offline: None, release: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release()
    make_cache(tmp_path / "cache")
    other = random_params(V2, seed=1)
    save_model(tmp_path / "codon_nt", V2, "jax", other)
    save_model(tmp_path / REPOSITORY, V2, "jax", other)
    monkeypatch.chdir(tmp_path)
    for name in ("codon_nt", REPOSITORY):
        named = load_pretrained(name, cache=tmp_path / "cache")
        assert_same_params(named.params, random_params(V2))
        assert named.license == "cc-by-nc-sa-4.0"
        for place in (Path(name), f"./{name}"):
            local = load_pretrained(place, cache=tmp_path / "cache")
            assert_same_params(local.params, other)
            assert local.license is None


def test_the_home_of_nobody() -> None:
    with pytest.raises(InputError, match=r"^model = '~no_such_user/x': there is no such home"):
        load_pretrained("~no_such_user/x")


def test_a_revision_is_for_repositories(tmp_path: Path) -> None:
    for source in (tmp_path, str(tmp_path), PACKAGED):
        rule = "is for repositories of the hub, and this is none"
        with pytest.raises(InputError, match=f": revision = 'main': {rule}$"):
            load_pretrained(source, revision="main")


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


def test_the_card_of_a_released_model_has_its_licence(
    offline: None, release: Any, tmp_path: Path
) -> None:
    release()
    make_cache(tmp_path / "cache")
    load_pretrained("codon_nt", cache=tmp_path / "cache").save_pretrained(tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "license: cc-by-nc-sa-4.0" in card
    assert f"Made from: {REPOSITORY}." in card
    assert "trust_remote_code" in card  # what the gated architecture needs in transformers
