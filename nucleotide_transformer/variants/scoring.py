"""Scores of variants that are in memory."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Float
from nucleotide_transformer.variants.calibration import Calibration
from nucleotide_transformer.variants.changes import Change, find_change
from nucleotide_transformer.variants.config import WindowConfig, check_scores
from nucleotide_transformer.variants.evidence import Collector, Evidence
from nucleotide_transformer.variants.reading import Allele
from nucleotide_transformer.variants.reference import Reference
from nucleotide_transformer.variants.scores import SCORES
from nucleotide_transformer.variants.stretches import join_spans


class Scored(NamedTuple):
    """Scores of some variants, in their order."""

    values: Float[np.ndarray, "N S"]
    """A column for each score; NaN where there is none."""
    reasons: list[str]
    """Why values are missing, one of `REASONS`; "" where none is."""


class Scorer:
    """A model and a reference, ready to score variants.

    Example:
        >>> scorer = Scorer(load_pretrained(), open_reference(Path("hg38.fa")), ("llr",))
        >>> scorer.score([Allele("mine", "chr17", 43_045_704, "G", "A", "rs1")]).values
        array([[-1.87]])
    """

    def __init__(
        self,
        model: Model,
        reference: Reference,
        scores: Sequence[str] = ("llr",),
        *,
        around: WindowConfig = WindowConfig(),
        calibration: Calibration | None = None,
    ) -> None:
        """Puts the model on its devices.

        Args:
            model: what `load_pretrained` returns.
            reference: what `open_reference` returns.
            scores: names of `SCORES`.
            around: window, layer, devices.
            calibration: for `llr_calibrated`.

        Raises:
            InputError: for an unknown score, or a window or layer that the model has not.
        """
        check_scores(tuple(scores))
        self.scores = tuple(scores)
        self.reference, self._calibration = reference, calibration
        settings = around.resolve(model)
        self.limit = max(settings.num_kmers * model.config.k // 2, 1)
        self._collector = Collector(model, reference, settings, around.num_devices)
        self._needs = {need for name in scores for need in SCORES[name].needs}

    def score(self, alleles: Sequence[Allele]) -> Scored:
        """Scores of alleles, the same to the last bit whatever others are among them."""
        found = self.find_changes(alleles)
        reasons = [reason if isinstance(reason, str) else "" for reason in found]
        changes = [change for change in found if isinstance(change, Change)]
        values = np.full((len(alleles), len(self.scores)), np.nan)
        if changes:
            rows = [i for i, reason in enumerate(reasons) if not reason]
            values[rows] = self.score_changes(changes)
        lacks = np.isnan(values)
        lacks_known = (lacks & [SCORES[name].is_for_all for name in self.scores]).any(axis=1)
        for row in np.flatnonzero(lacks.any(axis=1)):
            change = found[row]
            if isinstance(change, Change):
                reasons[row] = "unknown" if change.is_snv or lacks_known[row] else "not_snv"
        return Scored(values, reasons)

    def find_changes(self, alleles: Sequence[Allele]) -> list[Change | str]:
        """What each allele changes, or the reason why it can't be scored."""
        return [find_change(allele, self.reference, self.limit) for allele in alleles]

    def digest_letters(self, changes: Sequence[Change | str]) -> str:
        """Hexadecimal, of all that scores of some changes depend on in the reference.

        Those are the letters as far as windows reach, and the reasons where there is no change.
        """
        digest = hashlib.blake2b(repr(list(changes)).encode(), digest_size=16)
        known = [change for change in changes if isinstance(change, Change)]
        for span, _ in join_spans(known, self._collector.margin):
            digest.update(self.reference.fetch(*span))
        return digest.hexdigest()

    def score_changes(self, changes: Sequence[Change]) -> Float[np.ndarray, "N S"]:
        """Scores of changes, a column for each; NaN where there is none."""
        return self.compute(self.find_evidence(changes))

    def find_evidence(self, changes: Sequence[Change], *also: str) -> Evidence:
        """What the scores need, and what else is named: see `Collector.collect`."""
        evidence = self._collector.collect(changes, {*self._needs, *also})
        if self._calibration:
            evidence.background = self._calibration.look_up(evidence)
        return evidence

    def compute(self, evidence: Evidence) -> Float[np.ndarray, "N S"]:
        """Scores from their evidence."""
        is_snv = evidence.ref >= 0
        columns = []
        for name in self.scores:
            score = SCORES[name]
            columns.append(np.where(is_snv | score.is_for_all, score.compute(evidence), np.nan))
        return np.stack(columns, axis=1)
