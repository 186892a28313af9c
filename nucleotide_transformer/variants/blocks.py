"""Finished blocks of scores, kept in a folder until the output is written."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.files import open_parts, write_whole
from nucleotide_transformer.variants.changes import REASONS
from nucleotide_transformer.variants.scoring import Scored

_NAMES = ("", *REASONS)


class Blocks:
    """The folder `<output>.parts` of a run: what it computes, and the blocks that are done.

    Attributes:
        folder: where they are.
        paths: the blocks that are done, in their order.
    """

    def __init__(self, output: Path) -> None:
        """Makes the folder.

        Raises:
            UnwritableOutputError: if the system refuses.
        """
        self.folder = open_parts(output)
        self.paths = sorted(self.folder.glob("block-*.npz"))

    def add(self, scored: Scored) -> None:
        """Keeps the next block, whole or not at all."""
        reasons = np.array([_NAMES.index(reason) for reason in scored.reasons], np.int8)
        path = self.folder / f"block-{len(self.paths):08d}.npz"
        with write_whole(path) as partial, partial.open("wb") as file:
            np.savez(file, values=scored.values.astype(np.float32), reasons=reasons)
        self.paths.append(path)

    def count(self) -> int:
        """Variants that are done."""
        return sum(len(block.reasons) for block in self._read())

    def read(self) -> Iterator[tuple[list[float | None], str]]:
        """Yields the scores of every variant, None where there is none, and the reason."""
        for block in self._read():
            for row, reason in zip(block.values.tolist(), block.reasons, strict=True):
                yield [None if value != value else value for value in row], reason

    def _read(self) -> Iterator[Scored]:
        for path in self.paths:
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    yield Scored(arrays["values"], [_NAMES[i] for i in arrays["reasons"]])
            except (OSError, ValueError, KeyError, IndexError):
                raise InputError(f"{path}: damaged: delete the folder {self.folder}") from None
