"""The corpus that the model is trained on: its tables, and what is held out."""

import csv
import gzip
from pathlib import Path

import pytest

from nucleotide_transformer.configfile import read_config
from nucleotide_transformer.data.corpus import CorpusConfig

FOLDER = Path(__file__).parent.parent / "experiments" / "model"
COLUMNS = ["file", "species", "assembly", "group", "nucleotides", "source", "licence", "sha256"]
GROUPS = ["Bacteria", "Archaea", "Fungi", "Protozoa", "Invertebrate", "Mammal", "Other vertebrate"]
HELD_OUT_LOCUS = ".ENm002."


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


GENOMES, UNSEEN = read_rows(FOLDER / "genomes.tsv"), read_rows(FOLDER / "unseen.tsv")


@pytest.fixture
def corpus() -> CorpusConfig:
    return read_config(CorpusConfig, FOLDER / "corpus.toml")


def test_tables_have_every_column_filled() -> None:
    for row in (*GENOMES, *UNSEEN):
        assert list(row) == COLUMNS
        assert all(row.values()), row
        assert Path(row["file"]).parent == Path("../../../shared/data/genomes")
    assert list(dict.fromkeys(row["group"] for row in GENOMES)) == GROUPS


def test_no_species_of_the_unseen_is_trained_on(corpus: CorpusConfig) -> None:
    """Neither its own strain nor another one: names are compared up to the species."""
    seen, unseen = ({" ".join(r["species"].split()[:2]) for r in t} for t in (GENOMES, UNSEEN))
    assert unseen == {"Escherichia coli", "Trypanosoma brucei"}
    assert not seen & unseen
    config = read_config(CorpusConfig, FOLDER / "unseen.toml")
    assert set(config.validation_contigs) == {f"{row['species']}:*" for row in UNSEEN}
    assert config.overlap == corpus.overlap


def test_every_genome_is_large_enough_for_blocks_of_each_split(corpus: CorpusConfig) -> None:
    """But those whose second locus is held out. The bound is that of `BlockAssigner`."""
    least = min(corpus.validation_fraction, corpus.test_fraction)
    by_blocks = [row for row in GENOMES if "ENCODE" not in row["assembly"]]
    assert len(by_blocks) == len(GENOMES) - 12
    for row in by_blocks:
        assert int(row["nucleotides"]) > corpus.block_length / least + 2 * corpus.block_length


def test_tables_are_those_of_the_files(shared: Path) -> None:
    """Every genome of the reference data is in one of them, with what its manifest says."""
    manifest = {r["file"]: r for r in read_rows(shared / "data" / "genomes" / "manifest.tsv")}
    rows = [row | {"file": Path(row["file"]).name} for row in (*GENOMES, *UNSEEN)]
    assert sorted(row["file"] for row in rows) == sorted(manifest)
    for row in rows:
        assert row == {column: manifest[row["file"]][column] for column in COLUMNS}


def test_one_locus_is_held_out_in_every_genome_that_has_it(
    corpus: CorpusConfig, shared: Path
) -> None:
    found = []
    for row in GENOMES:
        if "ENCODE" in row["assembly"]:
            with gzip.open(shared / "data" / "genomes" / Path(row["file"]).name, "rt") as file:
                found += [line[1:].split()[0] for line in file if line.startswith(">")]
    assert {name.split(".")[1] for name in found} == {"ENm001", "ENm002"}
    assert sorted(corpus.validation_contigs) == sorted(n for n in found if HELD_OUT_LOCUS in n)
    assert corpus.test_contigs == ()
