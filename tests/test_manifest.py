"""`manifest.json` and the files that it speaks of: damaged, edited, missing, of another version."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_corpus_builds import assert_one_line, config

from nucleotide_transformer.data.corpus import (
    CorpusConfig,
    build_corpus,
    load_manifest,
    open_split,
)

__all__ = ["config"]


def test_folder_without_corpus(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError) as error:
            load_manifest(folder)
        assert_one_line(error, folder)


def test_corpus_of_another_version(config: CorpusConfig) -> None:
    build_corpus(config)
    path = config.output / "manifest.json"
    values = json.loads(path.read_text())
    for version in (2, "1", None):
        path.write_text(json.dumps(values | {"format_version": version}))
        with pytest.raises(ValueError, match="must be 1") as error:
            load_manifest(config.output)
        assert_one_line(error, path, f"format_version = {version!r}")


@pytest.mark.parametrize("damage", ["{", "[]", '{"format_version": 1}', "\xff"])
def test_damaged_manifest(damage: str, config: CorpusConfig) -> None:
    build_corpus(config)
    path = config.output / "manifest.json"
    path.write_text(damage, encoding="latin-1")
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        load_manifest(config.output)
    assert_one_line(error)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_records", "5"), ("num_records", 5_000), ("split", "dev"), ("num_nucleotides", None)],
)
def test_a_manifest_that_was_edited(field: str, value: object, config: CorpusConfig) -> None:
    """The fingerprint in it, and the types, tell."""
    build_corpus(config)
    path = config.output / "manifest.json"
    values = json.loads(path.read_text())
    assert values["digest"] == load_manifest(config.output).digest
    values["genomes"][0]["shards"][0][field] = value
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=re.escape(f"{path}: damaged")) as error:
        load_manifest(config.output)
    assert_one_line(error)


def test_a_manifest_of_an_earlier_version_has_no_digest(config: CorpusConfig) -> None:
    manifest = build_corpus(config)
    path = config.output / "manifest.json"
    values = json.loads(path.read_text())
    del values["digest"]
    path.write_text(json.dumps(values))
    assert load_manifest(config.output) == manifest
    path.write_text(json.dumps(values | {"genomes": []}))
    with pytest.raises(ValueError, match=re.escape(f"{path}: damaged")):
        load_manifest(config.output)


def test_truncated_missing_and_damaged_shards(config: CorpusConfig) -> None:
    manifest = build_corpus(config)
    path = config.output / manifest.list_shards("train")[0][1].file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="truncated") as error:
        load_manifest(config.output)
    assert_one_line(error, path, f"{len(whole) - 1:,}", f"{len(whole):,}", "`nt corpus build`")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no such file") as missing:
        load_manifest(config.output)
    assert_one_line(missing, path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    reader = open_split(load_manifest(config.output), "train")
    with pytest.raises((ValueError, OSError), match=re.escape(str(path))) as damaged:
        reader.read(np.arange(len(reader)))
    assert_one_line(damaged)
