"""What an allele changes: checked against the reference, and written in the one way there is.

An insertion or deletion inside a repeat can be written at several places, with one and the same
result. Here it becomes the whole stretch along which it can be shifted, before and after: what is
computed from a `Change` can't depend on how a file has it.

    reference  GATATATC, deleted "AT" at 1, 3 or 5 -> start 1, end 7, ref ATATAT, alt ATAT
"""

import re
from typing import NamedTuple

from nucleotide_transformer.variants.reading import MISSING, Allele
from nucleotide_transformer.variants.reference import Reference

REASONS = {
    "no_alt": "no alternative allele (.)",
    "star": "allele * (deleted by another record)",
    "breakend": "breakend",
    "symbolic": "symbolic allele such as <DEL>",
    "not_acgt": "letters other than A, C, G, T in REF or ALT",
    "same": "REF and ALT are the same",
    "no_contig": "the FASTA has no such contig",
    "off_contig": "lies beyond an end of its contig",
    "mismatch": "REF is not what the FASTA has",
    "unknown": "N, or nothing but N nearby, in the FASTA",
    "too_long": "longer, with the repeat it can be shifted in, than half a window",
    "not_snv": "no single-nucleotide change: this score is for those",
}
"""Why an allele has no score."""
_LETTERS = re.compile("[ACGT]+")


class Change(NamedTuple):
    """A stretch of a contig, and what takes its place."""

    contig: str
    """As the FASTA calls it."""
    start: int
    """First nucleotide of `ref`, from 0."""
    end: int
    """One past the last; of an insertion outside of repeats it is `start`."""
    ref: bytes
    alt: bytes

    @property
    def is_snv(self) -> bool:
        """Whether one nucleotide becomes another."""
        return len(self.ref) == len(self.alt) == 1


def find_change(allele: Allele, reference: Reference, limit: int) -> Change | str:
    """The change that an allele makes, or the reason (of `REASONS`) why it can't be scored.

    Args:
        allele: what a file says.
        reference: its genome.
        limit: nucleotides that the longer of a change's two stretches may have.
    """
    contig, reason = check_allele(allele, reference)
    if reason:
        return reason
    ref, alt = allele.ref.encode(), allele.alt.encode()
    change = _trim(Change(contig, allele.start, allele.start + len(ref), ref, alt))
    if max(len(change.ref), len(change.alt)) > limit:
        return "too_long"
    if change.ref and change.alt:
        return change
    return _extend(change, reference, limit)


def check_allele(allele: Allele, reference: Reference) -> tuple[str, str]:
    """The contig that an allele lies on, as the FASTA calls it, and the reason not to score it.

    Either may be empty.
    """
    reason = _find_reason(allele)
    contig = reference.match(allele.contig)
    if reason or contig is None:
        return contig or "", reason or "no_contig"
    end = allele.start + len(allele.ref)
    if allele.start < 0 or end > reference.lengths[contig]:
        return contig, "off_contig"
    found = reference.fetch(contig, allele.start, end)
    if b"N" in found:
        return contig, "unknown"
    return contig, "" if found == allele.ref.encode() else "mismatch"


def _find_reason(allele: Allele) -> str:
    """What is wrong with the letters of an allele."""
    alt = allele.alt
    if alt == MISSING:
        return "no_alt"
    if alt == "*":
        return "star"
    if "[" in alt or "]" in alt or alt.startswith(MISSING) or alt.endswith(MISSING):
        return "breakend"
    if alt.startswith("<"):
        return "symbolic"
    if not (_LETTERS.fullmatch(alt) and _LETTERS.fullmatch(allele.ref)):
        return "not_acgt"
    return "same" if alt == allele.ref else ""


def _trim(change: Change) -> Change:
    """Without the letters that both stretches end with, then begin with."""
    contig, start, end, ref, alt = change
    shared = _count_shared(ref[::-1], alt[::-1])
    ref, alt, end = ref[: len(ref) - shared], alt[: len(alt) - shared], end - shared
    shared = _count_shared(ref, alt)
    return Change(contig, start + shared, end, ref[shared:], alt[shared:])


def _extend(change: Change, reference: Reference, limit: int) -> Change | str:
    """An insertion or deletion with all the places that it can be shifted to."""
    contig, start, end, ref, alt = change
    unit = ref or alt
    left = reference.fetch(contig, start - limit, start)
    right = reference.fetch(contig, end, end + limit)
    before, after = left + unit, unit + right
    num_left = _count_shared(before[::-1][len(unit) :], before[::-1])
    num_right = _count_shared(after[len(unit) :], after)
    if num_left + num_right + len(unit) > limit:
        return "too_long"
    head, tail = left[len(left) - num_left :], right[:num_right]
    return Change(contig, start - num_left, end + num_right, head + ref + tail, head + alt + tail)


def _count_shared(first: bytes, second: bytes) -> int:
    """Letters that two texts have in common at their beginning; N is like nothing."""
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b or a == ord("N"):
            break
        count += 1
    return count
