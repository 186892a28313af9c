"""Finished blocks of a long computation, kept in a folder until the output is written."""

import contextlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nucleotide_transformer import __version__
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.files import (
    PARTIAL_PREFIX,
    UNFINISHED,
    hold_parts,
    keep_settings,
    name_parts,
    write_whole,
)
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights.assembly import digest_params

Arrays = dict[str, np.ndarray]
Job = TypeVar("Job")
AnyBlocks = TypeVar("AnyBlocks", bound="Blocks")
INPUT = "input"
"""Name of a copy of standard input, without its suffix."""
PART_SECONDS = 30.0
PART_BYTES = 1 << 26
"""A part is written when either is reached: what a stop can cost, and the memory it needs."""
_BLOCKS = "block-*.npz"
_OURS = ("block-*", "settings.json", f"{INPUT}.*", f"{PARTIAL_PREFIX}*")


class Blocks:
    """The folder `<output>.parts` of a run, and the blocks of arrays in it that are done.

    As a context, it keeps other processes out of the folder, and removes it at the end, or after an
    error that came before a block.

    Attributes:
        folder: where they are.
        paths: the blocks that are done, in their order.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._held: contextlib.ExitStack | None = None
        self.folder = name_parts(output)
        self.paths: list[Path] = []

    def __enter__(self: AnyBlocks) -> AnyBlocks:
        """Makes the folder; it may be held already.

        Raises:
            InputError: if another process writes there, or a block before the last is missing.
            UnwritableOutputError: if the system refuses.
        """
        if self._held is None:
            with contextlib.ExitStack() as stack:
                stack.enter_context(hold_parts(self._output))
                found = sorted(self.folder.glob(_BLOCKS))
                self.paths = [self._name_block(index) for index in range(len(found))]
                for path in self.paths:
                    if path not in found:
                        what = f"{path.name} is missing"
                        raise InputError(f"{self.folder}: {what}: delete the folder")
                self._held = stack.pop_all()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        held, self._held = self._held, None
        if held is None:  # by a context within this one
            return
        with held:
            if kind is None or not self.paths:
                for pattern in _OURS:  # and nothing that somebody else keeps there
                    for path in self.folder.glob(pattern):
                        path.unlink()

    def keep_settings(self, settings: Mapping[str, Any]) -> None:
        """Writes what the blocks depend on, or, if there are blocks, compares it with theirs.

        Raises:
            InputError: if a setting differs, or they are damaged.
            UnwritableOutputError: if the system refuses to write them.
        """
        if not self.paths:
            (self.folder / "settings.json").unlink(missing_ok=True)
        keep_settings(self.folder, settings, *UNFINISHED)

    def _name_block(self, index: int) -> Path:
        return self.folder / f"block-{index:08d}.npz"

    def add(self, **arrays: Any) -> None:
        """Keeps the arrays of the next block, whole or not at all."""
        path = self._name_block(len(self.paths))
        with write_whole(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
        self.paths.append(path)

    def load(self, index: int, *names: str) -> Arrays:
        """The arrays of a block that is done, or those named; an `InputError` if it is damaged."""
        rule = f"damaged: delete the folder {self.folder}"
        return load_arrays(self.paths[index], rule, *names)


def load_arrays(path: Path, rule: str, *names: str) -> Arrays:
    """The arrays of a file .npz, or those named; an `InputError` with a rule if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names or arrays.files}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        raise InputError(f"{path}: {rule}") from None


def describe_model(model: Model, name: str, params: Params | None = None) -> dict[str, Any]:
    """What results depend on in the model that gave them, in types that JSON has.

    Args:
        model: which computes.
        name: what was asked for.
        params: its parameters, where they are not those of `model` alone.
    """
    return {
        "version": __version__,
        "model": name,
        "parameters": digest_params(model.params if params is None else params),
        "compute_dtype": model.compute.compute_dtype,
        "output_dtype": model.compute.output_dtype,
    }


def run_jobs(
    jobs: Iterable[Job], compute: Callable[[Job], Arrays], blocks: Blocks | None = None
) -> Iterator[tuple[Job, Arrays]]:
    """Yields each job with its arrays: those of a finished block, or computed, and kept as one.

    Args:
        jobs: the same, in the same order, in each run that shares the blocks.
        compute: depends on the job alone.
        blocks: where they are kept; by default nowhere.
    """
    done = len(blocks.paths) if blocks else 0
    for index, job in enumerate(jobs):
        if blocks and index < done:
            yield job, blocks.load(index)
            continue
        arrays = compute(job)
        if blocks:
            blocks.add(**arrays)
        yield job, arrays
