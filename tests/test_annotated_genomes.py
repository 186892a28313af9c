"""Genomes read by place and strand, painted with kinds, and sampled in their parts."""

import collections
import hashlib

import numpy as np
import pytest
from small_genomes import random_letters, reverse_complement, save_genome, write_gff

from nucleotide_transformer.analysis.annotation import Site, load_annotation
from nucleotide_transformer.analysis.estimates import (
    Estimate,
    average,
    average_ratio,
    combine,
    to_numbers,
)
from nucleotide_transformer.analysis.genome import (
    count_kmers,
    find_genome,
    find_held_out,
    list_contigs,
    load_genome,
    spell,
)
from nucleotide_transformer.analysis.regions import KINDS, OTHER, find_runs, paint_kinds
from nucleotide_transformer.analysis.sampling import draw, estimate_parts
from nucleotide_transformer.data.corpus import load_manifest, open_split
from nucleotide_transformer.errors import InputError, MissingInputError


def test_windows_are_read_as_the_strand_has_them(tmp_path):
    genome = save_genome(tmp_path / "g.fa.gz.fa", {"a": "TTACGTGA", "b": "CCCNGAT"})
    assert genome.sha256 == hashlib.sha256(genome.path.read_bytes()).hexdigest()
    place = genome.find_place(Site("a", 3, "+"))
    assert spell(genome.read(place, 1, 3, "+")) == "ACGTG"
    assert spell(genome.read(place, 1, 3, "-")) == reverse_complement("TTACG")
    assert genome.read(place, 4, 0, "+") is None  # before the first contig
    assert genome.read(place, 0, 5, "+") is None  # over the end of a contig
    b = genome.find_place(Site("b", 4, "+"))
    assert (genome.find_contig(place), genome.find_contig(b)) == ("a", "b")
    assert spell(genome.read(b, 0, 2, "+")) == "GAT"
    assert genome.read(b, 1, 0, "+") is None  # an N
    assert genome.read(b, 0, 3, "+") is None  # after the last contig


def test_a_site_beyond_its_contig_is_named(tmp_path):
    genome = save_genome(tmp_path / "g.fa", {"a": "ACGT"})
    with pytest.raises(InputError, match=r"a:5: the contig in .*g\.fa has 4 nucleotides"):
        genome.find_place(Site("a", 4, "+"))


def test_an_annotation_finds_the_genome_that_has_its_contigs(tmp_path):
    save_genome(tmp_path / "one.fa", {"a": "ACGT", "b": "ACGT"})
    save_genome(tmp_path / "two.fna", {"c": "ACGT"})
    gff = write_gff(tmp_path / "x.gff", [("b", "gene", 0, 2, "+", ".", "ID=x")])
    genomes = list_contigs(tmp_path)
    assert find_genome(genomes, load_annotation(gff)).name == "one.fa"
    gff.write_text(gff.read_text().replace("b\t", "chr9\t"))
    with pytest.raises(MissingInputError, match=r"x\.gff: .*contigs \(chr9\), and none of 2 has"):
        find_genome(genomes, load_annotation(gff))
    gff.write_text(gff.read_text().replace("chr9\t", "c\t"))
    save_genome(tmp_path / "three.fa", {"c": "ACGT"})
    with pytest.raises(InputError, match="only one genome"):
        find_genome(list_contigs(tmp_path), load_annotation(gff))


def test_held_out_places_are_the_records_of_the_corpus(small_corpus):
    """Every nucleotide of a held-out record is held out, and none of a training record."""
    genome = load_genome(small_corpus.parent / "rich.fa")
    held_out = find_held_out(genome, small_corpus)
    manifest = load_manifest(small_corpus)
    found = np.zeros(genome.codes.size, bool)
    for split in ("validation", "test", "train"):
        reader = open_split(manifest, split)
        for index in range(len(reader)):
            where = reader.locate(index)
            if where.species == "rich":
                place = slice(where.start, where.end)
                assert reader.read([index])[0].decode() == spell(genome.codes[place])
                assert (held_out[place] == (split != "train")).all()
                found[place] = True
    assert found[:-1].all()
    assert 0.15 < held_out.mean() < 0.25


def test_a_genome_that_the_corpus_lacks(small_corpus, tmp_path):
    assert find_held_out(save_genome(tmp_path / "g.fa", {"a": "ACGT"}), small_corpus) is None


@pytest.mark.parametrize("k", [2, 3])
def test_kmers_of_both_strands(tmp_path, k):
    text = random_letters(np.random.default_rng(0), 200) + "NN" + "ACGTT"
    genome = save_genome(tmp_path / "g.fa", {"a": text, "b": "ACG"})
    expected = collections.Counter()
    for piece in (text, "ACG"):
        for strand in (piece, reverse_complement(piece)):
            words = [strand[i : i + k] for i in range(len(strand) - k + 1)]
            expected.update(word for word in words if "N" not in word)
    counts = count_kmers(genome, k)
    words = ["".join("ACGT"[i // 4**j % 4] for j in reversed(range(k))) for i in range(4**k)]
    assert dict(zip(words, counts.tolist(), strict=True)) == {w: expected[w] for w in words}


def test_kinds_are_what_is_annotated(tmp_path):
    genome = save_genome(tmp_path / "g.fa", {"a": "ACGT" * 60, "b": "ACGT" * 5})
    rows = [
        ("a", "region", 0, 240, "+", ".", "ID=r"),
        ("a", "gene", 10, 100, "-", ".", "ID=g"),
        ("a", "mRNA", 10, 100, "-", ".", "ID=m"),
        ("a", "exon", 10, 40, "-", ".", "Parent=m"),
        ("a", "exon", 70, 100, "-", ".", "Parent=m"),
        ("a", "CDS", 16, 40, "-", "0", "Parent=m"),
        ("a", "CDS", 70, 90, "-", "0", "Parent=m"),
        ("a", "tRNA", 50, 60, "+", ".", "ID=t"),
        ("a", "long_terminal_repeat", 120, 150, "+", ".", "ID=l"),
        ("b", "snoRNA", 5, 8, "+", ".", "ID=s"),
    ]
    kinds = paint_kinds(load_annotation(write_gff(tmp_path / "x.gff", rows)), genome)
    names = (*KINDS, "other")
    runs = {name: find_runs(kinds, code).tolist() for code, name in enumerate(names)}
    assert runs == {
        "intergenic": [[0, 10], [100, 120], [150, 240], [241, 246], [249, 261]],
        "coding": [[16, 40], [70, 90]],
        "intron": [[40, 50], [60, 70]],
        "tRNA": [[50, 60]],
        "LTR": [[120, 150]],
        "other": [[10, 16], [90, 100], [240, 241], [246, 249], [261, 262]],
    }
    assert len(names) == OTHER + 1


def test_a_sample_has_half_of_what_is_held_out():
    held_out = np.arange(1_000) < 100
    taken = {sample.part: sample for sample in _draw(held_out, 60)}
    assert {part: len(sample.items) for part, sample in taken.items()} == {
        "held_out": 30,
        "train": 30,
    }
    assert taken["held_out"].share == 0.1
    assert all(held_out[taken["held_out"].items])
    assert not any(held_out[taken["train"].items])
    assert [len(sample.items) for sample in _draw(held_out, 400)] == [100, 300]
    assert [len(sample.items) for sample in _draw(held_out[:110], 90)] == [80, 10]
    assert [(s.part, s.share) for s in _draw(held_out[:50], 9)] == [("held_out", 1.0)]
    (whole,) = draw(np.random.default_rng(0), 50, None, 99, lambda i: i if i % 2 else None)
    assert sorted(whole.items) == list(range(1, 50, 2))


def _draw(held_out, count):
    return draw(np.random.default_rng(0), len(held_out), held_out, count, lambda index: index)


def test_the_whole_weighs_its_parts_by_their_shares():
    """200 draws of a known population: the mean is unbiased and the error is that of the draws."""
    random = np.random.default_rng(0)
    values = random.normal(size=1_000)
    held_out = np.arange(1_000) < 100
    values[held_out] += 5
    found = []
    for seed in range(200):
        samples = draw(np.random.default_rng(seed), 1_000, held_out, 80, lambda i: values[i])
        report = estimate_parts(samples, lambda items: {"x": average(np.array(items))})
        found.append((report["all"]["x"]["mean"], report["all"]["x"]["standard_error"]))
        assert report["held_out"]["x"]["mean"] > 4 > report["train"]["x"]["mean"]
    means, errors = np.array(found).T
    # The deviation of 200 draws is known to 5 %: four of these, and little of the population.
    assert abs(means.mean() - values.mean()) < 4 * errors.mean() / np.sqrt(200)
    assert 0.8 < means.std() / errors.mean() < 1.2


def test_too_few_for_an_error():
    estimate = average(np.ones((1, 2)))
    assert estimate.to_json() == {"mean": [1.0, 1.0], "standard_error": [None, None]}
    assert average_ratio(np.ones(1), np.ones(1)).to_json()["standard_error"] is None
    ratio = average_ratio(np.array([4.0, 9.0, 7.0, 8.0]), np.array([2.0, 0.0, 2.0, 2.0]))
    assert (float(ratio.mean), ratio.count) == (19 / 6, 3)  # nothing was measured in the second
    assert float(ratio.error) == pytest.approx(np.std([2, 3.5, 4], ddof=1) / np.sqrt(3))
    assert to_numbers(np.array([np.inf, 0.1234567])) == [None, 0.12346]
    one = Estimate(np.array(1.0), np.array(0.3), 2)
    assert combine([one], [0.2]) is one
    both = combine([one, Estimate(np.array(2.0), np.array(0.4), 5)], [0.5, 0.5])
    assert (both.mean, both.error, both.count) == (1.5, pytest.approx(0.25), 7)
