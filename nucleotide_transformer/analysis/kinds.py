"""Masked 6-mers by kind of sequence: accuracy and cross-entropy.

As in the held-out evaluation of pre-training: windows as long as the training sequences, of whose
tokens a share is hidden at a time. Scored are the hidden tokens that lie wholly in the element that
the window is about: a longest stretch of the kind. A short element has few of them: the window is
gone through again, with other tokens hidden, until `ENOUGH` are scored or every token was hidden
once. Windows of one element share tokens: elements, and not windows, are the units of the errors.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from nucleotide_transformer.analysis.estimates import Estimate, average_ratio
from nucleotide_transformer.analysis.genome import Genome, count_kmers, orient, spell
from nucleotide_transformer.analysis.judging import Report, TokenScores
from nucleotide_transformer.analysis.regions import KINDS, find_runs
from nucleotide_transformer.analysis.sampling import Sample, draw, estimate_parts
from nucleotide_transformer.inference.batching import Row
from nucleotide_transformer.tokenizers import KmerTokenizer, number_kmers
from nucleotide_transformer.types import Bool, Float, Int, UInt8

RATIO = 0.15
"""Share of the tokens of a window that is hidden at a time, as in pre-training."""
ENOUGH = 12
"""Scored tokens after which a window is done with."""

TokenJudge = Callable[[Iterable[Row]], Iterator[TokenScores]]
"""Scores the hidden tokens of rows: `functools.partial(judge_tokens, model)` is one."""


class Region(NamedTuple):
    """A window, the tokens hidden in each pass, and which of them are scored."""

    element: int
    """Number of the stretch that it is about."""
    codes: UInt8[np.ndarray, " size"]
    hidden: list[Int[np.ndarray, " M"]]
    """For each pass the hidden tokens, counted from 0 without `<cls>`; the last has fewer if every
    token was hidden."""
    scored: list[Bool[np.ndarray, " M"]]
    """Which of these are wholly of the element."""


class ElementScores(NamedTuple):
    """Sums over the scored tokens of the regions of an element."""

    tokens: float
    nats: float
    correct: float
    frequency_nats: float
    """Of a predictor that knows the frequencies of the genome's k-mers."""
    frequency_correct: float


class Frequencies(NamedTuple):
    """What a predictor knows that has counted the k-mers of the genome, on both strands."""

    nats: Float[np.ndarray, " words"]
    """Of each k-mer, by its number of base 4; infinite where it does not occur."""
    best: int
    """The most frequent k-mer."""


def make_frequencies(genome: Genome, k: int) -> Frequencies:
    """Counts the genome, the regions that are measured included."""
    counts = count_kmers(genome, k)
    with np.errstate(divide="ignore"):
        nats = np.log(counts.sum()) - np.log(counts)
    return Frequencies(nats, int(counts.argmax()))


def draw_regions(
    genome: Genome,
    kinds: UInt8[np.ndarray, " nucleotides"],
    kind: str,
    held_out: Bool[np.ndarray, " nucleotides"] | None,
    *,
    num_tokens: int,
    k: int,
    count: int,
    random: np.random.Generator,
) -> list[Sample[Region]]:
    """Windows around random nucleotides of a kind, read on a random strand.

    A scored token of a held-out region lies in a held-out block, one of another region does not.
    """
    places = np.flatnonzero(kinds == KINDS.index(kind))
    runs = find_runs(kinds, KINDS.index(kind))
    inside = None if held_out is None else held_out[places]
    before = num_tokens * k // 2
    after = num_tokens * k - before - 1

    def accept(index: int) -> Region | None:
        place, strand = int(places[index]), "+-"[random.integers(2)]
        codes = genome.read(place, before, after, strand)
        if codes is None:
            return None
        left = place - (before if strand == "+" else after)
        window = slice(left, left + codes.size)
        element = int(np.searchsorted(runs[:, 0], place, side="right")) - 1
        start, end = runs[element] - left
        is_inside = np.zeros(codes.size, bool)
        is_inside[max(start, 0) : end] = True
        if held_out is not None:
            is_inside &= held_out[window] == held_out[place]
        whole = np.asarray(orient(is_inside, strand).reshape(-1, k).all(axis=1))
        return plan_region(element, codes, whole, random) if whole.any() else None

    return draw(random, places.size, inside, count, accept)


def plan_region(
    element: int,
    codes: UInt8[np.ndarray, " size"],
    whole: Bool[np.ndarray, " T"],
    random: np.random.Generator,
) -> Region:
    """Hides tokens in random order, a share at a time; `whole` says which can be scored."""
    order = random.permutation(whole.size)
    size = max(1, round(RATIO * whole.size))
    hidden: list[Int[np.ndarray, " M"]] = []
    scored: list[Bool[np.ndarray, " M"]] = []
    for first in range(0, whole.size, size):
        hidden.append(order[first : first + size])
        scored.append(whole[hidden[-1]])
        if sum(int(each.sum()) for each in scored) >= ENOUGH:
            break
    return Region(element, codes, hidden, scored)


def judge_regions(
    judge: TokenJudge,
    tokenizer: KmerTokenizer,
    samples: Sequence[Sample[Region]],
    frequencies: Frequencies,
    report: Report,
) -> list[Sample[ElementScores]]:
    """Scores every region, and adds up those of an element."""
    regions = [region for sample in samples for region in sample.items]
    results = judge(row for region in regions for row in _make_rows(tokenizer, region))
    done = []
    for sample in samples:
        elements: dict[int, ElementScores] = {}
        for region in sample.items:
            scores = [
                TokenScores(*(values[: hidden.size] for values in next(results)))
                for hidden in region.hidden
            ]
            report()
            sums = _add_up(region, scores, frequencies, tokenizer.k)
            before = elements.get(region.element, ElementScores(0, 0, 0, 0, 0))
            elements[region.element] = ElementScores(*map(sum, zip(before, sums, strict=True)))
        done.append(Sample(sample.part, sample.share, list(elements.values())))
    return done


def _make_rows(tokenizer: KmerTokenizer, region: Region) -> Iterator[Row]:
    """As many numbers in each: the last one is repeated where a pass hides fewer."""
    tokens = tokenizer.encode(spell(region.codes))
    for hidden in region.hidden:
        padding = region.hidden[0].size - hidden.size
        numbers = np.concatenate([hidden, np.repeat(hidden[-1:], padding)]) + 1  # after <cls>
        yield Row(tokens, tuple(numbers.tolist()))


def _add_up(
    region: Region, scores: Sequence[TokenScores], frequencies: Frequencies, k: int
) -> ElementScores:
    scored = np.concatenate(region.scored)
    words = number_kmers(region.codes, k)[::k][np.concatenate(region.hidden)][scored]
    nats = np.concatenate([each.nats for each in scores])[scored]
    correct = np.concatenate([each.correct for each in scores])[scored]
    return ElementScores(
        tokens=float(scored.sum()),
        nats=float(nats.sum(dtype=np.float64)),
        correct=float(correct.sum(dtype=np.float64)),
        frequency_nats=float(frequencies.nats[words].sum()),
        frequency_correct=float((words == frequencies.best).sum()),
    )


def measure(items: Sequence[ElementScores]) -> dict[str, Estimate]:
    """Means over tokens, with errors over elements; cross-entropy in nats a token.

    `gain` is how far the frequencies' cross-entropy lies above the model's, on the same tokens.
    """
    columns = {name: np.array(values) for name, values in _transpose(items).items()}
    tokens = columns["tokens"]
    return {
        "cross_entropy": average_ratio(columns["nats"], tokens),
        "accuracy": average_ratio(columns["correct"], tokens),
        "frequency_cross_entropy": average_ratio(columns["frequency_nats"], tokens),
        "frequency_accuracy": average_ratio(columns["frequency_correct"], tokens),
        "gain": average_ratio(columns["frequency_nats"] - columns["nats"], tokens),
    }


def _transpose(items: Sequence[ElementScores]) -> dict[str, list[float]]:
    return {name: [getattr(item, name) for item in items] for name in ElementScores._fields}


def describe(samples: Sequence[Sample[ElementScores]]) -> dict[str, Any]:
    """The numbers of one kind by part, and how many tokens were scored in each."""
    tokens = {each.part: int(sum(item.tokens for item in each.items)) for each in samples}
    return {"parts": estimate_parts(samples, measure), "tokens": tokens}
