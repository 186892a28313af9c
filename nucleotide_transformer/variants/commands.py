"""The commands `nt score-variants`, `nt calibrate`, `nt saturate` and those of tracks."""

import sys

from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.training.devices import find_devices
from nucleotide_transformer.variants import run
from nucleotide_transformer.variants.config import ScoreVariantsConfig


def score_variants(config: ScoreVariantsConfig) -> int:
    """`nt score-variants`."""
    variants = run.check_variants(config)  # before the model: a typo should not cost a download
    for note in variants.notes:
        sys.stderr.write(f"note: {note}\n")
    find_devices(None)
    model = load_pretrained(config.model, compute=config.compute)
    summary = run.score_variants(model, config, variants=variants, progress=True)
    for line in (*summary.describe(), *(f"wrote {path}" for path in summary.paths)):
        sys.stdout.write(f"{line}\n")
    return 0
