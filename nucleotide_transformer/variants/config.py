"""What `nt score-variants` is told."""

import dataclasses
from pathlib import Path
from typing import Literal

from nucleotide_transformer.errors import require, require_choices
from nucleotide_transformer.model.encoder import check_length
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.variants.evidence import Settings
from nucleotide_transformer.variants.scores import SCORES
from nucleotide_transformer.weights.hub import LoadConfig

WINDOW = 1_024
"""Nucleotides of a window by default, if the model takes them."""
STDIN = Path("-")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """What a model sees of the DNA around a variant."""

    window: int | None = None
    """Nucleotides that the model sees at once, of which whole tokens are taken, the change in the
    middle; 1,024 by default, or what the model was trained with if that is less."""
    flank: int = 24
    """Nucleotides on either side of a change that the score pll goes over."""
    layer: int | None = None
    """Layer whose embeddings cosine, l2 and dot compare, 0 to the number of blocks; the last one by
    default."""
    frames: int | None = None
    """Reading frames to average, on each strand: fewer cost less where variants are far from one
    another; all by default."""
    num_devices: int | None = None
    """Devices of this process to use; all by default."""

    def __post_init__(self) -> None:
        for field, lowest in {"window": 1, "flank": 0, "frames": 1, "num_devices": 1}.items():
            value = getattr(self, field)
            require(value is None or value >= lowest, field, value, f"must be {lowest} or above")

    def resolve(self, model: Model) -> Settings:
        """Fills in what the model decides.

        Raises:
            InputError: for a window without a token, or that the model can't take, or a layer that
                does not exist.
        """
        config = model.config
        most = (config.max_positions - 1) * config.k
        window = min(WINDOW, most) if self.window is None else self.window
        rule = f"must be {config.k} or above: a token of the model"
        require(window >= config.k, "window", window, rule)
        check_length(window // config.k + 1, config, f"window = {window}: tokens")
        rule = f"must be {config.k - 1} or above: a token that holds the change"
        require(self.flank >= config.k - 1, "flank", self.flank, rule)
        layer = config.num_layers if self.layer is None else self.layer
        rule = f"must lie between 0 and {config.num_layers}"
        require(0 <= layer <= config.num_layers, "layer", layer, rule)
        frames = config.k if self.frames is None else self.frames
        require(frames <= config.k, "frames", frames, f"must be {config.k} or below")
        return Settings(window // config.k, self.flank, layer, frames)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreVariantsConfig(WindowConfig, LoadConfig):
    """How much a model expects the variants of a file, next to the reference."""

    vcf: Path
    """Variants: .vcf (also with .gz) or .bcf, or a table .tsv or .csv (also with .gz) or .parquet
    with columns contig, position (from 1), ref and alt. "-" reads them from standard input."""
    fasta: Path
    """The genome that they refer to: FASTA, plain or bgzip (by its index, which is made if there is
    none) or gzip (read whole)."""
    output: Path
    """File to write: .vcf.gz (bgzip, with a tabix index), .vcf, .tsv.gz (the same), .tsv or
    .parquet. What is unfinished lies in <output>.parts."""
    scores: tuple[str, ...] = ("llr",)
    """One or several of llr, llr_kmer, llr_calibrated, wt_llr, pll, cosine, l2, dot, jsd and
    entropy."""
    on_mismatch: Literal["error", "skip"] = "error"
    """What to do about a REF that is not what the FASTA has, or a contig or place that it lacks:
    stop before anything is computed, or leave the variant without a score, and count it."""
    calibration: Path | None = None
    """Table of `nt calibrate` for llr_calibrated; llr_calibration.json in the model's folder by
    default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choices(self)
        check_scores(self.scores, self.calibration)


def check_scores(scores: tuple[str, ...], calibration: Path | None = None) -> None:
    """Raises an `InputError` unless there are scores, all of them known, each once.

    And for a table that none of them needs.
    """
    require(bool(scores), "scores", scores, "must name at least one")
    for name in scores:
        require(name in SCORES, "scores", name, f"must be one of {', '.join(SCORES)}")
        require(scores.count(name) == 1, "scores", name, "must be named once")
    is_used = calibration is None or "llr_calibrated" in scores
    require(is_used, "calibration", str(calibration), "needs the score llr_calibrated")
