"""Genes from GFF3 and GTF: where codons and introns are, on both strands, in both conventions.

The same two genes in both forms; from 0, half-open, in the direction of reading:

    A (+)  UTR 100-105, CDS 105-114, intron 114-144, CDS 144-150, stop 150-153, UTR 153-160
    B (-)  UTR 300-290, CDS 290-260, intron 260-230, CDS 230-203, stop 203-200, UTR 200-195
"""

import gzip

import pytest

from nucleotide_transformer.analysis.annotation import (
    SHORTEST_INTRON,
    CodingPart,
    Site,
    load_annotation,
)
from nucleotide_transformer.errors import InputError

GFF = """\
##gff-version 3
chr1\tx\tregion\t1\t400\t.\t+\t.\tID=chr1
chr1\tx\tgene\t101\t160\t.\t+\t.\tID=A
chr1\tx\tmRNA\t101\t160\t.\t+\t.\tID=a;Parent=A
chr1\tx\texon\t101\t114\t.\t+\t.\tParent=a
chr1\tx\texon\t145\t160\t.\t+\t.\tParent=a
chr1\tx\tCDS\t106\t114\t.\t+\t0\tID=p;Parent=a
chr1\tx\tCDS\t145\t153\t.\t+\t0\tID=p;Parent=a
chr1\tx\tmRNA\t196\t300\t.\t-\t.\tID=b
chr1\tx\texon\t196\t230\t.\t-\t.\tParent=b
chr1\tx\texon\t261\t300\t.\t-\t.\tParent=b
chr1\tx\tCDS\t201\t230\t.\t-\t0\tID=q;Parent=b
chr1\tx\tCDS\t261\t290\t.\t-\t0\tID=q;Parent=b
"""
GTF = """\
chr1\tx\tstart_codon\t106\t108\t.\t+\t.\tgene_id "A"; transcript_id "a";
chr1\tx\t5'-UTR\t101\t105\t.\t+\t.\tgene_id "A"; transcript_id "a";
chr1\tx\tCDS\t106\t114\t.\t+\t0\tgene_id "A"; transcript_id "a";
chr1\tx\tCDS\t145\t150\t.\t+\t0\tgene_id "A"; transcript_id "a";
chr1\tx\tstop_codon\t151\t153\t.\t+\t.\tgene_id "A"; transcript_id "a";
chr1\tx\t3'-UTR\t154\t160\t.\t+\t.\tgene_id "A"; transcript_id "a";
chr1\tx\tstart_codon\t288\t290\t.\t-\t.\tgene_id "B"; transcript_id "b";
chr1\tx\t3'-UTR\t196\t200\t.\t-\t.\tgene_id "B"; transcript_id "b";
chr1\tx\tstop_codon\t201\t203\t.\t-\t.\tgene_id "B"; transcript_id "b";
chr1\tx\tCDS\t204\t230\t.\t-\t0\tgene_id "B"; transcript_id "b";
chr1\tx\tCDS\t261\t290\t.\t-\t0\tgene_id "B"; transcript_id "b";
chr1\tx\t5'-UTR\t291\t300\t.\t-\t.\tgene_id "B"; transcript_id "b";
"""
SITES = {
    "start": [Site("chr1", 105, "+"), Site("chr1", 289, "-")],
    "stop": [Site("chr1", 150, "+"), Site("chr1", 202, "-")],
    "donor": [Site("chr1", 114, "+"), Site("chr1", 259, "-")],
    "acceptor": [Site("chr1", 144, "+"), Site("chr1", 229, "-")],
}


def load(tmp_path, text, name="genes.gff3"):
    path = tmp_path / name
    path.write_text(text)
    return load_annotation(path)


@pytest.mark.parametrize(("text", "name"), [(GFF, "genes.gff3"), (GTF, "genes.gtf")])
def test_sites_are_where_the_strand_begins_to_read_them(tmp_path, text, name):
    annotation = load(tmp_path, text, name)
    assert annotation.list_sites() == SITES
    assert [each.introns for each in annotation.transcripts] == [[(114, 144)], [(230, 260)]]
    assert [each.coding for each in annotation.transcripts] == [
        ((105, 114), (144, 153)),
        ((200, 230), (260, 290)),
    ]


def test_transcripts_of_one_gene_count_a_site_once(tmp_path):
    twice = GTF + GTF.replace('transcript_id "', 'transcript_id "2')
    annotation = load(tmp_path, twice, "genes.gtf")
    assert len(annotation.transcripts) == 4
    assert annotation.list_sites() == SITES
    assert len(annotation.list_coding_parts()) == 4


def test_gzip_and_parents_in_a_list(tmp_path):
    shared = GFF.replace("Parent=b", "Parent=c,b") + "chr1\tx\tmRNA\t1\t2\t.\t-\t.\tID=c\n"
    path = tmp_path / "genes.gff.gz"
    path.write_bytes(gzip.compress(shared.encode()))
    annotation = load_annotation(path)
    assert len(annotation.transcripts) == 3
    assert annotation.list_sites() == SITES


@pytest.mark.parametrize(
    ("strand", "phase", "first_codon", "num_codons"),
    [("+", 0, 10, 4), ("+", 1, 11, 3), ("+", 2, 12, 3), ("-", 0, 21, 4), ("-", 2, 19, 3)],
)
def test_phase_counts_from_where_the_strand_begins(strand, phase, first_codon, num_codons):
    part = CodingPart("chr1", 10, 22, strand, phase)
    assert (part.first_codon, part.num_codons) == (first_codon, num_codons)


def test_what_is_cut_off_has_neither_codon(tmp_path):
    partial = GFF.replace("ID=p;", "ID=p;partial=true;")
    assert load(tmp_path, partial).list_sites()["start"] == SITES["start"][1:]
    without = "".join(line for line in GTF.splitlines(True) if "stop_codon\t151" not in line)
    sites = load(tmp_path, without, "genes.gtf").list_sites()
    assert sites["start"] == SITES["start"][1:]
    assert sites["donor"] == SITES["donor"]


def test_a_codon_cut_by_an_intron_is_no_site(tmp_path):
    """The stop codon's last letter behind the intron: exon ends at 152, begins at 182."""
    split = GTF.replace("stop_codon\t151\t153", "stop_codon\t151\t152")
    split = split.replace("3'-UTR\t154\t160", "stop_codon\t183\t183")
    sites = load(tmp_path, split, "genes.gtf").list_sites()
    assert sites["stop"] == SITES["stop"][1:]
    assert Site("chr1", 182, "+") in sites["acceptor"]


def test_short_gaps_are_no_introns(tmp_path):
    for gap, count in ((SHORTEST_INTRON - 1, 0), (SHORTEST_INTRON, 1)):
        near = GFF.replace("CDS\t145\t", f"CDS\t{114 + gap + 1}\t")
        near = near.replace("exon\t145\t", f"exon\t{114 + gap + 1}\t")
        assert len(load(tmp_path, near).transcripts[0].introns) == count


def test_what_is_spliced_from_both_strands_is_left_out(tmp_path):
    mixed = GFF.replace("exon\t145\t160\t.\t+", "exon\t145\t160\t.\t-")
    assert load(tmp_path, mixed).list_sites() == {kind: each[1:] for kind, each in SITES.items()}


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("CDS\t106\t114\t.\t+\t0", "CDS\t106\t114\t.\t+\t.", "line 7: phase = '.': .* 0, 1 or 2"),
        ("CDS\t106\t114", "CDS\t114\t106", "line 7: .*1 <= start <= end"),
        ("CDS\t106\t114", "CDS\t106", "line 7: .*9 columns"),
        ("CDS\t106\t114", f"CDS\t106\t{'9' * 5000}", "line 7: .*1 <= start <= end"),
    ],
)
def test_bad_lines_are_named(tmp_path, old, new, rule):
    with pytest.raises(InputError, match=rule) as error:
        load(tmp_path, GFF.replace(old, new))
    assert "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"genes\.bed.*must be a file \.gff, \.gff3 or \.gtf"):
        load(tmp_path, "chr1\t1\t2\n", "genes.bed")
