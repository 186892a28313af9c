"""`nt corpus build --keep-going`: all bad inputs are named, what is good is built, and no corpus is
there before all of it is."""

import dataclasses
import gzip
import os
from pathlib import Path

import pytest
from test_corpus_builds import config, list_partial, make_fasta, stamp_files

from nucleotide_transformer import cli
from nucleotide_transformer.data.corpus import (
    BadInputsError,
    CorpusConfig,
    build_corpus,
    load_manifest,
)
from nucleotide_transformer.errors import MissingInputError, OutputExistsError

__all__ = ["config"]


def go_on(config: CorpusConfig, *paths: Path, **changes: object) -> list[str]:
    """What is said of a build with further inputs."""
    inputs = (*config.inputs, *paths)
    values = {"inputs": inputs, "keep_going": True, **changes}
    with pytest.raises(BadInputsError) as error:
        build_corpus(dataclasses.replace(config, **values))  # type: ignore[arg-type]
    lines = [str(each) for each in error.value.errors]
    assert str(error.value) == "; ".join(lines)
    assert [line for line in lines if "\n" in line] == []
    for each in error.value.errors:  # their frames would hold the contigs that were read
        assert (each.__traceback__, each.__context__) == (None, None)
    return lines


def list_genomes(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in (folder / "genomes").iterdir())


def write_bad(folder: Path) -> dict[Path, str]:
    """Bad inputs of every kind -> what is said of each."""
    texts = {
        "protein.fa": (b">one\nACGTMKTL", "contig 'one': position 8 (line 2): 'L': must be"),
        "cut.fa.gz": (gzip.compress(b">one\n" + b"GATTACA" * 99)[:-9], "truncated gzip: its"),
        "empty.fa": (b"", "empty: a FASTA file must hold"),
        "wrong.tsv": (b"file\tspecies\n", "line 1: no column 'assembly'"),
    }
    for name, (text, _) in texts.items():
        (folder / name).write_bytes(text)
    said = {folder / name: f"{folder / name}: {message}" for name, (_, message) in texts.items()}
    gone = folder / "gone.fa"
    return said | {gone: f"inputs: {gone}: no such FASTA file"}


@pytest.mark.parametrize("workers", [1, 2])
def test_all_bad_inputs_are_named_and_the_good_ones_built(
    workers: int, config: CorpusConfig, tmp_path: Path
) -> None:
    bad = write_bad(tmp_path)
    lines = go_on(config, *bad, workers=workers)
    assert len(lines) == len(bad)
    for said in bad.values():
        assert [line for line in lines if line.startswith(said)]
    assert list_genomes(config.output) == ["ant", "moss"]
    assert not list_partial(config.output)
    assert not (config.output / "manifest.json").exists()
    stamps = stamp_files(config.output)
    assert go_on(config, *bad) == lines
    assert len(build_corpus(config).genomes) == 2
    assert stamp_files(config.output) == stamps


def test_without_it_the_first_bad_input_ends_the_build(
    config: CorpusConfig, tmp_path: Path
) -> None:
    (tmp_path / "gone.fa").symlink_to(tmp_path / "nowhere")
    inputs = (tmp_path / "none.fa", tmp_path / "gone.fa", *config.inputs)
    with pytest.raises(MissingInputError, match=r"none\.fa: no such FASTA file"):
        build_corpus(dataclasses.replace(config, inputs=inputs))
    assert not config.output.exists()


def test_nothing_but_bad_inputs_leaves_nothing(config: CorpusConfig, tmp_path: Path) -> None:
    bad = write_bad(tmp_path)
    lines = go_on(dataclasses.replace(config, inputs=tuple(bad)))
    assert len(lines) == len(bad)
    assert not (tmp_path / "runs").exists()


def test_twins_are_named_with_the_rest(config: CorpusConfig, tmp_path: Path) -> None:
    """The same file, the same sequences, and one of the same name."""
    same, other = tmp_path / "same.fa", tmp_path / "zebra.fa"
    same.write_bytes(config.inputs[0].read_bytes())
    other.write_bytes(config.inputs[1].read_bytes().replace(b">chr1", b">other"))
    (tmp_path / "below").mkdir()
    named = make_fasta(tmp_path / "below" / "ant.fna", 5_000)
    lines = go_on(config, same, other, named)
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        *(str(named), str(same), str(other))
    ]
    for line, words in zip(
        lines, ("must differ", "same file as", "same sequences as"), strict=True
    ):
        assert words in line


def test_a_finished_corpus_stays_as_it_is(config: CorpusConfig, tmp_path: Path) -> None:
    """Also where a file that it was built from is gone: it is in the inputs all the same."""
    manifest = build_corpus(config)
    config.inputs[0].rename(tmp_path / "aside")
    new = make_fasta(tmp_path / "wolf.fa", 9_000)
    (line,) = go_on(config, new)
    assert line == f"inputs: {config.inputs[0]}: no such FASTA file"
    assert load_manifest(config.output) == manifest
    assert list_genomes(config.output) == ["ant", "moss", "wolf"]


def test_a_file_that_changed_is_named_with_the_rest(config: CorpusConfig, tmp_path: Path) -> None:
    """Since its genome was built; that genome stays as it is."""
    build_corpus(config)
    make_fasta(config.inputs[1], 4_000)
    stamps = stamp_files(config.output)
    changed, gone = go_on(config, tmp_path / "gone.fa")
    if "gone" in changed:
        changed, gone = gone, changed
    assert f"{config.inputs[1]} has " in changed
    assert "built from a file with sha256 " in changed
    assert gone == f"inputs: {tmp_path / 'gone.fa'}: no such FASTA file"
    assert stamp_files(config.output) == stamps


def test_all_bad_rows_of_a_table_are_named_and_the_good_ones_built(
    config: CorpusConfig, tmp_path: Path
) -> None:
    table = tmp_path / "genomes.tsv"
    make_fasta(tmp_path / "wolf.fa", 3_000)
    rows = ["file\tspecies\tassembly\tnucleotides", "wolf.fa\twolf\tw1\t3000"]
    rows += ["wolf.fa\t\tw2\t", "none.fa\thare\th1\t", "wolf.fa\tfox\tf1\tmany"]
    table.write_text("\n".join(rows) + "\n")
    lines = go_on(config, table, tmp_path)
    for said in (
        f"{table}: line 3: column 'species' is empty",
        f"{table}: line 4: {tmp_path / 'none.fa'}: no such FASTA file",
        f"{table}: line 5: nucleotides = 'many'",
        f"inputs: {tmp_path}: must be a FASTA file, not a folder",
    ):
        assert len([line for line in lines if line.startswith(said)]) == 1, lines
    assert len(lines) == 4
    assert list_genomes(config.output) == ["ant", "moss", "wolf_w1"]


def test_a_folder_called_like_a_table_is_a_bad_input(config: CorpusConfig, tmp_path: Path) -> None:
    folder = tmp_path / "x.tsv"
    folder.mkdir()
    assert go_on(config, folder) == [f"{folder}: must be a table, not a folder"]


def test_an_output_that_can_not_be_used_ends_the_build_at_once(
    config: CorpusConfig, tmp_path: Path
) -> None:
    build_corpus(config)
    changed = dataclasses.replace(config, keep_going=True, overlap=8)
    with pytest.raises(OutputExistsError, match="overlap = 7, not 8"):
        build_corpus(dataclasses.replace(changed, inputs=(*config.inputs, tmp_path / "none.fa")))


def test_a_contig_that_is_nowhere_is_told_before_anything_is_built(
    config: CorpusConfig, tmp_path: Path
) -> None:
    """Its name is part of the recipe: what was built with a wrong one would be of no use."""
    bad = tmp_path / "bad.fa"
    bad.write_bytes(b"ACGT")
    lines = go_on(config, bad, test_contigs=("chr9",))
    first, second = sorted(lines)
    assert first.startswith(f"{bad}: ")
    assert second.startswith("test_contigs: 'chr9': in no genome that could be read: must be")
    assert not config.output.exists()
    (line,) = go_on(config, bad, test_contigs=("ant:chr1",))
    assert line == first
    assert list_genomes(config.output) == ["ant", "moss"]


def test_a_file_that_may_not_be_read_is_a_bad_input(
    config: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != config.inputs[0])
    (line,) = go_on(config)
    assert line == f"inputs: {config.inputs[0]}: can't be read: no permission"
    assert list_genomes(config.output) == ["moss"]


def test_it_is_no_part_of_the_recipe(config: CorpusConfig) -> None:
    manifest = build_corpus(dataclasses.replace(config, keep_going=True))
    assert build_corpus(config) == manifest


def test_the_command_names_each_on_a_line(
    config: CorpusConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = write_bad(tmp_path)
    words = ["--inputs", *map(str, (*config.inputs, *bad)), "--output", str(config.output)]
    assert cli.main(["corpus", "build", *words, "--keep-going"]) == 2
    out, err = capfd.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("bad: ")]
    assert len(lines) == len(bad)
    for said in bad.values():
        assert [line for line in lines if line.startswith(f"bad: {said}")]
    rule = "mend or leave out what is bad, and build again"
    assert err == f"error: {len(bad)} problems, and no corpus was written: {rule}\n"
    assert not (config.output / "manifest.json").exists()
