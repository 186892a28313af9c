"""Reading records while the disk, the system or somebody else gets in the way."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nucleotide_transformer.data.corpus import Manifest, load_manifest, open_split
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
