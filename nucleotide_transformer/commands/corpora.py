"""The commands of `nt corpus`."""

import dataclasses
from pathlib import Path

from rich.box import HEAVY_HEAD, SIMPLE
from rich.table import Table

from nucleotide_transformer.console import LOG_WIDTH, PlainConsole, say
from nucleotide_transformer.data import corpus, hub_chunks, ncbi
from nucleotide_transformer.data.assemblies import ListConfig, load_assemblies
from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.data.description import describe, list_notes
from nucleotide_transformer.data.download import DownloadConfig, download, show_bytes
from nucleotide_transformer.data.hub_chunks import ChunksConfig
from nucleotide_transformer.data.manifest import load_manifest
from nucleotide_transformer.errors import InputError, RunFailedError
from nucleotide_transformer.pretraining.counts import BaselinesConfig, count_corpus

LEFT_OUT_IF_NARROW = ("assembly", "group", "contigs", "unknown", "N50", "left out")
"""Columns of a corpus that a narrow terminal has no room for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Lists the genomes of a corpus and the size of its splits."""

    folder: Path
    """Folder that `nt corpus build` made."""


def build_corpus(config: CorpusConfig) -> int:
    """`nt corpus build`.

    Raises:
        InputError: if inputs are bad; with `config.keep_going` after a line for each.
    """
    try:
        corpus.build_corpus(config, progress=True)
    except corpus.BadInputsError as error:
        for each in error.errors:
            say(f"bad: {each}")
        number = len(error.errors)
        these = "1 problem" if number == 1 else f"{number:,} problems"
        rule = "mend or leave out what is bad, and build again"
        raise InputError(f"{these}, and no corpus was written: {rule}") from None
    return print_corpus(config.output)


def describe_corpus(config: InfoConfig) -> int:
    """`nt corpus info`."""
    return print_corpus(config.folder)


def print_corpus(folder: Path) -> int:
    """Prints the genomes of a corpus, and which split is empty."""
    manifest = load_manifest(folder)
    rows = describe(manifest)
    console = PlainConsole()
    narrow = console.width < LOG_WIDTH
    columns = [name for name in rows[0] if not (narrow and name in LEFT_OUT_IF_NARROW)]
    table = Table(title=str(folder), title_justify="left", box=SIMPLE if narrow else HEAVY_HEAD)
    for name in columns:
        is_number = not isinstance(rows[0][name], str)
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number)
    for row in rows:
        values = (row[name] for name in columns)
        table.add_row(*(v if isinstance(v, str) else f"{v:,}" for v in values))
    console.print(table)
    for note in list_notes(manifest):
        console.print(f"note: {note}")
    return 0


def list_assemblies(config: ListConfig) -> int:
    """`nt corpus list`; 1 if something that was asked for is not in the table."""
    failed = ncbi.list_assemblies(config, note=say)
    for line in failed:
        say(f"not listed: {line}")
    found = load_assemblies(config.output)
    size = sum(assembly.num_bytes or 0 for assembly in found) / 1e9
    say(f"wrote {config.output}: {len(found):,} assemblies, {size:,.1f} GB")
    return int(bool(failed))


def download_assemblies(config: DownloadConfig) -> int:
    """`nt corpus download`.

    Raises:
        RunFailedError: if a file could not be had; the others are there.
    """
    with show_bytes(visible=True) as start:
        done = download(config, start=start)
    say(f"fetched {len(done.fetched):,} files, kept {len(done.kept):,}")
    for name, reason in done.failed.items():
        say(f"failed: {name}: {reason}")
    if done.failed:
        total = len(done.fetched) + len(done.kept) + len(done.failed)
        rule = "the same command asks for them again"
        raise RunFailedError(f"{len(done.failed):,} of {total:,} files failed; {rule}")
    return 0


def unpack_chunks(config: ChunksConfig) -> int:
    """`nt corpus unpack`."""
    say(f"wrote {hub_chunks.unpack_chunks(config, note=say)}")
    return 0


def count_baselines(config: BaselinesConfig) -> int:
    """`nt corpus baselines`."""
    path, is_new = count_corpus(config, progress=True)
    state = "wrote" if is_new else "counted before, and still right:"
    say(f"{state} {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
