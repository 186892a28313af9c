"""Small genomes with annotation, whose letters are known from how they were made."""

from pathlib import Path

import numpy as np

from nucleotide_transformer.analysis.genome import Genome, load_genome

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def random_letters(random: np.random.Generator, size: int, letters: str = "ACGT") -> str:
    return "".join(random.choice(list(letters), size))


def reverse_complement(text: str) -> str:
    return text.translate(COMPLEMENT)[::-1]


def put(text: str, start: int, piece: str, strand: str) -> str:
    """The text with a piece at a place, as the strand reads it."""
    piece = piece if strand == "+" else reverse_complement(piece)
    return text[:start] + piece + text[start + len(piece) :]


def save_genome(path: Path, contigs: dict[str, str]) -> Genome:
    path.write_text("".join(f">{name}\n{text}\n" for name, text in contigs.items()))
    return load_genome(path)


def write_gff(path: Path, rows: list[tuple[str, str, int, int, str, str, str]]) -> Path:
    """Rows of contig, kind, start and end (0-based, half-open), strand, phase and attributes."""
    lines = [
        f"{contig}\tx\t{kind}\t{start + 1}\t{end}\t.\t{strand}\t{phase}\t{attributes}\n"
        for contig, kind, start, end, strand, phase, attributes in rows
    ]
    path.write_text("".join(lines))
    return path
