"""Where a genome is cut: blocks that go to one split whole, and the chunks of a run of blocks.

Positions are 0-based and half-open, within one contig.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from nucleotide_transformer.types import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Segment(NamedTuple):
    """A run of neighbouring blocks of one split: no nucleotide of it is in another split."""

    start: int
    end: int
    split: Split


def cut_blocks(length: int, block_length: int) -> list[tuple[int, int]]:
    """Cuts a contig into blocks of nearly equal length, as near to `block_length` as can be."""
    num_blocks = max(1, round(length / block_length))
    edges = [length * block // num_blocks for block in range(num_blocks + 1)]
    return list(itertools.pairwise(edges))


def merge_blocks(blocks: Sequence[tuple[int, int]], splits: Sequence[Split]) -> list[Segment]:
    """Merges neighbouring blocks of one split."""
    segments: list[Segment] = []
    for (start, end), split in zip(blocks, splits, strict=True):
        if segments and segments[-1].split == split:
            segments[-1] = segments[-1]._replace(end=end)
        else:
            segments.append(Segment(start, end, split))
    return segments


def cut_chunks(start: int, end: int, chunk_length: int, overlap: int) -> list[tuple[int, int]]:
    """Cuts [start, end) into chunks of chunk_length + 2 * overlap nucleotides.

    They start every `chunk_length` nucleotides, which gives every stretch of `chunk_length` an
    `overlap` on both sides. The last one is moved back to finish at `end`; a segment that is
    shorter than one chunk is one short chunk. Together they cover every position.
    """
    length = chunk_length + 2 * overlap
    if end - start <= length:
        return [(start, end)]
    num_chunks = -(-(end - start - 2 * overlap) // chunk_length)
    starts = [start + chunk_length * chunk for chunk in range(num_chunks - 1)] + [end - length]
    return [(first, first + length) for first in starts]


class Packer:
    """Joins short pieces to one text, an N between two of them, and cuts it as `cut_chunks` would.

    It knows lengths only, and forgets what it has cut.
    """

    def __init__(self, chunk_length: int, overlap: int) -> None:
        self._chunk_length, self._length = chunk_length, chunk_length + 2 * overlap
        self._start = 0
        self.end = 0
        """Letters of the text so far."""

    @property
    def needed_from(self) -> int:
        """No later chunk starts before this place of the text."""
        return max(0, self._start - self._chunk_length)

    def add(self, length: int) -> tuple[int, list[tuple[int, int]]]:
        """Adds a piece; returns where it starts, and the chunks that are complete now."""
        start = self.end + 1 if self.end else 0
        self.end = start + length
        chunks = []
        while self._start + self._length < self.end:
            chunks.append((self._start, self._start + self._length))
            self._start += self._chunk_length
        return start, chunks

    def finish(self) -> list[tuple[int, int]]:
        """The last chunk, moved back to finish at the end; none if there was no piece."""
        return [(max(0, self.end - self._length), self.end)] if self.end else []


@dataclasses.dataclass(kw_only=True)
class BlockAssigner:
    """Gives the blocks of one genome, in their order, to the splits.

    Each held-out split is owed its share of the known nucleotides read so far. When the debt
    reaches one block, the next block goes to it. So every genome, not just the whole corpus,
    has its share, up to one block: a genome with two blocks more than block_length / fraction has
    held-out ones for certain, a smaller one with the probability that keeps the shares right. Debts
    start anywhere below one block, derived from the seed and the genome's names: the places
    differ between genomes and seeds.
    """

    block_length: int
    """Nucleotides of a full block."""
    fractions: dict[Split, float]
    """Share of each held-out split."""
    key: str
    """What the starting debts are derived from: the seed, the species and the assembly."""

    def __post_init__(self) -> None:
        self._debts = {
            split: _derive_uniform(self.key, split) * self.block_length if fraction > 0 else 0.0
            for split, fraction in self.fractions.items()
        }

    def assign(self, num_known: int) -> Split:
        """The split of the next block, which has `num_known` letters A, C, G or T."""
        for split, fraction in self.fractions.items():
            self._debts[split] += fraction * num_known
        split = max(self._debts, key=self._debts.__getitem__)
        if self._debts[split] < self.block_length:
            return "train"
        self._debts[split] -= num_known
        return split


def _derive_uniform(*words: str) -> float:
    """A number in [0, 1) that depends on the words alone."""
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
