"""What kind of sequence each nucleotide of a genome is."""

import numpy as np

from nucleotide_transformer.analysis.annotation import Annotation, Site
from nucleotide_transformer.analysis.genome import Genome
from nucleotide_transformer.types import Int, UInt8

KINDS = ("intergenic", "coding", "intron", "tRNA", "LTR")
"""Names of the kinds; a kind's code is its place here."""
OTHER = len(KINDS)
"""Code of what is annotated and none of these: UTRs, RNA genes, telomeres, N between contigs."""

_WHOLE_CONTIGS = ("region", "chromosome", "contig", "scaffold", "supercontig", "source")
_ELEMENTS = {
    "tRNA": "tRNA",
    "long_terminal_repeat": "LTR",
    "LTR": "LTR",
}
"""Type of a feature -> kind of what it covers."""


def paint_kinds(annotation: Annotation, genome: Genome) -> UInt8[np.ndarray, " nucleotides"]:
    """The kind of every place, by what is annotated on either strand.

    Where annotations overlap, the later of this list counts: any feature at all (other), introns,
    exons (other), coding sequence, tRNA, LTR. What no feature covers is intergenic.

    Raises:
        InputError: for a feature beyond the end of its contig.
    """
    kinds = np.full(genome.codes.size, KINDS.index("intergenic"), np.uint8)
    for contig, start in genome.starts.items():
        kinds[start + genome.sizes[contig] : start + genome.sizes[contig] + 1] = OTHER

    def paint(contig: str, span: tuple[int, int], kind: int) -> None:
        genome.find_place(Site(contig, span[1] - 1, "+"))
        first = genome.starts[contig]
        kinds[first + span[0] : first + span[1]] = kind

    for feature in annotation.features:
        if feature.kind not in _WHOLE_CONTIGS:
            paint(feature.contig, (feature.start, feature.end), OTHER)
    transcripts = annotation.transcripts
    for each in transcripts:
        paint(each.contig, (each.exons[0][0], each.exons[-1][1]), OTHER)
    for each in transcripts:
        for span in each.introns:
            paint(each.contig, span, KINDS.index("intron"))
    for each in transcripts:
        for span in each.exons:
            paint(each.contig, span, OTHER)
    for each in transcripts:
        for span in each.coding:
            paint(each.contig, span, KINDS.index("coding"))
    for kind in KINDS:
        for feature in annotation.features:
            if _ELEMENTS.get(feature.kind) == kind:
                paint(feature.contig, (feature.start, feature.end), KINDS.index(kind))
    return kinds


def find_runs(kinds: UInt8[np.ndarray, " nucleotides"], kind: int) -> Int[np.ndarray, "runs 2"]:
    """Start and end (half-open) of every longest stretch of one kind."""
    inside = np.concatenate([[False], kinds == kind, [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return edges.reshape(-1, 2)
