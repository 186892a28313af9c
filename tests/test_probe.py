"""The probe on windows of which it is known whether they can be told apart, and by what."""

import numpy as np
import pytest
from small_genomes import random_letters, save_genome

from nucleotide_transformer.analysis import probe
from nucleotide_transformer.analysis.estimates import resample_groups
from nucleotide_transformer.analysis.regions import KINDS, OTHER

CODES = {letter: code for code, letter in enumerate("ACGT")}


def encode(texts):
    return np.array([[CODES[letter] for letter in text] for text in texts], np.uint8)


def test_windows_are_balanced_and_each_of_an_element_of_its_own(tmp_path):
    random = np.random.default_rng(0)
    sizes = {"coding": 90, "tRNA": 30, "LTR": 60, "intergenic": 100}
    counts = {"coding": 12, "tRNA": 8, "LTR": 10, "intergenic": 12}
    contigs, painted = {}, []
    for name in "abcd":
        pieces = []
        for kind in probe.PROBED:
            for _ in range(counts[kind]):
                pieces.append(random_letters(random, sizes[kind]) + "N" * 5)
                painted += [np.full(sizes[kind], KINDS.index(kind)), np.full(5, OTHER)]
        contigs[name] = "".join(pieces)
        painted.append([OTHER])
    genome = save_genome(tmp_path / "g.fa", contigs)
    kinds = np.concatenate(painted).astype(np.uint8)
    held_out = np.arange(genome.codes.size) < genome.starts["b"]
    found = probe.draw_windows(genome, kinds, held_out, size=30, count=99, random=random)
    assert np.bincount(found.labels).tolist() == [32] * 4
    assert found.codes.shape == (128, 30)
    assert found.codes.max() < 4
    assert set(found.chromosomes.tolist()) == {0, 1, 2, 3}
    np.testing.assert_array_equal(found.held_out, found.chromosomes == 0)
    text = "".join("ACGTN"[code] for code in genome.codes)
    starts = [text.find("".join("ACGT"[code] for code in row)) for row in found.codes]
    for start, label in zip(starts, found.labels, strict=True):
        assert (kinds[start : start + 30] == KINDS.index(probe.PROBED[label])).all()
    elements = np.cumsum(np.diff(kinds.astype(int), prepend=0) != 0)
    assert len(set(elements[starts].tolist())) == 128
    fewer = probe.draw_windows(genome, kinds, None, size=30, count=25, random=random)
    assert np.bincount(fewer.labels).tolist() == [25] * 4
    assert fewer.held_out is None
    none = probe.draw_windows(genome, kinds, None, size=40, count=25, random=random)
    assert none == "0 windows of tRNA, must be 20 or more"


def test_words_are_counted_at_every_place():
    counts = probe.count_words(encode(["ACACAC", "TTTTTT"]), 2)
    expected = np.zeros((2, 16), int)
    expected[0, [1, 4]] = 3, 2  # AC, CA
    expected[1, 15] = 5
    np.testing.assert_array_equal(counts, expected)


def test_families_are_copies_on_either_strand():
    """Copies with a few letters changed are linked, also through a third; the others are alone."""
    random = np.random.default_rng(0)
    alone = [random_letters(random, 72) for _ in range(5)]
    first = random_letters(random, 72)
    letters = list(first)
    letters[20], letters[50] = "ACGT"["TGCA".index(letters[20])], "ACGT"["TGCA".index(letters[50])]
    near = "".join(letters)
    backwards = near[::-1].translate(str.maketrans("ACGT", "TGCA"))
    shifted = first[30:] + random_letters(random, 30)
    families = probe.find_families(encode([*alone, first, near, backwards, shifted]))
    assert families.tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 5]


def test_what_only_memory_of_a_family_tells(tmp_path):
    """Four classes of ten families each, every family on all chromosomes: told apart by counts if
    a relative was seen, by chance (1 in 4) if not."""
    random = np.random.default_rng(1)
    families = [random_letters(random, 72) for _ in range(40)]
    texts = families * 8
    labels = np.arange(320) % 40 % 4
    chromosomes = np.arange(320) // 40
    counts = probe.count_words(encode(texts), 4).astype(float)
    found = probe.find_families(encode(texts))
    assert len(set(found.tolist())) == 40
    by_chromosome = probe.cross_validate_probe(counts, labels, chromosomes, scale=False)
    assert by_chromosome.all()
    by_family = probe.cross_validate_probe(counts, labels, found, scale=False)
    # 40 independent families: chance is 25 % with a deviation of 7 %.
    assert by_family.mean() < 0.25 + 3 * 0.07


def test_the_probe_is_linear_and_scaled():
    """Classes along one small feature, beside a large one that says nothing."""
    random = np.random.default_rng(2)
    labels = np.arange(400) % 4
    features = np.stack([1e-3 * labels, 1e3 * random.normal(size=400)], axis=1)
    features[:, 0] += 1e-4 * random.normal(size=400)
    groups = np.arange(400) // 50
    assert probe.cross_validate_probe(features, labels, groups, scale=True).mean() > 0.9


def test_intervals_resample_whole_groups():
    """All windows of a group are right or wrong together: 16 groups, not 1,600 windows."""
    groups = np.repeat(np.arange(16), 100)
    values = (groups % 2).astype(float)
    weights = resample_groups(groups, probe.NUM_RESAMPLES, np.random.default_rng(0))
    found = probe.describe_mean(values, weights)
    assert found["mean"] == 0.5
    low, high = found["interval_95"]
    # The mean of 16 coins: deviation 1/8.
    assert low == pytest.approx(0.5 - 1.96 / 8, abs=0.07)
    assert high == pytest.approx(0.5 + 1.96 / 8, abs=0.07)


def test_all_probes_of_all_layers_and_splits(monkeypatch):
    monkeypatch.setattr(probe, "FOLDS", 3)
    monkeypatch.setattr(probe, "STRENGTHS", (0.1, 1.0))
    random = np.random.default_rng(3)
    codes = random.integers(0, 4, (120, 30)).astype(np.uint8)
    labels, groups = np.arange(120) % 4, np.arange(120) // 20
    windows = probe.Windows(codes, labels, groups, np.arange(120), groups == 0)
    knowing = np.eye(4)[labels] + 0.1 * random.normal(size=(120, 4))
    guessing = random.normal(size=(120, 4))
    embeddings = {"trained": {0: guessing, 2: knowing}, "untrained": {0: guessing, 2: guessing}}
    steps = []
    report = probe.probe_all(windows, embeddings, np.random.default_rng(0), lambda: steps.append(1))
    assert len(steps) == probe.count_probes(num_layers=2, num_networks=2) == 10
    assert list(report) == ["chromosome", "family"]
    for split in report.values():
        trained, untrained = split["trained"]["2"], split["untrained"]["2"]
        assert trained["accuracy"] == {"mean": 1, "interval_95": [1, 1]}
        assert trained["held_out"] == {"mean": 1, "interval_95": [1, 1], "count": 20}
        assert trained["accuracy_by_kind"] == dict.fromkeys(probe.PROBED, 1)
        assert untrained["accuracy"]["mean"] < 0.5
        counts = split["counts_of_6mers"]["accuracy"]["mean"]
        assert trained["ahead_of_counts"]["mean"] == pytest.approx(1 - counts, abs=1e-5)


@pytest.mark.parametrize("num_groups", [3, 4])
def test_a_genome_of_few_chromosomes(num_groups):
    """As many as `find_windows` asks for; two are left for the inner folds, or three."""
    labels, groups = np.arange(48) % 4, np.arange(48) // 4 % num_groups
    assert probe.cross_validate_probe(np.eye(4)[labels], labels, groups, scale=True).all()


def test_layers_are_spread_evenly():
    assert probe.list_layers(2, 5) == [0, 1, 2]
    assert probe.list_layers(12, 5) == [0, 3, 6, 9, 12]
    assert probe.list_layers(10, 1) == [10]
