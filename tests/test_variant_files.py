"""Files of variants, in and out: every format, every bad input, and runs that were stopped."""

import contextlib
import gzip
import io
import os
import re
import sys
import types

import numpy as np
import pyarrow
import pyarrow.parquet
import pysam
import pysam.bcftools
import pytest
from small_variants import AROUND, make_model, make_text

from nucleotide_transformer.variants import run as run_module
from nucleotide_transformer.variants.config import STDIN, ScoreVariantsConfig
from nucleotide_transformer.variants.reading import read_variants
from nucleotide_transformer.variants.reference import open_reference
from nucleotide_transformer.variants.run import check_variants, score_variants
from nucleotide_transformer.variants.scoring import Scorer

TEXT = make_text(300, seed=3)
OTHER = make_text(120, seed=4)
HEADER = """##fileformat=VCFv4.2
##FILTER=<ID=low,Description="kept as it is">
##INFO=<ID=AC,Number=A,Type=Integer,Description="count">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tone
"""


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(f">chr1 a contig\n{TEXT[:200]}\n{TEXT[200:].lower()}\n>two\n{OTHER}\n")
    return path


def other_letters(letter):
    return [x for x in "ACGT" if x != letter]


def write_vcf(path, rows, header=HEADER):
    lines = ["\t".join([*map(str, row), "1e2", "low", "AC=1", "GT", "0/1"]) for row in rows]
    text = header + "".join(line + "\n" for line in lines)
    if path.name.endswith(".gz"):
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(text.encode())
    else:
        path.write_text(text)
    return path


def make_rows():
    """Records of every kind; contig 1 is chr1 of the FASTA."""
    a, b, c = other_letters(TEXT[9])
    return [
        ("1", 1, "first", TEXT[0], other_letters(TEXT[0])[0]),
        ("1", 10, "multi", TEXT[9], f"{a},{b},*,{c}"),
        ("1", 20, ".", TEXT[19], "<DEL>"),
        ("1", 21, ".", TEXT[20], f"{TEXT[20]}[two:3["),
        ("1", 22, "none", TEXT[21], "."),
        ("1", 30, "del", TEXT[29:33], TEXT[29]),
        ("1", 250, "lower", TEXT[249].lower(), other_letters(TEXT[249])[1].lower()),
        ("1", 300, "last", TEXT[299], other_letters(TEXT[299])[0]),
        ("two", 5, "n", OTHER[4], "N"),
        ("two", 6, "same", OTHER[5], OTHER[5]),
    ]


WHY = [".", "., ., star, .", "symbolic", "breakend", ".", "not_snv", ".", ".", "not_acgt", "same"]


def make_config(tmp_path, fasta, vcf, name="out.vcf.gz", **options):
    options = {"scores": ("llr", "pll"), "around": AROUND} | options
    return ScoreVariantsConfig(vcf=vcf, fasta=fasta, output=tmp_path / name, **options)


def test_vcf_to_vcf_as_bcftools_reads_it(model, tmp_path, fasta):
    source = write_vcf(tmp_path / "in.vcf.gz", make_rows())
    config = make_config(tmp_path, fasta, source)
    summary = score_variants(model, config)
    assert [path.name for path in summary.paths] == ["out.vcf.gz", "out.vcf.gz.tbi"]
    wanted = {"no_alt": 1, "star": 1, "breakend": 1, "symbolic": 1, "not_acgt": 1, "same": 1}
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
    second = make_config(tmp_path, fasta, first.output, "again.vcf.gz", scores=("llr",))
    score_variants(model, second)
    with gzip.open(second.output, "rt") as file:
        text = file.read()
    assert text.count("##INFO=<ID=NT_llr") == text.count("##INFO=<ID=NT_skip") == 1
    assert "NT_pll" not in text
    assert text.count("##contig=<ID=1,") == text.count("##nucleotide_transformer=") == 1


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".tsv.gz", ".parquet", ".bcf"])
def test_every_kind_of_input_gives_the_same(model, tmp_path, fasta, suffix):
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
    plain = make_config(tmp_path, fasta, source, "x.vcf")
    score_variants(model, plain)
    kept = [line.split("\t")[2] for line in plain.output.read_text().splitlines() if line[0] != "#"]
    assert kept == [row[2] for row in rows]


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
    monkeypatch.setattr(run_module, "BLOCK", 4)
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
    monkeypatch.setattr(run_module, "BLOCK", 100)
    score_variants(model, whole)
    assert config.output.read_text() == whole.output.read_text()
    assert not list(tmp_path.glob("*.parts"))


def fails(config, message):
    with pytest.raises(ValueError, match=message) as raised:
        check_variants(config)
    assert "\n" not in str(raised.value)
    assert not list(config.output.parent.glob("*partial*"))


BAD_VCF = {
    "": "empty file",
    "chr1\t1\t.\tA\tC\n": "line 1: 'chr1.*': must begin with ##fileformat=VCF",
    "##fileformat=VCFv4.2\n1\t1\t.\tA\tC\t.\t.\t.\n": "line 2: .*must end with the line #CHROM",
    HEADER + "1\t1\t.\tA\tC\n": "line 5: .*at least 8 columns with tabs",
    HEADER + "1\tx\t.\tA\tC\t.\t.\t.\n": "line 5: position 'x': must be an integer of 1",
    HEADER + "1\t0\t.\tA\tC\t.\t.\t.\n": "line 5: position '0'",
    HEADER + "1\t5\t.\t\tC\t.\t.\t.\n": "line 5: ref '': must be text, and not empty",
}


@pytest.mark.parametrize("text", BAD_VCF)
def test_a_vcf_that_is_none(tmp_path, fasta, text):
    (tmp_path / "in.vcf").write_text(text)
    fails(make_config(tmp_path, fasta, tmp_path / "in.vcf"), rf"in\.vcf: {BAD_VCF[text]}")


BAD_TABLES = {
    "chrom\tpos\tref\n": "no column alt or alternative; has chrom, pos, ref",
    "chrom\tpos\tref\talt\n": "no row: must hold at least one variant",
    "chrom\tpos\tref\talt\n1\t2\tA\n": "line 2: 3 columns: the header has 4",
    "chrom\tpos\tref\talt\n\n1\t2.5\tA\tC\n": r"line 3: position '2\.5'",
}


@pytest.mark.parametrize("text", BAD_TABLES)
def test_a_table_that_is_none(tmp_path, fasta, text):
    (tmp_path / "in.tsv").write_text(text)
    fails(make_config(tmp_path, fasta, tmp_path / "in.tsv"), rf"in\.tsv: {BAD_TABLES[text]}")


def test_files_that_are_none(tmp_path, fasta):
    source = write_vcf(tmp_path / "in.vcf.gz", make_rows())
    fails(make_config(tmp_path, fasta, tmp_path / "no.vcf"), r"no\.vcf: no such file")
    fails(make_config(tmp_path, fasta, tmp_path / "no.bcf"), r"no\.bcf: no such file")
    fails(
        make_config(tmp_path, fasta, tmp_path / "a.txt"), r"vcf = .*a\.txt': must be a file \.vcf"
    )
    fails(make_config(tmp_path, fasta, source, "x.bed"), r"output = .*x\.bed': must be a file")
    fails(make_config(tmp_path, tmp_path / "no.fa", source), r"no\.fa: no such FASTA file")
    fails(make_config(tmp_path, tmp_path / "in.vcf.gz", source), "'##fileformat")
    for name in ("cut.vcf.gz", "bad.bcf", "bad.parquet"):
        (tmp_path / name).write_bytes(source.read_bytes()[:-28])
        fails(make_config(tmp_path, fasta, tmp_path / name), name.replace(".", r"\."))
    (tmp_path / "there.vcf").write_text("")
    fails(make_config(tmp_path, fasta, source, "there.vcf"), "there.vcf: exists already")


def test_alleles_that_do_not_fit_the_genome(model, tmp_path, fasta):
    wrong = other_letters(TEXT[4])
    cases = {
        (
            "1",
            5,
            ".",
            wrong[0],
            wrong[1],
        ): rf"in\.vcf: line 5: 1:5: REF {wrong[0]}, but .*genome\.fa has {TEXT[4]}",
        ("1", 301, ".", "A", "C"): r"line 5: 1:301: chr1 of .*genome\.fa ends at 300",
        ("1", 300, ".", TEXT[299] + "A", "C"): "ends at 300",
        ("chr9", 5, ".", "A", "C"): r"line 5: chr9:5: .*genome\.fa has no such contig",
    }
    good = ("1", 9, "good", TEXT[8], other_letters(TEXT[8])[0])
    for row, message in cases.items():
        source = write_vcf(tmp_path / "in.vcf", [row, good])
        fails(make_config(tmp_path, fasta, source), message)
    source = write_vcf(tmp_path / "in.vcf", [*cases, good])
    config = make_config(tmp_path, fasta, source, scores=("llr",), on_mismatch="skip")
    summary = score_variants(model, config)
    assert summary.skipped == {"mismatch": 1, "off_contig": 2, "no_contig": 1}
    assert summary.num_scored == 1
    alone = write_vcf(tmp_path / "alone.vcf", [("chr9", 5, ".", "A", "C")])
    config = make_config(tmp_path, fasta, alone, "a.vcf", on_mismatch="skip")
    fails(config, r"alone\.vcf: contigs chr9: .*genome\.fa has chr1, two$")


def test_names_of_contigs_are_matched_and_said(tmp_path, fasta):
    source = write_vcf(tmp_path / "in.vcf", make_rows())
    notes = check_variants(make_config(tmp_path, fasta, source)).notes
    assert re.search(r"made its index genome\.fa\.fai$", notes[0])
    assert re.search(r"contigs are named differently in .*genome\.fa: 1 = chr1$", notes[1])


@pytest.mark.parametrize("kind", ["plain", "bgzip", "gzip", "stale"])
def test_genomes_of_every_kind(tmp_path, fasta, kind):
    text, path = fasta.read_text(), fasta
    if kind == "bgzip":
        path = tmp_path / "g.fa.gz"
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(text.encode())
    if kind == "gzip":
        path = tmp_path / "g.fa.gz"
        path.write_bytes(gzip.compress(text.encode()))
    if kind == "stale":
        index = tmp_path / "genome.fa.fai"
        index.write_text("other\t7\t3\t7\t8\n")
        os.utime(index, (1, 1))
    reference = open_reference(path)
    assert reference.lengths == {"chr1": 300, "two": 120}
    assert reference.fetch("chr1", 195, 205) == TEXT[195:205].encode()
    assert reference.fetch("two", -5, 999) == OTHER.encode()
    (note,) = reference.notes
    assert ("read whole" in note) == (kind == "gzip")
    again = open_reference(path)
    assert bool(again.notes) == (kind == "gzip")
    assert not list(tmp_path.glob("*partial*"))


def test_letters_of_a_genome_that_are_none(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(">a\nACGU\nAC!T\n")
    reference = open_reference(path)
    assert reference.fetch("a", 0, 5) == b"ACGTA"
    with pytest.raises(ValueError, match=r"g\.fa: a: position 7: no nucleotide"):
        reference.fetch("a", 2, 8)
    path.write_text(">a\nACGT\nA\nACGT\n")
    os.utime(path, (2e9, 2e9))
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "g.fa.fai").unlink()
    with pytest.raises(ValueError, match="lines must be equally long"):
        open_reference(path)
