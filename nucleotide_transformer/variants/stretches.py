"""Changes among the letters around them, and the places of the k-mers that have to do with them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.types import Bool, Int
from nucleotide_transformer.variants.changes import Change
from nucleotide_transformer.variants.reference import Reference
from nucleotide_transformer.variants.texts import Text, Texts


class Stretches(NamedTuple):
    """Stretches of some texts, one for each change: what the reference has, or what comes of it."""

    texts: Texts
    plus: Int[np.ndarray, " N"]
    """Where the plus strand of each change's text begins among the texts."""
    minus: Int[np.ndarray, " N"]
    """And its minus strand."""
    sizes: Int[np.ndarray, " N"]
    """Nucleotides of the text."""
    starts: Int[np.ndarray, " N"]
    """First nucleotide of the stretch, along the plus strand of its text."""
    ends: Int[np.ndarray, " N"]
    """One past the last."""
    before: Int[np.ndarray, " N"]
    """Nucleotides of the contig before the text."""
    after: Int[np.ndarray, " N"]
    """And after it."""

    def find_kmers(
        self, k: int, frames: int
    ) -> tuple[Int[np.ndarray, "N 2 k"], Bool[np.ndarray, "N 2 k"]]:
        """Places [change, strand, j] of the k-mers that begin j before the first letter, as read.

        Args:
            k: letters of a k-mer.
            frames: reading frames of each strand that count: 0 to frames - 1, from the strand's
                own start on the contig.

        Returns:
            The places, and which of them count: k known letters within the text, in such a frame.
        """
        bases = np.stack([self.plus, self.minus], axis=1)
        anchors = np.stack([self.starts, self.sizes - self.ends], axis=1)
        places = (bases + anchors)[..., None] - np.arange(k)
        valid = self.texts.is_kmer(bases[..., None], places, self.sizes[:, None, None])
        return places, valid & (self.find_on_strand(places) % k < frames)

    def find_on_strand(self, places: Int[np.ndarray, "N 2 k"]) -> Int[np.ndarray, "N 2 k"]:
        """Places as each strand of the contig numbers them, from its own start."""
        firsts = np.stack([self.before - self.plus, self.after - self.minus], axis=1)
        return places + firsts[..., None]

    def list_kmers(self, flank: int, k: int, frames: int) -> Iterator[list[np.ndarray]]:
        """Yields, for each change, the k-mers that lie in its stretch and the flanks, by strand.

        Each strand in the order in which it is read; without those that have an N, or lie in
        another frame (see `find_kmers`).
        """
        lows, highs = self.find_spans(flank)
        for i, (low, high) in enumerate(zip(lows, highs, strict=True)):
            found = []
            strands = (
                (self.plus[i], low, self.before[i]),
                (self.minus[i], self.sizes[i] - high, self.after[i]),
            )
            for base, first, before in strands:
                places = np.arange(first, first + max(high - low - k + 1, 0))
                places = base + places[(places + before) % k < frames]
                found.append(places[self.texts.kmers[places] >= 0])
            yield found

    def find_spans(self, flank: int) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """Start and end of each stretch with its flanks, which end where the contig does."""
        return np.maximum(self.starts - flank, 0), np.minimum(self.ends + flank, self.sizes)


def join_spans(
    changes: Sequence[Change], margin: int
) -> Iterator[tuple[tuple[str, int, int], list[int]]]:
    """Yields contig, start and end of stretches, and the numbers of the changes that share each.

    Args:
        changes: in any order.
        margin: nucleotides on either side of a change.
    """
    members: list[int] = []
    contig, first, last = "", 0, 0
    for i in sorted(range(len(changes)), key=lambda i: changes[i][:3]):
        change = changes[i]
        low, high = max(change.start - margin, 0), change.end + margin
        if members and change.contig == contig and low <= last:
            last = max(last, high)
            members.append(i)
            continue
        if members:
            yield (contig, first, last), members
        contig, first, last, members = change.contig, low, high, [i]
    if members:
        yield (contig, first, last), members


def cut_reference(
    changes: Sequence[Change], reference: Reference, texts: Texts, margin: int
) -> Stretches:
    """The stretches as the reference has them; changes that are close to one another share a text.

    Args:
        changes: of the reference.
        reference: what they refer to.
        texts: takes what is read.
        margin: nucleotides on either side of a change, or as many as there are.
    """
    found: list[tuple[Text, int]] = [(Text(0, 0, 0), 0)] * len(changes)
    for span, members in join_spans(changes, margin):
        text = texts.add(reference.fetch(*span))
        for member in members:
            found[member] = (text, span[1])
    starts = [change.start - first for change, (_, first) in zip(changes, found, strict=True)]
    ends = [change.end - first for change, (_, first) in zip(changes, found, strict=True)]
    after = [
        reference.lengths[change.contig] - first - text.size
        for change, (text, first) in zip(changes, found, strict=True)
    ]
    before = [first for _, first in found]
    return _make(texts, [text for text, _ in found], starts, ends, before, after)


def write_changed(
    changes: Sequence[Change], reference: Reference, texts: Texts, margin: int
) -> Stretches:
    """The stretches as they are after the changes, each in a text of its own; see above."""
    added, starts, ends, before, after = [], [], [], [], []
    for change in changes:
        head = reference.fetch(change.contig, change.start - margin, change.start)
        tail = reference.fetch(change.contig, change.end, change.end + margin)
        added.append(texts.add(head + change.alt + tail))
        starts.append(len(head))
        ends.append(len(head) + len(change.alt))
        before.append(change.start - len(head))
        after.append(reference.lengths[change.contig] - change.end - len(tail))
    return _make(texts, added, starts, ends, before, after)


def _make(texts: Texts, of_changes: list[Text], *numbers: list[int]) -> Stretches:
    plus, minus, sizes = np.array(of_changes, np.int64).reshape(-1, 3).T
    return Stretches(texts, plus, minus, sizes, *(np.array(n, np.int64) for n in numbers))
