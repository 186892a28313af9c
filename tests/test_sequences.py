"""Sequences from files, embeddings into files, and runs that go on where they were stopped."""

import csv
import dataclasses
import gzip
import io
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.data.intervals import Interval
from nucleotide_transformer.inference import (
    BatchConfig,
    EmbedConfig,
    embed,
    embed_file,
    embedding_files,
    label_windows,
    read_annotation,
    read_embeddings,
    read_sequences,
)
from nucleotide_transformer.model import init_params
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer

CONFIG = ModelConfig(k=3, num_layers=1, embed_dim=16, num_heads=2, ffn_dim=32, max_positions=32)
ONE = BatchConfig(num_devices=1, batch_tokens=32)
"""One row of 32 tokens, all that the model has, a batch: one program to compile."""
FASTA = ">one first\nACGTACGTAC\nGGN\n>two\nttgacaRu\n>three\nCCCGGGAAATTT\n"
BED = """#x
track name=a
two\t1\t6\tb\t0\t-
one\t0\t13
three\t3\t9\tc\t0\t+
three\t0\t12\td\t0\t-
"""


@pytest.fixture(scope="module")
def model() -> Model:
    params = init_params(jax.random.key(0), CONFIG)
    return Model(params=params, config=CONFIG, tokenizer=KmerTokenizer(k=3))


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "genome.fa.gz"
    path.write_bytes(gzip.compress(FASTA.encode()))
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def write_table(path: Path, sequences: list[str]) -> Path:
    rows = [f"s{i},{sequence}" for i, sequence in enumerate(sequences)]
    return write(path, "\n".join(["name,sequence", *rows]) + "\n")


def test_fasta_gives_its_contigs(fasta: Path) -> None:
    assert list(read_sequences(fasta)) == [
        ("one", "ACGTACGTACGGN", "one", 0, 13),
        ("two", "TTGACANT", "two", 0, 8),
        ("three", "CCCGGGAAATTT", "three", 0, 12),
    ]


def test_bed_gives_its_intervals_in_its_order(fasta: Path, tmp_path: Path) -> None:
    bed = write(tmp_path / "x.bed", BED)
    plus = [
        ("b", "TGACA", "two", 1, 6),
        ("one:0-13", "ACGTACGTACGGN", "one", 0, 13),
        ("c", "GGGAAA", "three", 3, 9),
        ("d", "CCCGGGAAATTT", "three", 0, 12),
    ]
    assert list(read_sequences(fasta, bed=bed)) == plus
    reverse = {"b": "TGTCA", "d": "AAATTTCCCGGG"}
    stranded = [(name, reverse.get(name, text), *place) for name, text, *place in plus]
    assert list(read_sequences(fasta, bed=bed, stranded=True)) == stranded
    assert {path.name for path in tmp_path.iterdir()} == {"genome.fa.gz", "x.bed"}


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "parquet"])
def test_tables_give_their_rows(tmp_path: Path, kind: str) -> None:
    long = "ACGT" * 50_000  # beyond the csv module's own limit of 131,072 characters
    columns = {"id": ["a", "b"], "contig": ["x", "y"], "start": [5, 0], "end": [9, 200_000]}
    columns |= {"dna": ["ACgu", long]}
    path = tmp_path / f"table.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    else:
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t" if kind == "tsv" else ",")
        writer.writerows([columns, *zip(*columns.values(), strict=True)])
        data = text.getvalue().encode()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    found = list(read_sequences(path, sequence_column="dna", name_column="id"))
    assert found == [("a", "ACgu", "x", 5, 9), ("b", long, "y", 0, len(long))]
    found = list(read_sequences(path, sequence_column="dna"))
    assert [record.name for record in found] == ["0", "1"]


def test_a_row_of_parquet_without_a_name_has_its_number(tmp_path: Path) -> None:
    table = pyarrow.table({"name": ["a", None], "sequence": ["ACGT", "GG"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = [(record.name, record.contig) for record in read_sequences(tmp_path / "a.parquet")]
    assert found == [("a", "a"), ("1", "1")]


def test_table_without_coordinates_is_its_own_contig(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", ["ACGT", "GG"])
    wanted = [("s0", "ACGT", "s0", 0, 4), ("s1", "GG", "s1", 0, 2)]
    assert list(read_sequences(path)) == wanted
    write(path, path.read_text().replace("name", "contig"))
    assert list(read_sequences(path, name_column="contig")) == wanted


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.txt", "ACGT", "input = .*a.txt': must be a file .fa, .fasta"),
    ("a.fa", "", "a.fa: empty: a FASTA file must hold"),
    ("a.fa", ">x\nACGT\n>y\nACEGT\n", r"a.fa: contig 'y': position 3 \(line 4\): 'E': must be A"),
    ("a.csv", "", "a.csv: empty file"),
    ("a.csv", "name,sequence\n", "a.csv: no row: must hold at least one sequence"),
    ("a.csv", "name,dna\na,ACGT\n", "a.csv: no column 'sequence' .*; has name, dna"),
    ("a.csv", "name,sequence\na,ACGT\nb,\n", "a.csv: row 2: column 'sequence' is empty"),
    ("a.csv", "name,sequence\na,ACGT\nb,AC GT\n",
     "a.csv: row 2: sequence 'b': position 3: ' ': must be a nucleotide"),
    ("a.csv", "sequence,contig,start,end\nACGT,x,1,y\n",
     r"a.csv: row 1: start, end = '1', 'y': must be integers"),
    ("a.csv", "sequence,contig,start,end\nACGT,x,1,4\n",
     r"row 1: start, end = '1', '4': are counted from 0, and end is start \+ 4, as long as"),
    ("a.csv", "sequence,contig,start,end\nACGT,x,-4,0\n", "row 1: start, end = '-4', '0': are"),
    ("a.csv", "sequence,name\nACGT,a\nACGT,gene,x\n", "line 3: 3 values: must have 2, as the"),
    ("a.tsv", "sequence\tname\nACGT\n", "a.tsv: line 2: 1 values: must have 2, as the header has"),
    ("a.tsv", "sequence\tname\nACGT\ta\n\n\t\n", "a.tsv: row 2: column 'sequence' is empty"),
    ("a.csv", 'sequence\n"ACGT\n', "a.csv: line 2: unexpected end of data"),
    ("a.parquet", "no parquet", "a.parquet: not a Parquet file: "),
    ("a.csv.gz", "not gzip at all\n", "a.csv.gz: no column 'sequence' with the sequences"),
])  # fmt: skip
def test_bad_file_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_sequences(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    ("", "x.bed: empty file"),
    ("#nothing\n", "x.bed: no interval: a BED file must hold at least one"),
    ("one\t0\t5\nfour\t0\t5\n", "x.bed: line 2: four:0-5: there is no contig 'four' in .*fa"),
    ("one\t3\t14\n", "x.bed: line 1: one:3-14: the contig in .*genome.fa.gz ends at 13"),
    ("one\t5\t5\n", "x.bed: line 1: .*must be contig, start and end with tabs"),
    (f"one\t5\t{'9' * 5000}\n", "x.bed: line 1: .*must be contig, start and end with tabs"),
    ("one\t-1\t5\n", "x.bed: line 1: .*0 <= start < end"),
    ("one 0 5\n", "x.bed: line 1: 'one 0 5': must be contig, start and end"),
    ("one\t0\t5\ta\t0\t*\n", "x.bed: line 1: strand = '\\*': the strand, in column 6, must be"),
])  # fmt: skip
def test_bad_bed_is_one_line(fasta: Path, tmp_path: Path, text: str, message: str) -> None:
    bed = write(tmp_path / "x.bed", text)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_sequences(fasta, bed=bed))
    assert "\n" not in str(caught.value)


def test_bed_needs_fasta_and_files_must_be_there(fasta: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be FASTA: there is a BED"):
        read_sequences(tmp_path / "a.csv", bed=tmp_path / "x.bed")
    for name in ("a.csv", "a.fa", "a.parquet"):
        with pytest.raises(FileNotFoundError, match=f"{name}: no such"):
            list(read_sequences(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=r"x\.bed: no such file"):
        list(read_sequences(fasta, bed=tmp_path / "x.bed"))
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(b"sequence\n" + b"ACGT\n" * 9000)[:-20])
    with pytest.raises(ValueError, match=r"cut.csv.gz: damaged gzip after line \d+: "):
        list(read_sequences(cut))


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_all_formats_hold_the_same(
    model: Model, fasta: Path, tmp_path: Path, pooling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three parts of one sequence each, joined; exactly what `embed` gives."""
    monkeypatch.setattr(embedding_files, "PART_BYTES", 1)
    records = list(read_sequences(fasta))
    wanted = list(embed(model, [r.sequence for r in records], pooling=pooling, batching=ONE))
    stack = np.concatenate if pooling == "tokens" else np.stack
    for name in ("x.parquet", "x.npz", "x.h5", "y.hdf5"):
        output = tmp_path / "new" / name
        config = EmbedConfig(model="m", input=fasta, output=output, pooling=pooling, batching=ONE)
        assert embed_file(model, config) == output
        table = read_embeddings(output)
        places = zip(table.name, table.contig, table.start, table.end, strict=True)
        assert list(places) == [(r.name, r.contig, r.start, r.end) for r in records]
        np.testing.assert_array_equal(table.layers[1], stack([e[1] for e in wanted]))
        assert table.layers[1].dtype == np.float32
        if pooling == "tokens":
            assert table.num_tokens is not None
            assert table.num_tokens.tolist() == [len(e[1]) for e in wanted]
        else:
            assert table.num_tokens is None
        assert [path.name for path in output.parent.iterdir()] == [name]
        output.unlink()


def test_files_say_what_they_were_made_with(model: Model, fasta: Path, tmp_path: Path) -> None:
    config = EmbedConfig(model="m", input=fasta, output=tmp_path / "x.npz", batching=ONE)
    with np.load(embed_file(model, config), allow_pickle=False) as arrays:
        npz = json.loads(str(arrays["settings"]))
    other = dataclasses.replace(config, output=tmp_path / "x.parquet")
    metadata = pyarrow.parquet.read_schema(embed_file(model, other)).metadata
    other = dataclasses.replace(config, output=tmp_path / "x.h5")
    with h5py.File(embed_file(model, other)) as file:
        hdf5 = json.loads(file.attrs["settings"])
    assert npz == hdf5 == json.loads(metadata[b"settings"])
    assert (npz["model"], npz["pooling"], npz["layers"], npz["num_sequences"]) == (
        "m",
        "mean",
        [1],
        3,
    )


def stop_after(limit: int, embedded: list[int]) -> Any:
    """An `embed` that ends with Ctrl-C; a number is added for each sequence before it."""

    def embed_some(*args: Any, **options: Any) -> Iterator[Any]:
        for number, result in enumerate(embed(*args, **options)):
            if number == limit:
                raise KeyboardInterrupt
            embedded.append(number)
            yield result

    return embed_some


def test_an_interrupted_run_goes_on_where_it_was(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after 7 of 20, with half a part behind: 13 more, and the same file."""
    generator = np.random.default_rng(0)
    sequences = ["".join(generator.choice(list("ACGT"), 30)) for _ in range(20)]
    path = write_table(tmp_path / "a.csv", sequences)
    config = EmbedConfig(model="m", input=path, output=tmp_path / "x.npz", batching=ONE)
    embedded: list[int] = []
    monkeypatch.setattr(embedding_files, "PART_BYTES", 3 * 16 * 4)
    monkeypatch.setattr(embedding_files, "embed", stop_after(7, embedded))
    with pytest.raises(KeyboardInterrupt):
        embed_file(model, config)
    parts = tmp_path / "x.npz.parts"
    assert len(list(parts.glob("block-*.npz"))) == 3  # of 3, 3 and 1 sequences
    assert not config.output.exists()
    (parts / "block-00000003.npz.partial").write_bytes(b"half a file")
    monkeypatch.setattr(embedding_files, "embed", stop_after(100, embedded))
    embed_file(model, config, progress=True)
    assert len(embedded) == 20
    table = read_embeddings(config.output)
    assert table.name == [f"s{i}" for i in range(20)]
    wanted = np.stack([e[1] for e in embed(model, sequences, batching=ONE)])
    np.testing.assert_array_equal(table.layers[1], wanted)
    assert {p.name for p in tmp_path.iterdir()} == {"a.csv", "x.npz"}


def test_a_run_is_not_continued_with_other_arguments(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_table(tmp_path / "a.csv", ["ACGT", "GGT"])
    config = EmbedConfig(model="m", input=path, output=tmp_path / "x.npz", batching=ONE)

    for limit in (0, 1):
        assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
        with monkeypatch.context() as patch:
            patch.setattr(embedding_files, "embed", stop_after(limit, []))
            with pytest.raises(KeyboardInterrupt):
                embed_file(model, config)
    params = jax.tree.map(lambda x: x.at[-1].add(1), model.params)  # only the last row differs
    other = dataclasses.replace(model, params=params)
    for other_model, changes, message in (
        (model, {"pooling": "max"}, "pooling = 'mean', not 'max'"),
        (model, {"layers": (0,)}, r"layers = \[1\], not \[0\]"),
        (model, {"batching": BatchConfig(window_tokens=9)}, "window_tokens = 32, not 9"),
        (other, {}, "parameters = '[0-9a-f]+', not '[0-9a-f]+'"),
    ):
        with pytest.raises(ValueError, match=f"x.npz.parts: an unfinished run with {message}: f"):
            embed_file(other_model, dataclasses.replace(config, **changes))
    write_table(path, ["ACGT", "GGA"])
    with pytest.raises(ValueError, match="unfinished run with sequences = "):
        embed_file(model, config)
    write_table(path, ["ACGT", "GGT"])
    other_batches = dataclasses.replace(ONE, batch_tokens=64)  # changes nothing of the result
    embed_file(model, dataclasses.replace(config, batching=other_batches))
    with pytest.raises(FileExistsError, match=r"x\.npz: exists already: delete it, or choose"):
        embed_file(model, config)


def test_an_error_in_the_input_comes_before_any_work(model: Model, tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", ["ACGT", "GGT", "XX"])
    config = EmbedConfig(model="m", input=path, output=tmp_path / "new" / "x.npz", batching=ONE)
    with pytest.raises(ValueError, match="row 3: sequence 's2': position 1: 'X'"):
        embed_file(model, config)
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_output_that_cannot_be_written(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_table(tmp_path / "a.csv", ["ACGT"])
    with pytest.raises(ValueError, match=r"x.txt': must be a file .parquet, .npz, .h5, .hdf5"):
        EmbedConfig(model="m", input=path, output=tmp_path / "x.txt")
    config = EmbedConfig(model="m", input=path, output=path / "new" / "x.npz")
    with pytest.raises(NotADirectoryError, match=r"x\.npz: .*a\.csv is a file: must be a folder"):
        embed_file(model, config)
    config = dataclasses.replace(config, output=tmp_path / "new" / "x.npz")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(ValueError, match=r"x.npz: can't be written: no permission to write in"):
            embed_file(model, config)

    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(ValueError, match=r"x.npz.parts: can't be written: Permission denied"):
            embed_file(model, config)


def test_read_embeddings_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"x\.npz: no such file of embeddings"):
        read_embeddings(tmp_path / "x.npz")
    for name in ("x.npz", "x.parquet", "x.h5"):
        path = write(tmp_path / name, "nothing of the kind")
        with pytest.raises(ValueError, match=f"{name}: no file of embeddings: ") as caught:
            read_embeddings(path)
        assert "\n" not in str(caught.value)


def test_annotation_is_read_in_half_open_coordinates(tmp_path: Path) -> None:
    lines = "##gff-version 3\nx\ta\tgene\t1\t9\t.\t+\t.\tID=1\n##FASTA\n>x\nACGT\n"
    assert read_annotation(write(tmp_path / "a.gff3", lines)) == [
        Interval("x", 0, 9, "gene", "+", 2)
    ]
    bed = write(tmp_path / "a.bed", "x\t0\t9\tgene\n")
    assert read_annotation(bed) == [Interval("x", 0, 9, "gene", ".", 1)]
    for name, text, message in (
        ("b.gff", "x\ta\tgene\t0\t9\t.\t+\t.\tID=1\n", "b.gff: line 1: .*1 <= start <= end"),
        ("b.gtf", "x\ta\tgene\t1\t9\n", "b.gtf: line 1: .*must have 9 columns"),
        ("c.gff", "##gff-version 3\n", "c.gff: no feature"),
        ("c.vcf", "x", "annotation = .*c.vcf': an annotation must be a file .gff, .gff3"),
    ):
        with pytest.raises(ValueError, match=message):
            read_annotation(write(tmp_path / name, text))


@pytest.mark.parametrize("percent", [7, 14, 28, 55, 56, 57, 60])
def test_a_share_that_is_just_met_is_met(percent: int) -> None:
    """0.55 * 100 is above 55 in floating point."""
    for covered in (percent, percent - 1):
        annotation = [Interval("x", 0, covered, "gene", "+", 1)]
        found = label_windows(
            ["x"], [0], [100], annotation, features=["gene"], min_share=percent / 100
        )
        assert found == ["gene" if covered == percent else "other"]


def test_label_is_the_first_feature_that_covers_enough() -> None:
    generator = np.random.default_rng(0)
    annotation, covered = [], {name: np.zeros(400, bool) for name in ("CDS", "gene", "tRNA")}
    for line, name in itertools.product(range(6), covered):
        start = int(generator.integers(0, 380))
        end = start + int(generator.integers(1, 60))
        annotation.append(Interval("x", start, min(end, 400), name, "+", line))
        covered[name][start:end] = True
    starts = generator.integers(0, 380, 200)
    ends = starts + generator.integers(1, 21, 200)
    order = ("tRNA", "CDS", "gene")
    found = label_windows(["x"] * 200, starts, ends, annotation, features=order, min_share=0.6)
    for label, start, end in zip(found, starts, ends, strict=True):
        good = [name for name in order if covered[name][start:end].mean() >= 0.6]
        assert label == (good[0] if good else "other")
    assert len(set(found)) == 4
    assert label_windows(["y", "x"], [0, 0], [9, 9], annotation, features=["gene"])[0] == "other"
    with pytest.raises(ValueError, match="feature = 'exon': the annotation has CDS, gene, tRNA"):
        label_windows(["x"], [0], [9], annotation, features=["exon"])
    with pytest.raises(ValueError, match="contig 'chr1': the annotation has x"):
        label_windows(["chr1"], [0], [9], annotation, features=["gene"])
