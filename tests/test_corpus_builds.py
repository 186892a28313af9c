"""Builds that go on, go wrong or are stopped: what is finished stays, and nothing else."""

import dataclasses
import gzip
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from full_disks import full_disk
from one_line_errors import assert_one_line

from nucleotide_transformer.data import shards
from nucleotide_transformer.data.corpus import (
    CorpusConfig,
    build_corpus,
    load_manifest,
    open_split,
)
from nucleotide_transformer.files import PARTIAL_PREFIX


def make_fasta(path: Path, length: int = 20_000) -> Path:
    """One contig of random nucleotides, the same for a name and length."""
    rng = np.random.default_rng([len(path.name), path.name[0].encode()[0]])
    letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, length)]
    path.write_bytes(b">chr1\n" + letters.tobytes() + b"\n")
    return path


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    """Two small genomes, and a corpus folder that is not there yet."""
    inputs = (make_fasta(tmp_path / "ant.fa"), make_fasta(tmp_path / "moss.fa", 30_000))
    return CorpusConfig(
        inputs=inputs,
        output=tmp_path / "runs" / "corpus",
        chunk_length=60,
        overlap=7,
        block_length=600,
        workers=1,
    )


def stamp_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every shard: they change if a shard is written again."""
    stats = {str(path): path.stat() for path in folder.rglob("*.array_record")}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def list_partial(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(PARTIAL_PREFIX)]


def test_second_build_keeps_every_shard(config: CorpusConfig) -> None:
    first = build_corpus(config)
    stamps = stamp_files(config.output)
    assert len(stamps) == 6
    assert build_corpus(config) == first
    assert stamp_files(config.output) == stamps


def test_new_genome_is_added(config: CorpusConfig, tmp_path: Path) -> None:
    build_corpus(dataclasses.replace(config, inputs=config.inputs[1:]))
    stamps = stamp_files(config.output)
    manifest = build_corpus(config)
    assert [genome.species for genome in manifest.genomes] == ["ant", "moss"]
    assert stamps.items() < stamp_files(config.output).items()


def test_build_goes_on_after_bad_input(config: CorpusConfig) -> None:
    good = config.inputs[1].read_bytes()
    first, second = config.inputs
    second.write_bytes(good + b"!")
    first.write_bytes(first.read_bytes() + b"acgt" * 9_000)  # larger: built first
    with pytest.raises(ValueError, match="position 30001") as error:
        build_corpus(config)
    assert_one_line(error, second, "contig 'chr1'", "'!'")
    (finished,) = (config.output / "genomes").iterdir()
    assert finished.name.startswith("ant-")
    assert not list_partial(config.output)
    with pytest.raises(FileNotFoundError, match="build did not finish") as missing:
        load_manifest(config.output)
    assert_one_line(missing, config.output / "manifest.json")
    stamps = stamp_files(config.output)
    second.write_bytes(good)
    assert len(build_corpus(config).genomes) == 2
    assert stamps.items() < stamp_files(config.output).items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "empty"),
        (b"MKTL", "start with '>'"),
        (b">one\nACGTMKTL", "position 8 (line 2): 'L'"),
        (gzip.compress(b">one\n" + b"GATTACA" * 99, mtime=0)[:-9], "truncated gzip"),
        (bytes(range(256)).replace(b">", b"") * 4, "start with '>'"),
        (b">one\nA\n>one\nC\n", "line 3: second contig named 'one'"),
    ],
)
def test_bad_fasta_leaves_nothing(
    text: bytes, message: str, config: CorpusConfig, tmp_path: Path
) -> None:
    config.inputs[0].write_bytes(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        build_corpus(dataclasses.replace(config, inputs=config.inputs[:1]))
    assert_one_line(error, config.inputs[0])
    assert not (tmp_path / "runs").exists()


def test_bad_inputs(config: CorpusConfig, tmp_path: Path) -> None:
    missing = tmp_path / "none.fa"
    with pytest.raises(FileNotFoundError, match="no such FASTA file") as error:
        build_corpus(dataclasses.replace(config, inputs=(missing,)))
    assert_one_line(error, missing)
    with pytest.raises(ValueError, match="not a folder") as folder:
        build_corpus(dataclasses.replace(config, inputs=(tmp_path,)))
    assert_one_line(folder, tmp_path)
    (tmp_path / "other").mkdir()
    twin = make_fasta(tmp_path / "other" / "ant.fna")
    with pytest.raises(ValueError, match="one of them must differ") as double:
        build_corpus(dataclasses.replace(config, inputs=(*config.inputs, twin)))
    assert_one_line(double, twin, config.inputs[0])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("table", "kind", "parts"),
    [
        ("", ValueError, ["empty file"]),
        ("\n", ValueError, ["line 1", "no column 'file'", "found: none"]),
        ("file\tspecies\nant.fa\tant\n", ValueError, ["line 1", "'assembly'", "file, species"]),
        ("file\tspecies\tassembly\n", ValueError, ["no row"]),
        ("file\tspecies\tassembly\nant.fa\tant\n", ValueError, ["line 2", "'assembly'", "empty"]),
        ("file\tspecies\tassembly\nfly.fa\tfly\t1\n", FileNotFoundError, ["line 2", "fly.fa"]),
        (
            "file\tspecies\tassembly\nant.fa\tant\t1\n\nmoss.fa\tant\t1\n",
            ValueError,
            ["line 4", "moss.fa", "'ant'", "'1'", "ant.fa"],
        ),
        ("file\tspecies\tassembly\nant.fa\t\xff\t1\n", ValueError, ["line 2", "UTF-8"]),
        (
            "file\tspecies\tassembly\nant.fa\tHomo\tsapiens\t1\n",
            ValueError,
            ["line 2: 4 cells: must have 3 at most"],
        ),
        (
            "file\tspecies\tassembly\tspecies\nant.fa\tHomo sapiens\t1\tMus\n",
            ValueError,
            ["line 1: 2 columns are called 'species'"],
        ),
    ],
)
def test_bad_tables(
    table: str, kind: type[Exception], parts: list[str], config: CorpusConfig, tmp_path: Path
) -> None:
    path = tmp_path / "table.tsv"
    path.write_bytes(table.encode("latin-1"))
    with pytest.raises(kind, match=re.escape(str(path))) as error:
        build_corpus(dataclasses.replace(config, inputs=(path,)))
    assert_one_line(error, *parts)
    assert not (tmp_path / "runs").exists()


def test_missing_table(config: CorpusConfig, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such table") as error:
        build_corpus(dataclasses.replace(config, inputs=(tmp_path / "none.tsv",)))
    assert_one_line(error, tmp_path / "none.tsv")


def test_other_config_or_file_is_refused(config: CorpusConfig) -> None:
    build_corpus(config)
    stamps = stamp_files(config.output)
    with pytest.raises(FileExistsError, match="overlap = 7, not 8") as error:
        build_corpus(dataclasses.replace(config, overlap=8))
    assert_one_line(error, config.output)
    with pytest.raises(FileExistsError, match="'moss', '', which is not in inputs") as fewer:
        build_corpus(dataclasses.replace(config, inputs=config.inputs[:1]))
    assert_one_line(fewer, config.output)
    make_fasta(config.inputs[0], 21_000)
    with pytest.raises(FileExistsError, match="sha256") as changed:
        build_corpus(config)
    assert_one_line(changed, config.output, config.inputs[0])
    assert stamp_files(config.output) == stamps


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("chunk_length", 61), ("overlap", 8), ("max_unknown", 0.4), ("validation_fraction", 0.1)),
        *(("test_fraction", 0.0), ("block_length", 601), ("seed", 1), ("compression", "zstd")),
        *(("validation_contigs", ("chr1",)), ("test_contigs", ("ant:*",))),
    ],
)
def test_unfinished_build_goes_on_with_its_own_config_only(
    field: str, value: object, config: CorpusConfig
) -> None:
    build_corpus(dataclasses.replace(config, inputs=config.inputs[1:]))
    (config.output / "manifest.json").unlink()  # as if stopped after one genome of two
    stamps = stamp_files(config.output)
    with pytest.raises(FileExistsError, match=f"built with {field} = ") as error:
        build_corpus(dataclasses.replace(config, **{field: value}))  # type: ignore[arg-type]
    assert_one_line(error, config.output / "genomes" / "moss-")
    assert stamp_files(config.output) == stamps
    assert not (config.output / "manifest.json").exists()
    assert len(build_corpus(config).genomes) == 2


@pytest.mark.parametrize(("place", "expected"), [(0, "pad"), (1, "pack")])
def test_defaults_are_those_of_a_genome_that_is_asked_for(
    place: int, expected: str, config: CorpusConfig
) -> None:
    """And not those of any that an unfinished build left."""
    build_corpus(dataclasses.replace(config, inputs=config.inputs[:1], short_contigs="pad"))
    (config.output / "manifest.json").unlink()
    manifest = build_corpus(dataclasses.replace(config, inputs=(config.inputs[place],)))
    assert manifest.config["short_contigs"] == expected


def test_output_that_is_no_corpus(config: CorpusConfig, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="holds other files") as error:
        build_corpus(dataclasses.replace(config, output=tmp_path))
    assert_one_line(error, tmp_path)
    with pytest.raises(NotADirectoryError, match="must be a folder") as file:
        build_corpus(dataclasses.replace(config, output=config.inputs[0]))
    assert_one_line(file, config.inputs[0])
    below = config.inputs[0] / "below"
    with pytest.raises(NotADirectoryError, match="must be a folder") as file:
        build_corpus(dataclasses.replace(config, output=below))
    assert_one_line(file, below)
    (tmp_path / "empty").mkdir()
    build_corpus(dataclasses.replace(config, output=tmp_path / "empty"))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("inputs", (), "must name"),
        ("chunk_length", 0, "above 0"),
        ("overlap", -1, "0 or above"),
        ("max_unknown", 1.5, "[0, 1]"),
        ("validation_fraction", 0.5, "[0, 0.5)"),
        ("test_fraction", -0.1, "[0, 0.5)"),
        ("block_length", 73, "at least a record, chunk_length + 2 * overlap = 74"),
        ("workers", 0, "above 0"),
    ],
)
def test_bad_config(field: str, value: object, rule: str, config: CorpusConfig) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)) as error:
        dataclasses.replace(config, **{field: value})  # type: ignore[arg-type]
    assert_one_line(error, field, repr(value))


def test_contig_in_two_splits(config: CorpusConfig) -> None:
    with pytest.raises(ValueError, match="a contig is in one split") as error:
        dataclasses.replace(config, validation_contigs=("a", "b"), test_contigs=("b",))
    assert_one_line(error, "validation_contigs", "'b'")


def test_empty_split(config: CorpusConfig) -> None:
    manifest = build_corpus(dataclasses.replace(config, test_fraction=0.0))
    with pytest.raises(ValueError, match="'test' has no record") as error:
        open_split(manifest, "test")
    assert_one_line(error, config.output)


def test_full_disk_leaves_nothing(config: CorpusConfig, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with full_disk(4_096), pytest.raises(OSError, match="can't be written") as error:
            build_corpus(config)
    finally:
        signal.signal(signal.SIGXFSZ, handler)
    assert_one_line(error, "array_record")
    assert not (tmp_path / "runs").exists()


def test_interrupted_build_goes_on(config: CorpusConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second genome: the first one, the larger, stays."""
    build = shards.build_genome

    def interrupt(source, config, report, **_):  # type: ignore[no-untyped-def]
        if source.species == "moss":
            return build(source, config, report)

        def stop(num_nucleotides: int, num_bytes: int) -> None:
            raise KeyboardInterrupt

        return build(source, config, stop)

    monkeypatch.setattr("nucleotide_transformer.data.corpus.build_genome", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(config)
    assert [path.name[:4] for path in (config.output / "genomes").iterdir()] == ["moss"]
    assert not (config.output / "manifest.json").exists()
    stamps = stamp_files(config.output)
    monkeypatch.undo()
    build_corpus(config)
    assert stamps.items() < stamp_files(config.output).items()


KILLED = """
import sys
from pathlib import Path
from nucleotide_transformer.data import shards
from nucleotide_transformer.data.corpus import CorpusConfig, build_corpus
from nucleotide_transformer.data.manifest import save_genome

def hang(*arguments):
    save_genome(*arguments)
    print("writing", flush=True)
    sys.stdin.read()

shards.save_genome = hang
inputs, output = (Path(sys.argv[1]),), Path(sys.argv[2])
build_corpus(CorpusConfig(inputs=inputs, output=output, workers=1, chunk_length=60, overlap=7,
                          block_length=600))
"""


def test_killed_build_is_never_taken_for_finished(config: CorpusConfig) -> None:
    """Killed when all files of a genome are written, but its folder has not got its name."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(config.inputs[0]), str(config.output)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout
    assert process.stdout.readline() == b"writing\n"
    process.kill()
    process.communicate()
    (partial,) = (config.output / "genomes").iterdir()
    assert partial.name.startswith(".partial-")
    with pytest.raises(FileNotFoundError):
        load_manifest(config.output)
    killed = stamp_files(config.output)
    assert killed
    build_corpus(config)
    assert not list_partial(config.output)
    assert killed.keys().isdisjoint(stamp_files(config.output))
