"""The mean of `llr` over a background, by the change and the five nucleotides around it.

A model has favourites: transitions, for one, or changes that make or break CpG. `llr_calibrated`
takes off what such a change has on average: a table of 1,024 x 3 means. As `llr` is that of both
strands, a context and its reverse complement have one mean.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from nucleotide_transformer import __version__
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.files import write_whole
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Float, Int
from nucleotide_transformer.variants.config import WindowConfig
from nucleotide_transformer.variants.evidence import CONTEXT, Evidence
from nucleotide_transformer.variants.reference import Reference
from nucleotide_transformer.weights.assembly import digest_params

FILE_NAME = "llr_calibration.json"
"""Of a table that is kept in the folder of its model."""
NUM_CONTEXTS = 4 ** (2 * CONTEXT + 1)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Means of `llr`, and where they come from."""

    means: Float[np.ndarray, "C 4"]
    """By context (number of base 4, A, C, G, T) and nucleotide that comes of it; NaN on the
    diagonal, and where the background had no such change."""
    counts: Int[np.ndarray, "C 4"]
    """Changes that each is the mean of, both strands together."""
    settings: dict[str, Any]
    """Digest of the model's parameters, window, background."""

    def look_up(self, evidence: Evidence) -> Float[np.ndarray, " N"]:
        """The mean for each change; NaN where there is none."""
        known = (evidence.context >= 0) & (evidence.ref >= 0)
        found = self.means[np.where(known, evidence.context, 0), np.maximum(evidence.alt, 0)]
        return np.where(known, found, np.nan)

    @property
    def digest(self) -> str:
        """Hexadecimal, of the table."""
        return hashlib.blake2b(self.means.tobytes(), digest_size=16).hexdigest()

    def save(self, path: Path) -> None:
        """Writes the table as JSON, whole or not at all."""
        rows = [[None if value != value else value for value in row] for row in self.means.tolist()]
        content = self.settings | {"means": rows, "counts": self.counts.tolist()}
        with write_whole(path) as partial:
            partial.write_text(json.dumps(content), encoding="utf-8")


def make_settings(model: Model, around: WindowConfig) -> dict[str, Any]:
    """What a table must agree in with those who use it."""
    settings = around.resolve(model)
    return {
        "parameters": digest_params(model.params),
        "window_tokens": settings.num_kmers,
        "frames": settings.frames,
    }


def make_run_settings(model: Model, config: Any, reference: Reference) -> dict[str, Any]:
    """What scores depend on beside their names and the variants, in types that JSON has.

    Args:
        model: which scores.
        config: a `WindowConfig` with `model` and `fasta`.
        reference: what `config.fasta` is.
    """
    settings = config.resolve(model)
    digest = hashlib.blake2b(repr(list(reference.lengths.items())).encode())
    return {
        "version": __version__,
        "model": config.model,
        **make_settings(model, config),
        "compute_dtype": model.compute.compute_dtype,
        "output_dtype": model.compute.output_dtype,
        "flank": settings.flank,
        "layer": settings.layer,
        "fasta": Path(config.fasta).name,
        "contigs": digest.hexdigest()[:32],
    }


def find_calibration(config: Any, model: Model) -> Calibration | None:
    """The table that a `WindowConfig` with `scores`, `calibration` and `model` asks for, if any.

    Raises:
        MissingInputError, InputError: as `load_calibration`.
    """
    if "llr_calibrated" not in config.scores:
        return None
    settings = make_settings(model, config)
    return load_calibration(config.calibration, config.model, settings)


def load_calibration(path: Path | None, model: str | Path, settings: dict[str, Any]) -> Calibration:
    """Reads the table of `nt calibrate` for a model.

    Args:
        path: of the table; by default `llr_calibration.json` in the model's folder.
        model: the model's folder, or its name.
        settings: what `make_settings` returns; must be those of the table.

    Raises:
        MissingInputError: if there is none.
        InputError: if it is damaged, or that of another model or window.
    """
    place = Path(model) / FILE_NAME if path is None else Path(path)
    if not place.is_file():
        rule = "make the table of llr_calibrated by nt calibrate"
        raise MissingInputError(f"{place}: no such file: {rule}, and give it by --calibration")
    try:
        content = dict(json.loads(place.read_text(encoding="utf-8")))
        means = np.array(content.pop("means"), np.float64)
        counts = np.array(content.pop("counts"), np.int64)
    except (TypeError, ValueError, KeyError):
        raise InputError(f"{place}: damaged: make it again by nt calibrate") from None
    if means.shape != (NUM_CONTEXTS, 4) or counts.shape != means.shape:
        raise InputError(f"{place}: damaged: make it again by nt calibrate")
    for name in ("parameters", "window_tokens", "frames"):
        if content.get(name) != settings[name]:
            rule = f"made with {name} = {content.get(name)!r}, not {settings[name]!r}"
            raise InputError(f"{place}: {rule}: make one by nt calibrate")
    return Calibration(means, counts, content)
