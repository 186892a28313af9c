"""How well the letters around start codons, stop codons and splice sites are predicted.

Every site is read in the direction of its strand, with its nucleotide 0 in the middle of a window.
The places that it is compared with are drawn at random from the same contigs and strands.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from nucleotide_transformer.analysis.annotation import Site
from nucleotide_transformer.analysis.estimates import Estimate, average, to_numbers
from nucleotide_transformer.analysis.genome import Genome, spell
from nucleotide_transformer.analysis.judging import Report
from nucleotide_transformer.analysis.sampling import HELD_OUT, WHOLE, Sample, draw, estimate_parts
from nucleotide_transformer.types import Bool, Float, UInt8

SHUFFLED = "shuffled"
"""Name of the random places."""
CORES = {
    "start": range(3),
    "stop": range(3),
    "donor": range(2),
    "acceptor": range(-2, 0),
}
"""Positions of ATG, of TAA, TAG or TGA, of GT and of AG."""
_TRIALS = 1_000
"""Random places that are looked at until one is of the right part and without N."""


@runtime_checkable
class Judge(Protocol):
    """Gives the probabilities of A, C, G and T at some places of sequences.

    `functools.partial(judge_nucleotides, model)` is one.
    """

    def __call__(
        self, sequences: Sequence[str], start: int, stop: int, *, report: Report
    ) -> Iterator[Float[np.ndarray, "places 4"]]:
        """Yields an array for every sequence."""


class Window(NamedTuple):
    """What surrounds a place, as its strand has it."""

    codes: UInt8[np.ndarray, " size"]
    """Context and the places to judge."""
    place: int
    """Of nucleotide 0, in the genome."""
    strand: str


class Judged(NamedTuple):
    """What a judge says around a place."""

    truth: UInt8[np.ndarray, " places"]
    """Codes of the letters that are there."""
    probabilities: Float[np.ndarray, "places 4"]
    """Of A, C, G and T."""

    @property
    def of_truth(self) -> Float[np.ndarray, " places"]:
        """The probability of the letter that is there."""
        return self.probabilities[np.arange(self.truth.size), self.truth]


class View(NamedTuple):
    """What is looked at around a place."""

    reach: int
    """Places judged on each side of nucleotide 0."""
    context: int
    """Nucleotides that the judge sees on each side of it, those included."""

    def cut(self, genome: Genome, place: int, strand: str) -> Window | None:
        """The window around a place; None where the contig ends or a letter is unknown."""
        codes = genome.read(place, self.context, self.context, strand)
        return None if codes is None else Window(codes, place, strand)

    def covers(self, inside: Bool[np.ndarray, " nucleotides"], place: int) -> bool:
        """Whether all judged places around one are inside of something."""
        first = max(place - self.reach, 0)
        return bool(inside[first : place + self.reach + 1].all())

    @property
    def span(self) -> tuple[int, int]:
        """The judged places of a window."""
        return self.context - self.reach, self.context + self.reach + 1


def draw_sites(
    genome: Genome,
    sites: Sequence[Site],
    held_out: Bool[np.ndarray, " nucleotides"] | None,
    view: View,
    count: int,
    random: np.random.Generator,
) -> list[Sample[Window]]:
    """Windows around sites of one kind; a site is held out if all its judged places are.

    Raises:
        InputError: for a site that is not in the genome.
    """
    places = [genome.find_place(site) for site in sites]
    inside = None
    if held_out is not None:
        inside = np.array([view.covers(held_out, place) for place in places], bool)

    def accept(index: int) -> Window | None:
        return view.cut(genome, places[index], sites[index].strand)

    return draw(random, len(sites), inside, count, accept)


def draw_shuffled(
    genome: Genome,
    samples: Sequence[Sample[Window]],
    held_out: Bool[np.ndarray, " nucleotides"] | None,
    view: View,
    count: int,
    random: np.random.Generator,
) -> list[Sample[Window]]:
    """Random places on the contigs and strands of sites, in the same part as these.

    Args:
        genome: where.
        samples: of sites of all kinds.
        held_out: see `draw_sites`.
        view: see `draw_sites`.
        count: places for each kind of part, divided as the sites are.
        random: source of the places.
    """
    total = sum(len(sample.items) for sample in samples)
    shuffled: dict[str, Sample[Window]] = {}
    for sample in samples:
        share = float(np.mean([each.share for each in samples if each.part == sample.part]))
        items = shuffled.setdefault(sample.part, Sample(sample.part, share, [])).items
        wanted = round(count * len(sample.items) / total)
        for index in random.integers(0, max(len(sample.items), 1), wanted):
            window = _move(genome, sample, int(index), held_out, view, random)
            items += [window] if window else []
    return list(shuffled.values())


def _move(
    genome: Genome,
    sample: Sample[Window],
    index: int,
    held_out: Bool[np.ndarray, " nucleotides"] | None,
    view: View,
    random: np.random.Generator,
) -> Window | None:
    """A window at a random place of the contig, strand and part of a site."""
    site = sample.items[index]
    contig = genome.find_contig(site.place)
    first, size = genome.starts[contig], genome.sizes[contig]
    for _ in range(_TRIALS):
        place = first + int(random.integers(size))
        is_inside = held_out is not None and view.covers(held_out, place)
        if held_out is None or is_inside == (sample.part == HELD_OUT):
            window = view.cut(genome, place, site.strand)
            if window:
                return window
    return None


def judge_windows(
    judge: Judge, samples: Sequence[Sample[Window]], view: View, report: Report
) -> list[Sample[Judged]]:
    """What the judge says of every window."""
    windows = [window for sample in samples for window in sample.items]
    texts = [spell(window.codes) for window in windows]
    start, stop = view.span
    found = judge(texts, start, stop, report=report)
    return [
        Sample(
            sample.part,
            sample.share,
            [Judged(window.codes[start:stop], next(found)) for window in sample.items],
        )
        for sample in samples
    ]


def measure(items: Sequence[Judged]) -> dict[str, Estimate]:
    """Means over sites by place: the numbers of `describe`."""
    truth = np.stack([item.truth for item in items])
    probabilities = np.stack([item.probabilities for item in items]).astype(np.float64)
    of_truth = np.stack([item.of_truth for item in items]).astype(np.float64)
    return {
        "probability_of_truth": average(of_truth),
        "log_likelihood": average(np.log(of_truth)),
        "probability": average(probabilities),
        "observed": average((truth[..., None] == np.arange(4)).astype(np.float64)),
    }


def describe(samples: Mapping[str, Sequence[Sample[Judged]]], view: View) -> dict[str, Any]:
    """The section of the JSON: for each kind of site, and part, means by position and of the core.

    `probability_of_truth` and `log_likelihood` (nats) are of the letter that is there;
    `probability` and `observed` (share of sites) are of A, C, G and T in turn. The core is what
    nearly all sites of a kind have in common (`CORES`); the same positions of the random places are
    beside it.

    `same_letters_elsewhere` is what `probability_of_truth` would be if each letter of the sites
    had the mean probability that it has at random places: letters that are rare have less of it,
    whether the model sees the site or not. `same_letters_beside` is the same of the places around
    the core of the sites themselves, which may be rich in other letters than the genome.
    """
    shuffled = estimate_parts(samples[SHUFFLED], measure)
    elsewhere = np.zeros(4)
    if shuffled:
        elsewhere = np.array(shuffled[WHOLE]["probability"]["mean"], float).mean(axis=0)
    kinds: dict[str, Any] = {}
    for kind, group in samples.items():
        parts = estimate_parts(group, measure)
        kinds[kind] = {"parts": parts}
        if parts and kind in CORES:
            core = CORES[kind]
            inside = slice(core.start + view.reach, core.stop + view.reach)
            of_core = functools.partial(measure_core, inside=inside)
            around = np.delete(np.array(parts[WHOLE]["probability"]["mean"], float), inside, axis=0)
            observed = np.array(parts[WHOLE]["observed"]["mean"], float)
            same = {"elsewhere": observed @ elsewhere, "beside": observed @ around.mean(axis=0)}
            kinds[kind] |= {f"same_letters_{name}": to_numbers(v) for name, v in same.items()}
            kinds[kind]["core"] = {
                "positions": list(core),
                "sites": estimate_parts(group, of_core),
                "shuffled": estimate_parts(samples[SHUFFLED], of_core),
                **{f"same_letters_{n}": to_numbers(v[inside].mean()) for n, v in same.items()},
            }
    return {"positions": list(range(-view.reach, view.reach + 1)), "kinds": kinds}


def measure_core(items: Sequence[Judged], inside: slice) -> dict[str, Estimate]:
    """Means over sites, and over some positions of each."""
    of_truth = np.stack([item.of_truth[inside] for item in items]).astype(np.float64)
    return {
        "probability_of_truth": average(of_truth.mean(axis=1)),
        "log_likelihood": average(np.log(of_truth).mean(axis=1)),
    }
