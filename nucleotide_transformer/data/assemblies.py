"""Lists of assemblies, and the table that they become: what to download, and what it must be.

nt corpus list --inputs hub:InstaDeepAI/multi_species_genomes --output genomes/genomes.tsv
nt corpus download genomes/genomes.tsv
nt corpus build --inputs genomes/genomes.tsv --output runs/corpus
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from nucleotide_transformer.data.intervals import is_count, read_lines
from nucleotide_transformer.data.tables import name_cells, read_cells
from nucleotide_transformer.data.web import is_address
from nucleotide_transformer.errors import (
    InputError,
    MissingInputError,
    RunFailedError,
    describe_error,
    require,
)
from nucleotide_transformer.files import write_whole

COLUMNS = ("file", "species", "assembly", "group", "address", "bytes", "checksum")
"""The first three are what a corpus is built from."""
HUB, TAXON = "hub:", "taxon:"
HUB_FILES = ("urls.csv", "urls.txt")
"""What the published dataset calls its list of assemblies, or called it in an earlier version."""
_ACCESSION = re.compile(r"GC[AF]_\d{9}\.\d+")
_SPECIES_COLUMNS = ("species", "organism", "organism_name", "name")
_FASTA_ENDING = re.compile(r"(_genomic)?\.(fa|fna|fasta)(\.(gz|bgz))?$")


class Assembly(NamedTuple):
    """A genome that can be downloaded."""

    file: str
    """Name of the file that it becomes, beside the table."""
    species: str
    assembly: str
    """Accession, or what the source calls it."""
    group: str
    address: str
    num_bytes: int | None
    """Of the file as it is served."""
    checksum: str
    """`md5:` or `sha256:` and the digest of the file in hex; empty if the source has none."""


class Request(NamedTuple):
    """One line of a list: an assembly that was asked for."""

    place: str
    accession: str
    """Empty if it is asked for by an address without one."""
    address: str
    """Empty if it is asked for by accession."""
    species: str
    """Empty if the list does not say."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Which assemblies to list, and where to."""

    inputs: tuple[str, ...]
    """Any of: an NCBI accession (GCF_000005845.2); an address of a FASTA file (http, https, ftp,
    s3); a file with one of these in each line; taxon:NAME or taxon:ID, all of its reference
    genomes; hub:OWNER/NAME, the list in a dataset of the Hugging Face hub."""
    output: Path = Path("genomes/genomes.tsv")
    """Table to write, which must not be there yet. Downloads go to its folder."""
    reference_only: bool = True
    """For a taxon, list only NCBI's reference genomes."""
    service: str = "https://api.ncbi.nlm.nih.gov/datasets/v2"
    """Address of NCBI's Datasets service."""

    def __post_init__(self) -> None:
        require(len(self.inputs) > 0, "inputs", self.inputs, "must name what to list")
        require(self.output.suffix == ".tsv", "output", str(self.output), "must end in .tsv")


def read_requests(words: Sequence[str]) -> list[Request]:
    """What accessions, addresses and files of them ask for; the same one is asked for once.

    Raises:
        InputError, MissingInputError: one line with the file, the line and the rule.
    """
    found: dict[str, Request] = {}
    for word in words:
        if word.startswith(HUB):
            requests = list(_read_list(_fetch_hub_list(word), word))
        elif (request := _read_cell(word, "inputs")) is not None:
            requests = [request]
        else:
            requests = list(_read_list(Path(word), word))
        for request in requests:
            found.setdefault(request.accession or request.address, request)
    return list(found.values())


def name_address(address: str, species: str) -> Assembly:
    """The assembly at an address, by what the address alone says."""
    file = PurePosixPath(unquote(urlsplit(address).path)).name
    stem = _FASTA_ENDING.sub("", file)
    accession = _ACCESSION.match(stem)
    readable = species or stem.replace("_", " ")
    return Assembly(file, readable, accession[0] if accession else stem, "", address, None, "")


def save_assemblies(path: Path, assemblies: Sequence[Assembly]) -> None:
    """Writes the table, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(COLUMNS)]
    for assembly in assemblies:
        values = ("" if value is None else str(value) for value in assembly)
        lines.append("\t".join(re.sub(r"\s+", " ", value).strip() for value in values))
    with write_whole(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_assemblies(path: Path) -> list[Assembly]:
    """Reads a table that `save_assemblies`, or a user, wrote.

    Raises:
        MissingInputError, InputError: one line with the line of the file and the rule.
    """
    if not path.is_file():
        raise MissingInputError(f"{path}: no such table: `nt corpus list` makes one")
    assemblies: dict[str, Assembly] = {}
    for place, columns, cells in read_cells(path, ("file", "address")):
        assembly = _read_row(place, name_cells(place, columns, cells))
        if assembly.file in assemblies:
            raise InputError(f"{place}: {assembly.file}: is named twice")
        assemblies[assembly.file] = assembly
    return list(assemblies.values())


def _read_row(place: str, row: dict[str, str]) -> Assembly:
    values = {column: row.get(column, "") for column in COLUMNS}
    file, number, checksum = values["file"], values.pop("bytes"), values["checksum"]
    if not file or PurePosixPath(file).name != file or file.startswith("."):
        raise InputError(f"{place}: file = {file!r}: must be a name without a folder")
    if not is_address(values["address"]):
        rule = "must be an address by http, https, ftp or s3"
        raise InputError(f"{place}: address = {values['address']!r}: {rule}")
    if number and not is_count(number):
        raise InputError(f"{place}: bytes = {number[:70]!r}: must be a whole number")
    if checksum and not re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum):
        rule = "must be md5: or sha256: and as many digits, or empty"
        raise InputError(f"{place}: checksum = {checksum!r}: {rule}")
    return Assembly(num_bytes=int(number) if number else None, **values)


def _read_cell(text: str, place: str, species: str = "") -> Request | None:
    """What a word asks for, if it is an accession or an address."""
    if _ACCESSION.fullmatch(text):
        return Request(place, text, "", species)
    if is_address(text):
        accession = _ACCESSION.match(PurePosixPath(urlsplit(text).path).name)
        return Request(place, accession[0] if accession else "", text, species)
    return None


def _read_list(path: Path, shown: str) -> Iterator[Request]:
    """Lines, or rows of cells, in each of which one is an accession or an address."""
    if not path.is_file():
        rule = "must be an accession (GCF_000005845.2), an address, taxon:, hub:, or a file of them"
        raise MissingInputError(f"{shown}: no such file: {rule}")
    columns: list[str] = []
    for number, line in read_lines(path):
        cells = [cell.strip().strip('"') for cell in re.split(r"[\t,]", line)]
        if not any(cells) or line.startswith("#"):
            continue
        row = dict(zip(columns, cells, strict=False))
        species = next((row[name] for name in _SPECIES_COLUMNS if row.get(name)), "")
        place = f"{shown}: line {number}"
        found = (_read_cell(cell, place, species) for cell in cells)
        request = next((each for each in found if each), None)
        if request:
            yield request
        elif not columns and number == 1:
            columns = [cell.lower() for cell in cells]
        else:
            rule = "must hold an accession (GCF_000005845.2) or an address"
            raise InputError(f"{place}: {line[:60]!r}: {rule}")


def _fetch_hub_list(word: str) -> Path:
    """The file of a dataset on the hub that lists its assemblies."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    repository = word.removeprefix(HUB)
    for name in HUB_FILES:
        try:
            found = huggingface_hub.hf_hub_download(repository, name, repo_type="dataset")
        except EntryNotFoundError:
            continue
        except Exception as error:  # of the network, in classes of several libraries
            raise RunFailedError(f"{word}: {name}: {describe_error(error)}") from None
        return Path(found)
    raise MissingInputError(f"{word}: holds no {' or '.join(HUB_FILES)}: must list assemblies")
