"""`manifest.json` and the files that it speaks of: damaged, edited, missing, of another version."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_corpus_builds import assert_one_line, config, make_fasta

from nucleotide_transformer.data.corpus import (
    CorpusConfig,
    build_corpus,
    load_manifest,
    open_split,
)
from nucleotide_transformer.errors import InputError

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


def swap(one: Path, other: Path) -> None:
    aside = one.rename(one.with_name("aside"))
    other.rename(one)
    aside.rename(other)


def test_shards_of_one_size_are_not_taken_for_each_other(
    config: CorpusConfig, tmp_path: Path
) -> None:
    """Of two splits with equal fractions, and of two genomes of one length."""
    inputs = (make_fasta(tmp_path / "ant.fa"), make_fasta(tmp_path / "bee.fa"))
    shares = {"validation_fraction": 0.1, "test_fraction": 0.1}
    config = dataclasses.replace(config, inputs=inputs, block_length=200, **shares)
    manifest = build_corpus(config)
    shards = {
        (genome.species, shard.split): shard
        for genome in manifest.genomes
        for shard in genome.shards
    }
    for one, other in (
        (shards["ant", "validation"], shards["ant", "test"]),
        (shards["ant", "test"], shards["bee", "test"]),
    ):
        assert (one.num_bytes, one.num_records) == (other.num_bytes, other.num_records)
        paths = [config.output / shard.file for shard in (one, other)]
        swap(*paths)
        reader = open_split(load_manifest(config.output), one.split)
        with pytest.raises(InputError, match="its first or last record is another") as error:
            reader.read([0])
        assert_one_line(error, paths[0], "delete it, and `nt corpus build`")
        for path in paths:
            path.unlink()
        assert build_corpus(config) == manifest
        assert open_split(manifest, one.split).read([0])


def test_a_corpus_of_an_earlier_version_has_no_digests_of_records(config: CorpusConfig) -> None:
    """It opens, has the same fingerprint, and grows."""
    new = build_corpus(dataclasses.replace(config, inputs=config.inputs[:1]))
    for path in (config.output / "manifest.json", *config.output.glob("genomes/*/genome.json")):
        values = json.loads(path.read_text())
        (genome,) = values.get("genomes", [values.get("genome")])
        for shard in genome["shards"]:
            assert len(shard.pop("ends_sha256")) == 64
        path.write_text(json.dumps(values))
    old = load_manifest(config.output)
    assert old != new
    assert old.digest == new.digest
    assert open_split(old, "train").read([0, 1]) == open_split(new, "train").read([0, 1])
    grown = build_corpus(config)
    assert grown.genomes[0] == old.genomes[0]
