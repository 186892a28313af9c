"""Scores of variants against the same written out plainly, and what they must not depend on."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from small_genomes import reverse_complement
from small_models import V2, random_model  # noqa: F401
from small_variants import (
    AROUND,
    K,
    cut_window,
    list_changes,
    make_reference,
    make_scorer,
    make_text,
    plain_distribution,
    score_kmers,
)

from nucleotide_transformer.inference.embedding import hidden_states
from nucleotide_transformer.variants import evidence as evidence_module
from nucleotide_transformer.variants import fixed_batches
from nucleotide_transformer.variants.evidence import average
from nucleotide_transformer.variants.passes import log_kmers, log_letters
from nucleotide_transformer.variants.reading import Allele
from nucleotide_transformer.variants.scores import SCORES, Score
from nucleotide_transformer.variants.scoring import Scorer

# Float32 of a model with logits near 3: two programs of other shapes differ in the last bits.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
TEXT = make_text(90)
PLACES = (0, 1, 40, 41, 88, 89)
ALL = tuple(name for name in SCORES if name != "llr_calibrated")


@pytest.mark.parametrize(("name", "masked"), [("llr", True), ("wt_llr", False)])
def test_llr_is_the_double_loop_over_frames_and_strands(model, name, masked):
    alleles = list_changes(TEXT, *PLACES)
    found = make_scorer(model, (name,), c=TEXT).score(alleles)
    assert found.reasons == [""] * len(alleles)
    for place in PLACES:
        p = plain_distribution(model, TEXT, place, masked=masked)
        for allele, value in zip(alleles, found.values[:, 0], strict=True):
            if allele.start == place:
                wanted = np.log(p[allele.alt]) - np.log(p[allele.ref])
                np.testing.assert_allclose(value, wanted, **CLOSE)


@pytest.mark.parametrize(("name", "masked"), [("llr", True), ("wt_llr", False)])
def test_fewer_frames_are_the_first_ones_of_each_strand(model, name, masked):
    around = dataclasses.replace(AROUND, frames=1)
    scorer = Scorer(model, make_reference(c=TEXT), (name, "pll"), around=around)
    alleles = list_changes(TEXT, 40, 43)
    found = scorer.score(alleles).values
    assert np.isfinite(found).all()
    for allele, value in zip(alleles, found[:, 0], strict=True):
        p = plain_distribution(model, TEXT, allele.start, masked=masked, frames=1)
        np.testing.assert_allclose(value, np.log(p[allele.alt]) - np.log(p[allele.ref]), **CLOSE)


def test_entropy_is_that_of_the_place(model):
    found = make_scorer(model, ("entropy",), c=TEXT).score(list_changes(TEXT, 0, 40)).values
    for rows, place in ((found[:3], 0), (found[3:], 40)):
        p = np.array(list(plain_distribution(model, TEXT, place, masked=True).values()))
        np.testing.assert_allclose(rows[:, 0], -(p * np.log(p)).sum(), **CLOSE)


def test_llr_kmer_compares_two_kmers_on_each_strand(model):
    place, middle = 40, K // 2
    found = make_scorer(model, ("llr_kmer",), c=TEXT).score(list_changes(TEXT, place)).values
    for allele, value in zip(list_changes(TEXT, place), found[:, 0], strict=True):
        each = []
        for letters, own, alt in (
            (TEXT, place, allele.alt),
            (reverse_complement(TEXT), len(TEXT) - 1 - place, reverse_complement(allele.alt)),
        ):
            window, index = cut_window(letters, own - middle)
            logs = score_kmers(model, window, index, masked=True)
            kmer = letters[own - middle : own - middle + K]
            each.append(logs[kmer[:middle] + alt + kmer[middle + 1 :]] - logs[kmer])
        np.testing.assert_allclose(value, np.mean(each), **CLOSE)


def plain_pll(model, text, start, end):
    """The mean log-likelihood of a nucleotide of a part of a text, both strands, all frames."""
    logs = []
    for letters, low, high in (
        (text, start, end),
        (reverse_complement(text), *reversed_span(text, start, end)),
    ):
        for place in range(low, high - K + 1):
            window, index = cut_window(letters, place)
            logs.append(score_kmers(model, window, index, masked=True)[letters[place : place + K]])
    return np.mean(logs) / K


def reversed_span(text, start, end):
    return len(text) - end, len(text) - start


@pytest.mark.parametrize(
    ("start", "ref", "alt"),
    [
        (40, TEXT[40], "ACGT".replace(TEXT[40], "")[0]),
        (40, TEXT[40:46], TEXT[40]),
        (3, TEXT[3], TEXT[3] + "GATTC"),
    ],
)
def test_pll_is_the_difference_over_the_same_flanks(model, start, ref, alt):
    found = make_scorer(model, ("pll",), c=TEXT).score([Allele("", "c", start, ref, alt, ".")])
    changed = TEXT[:start] + alt + TEXT[start + len(ref) :]
    low, high = find_span(TEXT, changed)
    low, high = max(low - AROUND.flank, 0), min(high + AROUND.flank, len(TEXT))
    size = high - low
    shift = len(changed) - len(TEXT)
    wanted = plain_pll(model, changed, low, high + shift) - plain_pll(model, TEXT, low, high)
    np.testing.assert_allclose(found.values[0, 0], size * wanted, rtol=1e-4, atol=1e-4)


def find_span(before, after):
    """Where two texts may differ: from the first place at which a change could be, to the last."""
    shift = len(after) - len(before)
    head = next(i for i in range(len(before)) if before[i] != after[i])
    tail = next(i for i in range(1, len(before)) if before[-i] != after[-i]) - 1
    if shift == 0:
        return head, head + 1
    low, high = len(before) - tail, head  # the right end of the leftmost, the left of the rightmost
    return min(low - max(-shift, 0), head), max(high + max(-shift, 0), len(before) - tail)


def test_embeddings_are_means_over_frames_and_strands(model):
    alleles = list_changes(TEXT, 40)
    found = make_scorer(model, ("cosine", "l2", "dot"), c=TEXT).score(alleles).values
    for allele, row in zip(alleles, found, strict=True):
        ref = plain_embedding(model, TEXT, 40)
        alt = plain_embedding(model, TEXT[:40] + allele.alt + TEXT[41:], 40)
        cosine = ref @ alt / np.sqrt((ref @ ref) * (alt @ alt))
        np.testing.assert_allclose(row, [cosine, np.linalg.norm(alt - ref), ref @ alt], rtol=1e-3)


def plain_embedding(model, text, place):
    means = []
    for letters, own in ((text, place), (reverse_complement(text), len(text) - 1 - place)):
        for j in range(K):
            window, _ = cut_window(letters, own - j)
            last = model.config.num_layers
            means.append(hidden_states(model, window, layers=(last,))[last][1:].mean(axis=0))
    return np.mean(np.array(means, np.float64), axis=0)


def test_jsd_compares_what_is_expected_before_the_change(model):
    (allele, *_) = list_changes(TEXT, 40)
    found = make_scorer(model, ("jsd",), c=TEXT).score([allele]).values[0, 0]
    changed = TEXT[:40] + allele.alt + TEXT[41:]
    each = []
    for old, new, own in (
        (TEXT, changed, 40),
        (reverse_complement(TEXT), reverse_complement(changed), len(TEXT) - 41),
    ):
        for j in range(K):
            (before, left), (after, _) = (cut_window(text, own - j) for text in (old, new))
            for index in range(max(left - 8, 0), left):
                p, q = (letter_rows(model, text, index) for text in (before, after))
                middle = (p + q) / 2
                parts = (p * np.log(p / middle) + q * np.log(q / middle)).sum(axis=1) / 2
                each.append((j, own, parts))
    by_row: dict[tuple[int, int], list[float]] = {}
    for j, own, parts in each:
        by_row.setdefault((j, own), []).extend(parts)
    wanted = np.mean([np.mean(values) for values in by_row.values()])
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def letter_rows(model, text, index):
    """Probabilities [k, 4] of the letters of a token in sight."""
    rows = np.zeros((K, 4))
    for kmer, log_p in score_kmers(model, text, index, masked=False).items():
        rows[range(K), ["ACGT".index(letter) for letter in kmer]] += np.exp(log_p)
    return rows


def test_bits_depend_on_nothing_but_the_variant(model, monkeypatch):
    """Order, neighbours, duplicates, the size of batches and blocks of passes."""
    alleles = list_changes(TEXT, *PLACES, 42, 60)
    alleles += [Allele("", "c", 40, TEXT[40], TEXT[40] + "GG", "."), alleles[3]]
    scorer = make_scorer(model, ALL, c=TEXT)
    whole = scorer.score(alleles).values
    assert (np.isfinite(whole).sum(axis=0) >= 25).all()
    mixed = np.random.default_rng(0).permutation(len(alleles))
    some = [alleles[i] for i in mixed[:9]]
    np.testing.assert_array_equal(scorer.score(some).values, whole[mixed[:9]])
    monkeypatch.setattr(fixed_batches, "ROWS_ON_CPU", 3)
    monkeypatch.setattr(evidence_module, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(evidence_module, "CHANGES_AT_ONCE", 5)
    np.testing.assert_array_equal(scorer.score(alleles[::-1]).values, whole[::-1])


@pytest.mark.devices(3)
def test_bits_do_not_depend_on_the_number_of_devices(model):
    alleles = list_changes(TEXT, 40, 41, 60)
    around = dataclasses.replace(AROUND, num_devices=3)
    names = ("llr", "wt_llr", "cosine")
    on_three = Scorer(model, make_reference(c=TEXT), names, around=around).score(alleles)
    on_one = make_scorer(model, names, c=TEXT).score(alleles)
    np.testing.assert_array_equal(on_three.values, on_one.values)


def test_the_other_strand_has_the_same_scores(model):
    alleles = list_changes(TEXT, *PLACES)
    alleles += [Allele("", "c", 40, TEXT[40], TEXT[40] + "GATA", ".")]
    flipped = [
        Allele(
            "",
            "c",
            len(TEXT) - a.start - len(a.ref),
            reverse_complement(a.ref),
            reverse_complement(a.alt),
            ".",
        )
        for a in alleles
    ]
    names = ("llr", "llr_kmer", "wt_llr", "pll", "cosine", "l2", "dot", "jsd")
    found = make_scorer(model, names, c=TEXT).score(alleles).values
    np.testing.assert_array_equal(
        make_scorer(model, names, c=reverse_complement(TEXT)).score(flipped).values, found
    )


def count_rows(monkeypatch, scorer, alleles):
    rows = []
    run = fixed_batches.FixedBatches.run
    monkeypatch.setattr(
        fixed_batches.FixedBatches,
        "run",
        lambda self, task, tokens, numbers: (
            rows.append(len(tokens)) or run(self, task, tokens, numbers)
        ),
    )
    scorer.score(alleles)
    monkeypatch.undo()
    return sum(rows)


def test_passes_are_shared(model, monkeypatch):
    """18 changes of a 6-mer take one pass a frame and strand, scattered ones 2 k each."""
    llr = make_scorer(model, ("llr",), c=TEXT)
    assert count_rows(monkeypatch, llr, list_changes(TEXT, 40)) == 2 * K
    assert count_rows(monkeypatch, llr, list_changes(TEXT, 20, 40, 60)) == 3 * 2 * K
    assert count_rows(monkeypatch, llr, list_changes(TEXT, *range(30, 60))) == 2 * (30 + K - 1)
    one = Scorer(
        model, make_reference(c=TEXT), ("llr",), around=dataclasses.replace(AROUND, frames=1)
    )
    assert count_rows(monkeypatch, one, list_changes(TEXT, *range(30, 60))) == 2 * 30 // K
    wild = make_scorer(model, ("wt_llr",), c=TEXT)
    # Half a window is 4 k-mers, 12 nucleotides: 30 of them meet 3 or 4 windows in each frame.
    assert count_rows(monkeypatch, wild, list_changes(TEXT, *range(30, 60))) <= 2 * K * 4
    # Of the reference and of the change; changes of one place share those of the reference.
    for name, each in (("cosine", 2 * K), ("pll", 2 * (2 * AROUND.flank + 1 - K + 1))):
        scorer = make_scorer(model, ("llr", name), c=TEXT)
        more = 2 * K if name == "cosine" else 0  # those of llr are among those of pll
        assert count_rows(monkeypatch, scorer, list_changes(TEXT, 40)[:1]) == 2 * each + more
        assert count_rows(monkeypatch, scorer, list_changes(TEXT, 40)) == 4 * each + more


def test_the_softmax_is_in_float32_whatever_the_scores_are():
    """A bfloat16 has 8 bits: 64 letters' probabilities would add up to 1 within a hundredth."""
    random = np.random.default_rng(0)
    scores = jnp.asarray(3 * random.standard_normal((5, V2.vocabulary_size)), jnp.bfloat16)
    kmers = log_kmers(scores, V2)
    letters = log_letters(kmers, K)
    assert kmers.dtype == letters.dtype == jnp.float32
    np.testing.assert_allclose(np.exp(letters).sum(axis=-1), 1, atol=1e-6)


def test_a_changed_window_changes_scores(model):
    alleles = list_changes(TEXT, 40)
    values = [
        Scorer(
            model, make_reference(c=TEXT), ("llr",), around=dataclasses.replace(AROUND, window=size)
        ).score(alleles)
        for size in (K * 8, K * 8 + 2, K * 9)
    ]
    np.testing.assert_array_equal(values[0].values, values[1].values)
    assert not np.array_equal(values[0].values, values[2].values)


def test_unknown_letters_are_context_and_no_more(model):
    text = TEXT[:36] + "N" + TEXT[37:60] + "N" * 20
    scorer = make_scorer(model, ALL, c=text)
    found = scorer.score([*list_changes(text, 40), Allele("", "c", 36, "A", "C", ".")])
    assert found.reasons == ["", "", "", "unknown"]
    assert np.isfinite(found.values[:3]).all()
    assert np.isnan(found.values[3]).all()
    alone = "N" * 30 + "AC" + "N" * 30
    short = make_scorer(model, ALL, c=alone).score(list_changes(alone, 30))
    assert np.isnan(short.values).all()
    assert short.reasons == ["unknown"] * 3


def test_beside_unknown_letters_every_kmer_is_judged(model, monkeypatch):
    """In a window of its own where the shared one has no room for it: a letter of N is a token."""
    text = "N" * 87 + TEXT[:68] + "N" * 61
    wide = dataclasses.replace(AROUND, window=20 * K)
    scorer = Scorer(model, make_reference(c=text), ("llr", "wt_llr"), around=wide)
    changes = scorer.find_changes(list_changes(text, 88, 91, 120, 151)[::3])
    found = scorer.find_evidence(changes)
    np.testing.assert_array_equal(np.isnan(found.wild), np.isnan(found.masked))
    for row, change in zip(found.wild, changes, strict=True):
        np.testing.assert_array_equal(scorer.find_evidence([change]).wild[0], row)
    monkeypatch.setattr(evidence_module, "_find_centres", lambda _, places, *__: places)
    own = scorer.find_evidence(changes).wild
    is_own = (own == found.wild).all(axis=-1)
    assert is_own[[0, 3]].any(axis=(1, 2)).all()
    assert not is_own[2].any()  # in the middle


def test_a_contig_shorter_than_a_window(model):
    scorer = make_scorer(model, ALL, c=TEXT[:7], d=TEXT[:2])
    found = scorer.score(list_changes(TEXT, 0, 6) + list_changes(TEXT, 1, contig="d"))
    assert np.isfinite(found.values[:6, ALL.index("llr")]).all()
    assert found.reasons == [""] * 6 + ["unknown"] * 3


@pytest.mark.parametrize(("ref", "alt"), [("AC", "A"), ("A", "AT"), ("AC", "TA"), ("A", "C")])
def test_what_lacks_a_score_of_all_kinds_is_unknown(model, ref, alt):
    """Not `not_snv`: that says that the change is of the wrong kind, and nothing is wrong."""
    allele = [Allele("", "c", 30, ref, alt, ".")]
    alone = make_scorer(model, ("llr", "pll", "cosine"), c="N" * 30 + "AC" + "N" * 30)
    found = alone.score(allele)
    assert np.isnan(found.values[0, 1:]).any()
    assert found.reasons == ["unknown"]
    text = TEXT[:30] + "AC" + TEXT[32:]
    for scores in (("llr",), ("llr", "pll")):
        among = make_scorer(model, scores, c=text).score(allele)
        assert among.reasons == ["" if len(ref) == len(alt) == 1 else "not_snv"]


def test_a_score_is_added_in_one_place(model, monkeypatch):
    def surprise(evidence):
        """Minus the log-probability of what is there."""
        p = average(evidence.masked)
        return -np.log(p[np.arange(len(p)), evidence.ref])

    monkeypatch.setitem(SCORES, "surprise", Score(surprise, ("masked",), "-log P(ref)"))
    found = make_scorer(model, ("surprise",), c=TEXT).score(list_changes(TEXT, 40))
    p = plain_distribution(model, TEXT, 40, masked=True)
    np.testing.assert_allclose(found.values[:, 0], -np.log(p[TEXT[40]]), **CLOSE)
