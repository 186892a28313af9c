"""The genomes a corpus is made from: FASTA files, or the rows of a table."""

import csv
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nucleotide_transformer.errors import InputError, MissingInputError

SHIPPED_GENOMES = Path(__file__).parent / "genomes" / "genomes.tsv"
"""Table of the genomes that come with this package."""

_TABLE_SUFFIX = ".tsv"
_REQUIRED_COLUMNS = ("file", "species", "assembly")


class Source(NamedTuple):
    """One FASTA file and what it holds."""

    file: Path
    species: str
    assembly: str
    group: str

    @property
    def name(self) -> str:
        """Name of its folder: readable, and different for any other species and assembly."""
        readable = re.sub(r"[^A-Za-z0-9.]+", "_", f"{self.species}_{self.assembly}").strip("_.")
        digest = hashlib.sha256(f"{self.species}\0{self.assembly}".encode()).hexdigest()
        return f"{readable[:80]}-{digest[:8]}"


def load_sources(inputs: Sequence[Path]) -> list[Source]:
    """Lists the genomes of FASTA files and tables (.tsv), sorted by species, then assembly.

    A FASTA file that is named itself has its name, without .fa.gz and the like, for a species.

    Raises:
        MissingInputError: if an input, or a file of a table, is missing.
        InputError: if a table lacks a column or a value, or two genomes have one species and
            assembly.
    """
    sources: dict[tuple[str, str], Source] = {}
    for path in map(Path, inputs):
        is_table = path.suffix.lower() == _TABLE_SUFFIX
        for place, source in _read_table(path) if is_table else [("inputs", _name_file(path))]:
            if not source.file.exists():
                raise MissingInputError(f"{place}: {source.file}: no such FASTA file")
            if not source.file.is_file():
                raise InputError(f"{place}: {source.file}: must be a FASTA file, not a folder")
            key = (source.species, source.assembly)
            if key in sources:
                rule = f"has the species {key[0]!r} and assembly {key[1]!r} of {sources[key].file}"
                raise InputError(f"{place}: {source.file}: {rule}: one of them must differ")
            sources[key] = source
    return [sources[key] for key in sorted(sources)]


def _name_file(path: Path) -> Source:
    species = re.sub(r"(\.(fa|fna|fasta|ffn|fas))?(\.(gz|bgz))?$", "", path.name)
    return Source(path, species, "", "")


def _read_table(path: Path) -> list[tuple[str, Source]]:
    """Place and source of every row."""
    if not path.exists():
        raise MissingInputError(f"{path}: no such table")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start + 1}: must be a table of UTF-8 text") from None
    reader = csv.DictReader(text.split("\n"), delimiter="\t", quoting=csv.QUOTE_NONE)
    for column in _REQUIRED_COLUMNS:
        if column not in (reader.fieldnames or ()):
            found = ", ".join(reader.fieldnames or ()) or "none"
            rule = f"must have the columns {', '.join(_REQUIRED_COLUMNS)}"
            raise InputError(f"{path}: line 1: no column {column!r} (found: {found}): {rule}")
    rows = []
    for row in reader:
        place = f"{path}: line {reader.line_num}"
        for column in _REQUIRED_COLUMNS:
            if not row[column]:
                raise InputError(f"{place}: column {column!r} is empty: must have a value")
        file = path.parent / row["file"]
        rows.append((place, Source(file, row["species"], row["assembly"], row.get("group") or "")))
    if not rows:
        raise InputError(f"{path}: no row: a table must have at least one genome")
    return rows
