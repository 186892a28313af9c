"""Exports: whole or not at all, wherever they go, and nothing of anyone else's is lost."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_models import (
    V2,
    assert_same_params,
    random_params,
    save_model,
    saved_model,  # noqa: F401
)

from nucleotide_transformer import files
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.pretrained import Model, export_model, load_pretrained
from nucleotide_transformer.weights.exports import open_draft


def test_an_export_is_a_complete_folder(model: Model, tmp_path: Path) -> None:
    tokenizer_files = {"vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "README.md"}
    weights = {
        "huggingface": {"config.json", "model.safetensors", "modeling_nucleotide_transformer.py"},
        "jax": {"hyperparams.json", "pytree_ckpt.joblib"},
    }
    for layout, its_files in weights.items():
        export_model(tmp_path / "model", tmp_path / layout, layout=layout)  # type: ignore[arg-type]
        names = {path.name for path in (tmp_path / layout).iterdir()}
        assert names == tokenizer_files | its_files
        tokenizer = json.loads((tmp_path / layout / "tokenizer_config.json").read_text())
        assert ("auto_map" in tokenizer) == (layout == "huggingface")  # the module is there alone
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
    monkeypatch.setattr("nucleotide_transformer.weights.exports.write_card", fail)
    for folder, overwrite in ((tmp_path / "new" / "er", False), (tmp_path / "old", True)):
        with pytest.raises(OSError, match="disk full"):
            model.save_pretrained(folder, overwrite=overwrite)
    assert sorted(set(tmp_path.rglob("*")) - {tmp_path / "new"}) == before


def test_folders_that_can_not_be_written(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file; an export is a folder"):
        model.save_pretrained(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match=r"file/below: a file is in its path: [^\n]*$"):
        model.save_pretrained(tmp_path / "file" / "below")


def test_an_export_to_the_working_directory_leaves_it_there(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    inode = folder.stat().st_ino
    monkeypatch.chdir(folder)
    for layout, overwrite in (("huggingface", False), ("jax", True)):
        model.save_pretrained(".", layout, overwrite=overwrite)  # type: ignore[arg-type]
        assert Path.cwd().stat().st_ino == folder.stat().st_ino == inode
        assert_same_params(load_pretrained(Path()).params, model.params)
    assert {path.name for path in folder.iterdir()} == {
        *("hyperparams.json", "pytree_ckpt.joblib", "README.md", "vocab.txt"),
        *("tokenizer_config.json", "special_tokens_map.json"),
    }


def test_a_folder_that_can_not_be_renamed_is_filled(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a mount point, whose neighbours are on another device."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    replace = Path.replace

    def replace_below(self: Path, target: Path) -> Path:
        if folder in (self, Path(target)) or (folder in self.parents) != (folder in target.parents):
            raise OSError(18, "Invalid cross-device link")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_below)
    monkeypatch.setattr(Path, "rename", replace_below)
    model.save_pretrained(folder)
    assert_same_params(load_pretrained(folder).params, model.params)


@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_link_is_refused_before_anything_is_loaded(is_dangling: bool, tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    if not is_dangling:
        save_model(target, V2, "huggingface")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NotADirectoryError, match=r"link: is a link: give the folder that it "):
        export_model(tmp_path / "no such model", link, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_whoever_may_read_a_folder_may_read_its_weights(model: Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "e")
    (tmp_path / "new").touch()
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "e").iterdir()}
    assert modes == dict.fromkeys(modes, (tmp_path / "new").stat().st_mode)


def test_a_folder_keeps_its_mode(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o2775)
    for overwrite in (False, True):
        model.save_pretrained(folder, overwrite=overwrite)
        assert folder.stat().st_mode & 0o7777 == 0o2775
    old = os.umask(0o027)
    try:
        model.save_pretrained(tmp_path / "new")
    finally:
        os.umask(old)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("is_there", [False, True])
def test_an_export_is_on_disk_before_it_is_there(
    is_there: bool, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "e"
    if is_there:
        folder.mkdir()
    synced: dict[str, bool] = {}
    sync = files.sync

    def record(path: Path) -> None:
        synced.setdefault(path.name, (folder / "config.json").exists())
        sync(path)

    monkeypatch.setattr(files, "sync", record)
    monkeypatch.setattr("nucleotide_transformer.weights.exports.sync", record)
    model.save_pretrained(folder)
    names = {path.name for path in folder.iterdir()}
    assert synced.items() >= dict.fromkeys(names, False).items()


def test_what_a_killed_export_left_is_in_nobodys_way(model: Model, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "e"):
        (place / f".partial-{os.getpid()}-e").mkdir(parents=True)
    (tmp_path / "e" / ".lock").touch()
    model.save_pretrained(tmp_path / "e", overwrite=True)
    assert {path.name for path in (tmp_path / "e").iterdir()} == {
        path.name for path in (tmp_path / "model").iterdir()
    }


def test_a_card_that_was_edited_is_not_overwritten(model: Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "e")
    card = tmp_path / "e" / "README.md"
    model.save_pretrained(tmp_path / "e", overwrite=True)  # as it was written
    card.write_text(card.read_text() + "\nTrained on oats.\n")
    with pytest.raises(FileExistsError, match=r"README\.md: was edited since it was exported: "):
        model.save_pretrained(tmp_path / "e", overwrite=True)
    assert "Trained on oats." in card.read_text()


@pytest.mark.parametrize("is_done", [False, True])
def test_an_interrupted_replacement_brings_the_old_export_back(
    is_done: bool, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stops: before a file is moved, or just after."""
    folder, seen = tmp_path / "e", []
    save_model(folder, V2, "jax", random_params(V2, seed=1))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    replace = Path.replace

    def stop(self: Path, target: Path) -> None:
        move = len(seen)
        seen.append({path.name for path in folder.iterdir()} & {"hyperparams.json", "config.json"})
        if move != last or is_done:
            replace(self, target)
        if move == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    for last in range(len(before) + len(list((tmp_path / "model").iterdir()))):
        seen.clear()
        with pytest.raises(KeyboardInterrupt), open_draft(folder, overwrite=True) as draft:
            shutil.copytree(tmp_path / "model", draft, dirs_exist_ok=True)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert seen[1 : last + 1] == [set()] * last  # in the middle the folder is no model


def test_a_folder_is_written_by_one(model: Model, tmp_path: Path) -> None:
    """The other would sweep away what this one has written so far."""
    folder = tmp_path / "e"
    model.save_pretrained(folder)
    with open_draft(folder, overwrite=True) as draft:
        with pytest.raises(InputError, match="e: another process writes there: wait for it"):
            model.save_pretrained(folder, overwrite=True)
        shutil.copytree(tmp_path / "model", draft, dirs_exist_ok=True)
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in (tmp_path / "model").iterdir()}
