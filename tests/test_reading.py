"""Reading records while the disk, the system or somebody else gets in the way."""

import gc
import os
import pickle
import re
import resource
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nucleotide_transformer.data import reader as reader_module
from nucleotide_transformer.data.corpus import (
    CorpusConfig,
    Manifest,
    build_corpus,
    load_manifest,
    open_split,
)
from nucleotide_transformer.errors import InputError


@pytest.fixture
def manifest(small_corpus: Path, tmp_path: Path) -> Manifest:
    """A copy of the small corpus: its files may be damaged."""
    folder = tmp_path / "corpus"
    for path in small_corpus.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(small_corpus)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return load_manifest(folder)


def read_all(manifest: Manifest) -> Callable[[], list[bytes]]:
    reader = open_split(manifest, "train")
    indices = np.arange(len(reader))
    reader.read(indices)
    return lambda: reader.read(indices)


def test_a_shard_that_shrinks_while_it_is_read_is_refused(manifest: Manifest) -> None:
    """The library gives empty records then, which would be trained on as padding."""
    read = read_all(manifest)
    path = manifest.folder / manifest.list_shards("train")[0][1].file
    os.truncate(path, 20_000)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}: record \d+ is empty") as error:
        read()
    assert "\n" not in str(error.value)
    assert "changed while it was read" in str(error.value)


def test_a_shard_that_is_gone_is_missing_and_not_damaged(manifest: Manifest) -> None:
    reader = open_split(manifest, "train")
    path = manifest.folder / manifest.list_shards("train")[0][1].file
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(path))}: no such file"):
        reader.read([0])


def test_a_shard_of_another_genome_is_refused(manifest: Manifest) -> None:
    """Files are filled up to whole blocks: two of one size are nothing rare."""
    (_, shard), *_ = manifest.list_shards("train")
    (_, other), *_ = manifest.list_shards("test")
    reader = open_split(manifest, "train")
    (manifest.folder / other.file).rename(manifest.folder / shard.file)
    rule = (
        f"records = {other.num_records}: must be {shard.num_records}: not the file that was built"
    )
    with pytest.raises(InputError, match=re.escape(rule)) as error:
        reader.read([0])
    assert shard.file in str(error.value)


def test_a_damaged_shard_is_mended_as_its_message_says(
    small_corpus: Path, manifest: Manifest
) -> None:
    """Its size is right: a build that finds it there takes it for whole."""
    records = read_all(manifest)()
    path = manifest.folder / manifest.list_shards("train")[0][1].file
    damaged = bytearray(path.read_bytes())
    damaged[5_000:5_400] = bytes(400)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"damaged: .*: delete it, and `nt corpus build`"):
        read_all(manifest)
    path.unlink()
    recipe = {name: tuple(v) if isinstance(v, list) else v for name, v in manifest.config.items()}
    inputs = tuple(small_corpus.parent / f"{name}.fa" for name in ("rich", "poor"))
    build_corpus(CorpusConfig(inputs=inputs, output=manifest.folder, workers=1, **recipe))
    assert read_all(manifest)() == records


class SlowShard:
    """A shard whose reads wait for one another; knows how many were under way at once."""

    wanted = under_way = most = 0
    lock, all_there = threading.Lock(), threading.Event()

    def __init__(self, shard: Any) -> None:
        self.shard = shard

    def read(self, positions: list[int]) -> list[bytes]:
        with self.lock:
            SlowShard.under_way += 1
            SlowShard.most = max(SlowShard.most, SlowShard.under_way)
            if SlowShard.under_way == SlowShard.wanted:
                self.all_there.set()
        self.all_there.wait(10)
        with self.lock:
            SlowShard.under_way -= 1
        return self.shard.read(positions)

    @classmethod
    def expect(cls, wanted: int) -> None:
        cls.wanted, cls.most = wanted, 0
        cls.all_there.clear()


@pytest.mark.parametrize("num_readers", [1, 2, 7])
def test_as_many_records_are_read_at_a_time_as_is_asked_for(
    num_readers: int, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = open_split(manifest, "train")
    indices = np.random.default_rng(0).integers(0, len(expected), 100)
    records = expected.read(indices)
    open_shard = reader_module._open_shard
    monkeypatch.setattr(reader_module, "_open_shard", lambda *args: SlowShard(open_shard(*args)))
    SlowShard.expect(num_readers)
    reader = open_split(manifest, "train", num_readers=num_readers)
    assert reader.read(indices) == records
    assert SlowShard.most == num_readers
    assert reader.read([]) == []
    again = pickle.loads(pickle.dumps(reader))
    SlowShard.expect(num_readers)
    assert again.read(indices) == records
    assert SlowShard.most == num_readers


def test_an_error_of_one_of_many_readers_is_raised(manifest: Manifest) -> None:
    path = manifest.folder / manifest.list_shards("train")[1][1].file
    reader = open_split(manifest, "train", num_readers=4)
    path.unlink()
    with pytest.raises(InputError, match=re.escape(str(path))):
        reader.read(np.arange(len(reader)))


def test_the_limit_of_open_files_is_raised_or_named(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two genomes and the 256 files of everything else need 258."""
    limits: list[tuple[int, int]] = [(100, 4_096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    open_split(manifest, "train")
    open_split(manifest, "train")
    assert limits[1:] == [(258, 4_096)]
    limits.append((100, 200))
    with pytest.raises(OSError, match=r"`ulimit -Hn`\) is 200: a file for each genome needs 258"):
        open_split(manifest, "train")


def test_too_many_open_files_is_no_damage(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("open() failed: Too many open files; opening train.array_record")

    monkeypatch.setattr(reader_module.array_record_module, "ArrayRecordReader", fail)
    with pytest.raises(OSError, match="raise `ulimit -n`") as error:
        open_split(manifest, "train").read([0])
    assert not isinstance(error.value, InputError)


def test_the_places_of_one_shard_are_kept_and_no_others(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a draft assembly with a million contigs they take 0.7 GB."""
    loaded: list[str] = []
    load_contigs = reader_module.load_contigs

    def load(folder: Path, name: str) -> Any:
        loaded.append(name.partition("-")[0])
        return load_contigs(folder, name)

    monkeypatch.setattr(reader_module, "load_contigs", load)
    reader = open_split(manifest, "train")
    first, last = 0, len(reader) - 1
    reader.locate(last)
    sizes = []
    tracemalloc.start()
    for index in (first, last):
        reader.locate(index)
        assert reader.locate(index).species == loaded[-1]
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert loaded == ["rich", "poor", "rich"]
    assert sizes[0] > 10_000
    assert sizes[1] < 1.5 * sizes[0]
