"""A trained model on a split of any corpus: what `nt evaluate` does.

config = EvaluateConfig(model="runs/model", corpus=Path("runs/corpus"), split="test")
result = evaluate_model(config)
result.evaluation.overall.rows["this model"].metrics.cross_entropy
"""

import dataclasses
import difflib
from pathlib import Path
from typing import Any, NamedTuple

import jax

from nucleotide_transformer.bars import show_steps
from nucleotide_transformer.config import ComputeConfig, MaskingConfig, PretrainConfig
from nucleotide_transformer.configfile import config_from_dict
from nucleotide_transformer.data.dataset import make_evaluation_set
from nucleotide_transformer.data.manifest import Manifest, load_manifest
from nucleotide_transformer.errors import (
    NotAFolderError,
    OutputExistsError,
    RuleError,
    require,
    require_choices,
    require_positive,
)
from nucleotide_transformer.files import check_place, read_path
from nucleotide_transformer.model.stacking import arrange_params
from nucleotide_transformer.pretrained import Model, load_pretrained
from nucleotide_transformer.pretraining.counts import COUNTS_FILE, find_counts
from nucleotide_transformer.pretraining.evaluation import (
    Evaluator,
    HeldOut,
    make_held_out,
    make_scoring_step,
    measure_baselines,
)
from nucleotide_transformer.pretraining.report import write_evaluation
from nucleotide_transformer.pretraining.scores import MODEL, Evaluation, Scores, make_evaluation
from nucleotide_transformer.training.devices import find_devices, plan_layout
from nucleotide_transformer.training.identity import REMOVED_FIELDS, drop_fields
from nucleotide_transformer.training.step import place_state
from nucleotide_transformer.types import Split
from nucleotide_transformer.weights.assembly import digest_params
from nucleotide_transformer.weights.hub import PACKAGED

NUM_SEQUENCES = 1_024
"""That a model is evaluated on, unless it is a run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How well a model predicts masked tokens of a corpus, beside the baselines.

    The corpus need not be the one that the model was trained on.
    """

    model: str = PACKAGED
    """Folder of a run (its best checkpoint), of a checkpoint or of an export, or the name of a
    model or hub repository. By default the model that comes with the package."""
    corpus: Path
    """Folder that `nt corpus build` made."""
    split: Split = "test"
    """Part of the corpus: test, validation (what a run evaluates itself on), or train."""
    species: tuple[str, ...] = ()
    """Species of the corpus to evaluate on; all by default."""
    output: Path = Path("evaluation.json")
    """File to write; pretraining/report.py says what is in it."""
    overwrite: bool = False
    """Replace a file that is there already."""
    baselines: Path | None = None
    """Corpus whose training split the baselines are fitted to: that which the model was trained on,
    if `corpus` is another one. By default `corpus` itself. `nt corpus baselines` counts it."""
    num_sequences: int | None = None
    """Sequences, spread over the split: all that there are, if they are fewer. By default as
    many as in the evaluation of a run; for other models 1,024."""
    sequence_tokens: int | None = None
    """Tokens of a sequence, <cls> included. By default as in the evaluation of a run; for other
    models the longest that the model and the chunks of the corpus allow."""
    masking_ratio: float | None = None
    """Share of the tokens that are predicted. By default as in the evaluation of a run; for other
    models 0.15."""
    num_devices: int | None = None
    """Accelerators to use; all by default."""
    sequences_per_device: int = 8
    """Sequences that a device takes at once."""
    compute: ComputeConfig = ComputeConfig()
    """Precision and form of the computation."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_positive(self, "sequences_per_device")
        number, tokens, ratio = self.num_sequences, self.sequence_tokens, self.masking_ratio
        rule = "must be above 0, or none"
        require(number is None or number > 0, "num_sequences", number, rule)
        rule = "must be 2 or above, or none"
        require(tokens is None or tokens >= 2, "sequence_tokens", tokens, rule)
        rule = "must lie between 0 and 1, or be none"
        require(ratio is None or 0 < ratio < 1, "masking_ratio", ratio, rule)


class Trained(NamedTuple):
    """What the folder of a run says of a model, or else None."""

    step: int | None
    """Updates of the checkpoint."""
    config: PretrainConfig | None
    corpus: str | None
    """Digest of the corpus that it was trained on."""


class Result(NamedTuple):
    """An evaluation, and what it is of."""

    evaluation: Evaluation
    head: dict[str, Any]
    """What the file says of it: the model, its digest and `step`, corpus, split and masks."""
    notes: tuple[str, ...]
    """What the reader of the table should know."""


def evaluate_model(config: EvaluateConfig, *, progress: bool = False) -> Result:
    """Evaluates a model, and writes the results to `config.output`.

    A run on the validation split of its own corpus is given the sequences and masks of its own
    evaluation. Files and options are checked before the model is loaded.

    Raises:
        InputError: one line, for what can't be read, or does not fit together.
    """
    check_output(config.output, overwrite=config.overwrite)
    manifest = load_manifest(config.corpus)
    chosen = choose_species(manifest, config.species)
    devices = find_devices(config.num_devices)
    fitted_to = load_manifest(config.baselines) if config.baselines else manifest
    check_counted(config)
    source, trained = find_trained(config.model)
    model = load_pretrained(source, compute=config.compute)
    counts, notes = find_counts(
        fitted_to, model.config.k, trained_on=trained.corpus, optional=not config.baselines
    )
    held_out = read_split(config, chosen, model, trained.config)
    rows = {MODEL: score_model(config, model, held_out, devices, progress=progress)}
    rows |= measure_baselines(counts, model.tokenizer, held_out) if counts else {}
    evaluation = make_evaluation(rows, held_out.groups)
    head = {
        "step": trained.step,
        "split": config.split,
        "model": config.model,
        "parameters": digest_params(model.params),
        "corpus": manifest.digest,
        "species": list(config.species),
        "baselines": fitted_to.digest if counts else None,
        "sequence_tokens": held_out.tokens.shape[1],
        "masking_ratio": choose_ratio(config, trained.config),
    }
    config.output.parent.mkdir(parents=True, exist_ok=True)
    write_evaluation(config.output, head, evaluation)
    return Result(evaluation, head, (*held_out.notes, *notes))


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raises an `InputError` if the results can't be written there."""
    if path.is_dir():
        raise NotAFolderError(f"{path}: is a folder: give the name of a file")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path}: exists already: give another name, or --overwrite")
    check_place(path)


def choose_species(manifest: Manifest, species: tuple[str, ...]) -> Manifest:
    """The part of a corpus that is of some species; all of it if none is named."""
    known = [genome.species for genome in manifest.genomes]
    for name in species:
        near = difflib.get_close_matches(name, known, n=1)
        rule = f"did you mean {near[0]}?" if near else "`nt corpus info` lists what it has"
        require(name in known, "species", name, f"not in {manifest.folder}; {rule}")
    genomes = [genome for genome in manifest.genomes if not species or genome.species in species]
    return dataclasses.replace(manifest, genomes=tuple(genomes))


def check_counted(config: EvaluateConfig) -> None:
    """Raises an `InputError` if baselines were asked for that nobody counted."""
    if config.baselines and not (config.baselines / COUNTS_FILE).is_file():
        rule = f"not counted: `nt corpus baselines {config.baselines}` does it once"
        raise RuleError("baselines", str(config.baselines), rule)


def find_trained(source: str) -> tuple[str | Path, Trained]:
    """The checkpoint that a source stands for and its records, if it is a run; else the source."""
    from nucleotide_transformer.weights import runs  # orbax takes seconds to import

    folder = read_path("model", source)
    if not (folder.is_dir() and runs.is_run(folder)):
        return source, Trained(None, None, None)
    checkpoint = runs.find_checkpoint(folder)
    fields = drop_fields(runs.read_json(checkpoint, "config"), REMOVED_FIELDS)
    config = config_from_dict(PretrainConfig, fields, f"{checkpoint}/config")
    step = int(checkpoint.name) if checkpoint.name.isdecimal() else None
    return checkpoint, Trained(step, config, runs.read_record(checkpoint).get("corpus"))


def read_split(
    config: EvaluateConfig, manifest: Manifest, model: Model, run: PretrainConfig | None
) -> HeldOut:
    """The sequences of the split and their masks."""
    ratio = choose_ratio(config, run)
    num_tokens = choose_length(config, manifest, model, run)
    limit = model.config.position_limit
    rule = f"the learned positions of the model end at {limit}"
    require(limit is None or num_tokens <= limit, "sequence_tokens", num_tokens, rule)
    rule = f"with a masking ratio of {ratio} no token of a sequence would be masked"
    require(round(ratio * (num_tokens - 1)) > 0, "sequence_tokens", num_tokens, rule)
    default = run.evaluation.num_sequences if run else NUM_SEQUENCES
    found = make_evaluation_set(
        manifest,
        config.split,
        tokenizer=model.tokenizer,
        sequence_tokens=num_tokens,
        num_sequences=config.num_sequences or default,
    )
    return make_held_out(found, manifest, ratio, model.config)


def choose_ratio(config: EvaluateConfig, run: PretrainConfig | None) -> float:
    """Share of the tokens to mask: as asked for, or a run's own, or the published one."""
    default = run.held_out_ratio if run else MaskingConfig().ratio
    return config.masking_ratio or default


def choose_length(
    config: EvaluateConfig, manifest: Manifest, model: Model, run: PretrainConfig | None
) -> int:
    """Tokens of a sequence: as asked for, or a run's own, or as many as a chunk fills."""
    of_chunk = manifest.chunk_length // model.config.k + 1
    default = run.held_out_tokens if run else min(model.config.max_positions, of_chunk)
    return config.sequence_tokens or default


def score_model(
    config: EvaluateConfig,
    model: Model,
    held_out: HeldOut,
    devices: list[jax.Device],
    *,
    progress: bool = False,
) -> Scores:
    """Runs the model over the sequences."""
    step = make_scoring_step(model.config, model.compute, devices)
    layout = plan_layout(
        len(held_out.tokens),
        at_most=config.sequences_per_device,
        num_local=len(devices),
        num_processes=1,
    )
    evaluator = Evaluator(held_out.masked, model.config, step, like=layout)
    params = place_state(arrange_params(model.params, model.compute.stack), devices)
    with show_steps(progress) as steps:
        return evaluator.score(params, report=steps("evaluation", layout.accumulation))
