"""Files of variants, in and out: every format, and runs that were stopped."""

import gzip
import io
import re
import sys
import tracemalloc
import types

import numpy as np
import pyarrow
import pyarrow.parquet
import pysam
import pysam.bcftools
import pytest
from small_models import random_model  # noqa: F401
from small_variants import AROUND
from variant_files import (
    HEADER,
    OTHER,
    TEXT,
    genome_file,  # noqa: F401
    make_config,
    make_rows,
    other_letters,
    write_vcf,
)

from nucleotide_transformer.variants import run as run_module
from nucleotide_transformer.variants.config import STDIN
from nucleotide_transformer.variants.reading import find_kind_of_bytes, read_variants
from nucleotide_transformer.variants.reference import open_reference
from nucleotide_transformer.variants.run import check_variants, score_variants
from nucleotide_transformer.variants.scoring import Scored, Scorer

WHY = ["breakend", ".", "., ., star, .", "symbolic", "breakend", ".", "not_snv", ".", "."]
WHY += ["not_acgt", "same"]


def test_vcf_to_vcf_as_bcftools_reads_it(model, tmp_path, fasta):
    source = write_vcf(tmp_path / "in.vcf.gz", make_rows())
    config = make_config(tmp_path, fasta, source)
    summary = score_variants(model, config)
    assert [path.name for path in summary.paths] == ["out.vcf.gz", "out.vcf.gz.tbi"]
    wanted = {"no_alt": 1, "star": 1, "breakend": 2, "symbolic": 1, "not_acgt": 1, "same": 1}
    assert summary.skipped == wanted | {"not_snv": 1}
    assert summary.num_scored == 6
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == [
        "out.vcf.gz",
        "out.vcf.gz.tbi",
    ]
    form = "%CHROM %POS %ID %REF %ALT %QUAL %FILTER %INFO/AC %INFO/NT_llr %INFO/NT_pll"
    text = pysam.bcftools.query("-f", f"{form} %INFO/NT_skip\n", str(config.output))
    lines = [line.split() for line in text.splitlines()]
    assert [line[:5] for line in lines] == [list(map(str, row)) for row in make_rows()]
    assert {tuple(line[5:8]) for line in lines} == {("100", "low", "1")}
    assert [line[10] for line in lines] == [why.replace(" ", "") for why in WHY]
    scorer = Scorer(model, open_reference(fasta), ("llr", "pll"), around=AROUND)
    values = iter(scorer.score(list(read_variants(source))).values)
    for line in lines:
        pairs = zip(line[8].split(","), line[9].split(","), strict=True)
        for found, wanted in zip(pairs, values, strict=False):
            for shown, value in zip(found, wanted, strict=True):
                assert (shown == ".") == np.isnan(value)
                if shown != ".":
                    np.testing.assert_allclose(float(shown), value, rtol=1e-5)
    region = pysam.bcftools.query("-f", "%ID\n", "-r", "1:250-260", str(config.output))
    assert region == "lower\n"
    header = pysam.VariantFile(str(config.output)).header
    assert header.info["NT_llr"].number == "A"
    assert header.contigs["1"].length == 300
    assert list(header.samples) == ["one"]


def test_scored_again_a_vcf_has_the_fields_once(model, tmp_path, fasta):
    first = make_config(tmp_path, fasta, write_vcf(tmp_path / "in.vcf", make_rows()))
    score_variants(model, first)
    text = gzip.decompress(first.output.read_bytes()).replace(b"AC=1;", b"AC=1;NT_other=2;")
    (tmp_path / "first.vcf.gz").write_bytes(gzip.compress(text))
    second = make_config(
        tmp_path, fasta, tmp_path / "first.vcf.gz", "again.vcf.gz", scores=("llr",)
    )
    score_variants(model, second)
    with gzip.open(second.output, "rt") as file:
        text = file.read()
    assert text.count("##INFO=<ID=NT_llr") == text.count("##INFO=<ID=NT_skip") == 1
    assert "NT_pll" not in text
    assert text.count("NT_other=2") == len(make_rows()) - 1  # the record without an ALT has AC=1
    assert text.count("##contig=<ID=1,") == text.count("##nucleotide_transformer=") == 1


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".tsv.gz", ".parquet", ".bcf"])
def test_every_kind_of_input_gives_the_same(model, tmp_path, fasta, monkeypatch, suffix):
    """From a file, and from standard input, which has no name to tell the kind by."""
    rows = [row for row in make_rows() if row[0] == "1" and row[2] in ("first", "del", "last")]
    source = tmp_path / f"in{suffix}"
    columns = ["#CHROM", "Pos", "id", "REF", "ALT"]
    if suffix == ".parquet":
        names = [name.lower().lstrip("#") for name in columns]
        table = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        pyarrow.parquet.write_table(pyarrow.table(table), source)
    elif suffix == ".bcf":
        contigs = HEADER.replace(
            "##INFO",
            '##contig=<ID=1>\n##FORMAT=<ID=GT,Number=1,Type=String,Description="x">\n##INFO',
        )
        text = write_vcf(tmp_path / "bcf.vcf", rows, contigs)
        pysam.bcftools.view("-Ob", "-o", str(source), str(text), catch_stdout=False)
    else:
        mark = "," if suffix == ".csv" else "\t"
        lines = ["##a comment", mark.join(columns), *(mark.join(map(str, row)) for row in rows)]
        opener = gzip.open if suffix.endswith(".gz") else open
        with opener(source, "wt") as file:
            file.write("\n".join(lines) + "\n")
    config = make_config(tmp_path, fasta, source, "x.parquet")
    score_variants(model, config)
    table = pyarrow.parquet.read_table(config.output).to_pydict()
    assert table["contig"] == ["1"] * 3
    assert table["position"] == [1, 30, 300]
    assert table["name"] == ["first", "del", "last"]
    assert table["skip"] == [None, "not_snv", None]
    assert table["llr"][1] is None
    wanted = make_config(tmp_path, fasta, write_vcf(tmp_path / "b.vcf", rows), "y.parquet")
    score_variants(model, wanted)
    other = pyarrow.parquet.read_table(wanted.output).to_pydict()
    assert other == table
    piped = types.SimpleNamespace(buffer=io.BytesIO(source.read_bytes()))
    monkeypatch.setattr(sys, "stdin", piped)
    names = ((source, "a.tsv"), (STDIN, "b.tsv"))
    named, unnamed = (check_variants(make_config(tmp_path, fasta, *each)) for each in names)
    assert unnamed.digest == named.digest


@pytest.mark.parametrize(
    ("start", "suffix"),
    [
        (b"##fileformat=VCFv4.2\n", ".vcf"),
        (b"\xef\xbb\xbf##fileformat=VCFv4.2\n", ".vcf"),
        (b"##a,b\n\ncontig,pos,ref,alt\n1,2\n", ".csv"),
        (b"contig\tpos\tref\talt\n1\t2\tA\tC,G\n", ".tsv"),
        (b"BCF\2\2", ".bcf"),
        (b"", ".tsv"),
    ],
)
def test_what_a_stream_is_shows_at_its_start(start, suffix):
    zipped = ".bcf" if suffix == ".bcf" else f"{suffix}.gz"
    assert find_kind_of_bytes(start) == suffix
    assert find_kind_of_bytes(gzip.compress(start)) == zipped
    assert find_kind_of_bytes(gzip.compress(start + bytes(range(9, 256)) * 99)[:200]) == zipped


def test_text_holds_scores_as_exactly_as_parquet(model, tmp_path, fasta):
    """Where cosines differ from 1 by 1e-5, six digits leave one of the difference."""
    source = write_vcf(tmp_path / "in.vcf", make_rows())
    for name in ("x.tsv", "x.parquet"):
        score_variants(model, make_config(tmp_path, fasta, source, name))
    lines = [line.split("\t") for line in (tmp_path / "x.tsv").read_text().splitlines()]
    head = next(line for line in lines if line[0] == "#contig")
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pydict()
    texts = [line[head.index("llr")] for line in lines[lines.index(head) + 1 :]]
    values = [None if text == "." else float(np.float32(text)) for text in texts]
    assert values == table["llr"]
    assert sum(value is not None for value in values) > 3


def test_tsv_is_a_bed_with_an_index(model, tmp_path, fasta):
    config = make_config(tmp_path, fasta, write_vcf(tmp_path / "in.vcf", make_rows()), "x.tsv.gz")
    assert [p.name for p in score_variants(model, config).paths] == ["x.tsv.gz", "x.tsv.gz.tbi"]
    (row,) = pysam.TabixFile(str(config.output)).fetch("1", 249, 250, parser=pysam.asBed())
    letter = other_letters(TEXT[249])[1]
    assert re.fullmatch(rf"{TEXT[249]}>{letter}:-?[\d.e-]+", row.name)
    columns = str(row).split("\t")
    assert columns[4:8] == ["250", TEXT[249], letter, "lower"]
    assert columns[10] == "."
    plain = make_config(tmp_path, fasta, tmp_path / "in.vcf", "x.tsv")
    score_variants(model, plain)
    with gzip.open(config.output, "rt") as file:
        assert file.read() == plain.output.read_text()
    assert "\n1\t0\t0\tN>.[two:3[:.\t0\tN\t" in plain.output.read_text()


def test_a_table_becomes_a_vcf(model, tmp_path, fasta):
    source = tmp_path / "in.tsv"
    source.write_text(f"chrom\tpos\tref\talt\n1\t5\t{TEXT[4]}\t{other_letters(TEXT[4])[0]}\n")
    config = make_config(tmp_path, fasta, source)
    score_variants(model, config)
    text = pysam.bcftools.query("-f", "%CHROM %POS %ID %INFO/NT_llr\n", str(config.output))
    assert re.fullmatch(r"1 5 \. -?[\d.e-]+\n", text)


def test_unsorted_and_duplicate_records(model, tmp_path, fasta, monkeypatch):
    from nucleotide_transformer.variants import writing

    monkeypatch.setattr(writing, "_LINES_AT_ONCE", 3)
    rows = [
        ("two", 9, "e", OTHER[8], other_letters(OTHER[8])[0]),
        ("1", 50, "d", TEXT[49], other_letters(TEXT[49])[0]),
        ("1", 7, "b", TEXT[6], other_letters(TEXT[6])[0]),
        ("two", 3, "x", OTHER[2], other_letters(OTHER[2])[0]),
        ("1", 7, "c", TEXT[6], other_letters(TEXT[6])[0]),
        ("1", 2, "a", TEXT[1], other_letters(TEXT[1])[0]),
    ]
    source = write_vcf(
        tmp_path / "in.vcf", rows, HEADER.replace("##INFO", "##contig=<ID=1>\n##INFO")
    )
    for name in ("x.vcf.gz", "x.tsv.gz"):
        summary = score_variants(model, make_config(tmp_path, fasta, source, name))
        assert len(summary.paths) == 2
    text = pysam.bcftools.query("-f", "%ID %INFO/NT_llr\n", str(tmp_path / "x.vcf.gz"))
    pairs = [line.split() for line in text.splitlines()]
    assert [name for name, _ in pairs] == ["a", "b", "c", "d", "x", "e"]
    assert pairs[1][1] == pairs[2][1] != pairs[0][1]
    with gzip.open(tmp_path / "x.tsv.gz", "rt") as file:
        assert [line.split("\t")[7] for line in file if line[0] != "#"] == [x for x, _ in pairs]
    plain = make_config(tmp_path, fasta, source, "x.vcf")
    score_variants(model, plain)
    kept = [line.split("\t")[2] for line in plain.output.read_text().splitlines() if line[0] != "#"]
    assert kept == [row[2] for row in rows]


def test_places_far_out_have_an_index_of_the_other_kind(model, tmp_path, fasta):
    """Tabix ends at 2**29; that the FASTA lacks the contig is found, and all is written."""
    source = write_vcf(tmp_path / "in.vcf", [*make_rows(), ("9", 2**29 + 2, "far", "A", "C")])
    for name in ("x.vcf.gz", "x.tsv.gz"):
        config = make_config(tmp_path, fasta, source, name, on_mismatch="skip")
        assert [path.name for path in score_variants(model, config).paths] == [name, f"{name}.csi"]
    text = pysam.bcftools.query("-f", "%ID\n", "-r", "1:290-300,9", str(tmp_path / "x.vcf.gz"))
    assert text == "last\nfar\n"


def test_memory_is_flat_in_the_number_of_variants(model, tmp_path, fasta, monkeypatch):
    """Of reading, keeping and writing; scores are taken for granted."""
    monkeypatch.setattr(run_module, "BLOCK_ON_CPU", 128)

    def score(self, alleles):
        return Scored(np.zeros((len(alleles), 1)), [""] * len(alleles))

    monkeypatch.setattr(Scorer, "score", score)
    peaks = []
    for size in (500, 2_000):
        source = tmp_path / f"{size}.tsv"
        row = f"1\t5\t{TEXT[4]}\t{other_letters(TEXT[4])[0]}\n"
        source.write_text("chrom\tpos\tref\talt\n" + size * row)
        config = make_config(tmp_path, fasta, source, f"{size}.tsv.gz", scores=("llr",))
        tracemalloc.start()
        score_variants(model, config)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 100_000


def test_standard_input_is_kept_until_the_end(model, tmp_path, fasta, monkeypatch):
    data = write_vcf(tmp_path / "in.vcf.gz", make_rows()).read_bytes()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    piped = make_config(tmp_path, fasta, STDIN, "x.vcf")
    score_variants(model, piped)
    named = make_config(tmp_path, fasta, tmp_path / "in.vcf.gz", "y.vcf")
    score_variants(model, named)
    assert piped.output.read_text() == named.output.read_text()
    assert not (tmp_path / "x.vcf.parts").exists()


def test_a_stopped_run_resumes_at_its_last_block(model, tmp_path, fasta, monkeypatch):
    rows = [("1", i + 1, i, TEXT[i], other_letters(TEXT[i])[0]) for i in range(20, 30)]
    source = write_vcf(tmp_path / "in.vcf", rows)
    config = make_config(tmp_path, fasta, source, "x.vcf", scores=("llr",))
    monkeypatch.setattr(run_module, "BLOCK_ON_CPU", 4)
    scored, score = [], Scorer.score

    def stop_at_second(self, alleles):
        scored.append(len(alleles))
        if len(scored) == 2:
            raise KeyboardInterrupt
        return score(self, alleles)

    monkeypatch.setattr(Scorer, "score", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        score_variants(model, config)
    assert not config.output.exists()
    with pytest.raises(
        ValueError, match=r"x\.vcf\.parts: an unfinished run with scores = \['llr'\]"
    ):
        score_variants(model, make_config(tmp_path, fasta, source, "x.vcf"))
    summary = score_variants(model, config)
    assert scored == [4, 4, 4, 2]
    assert summary.num_scored == 10
    whole = make_config(tmp_path, fasta, source, "y.vcf", scores=("llr",))
    monkeypatch.setattr(run_module, "BLOCK_ON_CPU", 100)
    score_variants(model, whole)
    assert config.output.read_text() == whole.output.read_text()
    assert not list(tmp_path.glob("*.parts"))
