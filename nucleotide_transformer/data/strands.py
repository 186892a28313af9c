"""What tells a sequence from others, whichever of its two strands a file has."""

import hashlib

from nucleotide_transformer.data.fasta import reverse_complement

_PIECE = 1 << 22
"""Nucleotides of the other strand that are in memory at a time."""
_NUM_STRETCHES = 8
_STRETCH = 32


def digest_strands(sequence: bytes | bytearray) -> str:
    """A digest of upper-case nucleotides, the same for either strand, in hex."""
    backward = hashlib.sha256()
    for end in range(len(sequence), 0, -_PIECE):
        backward.update(reverse_complement(bytes(sequence[max(0, end - _PIECE) : end])))
    return min(hashlib.sha256(sequence).hexdigest(), backward.hexdigest())


def sample_strands(sequence: bytes | bytearray) -> str:
    """As `digest_strands`, of the length and a few stretches, both ends among them: 16 digits.

    It takes the same time for a gene and for a chromosome: there is one of each contig.
    """
    size = min(_STRETCH, len(sequence))
    last = len(sequence) - size
    starts = [last * stretch // _NUM_STRETCHES for stretch in range(_NUM_STRETCHES // 2)]
    mirrored = [last - start for start in reversed(starts)]
    sample = b"".join(sequence[start : start + size] for start in (*starts, *mirrored))
    strand = min(sample, reverse_complement(sample))
    return hashlib.sha256(b"%d %s" % (len(sequence), strand)).hexdigest()[:16]
