"""Contigs that a config puts in a split by their names: which genomes have them."""

import functools
import itertools
from collections.abc import Mapping, Sequence

from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.data.fasta import list_contigs
from nucleotide_transformer.data.manifest import Genome, load_contigs
from nucleotide_transformer.data.parallel import Report, count_workers, show_progress
from nucleotide_transformer.data.problems import Problems
from nucleotide_transformer.data.sources import Source
from nucleotide_transformer.errors import InputError

_RULE = "must be the name of a contig, species:contig or species:*"


def find_named_contigs(
    config: CorpusConfig,
    sources: Sequence[Source],
    finished: Mapping[str, Genome],
    problems: Problems,
    *,
    progress: bool,
) -> dict[str, frozenset[str]]:
    """Looks all named contigs up, before anything is built.

    A bare name may be that of any genome: then all FASTA files are read, once.

    Args:
        config: of the corpus.
        sources: its genomes.
        finished: those of them that are built, by name.
        problems: is told of bad FASTA files.
        progress: show a bar.

    Returns:
        Name of a genome -> those of the names that it has a contig for.

    Raises:
        InputError: if a name is in no genome, or a contig of one that is to be built is named for
            both splits.
    """
    names = {*config.validation_contigs, *config.test_contigs}
    species = {source.species for source in sources}
    found: dict[str, frozenset[str]] = {}
    tasks, num_bytes = {}, 0
    for source in sources:
        others = tuple(f"{other}:" for other in species - {source.species})
        mine = frozenset(name for name in names if not (others and name.startswith(others)))
        wanted = mine - {f"{source.species}:*"}
        found[source.name] = mine - wanted
        if wanted and source.name in finished:
            contigs = [contig.name for contig in load_contigs(config.output, source.name)]
            found[source.name] |= _match(source.species, contigs, wanted)
        elif wanted:
            tasks[source.name] = functools.partial(read_names, source, wanted)
            num_bytes += source.file.stat().st_size

    def collect(name: str, these: frozenset[str]) -> None:
        found[name] |= these

    if tasks:
        with show_progress("contigs", num_bytes, visible=progress) as report:
            problems.run_tasks(tasks, count_workers(config.workers, num_bytes), report, collect)
    _check_all_found(config, frozenset().union(*found.values()), problems)
    for source in sources:
        if source.name not in finished:
            _check_one_split(config, source.species, found[source.name], problems)
    return found


def read_names(source: Source, wanted: frozenset[str], report: Report) -> frozenset[str]:
    """Those of the names that a FASTA file has a contig for; read until all of them are found."""
    found: set[str] = set()
    for contig in list_contigs(source.file):
        found |= wanted & make_contig_names(source.species, contig)
        report(0, 0)
        if found == wanted:
            break
    report(0, source.file.stat().st_size)
    return frozenset(found)


def make_contig_names(species: str, contig: str) -> set[str]:
    """The names by which a config may put a contig in a split."""
    return {contig, f"{species}:{contig}", f"{species}:*"}


def _match(species: str, contigs: Sequence[str], wanted: frozenset[str]) -> frozenset[str]:
    return wanted & {name for contig in contigs for name in make_contig_names(species, contig)}


def _check_all_found(config: CorpusConfig, found: frozenset[str], problems: Problems) -> None:
    """Checks that each name is in a genome; names are part of the recipe of all of them.

    A build goes on after bad inputs, and not after this: what it built could not be used.
    """
    where = "in no genome" if problems.is_empty else "in no genome that could be read"
    for field in ("validation_contigs", "test_contigs"):
        for name in getattr(config, field):
            if name not in found:
                problems.add(field, InputError(f"{field}: {name!r}: {where}: {_RULE}"))
                problems.raise_all()


def _check_one_split(
    config: CorpusConfig, species: str, found: frozenset[str], problems: Problems
) -> None:
    """Checks that the two splits have no contig of a genome in common, by whatever names."""
    for name, other in itertools.product(config.validation_contigs, config.test_contigs):
        contigs = {each.removeprefix(f"{species}:") for each in (name, other)}
        if {name, other} <= found and (len(contigs) == 1 or "*" in contigs):
            rule = f"names a contig of {species!r} that {name!r} of validation_contigs names too"
            error = InputError(f"test_contigs: {other!r} {rule}: a contig is in one split")
            problems.add("test_contigs", error)
            problems.raise_all()
