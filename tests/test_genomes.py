"""The genomes in the repository are those of the table next to them, to the byte."""

import csv
import gzip
import hashlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "nucleotide_transformer" / "data" / "genomes"
COLUMNS = ["file", "species", "assembly", "group", "nucleotides", "source", "licence", "sha256"]
with (FOLDER / "genomes.tsv").open(encoding="utf-8", newline="") as table:
    ROWS = list(csv.DictReader(table, delimiter="\t"))


def test_table_has_every_column_filled() -> None:
    assert len(ROWS) == 5
    for row in ROWS:
        assert list(row) == COLUMNS
        assert all(row.values()), row


def test_folder_holds_what_the_table_lists_and_nothing_else() -> None:
    listed = {row["file"] for row in ROWS} | {"genomes.tsv", "README.md"}
    assert {path.name for path in FOLDER.iterdir()} == listed


def test_genomes_stay_small_enough_for_a_repository() -> None:
    size = sum((FOLDER / row["file"]).stat().st_size for row in ROWS)
    assert size < 11 * 2**20  # the compressed bytes: 10.3 MiB


def test_genomes_come_from_several_kingdoms() -> None:
    assert {row["group"] for row in ROWS} == {"Bacteria", "Fungi", "Protozoa", "Invertebrate"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_genome_is_the_one_of_the_table(row: dict[str, str]) -> None:
    packed = (FOLDER / row["file"]).read_bytes()
    assert hashlib.sha256(packed).hexdigest() == row["sha256"]
    lines = gzip.decompress(packed).splitlines()
    letters = b"".join(line for line in lines if not line.startswith(b">"))
    assert len(letters) == int(row["nucleotides"])
    assert letters.translate(None, b"ACGTN") == b""
