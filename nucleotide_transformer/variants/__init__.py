"""What a model thinks of variants: scores of changes to the DNA, from files or in memory."""

from nucleotide_transformer.variants.calibration import Calibration, load_calibration
from nucleotide_transformer.variants.changes import Change, find_change
from nucleotide_transformer.variants.config import ScoreVariantsConfig, WindowConfig
from nucleotide_transformer.variants.evidence import Collector, Evidence
from nucleotide_transformer.variants.reading import Allele, read_variants
from nucleotide_transformer.variants.reference import Reference, open_reference
from nucleotide_transformer.variants.regions import Region, find_region
from nucleotide_transformer.variants.run import check_variants, score_variants
from nucleotide_transformer.variants.scores import SCORES, Score
from nucleotide_transformer.variants.scoring import Scored, Scorer

__all__ = [
    "SCORES",
    "Allele",
    "Calibration",
    "Change",
    "Collector",
    "Evidence",
    "Reference",
    "Region",
    "Score",
    "ScoreVariantsConfig",
    "Scored",
    "Scorer",
    "WindowConfig",
    "check_variants",
    "find_change",
    "find_region",
    "load_calibration",
    "open_reference",
    "read_variants",
    "score_variants",
]
