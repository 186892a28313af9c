"""Finished blocks of scores, kept in a folder until the output is written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nucleotide_transformer.errors import InputError, UnwritableOutputError
from nucleotide_transformer.files import write_whole
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
        self.folder = output.with_name(output.name + ".parts")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnwritableOutputError(
                f"{self.folder}: can't be written: {error.strerror}"
            ) from None
        self.paths = sorted(self.folder.glob("block-*.npz"))

    def check(self, settings: dict[str, Any]) -> None:
        """Writes the settings of a new run, or compares them with those of the run found.

        Raises:
            InputError: if they differ, or are damaged.
        """
        path = self.folder / "settings.json"
        if not path.exists():
            with write_whole(path) as partial:
                partial.write_text(json.dumps(settings, indent=2), encoding="utf-8")
            return
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError):
            raise InputError(f"{path}: damaged: delete the folder {self.folder}") from None
        for name, value in settings.items():
            if found.get(name) != value:
                raise InputError(
                    f"{self.folder}: an unfinished run with {name} = {found.get(name)!r}, not"
                    f" {value!r}: finish it with the same arguments, or delete the folder"
                )

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
