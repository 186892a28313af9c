"""What a study of a model's knowledge measures, and how much of it."""

import dataclasses
from pathlib import Path

from nucleotide_transformer.errors import require, require_positive
from nucleotide_transformer.weights.hub import PACKAGED


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnowledgeConfig:
    """What a model knows of annotated genes, as numbers and pictures."""

    model: str = PACKAGED
    """Name of a released model, hub repository, folder or run: what `load_pretrained` takes."""
    annotation: Path
    """Folder of GFF3 and GTF files (.gff, .gff3, .gtf, also with .gz), one for each genome."""
    genomes: Path
    """Folder of FASTA files; of each annotation's contigs exactly one must have all."""
    output: Path
    """Folder for `knowledge.json` and the pictures; made if it is not there."""
    corpus: Path | None = None
    """Corpus that the model was trained on: numbers are given for its held-out blocks, too."""
    sites: int = 250
    """Start codons, stop codons, donors, acceptors and random places of each genome: so many of
    each; with a corpus, half of them from held-out blocks, or as many as there are."""
    reach: int = 30
    """Nucleotides on each side of a site that are measured."""
    context_tokens: int = 64
    """Tokens that the model sees of a site's surroundings and of a stretch of codons."""
    stretches: int = 100
    """Stretches of coding sequence of each genome, for the loss by codon position."""
    regions: int = 100
    """Windows for each kind of sequence of each genome; several of one element are one unit of the
    errors."""
    window_tokens: int = 512
    """Tokens of such a window: those of a training sequence, <cls> included."""
    probe_windows: int = 250
    """Windows of each kind of element for the probe, at most."""
    probe_tokens: int = 12
    """Tokens of such a window, without <cls>. (A tRNA gene has 71 nucleotides or more.)"""
    probe_layers: int = 5
    """Layers of the network that are probed, evenly spaced, at most."""
    seed: int = 0
    """Of the choice of sites, regions and windows, and of the untrained network."""

    def __post_init__(self) -> None:
        require_positive(self, "reach", "sites", "stretches", "regions")
        require_positive(self, "probe_windows", "probe_tokens", "probe_layers")
        rule = "must be 2 or above: <cls> and a token"
        require(self.window_tokens >= 2, "window_tokens", self.window_tokens, rule)
        require(self.seed >= 0, "seed", self.seed, "must be 0 or above")

    def find_context(self, k: int) -> int:
        """Nucleotides on each side of a site that are `context_tokens` in every reading frame.

        A frame spells k - 1 of them as single letters, one token each.

        Raises:
            InputError: if `reach` does not fit into it.
        """
        context = (k * (self.context_tokens - k) + k - 2) // 2
        rule = f"must leave {self.reach + k - 1} nucleotides on each side, and leaves {context}"
        fits = context >= self.reach + k - 1
        require(fits, "context_tokens", self.context_tokens, rule)
        return context
