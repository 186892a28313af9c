"""What is written whole: there with all its bytes, or not there, and what was before stays."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.files import LOCK_FILE, check_place, hold_folder, write_whole


def test_file_gets_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    with write_whole(path) as partial:
        partial.write_text("one")
        assert not path.exists()
        assert [other.name for other in tmp_path.iterdir()] == [partial.name]
    assert path.read_text() == "one"
    with write_whole(path) as partial:
        partial.write_text("two")
        assert path.read_text() == "one"
    assert [(other.name, other.read_text()) for other in tmp_path.iterdir()] == [(path.name, "two")]


def test_folder_gets_its_name_at_the_end(tmp_path: Path) -> None:
    with write_whole(tmp_path / "genome") as partial:
        (partial / "deep").mkdir(parents=True)
        (partial / "deep" / "file").write_text("one")
        assert [path.name for path in tmp_path.iterdir()] == [partial.name]
    assert (tmp_path / "genome" / "deep" / "file").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["genome"]


def test_the_folder_above_all_others_is_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"^/: can't be written: no permission to write in /$"):
        check_place(Path("/"))


def test_nobody_can_guess_what_is_written_first(tmp_path: Path) -> None:
    """A link that was put there would be followed, and what it points to overwritten."""
    names = []
    for _ in range(2):
        with write_whole(tmp_path / "a.png") as partial:
            names.append(partial.name)
            partial.touch()
    assert names[0] != names[1]
    assert all(name.startswith(".partial-") and name.endswith("-a.png") for name in names)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_folder", [False, True])
def test_error_in_the_middle_leaves_what_was_there(
    error: type[BaseException], is_folder: bool, tmp_path: Path
) -> None:
    path, other = tmp_path / "there", tmp_path / "new"
    path.write_text("before")
    for target in (path, other):
        with pytest.raises(error), write_whole(target) as partial:  # noqa: PT012
            if is_folder:
                partial.mkdir()
                (partial / "first").write_text("half")
            else:
                partial.write_text("half")
            raise error
    assert [(left.name, left.read_text()) for left in tmp_path.iterdir()] == [("there", "before")]


def test_all_of_it_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "genome", []
    sync = os.fsync

    def record(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with write_whole(path) as partial:
        partial.mkdir()
        (partial / "one").write_text("1")
        (partial / "two").write_text("2")
    parts = {file.stat().st_ino for file in (path, path / "one", path / "two")}
    assert sorted(synced[:-1]) == sorted((inode, False) for inode in parts)
    assert synced[-1] == (tmp_path.stat().st_ino, True)


def test_a_folder_is_held_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, flock = tmp_path / LOCK_FILE, fcntl.flock
    lock.write_text("4711 another host")  # of one that was killed
    with hold_folder(tmp_path, "wait"):
        with pytest.raises(InputError, match="wait"), hold_folder(tmp_path, "wait"):
            pass
        assert lock.exists()
    assert not lock.exists()

    def remove_first(file: int, operation: int) -> None:
        lock.unlink()  # as its last holder does, once this one has opened it
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with pytest.raises(InputError, match="wait"), hold_folder(tmp_path, "wait"):
        pass


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_holds_nothing_up(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", fail)
    (tmp_path / LOCK_FILE).write_text("4711 another host")
    with hold_folder(tmp_path, "wait"), hold_folder(tmp_path, "wait"):
        pass
    assert not list(tmp_path.iterdir())
