"""The letters of one genome as one array, read on either strand, and which of them were trained on.

Contigs follow one another with an N between them: what crosses an end holds an N, and is told by
that. A place is an index of this array.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nucleotide_transformer.analysis.annotation import Annotation, Site
from nucleotide_transformer.data.fasta import FastaReader
from nucleotide_transformer.data.manifest import load_contigs, load_manifest
from nucleotide_transformer.data.sequences import FASTA_SUFFIXES
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.files import get_suffix
from nucleotide_transformer.inference.nucleotides import NUCLEOTIDES
from nucleotide_transformer.tokenizers import number_kmers, reverse_words
from nucleotide_transformer.types import Bool, Int, UInt8

UNKNOWN = 4
"""Code of N; A, C, G and T are 0 to 3, so that a letter and its complement add up to 3."""

_TO_CODE = np.full(256, UNKNOWN, np.uint8)
_TO_CODE[np.frombuffer(NUCLEOTIDES.encode(), np.uint8)] = range(4)
_TO_LETTER = np.frombuffer(b"ACGTN", np.uint8)
_PIECE = 1 << 22
"""Nucleotides worked on at a time."""
_COMPLEMENT = np.array([3, 2, 1, 0, UNKNOWN], np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Genome:
    """The contigs of one FASTA file."""

    path: Path
    sha256: str
    """Of the file as it lies on disk."""
    codes: UInt8[np.ndarray, " nucleotides"] = dataclasses.field(repr=False)
    """All contigs, with an N between them."""
    starts: Mapping[str, int]
    """Contig -> the place of its first nucleotide."""
    sizes: Mapping[str, int]
    """Contig -> its length."""

    @property
    def name(self) -> str:
        """The file's name without its suffixes."""
        return name_genome(self.path)

    def find_place(self, site: Site) -> int:
        """The place of a site of an annotation.

        Raises:
            InputError: if there is no such contig, or it ends before.
        """
        size = self.sizes.get(site.contig, 0)
        if not 0 <= site.position < size:
            rule = f"the contig in {self.path} has {size:,} nucleotides"
            raise InputError(f"{site.contig}:{site.position + 1}: {rule}")
        return self.starts[site.contig] + site.position

    def find_contig(self, place: int) -> str:
        """The contig that a place lies in."""
        names, starts = list(self.starts), list(self.starts.values())
        return names[int(np.searchsorted(starts, place, side="right")) - 1]

    def read(
        self, place: int, before: int, after: int, strand: str
    ) -> UInt8[np.ndarray, " size"] | None:
        """The nucleotides around a place as a strand has them; None if any of them is N.

        Args:
            place: the nucleotide that the window is about.
            before: nucleotides in front of it, in the direction of reading.
            after: nucleotides after it.
            strand: "+" or "-", which reads backwards and complements.
        """
        left, right = (before, after) if strand == "+" else (after, before)
        start, end = place - left, place + right + 1
        if start < 0 or end > self.codes.size or (self.codes[start:end] == UNKNOWN).any():
            return None
        codes = self.codes[start:end]
        return codes if strand == "+" else _COMPLEMENT[codes[::-1]]


def name_genome(path: Path) -> str:
    """A file's name without its suffixes."""
    return path.name.removesuffix(".gz").rpartition(".")[0]


def orient(values: np.ndarray, strand: str) -> np.ndarray:
    """Values by place, in the direction in which a strand is read."""
    return values if strand == "+" else values[::-1]


def spell(codes: UInt8[np.ndarray, " size"]) -> str:
    """Codes as text."""
    return _TO_LETTER[codes].tobytes().decode()


def load_genome(path: Path) -> Genome:
    """Reads a FASTA file.

    Raises:
        MissingInputError, InputError: in one line; see `FastaReader`.
    """
    reader = FastaReader(path)
    pieces, starts, sizes, place = [], {}, {}, 0
    for contig in reader:
        codes = _TO_CODE[np.frombuffer(contig.sequence, np.uint8)]
        pieces += [codes, np.array([UNKNOWN], np.uint8)]
        starts[contig.name], sizes[contig.name] = place, codes.size
        place += codes.size + 1
    return Genome(path, reader.sha256, np.concatenate(pieces), starts, sizes)


def list_contigs(folder: Path) -> dict[Path, set[str]]:
    """FASTA file -> the names of its contigs, of every one in a folder.

    Raises:
        MissingInputError: if there is no such folder, or no FASTA file in it.
    """
    if not Path(folder).is_dir():
        raise MissingInputError(f"{folder}: no such folder: must hold the genomes as FASTA files")
    paths = sorted(path for path in Path(folder).iterdir() if get_suffix(path) in FASTA_SUFFIXES)
    if not paths:
        raise MissingInputError(f"{folder}: no file .{', .'.join(FASTA_SUFFIXES)}")
    return {path: {contig.name for contig in FastaReader(path)} for path in paths}


def find_genome(genomes: Mapping[Path, set[str]], annotation: Annotation) -> Path:
    """The file, of those that `list_contigs` found, that has the contigs of an annotation.

    Raises:
        MissingInputError: if none has them all.
        InputError: if two have.
    """
    found = [path for path, contigs in genomes.items() if annotation.contigs <= contigs]
    some = ", ".join(sorted(annotation.contigs)[:3])
    if not found:
        rule = f"a genome must have all its contigs ({some}), and none of {len(genomes)} has"
        raise MissingInputError(f"{annotation.path}: {rule}")
    if len(found) > 1:
        rule = f"only one genome may have its contigs ({some})"
        raise InputError(f"{annotation.path}: {found[0]} and {found[1]}: {rule}")
    return found[0]


def find_held_out(genome: Genome, corpus: Path) -> Bool[np.ndarray, " nucleotides"] | None:
    """Which places are in validation or test blocks of a corpus; None if it lacks the genome.

    The genome is known by the digest of its FASTA file. N between contigs counts as trained on.

    Raises:
        MissingInputError, InputError: for what is no corpus, or a damaged one.
    """
    manifest = load_manifest(corpus)
    for entry in manifest.genomes:
        if entry.sha256 == genome.sha256:
            held_out = np.zeros(genome.codes.size, bool)
            for contig in load_contigs(manifest.folder, entry.name):
                first = genome.starts[contig.name]
                for segment in contig.segments:
                    place = slice(first + segment.start, first + segment.end)
                    held_out[place] = segment.split != "train"
            return held_out
    return None


def count_kmers(genome: Genome, k: int) -> Int[np.ndarray, " words"]:
    """How often each k-mer occurs in the genome, both strands together.

    By its number of base 4: A, C, G, T are 0 to 3, the first letter most significant.
    """
    counts = np.zeros(4**k, np.int64)
    for first in range(0, genome.codes.size, _PIECE):
        numbers = number_kmers(genome.codes[first : first + _PIECE + k - 1], k)
        counts += np.bincount(numbers[numbers >= 0], minlength=4**k)
    return counts + counts[reverse_words(np.arange(4**k), k)]
