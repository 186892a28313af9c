"""Builds that end early: at any moment, what has a name in the corpus is whole."""

import dataclasses
import errno
import re
from pathlib import Path

import pytest

from nucleotide_transformer import files
from nucleotide_transformer.data.corpus import CorpusConfig, build_corpus, load_manifest


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    """Two small genomes, and a corpus folder that is not there yet."""
    for species, number in (("ant", 2_000), ("moss", 3_000)):
        (tmp_path / f"{species}.fa").write_bytes(b">chr1\n%s\n" % (b"GATTACACAT" * number))
    return CorpusConfig(
        inputs=(tmp_path / "ant.fa", tmp_path / "moss.fa"),
        output=tmp_path / "runs" / "corpus",
        chunk_length=60,
        overlap=7,
        block_length=600,
        workers=1,
    )


@pytest.mark.parametrize("name", ["moss-", "manifest.json"])
def test_what_is_being_written_has_no_name_yet(
    name: str, config: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped when a genome or the manifest is written, but not all of it is on disk."""
    build_corpus(dataclasses.replace(config, inputs=config.inputs[:1]))
    before = {path: path.read_bytes() for path in config.output.rglob("*") if path.is_file()}

    def stop(part: Path) -> None:
        if name in part.name:
            assert part.exists()
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "sync", stop)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(config)
    names = {path.name.partition("-")[0] for path in (config.output / "genomes").iterdir()}
    assert names == ({"ant"} if name == "moss-" else {"ant", "moss"})
    assert {path: path.read_bytes() for path in before} == before
    assert [genome.species for genome in load_manifest(config.output).genomes] == ["ant"]
    assert not [
        path for path in config.output.rglob("*") if path.name.startswith(files.PARTIAL_PREFIX)
    ]


def test_error_in_another_process_leaves_no_other_genome(
    config: CorpusConfig, tmp_path: Path
) -> None:
    """One bad genome, and one that takes a while: it is not built to the end."""
    config.inputs[0].write_bytes(b">one\nACGTMKTL")
    with config.inputs[1].open("ab") as file:
        for number in range(2_000):
            file.write(b">%d\n%s\n" % (number, b"ACGT" * 5_000))
    with pytest.raises(ValueError, match=r"^[^\n]*ant\.fa: contig 'one': position 8 .*'L'[^\n]*$"):
        build_corpus(dataclasses.replace(config, workers=2))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["genome.json", "contigs.json", "samples.bin", "manifest.json"])
def test_a_full_disk_is_named(
    name: str, config: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def fill(path: Path, data: bytes) -> int:
        if path.name.endswith(name):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match=re.escape(name)) as error:
        build_corpus(config)
    assert error.value.errno == errno.ENOSPC
    if name != "manifest.json":
        assert not (tmp_path / "runs").exists()
