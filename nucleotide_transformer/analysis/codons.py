"""How well the letters of codons are predicted, by their position in the codon."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nucleotide_transformer.analysis.annotation import CodingPart, Site
from nucleotide_transformer.analysis.estimates import Estimate, average, to_numbers
from nucleotide_transformer.analysis.genome import Genome
from nucleotide_transformer.analysis.sampling import Sample, draw, estimate_parts
from nucleotide_transformer.analysis.sites import Judged, View, Window
from nucleotide_transformer.types import Bool, Float, Int

_POOL = 20
"""Stretches that are looked at for each that is measured."""


def draw_stretches(
    genome: Genome,
    coding: Sequence[CodingPart],
    held_out: Bool[np.ndarray, " nucleotides"] | None,
    view: View,
    count: int,
    random: np.random.Generator,
) -> list[Sample[Window]]:
    """Random stretches of coding sequence that begin with the first letter of a codon.

    Every codon that the rest of a stretch follows in one coding part is as likely as any other to
    be the first, whatever the number of the parts that have it. The stretch is what `view` judges,
    less the places that make no whole codon, which `measure` leaves out.
    """
    found = find_codons(genome, coding, (2 * view.reach + 1) // 3)
    strands = np.repeat(["+", "-"], [found["+"].size, found["-"].size])
    middles = np.concatenate([found["+"] + view.reach, found["-"] - view.reach])
    chosen = random.permutation(middles.size)[: _POOL * count]
    places = middles[chosen].tolist()
    inside = None
    if held_out is not None:
        inside = np.array([view.covers(held_out, place) for place in places], bool)

    def accept(index: int) -> Window | None:
        return view.cut(genome, places[index], str(strands[chosen[index]]))

    return draw(random, chosen.size, inside, count, accept)


def find_codons(
    genome: Genome, coding: Sequence[CodingPart], num_codons: int
) -> dict[str, Int[np.ndarray, " codons"]]:
    """Strand -> places of the first letters of codons, each once, that begin so many in one part.

    Parts of several transcripts overlap.
    """
    firsts: dict[str, list[Int[np.ndarray, " codons"]]] = {"+": [], "-": []}
    for part in coding:
        if part.num_codons >= num_codons:
            place = genome.find_place(Site(part.contig, part.first_codon, part.strand))
            step = 3 if part.strand == "+" else -3
            firsts[part.strand].append(place + step * np.arange(part.num_codons - num_codons + 1))
    none = np.zeros(0, np.int64)
    return {s: np.unique(np.concatenate([none, *places])) for s, places in firsts.items()}


def measure(items: Sequence[Judged]) -> dict[str, Estimate]:
    """Means over stretches, of codon positions 1, 2 and 3 in turn, in nats.

    `third_less_first` is the mean of the stretches' own differences.
    """
    losses = np.stack([_average_positions(-np.log(item.of_truth)) for item in items])
    right = [item.probabilities.argmax(axis=1) == item.truth for item in items]
    correct = np.stack([_average_positions(each.astype(np.float64)) for each in right])
    return {
        "cross_entropy": average(losses),
        "accuracy": average(correct),
        "third_less_first": average(losses[:, 2] - losses[:, 0]),
    }


def _average_positions(values: Float[np.ndarray, " places"]) -> Float[np.ndarray, " 3"]:
    """The means of every third value, from the first, second and third one on."""
    whole = values.size // 3 * 3
    return values[:whole].astype(np.float64).reshape(-1, 3).mean(axis=0)


def measure_composition(genome: Genome, coding: Sequence[CodingPart]) -> list[float]:
    """Entropy of the letters at codon positions 1, 2 and 3 of all codons, in nats.

    What a predictor that knows the position in the codon, and nothing else, can reach.
    """
    counts = np.zeros((3, 4), np.int64)
    for strand, firsts in find_codons(genome, coding, 1).items():
        step = 1 if strand == "+" else -1
        for position in range(3):
            letters = np.bincount(genome.codes[firsts + step * position], minlength=5)[:4]
            counts[position] += letters[::step]  # a letter and its complement add up to 3
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropies: list[float] = to_numbers(-(shares * logs).sum(axis=1))
    return entropies


def describe(
    samples: Sequence[Sample[Judged]],
    shuffled: Sequence[Sample[Judged]],
    composition: Sequence[float],
) -> dict[str, Any]:
    """The section of the JSON: coding sequence, and every third letter of random places."""
    return {
        "codon_positions": [1, 2, 3],
        "coding": estimate_parts(samples, measure),
        "shuffled": estimate_parts(shuffled, measure),
        "entropy_of_letters_by_position": list(composition),
    }
