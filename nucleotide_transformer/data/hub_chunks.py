"""The published corpus as chunks on the Hugging Face hub, back to FASTA files and a table.

Each row of that dataset is a chunk: `sequence`, the header of its contig (`description`), where it
lies in it (`start_pos`, `end_pos`, 0-based and half-open), and the address of its FASTA file
(`fasta_url`). Rows of a contig follow one another and overlap; those of a file follow one another,
too. What no chunk holds, the end of each contig and all short contigs, is not there to be had.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nucleotide_transformer.data.assemblies import Assembly, name_address, save_assemblies
from nucleotide_transformer.errors import (
    InputError,
    NotAFolderError,
    OutputExistsError,
    describe_error,
    import_extra,
)
from nucleotide_transformer.files import catch_termination, require_local, write_whole

COLUMNS = ("sequence", "description", "start_pos", "fasta_url")
TABLE_FILE = "genomes.tsv"
_LINE = 80
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunksConfig:
    """Which chunks to unpack, and where to."""

    dataset: str = "InstaDeepAI/multi_species_genomes"
    """A dataset of the hub, or a folder of Parquet files with the same columns."""
    name: str | None = None
    """Configuration of the dataset, such as 6kbp."""
    revision: str | None = None
    """Revision of the dataset on the hub. A dataset that is a loading script needs
    refs/convert/parquet, the hub's own copy as Parquet: scripts are not run."""
    output: Path = Path("genomes")
    """New or empty folder for the FASTA files and their table, genomes.tsv. Its column `group`
    holds the split."""

    def __post_init__(self) -> None:
        require_local("output", self.output)


def unpack_chunks(config: ChunksConfig, *, note: Callable[[str], None] = lambda _: None) -> Path:
    """Writes a FASTA file for each that the chunks are of, and a table of them; or nothing.

    Returns:
        The table, which `nt corpus build` takes.

    Raises:
        InputError: if there is no such dataset, or its rows are no chunks in their order.
        OutputExistsError: if the folder holds anything.
    """
    folder = config.output
    if folder.exists() and not folder.is_dir():
        raise NotAFolderError(f"{folder}: is a file: the output must be a folder")
    if folder.exists() and any(folder.iterdir()):
        raise OutputExistsError(f"{folder}: holds files: the output must be an empty or new folder")
    splits = _load_splits(config)
    folder.mkdir(parents=True, exist_ok=True)
    assemblies: dict[str, Assembly] = {}
    with catch_termination(), contextlib.ExitStack() as undo:
        for split, rows in splits.items():
            for address, chunks in _group(rows, "fasta_url"):
                place = f"{config.dataset}: {split}: {address}"
                assembly = name_address(address, "")._replace(group=split)
                file = assembly.file.removesuffix(".gz")
                if file in assemblies:
                    raise InputError(f"{place}: its rows are not together")
                undo.callback((folder / file).unlink, missing_ok=True)
                with write_whole(folder / file) as partial, partial.open("w") as out:
                    for header, pieces in _group(chunks, "description"):
                        _write_contig(out.write, header, _join(pieces, place))
                assemblies[file] = assembly._replace(file=file)
                note(f"{split}: {file}")
        if not assemblies:
            raise InputError(f"{config.dataset}: has no row: must have chunks")
        save_assemblies(folder / TABLE_FILE, list(assemblies.values()))
        undo.pop_all()
    return folder / TABLE_FILE


def _load_splits(config: ChunksConfig) -> Mapping[str, Iterable[Row]]:
    """Split -> rows, read as they are asked for."""
    datasets = import_extra("datasets", "hub", f"{config.dataset}: to load it")
    try:
        loaded = datasets.load_dataset(
            config.dataset, config.name, revision=config.revision, streaming=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{config.dataset}: can't be loaded: {describe_error(error)}") from None
    for split, rows in loaded.items():
        missing = [name for name in COLUMNS if name not in (rows.column_names or COLUMNS)]
        if missing:
            rule = f"must have the columns {', '.join(COLUMNS)}"
            raise InputError(f"{config.dataset}: {split}: no column {missing[0]!r}: {rule}")
    return loaded


def _group(rows: Iterable[Row], column: str) -> Iterator[tuple[str, Iterator[Row]]]:
    """Runs of rows with one value in a column."""
    return ((str(value), group) for value, group in itertools.groupby(rows, lambda r: r[column]))


def _join(chunks: Iterable[Row], place: str) -> Iterator[str]:
    """The letters of a contig that each of its chunks adds to those before."""
    end, tail = 0, ""
    for chunk in chunks:
        start, sequence = int(chunk["start_pos"]), str(chunk["sequence"])
        overlap = end - start
        is_next = 0 <= overlap <= len(sequence) and tail.endswith(sequence[:overlap])
        if not is_next or start < end - len(tail):
            where = f"{place}: {chunk['description']!r}: start_pos = {start}"
            raise InputError(f"{where}: must begin where the chunk before ends, at {end}")
        yield sequence[overlap:]
        end, tail = start + len(sequence), sequence


def _write_contig(write: Callable[[str], Any], header: str, pieces: Iterable[str]) -> None:
    """A contig in lines of one length."""
    write(f">{header}\n")
    rest = ""
    for piece in pieces:
        text = rest + piece
        whole = len(text) - len(text) % _LINE
        write("".join(f"{text[place : place + _LINE]}\n" for place in range(0, whole, _LINE)))
        rest = text[whole:]
    if rest:
        write(f"{rest}\n")
