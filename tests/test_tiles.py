"""Tiles of contigs, and what tables and annotations may be called."""

import csv
import dataclasses
import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from small_models import random_model  # noqa: F401

from nucleotide_transformer.data.intervals import read_bed
from nucleotide_transformer.data.sequences import SequenceRecord, cut_tiles
from nucleotide_transformer.inference import (
    BatchConfig,
    EmbedConfig,
    Interval,
    embed_array,
    embed_file,
    embedding_files,
    label_windows,
    read_embeddings,
    read_sequences,
)
from nucleotide_transformer.variants.reading import read_variants

ONE = BatchConfig(num_devices=1, batch_tokens=64)


@pytest.mark.parametrize(
    ("size", "window", "step", "wanted"),
    [
        (10, None, None, [(0, 10)]),
        (10, 4, None, [(0, 4), (4, 8), (8, 10)]),
        (8, 4, None, [(0, 4), (4, 8)]),
        (10, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        (9, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 9)]),
        (3, 4, 2, [(0, 3)]),
        (4, 4, 1, [(0, 4)]),
        (10, 2, 5, [(0, 2), (5, 7)]),
    ],
)
def test_tiles_reach_the_end_and_no_further(size, window, step, wanted):
    text = "".join("ACGT"[i % 4] for i in range(size))
    record = SequenceRecord("s", text, "c", 100, 100 + size)
    tiles = list(cut_tiles([record], window, step))
    assert [(tile.start - 100, tile.end - 100) for tile in tiles] == wanted
    assert [tile.sequence for tile in tiles] == [text[first:last] for first, last in wanted]
    if window:
        assert [tile.name for tile in tiles] == [f"s:{100 + a}-{100 + b}" for a, b in wanted]


def test_contigs_are_embedded_in_tiles(model, tmp_path):
    text = "".join(np.random.default_rng(0).choice(list("ACGT"), 70))
    (tmp_path / "a.fa").write_text(f">one\n{text}\n>two\n{text[:20]}\n")
    config = EmbedConfig(
        model="m",
        input=tmp_path / "a.fa",
        output=tmp_path / "x.npz",
        window=30,
        step=20,
        batching=ONE,
    )
    table = read_embeddings(embed_file(model, config))
    places = [(0, 30), (20, 50), (40, 70)]
    assert table.name == [*(f"one:{a}-{b}" for a, b in places), "two:0-20"]
    assert table.contig == ["one"] * 3 + ["two"]
    assert table.start.tolist() == [0, 20, 40, 0]
    tiles = [text[a:b] for a, b in places] + [text[:20]]
    wanted = embed_array(model, tiles, batching=ONE)
    np.testing.assert_allclose(table.layers[2], wanted, atol=2e-5)


def test_tiles_take_no_more_memory_than_the_contig():
    """200,000 tiles of a contig of 400 kB: what is held is the contig and one tile."""
    record = SequenceRecord("s", "ACGT" * 100_000, "c", 0, 400_000)
    tracemalloc.start()
    num_tiles = sum(1 for _ in cut_tiles([record], 1_000, 2))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_tiles == 199_501
    assert peak < 100_000


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"window": 0}, "window = 0: must be 1 or above"),
        ({"window": 5, "step": 0}, "step = 0: must be 1 or above"),
        ({"step": 5}, "step = 5: needs a window"),
        ({"stranded": True}, "stranded = True: needs a BED"),
        ({"window": 5, "stranded": True}, "window = 5: tiles count from the start of a contig"),
    ],
)
def test_tiles_that_there_are_not(options, rule):
    with pytest.raises(ValueError, match=f"^{rule}"):
        EmbedConfig(model="m", input=Path("a.fa"), output=Path("x.npz"), **options)


def test_tokens_of_a_chromosome_need_tiles(model, tmp_path, monkeypatch):
    (tmp_path / "a.fa").write_text(">one\n" + "ACG" * 40 + "\n")
    config = EmbedConfig(
        model="m",
        input=tmp_path / "a.fa",
        output=tmp_path / "x.npz",
        pooling="tokens",
        batching=ONE,
    )
    monkeypatch.setattr(embedding_files, "MAX_ROW_BYTES", 40 * 16 * 4 - 1)
    with pytest.raises(ValueError, match="pooling = 'tokens': a sequence of 120 nucleotides has "):
        embed_file(model, config)
    embed_file(model, dataclasses.replace(config, window=60))


def test_contigs_may_be_called_track(tmp_path):
    lines = ["track name=x", "browser position chr1", "# no", "track1\t0\t5", "browserX\t1\t2"]
    (tmp_path / "a.bed").write_text("\n".join([*lines, "track\t3\t4", "browser"]) + "\n")
    contigs = [interval.contig for interval in read_bed(tmp_path / "a.bed")]
    assert contigs == ["track1", "browserX", "track"]


@pytest.mark.parametrize(("read", "column"), [(read_sequences, "sequence"), (read_variants, "ref")])
def test_long_fields_are_read_and_the_limit_of_the_process_stays(tmp_path, read, column):
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write(f"contig,position,alt,{column}\n1,5,A," + "ACGT" * 50_000 + "\n")
    limit = csv.field_size_limit()
    records = read(tmp_path / "a.csv.gz")
    assert len(getattr(next(records), column)) == 200_000
    assert csv.field_size_limit() == limit


def test_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("sequence,name,sequence\nACG,a,TTT\n")
    with pytest.raises(ValueError, match=r"a\.csv: 2 columns are called 'sequence'$"):
        list(read_sequences(tmp_path / "a.csv"))


def test_a_column_of_numbers_is_no_column_of_sequences(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    parquet.write_table(arrow.table({"sequence": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"row 1: column 'sequence' holds int: must be text$"):
        list(read_sequences(tmp_path / "a.parquet"))


def test_windows_of_many_contigs_are_labelled_in_one_pass(monkeypatch):
    """Comparisons of names grow with the windows, not with their product with the contigs."""
    count = 0

    class Name(str):
        def __eq__(self, other):
            nonlocal count
            count += 1
            return str.__eq__(self, other)

        def __lt__(self, other):
            nonlocal count
            count += 1
            return str.__lt__(self, other)

        __hash__ = str.__hash__

    contigs = [Name(f"c{i}") for i in range(1_000)]
    annotation = [Interval(f"c{i}", 0, 10, "gene", "+", i) for i in range(0, 1_000, 2)]
    labels = label_windows(contigs, [0] * 1_000, [10] * 1_000, annotation, features=["gene"])
    assert labels == ["gene", "other"] * 500
    assert count < 50_000
