"""BigWig files are whole or not there, though pyBigWig does not say that a disk is full."""

import shutil
import types
from pathlib import Path

import numpy as np
import pytest

from nucleotide_transformer.data import tracks
from nucleotide_transformer.data.tracks import open_track
from nucleotide_transformer.errors import UnwritableOutputError
from nucleotide_transformer.files import write_whole

pyBigWig = pytest.importorskip("pyBigWig")  # noqa: N816
SIZE = 3_000


def write(path: Path, num_entries: int = 0) -> None:
    """A value for each nucleotide of a contig."""
    with (
        write_whole(path) as partial,
        open_track(path, partial, "x", {"chr1": SIZE}, num_entries) as add,
    ):
        places = np.arange(SIZE)
        add("chr1", places, places + 1, places / 7)


class CutTrack:
    """What a full disk does to a file, of which `close` says nothing."""

    def __init__(self, path: str, num_bytes: int) -> None:
        self._path, self._num_bytes = Path(path), num_bytes
        self._track = pyBigWig.open(path, "w")
        self.addHeader, self.addEntries = self._track.addHeader, self._track.addEntries

    def close(self) -> None:
        self._track.close()
        self._path.write_bytes(self._path.read_bytes()[: self._num_bytes])


@pytest.mark.parametrize("num_bytes", [0, 3, 1_000, -1, -4])
def test_half_a_file_is_none(
    num_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.bw"
    cutting = types.SimpleNamespace(open=lambda place, _: CutTrack(place, num_bytes))
    with monkeypatch.context() as patch:
        patch.setattr(tracks, "import_bigwig", lambda _: cutting)
        with pytest.raises(UnwritableOutputError, match=r"x\.bw: can't be written whole") as raised:
            write(path)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
    write(path)
    with pyBigWig.open(str(path)) as track:
        assert track.values("chr1", 7, 8) == [1.0]


def test_a_file_without_entries_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.bw"
    none = np.arange(0)
    with write_whole(path) as partial, open_track(path, partial, "x", {"chr1": 5}, 0) as add:
        add("chr1", none, none, none / 7)
    with pyBigWig.open(str(path)) as track:
        assert track.chroms() == {"chr1": 5}


def test_an_error_while_it_is_written_is_the_one_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.bw"
    with (
        pytest.raises(KeyboardInterrupt),
        write_whole(path) as partial,
        open_track(path, partial, "x", {"chr1": 5}, 0),
    ):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_room_is_checked_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is above what the file takes, and below three times that."""
    write(tmp_path / "whole.bw")
    size = (tmp_path / "whole.bw").stat().st_size
    free = types.SimpleNamespace(free=size)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    message = r"has room for .* kB: .* kB may be needed for x\.bw"
    with pytest.raises(UnwritableOutputError, match=message):
        write(tmp_path / "x.bw", num_entries=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.bw"]
    free.free = 3 * size
    write(tmp_path / "x.bw", num_entries=SIZE)
