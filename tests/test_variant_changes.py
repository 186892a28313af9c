"""Insertions and deletions: one change, however it is written; and the rows that show them."""

import numpy as np
import pytest
from small_models import V2, random_model  # noqa: F401
from small_variants import (
    K,
    list_changes,
    make_reference,
    make_scorer,
    make_text,
)

from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.variants.changes import Change, find_change
from nucleotide_transformer.variants.reading import Allele
from nucleotide_transformer.variants.texts import Texts

REPEAT = make_text(40, seed=1) + "GATATATATC" + make_text(40, seed=2)
LIMIT = 12


def change(text, start, ref, alt, limit=LIMIT):
    allele = Allele("", "c", start, ref, alt, ".")
    return find_change(allele, make_reference(c=text), limit)


def apply(text, found):
    return text[: found.start] + found.alt.decode() + text[found.end :]


def test_a_deletion_in_a_repeat_is_the_whole_repeat():
    assert change("GATATATC", 1, "ATA", "A") == Change("c", 1, 7, b"ATATAT", b"ATAT")
    assert change("GATATATC", 0, "GAT", "G") == change("GATATATC", 4, "TAT", "T")


def test_random_indels_are_found_whatever_their_place():
    """All ways to write the same two sequences give one change, which turns one into the other."""
    random = np.random.default_rng(0)
    for _ in range(60):
        text = "".join(random.choice(list("AC"), 24))
        start, size = int(random.integers(1, 16)), int(random.integers(1, 4))
        alt = "".join(random.choice(list("AC"), size))
        for ref, new in (
            (text[start], text[start] + alt),
            (text[start : start + size + 1], text[start]),
        ):
            after = text[:start] + new + text[start + len(ref) :]
            found = change(text, start, ref, new, limit=24)
            assert apply(text, found) == after
            shift = len(after) - len(text)
            ways = 0
            for place in range(1, len(text) - max(-shift, 0)):
                unit = after[place + 1 : place + 1 + shift] if shift > 0 else ""
                old = text[place : place + 1 + max(-shift, 0)]
                if text[:place] + text[place] + unit + text[place + len(old) :] == after:
                    assert change(text, place, old, text[place] + unit, limit=24) == found
                    ways += 1
            assert ways >= 1


def test_letters_in_common_are_cut_off():
    text = make_text(30)
    new = "ACGT".replace(text[10], "")[0]
    snv = Change("c", 10, 11, text[10].encode(), new.encode())
    assert change(text, 10, text[10], new) == snv
    assert change(text, 8, text[8:14], text[8:10] + new + text[11:14]) == snv
    assert (
        change(text, 10, text[10:12], new + "ACGT".replace(text[11], "")[0]).ref
        == text[10:12].encode()
    )


@pytest.mark.parametrize(
    ("alt", "reason"),
    [
        (".", "no_alt"),
        ("*", "star"),
        ("<DEL>", "symbolic"),
        ("<INS:ME>", "symbolic"),
        ("A[c:3[", "breakend"),
        ("]c:3]A", "breakend"),
        ("A.", "breakend"),
        (".A", "breakend"),
        ("AN", "not_acgt"),
        ("R", "not_acgt"),
        ("C" + "ACGT" * 4, "too_long"),
    ],
)
def test_alleles_without_a_score(alt, reason):
    assert change("CCCCGGGG", 0, "C", alt) == reason


def test_a_repeat_longer_than_a_window_is_too_long():
    assert change("G" + "A" * 11 + "C", 3, "AA", "A") == Change("c", 1, 12, b"A" * 11, b"A" * 10)
    assert change("G" + "A" * 13 + "C", 3, "AA", "A") == "too_long"
    assert change("A" * 60, 30, "AA", "A") == "too_long"


def test_however_it_is_written_an_indel_has_one_score(model):
    scorer = make_scorer(model, ("pll", "cosine", "jsd"), c=REPEAT)
    first = REPEAT.index("GATATATATC")
    deletions = [
        Allele("", "c", place, REPEAT[place : place + 3], REPEAT[place], ".")
        for place in range(first, first + 7)
    ]
    insertions = [
        Allele("", "c", place, REPEAT[place], REPEAT[place] + unit, ".")
        for place, unit in zip(range(first, first + 9), ["AT", "TA"] * 5, strict=False)
    ]
    for alleles in (deletions, insertions):
        values = scorer.score(alleles).values
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(values, np.tile(values[:1], (len(alleles), 1)))
    assert (scorer.score(deletions[:1]).values != scorer.score(insertions[:1]).values).all()


def test_random_indels_score_about_zero(model):
    """Neither longer nor shorter sequences are less likely for it, and no frame counts double."""
    text = make_text(400, seed=7)
    random = np.random.default_rng(1)
    insertions, deletions = [], []
    for place in range(30, 370, 9):
        size = int(random.integers(1, 5))
        letters = "".join(random.choice(list("ACGT"), size))
        insertions.append(Allele("", "c", place, text[place], text[place] + letters, "."))
        deletions.append(Allele("", "c", place, text[place : place + size + 1], text[place], "."))
    for alleles in (insertions, deletions):
        values = make_scorer(model, ("pll",), c=text).score(alleles).values[:, 0]
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean()) < 3 * error
        # The letters themselves would cost log(4) each, more than 3 on average.
        assert error < 0.5


def test_rows_are_what_the_tokenizer_says():
    """Both strands of a text with N; no place but those of k-mers is asked for."""
    tokenizer = KmerTokenizer(vocabulary=V2.vocabulary, k=K)
    texts = Texts(V2, 5)
    other = texts.add(b"ACGTACGTACGTACGTACGT")
    text = texts.add(b"ACGTTGCAAGGTCANTTACGGA")
    rows = texts.make_rows(np.array([text.plus + 3, text.plus + 9, text.minus, other.minus + 17]))
    spelled = [[tokenizer.tokens[i] for i in row] for row in rows.tokens]
    assert spelled == [
        ["<cls>", "ACG", "TTG", "CAA", "GGT", "C"],
        ["<cls>", "TTG", "CAA", "GGT", "C", "A"],
        ["<cls>", "TCC", "GTA", "A", "N", "T"],
        ["<cls>", "CGT", "ACG", "TAC", "GTA", "CGT"],
    ]
    assert rows.centres.tolist() == [2, 3, 1, 5]
    places = rows.places[np.arange(4), rows.centres] - [
        text.plus,
        text.plus,
        text.minus,
        other.minus,
    ]
    assert places.tolist() == [3, 9, 0, 17]


def test_near_the_end_of_a_contig_windows_are_moved_inwards(model):
    text = make_text(60)
    values = make_scorer(model, ("llr",), c=text).score(list_changes(text, 0, 59)).values
    longer = make_scorer(model, ("llr",), c=text + make_text(30, seed=9))
    found = longer.score(list_changes(text, 0, 59)).values
    np.testing.assert_array_equal(found[:3], values[:3])
    assert (found[3:] != values[3:]).all()
