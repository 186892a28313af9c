"""Scores of measured variants against what they do: AUROC and AUPRC with bootstrap intervals.

The table has a row for each variant with what it does (`func_class`), and what others say of it
(phyloP, CADD). The published classes are LOF (loss of function), INT (intermediate) and FUNC.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nucleotide_transformer.analysis.estimates import resample_groups, to_numbers
from nucleotide_transformer.data.intervals import read_lines
from nucleotide_transformer.errors import InputError, import_extra
from nucleotide_transformer.types import Bool, Float, Int
from nucleotide_transformer.variants.reading import Allele
from nucleotide_transformer.variants.reference import Reference

SIGNS = {"l2": 1, "jsd": 1} | dict.fromkeys(
    ("llr", "llr_kmer", "llr_calibrated", "wt_llr", "pll", "cosine", "dot", "entropy"), -1
)
"""Whether a high or a low score says that a variant matters; decided before anything was seen."""
SUBSETS = {
    "all": (),
    "missense": ("Missense",),
    "synonymous": ("Synonymous",),
    "splice": ("Canonical splice", "Splice region"),
}
"""Name -> consequences of the table."""
CONTRASTS = {"LOF against FUNC": ("FUNC",), "LOF against FUNC and INT": ("FUNC", "INT")}
NUM_RESAMPLES = 200
FEWEST = 5
"""Variants of a class that a number needs."""
GC_FLANK = 50


class Measured(NamedTuple):
    """Variants that were measured, and what is known of them."""

    alleles: list[Allele]
    classes: Any
    """LOF, INT or FUNC of each, as an array of text."""
    consequences: Any
    predictors: dict[str, Float[np.ndarray, " N"]]
    """What others say: high is harmful."""


def read_measured(path: Path, reference: Reference, first: int) -> Measured:
    """Reads the table of BRCA1 variants (Findlay et al. 2018).

    Args:
        path: columns pos_hg38, ref, alt, consequence, func_class, phylop and cadd.
        reference: one contig, a part of chromosome 17.
        first: position on the chromosome, from 1, of the first nucleotide of the contig.

    Raises:
        InputError: if a reference allele is not what the reference has.
    """
    (contig,) = reference.lengths
    lines = (line for _, line in read_lines(path))
    rows = list(csv.DictReader(lines, delimiter="\t"))
    alleles = []
    for number, row in enumerate(rows, start=2):
        start = int(row["pos_hg38"]) - first
        place = f"{path}: line {number}"
        if reference.fetch(contig, start, start + 1).decode() != row["ref"]:
            raise InputError(f"{place}: {row['ref']}: is not what {reference.path} has")
        alleles.append(Allele(place, contig, start, row["ref"], row["alt"], "."))
    predictors = {name: np.array([float(row[name]) for row in rows]) for name in ("phylop", "cadd")}
    predictors |= describe_contents(alleles, reference)
    classes, consequences = (
        np.array([row[name] for row in rows]) for name in ("func_class", "consequence")
    )
    return Measured(alleles, classes, consequences, predictors)


def describe_contents(
    alleles: Sequence[Allele], reference: Reference
) -> dict[str, Float[np.ndarray, " N"]]:
    """The share of G and C in 101 nucleotides, and whether the place is in a CpG."""
    shares, in_cpg = [], []
    for allele in alleles:
        near = reference.fetch(allele.contig, allele.start - GC_FLANK, allele.start + GC_FLANK + 1)
        shares.append((near.count(b"G") + near.count(b"C")) / len(near))
        pair = reference.fetch(allele.contig, allele.start - 1, allele.start + 2)
        in_cpg.append(b"CG" in pair)
    return {"gc_101": np.array(shares), "cpg": np.array(in_cpg, np.float64)}


def judge(
    measured: Measured, values: Float[np.ndarray, " N"], seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Yields AUROC and AUPRC of a predictor, for every contrast and subset.

    Variants without a value are left out, and counted. Intervals are the 2.5 and 97.5 % quantiles
    over resampled places: the changes of one nucleotide are not independent.

    Args:
        measured: what `read_measured` returns.
        values: high is harmful.
        seed: of the resamples.
    """
    places = np.array([allele.start for allele in measured.alleles])
    for contrast, negatives in CONTRASTS.items():
        for subset, consequences in SUBSETS.items():
            kept = np.isin(measured.classes, ("LOF", *negatives))
            if consequences:
                kept &= np.isin(measured.consequences, consequences)
            num_missing = int(np.isnan(values[kept]).sum())
            kept &= ~np.isnan(values)
            labels = measured.classes[kept] == "LOF"
            counts = {"lof": int(labels.sum()), "others": int((~labels).sum())}
            if min(counts.values()) < FEWEST:
                continue
            found = _measure(labels, values[kept], places[kept], seed)
            about = {"contrast": contrast, "subset": subset, "missing": num_missing}
            yield about | counts | found


def _measure(
    labels: Bool[np.ndarray, " N"],
    values: Float[np.ndarray, " N"],
    places: Int[np.ndarray, " N"],
    seed: int,
) -> dict[str, Any]:
    """Both measures, each with its interval."""
    metrics = import_extra("sklearn.metrics", "analysis", "to judge variants")
    measures = {"auroc": metrics.roc_auc_score, "auprc": metrics.average_precision_score}
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for weights in resample_groups(places, NUM_RESAMPLES, np.random.default_rng(seed)):
        drawn = weights > 0
        if len(set(labels[drawn].tolist())) == 2:
            for name, measure in measures.items():
                value = measure(labels[drawn], values[drawn], sample_weight=weights[drawn])
                samples[name].append(float(value))
    return {
        name: {
            "value": to_numbers(measure(labels, values)),
            "interval": to_numbers(np.quantile(samples[name], (0.025, 0.975))),
        }
        for name, measure in measures.items()
    }
