"""Measures of what a judge knows, with judges of whom it is known what they know.

No model: a judge is given letters and answers by a rule. What the measures must give follows from
the rule and from how the genome was made.
"""

import collections
import math

import numpy as np
import pytest
from small_genomes import put, random_letters, reverse_complement, save_genome

from nucleotide_transformer.analysis import codons, kinds, sites
from nucleotide_transformer.analysis.annotation import CodingPart, Site
from nucleotide_transformer.analysis.judging import TokenScores
from nucleotide_transformer.analysis.regions import KINDS, OTHER
from nucleotide_transformer.analysis.sampling import HELD_OUT, TRAIN, WHOLE
from nucleotide_transformer.tokenizers import KmerTokenizer

VIEW = sites.View(reach=6, context=10)
KNOWN, OTHERS = 0.7, 0.1


def make_judge(choose):
    """A judge that gives KNOWN to the letter that `choose(text, place)` names, OTHERS to others."""

    def judge(sequences, start, stop, *, report):
        for text in sequences:
            rows = np.full((stop - start, 4), OTHERS, np.float32)
            for row, place in zip(rows, range(start, stop), strict=True):
                row["ACGT".index(choose(text, place))] = KNOWN
            report()
            yield rows

    return judge


def always(letter):
    return make_judge(lambda *_: letter)


def measure_sites(genome, found, judge, held_out=None, count=99):
    random = np.random.default_rng(0)
    samples = sites.draw_sites(genome, found, held_out, VIEW, count, random)
    shuffled = sites.draw_shuffled(genome, samples, held_out, VIEW, count, random)
    groups = {"start": samples, sites.SHUFFLED: shuffled}
    judged = {
        kind: sites.judge_windows(judge, group, VIEW, lambda: None)
        for kind, group in groups.items()
    }
    return sites.describe(judged, VIEW), groups


@pytest.fixture
def genome_with_starts(tmp_path):
    """ATG on both strands, surrounded by C alone as the strand reads it; else random A and T."""
    random = np.random.default_rng(1)
    text = random_letters(random, 3_000, "AT")
    found = []
    for number, start in enumerate(range(40, 2_900, 60)):
        strand = "+-"[number % 2]
        text = put(text, start, "CCCCCCATGCCCCCC", strand)
        found.append(Site("a", start + (6 if strand == "+" else 8), strand))
    return save_genome(tmp_path / "g.fa", {"a": text}), found


def test_sites_are_read_on_their_strand_with_their_letter_at_zero(genome_with_starts):
    genome, found = genome_with_starts
    report, _ = measure_sites(genome, found, always("A"))
    assert report["positions"] == list(range(-6, 7))
    numbers = report["kinds"]["start"]["parts"][WHOLE]
    assert numbers["count"] == len(found) == 48
    expected = [OTHERS] * 6 + [KNOWN] + [OTHERS] * 6
    assert numbers["probability_of_truth"]["mean"] == pytest.approx(expected)
    assert numbers["probability_of_truth"]["standard_error"] == pytest.approx([0] * 13, abs=1e-6)
    logs = np.log(expected).round(5).tolist()
    assert numbers["log_likelihood"]["mean"] == pytest.approx(logs, abs=2e-5)
    letters = ["C"] * 6 + [*"ATG"] + ["C"] * 4
    observed = [[float(letter == each) for each in "ACGT"] for letter in letters]
    assert numbers["observed"]["mean"] == observed
    assert numbers["probability"]["mean"][0] == pytest.approx([KNOWN, OTHERS, OTHERS, OTHERS])
    core = report["kinds"]["start"]["core"]
    assert core["positions"] == [0, 1, 2]
    in_core = core["sites"][WHOLE]["probability_of_truth"]["mean"]
    assert in_core == pytest.approx((KNOWN + 2 * OTHERS) / 3, abs=1e-5)


def test_letters_are_compared_with_random_places_and_with_those_beside(genome_with_starts):
    """A judge who knows all letters: beside the codons they are C, elsewhere A and T for the most
    part."""
    genome, found = genome_with_starts
    report, _ = measure_sites(genome, found, make_judge(lambda text, place: text[place]))
    numbers = report["kinds"]["start"]
    assert numbers["same_letters_beside"] == pytest.approx([KNOWN] * 6 + [OTHERS] * 3 + [KNOWN] * 4)
    assert numbers["core"]["same_letters_beside"] == pytest.approx(OTHERS)
    random = np.array(report["kinds"][sites.SHUFFLED]["parts"][WHOLE]["probability"]["mean"])
    of_atg = random.mean(axis=0)[[0, 3, 2]]
    assert numbers["same_letters_elsewhere"][6:9] == pytest.approx(of_atg.tolist(), abs=2e-5)


def test_errors_are_those_of_the_mean_over_sites(genome_with_starts):
    """A judge who knows the letter at 0 at a third of the sites."""
    genome, found = genome_with_starts
    calls = iter(range(10**6))

    def choose(text, place):
        return "A" if (next(calls) // 13) % 3 == 0 else "G"

    report, _ = measure_sites(genome, found, make_judge(choose))
    numbers = report["kinds"]["start"]["parts"][WHOLE]["probability_of_truth"]
    values = np.where(np.arange(48) % 3 == 0, KNOWN, OTHERS)
    assert numbers["mean"][6] == pytest.approx(values.mean(), abs=1e-5)
    expected = values.std(ddof=1) / math.sqrt(48)
    assert numbers["standard_error"][6] == pytest.approx(expected, abs=1e-5)


def test_random_places_are_of_the_same_contigs_strands_and_parts(tmp_path):
    random = np.random.default_rng(2)
    genome = save_genome(tmp_path / "g.fa", {c: random_letters(random, 2_000) for c in "abc"})
    held_out = np.zeros(genome.codes.size, bool)
    held_out[:1_000] = True  # of contig a
    found = [Site("a", place, "+") for place in range(50, 950, 10)]
    found += [Site("b", place, "-") for place in range(50, 1_950, 20)]
    judge = make_judge(lambda text, place: text[place])
    report, groups = measure_sites(genome, found, judge, held_out, count=80)
    taken = {
        kind: collections.Counter(
            (sample.part, genome.find_contig(window.place), window.strand)
            for sample in samples
            for window in sample.items
        )
        for kind, samples in groups.items()
    }
    assert taken["start"] == {(HELD_OUT, "a", "+"): 40, (TRAIN, "b", "-"): 40}
    assert taken[sites.SHUFFLED] == taken["start"]
    places = {window.place for sample in groups[sites.SHUFFLED] for window in sample.items}
    assert len(places - {genome.find_place(site) for site in found}) > 60
    for sample in groups[sites.SHUFFLED]:
        for window in sample.items:
            judged = held_out[window.place - 6 : window.place + 7]
            assert judged.all() == (sample.part == HELD_OUT)
    numbers = report["kinds"][sites.SHUFFLED]["parts"][WHOLE]["probability_of_truth"]
    assert numbers["mean"] == pytest.approx([KNOWN] * 13)


@pytest.mark.parametrize("strand", ["+", "-"])
@pytest.mark.parametrize("phase", [0, 1, 2])
def test_loss_by_position_in_the_codon(tmp_path, strand, phase):
    """Coding sequence whose codons begin with C or G, go on with A and end with T: a judge who
    always says T knows the third letter."""
    random = np.random.default_rng(3)
    coding = random_letters(random, phase)
    coding += "".join(random_letters(random, 1, "CG") + "AT" for _ in range(60))
    text = put(random_letters(random, 500), 100, coding, strand)
    genome = save_genome(tmp_path / "g.fa", {"a": text})
    part = CodingPart("a", 100, 100 + len(coding), strand, phase)
    drawn = codons.draw_stretches(genome, [part], None, VIEW, 30, np.random.default_rng(0))
    judged = sites.judge_windows(always("T"), drawn, VIEW, lambda: None)
    composition = codons.measure_composition(genome, [part])
    report = codons.describe(judged, [], composition)
    numbers = report["coding"][WHOLE]
    assert numbers["count"] == 30
    expected = [-math.log(OTHERS), -math.log(OTHERS), -math.log(KNOWN)]
    assert numbers["cross_entropy"]["mean"] == pytest.approx(expected, abs=2e-5)
    assert numbers["accuracy"]["mean"] == [0, 0, 1]
    assert numbers["third_less_first"]["mean"] == pytest.approx(math.log(OTHERS / KNOWN), abs=2e-5)
    letters = collections.Counter(coding[phase::3])
    shares = np.array(list(letters.values())) / 60
    entropy = -(shares * np.log(shares)).sum()
    assert composition == pytest.approx([entropy, 0, 0], abs=2e-5)


def test_stretches_lie_within_one_coding_part(tmp_path):
    """Parts of 12, 13 and 30 nt and stretches of 12: 1, 1 and 7 codons can be the first.

    Others of other transcripts have some of these codons, and add none.
    """
    text = random_letters(np.random.default_rng(4), 200)
    genome = save_genome(tmp_path / "g.fa", {"a": text})
    parts = [CodingPart("a", 20, 32, "+", 0), CodingPart("a", 60, 73, "-", 1)]
    parts += [CodingPart("a", 100, 130, "-", 0), CodingPart("a", 150, 161, "+", 0)]
    composition = codons.measure_composition(genome, parts)
    parts += [CodingPart("a", 103, 130, "-", 0), CodingPart("a", 100, 121, "-", 0)]
    assert codons.measure_composition(genome, parts) == composition
    (sample,) = codons.draw_stretches(genome, parts, None, VIEW, 99, np.random.default_rng(0))
    firsts = {
        window.place - 6 if window.strand == "+" else window.place + 6 for window in sample.items
    }
    assert len(sample.items) == 9
    assert firsts == {20, 71, *range(129, 108, -3)}


def paint(genome, spans):
    painted = np.full(genome.codes.size, OTHER, np.uint8)
    for kind, start, end in spans:
        painted[start:end] = KINDS.index(kind)
    return painted


@pytest.fixture
def genome_of_kinds(tmp_path):
    """Coding sequence is of C and G, intergenic of A and T, tRNA begins with 24 A."""
    random = np.random.default_rng(5)
    pieces, spans, place = [], [], 0
    for _ in range(40):
        for kind, letters, size in (("coding", "CG", 95), ("intergenic", "AT", 121)):
            pieces.append(random_letters(random, size, letters))
            spans.append((kind, place, place + size))
            place += size
        pieces.append("A" * 24 + "GT" * 4)
        spans.append(("tRNA", place, place + 24))
        place += 32
    genome = save_genome(tmp_path / "g.fa", {"a": "".join(pieces)})
    return genome, paint(genome, spans)


def judge_rows(rows):
    """Nats are the number of C and G in the token; right are those that are CCC."""
    tokenizer, size = KmerTokenizer(k=3), round(0.15 * 50)
    for row in rows:
        assert len(row.numbers) == size
        assert len(set(row.numbers)) in (size, 50 % size)
        words = [tokenizer.tokens[row.tokens[number]] for number in row.numbers]
        nats = np.array([sum(word.count(letter) for letter in "CG") for word in words], np.float32)
        correct = np.array([word == "CCC" for word in words], np.float32)
        yield TokenScores(nats, correct)


def measure_kind(genome, painted, kind, held_out=None, count=40):
    samples = kinds.draw_regions(
        genome,
        painted,
        kind,
        held_out,
        num_tokens=50,
        k=3,
        count=count,
        random=np.random.default_rng(0),
    )
    frequencies = kinds.make_frequencies(genome, 3)
    judged = kinds.judge_regions(judge_rows, KmerTokenizer(k=3), samples, frequencies, lambda: None)
    return kinds.describe(judged), samples


def test_only_tokens_wholly_of_the_kind_are_scored(genome_of_kinds):
    genome, painted = genome_of_kinds
    means = {}
    for kind in ("coding", "intergenic", "tRNA"):
        report, samples = measure_kind(genome, painted, kind)
        numbers = report["parts"][WHOLE]
        means[kind] = numbers["cross_entropy"]["mean"]
        assert numbers["cross_entropy"]["standard_error"] == pytest.approx(0, abs=1e-6)
        assert numbers["count"] == len({region.element for region in samples[0].items}) > 20
        scored = [np.concatenate(region.scored) for region in samples[0].items]
        assert report["tokens"] == {WHOLE: sum(each.sum() for each in scored)}
        for region in samples[0].items:
            hidden = np.concatenate(region.hidden)
            assert len(set(hidden.tolist())) == hidden.size
    assert means == {"coding": 3, "intergenic": 0, "tRNA": 0}
    # Short elements are gone through until every token was hidden, 8 of 50 at a time.
    for region in samples[0].items:
        assert [each.size for each in region.hidden] == [8] * 6 + [2]


def test_windows_of_one_element_are_one_unit(tmp_path):
    """Two elements of which one has nats of 3 a token, the other none; each has 8 tokens or 7."""
    random = np.random.default_rng(6)
    text = random_letters(random, 400, "AT")
    text = put(put(text, 100, "C" * 24, "+"), 160, "A" * 24, "+")
    genome = save_genome(tmp_path / "g.fa", {"a": text})
    painted = paint(genome, [("tRNA", 100, 124), ("tRNA", 160, 184)])
    report, samples = measure_kind(genome, painted, "tRNA")
    assert len(samples[0].items) == 40
    numbers = report["parts"][WHOLE]
    assert numbers["count"] == 2
    counts = collections.Counter()
    for region in samples[0].items:
        counts[region.element] += sum(int(each.sum()) for each in region.scored)
    share = counts[0] / counts.total()
    assert numbers["cross_entropy"]["mean"] == pytest.approx(3 * share, abs=1e-5)
    assert numbers["cross_entropy"]["standard_error"] > 1


def test_accuracy_and_the_frequencies_beside_it(genome_of_kinds):
    """By counting the scored words; AAA is the most frequent k-mer of this genome."""
    genome, painted = genome_of_kinds
    report, samples = measure_kind(genome, painted, "coding")
    words = collections.Counter()
    for region in samples[0].items:
        text = "".join("ACGT"[code] for code in region.codes)
        for hidden, scored in zip(region.hidden, region.scored, strict=True):
            words.update(text[3 * i : 3 * i + 3] for i in hidden[scored])
    numbers, total = report["parts"][WHOLE], words.total()
    assert numbers["accuracy"]["mean"] == pytest.approx(words["CCC"] / total, abs=1e-5)
    assert numbers["frequency_accuracy"]["mean"] == 0
    text = "".join("ACGTN"[code] for code in genome.codes[:-1])
    both = text + "N" + reverse_complement(text)
    counts = collections.Counter(both[i : i + 3] for i in range(len(both) - 2))
    size = sum(count for word, count in counts.items() if "N" not in word)
    nats = -sum(n * math.log(counts[word] / size) for word, n in words.items()) / total
    assert numbers["frequency_cross_entropy"]["mean"] == pytest.approx(nats, abs=2e-5)
    assert numbers["gain"]["mean"] == pytest.approx(nats - 3, abs=2e-5)
    assert max(counts, key=counts.__getitem__) in ("AAA", "TTT")


def test_held_out_tokens_are_scored_apart(genome_of_kinds):
    genome, painted = genome_of_kinds
    held_out = np.arange(genome.codes.size) < 2_000
    report, samples = measure_kind(genome, painted, "coding", held_out, count=30)
    assert list(report["parts"]) == [WHOLE, HELD_OUT, TRAIN]
    assert sorted(len(sample.items) for sample in samples) == [15, 15]
    shares = {sample.part: sample.share for sample in samples}
    assert shares[HELD_OUT] == pytest.approx(
        (held_out & (painted == 1)).sum() / (painted == 1).sum()
    )
    for sample in samples:
        for region in sample.items:
            text = "".join("ACGT"[code] for code in region.codes)
            strands = (text, reverse_complement(text))
            all_letters = "".join("ACGTN"[code] for code in genome.codes)
            (place,) = {all_letters.find(each) for each in strands} - {-1}
            forward = all_letters.find(text) >= 0
            for hidden, scored in zip(region.hidden, region.scored, strict=True):
                for i in hidden[scored]:
                    first = place + (3 * i if forward else len(text) - 3 * i - 3)
                    assert set(held_out[first : first + 3]) == {sample.part == HELD_OUT}
