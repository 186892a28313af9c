"""Tracks: numbers along contigs, for genome browsers."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nucleotide_transformer.errors import UnwritableOutputError, import_extra
from nucleotide_transformer.files import check_room

BIGWIG = ("bw", "bigwig")
"""Suffixes of the format."""
TRACKS = ("bedgraph", *BIGWIG)
"""Suffixes of tracks."""
_MAGIC_BYTES = 4
"""A BigWig begins and ends with the same ones."""
_BYTES_OF_ENTRY, _BYTES_OF_CONTIG, _BYTES_OF_FILE = 12, 128, 4_096
"""What entries next to one another take at most, on any number of contigs, by measurement."""


def import_bigwig(path: Path) -> Any:
    """pyBigWig; an `InputError` that names the extra where it is not installed."""
    return import_extra("pyBigWig", "bigwig", f"{path}: to write BigWig")


@contextlib.contextmanager
def open_bigwig(
    path: Path, partial: Path, sizes: Mapping[str, int], num_entries: int = 0
) -> Iterator[Any]:
    """A new BigWig file, whose entries are added in order: contigs as in `sizes`, then places.

    pyBigWig does not say that a disk is full, and may end the process: there must be room before
    it begins, and the file must have its end.

    Args:
        path: what messages call it.
        partial: where it is written.
        sizes: nucleotides of each contig.
        num_entries: that will be added, or more.

    Raises:
        UnwritableOutputError: if the disk has no room, or the file is not whole at the end.
    """
    needed = num_entries * _BYTES_OF_ENTRY + len(sizes) * _BYTES_OF_CONTIG + _BYTES_OF_FILE
    check_room(partial.parent, needed, f"may be needed for {path.name}")
    track = import_bigwig(path).open(str(partial), "w")
    try:
        track.addHeader(list(sizes.items()))
        yield track
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
