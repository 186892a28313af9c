"""The scores of a variant, each a function of its evidence, by name.

P is the distribution of the nucleotide at the changed place: for each strand s and reading frame f
the k-mer that holds the place, hidden or not, has a distribution p_sf over k-mers, which is summed
to one over its letters (see `inference/nucleotides.py`); P is the mean over the 2 k of them, or
over those that there are, near the end of a contig or an N. All logarithms are natural. Scores
below zero (of the differences) say that the model finds the change unlikely.

To add a score, add a function to `SCORES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.types import Float, Int
from nucleotide_transformer.variants.evidence import Evidence, average


class Score(NamedTuple):
    """A score."""

    compute: Callable[[Evidence], Float[np.ndarray, " N"]]
    """One float64 value a change; NaN where there is none."""
    needs: tuple[str, ...]
    """What `Collector.collect` must find."""
    formula: str
    """One line, for headers and documentation."""
    is_for_all: bool = False
    """Whether insertions, deletions and longer replacements have it, too."""


def llr(evidence: Evidence) -> Float[np.ndarray, " N"]:
    """Log P(alt) - log P(ref), the k-mers hidden."""
    return _log_ratio(average(evidence.masked), evidence)


def llr_kmer(evidence: Evidence) -> Float[np.ndarray, " N"]:
    """Log p(alt k-mer) - log p(ref k-mer), hidden, in one frame; the mean of both strands."""
    assert evidence.kmers is not None
    logs = evidence.kmers
    of_strands = [_take(logs[:, s], evidence.alt) - _take(logs[:, s], evidence.ref) for s in (0, 1)]
    valid = [~np.isnan(values) for values in of_strands]
    sums = [np.where(v, values, 0) for v, values in zip(valid, of_strands, strict=True)]
    count = valid[0].astype(int) + valid[1]
    return (sums[0] + sums[1]) / np.where(count, count, np.nan)


def llr_calibrated(evidence: Evidence) -> Float[np.ndarray, " N"]:
    """`llr` minus its mean over a background, for the same change of the same five nucleotides."""
    assert evidence.background is not None
    return llr(evidence) - evidence.background


def wt_llr(evidence: Evidence) -> Float[np.ndarray, " N"]:
    """Log P(alt) - log P(ref), nothing hidden."""
    return _log_ratio(average(evidence.wild), evidence)


def entropy(evidence: Evidence) -> Float[np.ndarray, " N"]:
    """- sum over b of P(b) log P(b), the k-mers hidden: of the place, whatever the change."""
    p = average(evidence.masked)
    p = p / p.sum(axis=1, keepdims=True)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)


def pll(evidence: Evidence) -> Float[np.ndarray, " N"]:
    """The difference of pseudo-log-likelihoods, of the changed sequence minus the reference.

    Each is the mean over the k-mers of the stretch and its flanks, on both strands, in all frames,
    of log p(k-mer, hidden), divided by k: that of a nucleotide. The difference is times the
    nucleotides in the reference: longer sequences are not less likely for being longer.
    """
    assert evidence.ref_pll is not None
    assert evidence.alt_pll is not None
    assert evidence.pll_size is not None
    return evidence.pll_size * (evidence.alt_pll - evidence.ref_pll)


def cosine(evidence: Evidence) -> Float[np.ndarray, " N"]:
    """The cosine of the angle between the mean embeddings of the two sequences."""
    ref, alt = _embeddings(evidence)
    return _dot(ref, alt) / np.sqrt(_dot(ref, ref) * _dot(alt, alt))


def l2(evidence: Evidence) -> Float[np.ndarray, " N"]:
    """The Euclidean distance of the mean embeddings."""
    ref, alt = _embeddings(evidence)
    return np.sqrt(_dot(alt - ref, alt - ref))


def dot(evidence: Evidence) -> Float[np.ndarray, " N"]:
    """The dot product of the mean embeddings."""
    return _dot(*_embeddings(evidence))


def jsd(evidence: Evidence) -> Float[np.ndarray, " N"]:
    """The mean Jensen-Shannon divergence of the letters of the 8 tokens before the change."""
    assert evidence.divergence is not None
    return evidence.divergence


SCORES: dict[str, Score] = {
    "llr": Score(
        llr,
        ("masked",),
        "log P(alt) - log P(ref), nucleotide probabilities with the k-mer masked, averaged over"
        " frames and strands",
    ),
    "llr_kmer": Score(
        llr_kmer,
        ("masked",),
        "log p(alt k-mer) - log p(ref k-mer), masked, in the frame with the change in the middle,"
        " averaged over strands",
    ),
    "llr_calibrated": Score(
        llr_calibrated,
        ("masked",),
        "llr minus its background mean for the same change in the same pentanucleotide",
    ),
    "wt_llr": Score(
        wt_llr,
        ("wild",),
        "log P(alt) - log P(ref), nothing masked, averaged over frames and strands",
    ),
    "pll": Score(
        pll,
        ("pll",),
        "difference alt - ref of mean pseudo-log-likelihoods of a nucleotide over the same flanks,"
        " times the nucleotides in the reference",
        is_for_all=True,
    ),
    "cosine": Score(
        cosine, ("seen",), "cosine of the mean embeddings of ref and alt windows", is_for_all=True
    ),
    "l2": Score(l2, ("seen",), "Euclidean distance of the mean embeddings", is_for_all=True),
    "dot": Score(dot, ("seen",), "dot product of the mean embeddings", is_for_all=True),
    "jsd": Score(
        jsd,
        ("divergence",),
        "mean Jensen-Shannon divergence of the nucleotides of the 8 tokens before the change, as"
        " each strand is read",
        is_for_all=True,
    ),
    "entropy": Score(entropy, ("masked",), "entropy of P at the place of the change, masked"),
}


def _log_ratio(p: Float[np.ndarray, "N 4"], evidence: Evidence) -> Float[np.ndarray, " N"]:
    return np.log(_take(p, evidence.alt)) - np.log(_take(p, evidence.ref))


def _take(values: Float[np.ndarray, "N 4"], letters: Int[np.ndarray, " N"]) -> np.ndarray:
    """One of the four values of each row; NaN for -1."""
    chosen = np.take_along_axis(values, np.maximum(letters, 0)[:, None], axis=1)[:, 0]
    return np.where(letters >= 0, chosen, np.nan)


def _embeddings(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    assert evidence.ref_seen is not None
    assert evidence.alt_seen is not None
    return evidence.ref_seen, evidence.alt_seen


def _dot(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
    """Row by row: the same for any number of rows."""
    return np.array([np.sum(x * y) for x, y in zip(a, b, strict=True)], np.float64)
