"""What is known of a trained model: its run, the genomes of its corpus, and how it was evaluated.

Everything that a card says in numbers is read here, from files that programs wrote.
"""

import csv
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.configfile import config_from_dict, config_to_dict, load_config
from nucleotide_transformer.data.intervals import is_count
from nucleotide_transformer.data.manifest import load_manifest
from nucleotide_transformer.data.sources import SHIPPED_GENOMES
from nucleotide_transformer.errors import InputError, MissingInputError, require
from nucleotide_transformer.pretraining.run import FREE_FIELDS
from nucleotide_transformer.pretraining.scores import MODEL
from nucleotide_transformer.training.identity import (
    REMOVED_FIELDS,
    drop_fields,
    flatten,
    is_among,
)
from nucleotide_transformer.training.metrics import METRICS_FILE, read_metrics, read_metrics_file
from nucleotide_transformer.weights import runs
from nucleotide_transformer.weights.configs import read_json

Comparisons = Mapping[str, Mapping[str, Any]]
"""The comparisons of an evaluation, by group of species: see `read_evaluation`."""
EVALUATION = "evaluation.json"
"""What a finished run wrote of itself."""
_COLUMNS = ("file", "species", "assembly", "group", "nucleotides", "licence", "sha256")
_MEASURED = ("cross_entropy", "accuracy", "bits_per_nucleotide")
_DECIDE = ("total_tokens", "model.init")
"""Fields that a resumed run may change, and that a repeated one may not."""


class RunRecord(NamedTuple):
    """A checkpoint of a run, and how it came about."""

    checkpoint: Path
    config: PretrainConfig
    corpus: str | None
    """Digest of the corpus; checkpoints of version 0 have none."""
    started_from: str | None
    """Digest of the weights that it began with; None if they were random, or it is not known."""
    step: int
    """Updates applied."""
    newest: int
    """Updates of the newest checkpoint of the run, however good it is."""
    hours: float
    """Of the updates whose speed was measured: no compiling, evaluating or saving."""
    num_untimed: int
    """Updates whose speed was not."""


class EarlierRun(NamedTuple):
    """A run that another one went on from, as far as its metrics tell."""

    num_updates: int
    num_tokens: int
    hours: float
    """As in `RunRecord`."""
    num_untimed: int


class SeedRun(NamedTuple):
    """One of several runs that differ in their seeds alone."""

    seed: int
    num_tokens: int
    """That it was trained on."""
    comparisons: Comparisons
    """Of its held-out tokens at the end."""


class GenomeRecord(NamedTuple):
    """A row of a table of genomes."""

    species: str
    assembly: str
    group: str
    num_nucleotides: int
    terms: str
    """Of the sequence, and the licence of the package that it was taken from."""
    ships: bool
    """Whether the sequence is one of those in this package."""


def read_run(run: Path, which: runs.Choice) -> RunRecord:
    """Reads the records of a run: see `RunRecord`.

    Args:
        run: the output folder of `nt pretrain`.
        which: "best" or "last" checkpoint.

    Raises:
        MissingInputError: if there is no such run, or no finished checkpoint in it.
        InputError: if a file is damaged.
    """
    if not runs.is_run(run):
        raise MissingInputError(f"{run}: no run of `nt pretrain` is here")
    checkpoint = runs.find_checkpoint(run, which)
    fields = drop_fields(runs.read_json(checkpoint, "config"), REMOVED_FIELDS)
    config = config_from_dict(PretrainConfig, fields, f"{checkpoint}/config")
    step = int(checkpoint.name)
    lines = [line for line in read_metrics(run) if line["kind"] == "train"]
    if not lines:
        raise MissingInputError(f"{run / METRICS_FILE}: no line of training: the hours are unknown")
    effort = _measure(lines, step, step * config.tokens_per_update)
    known = runs.read_record(checkpoint)
    digests = known.get("corpus"), known.get("started_from")
    newest = int(runs.find_checkpoint(run, "last").name)
    return RunRecord(checkpoint, config, *digests, step, newest, effort.hours, effort.num_untimed)


def read_earlier_runs(files: Sequence[Path], last: RunRecord) -> list[EarlierRun]:
    """Reads the metrics of the runs that a run went on from; of each, all of it.

    Raises:
        MissingInputError: if a file is not there, or has no line of training.
        InputError: if it is damaged, or if the run says that it went on from none, or from one of
            which there is no file here.
    """
    start = last.config.init_from
    if bool(start) != bool(files):
        rule = "give the metrics.jsonl of each run before it, and only of such"
        raise InputError(
            f"{last.checkpoint}: init_from = {start!r}, earlier = {len(files)}: {rule}"
        )
    runs_read = []
    for file in files:
        if not file.is_file():
            raise MissingInputError(f"{file}: no such file")
        try:
            lines = [line for line in read_metrics_file(file) if line["kind"] == "train"]
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: no metrics of a run: {error!r}") from None
        ends = [(line["step"], line["tokens"]) for line in lines]
        if not ends or min(ends[-1]) <= 0:
            raise MissingInputError(f"{file}: no line of training: the hours are unknown")
        runs_read.append(_measure(lines, *ends[-1]))
    return runs_read


def read_seed_runs(folders: Sequence[Path], packaged: RunRecord) -> list[SeedRun]:
    """Reads what runs of several seeds wrote at their ends, in the order of the seeds.

    Raises:
        MissingInputError: if one of them is no finished run.
        InputError: if one differs in more than its seed and its length from the packaged run, or
            from the others in its length, or two have one seed.
    """
    runs_read = [read_run(folder, "last") for folder in folders]
    for folder, record in zip(folders, runs_read, strict=True):
        here, there = (flatten(config_to_dict(each.config)) for each in (packaged, record))
        free = {*FREE_FIELDS, "seed"} - {"model.init"}
        if differing := [
            f"{name} = {there[name]!r} there, {value!r} here"
            for name, value in here.items()
            if there[name] != value and not is_among(name, free)
        ]:
            raise InputError(f"{folder}: {'; '.join(differing)}: only the seed may differ")
        if record.config.total_tokens != runs_read[0].config.total_tokens:
            rule = f"must be as in {folders[0]}: only the seed may differ"
            raise InputError(f"{folder}: total_tokens = {record.config.total_tokens}: {rule}")
    seeds = [record.config.seed for record in runs_read]
    require(len(set(seeds)) == len(seeds) != 1, "seed_runs", seeds, "must have several seeds")
    found = [
        SeedRun(
            record.config.seed,
            record.step * record.config.tokens_per_update,
            read_evaluation(folder / EVALUATION, {"step": record.step}),
        )
        for folder, record in zip(folders, runs_read, strict=True)
    ]
    return sorted(found, key=lambda run: run.seed)


def _measure(lines: list[dict[str, Any]], num_updates: int, num_tokens: int) -> EarlierRun:
    """What some updates, from the first on, took."""
    seconds, timed = _add_up_time(lines, num_tokens)
    untimed = num_updates - timed * num_updates // max(num_tokens, 1)
    return EarlierRun(num_updates, num_tokens, seconds / 3600, untimed)


def _add_up_time(lines: list[dict[str, Any]], end: int) -> tuple[float, int]:
    """Seconds of the intervals whose speed was measured, and their tokens, up to the token `end`.

    A checkpoint may lie within an interval.
    """
    seconds, num_tokens = 0.0, 0
    for before, line in itertools.pairwise([{"tokens": 0}, *lines]):
        rate, tokens = line.get("tokens_per_second"), min(line["tokens"], end) - before["tokens"]
        if rate and tokens > 0:
            # The rate counts no padding; lines of earlier versions, which counted it, have no fill.
            seconds += tokens * line.get("fill", 1.0) / rate
            num_tokens += tokens
    return seconds, num_tokens


def check_recipe(record: RunRecord, recipe: Path) -> None:
    """Raises an `InputError` if a config file would train another model, or a run is not over."""
    fields = (config_to_dict(config) for config in (record.config, load_config(recipe)))
    there, here = map(flatten, fields)
    free = [name for name in FREE_FIELDS if name not in _DECIDE]
    differing = [
        f"{name} = {there[name]!r} there, {value!r} here"
        for name, value in here.items()
        if there[name] != value and not is_among(name, free)
    ]
    if differing:
        rule = f"the card would promise that this file repeats {record.checkpoint}"
        raise InputError(f"{recipe}: {'; '.join(differing)}: {rule}")
    if record.newest < record.config.total_steps:
        rule = "let the run end, or package it without a recipe: the card would promise all of it"
        steps = f"{record.newest:,} of {record.config.total_steps:,} updates"
        raise InputError(f"{record.checkpoint.parent}: {steps}: {rule}")


def check_earlier_recipes(
    recipes: Sequence[Path], earlier: Sequence[EarlierRun], last: RunRecord
) -> None:
    """Checks that config files are those of the runs that a run went on from, in their order.

    Such a run is known by its metrics alone: it must have had as many tokens as its file says, and
    the next run must have started from its output.

    Raises:
        InputError: if one is not, or there are more or fewer files than runs.
    """
    rule = "name the config of each run before, in their order"
    names = [str(recipe) for recipe in recipes]
    require(len(names) == len(earlier), "earlier_recipes", names, rule)
    configs = [*map(load_config, recipes), last.config]
    for name, (config, after), run in zip(names, itertools.pairwise(configs), earlier, strict=True):
        start, tokens = Path(after.init_from or ""), config.total_steps * config.tokens_per_update
        if config.output not in (start, *start.parents):
            raise InputError(f"{name}: output = {config.output}, not {start}: {rule}")
        if tokens != run.num_tokens:
            raise InputError(f"{name}: total_tokens = {tokens:,}, not {run.num_tokens:,}: {rule}")


def read_genomes(table: Path) -> list[GenomeRecord]:
    """The rows of a table of genomes, in its order.

    Raises:
        MissingInputError: if there is no such table.
        InputError: for a row without one of the columns that a card needs.
    """
    if not table.is_file():
        raise MissingInputError(f"{table}: no such table")
    shipped = {row["sha256"] for row in _read_rows(SHIPPED_GENOMES)}
    records = []
    for number, row in enumerate(_read_rows(table), start=2):
        empty = [column for column in _COLUMNS if not row.get(column)]
        if empty:
            rule = "a card names the terms of every genome"
            raise InputError(f"{table}: line {number}: no {empty[0]}: {rule}")
        nucleotides, place = row["nucleotides"], f"{table}: line {number}: nucleotides"
        require(is_count(nucleotides), place, nucleotides[:70], "must be a whole number")
        records.append(
            GenomeRecord(
                species=row["species"],
                assembly=row["assembly"],
                group=row["group"],
                num_nucleotides=int(nucleotides),
                terms=row["licence"],
                ships=row["sha256"] in shipped,
            )
        )
    return records


def _read_rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def check_genomes(record: RunRecord, genomes: list[GenomeRecord], table: Path) -> bool:
    """Checks that a table has the genomes that a run was trained on.

    Returns:
        False if that can't be known, because the corpus is not where the run says.

    Raises:
        InputError: if another corpus is there, or the table has other genomes.
    """
    folder = record.config.data.corpus
    if not folder.is_dir():
        return False
    manifest = load_manifest(folder)
    if manifest.digest != (record.corpus or manifest.digest):
        raise InputError(f"{folder}: not the corpus that {record.checkpoint} was trained on")
    trained = {(genome.species, genome.assembly) for genome in manifest.genomes}
    listed = {(genome.species, genome.assembly) for genome in genomes}
    for species, assembly in sorted(trained ^ listed):
        where = "the corpus has it" if (species, assembly) in trained else f"not in {folder}"
        rule = "a card lists the genomes of the corpus, and no others"
        raise InputError(f"{table}: {species} {assembly}: {where}: {rule}")
    return True


def read_evaluation(
    file: Path, expected: Mapping[str, object] | None = None, unseen_by: str | None = None
) -> Comparisons:
    """The comparisons of an `evaluation.json`: of each group of species, and of "all" at the end.

    Args:
        file: what a run, or an evaluation of its checkpoint, wrote; pretraining/report.py says how.
        expected: `step`, `corpus` and others that it must have, where they are known to both.
        unseen_by: digest of the corpus that it must not be of.

    Raises:
        MissingInputError: if there is no such file.
        InputError: if it is of another checkpoint or corpus, or lacks what a card shows.
    """
    content = read_json(file)
    for name, value in (expected or {}).items():
        found = content.get(name)
        if None not in (found, value) and found != value:
            rule = "evaluate the checkpoint that is packaged, on the corpora of the card"
            raise InputError(f"{file}: {name} = {found!r}, not {value!r}: {rule}")
    if not unseen_by and content.get("split") == "train":
        raise InputError(f"{file}: split = 'train': must be held out")
    if unseen_by and content.get("corpus") in (None, unseen_by):
        rule = "must be another one than the model was trained on"
        raise InputError(f"{file}: corpus = {content.get('corpus')!r}: {rule}")
    groups = content.get("groups")
    if not isinstance(groups, dict) or not isinstance(content.get("all"), dict):
        raise InputError(f"{file}: must have `all` and `groups`, as an evaluation.json has")
    comparisons = {name or "no group": part for name, part in groups.items()}
    comparisons["all"] = content["all"]
    for name, part in comparisons.items():
        _check_comparison(part, f"{file}: {name}")
    return comparisons


def _check_comparison(part: Any, place: str) -> None:
    rows: Any = part.get("predictors") if isinstance(part, dict) else None
    is_table = isinstance(rows, dict) and all(isinstance(row, dict) for row in rows.values())
    if not is_table or MODEL not in rows:
        raise InputError(f"{place}: predictors must have {MODEL!r}, and a row for each")
    numbers = {
        f"predictors.{name}.{key}": row.get(key) for name, row in rows.items() for key in _MEASURED
    }
    for name, value in (numbers | {"num_masked": part.get("num_masked")}).items():
        if not isinstance(value, int | float):
            raise InputError(f"{place}: {name} = {value!r}: must be a number")
