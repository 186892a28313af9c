"""Leaks between training and test sets: planted ones are found, and there are none by chance."""

import re
from pathlib import Path

import numpy as np
import pytest
from small_genomes import reverse_complement

from nucleotide_transformer.finetuning.kmer_counts import number_words
from nucleotide_transformer.finetuning.labels import LabelledSequences, read_labelled
from nucleotide_transformer.finetuning.leaks import (
    Leaks,
    drop_leaks,
    find_leaks,
)


def draw(count: int, size: int, seed: int = 0) -> list[str]:
    letters = np.random.default_rng(seed).choice(list("ACGT"), (count, size))
    return ["".join(row) for row in letters]


def mutate(text: str, every: int) -> str:
    """Another letter at every n-th place."""
    letters = list(text)
    for place in range(every // 2, len(text), every):
        letters[place] = "ACGT"[("ACGT".index(letters[place]) + 1) % 4]
    return "".join(letters)


def describe(leaks: Leaks) -> list[list[int]]:
    return [rows.tolist() for rows in leaks]


def test_every_planted_leak_is_found_in_its_kind() -> None:
    train, test = draw(40, 200), draw(40, 200, seed=1)
    test[3] = train[7]
    test[5] = reverse_complement(train[8])
    test[9] = train[9][100:] + test[9][:100]  # overlaps by half
    test[11] = reverse_complement(train[10][:110] + test[11][:90])
    test[13] = mutate(train[11], every=30)
    test[15] = train[12][20:160]  # a part: shorter than what it is a part of
    leaks = find_leaks(train, test)
    assert describe(leaks) == [[3], [5], [9, 11, 13, 15], [7, 8, 9, 10, 11, 12]]
    assert leaks.count_rows() == {"identical": 1, "reverse_complement": 1, "near": 4, "train": 6}


def test_what_is_less_than_half_is_no_leak() -> None:
    train, test = draw(40, 200), draw(40, 200, seed=1)
    test[0] = train[0][110:] + test[0][:110]  # overlaps by 90 of 200
    test[1] = mutate(train[1], every=12)  # no word is whole
    test[2] = "AT" * 100
    train[2] = "AT" * 50 + train[2][:100]
    assert describe(find_leaks(train, test)) == [[], [], [], []]


def test_copies_that_are_padded_with_n_are_found() -> None:
    train, test = draw(4, 200), draw(4, 200, seed=1)
    test[2] = mutate(train[1], every=150)
    padded = [[text + "N" * 300 for text in texts] for texts in (train, test)]
    assert describe(find_leaks(*padded)) == describe(find_leaks(train, test)) == [[], [], [2], [1]]


def test_random_sequences_have_none() -> None:
    assert describe(find_leaks(draw(2_000, 300), draw(400, 300, seed=1))) == [[], [], [], []]


def test_unknown_letters_and_short_sequences_are_compared_whole() -> None:
    train = ["N" * 50, "ACGTACG", "AAAA"]
    assert describe(find_leaks(train, ["N" * 60, "CGTACGT", "AAAA"])) == [[2], [1], [], [1, 2]]
    assert describe(find_leaks(["ACGT"], ["GGGG"])) == [[], [], [], []]


def test_words_are_the_same_on_both_strands() -> None:
    (text,) = draw(1, 60)
    forward, backward = (number_words(each, 14) for each in (text, reverse_complement(text)))
    assert forward.tolist() == backward[::-1].tolist()
    assert len(set(forward.tolist())) == 47
    assert number_words(text[:30] + "N" + text[31:], 14).size == 47 - 14


def test_the_relatives_are_dropped_from_the_training_set() -> None:
    sequences = draw(6, 100)
    train = LabelledSequences(
        names=list("abcdef"),
        sequences=sequences,
        labels=np.arange(6) % 2,
        kind="classification",
        classes=("0", "1"),
        source="here",
    )
    kept = drop_leaks(
        train, find_leaks(sequences, [sequences[1], reverse_complement(sequences[4])])
    )
    assert (kept.names, kept.labels.tolist()) == (list("acdf"), [0, 0, 1, 1])


def test_overlapping_probes_of_a_published_task_are_found(shared: Path) -> None:
    """Names hold the place: 153 of 1,497 test probes lie within 250 nt of a training probe."""
    folder = shared / "data" / "tasks" / "H3"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    train, test = (read_labelled(folder / f"{split}.csv.gz") for split in ("train", "test"))
    places: dict[str, list[int]] = {}
    for name in train.names:
        if found := re.fullmatch(r"\w+\|(\w+):(\d+)", name):
            places.setdefault(found[1], []).append(int(found[2]))

    def overlaps(name: str) -> bool:
        found = re.fullmatch(r"\w+\|(\w+):(\d+)", name)
        near = (
            (abs(place - int(found[2])) <= 250 for place in places.get(found[1], ()))
            if found
            else ()
        )
        return any(near)

    expected = np.flatnonzero([overlaps(name) for name in test.names])
    leaks = find_leaks(train.sequences, test.sequences)
    found = np.concatenate(leaks[:3])
    assert len(expected) == 153
    assert len(np.intersect1d(expected, found)) >= 150
    assert len(found) <= 165
