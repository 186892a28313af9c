"""A packaged model, made from a run: whole or not at all, with its card and its digests.

config = PackageConfig(run=Path("runs/model"))
package_run(config)
model = load_pretrained()
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax

from nucleotide_transformer.config import ComputeConfig, Dtype
from nucleotide_transformer.errors import InputError, require, require_choices
from nucleotide_transformer.packaging.card import Facts, make_trained_card
from nucleotide_transformer.packaging.records import (
    EVALUATION,
    Comparisons,
    RunRecord,
    check_earlier_recipes,
    check_genomes,
    check_recipe,
    read_earlier_runs,
    read_evaluation,
    read_genomes,
    read_run,
    read_seed_runs,
)
from nucleotide_transformer.packaging.rounding import (
    STORED,
    Rounding,
    make_probe,
    measure_roundings,
)
from nucleotide_transformer.pretrained import Model, load_pretrained
from nucleotide_transformer.verification import save_reference
from nucleotide_transformer.weights.assembly import digest_params
from nucleotide_transformer.weights.exports import open_draft, write_files
from nucleotide_transformer.weights.folders import PACKAGED_FOLDER, write_sums
from nucleotide_transformer.weights.hub import PACKAGED, PACKAGED_LICENSE
from nucleotide_transformer.weights.runs import Choice

MAX_BYTES = 25_000_000
"""Of a packaged model, all of its files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackageConfig:
    """Packages the model of a run, so that `load_pretrained()` finds it."""

    run: Path = Path("runs/model")
    """Output folder of `nt pretrain`."""
    checkpoint: Choice = "best"
    """Which one: best is that with the lowest held-out loss, last the newest."""
    folder: Path = PACKAGED_FOLDER / PACKAGED
    """Where to. What was packaged there before is replaced."""
    dtype: Dtype = "float16"
    """Of the numbers that are stored: float16 or bfloat16. The card says what either costs."""
    genomes: Path = Path("experiments/model/genomes.tsv")
    """Table of the genomes of the corpus, with the terms of each."""
    unseen: Path | None = Path("experiments/model/unseen.tsv")
    """Table of genomes that the model never saw, for the card."""
    recipe: Path | None = None
    """Config that `make model` trains the run with: it must be that of the run, which must be over.
    Without it the card has no command that retrains the model."""
    earlier: tuple[Path, ...] = ()
    """The metrics.jsonl of the runs that this one went on from (`init_from`), in their order."""
    earlier_recipes: tuple[Path, ...] = ()
    """The configs of these runs, if there is a `recipe`."""
    results: Path | None = None
    """An `evaluation.json` of held-out blocks; that of the run by default, if it has one."""
    unseen_results: Path | None = None
    """One of the genomes that the model never saw."""
    seed_runs: tuple[Path, ...] = ()
    """Finished runs that differ in their seeds alone, two or more: the card says how far they are
    apart. They may be shorter than `run`."""
    hardware: str = ""
    """What the run was computed on, for the card."""

    def __post_init__(self) -> None:
        require_choices(self)
        require(self.dtype in STORED, "dtype", self.dtype, f"must be one of {', '.join(STORED)}")


class Package(NamedTuple):
    """What was written."""

    folder: Path
    step: int
    """Updates of the checkpoint."""
    num_bytes: int
    """Of all files."""
    roundings: tuple[Rounding, ...]
    """What each type of 16 bits costs."""
    genomes_checked: bool
    """False if the corpus was not there, to compare the table of genomes with."""


def package_run(config: PackageConfig) -> Package:
    """Writes the folder of a packaged model; a folder that is there stays until it is whole.

    Shared vectors are folded into the token tables in float64, which are rounded to float32 as in
    every export, and all parameters then once to 16 bits. Rotary models get the length of the
    run's sequences for `max_positions`, so that inference cuts what is longer into such windows.

    Raises:
        MissingInputError, InputError: for a file that is missing or damaged, records that do not
            belong together, a number that float16 does not reach, or more bytes than may ship.
        OutputExistsError, NotAFolderError: if the folder is no export, or can't be written.
    """
    record = read_run(config.run, config.checkpoint)
    earlier = read_earlier_runs(config.earlier, record)
    if config.recipe is not None:
        check_recipe(record, config.recipe)
    check_earlier_recipes(config.earlier_recipes, earlier if config.recipe else (), record)
    genomes = read_genomes(config.genomes)
    checked = check_genomes(record, genomes, config.genomes)
    seeds = read_seed_runs(config.seed_runs, record)
    exact, stored = (_load(record, dtype) for dtype in ("float32", config.dtype))
    results, unseen_results = _read_results(config, record, digest_params(exact.params))
    probe = make_probe(exact.tokenizer, record.config.data.sequence_tokens)
    roundings = measure_roundings(exact.params, exact.config, probe)
    card = make_trained_card(
        Facts(
            name=config.folder.name,
            license=PACKAGED_LICENSE,
            num_parameters=sum(leaf.size for leaf in jax.tree.leaves(exact.params)),
            config=exact.config,
            record=record,
            earlier=earlier,
            genomes=genomes,
            unseen=read_genomes(config.unseen) if config.unseen else [],
            dtype=config.dtype,
            roundings=roundings,
            recipes=(*config.earlier_recipes, config.recipe) if config.recipe else (),
            hardware=config.hardware,
            results=results,
            unseen_results=unseen_results,
            seeds=seeds,
        )
    )
    with open_draft(config.folder, overwrite=True) as draft:
        write_files(draft, stored.params, stored.config, layout="huggingface", card=card)
        save_reference(draft)
        write_sums(draft)
        num_bytes = _measure(draft, config.folder)
    return Package(config.folder, record.step, num_bytes, roundings, checked)


def _load(record: RunRecord, dtype: Dtype) -> Model:
    """The model of a checkpoint in the published form, its parameters rounded once."""
    model = load_pretrained(record.checkpoint, compute=ComputeConfig(param_dtype=dtype))
    if model.config.position_limit is not None:
        return model
    length = record.config.data.sequence_tokens
    return dataclasses.replace(
        model, config=dataclasses.replace(model.config, max_positions=length)
    )


def _read_results(
    config: PackageConfig, record: RunRecord, parameters: str
) -> tuple[Comparisons | None, Comparisons | None]:
    """The evaluations that there are: of held-out blocks, and of genomes that were never seen."""
    own, unseen = config.run / EVALUATION, config.unseen_results
    file = config.results or (own if own.is_file() else None)
    known = {"step": record.step, "parameters": parameters, "baselines": record.corpus}
    held_out: dict[str, object] = {
        "corpus": record.corpus,
        "species": [],
        "sequence_tokens": record.config.held_out_tokens,
        "masking_ratio": record.config.held_out_ratio,
    }
    return (
        read_evaluation(file, known | held_out) if file else None,
        read_evaluation(unseen, known, unseen_by=record.corpus) if unseen else None,
    )


def _measure(draft: Path, folder: Path) -> int:
    """Bytes of the files of a draft, or an `InputError` if they are more than may ship."""
    num_bytes = sum(path.stat().st_size for path in draft.iterdir())
    if num_bytes > MAX_BYTES:
        rule = f"a packaged model may have {MAX_BYTES:,}"
        raise InputError(f"{folder}: the files would have {num_bytes:,} bytes: {rule}")
    return num_bytes
