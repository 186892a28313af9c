"""A genome and variants in files, for the tests of them."""

import pysam
import pytest
from small_variants import OPTIONS, make_text

from nucleotide_transformer.variants.config import ScoreVariantsConfig

TEXT = make_text(300, seed=3)
OTHER = make_text(120, seed=4)
HEADER = """##fileformat=VCFv4.2
##FILTER=<ID=low,Description="kept as it is">
##INFO=<ID=AC,Number=A,Type=Integer,Description="count">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tone
"""


def write_fasta(path):
    path.write_text(f">chr1 a contig\n{TEXT[:200]}\n{TEXT[200:].lower()}\n>two\n{OTHER}\n")
    return path


@pytest.fixture(name="fasta")
def genome_file(tmp_path):
    return write_fasta(tmp_path / "genome.fa")


def write_bytes(path, text):
    """A text as it is or, if the name says so, as bgzip."""
    if path.suffix == ".gz":
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(text)
    else:
        path.write_bytes(text)
    return path


def other_letters(letter):
    return [x for x in "ACGT" if x != letter]


def write_vcf(path, rows, header=HEADER):
    lines = ["\t".join([*map(str, row), "1e2", "low", "AC=1", "GT", "0/1"]) for row in rows]
    text = header + "".join(line + "\n" for line in lines)
    return write_bytes(path, text.encode())


def make_rows():
    """Records of every kind; contig 1 is chr1 of the FASTA."""
    a, b, c = other_letters(TEXT[9])
    return [
        ("1", 0, "telomere", "N", ".[two:3["),
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


def make_config(tmp_path, fasta, vcf, name="out.vcf.gz", **options):
    options = {"scores": ("llr", "pll"), **OPTIONS} | options
    return ScoreVariantsConfig(vcf=vcf, fasta=fasta, output=tmp_path / name, **options)
