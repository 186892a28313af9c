"""Tracks: numbers along contigs, for genome browsers."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nucleotide_transformer.errors import import_extra

BIGWIG = ("bw", "bigwig")
"""Suffixes of the format."""
TRACKS = ("bedgraph", *BIGWIG)
"""Suffixes of tracks."""


def import_bigwig(path: Path) -> Any:
    """pyBigWig; an `InputError` that names the extra where it is not installed."""
    return import_extra("pyBigWig", "bigwig", f"{path}: to write BigWig")


@contextlib.contextmanager
def open_bigwig(path: Path, partial: Path, sizes: Mapping[str, int]) -> Iterator[Any]:
    """A new BigWig file, whose entries are added in order: contigs as in `sizes`, then places.

    Args:
        path: what messages call it.
        partial: where it is written.
        sizes: nucleotides of each contig.
    """
    track = import_bigwig(path).open(str(partial), "w")
    try:
        track.addHeader(list(sizes.items()))
        yield track
    finally:
        track.close()
