"""The commands of `nt corpus` that fetch genomes: list, download and unpack."""

from typing import TYPE_CHECKING

from rich.console import Console

from nucleotide_transformer.errors import RunFailedError

if TYPE_CHECKING:
    from nucleotide_transformer.data.assemblies import ListConfig
    from nucleotide_transformer.data.download import DownloadConfig
    from nucleotide_transformer.data.hub_chunks import ChunksConfig


def list_assemblies(config: "ListConfig") -> int:
    """`nt corpus list`; 1 if something that was asked for is not in the table."""
    from nucleotide_transformer.data import ncbi
    from nucleotide_transformer.data.assemblies import load_assemblies

    failed = ncbi.list_assemblies(config, note=_say)
    for line in failed:
        _say(f"not listed: {line}")
    found = load_assemblies(config.output)
    size = sum(assembly.num_bytes or 0 for assembly in found) / 1e9
    _say(f"wrote {config.output}: {len(found):,} assemblies, {size:,.1f} GB")
    return int(bool(failed))


def download_assemblies(config: "DownloadConfig") -> int:
    """`nt corpus download`.

    Raises:
        RunFailedError: if a file could not be had; the others are there.
    """
    from nucleotide_transformer.data.download import download, show_bytes

    with show_bytes(visible=True) as start:
        done = download(config, start=start)
    _say(f"fetched {len(done.fetched):,} files, kept {len(done.kept):,}")
    for name, reason in done.failed.items():
        _say(f"failed: {name}: {reason}")
    if done.failed:
        total = len(done.fetched) + len(done.kept) + len(done.failed)
        rule = "the same command asks for them again"
        raise RunFailedError(f"{len(done.failed):,} of {total:,} files failed; {rule}")
    return 0


def unpack_chunks(config: "ChunksConfig") -> int:
    """`nt corpus unpack`."""
    from nucleotide_transformer.data import hub_chunks

    _say(f"wrote {hub_chunks.unpack_chunks(config, note=_say)}")
    return 0


def _say(text: str) -> None:
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(text)
