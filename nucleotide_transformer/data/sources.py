"""The genomes a corpus is made from: FASTA files, or the rows of a table."""

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from nucleotide_transformer.bars import make_byte_bar
from nucleotide_transformer.data.fasta import GZIP_MAGIC
from nucleotide_transformer.data.intervals import is_count
from nucleotide_transformer.data.problems import Problems
from nucleotide_transformer.data.tables import name_cells, read_cells
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.files import digest_file, show_digest

SHIPPED_GENOMES = Path(__file__).parent / "genomes" / "genomes.tsv"
"""Table of the genomes that come with this package."""

TWIN_RULE = "what is held out of one would be trained on in the other: leave one out"
"""Why no genome may be in a corpus twice."""
_TABLE_SUFFIX = ".tsv"
_REQUIRED_COLUMNS = ("file", "species", "assembly")


class Source(NamedTuple):
    """One FASTA file and what it holds."""

    file: Path
    species: str
    assembly: str
    group: str
    place: str = "inputs"
    """Where it is named: a row of a table, or the inputs."""
    sha256: str = ""
    """Digest of the file as the table has it, in hex; empty if it does not say."""
    num_nucleotides: int | None = None
    """As the table has it."""

    @property
    def name(self) -> str:
        """Name of its folder: readable, and different for any other species and assembly."""
        readable = re.sub(r"[^A-Za-z0-9.]+", "_", f"{self.species}_{self.assembly}").strip("_.")
        digest = hashlib.sha256(f"{self.species}\0{self.assembly}".encode()).hexdigest()
        return f"{readable[:80]}-{digest[:8]}"


def load_sources(inputs: Sequence[Path], problems: Problems | None = None) -> list[Source]:
    """Lists the genomes of FASTA files and tables (.tsv), sorted by species, then assembly.

    A FASTA file that is named itself has its name, without .fa.gz and the like, for a species.

    Args:
        inputs: the files.
        problems: is told of bad inputs, which are left out; by default the first one is raised.

    Raises:
        MissingInputError: if an input, or a file of a table, is missing.
        InputError: if a table lacks a column or a value, or two genomes have one species and
            assembly, or species that differ by capitals only.
    """
    problems = Problems() if problems is None else problems
    sources: dict[tuple[str, str], Source] = {}
    spellings: dict[str, str] = {}
    for path in map(Path, inputs):
        found: list[Source] = []
        with problems.collect(str(path)):
            found = read_table(path, problems) if is_table(path) else [_name_file(path)]
        for source in found:
            with problems.collect(f"{source.place}: {source.file}"):
                _check_readable(source.file, f"{source.place}: {source.file}", "FASTA file")
                _check_names(source, sources, spellings)
                sources[source.species, source.assembly] = source
    return [sources[key] for key in sorted(sources)]


def _check_names(
    source: Source, sources: Mapping[tuple[str, str], Source], spellings: dict[str, str]
) -> None:
    """Checks the species and assembly of a genome beside those of the others."""
    key = (source.species, source.assembly)
    if key in sources:
        rule = f"has the species {key[0]!r} and assembly {key[1]!r} of {sources[key].file}"
        raise InputError(f"{source.place}: {source.file}: {rule}: one of them must differ")
    spelling = spellings.setdefault(source.species.casefold(), source.species)
    if spelling != source.species:
        rule = f"is {spelling!r} elsewhere: one species must be written in one way"
        raise InputError(f"{source.place}: species {source.species!r}: {rule}")


def check_distinct(sources: Sequence[Source], problems: Problems) -> None:
    """Checks that no two files are the same; only those of one size are read.

    Args:
        sources: the genomes.
        problems: is told of the second of two.
    """
    by_size: dict[int, list[Source]] = {}
    for source in sources:
        by_size.setdefault(source.file.stat().st_size, []).append(source)
    for alike in by_size.values():
        found: dict[str, Source] = {}
        for source in alike if len(alike) > 1 else ():
            twin = found.setdefault(digest_file(source.file), source)
            if twin is not source:
                names = f"{source.file}: is the same file as {twin.file} ({twin.species!r})"
                problems.add(source.name, InputError(f"{source.place}: {names}: {TWIN_RULE}"))


def check_stated(source: Source, *, sha256: str, num_nucleotides: int) -> None:
    """Checks that a file is the one that its table says.

    Raises:
        InputError: if its digest or its length is another one.
    """
    rule = "the file is not the one of the table: get it again, or correct the table"
    if source.sha256 not in ("", sha256):
        stated, found = show_digest(source.sha256), show_digest(sha256)
        difference = f"sha256 = {stated}, {source.file} has {found}"
        raise InputError(f"{source.place}: {difference}: {rule}")
    if source.num_nucleotides not in (None, num_nucleotides):
        difference = f"nucleotides = {source.num_nucleotides:,}, {source.file} has"
        raise InputError(f"{source.place}: {difference} {num_nucleotides:,}: {rule}")


def estimate_bytes(sources: Sequence[Source], compression: str) -> int:
    """About how many bytes the records of genomes will have; gaps are counted as if they were kept.

    Where a table does not give the nucleotides of a gzipped file, there are 2.5 for each of its
    bytes: gzip takes 0.29 to 0.4 bytes for a nucleotide (levels 9 to 1, upper and lower case).
    """
    num_nucleotides = 0.0
    for source in sources:
        with source.file.open("rb") as file:
            is_zipped = file.read(2) == GZIP_MAGIC
        letters = source.file.stat().st_size * (2.5 if is_zipped else 1)
        num_nucleotides += source.num_nucleotides or letters
    return int(num_nucleotides) // (1 if compression == "none" else 4)


@contextlib.contextmanager
def show_hashing(sources: Sequence[Source], *, visible: bool) -> Iterator[Callable[[Path], str]]:
    """Gives a `digest_file` that moves a bar over the bytes of these genomes."""
    total = sum(source.file.stat().st_size for source in sources)
    with make_byte_bar("files checked", is_shown=visible) as bar:
        task = bar.add_task("", total=total)

        def digest_and_show(path: Path) -> str:
            with bar.open(path, "rb", total=total, task_id=task) as file:
                return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()

        yield digest_and_show


def is_table(path: Path) -> bool:
    """Whether an input is a table of FASTA files, by its name."""
    return path.suffix.lower() == _TABLE_SUFFIX


def _check_readable(file: Path, place: str, kind: str) -> None:
    """Checks that there is a file; messages begin with `place` and call it by its kind."""
    if not file.exists():
        state = "is a link that leads nowhere" if file.is_symlink() else f"no such {kind}"
        raise MissingInputError(f"{place}: {state}")
    if not file.is_file():
        found = "a folder" if file.is_dir() else "a device or a pipe"
        raise InputError(f"{place}: must be a {kind}, not {found}")
    if not os.access(file, os.R_OK):
        raise InputError(f"{place}: can't be read: no permission")


def _name_file(path: Path) -> Source:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise InputError(f"inputs: {str(path)!a}: must have a name in UTF-8") from None
    species = re.sub(r"(\.(fa|fna|fasta|ffn|fas))?(\.(gz|bgz))?$", "", path.name)
    return Source(path, species, "", "")


def read_table(path: Path, problems: Problems | None = None) -> list[Source]:
    """The rows of a table: tab-separated, with a header; lines that begin with # are skipped.

    Args:
        path: of the table.
        problems: is told of bad rows, which are left out; by default the first one is raised.

    Raises:
        MissingInputError, InputError: as `load_sources`.
    """
    problems = Problems() if problems is None else problems
    _check_readable(path, str(path), "table")
    sources, num_rows = [], 0
    for place, columns, cells in read_cells(path, _REQUIRED_COLUMNS):
        num_rows += 1
        with problems.collect(place):
            sources.append(_read_row(path, place, name_cells(place, columns, cells)))
    if not num_rows:
        raise InputError(f"{path}: no row: a table must have at least one genome")
    return sources


def _read_row(path: Path, place: str, row: dict[str, str]) -> Source:
    for column in _REQUIRED_COLUMNS:
        if not row.get(column):
            raise InputError(f"{place}: column {column!r} is empty: must have a value")
    sha256, number = row.get("sha256", "").lower(), row.get("nucleotides", "").replace(",", "")
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise InputError(f"{place}: sha256 = {sha256[:70]!r}: must have 64 digits from 0 to f")
    if number and not is_count(number):
        raise InputError(f"{place}: nucleotides = {number[:70]!r}: must be a whole number")
    return Source(
        file=path.parent / row["file"],
        species=row["species"],
        assembly=row["assembly"],
        group=row.get("group", ""),
        place=place,
        sha256=sha256,
        num_nucleotides=int(number) if number else None,
    )
