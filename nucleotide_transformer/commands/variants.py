"""The commands `nt score-variants`, `calibrate`, `saturate`, `likelihood`, `predict-nucleotides`.

Each checks its input before the model is loaded: a typo should not cost a download.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nucleotide_transformer.console import note, say
from nucleotide_transformer.files import check_new
from nucleotide_transformer.pretrained import Model, load_pretrained
from nucleotide_transformer.training.devices import find_devices
from nucleotide_transformer.variants import background, run, saturation, tracks
from nucleotide_transformer.variants.background import CalibrateConfig
from nucleotide_transformer.variants.config import ScoreVariantsConfig
from nucleotide_transformer.variants.pieces import check_sequences
from nucleotide_transformer.variants.reference import open_reference
from nucleotide_transformer.variants.saturation import SaturateConfig
from nucleotide_transformer.variants.tracks import LikelihoodConfig, PredictConfig


def score_variants(config: ScoreVariantsConfig) -> int:
    """`nt score-variants`."""
    variants = run.check_variants(config)
    with variants.blocks or contextlib.nullcontext():
        _tell_notes(variants.notes)
        summary = run.score_variants(_load(config), config, variants=variants, progress=True)
    return _tell(summary.paths, summary.describe())


def calibrate(config: CalibrateConfig) -> int:
    """`nt calibrate`."""
    _tell_notes(open_reference(config.fasta).notes)
    check_new(config.find_output())
    return _tell([background.calibrate_to_file(_load(config), config, progress=True)])


def saturate(config: SaturateConfig) -> int:
    """`nt saturate`."""
    found = saturation.check_region(config)
    _tell_notes(found[0].notes)
    return _tell(saturation.saturate_region(_load(config), config, found, progress=True))


def measure_likelihood(config: LikelihoodConfig) -> int:
    """`nt likelihood`."""
    sequences = check_sequences(config)
    _tell_notes(sequences.notes)
    return _tell(tracks.write_likelihoods(_load(config), config, sequences, progress=True))


def predict_nucleotides(config: PredictConfig) -> int:
    """`nt predict-nucleotides`."""
    sequences = check_sequences(config)
    _tell_notes(sequences.notes)
    return _tell(tracks.write_probabilities(_load(config), config, sequences, progress=True))


def _load(config: Any) -> Model:
    find_devices(None)
    return load_pretrained(config.model, compute=config.compute)


def _tell_notes(notes: Iterable[str]) -> None:
    for text in notes:
        note(text)


def _tell(paths: Iterable[Path], lines: Iterable[str] = ()) -> int:
    for line in (*lines, *(f"wrote {path}" for path in paths)):
        say(line)
    return 0
