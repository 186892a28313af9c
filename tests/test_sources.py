"""What a corpus is made from: tables that are read as they are meant, and files that are what the
table says, each of them once."""

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest
from test_corpus_builds import assert_one_line, config, list_partial, make_fasta

from nucleotide_transformer.data import corpus
from nucleotide_transformer.data.corpus import CorpusConfig, build_corpus, load_manifest
from nucleotide_transformer.data.sources import load_sources
from nucleotide_transformer.errors import InputError

__all__ = ["config"]


def write_table(folder: Path, *rows: str, columns: str = "file species assembly") -> Path:
    lines = [columns, *rows]
    path = folder / "table.tsv"
    path.write_text("".join("\t".join(line.split(" ")) + "\n" for line in lines))
    return path


def test_the_same_file_twice_is_refused(config: CorpusConfig, tmp_path: Path) -> None:
    """Held-out blocks go by name: all of one copy's would be trained on in the other."""
    twin = tmp_path / "twin.fa"
    twin.write_bytes(config.inputs[0].read_bytes())
    with pytest.raises(InputError, match="is the same file as") as error:
        build_corpus(dataclasses.replace(config, inputs=(*config.inputs, twin)))
    assert_one_line(error, twin, config.inputs[0], "'ant'")
    assert not config.output.exists()


@pytest.mark.parametrize(
    ("column", "value", "parts"),
    [
        ("sha256", "0" * 64, ["sha256 = 000000000000...", "has"]),
        ("nucleotides", "20001", ["nucleotides = 20,001", "has 20,000"]),
        ("sha256", "12ab", ["'12ab'", "64 digits"]),
        ("nucleotides", "many", ["'many'", "a whole number"]),
        ("nucleotides", "9" * 5000, ["'999", "a whole number"]),
    ],
)
def test_a_table_is_checked_against_its_files(
    column: str, value: str, parts: list[str], config: CorpusConfig, tmp_path: Path
) -> None:
    table = write_table(
        tmp_path, f"ant.fa ant 1 {value}", columns=f"file species assembly {column}"
    )
    with pytest.raises(InputError) as error:
        build_corpus(dataclasses.replace(config, inputs=(table,)))
    assert_one_line(error, f"{table}: line 2", *parts)
    assert not config.output.exists()


def test_a_table_that_is_right_is_built(config: CorpusConfig, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(config.inputs[0].read_bytes()).hexdigest()
    columns = "file species assembly nucleotides sha256"
    table = write_table(tmp_path, f"ant.fa ant 1 20,000 {sha256.upper()}", columns=columns)
    config = dataclasses.replace(config, inputs=(table,))
    manifest = build_corpus(config)
    assert build_corpus(config) == manifest
    write_table(tmp_path, f"ant.fa ant 1 20000 {'0' * 64}", columns=columns)
    with pytest.raises(InputError, match="sha256 = 0"):
        build_corpus(config)


def test_cells_are_read_without_blanks_and_quotes(config: CorpusConfig, tmp_path: Path) -> None:
    table = tmp_path / "table.tsv"
    table.write_text(
        '# all ants\n\nfile\tspecies \tassembly\n# the ants\nant.fa\t"Ant 1"\t v1 \r\n \t \n'
        "moss.fa\t Moss\tv1\t \t\n"
    )
    found = [(source.species, source.assembly, source.place) for source in load_sources([table])]
    assert found == [("Ant 1", "v1", f"{table}: line 5"), ("Moss", "v1", f"{table}: line 7")]


def test_species_that_differ_by_capitals_are_refused(config: CorpusConfig, tmp_path: Path) -> None:
    table = write_table(tmp_path, "ant.fa ant 1", "moss.fa Ant 2")
    with pytest.raises(InputError, match="line 3: species 'Ant': is 'ant' elsewhere") as error:
        load_sources([table])
    assert_one_line(error)


def test_a_cell_of_any_length_is_read(config: CorpusConfig, tmp_path: Path) -> None:
    columns = "file species assembly source"
    table = write_table(tmp_path, f"ant.fa ant 1 {'x' * 200_000}", columns=columns)
    assert len(load_sources([table])) == 1


@pytest.mark.parametrize("name", ["chr9", "moss:chr2", "fly:*", "ant:*:chr1"])
def test_a_contig_is_looked_up_before_anything_is_built(
    name: str, config: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("a genome was built")

    monkeypatch.setattr(corpus, "build_genome", build)
    names = (name, "ant:chr1", "moss:*")
    with pytest.raises(InputError, match=r"validation_contigs: .* in no genome") as error:
        build_corpus(dataclasses.replace(config, validation_contigs=names))
    assert_one_line(error, repr(name))
    assert not config.output.exists()


@pytest.mark.parametrize(
    ("name", "other"),
    [("moss:*", "chr1"), ("moss:chr1", "moss:*"), ("chr1", "moss:chr1"), ("chr1", "ant:*")],
)
def test_a_contig_is_in_one_split_by_whatever_names(
    name: str, other: str, config: CorpusConfig
) -> None:
    config = dataclasses.replace(config, validation_contigs=(name,), test_contigs=(other,))
    with pytest.raises(InputError, match="a contig is in one split") as error:
        build_corpus(config)
    assert_one_line(error, "test_contigs", repr(other), repr(name))
    assert not config.output.exists()


def test_names_are_found_in_genomes_that_are_finished(config: CorpusConfig) -> None:
    config = dataclasses.replace(config, test_contigs=("moss:chr1",))
    with pytest.raises(InputError, match="in no genome"):
        build_corpus(dataclasses.replace(config, inputs=config.inputs[:1]))
    build_corpus(dataclasses.replace(config, inputs=config.inputs[1:]))
    manifest = build_corpus(config)
    ant, moss = ({shard.split for shard in genome.shards} for genome in manifest.genomes)
    assert moss == {"test"}
    assert ant == {"train", "validation", "test"}
    assert not list_partial(config.output)


def test_names_of_one_species_cost_no_look_at_the_others(
    config: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def list_contigs(path: Path) -> list[str]:
        read.append(path)
        return ["chr1"]

    monkeypatch.setattr("nucleotide_transformer.data.named_contigs.list_contigs", list_contigs)
    build_corpus(dataclasses.replace(config, test_contigs=("moss:chr1",)))
    assert read == [config.inputs[1]]


def test_growth_is_refused_where_a_file_is_there_already(config: CorpusConfig) -> None:
    build_corpus(config)
    twin = config.inputs[0].with_name("twin.fa")
    twin.write_bytes(make_fasta(config.inputs[0]).read_bytes())
    with pytest.raises(InputError, match="is the same file as"):
        build_corpus(dataclasses.replace(config, inputs=(*config.inputs, twin)))


def test_files_that_are_none(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "pipe", tmp_path / "loop.fa"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    broken = tmp_path / os.fsdecode(b"\xff.fa")
    broken.write_text(">one\nACGT\n")
    for path, message in (
        (pipe, f"{pipe}: must be a FASTA file, not a device or a pipe"),
        (Path("/dev/null"), "/dev/null: must be a FASTA file, not a device or a pipe"),
        (tmp_path, f"{tmp_path}: must be a FASTA file, not a folder"),
        (loop, f"{loop}: is a link that leads nowhere"),
        (broken, r"\udcff.fa': must have a name in UTF-8"),
    ):
        with pytest.raises(InputError) as error:
            load_sources([path])
        assert_one_line(error, "inputs: ", message)
        str(error.value).encode()


def test_a_folder_that_no_text_can_name_is_refused(tmp_path: Path) -> None:
    """ArrayRecord takes paths as text: the rule is told before anything is built or read."""
    fasta = make_fasta(tmp_path / "ant.fa")
    broken = tmp_path / os.fsdecode(b"bad\xff")
    message = f"output = {str(broken)!r}: must have a name in UTF-8"
    with pytest.raises(InputError) as error:
        CorpusConfig(inputs=(fasta,), output=broken)
    assert str(error.value) == message
    str(error.value).encode()
    build_corpus(CorpusConfig(inputs=(fasta,), output=tmp_path / "good")).folder.rename(broken)
    with pytest.raises(InputError, match="must have a name in UTF-8"):
        load_manifest(broken)
