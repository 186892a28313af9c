"""Files of variants and genomes with every mistake that a user may make."""

import contextlib
import copy
import csv
import gzip
import io
import os
import re
import sys
import types
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pysam
import pysam.bcftools
import pytest
from small_models import random_model  # noqa: F401
from variant_files import (
    HEADER,
    OTHER,
    TEXT,
    genome_file,  # noqa: F401
    make_config,
    make_rows,
    other_letters,
    write_bytes,
    write_vcf,
)

from nucleotide_transformer import cli
from nucleotide_transformer.data.fasta import FastaReader
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.options import parse
from nucleotide_transformer.variants.background import CalibrateConfig
from nucleotide_transformer.variants.config import STDIN, ScoreVariantsConfig
from nucleotide_transformer.variants.reading import split_record
from nucleotide_transformer.variants.reference import open_reference
from nucleotide_transformer.variants.run import check_variants, score_variants
from nucleotide_transformer.variants.saturation import SaturateConfig
from nucleotide_transformer.variants.tracks import PredictConfig


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
    HEADER + "1\tx\t.\tA\tC\t.\t.\t.\n": "line 5: position 'x': must be an integer of 0",
    HEADER + "1\t0\t.\tA\tC\t.\t.\t.\n": r"line 5: 1:0: chr1 of .*genome\.fa begins at 1",
    HEADER + "1\t5\t.\t\tC\t.\t.\t.\n": "line 5: ref '': must be text, and not empty",
}


@pytest.mark.parametrize("text", BAD_VCF)
def test_a_vcf_that_is_none(tmp_path, fasta, text):
    (tmp_path / "in.vcf").write_text(text)
    fails(make_config(tmp_path, fasta, tmp_path / "in.vcf"), rf"in\.vcf: {BAD_VCF[text]}")


def test_a_position_of_thousands_of_digits():
    with pytest.raises(InputError, match=r"line 5: position '9{20}': must be an integer"):
        split_record(Path("in.vcf"), 5, f"1\t{5_000 * '9'}\t.\tA\tC\t.\t.\t.")


BAD_TABLES = {
    "chrom\tpos\tref\n": "no column alt or alternative; has chrom, pos, ref",
    "chrom\tpos\tref\talt\n": "no row: must hold at least one variant",
    "chrom\tpos\tref\talt\n1\t2\tA\n": "line 2: 3 values: must have 4, as the header has",
    "chrom\tpos\tref\talt\n1\t2\tA\tC\tx\n": "line 2: 5 values: must have 4",
    "chrom\tpos\tref\talt\tinfo\n1\t2\tA\tC\n1\tx\tA\tC\n": "line 3: position 'x'",
    "chrom\tpos\tref\talt\n1\t0\tA\tC\n": "line 2: position '0': must be an integer of 1",
    "chrom\tpos\tref\talt\n\n1\t2.5\tA\tC\n": r"line 3: position '2\.5'",
}


@pytest.mark.parametrize("text", BAD_TABLES)
def test_a_table_that_is_none(tmp_path, fasta, text):
    (tmp_path / "in.tsv").write_text(text)
    fails(make_config(tmp_path, fasta, tmp_path / "in.tsv"), rf"in\.tsv: {BAD_TABLES[text]}")


BAD_TEXTS = {
    "id": ("1", "A", "rs\t1"),
    "line": ("1", "A", "rs\n1"),
    "bell": ("1", "A", "rs\a1"),
    "contig": ("1\tx", "A", "rs1"),
    "alt": ("1", "A\x00C", "rs1"),
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("case", BAD_TEXTS)
def test_texts_that_would_break_a_line(tmp_path, fasta, case, suffix):
    """Whatever is written: it is told when it is read."""
    source = write_rows(tmp_path / f"in{suffix}", [("1", "A", "good"), BAD_TEXTS[case]])
    place = {".csv": "line [34]", ".parquet": "row 2"}[suffix]
    field = {"contig": "contig", "alt": "alt"}.get(case, "name")
    value = re.escape(repr(next(x for x in BAD_TEXTS[case] if not x.isprintable())))
    rule = "must have no tab, line break or other control character"
    for name in ("x.tsv", "x.vcf.gz", "x.parquet"):
        config = make_config(tmp_path, fasta, source, name, on_mismatch="skip")
        fails(config, rf"in\{suffix}: {place}: {field} {value}: {rule}")


@pytest.mark.parametrize(
    ("row", "value"),
    [
        (("chr 1", "A", "x"), "contig 'chr 1'"),
        (("1,2", "A", "x"), "contig '1,2'"),
        (("1", "A,C", "x"), "alt 'A,C'"),
        (("1", "A;C", "x"), "alt 'A;C'"),
        (("1", "A C", "x"), "alt 'A C'"),
    ],
)
def test_rows_that_are_no_record_of_a_vcf(model, tmp_path, fasta, row, value):
    source = write_rows(tmp_path / "in.csv", [("1", "A", "good"), row])
    for name in ("x.vcf", "x.vcf.gz"):
        config = make_config(tmp_path, fasta, source, name, on_mismatch="skip")
        fails(config, rf"in\.csv: line 3: {value}: {name} can't have it: a VCF has no space")
    table = make_config(tmp_path, fasta, source, "x.tsv", on_mismatch="skip")
    check_variants(table)


def write_rows(path, rows):
    """A table of changes of the nucleotide that is the fifth: contig, alt and name."""
    columns = {
        "contig": [contig for contig, _, _ in rows],
        "position": [5] * len(rows),
        "ref": [TEXT[4]] * len(rows),
        "alt": [alt for _, alt, _ in rows],
        "name": [name for _, _, name in rows],
    }
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return path
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    return path


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
        path = write_bytes(tmp_path / "g.fa.gz", text.encode())
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


@pytest.mark.parametrize("name", ["g.fa", "g.fa.gz"])
@pytest.mark.parametrize(
    "change",
    ["another header", "one more", "one more, long", "shorter", "longer lines", "damaged", "latin"],
)
def test_an_index_of_another_file_is_made_again(change, name, tmp_path, fasta):
    """It is newer than the file, which a copy gave its old time."""
    text = fasta.read_text()
    path = write_bytes(tmp_path / name, text.encode())
    assert open_reference(path).notes
    first, second = text.split(">two")
    sequences = ["".join(part.splitlines()[1:]) for part in (first, second)]
    changed = {
        "another header": text.replace(">chr1", ">chr1 of another assembly").replace("A", "C"),
        "one more": f">zero\nACGT\n{text}",
        "one more, long": f"{text}>zero\n{TEXT * 500}\n",
        "shorter": first,
        "longer lines": f">chr1\n{sequences[0]}\n>two\n{sequences[1]}\n",
    }
    write_bytes(path, changed.get(change, text).encode())
    *_, index = sorted(tmp_path.glob(f"{name}.*i"))  # the .gzi, or else the .fai
    if change == "damaged":
        index.write_bytes(b"chr1\tmany\n")
    if change == "latin":
        (tmp_path / f"{name}.fai").write_bytes(b"chr\xe9\t300\t15\t200\t201\n")
    os.utime(path, (1, 1))
    reference = open_reference(path)
    assert "made its index" in reference.notes[0]
    expected = {contig.name: bytes(contig.sequence) for contig in FastaReader(path)}
    assert reference.lengths == {name: len(sequence) for name, sequence in expected.items()}
    for name, sequence in expected.items():
        assert reference.fetch(name, 0, len(sequence)) == sequence
    assert not open_reference(path).notes


@pytest.mark.parametrize("name", ["g.fa", "g.fa.gz"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    "text",
    [
        b">a\nACGT",
        b">a x\nACGT\nACGT",
        b">a\nACGT\n> b x\nACGT",
        b"\n>a\n" + TEXT.encode() * 500 + b"\n\n>b x\nAC\nAC",
        b"".join(b">%d\nACGT\nAC\n" % i for i in range(1000)) + b"\n",
    ],
)
def test_an_index_of_the_file_is_kept(text, end, name, tmp_path, monkeypatch):
    """Whether or not the last line ends: its index says that it does."""
    path = write_bytes(tmp_path / name, text.replace(b"\n", end))
    assert "made its index" in open_reference(path).notes[0]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not open_reference(path).notes


@pytest.mark.parametrize("name", ["g.fa", "g.fa.gz"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b">a\nACGT\n>b\nAC\n>a\nGGTT\n", "second contig named 'a'"),
        (b">a\nACGT\n>b\n>c\nGGTT\n", "contig 'b'.*: empty: a contig must have"),
        (b">a\nACGT\n>\xe9\nAC\n", "line 3: .*the name of a contig must be UTF-8 text"),
    ],
)
def test_contigs_that_an_index_would_leave_out(text, message, name, tmp_path):
    path = write_bytes(tmp_path / name, text)
    with pytest.raises(InputError, match=message):
        list(FastaReader(path))
    with pytest.raises(InputError, match=message):
        open_reference(path)
    assert not list(tmp_path.glob("*.fai"))
    pysam.faidx(str(path))
    with pytest.raises(InputError, match=message):
        open_reference(path)


def test_a_genome_beside_which_nothing_can_be_written(tmp_path, fasta, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    reference = open_reference(fasta)
    assert "has no index, and none can be written beside it: read whole" in reference.notes[0]
    assert reference.fetch("two", 3, 9) == OTHER[3:9].encode()
    assert [path.name for path in tmp_path.iterdir()] == ["genome.fa"]


def test_standard_input_that_is_no_table_leaves_nothing(tmp_path, fasta, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"nothing\n")))
    fails(make_config(tmp_path, fasta, STDIN), "^standard input: no column contig")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["genome.fa", "genome.fa.fai"]


def test_standard_input_that_is_closed_is_one_line(tmp_path, fasta, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    fails(make_config(tmp_path, fasta, STDIN), "^standard input: is closed: name a file")


def test_standard_input_is_let_go_of_after_a_later_error(model, tmp_path, fasta, monkeypatch):
    data = write_vcf(tmp_path / "in.vcf", make_rows()).read_bytes()
    config = make_config(tmp_path, fasta, STDIN, window=1)
    words = f"--vcf - --fasta {fasta} --output {config.output} --model {tmp_path / 'no_model'}"
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    with pytest.raises(InputError, match="window = 1"):
        score_variants(model, config)
    assert not list(tmp_path.glob("*.parts"))
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    assert cli.main(["score-variants", *words.split()]) == 2
    assert not list(tmp_path.glob("*.parts"))


def test_standard_input_is_called_by_its_hyphen():
    words = ["--vcf", "-", "--fasta", "a.fa", "--output", "b.vcf", "--window", "99"]
    config = parse(ScoreVariantsConfig, words, "nt score-variants")
    assert (config.vcf, config.window, config.scores) == (STDIN, 99, ("llr",))
    with pytest.raises(ValueError, match="--scores = 'lr': must be one of llr, llr_kmer"):
        parse(ScoreVariantsConfig, [*words, "--scores", "lr"], "nt score-variants")


HERE = Path("here")
CALIBRATE = CalibrateConfig(fasta=HERE, output=HERE.with_suffix(".json"))
PREDICT = PredictConfig(input=HERE, output=HERE.with_suffix(".tsv"))
SATURATE = SaturateConfig(region="1", fasta=HERE, output=HERE)
SCORE = ScoreVariantsConfig(vcf=HERE, fasta=HERE, output=HERE)


@pytest.mark.parametrize(
    ("config", "field", "value", "rule"),
    [
        (CALIBRATE, "seed", -1, r"must lie in \[0, 2\*\*32\)"),
        (CALIBRATE, "seed", 2**32, r"must lie in \[0, 2\*\*32\)"),
        (PREDICT, "show", "reff", "must be one of ref, A, C, G, T, entropy"),
        (PREDICT, "show", "A", "needs a track"),
        (SATURATE, "calibration", HERE, "needs the score llr_calibrated"),
        (SCORE, "calibration", HERE, "needs the score llr_calibrated"),
    ],
)
def test_settings_that_there_are_not_or_that_do_nothing(config, field, value, rule):
    config = copy.copy(config)
    object.__setattr__(config, field, value)  # the tests would find a wrong type first
    with pytest.raises(InputError, match=f"{field} = .*{value}.*: {rule}"):
        config.__post_init__()


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
