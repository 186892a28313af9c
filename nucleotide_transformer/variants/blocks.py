"""Finished blocks of scored variants."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.files import UNFINISHED
from nucleotide_transformer.inference.blocks import Blocks
from nucleotide_transformer.variants.changes import REASONS
from nucleotide_transformer.variants.reading import Allele
from nucleotide_transformer.variants.scoring import Scored

_NAMES = ("", *REASONS)


class ScoredBlocks(Blocks):
    """Blocks of scored variants."""

    def add_scored(self, scored: Scored, letters: str) -> None:
        """Keeps the next block, and what `Scorer.digest_letters` says of its variants."""
        reasons = np.array([_NAMES.index(reason) for reason in scored.reasons], np.int8)
        self.add(values=scored.values.astype(np.float32), reasons=reasons, letters=letters)

    def skip(self, alleles: Iterator[Allele], digest: Callable[[list[Allele]], str]) -> int:
        """Takes the alleles that are done off the front of all, and returns their number.

        Raises:
            InputError: if they lie among other letters than when they were scored.
        """
        done = 0
        for index in range(len(self.paths)):
            block = self.load(index)
            some = list(itertools.islice(alleles, len(block["reasons"])))
            if str(block["letters"]) != digest(some):
                what, rule = UNFINISHED
                raise InputError(f"{self.folder}: {what} with a FASTA of other letters: {rule}")
            done += len(some)
        return done

    def read(self) -> Iterator[tuple[list[float | None], str]]:
        """Yields the scores of every variant, None where there is none, and the reason."""
        for index in range(len(self.paths)):
            block = self.load(index)
            for row, reason in zip(block["values"].tolist(), block["reasons"], strict=True):
                values = [None if value != value else value for value in row]
                yield values, _NAMES[reason]
