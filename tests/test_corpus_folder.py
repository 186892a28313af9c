"""The folder of a corpus: what is the user's stays, one builder at a time, and what is lost is
built again alone."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from real_command import run_in_pipe
from test_corpus_builds import assert_one_line, config, list_partial, make_fasta, stamp_files

from nucleotide_transformer import files
from nucleotide_transformer.data import corpus, shards
from nucleotide_transformer.data.corpus import CorpusConfig, build_corpus, load_manifest
from nucleotide_transformer.data.folder import MARKER_FILE, own_folder
from nucleotide_transformer.data.sources import Source, estimate_bytes
from nucleotide_transformer.errors import InputError, UnwritableOutputError
from nucleotide_transformer.files import LOCK_FILE

__all__ = ["config"]


def list_files(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_folder_of_the_user_is_left_alone(config: CorpusConfig, tmp_path: Path) -> None:
    """It has a folder `genomes`, and files that look like what a build leaves behind."""
    mine = tmp_path / "project"
    for name in (".partial-results.txt", "genomes/.partial-download/x.fa", "genomes/a.fa"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(name)
    before = list_files(mine)
    with pytest.raises(FileExistsError, match="holds other files") as error:
        build_corpus(dataclasses.replace(config, output=mine))
    assert_one_line(error, mine, "an empty or new folder, or a corpus")
    assert list_files(mine) == before


def test_files_of_the_user_in_a_corpus_stay(config: CorpusConfig) -> None:
    build_corpus(dataclasses.replace(config, inputs=config.inputs[:1]))
    names = (
        ".partial-results.txt",
        ".partial-7-notes",
        "genomes/.partial-download/x.fa",
        "genomes/.partial-7-moss-0123abcd/x.fa",
    )
    for name in names:
        (config.output / name).parent.mkdir(exist_ok=True)
        (config.output / name).write_text("mine")
    token = files.secrets.token_hex(8)
    left = [config.output / "genomes" / f".partial-{n}-ant-0123abcd" for n in (7, token)]
    for path in left:
        path.mkdir()
        (path / "train.array_record").write_text("a build that was killed")
    (config.output / f".partial-{token}-manifest.json").write_text("the same")
    build_corpus(config)
    assert not any(path.exists() for path in left)
    assert not (config.output / f".partial-{token}-manifest.json").exists()
    assert all((config.output / name).read_text() == "mine" for name in names)
    assert not (config.output / LOCK_FILE).exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_corpus_without_a_marker_is_still_one(finished: bool, config: CorpusConfig) -> None:
    """As earlier versions made them."""
    before = build_corpus(dataclasses.replace(config, inputs=config.inputs[:1]))
    (config.output / MARKER_FILE).unlink()
    if not finished:
        (config.output / "manifest.json").unlink()
    stamps = stamp_files(config.output)
    after = build_corpus(config)
    assert after.genomes[:1] == before.genomes
    assert stamps.items() < stamp_files(config.output).items()
    assert (config.output / MARKER_FILE).exists()


def test_a_second_builder_is_refused(config: CorpusConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    build, refused = shards.build_genome, []

    def build_twice(source, config, report, **rest):  # type: ignore[no-untyped-def]
        if not refused:
            refused.append(source.species)
            done = run_in_pipe(
                *("corpus", "build", "--inputs", *config.inputs, "--output", config.output)
            )
            assert (done.code, done.out) == (2, "")
            assert f"{config.output}: another process is building this corpus" in done.err
        return build(source, config, report, **rest)

    monkeypatch.setattr(corpus, "build_genome", build_twice)
    manifest = build_corpus(config)
    assert (len(refused), len(manifest.genomes)) == (1, 2)


def test_a_failed_build_leaves_the_next_builder_alone(
    config: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that begins as soon as it can, while the failed build removes its folders."""
    genomes, rmdir = config.output / "genomes", Path.rmdir

    def begin_and_remove(path: Path) -> None:
        with contextlib.suppress(InputError):
            if path in (genomes, config.output):
                second.enter_context(own_folder(config.output))
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", begin_and_remove)
    with contextlib.ExitStack() as second:
        with pytest.raises(ZeroDivisionError), own_folder(config.output):
            raise ZeroDivisionError
        names = {path.name for path in config.output.iterdir()}
        assert names == {MARKER_FILE, LOCK_FILE, "genomes"}
        with pytest.raises(InputError, match="another process"), own_folder(config.output):
            pass


def test_a_failed_build_leaves_an_empty_folder_empty(config: CorpusConfig) -> None:
    config.output.mkdir(parents=True)
    config.inputs[0].write_text("MKTL")
    with pytest.raises(InputError):
        build_corpus(dataclasses.replace(config, inputs=config.inputs[:1]))
    assert list_files(config.output) == {}


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_terminated_leaves_nothing(
    kind: signal.Signals, config: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminate(*_: object) -> None:
        assert list_partial(config.output)
        os.kill(os.getpid(), kind)

    monkeypatch.setattr(shards, "save_genome", terminate)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(config)
    assert not (tmp_path / "runs").exists()
    assert signal.getsignal(kind) == signal.SIG_DFL


def test_a_disk_without_room_is_refused_first(
    config: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished genomes need none."""
    usage = shutil.disk_usage(tmp_path)
    free = [20_000]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free[0]))
    wanted = dataclasses.replace(config, inputs=config.inputs[:1])  # 20,000 letters
    with pytest.raises(
        UnwritableOutputError, match=r"has room for 20\.0 kB: 20\.\d kB are to be written"
    ) as error:
        build_corpus(wanted)
    assert_one_line(error, config.output, "choose another output")
    assert not config.output.exists()
    free[0] = 25_000
    build_corpus(wanted)
    free[0] = 0
    build_corpus(wanted)


def test_what_a_build_will_need_is_estimated(config: CorpusConfig, tmp_path: Path) -> None:
    plain, zipped = tmp_path / "a.fa", tmp_path / "a.fa.gz"
    plain.write_bytes(b">a\n" + b"A" * 9_997)
    zipped.write_bytes(b"\x1f\x8b" + b"x" * 9_998)
    sources = [Source(plain, "a", "", ""), Source(zipped, "b", "", "")]
    assert estimate_bytes(sources, "none") == 35_000
    assert estimate_bytes(sources, "zstd") == 8_750
    assert estimate_bytes([sources[1]._replace(num_nucleotides=50_000)], "none") == 50_000


def test_a_bar_shows_that_finished_files_are_checked(
    config: CorpusConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    build_corpus(config)
    assert "checked" not in capsys.readouterr().out
    build_corpus(config, progress=True)
    num_bytes = sum(path.stat().st_size for path in config.inputs)
    assert f"{num_bytes / 1e3:.1f}/{num_bytes / 1e3:.1f} kB" in capsys.readouterr().out


@pytest.mark.parametrize("loss", ["folder", "shard", "truncated", "genome.json", "contigs.json"])
def test_a_lost_genome_is_built_again_alone(loss: str, config: CorpusConfig) -> None:
    manifest = build_corpus(config)
    before = list_files(config.output)
    ant, moss = (config.output / "genomes" / genome.name for genome in manifest.genomes)
    shard = ant / "train.array_record"
    if loss == "folder":
        shutil.rmtree(ant)
    elif loss == "truncated":
        os.truncate(shard, 100)
    else:
        (shard if loss == "shard" else ant / loss).unlink()
    stamps = stamp_files(moss)
    assert build_corpus(config) == manifest
    assert list_files(config.output) == before
    assert stamp_files(moss) == stamps


def test_a_lost_genome_must_be_as_it_was(config: CorpusConfig) -> None:
    """Built by another version, or from a file that has changed: nothing is removed or replaced."""
    manifest = build_corpus(config)
    ant = config.output / "genomes" / manifest.genomes[0].name
    (ant / "train.array_record").unlink()
    (ant / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=re.escape(str(ant / "notes.txt"))) as error:
        build_corpus(config)
    assert_one_line(error, "move it away")
    assert (ant / "test.array_record").exists()
    (ant / "notes.txt").unlink()
    path = ant / "genome.json"
    values = json.loads(path.read_text())
    values["genome"]["shards"][0]["num_records"] += 1
    path.write_text(json.dumps(values))
    before = list_files(config.output)
    with pytest.raises(FileExistsError, match="built again it differs") as error:
        build_corpus(config)
    assert_one_line(error, ant)
    assert list_files(config.output) == before
    make_fasta(config.inputs[0], 21_000)
    with pytest.raises(FileExistsError, match="sha256"):
        build_corpus(config)
    with pytest.raises(InputError, match="no such file"):
        load_manifest(config.output)
