"""Genomes that hold the same sequences, in files that differ: by headers, order, case or gzip."""

import functools
import hashlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from nucleotide_transformer.data.fasta import FastaReader
from nucleotide_transformer.data.folder import remove_genome
from nucleotide_transformer.data.manifest import Genome
from nucleotide_transformer.data.parallel import Report, count_workers, show_progress
from nucleotide_transformer.data.problems import Problems
from nucleotide_transformer.data.sources import TWIN_RULE, Source
from nucleotide_transformer.errors import InputError


def check_sequences(
    output: Path,
    sources: Sequence[Source],
    genomes: Mapping[str, Genome],
    listed: Container[str],
    problems: Problems,
    *,
    workers: int | None,
    progress: bool,
) -> None:
    """Checks that no two genomes hold the same sequences, in any order.

    Only files of genomes with the same numbers of contigs, nucleotides and N are read, once more: a
    digest that is made while a genome is built would take a tenth of the time of every build.

    Args:
        output: folder of the corpus.
        sources: what was built.
        genomes: by the names of the sources.
        listed: names of those that a finished corpus has; they are not compared with each other.
        problems: is told of the second of two, which is removed.
        workers: processes, or None for the default.
        progress: show a bar.
    """
    by_size: dict[tuple[int, int, int], list[Source]] = {}
    for source in sources:
        genome = genomes[source.name]
        size = genome.num_contigs, genome.num_nucleotides, genome.num_unknown
        by_size.setdefault(size, []).append(source)
    alike = [
        source
        for group in by_size.values()
        if len(group) > 1 and any(source.name not in listed for source in group)
        for source in group
    ]
    digests = _digest_all(alike, problems, workers=workers, progress=progress)
    found: dict[str, Source] = {}
    for source in sorted(alike, key=lambda source: source.name not in listed):
        if source.name in problems:
            continue
        twin = found.setdefault(digests[source.name], source)
        if twin is not source and source.name not in listed:
            remove_genome(output / "genomes" / source.name)
            names = f"{source.file}: holds the same sequences as {twin.file} ({twin.species!r})"
            problems.add(source.name, InputError(f"{source.place}: {names}: {TWIN_RULE}"))


def _digest_all(
    sources: Sequence[Source], problems: Problems, *, workers: int | None, progress: bool
) -> dict[str, str]:
    """The digests of genomes by their names."""
    digests: dict[str, str] = {}
    if sources:
        num_bytes = sum(source.file.stat().st_size for source in sources)
        tasks = {
            source.name: functools.partial(digest_sequences, source.file) for source in sources
        }
        with show_progress("genomes of one size", num_bytes, visible=progress) as report:
            num_workers = count_workers(workers, num_bytes)
            problems.run_tasks(tasks, num_workers, report, digests.__setitem__)
    return digests


def digest_sequences(file: Path, report: Report) -> str:
    """A digest of the contigs of a FASTA file, whatever their names and order, in hex.

    Args:
        file: is read and checked as by `FastaReader`.
        report: is told nucleotides and bytes of the file.
    """
    total = 0
    for contig in FastaReader(file).read(report):
        total += int.from_bytes(hashlib.sha256(contig.sequence).digest())
        del contig
    return f"{total:x}"
