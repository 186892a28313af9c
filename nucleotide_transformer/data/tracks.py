"""Tracks: numbers along contigs, for genome browsers."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nucleotide_transformer.errors import UnwritableOutputError, import_extra
from nucleotide_transformer.files import check_room

BIGWIG = ("bw", "bigwig")
"""Suffixes of the format."""
TRACKS = ("bedgraph", *BIGWIG)
"""Suffixes of tracks."""
AddEntries = Callable[[str, np.ndarray, np.ndarray, np.ndarray], None]
"""Contig, starts, ends and values."""
_MAGIC_BYTES = 4
"""A BigWig begins and ends with the same ones."""
_BYTES_OF_ENTRY, _BYTES_OF_CONTIG, _BYTES_OF_FILE = 12, 128, 4_096
"""What entries next to one another take at most, on any number of contigs, by measurement."""


def import_bigwig(path: Path) -> Any:
    """pyBigWig; an `InputError` that names the extra where it is not installed."""
    return import_extra("pyBigWig", "bigwig", f"{path}: to write BigWig")


def check_track_room(path: Path | None, sizes: Mapping[str, int], num_entries: int) -> None:
    """Raises an `UnwritableOutputError` if the disk has no room for a track that is a BigWig."""
    if path and path.suffix[1:] in BIGWIG:
        needed = num_entries * _BYTES_OF_ENTRY + len(sizes) * _BYTES_OF_CONTIG + _BYTES_OF_FILE
        folder = next(above for above in path.absolute().parents if above.exists())
        check_room(folder, needed, f"may be needed for {path.name}")


@contextlib.contextmanager
def open_track(
    path: Path, partial: Path, name: str, sizes: Mapping[str, int], num_entries: int
) -> Iterator[AddEntries]:
    """Opens a track, and gives a function that adds entries: contig, starts, ends and values.

    A bedGraph that is there already gets one more track. The entries of a BigWig are added in
    order: contigs as in `sizes`, then places. pyBigWig does not say that a disk is full, and may
    end the process: there must be room before it begins, and the file must have its end.

    Args:
        path: what messages call it; its suffix says what it is.
        partial: where it is written.
        name: of a track in a bedGraph.
        sizes: nucleotides of each contig of a BigWig.
        num_entries: that will be added to it, or more.

    Raises:
        UnwritableOutputError: if the disk has no room, or the file is not whole at the end.
    """
    if path.suffix[1:] not in BIGWIG:
        with partial.open("a", encoding="utf-8") as file:
            file.write(f'track type=bedGraph name="{name}"\n')

            def write(contig: str, *columns: np.ndarray) -> None:
                for start, end, value in zip(*(x.tolist() for x in columns), strict=True):
                    file.write(f"{contig}\t{start}\t{end}\t{value:.6g}\n")

            yield write
        return
    check_track_room(path, sizes, num_entries)
    track = import_bigwig(path).open(str(partial), "w")

    def add(contig: str, *columns: np.ndarray) -> None:
        starts, ends, values = (column.tolist() for column in columns)
        if starts:
            track.addEntries([contig] * len(starts), starts, ends=ends, values=values)

    try:
        track.addHeader(list(sizes.items()))
        yield add
    finally:
        track.close()
    _check_end(path, partial)


def _check_end(path: Path, partial: Path) -> None:
    """Raises an `UnwritableOutputError` unless a BigWig is whole."""
    with partial.open("rb") as file:
        start = file.read(_MAGIC_BYTES)
        file.seek(-len(start), os.SEEK_END)
        is_whole = len(start) == _MAGIC_BYTES and any(start) and file.read() == start
    if not is_whole:
        raise UnwritableOutputError(f"{path}: can't be written whole: is the disk full?")
