"""Genomes that share sequences, all or some, in files that differ: headers, order, strand, case.

What is held out of a contig in one genome would be trained on in the other. Contigs are compared in
two steps. The corpus has a sample of each, which is made in no time when its genome is built. Only
files of genomes whose samples are alike are read again, for digests of all nucleotides: made in
every build they would take a tenth of its time.
"""

import functools
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.data.fasta import FastaReader
from nucleotide_transformer.data.folder import remove_genome
from nucleotide_transformer.data.manifest import (
    ContigEntry,
    Genome,
    load_contigs,
    load_samples,
)
from nucleotide_transformer.data.parallel import Report, count_workers, show_progress
from nucleotide_transformer.data.problems import Problems
from nucleotide_transformer.data.sources import TWIN_RULE, Source
from nucleotide_transformer.data.strands import digest_strands
from nucleotide_transformer.errors import InputError

_LEAST_SHARE = 1 / 20
_LEAST_BLOCKS = 20
"""Two genomes may share less than this of the smaller one and fewer blocks: mitochondria, plasmids
and contaminations are in many assemblies. Contigs count together, as drafts have only short ones,
and an assembly of chromosomes shares one with its next release. Copies within a genome are shared
as far as the other one has as many."""


class _Copies(NamedTuple):
    """The contigs of one genome that have one sequence, as far as was looked."""

    names: tuple[str, ...]
    num_nucleotides: int
    splits: frozenset[str]


_Table = Mapping[str, _Copies]
"""Sample or digest -> contigs of one genome, those that other genomes may have, too."""


class _Pair(NamedTuple):
    """Two genomes that share too much."""

    source: Source
    """The one to leave out."""
    twin: Source
    num_shared: int
    """Contigs in both, each counted once."""
    is_whole: bool
    """Whether all of both are."""
    leaks: list[str]
    """Samples or digests of those that are not whole in one and the same split, longest first."""


def check_sequences(
    config: CorpusConfig,
    sources: Sequence[Source],
    genomes: Mapping[str, Genome],
    listed: Container[str],
    problems: Problems,
    *,
    progress: bool,
) -> None:
    """Checks that no two genomes share contigs of which something is held out.

    They may share little (see `_LEAST_SHARE`), and much if each shared contig is whole in one and
    the same split; two that have all contigs in common are refused anyway. One genome may have a
    contig twice.

    Args:
        config: of the corpus.
        sources: what was built.
        genomes: by the names of the sources.
        listed: names of those that a finished corpus has; they are not compared with each other.
        problems: is told of the second of two, which is removed.
        progress: show a bar.
    """
    order = sorted(sources, key=lambda source: source.name not in listed)
    if len(order) < 2 or order[-1].name in listed:
        return
    find_pairs = functools.partial(
        _find_pairs, order, genomes=genomes, listed=listed, block_length=config.block_length
    )
    samples = _load_samples(config.output, genomes, order, listed)
    alike = {name for pair in find_pairs(samples) for name in (pair.source.name, pair.twin.name)}
    suspects = [source for source in order if source.name in alike]
    digests = _digest_all(config, suspects, samples, problems, progress=progress)
    for pair in find_pairs(digests):
        if pair.source.name not in problems and pair.twin.name not in problems:
            remove_genome(config.output / "genomes" / pair.source.name)
            problems.add(pair.source.name, _make_error(pair, digests))


def _load_samples(
    output: Path,
    genomes: Mapping[str, Genome],
    sources: Sequence[Source],
    listed: Container[str],
) -> dict[str, _Table]:
    """Name of a genome -> its contigs that one to be compared with it may have, too, by sample.

    Where an earlier version took no sample, the length stands for it in all genomes.
    """
    rows = {source.name: load_samples(output, genomes[source.name]) for source in sources}
    unsampled = np.concatenate([each[each[:, 1] == 0, 0] for each in rows.values()])
    keys = {
        name: np.where(np.isin(each[:, 0], unsampled), each[:, 0], each[:, 1])
        for name, each in rows.items()
    }
    found, counts = np.unique(
        np.concatenate([np.unique(each) for each in keys.values()]), return_counts=True
    )
    added = np.concatenate([each for name, each in keys.items() if name not in listed])
    shared = found[(counts > 1) & np.isin(found, added)]
    tables: dict[str, _Table] = {}
    for name, each in keys.items():
        is_met = np.isin(each, shared)
        contigs = load_contigs(output, name) if is_met.any() else ()
        met = [str(key) if flag else None for key, flag in zip(each, is_met, strict=True)]
        tables[name] = _group(contigs, met) if contigs else {}
    return tables


def _group(contigs: Sequence[ContigEntry], keys: Sequence[str | None]) -> _Table:
    """The contigs by their keys, without those whose key is None."""
    table: dict[str, _Copies] = {}
    for contig, key in zip(contigs, keys, strict=True):
        if key is not None:
            names, num_nucleotides, splits = table.get(key, ((), 0, frozenset()))
            mine = {segment.split for segment in contig.segments}
            length = num_nucleotides + contig.length
            table[key] = _Copies((*names, contig.name), length, splits | mine)
    return table


def _find_pairs(
    order: Sequence[Source],
    tables: Mapping[str, _Table],
    *,
    genomes: Mapping[str, Genome],
    listed: Container[str],
    block_length: int,
) -> Iterator[_Pair]:
    """The genomes that share too much, each after those that it is compared with."""
    for source, twin, keys in _find_shared(order, tables, listed):
        both = [tables[each.name] for each in (source, twin)]
        leaks = [key for key in keys if len(both[0][key].splits | both[1][key].splits) > 1]
        totals = [genomes[each.name].num_nucleotides for each in (source, twin)]
        sums = [sum(table[key].num_nucleotides for key in keys) for table in both]
        shared = sum(min(table[key].num_nucleotides for table in both) for key in keys)
        least = min(_LEAST_SHARE * min(totals), _LEAST_BLOCKS * block_length)
        if sums == totals or (leaks and shared >= least):
            leaks.sort(key=lambda key: -both[0][key].num_nucleotides)
            yield _Pair(source, twin, len(keys), sums == totals, leaks)


def _find_shared(
    order: Sequence[Source], tables: Mapping[str, _Table], listed: Container[str]
) -> Iterator[tuple[Source, Source, list[str]]]:
    """A genome, one before it, and what both have; not of two that are listed."""
    owners: dict[str, list[Source]] = {}
    for source in order:
        shared: dict[Source, list[str]] = {}
        for key in tables.get(source.name, ()):
            others = owners.setdefault(key, [])
            for twin in others if source.name not in listed else ():
                shared.setdefault(twin, []).append(key)
            others.append(source)
        for twin, keys in shared.items():
            yield source, twin, keys


def _digest_all(
    config: CorpusConfig,
    sources: Sequence[Source],
    samples: Mapping[str, _Table],
    problems: Problems,
    *,
    progress: bool,
) -> dict[str, _Table]:
    """As `samples`, by digests of all nucleotides."""
    tables: dict[str, _Table] = {}

    def collect(name: str, digests: Mapping[str, str]) -> None:
        contigs = load_contigs(config.output, name)
        tables[name] = _group(contigs, [digests.get(contig.name) for contig in contigs])

    if sources:
        num_bytes = sum(source.file.stat().st_size for source in sources)
        tasks = {
            source.name: functools.partial(
                digest_contigs,
                source.file,
                frozenset().union(*(copies.names for copies in samples[source.name].values())),
            )
            for source in sources
        }
        with show_progress("contigs that look alike", num_bytes, visible=progress) as report:
            num_workers = count_workers(config.workers, num_bytes)
            problems.run_tasks(tasks, num_workers, report, collect)
    return tables


def digest_contigs(file: Path, names: Container[str], report: Report) -> dict[str, str]:
    """Digests of contigs of a FASTA file by their names, the same for either strand, in hex.

    Args:
        file: is read and checked as by `FastaReader`.
        names: of the contigs.
        report: is told nucleotides and bytes of the file.
    """
    digests = {}
    for contig in FastaReader(file).read(report):
        if contig.name in names:
            digests[contig.name] = digest_strands(contig.sequence)
        del contig
    return digests


def _make_error(pair: _Pair, digests: Mapping[str, _Table]) -> InputError:
    """Names both genomes, and a contig in both unless they share all."""
    source, twin = pair.source, pair.twin
    where = f"{twin.file} ({twin.species!r})"
    what = f"holds the same sequences as {where}"
    if not pair.is_whole:
        mine, other = (digests[each.name][pair.leaks[0]].names[0] for each in (source, twin))
        what = f"contig {mine!r} has the sequence of {other!r} in {where}"
        if pair.num_shared > 1:
            what += f", and {pair.num_shared - 1:,} more are shared"
    return InputError(f"{source.place}: {source.file}: {what}: {TWIN_RULE}")
