"""Does a change in a start codon or a splice site score worse than beside it?

Each nucleotide of a site is compared with others nearby that are the middle of the same three
nucleotides, in the direction of the gene: a model that knows no more than trinucleotides finds no
difference.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from nucleotide_transformer.analysis.annotation import Annotation, Site
from nucleotide_transformer.analysis.estimates import average
from nucleotide_transformer.data.fasta import reverse_complement
from nucleotide_transformer.inference.nucleotides import NUCLEOTIDES
from nucleotide_transformer.types import Float
from nucleotide_transformer.variants.changes import Change
from nucleotide_transformer.variants.reference import Reference
from nucleotide_transformer.variants.scoring import Scorer

OFFSETS = {"start": (0, 1, 2), "donor": (0, 1), "acceptor": (-2, -1)}
"""Kind of site -> its nucleotides, in the direction of the gene: ATG, GT and AG."""
NEAREST, FARTHEST = 10, 200
"""Nucleotides from the site to those it is compared with."""
NUM_CONTROLS = 3
_SITES_AT_ONCE = 20
_SEED = 0
"""Of the sites that are drawn, and those beside them."""


class Pair(NamedTuple):
    """A nucleotide of a site, and those beside it that it is compared with."""

    place: int
    controls: tuple[int, ...]


def compare_sites(scorer: Scorer, annotation: Annotation, num_sites: int) -> dict[str, Any]:
    """Kind of site -> for each score, its mean at the sites minus beside them; JSON types.

    A site is a unit: its nucleotides are averaged, each the mean over its three changes.

    Args:
        scorer: model, genome, scores.
        annotation: of the genome; contigs have the same names.
        num_sites: of each kind, drawn at random; all where there are fewer.
    """
    random = np.random.default_rng(_SEED)
    sites = annotation.list_sites()
    result = {}
    for kind, offsets in OFFSETS.items():
        known = [site for site in sites[kind] if site.contig in scorer.reference.lengths]
        chosen = random.permutation(len(known))[:num_sites]
        parts = []
        for first in range(0, len(chosen), _SITES_AT_ONCE):
            some = [known[i] for i in chosen[first : first + _SITES_AT_ONCE]]
            parts.append(_compare(scorer, some, offsets, random))
        values = np.concatenate(parts) if parts else np.zeros((0, len(scorer.scores)))
        values = values[~np.isnan(values).any(axis=1)]
        result[kind] = {"sites": len(values)} | {
            name: average(values[:, i]).to_json() for i, name in enumerate(scorer.scores)
        }
    return result


def _compare(
    scorer: Scorer, sites: Sequence[Site], offsets: Sequence[int], random: np.random.Generator
) -> Float[np.ndarray, "N S"]:
    """Score at each site minus beside it; NaN where nothing beside it is alike."""
    of_sites = [list(find_pairs(scorer.reference, site, offsets, random)) for site in sites]
    changes: list[Change] = []
    for site, pairs in zip(sites, of_sites, strict=True):
        for pair in pairs:
            for place in (pair.place, *pair.controls):
                changes += _list_changes(scorer.reference, site.contig, place)
    rows = iter(scorer.score_changes(changes).reshape(-1, 3, len(scorer.scores)).mean(axis=1))
    found = np.full((len(sites), len(scorer.scores)), np.nan)
    for i, pairs in enumerate(of_sites):
        differences = []
        for pair in pairs:
            own = next(rows)
            differences.append(own - np.mean([next(rows) for _ in pair.controls], axis=0))
        if differences:
            found[i] = np.mean(differences, axis=0)
    return found


def _list_changes(reference: Reference, contig: str, place: int) -> list[Change]:
    """The three changes of a nucleotide."""
    letter = reference.fetch(contig, place, place + 1)
    others = (other.encode() for other in NUCLEOTIDES if other.encode() != letter)
    return [Change(contig, place, place + 1, letter, other) for other in others]


def find_pairs(
    reference: Reference, site: Site, offsets: Sequence[int], random: np.random.Generator
) -> Iterator[Pair]:
    """Yields the nucleotides of a site that have others like them nearby."""
    step = 1 if site.strand == "+" else -1
    near = range(-FARTHEST, FARTHEST + 1)
    for offset in offsets:
        place = site.position + step * offset
        own = read_triplet(reference, site, place)
        alike = [
            site.position + step * i
            for i in near
            if abs(i) >= NEAREST and read_triplet(reference, site, site.position + step * i) == own
        ]
        if own and b"N" not in own and alike:
            chosen = random.permutation(len(alike))[:NUM_CONTROLS]
            yield Pair(place, tuple(alike[i] for i in sorted(chosen)))


def read_triplet(reference: Reference, site: Site, place: int) -> bytes:
    """Three nucleotides around a place, as the site's strand is read; empty beyond the contig."""
    if not 1 <= place < reference.lengths[site.contig] - 1:
        return b""
    letters = reference.fetch(site.contig, place - 1, place + 2)
    return letters if site.strand == "+" else reverse_complement(letters)
