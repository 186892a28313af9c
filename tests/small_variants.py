"""A tiny model, a genome in memory, and the scores of variants written out plainly."""

from pathlib import Path

import numpy as np
from small_genomes import reverse_complement
from small_models import V2

from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.variants.config import WindowConfig
from nucleotide_transformer.variants.reading import Allele
from nucleotide_transformer.variants.reference import Reference
from nucleotide_transformer.variants.scoring import Scorer

K = V2.k
WIDTH = 8
"""K-mers of a window."""
OPTIONS = {"window": K * WIDTH + 1, "flank": 7, "num_devices": 1}
AROUND = WindowConfig(**OPTIONS)


def make_text(size: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), size))


def make_reference(**contigs: str) -> Reference:
    lengths = {name: len(text) for name, text in contigs.items()}
    return Reference(Path("memory"), lengths, lambda contig, a, b: contigs[contig][a:b].encode())


def make_scorer(model: Model, scores: tuple[str, ...], **contigs: str) -> Scorer:
    return Scorer(model, make_reference(**contigs), scores, around=AROUND)


def list_changes(text: str, *places: int, contig: str = "c") -> list[Allele]:
    """All single-nucleotide changes at some places."""
    return [
        Allele("test", contig, place, text[place], letter, ".")
        for place in places
        for letter in "ACGT"
        if letter != text[place]
    ]


def cut_window(text: str, start: int, width: int = WIDTH) -> tuple[str, int]:
    """The letters that show the k-mer at `start`, and how many k-mers come before it."""
    before, behind = start // K, (len(text) - start - K) // K
    left = min(width // 2, before)
    right = min(width - 1 - left, behind)
    left = min(width - 1 - right, before)
    return text[start - K * left : start + K * (right + 1)], left


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max()
    return x - np.log(np.exp(x).sum())


def score_kmers(model: Model, text: str, index: int, *, masked: bool) -> dict[str, float]:
    """Log-probability of each k-mer at token `index` (from 0, without <cls>) of a text."""
    tokens = model.tokenizer.encode(text)[None].copy()
    if masked:
        tokens[0, index + 1] = model.config.mask_token_id
    logits = np.asarray(model(tokens).logits[0, index + 1])
    names = model.tokenizer.tokens
    ids = [i for i, name in enumerate(names) if len(name) == K and set(name) <= set("ACGT")]
    return dict(zip([names[i] for i in ids], log_softmax(logits[ids]), strict=True))


def plain_distribution(
    model: Model, text: str, place: int, *, masked: bool, frames: int = K
) -> dict[str, float]:
    """P of A, C, G and T at a place: over both strands and the frames that there are."""
    sums, count = dict.fromkeys("ACGT", 0.0), 0
    for strand in ("+", "-"):
        letters = text if strand == "+" else reverse_complement(text)
        own = place if strand == "+" else len(text) - 1 - place
        for j in range(K):
            start = own - j
            if start < 0 or start + K > len(text) or start % K >= frames:
                continue
            if masked:
                window, index = cut_window(letters, start)
            else:
                frame, number = start % K, start // K
                half = WIDTH // 2
                last = (len(text) - K - frame) // K
                centre = min(number // half * half + half // 2, last)
                window, left = cut_window(letters, frame + K * centre)
                index = left + number - centre
            for kmer, log_p in score_kmers(model, window, index, masked=masked).items():
                letter = kmer[j] if strand == "+" else reverse_complement(kmer[j])
                sums[letter] += np.exp(log_p)
            count += 1
    return {letter: total / count for letter, total in sums.items()}
