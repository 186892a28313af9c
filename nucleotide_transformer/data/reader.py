"""Random access to the records of one split of a corpus."""

import errno
import os
import resource
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_module

from nucleotide_transformer.data.chunking import Packer, cut_chunks
from nucleotide_transformer.data.manifest import (
    BUILD_AGAIN,
    Manifest,
    Shard,
    digest_ends,
    load_contigs,
)
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.types import Int, Split

_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER_BYTES = 8192
"""Just above a record: with the default of 1 MiB random reads take three times as long."""


Piece = tuple[str, int, int]
"""Contig, start and end."""
_OTHER_FILES = 256
"""Files that a process may hold open besides."""
_MEND = f"delete it, and {BUILD_AGAIN}"
"""A build takes a file of the right size for whole."""
_NOT_THE_SHARD = f"not the file that was built: {_MEND}"


class Location(NamedTuple):
    """Where a record comes from. Positions are 0-based and half-open."""

    species: str
    assembly: str
    contig: str
    start: int
    end: int


class SplitReader:
    """The records of one split, numbered from 0; those of one species follow one another.

    Files are opened when first read. Threads may share a reader, and it can be pickled.

    Attributes:
        manifest: The corpus.
        split: The split.
        species_names: The species that have records in this split, in the order of the records.
        species_offsets: int64 [number of species + 1]; the records of species i are those from
            offsets[i] to offsets[i + 1] - 1.
    """

    manifest: Manifest
    split: Split
    species_names: tuple[str, ...]
    species_offsets: Int[np.ndarray, "..."]

    def __init__(self, manifest: Manifest, split: Split, num_readers: int = 1) -> None:
        self.manifest = manifest
        self.split = split
        self._num_readers = num_readers
        self._pool = ThreadPoolExecutor(num_readers) if num_readers > 1 else None
        self._shards = manifest.list_shards(split)
        species = [genome.species for genome, _ in self._shards]
        self.species_names = tuple(dict.fromkeys(species))
        self._offsets = np.zeros(len(species) + 1, np.int64)
        np.cumsum([shard.num_records for _, shard in self._shards], out=self._offsets[1:])
        places = {name: place for place, name in reversed(list(enumerate(species)))}
        first = [places[name] for name in self.species_names]
        self.species_offsets = self._offsets[[*first, -1]]
        self._readers: list[Any] = [None] * len(species)
        self._located: tuple[int, list[list[Piece]]] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def read(self, indices: Int[np.ndarray, "B"] | Sequence[int]) -> list[bytes]:
        """The records of these numbers, in this order: upper-case A, C, G, T, N.

        A record has `manifest.record_length` letters, or fewer where a contig or a segment is
        shorter. As many are read at a time as the reader has threads.

        Raises:
            IndexError: if a number is negative, or not below the number of records.
            InputError: if a shard is damaged or gone, or changed while it was open.
            OSError: if the system can't open as many files as there are shards.
        """
        wanted = np.asarray(indices, np.int64)
        shards = self._find_shards(wanted)
        positions = wanted - self._offsets[shards]
        records: list[bytes] = [b""] * len(wanted)

        def read_some(places: Int[np.ndarray, "B"]) -> None:
            for shard in np.unique(shards[places]).tolist():
                here = places[shards[places] == shard].tolist()
                found = self._read_shard(shard, positions[here].tolist())
                for place, record in zip(here, found, strict=True):
                    records[place] = record

        order = np.lexsort((positions, shards))
        parts = np.array_split(order, max(1, min(self._num_readers, len(order))))
        # A list: errors are raised when results are asked for.
        list(self._pool.map(read_some, parts) if self._pool else map(read_some, parts))
        return records

    def locate(self, index: int) -> Location:
        """Where a record comes from; of a packed one, where its first piece does.

        Raises:
            IndexError: if the number is negative, or not below the number of records.
        """
        return self.locate_pieces(index)[0]

    def locate_pieces(self, index: int) -> list[Location]:
        """Where the pieces of a record come from, in their order: one, unless it is packed.

        Between two pieces the record has an N. Places are found for all records of a genome and
        split at once, and kept until another one is asked for: go through records in their order.

        Raises:
            IndexError: if the number is negative, or not below the number of records.
        """
        shard = int(self._find_shards(np.asarray([index]))[0])
        located = self._located
        if located is None or located[0] != shard:
            located = self._located = None  # first: memory holds those of one
            located = self._located = shard, self._list_chunks(shard)
        genome, _ = self._shards[shard]
        pieces = located[1][index - int(self._offsets[shard])]
        return [Location(genome.species, genome.assembly, *piece) for piece in pieces]

    def find_genomes(self, indices: Int[np.ndarray, "B"] | Sequence[int]) -> Int[np.ndarray, "B"]:
        """The place in `manifest.genomes` of the genome that each record is from.

        Raises:
            IndexError: if a number is negative, or not below the number of records.
        """
        places = {genome.name: place for place, genome in enumerate(self.manifest.genomes)}
        genomes = np.array([places[genome.name] for genome, _ in self._shards])
        return genomes[self._find_shards(np.asarray(indices, np.int64))]

    def _find_shards(self, indices: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        """The shard of each record."""
        for index in indices[(indices < 0) | (indices >= len(self))][:1].tolist():
            rule = f"must lie in [0, {len(self)})"
            raise IndexError(f"{self.manifest.folder}: {self.split} record {index}: {rule}")
        return np.searchsorted(self._offsets, indices, side="right") - 1

    def _read_shard(self, shard: int, positions: list[int]) -> list[bytes]:
        _, written = self._shards[shard]
        path = self.manifest.folder / written.file
        with self._lock:
            if self._readers[shard] is None:
                self._readers[shard] = _open_shard(path, written)
        try:
            records = list(self._readers[shard].read(positions))
        except RuntimeError as error:
            raise _explain(path, error) from None
        if not all(records):  # what the library gives beyond the end of a file
            place = f"record {positions[records.index(b'')]} is empty"
            raise InputError(f"{path}: {place}: the file changed while it was read: {_MEND}")
        return records

    def _list_chunks(self, shard: int) -> list[list[Piece]]:
        """The pieces of every record of a shard."""
        manifest = self.manifest
        sizes = manifest.chunk_length, manifest.overlap
        packed = _PackedPieces(*sizes)
        records: list[list[Piece]] = []
        for contig in load_contigs(manifest.folder, self._shards[shard][0].name):
            for segment, left_out in zip(contig.segments, contig.left_out, strict=True):
                if segment.split != self.split:
                    continue
                cut = cut_chunks(segment.start, segment.end, *sizes)
                for number in sorted(set(range(len(cut))).difference(left_out)):
                    start, end = cut[number]
                    if manifest.is_packed and end - start < manifest.record_length:
                        records += packed.add((contig.name, start, end))
                    else:
                        records.append([(contig.name, start, end)])
        return records + packed.finish()

    def __getstate__(self) -> dict[str, Any]:
        numbers = {"num_readers": self._num_readers}
        return {"manifest": self.manifest, "split": self.split, **numbers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        SplitReader.__init__(self, **state)


class _PackedPieces:
    """The pieces of packed records, found as they were written."""

    def __init__(self, chunk_length: int, overlap: int) -> None:
        self._packer = Packer(chunk_length, overlap)
        self._pieces: list[tuple[int, Piece]] = []

    def add(self, piece: Piece) -> list[list[Piece]]:
        """Adds a piece; returns the records that are complete now."""
        _, start, end = piece
        place, chunks = self._packer.add(end - start)
        self._pieces.append((place, piece))
        return [self._find(*chunk) for chunk in chunks]

    def finish(self) -> list[list[Piece]]:
        """The last record, if there was a piece."""
        return [self._find(*chunk) for chunk in self._packer.finish()]

    def _find(self, first: int, last: int) -> list[Piece]:
        """What lies in [first, last) of the text of all pieces; forgets what none needs."""
        found = []
        for place, (contig, start, end) in self._pieces:
            inner = max(start, start + first - place), min(end, start + last - place)
            if inner[0] < inner[1]:
                found.append((contig, *inner))
        needed = self._packer.needed_from
        self._pieces = [
            (place, piece)
            for place, piece in self._pieces
            if place + piece[2] - piece[1] > min(first, needed)
        ]
        return found


def _open_shard(path: Path, shard: Shard) -> Any:
    """Opens a file, and checks that it is the one of the manifest."""
    try:
        reader = array_record_module.ArrayRecordReader(
            str(path), _OPTIONS, file_reader_buffer_size=_BUFFER_BYTES
        )
        found = reader.num_records()  # opens the file
        ends = reader.read([0, max(found - 1, 0)])  # raises what is wrong, if there is none
    except RuntimeError as error:
        raise _explain(path, error) from None
    if found != shard.num_records:
        raise InputError(
            f"{path}: records = {found:,}: must be {shard.num_records:,}: {_NOT_THE_SHARD}"
        )
    if shard.ends_sha256 not in (None, digest_ends(ends)):
        raise InputError(f"{path}: its first or last record is another: {_NOT_THE_SHARD}")
    return reader


def _explain(path: Path, error: RuntimeError) -> Exception:
    """What the library says of a shard, in our words: only some of it means damage."""
    reason = str(error)
    if os.strerror(errno.ENOENT) in reason:
        return MissingInputError(f"{path}: no such file: {BUILD_AGAIN}")
    if os.strerror(errno.EMFILE) in reason:
        rule = "a reader holds a file open for every genome: raise `ulimit -n`"
        return OSError(f"{path}: {os.strerror(errno.EMFILE)}: {rule}")
    if os.strerror(errno.EACCES) in reason:
        return InputError(f"{path}: {os.strerror(errno.EACCES)}")
    return InputError(f"{path}: damaged: {error}: {_MEND}")


def open_split(manifest: Manifest, split: Split, *, num_readers: int = 1) -> SplitReader:
    """Opens a split for reading.

    Args:
        manifest: of the corpus.
        split: to read.
        num_readers: records read at a time.

    Raises:
        InputError: if the split has no record.
        OSError: if the system lets no process open as many files as the split has.
    """
    if manifest.num_records(split) == 0:
        rule = "must have one: larger genomes, a larger share or smaller blocks give it some"
        raise InputError(f"{manifest.folder}: split {split!r} has no record: {rule}")
    _raise_file_limit(manifest.folder, len(manifest.list_shards(split)))
    return SplitReader(manifest, split, num_readers)


def _raise_file_limit(folder: Path, num_files: int) -> None:
    """Lets this process hold a file open for every genome, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = num_files + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        rule = f"a file for each genome needs {needed:,}: raise it, or merge genomes"
        raise OSError(f"{folder}: the limit of open files (`ulimit -Hn`) is {hard:,}: {rule}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
