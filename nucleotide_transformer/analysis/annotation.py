"""Genes from GFF3 and GTF files: transcripts with their exons, coding parts, introns and codons.

Positions are 0-based and half-open. A transcript is what the `Parent` of exons and CDS names in a
GFF3 (an mRNA), or the `transcript_id` in a GTF. Its exons are all its parts together (exon, CDS,
UTR, codons), those that touch as one: a GTF need not list exons. Introns are the gaps between
them. In a GTF the stop codon is no part of the CDS, in a GFF3 it is its end: `coding` ends with it
in both.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nucleotide_transformer.data.intervals import merge_spans, read_gff_columns
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.files import get_suffix

SUFFIXES = ("gff", "gff3", "gtf")
SHORTEST_INTRON = 20
"""Nucleotides. Shorter gaps, as where the ribosome shifts its frame, are no introns."""
TRANSCRIPT_KINDS = ("mRNA",)
"""Features of a GFF3 whose parts are read as a transcript."""

_STARTS, _STOPS, _CODING = "start_codon", "stop_codon", "CDS"
_PARTS = (
    *("exon", _CODING, _STARTS, _STOPS, "UTR", "5'-UTR", "3'-UTR", "5UTR", "3UTR"),
    *("five_prime_utr", "three_prime_utr", "five_prime_UTR", "three_prime_UTR"),
)
_PHASE_RULE = "the phase of a CDS, in column 8, must be 0, 1 or 2"


class Feature(NamedTuple):
    """One line of an annotation."""

    contig: str
    start: int
    end: int
    kind: str
    """Column 3."""
    strand: str
    """"+", "-", "." or "?"."""
    phase: str
    """Column 8: of a CDS, the nucleotides before its first whole codon."""
    attributes: Mapping[str, str]
    line: int
    """From 1."""


class CodingPart(NamedTuple):
    """A stretch of coding sequence without an intron."""

    contig: str
    start: int
    end: int
    strand: str
    phase: int
    """Nucleotides, in the direction of reading, before the first whole codon: 0, 1 or 2."""

    @property
    def first_codon(self) -> int:
        """The first nucleotide of the first whole codon: the last position of it on strand "-"."""
        return self.start + self.phase if self.strand == "+" else self.end - 1 - self.phase

    @property
    def num_codons(self) -> int:
        """Whole codons."""
        return (self.end - self.start - self.phase) // 3


class Site(NamedTuple):
    """A nucleotide of a strand that the pictures have at 0."""

    contig: str
    position: int
    strand: str


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What one RNA is made from. Those from several strands or contigs are left out."""

    contig: str
    strand: str
    """"+" or "-"."""
    exons: tuple[tuple[int, int], ...]
    """Sorted by position; exons that touch are one."""
    coding_parts: tuple[CodingPart, ...]
    """CDS lines, sorted by position."""
    coding: tuple[tuple[int, int], ...]
    """From the start codon to the stop codon, sorted by position; parts that touch are one."""
    is_complete: bool
    """Whether the annotation says that the coding sequence has both ends."""

    @property
    def introns(self) -> list[tuple[int, int]]:
        """Gaps of at least `SHORTEST_INTRON` between the exons."""
        pairs = zip(self.exons[:-1], self.exons[1:], strict=True)
        gaps = [(left[1], right[0]) for left, right in pairs]
        return [gap for gap in gaps if gap[1] - gap[0] >= SHORTEST_INTRON]

    @property
    def start_codon(self) -> Site | None:
        """The first nucleotide of the start codon; None if it is cut by an intron or not known."""
        return self._find_codon(at_start=True)

    @property
    def stop_codon(self) -> Site | None:
        """The first nucleotide of the stop codon; None if it is cut by an intron or not known."""
        return self._find_codon(at_start=False)

    def _find_codon(self, at_start: bool) -> Site | None:
        if not (self.is_complete and self.coding):
            return None
        at_left = at_start == (self.strand == "+")
        start, end = self.coding[0] if at_left else self.coding[-1]
        if end - start < 3:
            return None
        left = start if at_left else end - 3
        return Site(self.contig, left if self.strand == "+" else left + 2, self.strand)

    @property
    def donors(self) -> list[Site]:
        """The first nucleotide of every intron, in the direction of reading."""
        forward = self.strand == "+"
        places = [start if forward else end - 1 for start, end in self.introns]
        return [Site(self.contig, place, self.strand) for place in places]

    @property
    def acceptors(self) -> list[Site]:
        """The first nucleotide after every intron, in the direction of reading."""
        forward = self.strand == "+"
        places = [end if forward else start - 1 for start, end in self.introns]
        return [Site(self.contig, place, self.strand) for place in places]


@dataclasses.dataclass(frozen=True)
class Annotation:
    """What is known of the contigs of one genome."""

    path: Path
    features: tuple[Feature, ...]
    transcripts: tuple[Transcript, ...]

    @property
    def contigs(self) -> set[str]:
        """Names of the contigs with a feature."""
        return {feature.contig for feature in self.features}

    def list_sites(self) -> dict[str, list[Site]]:
        """Kind -> its sites, each once whatever the number of its transcripts, sorted.

        Position 0 is the first nucleotide of the codon, of the intron (donor), or of the exon
        after the intron (acceptor).
        """
        sites: dict[str, set[Site]] = {"start": set(), "stop": set()}
        sites |= {"donor": set(), "acceptor": set()}
        for transcript in self.transcripts:
            sites["start"] |= {site for site in (transcript.start_codon,) if site}
            sites["stop"] |= {site for site in (transcript.stop_codon,) if site}
            sites["donor"].update(transcript.donors)
            sites["acceptor"].update(transcript.acceptors)
        return {kind: sorted(found) for kind, found in sites.items()}

    def list_coding_parts(self) -> list[CodingPart]:
        """The CDS lines, each once whatever the number of its transcripts, sorted."""
        return sorted({part for each in self.transcripts for part in each.coding_parts})


def load_annotation(path: Path) -> Annotation:
    """Reads a GFF3 (.gff, .gff3) or GTF (.gtf) file, which may be gzip.

    Raises:
        MissingInputError, InputError: in one line, with the file and the line: another suffix, a
            line that is no feature, a CDS without a phase.
    """
    path = Path(path)
    suffix = get_suffix(path)
    rule = "must be a file .gff, .gff3 or .gtf, or one of them with .gz"
    require(suffix in SUFFIXES, "annotation", str(path), rule)
    is_gtf = suffix == "gtf"
    features = tuple(_read_features(path, is_gtf))
    groups = _group_gtf(features) if is_gtf else _group_gff(features)
    whole = (parts for parts in groups if _has_one_strand(parts))
    transcripts = tuple(_make_transcript(parts, is_gtf, path) for parts in whole)
    return Annotation(path, features, transcripts)


def _read_features(path: Path, is_gtf: bool) -> Iterable[Feature]:
    for line, columns in read_gff_columns(path):
        contig, _, kind, start, end, _, strand, phase, text = columns
        attributes = _parse_attributes(text, is_gtf)
        yield Feature(contig, int(start) - 1, int(end), kind, strand, phase, attributes, line)


def _parse_attributes(text: str, is_gtf: bool) -> dict[str, str]:
    """Column 9: `key=value;` in a GFF3, `key "value";` in a GTF."""
    separator = " " if is_gtf else "="
    pairs = (item.strip().partition(separator) for item in text.split(";"))
    return {key: value.strip().strip('"') for key, _, value in pairs if key}


def _group_gtf(features: Sequence[Feature]) -> list[list[Feature]]:
    """The parts of each transcript. One that lies on two strands is two."""
    groups: dict[tuple[str, str, str], list[Feature]] = {}
    for feature in features:
        name = feature.attributes.get("transcript_id")
        if name and feature.kind in _PARTS:
            groups.setdefault((name, feature.contig, feature.strand), []).append(feature)
    return list(groups.values())


def _group_gff(features: Sequence[Feature]) -> list[list[Feature]]:
    """The parts of each transcript, that is, of each feature of `TRANSCRIPT_KINDS`."""
    ids = (each.attributes.get("ID", "") for each in features if each.kind in TRANSCRIPT_KINDS)
    groups: dict[str, list[Feature]] = {name: [] for name in ids if name}
    for feature in features:
        for parent in feature.attributes.get("Parent", "").split(","):
            if feature.kind in _PARTS and parent in groups:
                groups[parent].append(feature)
    return [parts for parts in groups.values() if parts]


def _make_transcript(parts: Sequence[Feature], is_gtf: bool, path: Path) -> Transcript:
    """A transcript from its parts, which have one contig and one strand."""
    contig, strand = parts[0].contig, parts[0].strand
    coding = sorted((part for part in parts if part.kind == _CODING), key=lambda part: part.start)
    for part in coding:
        if part.phase not in ("0", "1", "2"):
            raise InputError(f"{path}: line {part.line}: phase = {part.phase!r}: {_PHASE_RULE}")
    kinds = {part.kind for part in parts}
    is_partial = any(part.attributes.get("partial") == "true" for part in coding)
    ends = [part for part in parts if part.kind == _STOPS] if coding else []
    return Transcript(
        contig=contig,
        strand=strand,
        exons=merge_spans((part.start, part.end) for part in parts),
        coding_parts=tuple(
            CodingPart(contig, part.start, part.end, strand, int(part.phase)) for part in coding
        ),
        coding=merge_spans((part.start, part.end) for part in (*coding, *ends)),
        # A GTF marks the codons that are there, a GFF3 what is cut off.
        is_complete={_STARTS, _STOPS} <= kinds if is_gtf else not is_partial,
    )


def _has_one_strand(parts: Sequence[Feature]) -> bool:
    """False for what is spliced together from several strands or contigs, and without a strand."""
    places = {(part.contig, part.strand) for part in parts}
    return len(places) == 1 and parts[0].strand in ("+", "-")
