"""The configuration of a corpus."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from nucleotide_transformer.errors import RuleError, require, require_choices, require_positive
from nucleotide_transformer.files import require_local

_FIELDS_OF_ONE_BUILD = ("inputs", "output", "workers", "keep_going")
FIELDS_OF_NOW = {
    "max_unknown_tokens": (0.5, 1.0),
    "min_length": (0, 0),
    "short_contigs": ("pack", "pad"),
}
"""Fields that earlier versions did not have -> their default, and what those versions did."""


def require_utf8(field: str, path: Path) -> None:
    """Raises an `InputError` for a path that is no text: ArrayRecord opens none of another kind."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RuleError(field, str(path), "must have a name in UTF-8") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What a corpus is made from, and how it is cut and split."""

    inputs: tuple[Path, ...]
    """FASTA files (plain, gzip, bgzip), or tables (.tsv) with the columns file, species, assembly
    and, if wanted, group. File names in a table are relative to it. A genome in several files has a
    row for each, with another assembly: chr1, chr2."""
    output: Path = Path("runs/corpus")
    """Folder of the corpus. Finished genomes found there are kept."""
    chunk_length: int = 6_000
    """Nucleotides from the start of a record to the start of the next one."""
    overlap: int = 100
    """Nucleotides added on each side: a record has chunk_length + 2 * overlap."""
    max_unknown: float = 0.5
    """Chunks with a larger share of N than this are left out, and counted."""
    max_unknown_tokens: float | None = None
    """Chunks with a larger share of N among their tokens are left out, too: one N is a token, and
    so are six known letters. 0.5 leaves out chunks that are more than a seventh N; 1 leaves out
    none. By default 0.5, or what an existing corpus was built with."""
    min_length: int = 0
    """Contigs with fewer nucleotides are left out and counted, and so are parts of contigs in one
    split. The published corpus kept whole records only: chunk_length + 2 * overlap."""
    short_contigs: Literal["auto", "pack", "pad"] = "auto"
    """What becomes of contigs, or parts of contigs in one split, that are shorter than a record.
    pack: those of one genome and split are joined, with an N between them, until a record is full.
    pad: each is a short record, and the rest of its sequence is padding. auto: pack, or what an
    existing corpus was built with."""
    validation_fraction: float = 0.05
    """Share of each genome that goes to validation, in blocks. Genomes with a contig that is named
    below have none."""
    test_fraction: float = 0.05
    """Share of the same genomes that goes to test, in blocks."""
    block_length: int = 60_000
    """Nucleotides of a block; a block is in one split only. Genomes longer than about 1.3 million
    nucleotides (defaults) always contribute held-out blocks; shorter ones may not."""
    validation_contigs: tuple[str, ...] = ()
    """Contigs that are the validation split: `contig`, `species:contig` or `species:*`. A genome
    (a FASTA file) in which a contig is named, here or for test, has no blocks held out: its other
    contigs are for training. The others have blocks."""
    test_contigs: tuple[str, ...] = ()
    """Contigs that are the test split, named in the same ways; none that is in validation."""
    seed: int = 0
    """Decides which blocks are held out."""
    compression: Literal["none", "zstd"] = "none"
    """Compression of the records. none: 1.0 bytes a nucleotide, read faster; zstd: 0.3."""
    workers: int | None = None
    """Processes, each of which builds one genome at a time. By default one per core, but no more
    than the size of the input is worth."""
    keep_going: bool = False
    """Go on after a bad input, and name all of them at the end. The genomes that are good stay
    built; the corpus is there when a run finds all inputs good."""

    def __post_init__(self) -> None:
        require_choices(self)
        for path in self.inputs:
            require_local("inputs", path)
        require_local("output", self.output)
        require_utf8("output", self.output)
        require(len(self.inputs) > 0, "inputs", self.inputs, "must name a FASTA file or a table")
        require_positive(self, "chunk_length", "block_length")
        require(self.overlap >= 0, "overlap", self.overlap, "must be 0 or above")
        require(0 <= self.max_unknown <= 1, "max_unknown", self.max_unknown, "must lie in [0, 1]")
        share = self.max_unknown_tokens
        rule = "must lie in [0, 1], or be none"
        require(share is None or 0 <= share <= 1, "max_unknown_tokens", share, rule)
        require(self.min_length >= 0, "min_length", self.min_length, "must be 0 or above")
        for field in ("validation_fraction", "test_fraction"):
            value = getattr(self, field)
            require(0 <= value < 0.5, field, value, "must lie in [0, 0.5)")
        record_length = self.chunk_length + 2 * self.overlap
        rule = f"must be at least a record, chunk_length + 2 * overlap = {record_length}"
        require(self.block_length >= record_length, "block_length", self.block_length, rule)
        rule = "must be above 0, or none"
        require(self.workers is None or self.workers > 0, "workers", self.workers, rule)
        for name in self.validation_contigs:
            rule = "must not be in test_contigs too: a contig is in one split"
            require(name not in self.test_contigs, "validation_contigs", name, rule)

    def resolve(self, built: Mapping[str, Any] | None) -> "CorpusConfig":
        """The config with a value for each field that is None or auto.

        Args:
            built: the recipe of the corpus that is there, if one is.
        """
        values: dict[str, Any] = {
            field: default if built is None else built.get(field, before)
            for field, (default, before) in FIELDS_OF_NOW.items()
            if getattr(self, field) in (None, "auto")
        }
        return dataclasses.replace(self, **values)

    def make_recipe(self) -> dict[str, Any]:
        """The fields that decide the records, as JSON holds them: not those of one build."""
        values = dataclasses.asdict(self.resolve(None))
        for field in _FIELDS_OF_ONE_BUILD:
            del values[field]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
