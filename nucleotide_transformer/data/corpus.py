"""From genomes to a corpus: ArrayRecord shards of overlapping chunks, and a manifest.

    manifest = build_corpus(CorpusConfig(inputs=(Path("genomes.tsv"),), output=Path("corpus")))
    reader = open_split(manifest, "train")
    reader.read([17, 0])                       # two records, in this order

The same config and files give the same bytes, whatever the number of processes. Only finished
genomes ever have their name in the folder, and `manifest.json` is written after the last one:
what an interrupted build left behind is used by the next one or removed.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nucleotide_transformer.data.corpus_config import FIELDS_OF_NOW, CorpusConfig
from nucleotide_transformer.data.description import describe
from nucleotide_transformer.data.folder import own_folder
from nucleotide_transformer.data.manifest import (
    GENOME_FILE,
    MANIFEST_FILE,
    Genome,
    Manifest,
    is_whole,
    load_genome,
    load_manifest,
    read_manifest,
    save_manifest,
)
from nucleotide_transformer.data.named_contigs import find_named_contigs
from nucleotide_transformer.data.parallel import count_workers, show_progress
from nucleotide_transformer.data.problems import BadInputsError, Problems
from nucleotide_transformer.data.reader import Location, SplitReader, open_split
from nucleotide_transformer.data.shards import build_genome
from nucleotide_transformer.data.sources import (
    Source,
    check_distinct,
    check_stated,
    estimate_bytes,
    load_sources,
    show_hashing,
)
from nucleotide_transformer.data.twins import check_sequences
from nucleotide_transformer.errors import OutputExistsError
from nucleotide_transformer.files import catch_termination, check_room, show_digest

__all__ = [
    "BadInputsError",
    "CorpusConfig",
    "Location",
    "Manifest",
    "SplitReader",
    "build_corpus",
    "describe",
    "load_manifest",
    "open_split",
]


_OTHER_OUTPUT = "choose another output, or delete it"


def build_corpus(config: CorpusConfig, *, progress: bool = False) -> Manifest:
    """Builds a corpus, or what is missing of it.

    Genomes that an earlier build with the same config finished are kept, as their FASTA files
    are still the same; new ones are added. A finished corpus may grow in this way, and nothing in
    it may change or go. One build at a time writes to a folder. (Earlier versions held out no
    blocks in any genome where a contig was named in one. Genomes that they finished stay as they
    are; those that are added follow the rule of now.)

    Args:
        config: What to build.
        progress: Show a bar with nucleotides/s and the time left.

    Raises:
        MissingInputError: if an input is missing.
        OutputExistsError: if the output is no corpus, or has one of another config or other files.
        UnwritableOutputError: if the disk has no room for what is to be built.
        InputError: for bad input, in one line; with `config.keep_going` a `BadInputsError` with
            all of it, and the good genomes are finished. Genomes that are finished stay for the
            next build; a folder without any is removed.
    """
    problems = Problems(keep_going=config.keep_going)
    sources = load_sources(config.inputs, problems)
    with catch_termination(), own_folder(config.output):
        check_distinct(sources, problems)
        config = config.resolve(_find_recipe(config.output, sources))
        listed = _load_listed(config, sources, problems)
        finished, lost = _find_finished(sources, config, listed, problems, progress=progress)
        genomes = _build_missing(sources, config, finished, lost, problems, progress=progress)
        built = [source for source in sources if source.name in genomes]
        check_sequences(config, built, genomes, listed, problems, progress=progress)
        problems.raise_all()
        labelled = tuple(_label(genomes[source.name], source) for source in sources)
        recipe = config.make_recipe()
        save_manifest(Manifest(folder=config.output, config=recipe, genomes=labelled))
    return load_manifest(config.output)


def _build_missing(
    sources: Sequence[Source],
    config: CorpusConfig,
    finished: Mapping[str, Genome],
    lost: Mapping[str, Genome],
    problems: Problems,
    *,
    progress: bool,
) -> dict[str, Genome]:
    """Builds what is not finished; returns all genomes that nothing is wrong with, by name."""
    good = [source for source in sources if source.name not in problems]
    missing = [source for source in good if source.name not in finished]
    needed = estimate_bytes(missing, config.compression)
    check_room(config.output, needed, "are to be written, or about as much: choose another output")
    named = find_named_contigs(config, good, finished, problems, progress=progress)
    tasks = {
        source: {"by_names": bool(named[source.name]), "replaces": lost.get(source.name)}
        for source in missing
        if source.name not in problems
    }
    return {**finished, **_build_genomes(tasks, config, problems, progress=progress)}


def _load_listed(
    config: CorpusConfig, sources: Sequence[Source], problems: Problems
) -> dict[str, Genome]:
    """The genomes of a finished corpus, by name; checks that it would only grow.

    A genome may be missing where an input is bad: nothing is finished then.
    """
    path = config.output / MANIFEST_FILE
    if not path.exists():
        return {}
    manifest = read_manifest(config.output)
    _check_recipe(path, manifest.config, config)
    names = {source.name for source in sources}
    for genome in manifest.genomes:
        if genome.name not in names and problems.is_empty:
            place = f"{path}: has {genome.species!r}, {genome.assembly!r}, which is not in inputs"
            raise OutputExistsError(f"{place}: {_OTHER_OUTPUT}")
    return {genome.name: genome for genome in manifest.genomes}


def _find_recipe(folder: Path, sources: Sequence[Source]) -> Mapping[str, Any] | None:
    """What the corpus in a folder was built with, or what is finished of these genomes."""
    if (folder / MANIFEST_FILE).exists():
        return read_manifest(folder).config
    for source in sources:
        if (folder / "genomes" / source.name / GENOME_FILE).exists():
            return load_genome(folder, source.name)[0]
    return None


def _check_recipe(path: Path, built: Mapping[str, Any], config: CorpusConfig) -> None:
    """Checks that what is there was built with this config."""
    for field, value in config.make_recipe().items():
        _, before = FIELDS_OF_NOW.get(field, (None, None))
        if built.get(field, before) != value:
            place = f"{path}: built with {field} = {built.get(field, before)!r}, not {value!r}"
            raise OutputExistsError(f"{place}: {_OTHER_OUTPUT}")


def _find_finished(
    sources: Sequence[Source],
    config: CorpusConfig,
    listed: Mapping[str, Genome],
    problems: Problems,
    *,
    progress: bool,
) -> tuple[dict[str, Genome], dict[str, Genome]]:
    """The genomes that an earlier build finished, and those of them that were lost since.

    All are checked to be the ones that are wanted now.
    """
    known: dict[Source, Genome] = {}
    for source in sources:
        folder = config.output / "genomes" / source.name
        if (folder / GENOME_FILE).exists():
            built, known[source] = load_genome(config.output, source.name)
            _check_recipe(folder, built, config)
        elif source.name in listed:
            known[source] = listed[source.name]
    with show_hashing(list(known), visible=progress and bool(known)) as digest_file:
        for source, genome in known.items():
            with problems.collect(source.name):
                _check_same_file(config.output, genome, source, digest_file(source.file))
    known = {source: genome for source, genome in known.items() if source.name not in problems}
    whole = {source: is_whole(config.output, genome) for source, genome in known.items()}
    finished = {source.name: genome for source, genome in known.items() if whole[source]}
    lost = {source.name: genome for source, genome in known.items() if not whole[source]}
    return finished, lost


def _check_same_file(output: Path, genome: Genome, source: Source, sha256: str) -> None:
    """Checks that the FASTA file is the one that a genome was built from, and of the table."""
    folder = output / "genomes" / source.name
    if genome.sha256 != sha256:
        built, found = show_digest(genome.sha256), show_digest(sha256)
        place = f"{folder}: built from a file with sha256 {built}, {source.file} has {found}"
        raise OutputExistsError(f"{place}: {_OTHER_OUTPUT}")
    check_stated(source, sha256=sha256, num_nucleotides=genome.num_nucleotides)


def _build_genomes(
    sources: Mapping[Source, dict[str, Any]],
    config: CorpusConfig,
    problems: Problems,
    *,
    progress: bool,
) -> dict[str, Genome]:
    """Builds genomes, in several processes if that is worth it; keys are the sources' names.

    Args:
        sources: what to build -> what else `build_genome` is told.
        config: of the corpus.
        problems: is told of bad FASTA files.
        progress: show a bar.
    """
    finished: dict[str, Genome] = {}
    if not sources:
        return finished
    sizes = {source: source.file.stat().st_size for source in sources}
    num_bytes = sum(sizes.values())
    # The largest first, so that no process is left with one at the end.
    order = sorted(sources, key=lambda source: -sizes[source])
    tasks = {
        source.name: functools.partial(build_genome, source, config, **sources[source])
        for source in order
    }
    with show_progress("corpus", num_bytes, visible=progress) as report:
        num_workers = count_workers(config.workers, num_bytes)
        problems.run_tasks(tasks, num_workers, report, finished.__setitem__)
    return finished


def _label(genome: Genome, source: Source) -> Genome:
    """The genome with the labels of now: they may change without a change in the records."""
    return dataclasses.replace(genome, group=source.group, source=source.file.name)
