"""The chunks of the published corpus, from a dataset of the same columns on this machine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nucleotide_transformer import cli
from nucleotide_transformer.data.corpus import CorpusConfig, build_corpus
from nucleotide_transformer.data.fasta import FastaReader
from nucleotide_transformer.data.hub_chunks import ChunksConfig, unpack_chunks
from nucleotide_transformer.errors import InputError

CHUNK, OVERLAP = 600, 100
HOST = "https://ftp.ncbi.nlm.nih.gov/genomes"


def make_rows(address: str, contigs: dict[str, str]) -> list[dict[str, object]]:
    """Chunks as the published dataset cuts them: full ones only, of contigs with room for one."""
    rows = []
    for header, text in contigs.items():
        for number in range((len(text) - 2 * OVERLAP) // CHUNK):
            start = number * CHUNK
            end = start + CHUNK + 2 * OVERLAP
            place = {"start_pos": start, "end_pos": end, "fasta_url": address}
            rows.append({"sequence": text[start:end], "description": header, **place})
    return rows


@pytest.fixture(scope="module", autouse=True)
def datasets() -> Any:
    """Not at the top: each process of the tests reads this file, and few run it."""
    return pytest.importorskip("datasets")


@pytest.fixture
def contigs() -> dict[str, dict[str, str]]:
    rng = np.random.default_rng(0)

    def draw(length: int) -> str:
        return "".join(rng.choice(list("ACGTN"), length, p=[0.24, 0.24, 0.24, 0.24, 0.04]))

    return {
        f"{HOST}/GCF_000000001.1_ant_genomic.fna.gz": {
            "NC_1.1 Ant ant chromosome 1": draw(5_123),
            "NC_2.1 Ant ant chromosome 2": draw(2_000),
            "NC_3.1 Ant ant scrap": draw(700),
        },
        f"{HOST}/GCF_000000002.1_bee_genomic.fna.gz": {"NC_4.1 Bee bee": draw(2_000)},
    }


@pytest.fixture
def folder(datasets: Any, contigs: dict[str, dict[str, str]], tmp_path: Path) -> Path:
    folder = tmp_path / "chunks"
    for split, (address, texts) in zip(("train", "validation"), contigs.items(), strict=True):
        table = datasets.Dataset.from_list(make_rows(address, texts))
        table.to_parquet(str(folder / f"{split}.parquet"))
    return folder


def test_chunks_become_the_files_that_they_are_of(
    folder: Path, contigs: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    table = unpack_chunks(ChunksConfig(dataset=str(folder), output=tmp_path / "genomes"))
    for texts, name in zip(contigs.values(), ("ant", "bee"), strict=True):
        number = 1 + (name == "bee")
        path = tmp_path / "genomes" / f"GCF_00000000{number}.1_{name}_genomic.fna"
        found = {contig.name: contig.sequence.decode() for contig in FastaReader(path)}
        expected = {
            header.split()[0]: text[: (len(text) - 2 * OVERLAP) // CHUNK * CHUNK + 2 * OVERLAP]
            for header, text in texts.items()
            if len(text) >= CHUNK + 2 * OVERLAP
        }
        assert found == expected
    assert "\ttrain\t" in table.read_text().splitlines()[1]
    assert "\tvalidation\t" in table.read_text().splitlines()[2]
    config = CorpusConfig(inputs=(table,), output=tmp_path / "corpus", block_length=6_200)
    assert len(build_corpus(config).genomes) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("later", "start_pos = 600: must begin where the chunk before ends, at 0"),
        ("order", "start_pos = 600: must begin where the chunk before ends, at 0"),
        ("letters", "start_pos = 600: must begin where the chunk before ends, at 800"),
        ("gap", "start_pos = 1200: must begin where the chunk before ends, at 800"),
        ("columns", "train: no column 'sequence': must have the columns sequence, description,"),
    ],
)
def test_rows_that_are_no_chunks_in_order(
    change: str, message: str, datasets: Any, folder: Path, tmp_path: Path
) -> None:
    path = folder / f"{'validation' if change == 'later' else 'train'}.parquet"
    rows = datasets.Dataset.from_parquet(str(path)).to_list()
    if change in ("order", "later"):  # later: after a file that is right
        rows[0], rows[1] = rows[1], rows[0]
    elif change == "letters":
        rows[1]["sequence"] = "C" + rows[1]["sequence"][1:]
        rows[0]["sequence"] = rows[0]["sequence"][:CHUNK] + "A" * 2 * OVERLAP
    elif change == "gap":
        del rows[1]
    else:
        for row in rows:
            row["text"] = row.pop("sequence")
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    output = tmp_path / "genomes"
    with pytest.raises(InputError, match=message) as error:
        unpack_chunks(ChunksConfig(dataset=str(folder), output=output))
    assert str(error.value).startswith(f"{folder}: ")
    assert "\n" not in str(error.value)
    assert not output.exists() or not list(output.iterdir())


def test_the_command(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--dataset", str(folder), "--output", str(tmp_path / "genomes")]
    assert cli.main(["corpus", "unpack", *words]) == 0
    assert f"wrote {tmp_path / 'genomes' / 'genomes.tsv'}" in capfd.readouterr().out
    assert cli.main(["corpus", "unpack", *words]) == 2
    assert "holds files: the output must be" in capfd.readouterr().err
    assert cli.main(["corpus", "unpack", "--dataset", str(tmp_path / "no"), "--output", "x"]) == 2
    assert "can't be loaded" in capfd.readouterr().err
