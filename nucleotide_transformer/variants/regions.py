"""Regions of a genome, as people write them."""

import re
from typing import NamedTuple

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.variants.reference import Reference

_REGION = re.compile(r"(.+):([\d,]{1,20})-([\d,]{1,20})")


class Region(NamedTuple):
    """A stretch of a contig."""

    contig: str
    """As the FASTA calls it."""
    start: int
    """First nucleotide, from 0."""
    end: int
    """One past the last."""

    @property
    def text(self) -> str:
        """As people write it: from 1, both ends included."""
        return f"{self.contig}:{self.start + 1}-{self.end}"


def find_region(text: str, reference: Reference) -> Region:
    """Reads "contig:first-last", from 1, both ends included, or "contig" for the whole of it.

    The contig may be named with or without "chr"; a contig whose name has a colon is found too.

    Raises:
        InputError: for a region that is not in the FASTA, or is none.
    """
    whole = reference.match(text)
    if whole is not None:
        return Region(whole, 0, reference.lengths[whole])
    found = _REGION.fullmatch(text)
    if not found:
        raise InputError(f"region = {text!r}: must be contig:first-last, such as chr1:1,000-1,200")
    contig = reference.match(found[1])
    if contig is None:
        some = ", ".join(list(reference.lengths)[:5])
        raise InputError(f"region = {text!r}: {reference.path} has {some}")
    start, end = (int(number.replace(",", "") or 0) for number in found.group(2, 3))
    length = reference.lengths[contig]
    if not 1 <= start <= end <= length:
        rule = f"must have 1 <= first <= last <= {length}, where {contig} ends"
        raise InputError(f"region = {text!r}: {rule}")
    return Region(contig, start - 1, end)
