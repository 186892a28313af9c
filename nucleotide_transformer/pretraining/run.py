"""A pre-training run put together: corpus, model, objective, optimiser, evaluation, baselines."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from nucleotide_transformer.config import ModelConfig, PretrainConfig
from nucleotide_transformer.configfile import check_config
from nucleotide_transformer.data.dataset import make_dataset, make_iterator
from nucleotide_transformer.data.manifest import Manifest, load_manifest
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model import exact_products, init_params, make_forward
from nucleotide_transformer.model.flops import count_update_flops
from nucleotide_transformer.model.platform import resolve_compute
from nucleotide_transformer.model.stacking import arrange_params
from nucleotide_transformer.model.token_tables import unfold_tables
from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.pretraining.counts import Counts, find_counts
from nucleotide_transformer.pretraining.evaluation import (
    Evaluator,
    HeldOut,
    make_scoring_step,
    measure_baselines,
    read_held_out,
)
from nucleotide_transformer.pretraining.masking import count_slots
from nucleotide_transformer.pretraining.objective import (
    Sequences,
    make_blank,
    make_loss,
    measure_fill,
)
from nucleotide_transformer.pretraining.report import describe_metrics, write_results
from nucleotide_transformer.pretraining.scores import (
    MODEL,
    Evaluation,
    Metrics,
    make_evaluation,
)
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.training.devices import (
    Layout,
    fail_together,
    find_devices,
    join_processes,
    plan_layout,
)
from nucleotide_transformer.training.loop import Run, RunPlan, Task, catch_signals
from nucleotide_transformer.training.optimizer import make_optimizer, make_schedule
from nucleotide_transformer.training.peaks import find_total_peak_flops
from nucleotide_transformer.training.state import TrainState, init_state
from nucleotide_transformer.training.step import make_train_step
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights.assembly import digest_params

FREE_FIELDS = (
    "output",
    "num_devices",
    "distributed",
    "sequences_per_device",
    "total_tokens",
    "log_every_steps",
    "checkpoint",
    "evaluation.every_steps",
    "data.corpus",
    "data.num_threads",
    "data.num_readers",
    "data.num_buffered",
    "model.init",
    "compute.attention",
    "compute.remat",
    "compute.stack",
)
"""Config fields that may change when a run resumes: they leave every update as it was, up to
rounding. The corpus counts by the digest of its content and not by its path."""


class RunSummary(NamedTuple):
    """How a run ended."""

    step: int
    """Updates applied."""
    evaluation: Evaluation | None
    """The model at the end beside its baselines, of which there are none if the corpus has none,
    and in all processes but the first; None if the run was stopped before `total_steps`."""

    @property
    def finished(self) -> bool:
        """False if the run was stopped before `total_steps`."""
        return self.evaluation is not None

    @property
    def held_out(self) -> Metrics | None:
        """Of the model at the end, over all held-out sequences."""
        return self.evaluation.overall.rows[MODEL].metrics if self.evaluation else None

    @property
    def baselines(self) -> dict[str, Metrics]:
        """Name -> the same metrics on the same masked tokens."""
        rows = self.evaluation.overall.rows if self.evaluation else {}
        return {name: row.metrics for name, row in rows.items() if name != MODEL}


def pretrain(config: PretrainConfig, *, show: bool = True) -> RunSummary:
    """Pre-trains a model, or resumes the run in `config.output`.

    Args:
        config: the run.
        show: print the plan, a progress bar and held-out results.

    Raises:
        InputError: one line; the input is checked before anything is written.
        TrainingDivergedError: if the loss is not finite; the checkpoints are those of before.
    """
    config = check_config(config)
    join_processes(distributed=config.distributed)
    first = jax.process_index() == 0
    with catch_signals(show=show) as stop:
        devices = find_devices(config.num_devices)
        with fail_together():
            compute = resolve_compute(config.compute, config.model, devices[0])
            config = dataclasses.replace(config, compute=compute)
            manifest = load_manifest(config.data.corpus)
            tokenizer = KmerTokenizer(config.model.vocabulary, config.model.k)
            layout = plan_layout(
                config.sequences_per_update,
                at_most=config.sequences_per_device,
                num_local=len(devices),
                num_processes=jax.process_count(),
            )
            held_out = read_held_out(config, manifest, tokenizer)
            counts, notes = find_counts(manifest, tokenizer.k) if first else (None, ())
            evaluator = make_evaluator(config, held_out, devices, layout)
            task = make_task(config, manifest, tokenizer, evaluator, devices)
        run = Run(make_plan(config, manifest), task, devices=devices, layout=layout, show=show)
        run.progress.announce(describe_run(config, manifest, layout, held_out, counts, notes))
        try:
            with run.progress:
                result = run.train(stop)
        finally:
            run.close()
    if not (result and evaluator.scores):
        evaluation = None
    else:
        # Only now, after the last update: no device waits for it, and Ctrl-C ends it at once.
        rows = {MODEL: evaluator.scores}
        rows |= measure_baselines(counts, tokenizer, held_out) if counts else {}
        evaluation = make_evaluation(rows, held_out.groups)
    if first:
        write_results(config.output, run.step, evaluation)
    return RunSummary(run.step, evaluation)


def make_plan(config: PretrainConfig, manifest: Manifest) -> RunPlan:
    """When the run does what, and what makes it the same run."""
    return RunPlan(
        folder=config.output,
        total_steps=config.total_steps,
        tokens_per_update=config.tokens_per_update,
        log_every_steps=config.log_every_steps,
        evaluate_every_steps=config.evaluation.every_steps,
        save_every_steps=config.checkpoint.every_steps,
        keep=config.checkpoint.keep,
        config=config,
        free_fields=FREE_FIELDS,
        record={"corpus": manifest.digest},
        make_schedule=lambda config: make_schedule(config.optimizer, config.total_steps),
    )


def make_task(
    config: PretrainConfig,
    manifest: Manifest,
    tokenizer: KmerTokenizer,
    evaluator: Evaluator,
    devices: list[jax.Device],
) -> Task:
    """Masked-language-model pre-training as the loop takes it."""
    optimizer = make_optimizer(config.optimizer, config.total_steps)

    def begin(params: Params) -> TrainState:
        return init_state(arrange_params(params, config.compute.stack), optimizer)

    def start() -> tuple[TrainState, dict[str, Any]]:
        if not config.init_from:
            return begin(make_initial(config)), {}
        given = load_initial(config)
        noted = {"started_from": digest_params(given)}
        return begin(unfold_tables(given, config.model)), noted

    dtype: Any = config.compute.compute_dtype  # "auto" no more
    return Task(
        init_state=start,
        state_shapes=jax.eval_shape(lambda: begin(make_initial(config))),
        train_step=make_train_step(
            make_loss(make_forward(config.model, config.compute), config.masking, config.model),
            optimizer,
            make_schedule(config.optimizer, config.total_steps),
            devices,
            seed=config.seed,
            context=functools.partial(exact_products, config.compute),
        ),
        batches=make_input(config, manifest, tokenizer),
        blank=make_blank(config.model, config.data.sequence_tokens),
        evaluate=evaluator.evaluate,
        describe=describe_metrics,
        flops_per_update=count_run_flops(config),
        peak_flops=find_total_peak_flops(devices, dtype),
        measure_fill=lambda batch: measure_fill(batch, config.model),
    )


def make_evaluator(
    config: PretrainConfig, held_out: HeldOut, devices: list[jax.Device], layout: Layout
) -> Evaluator:
    """What evaluates the model on the held-out sequences, as many tokens at once as in training."""
    num_tokens = layout.per_device * config.data.sequence_tokens
    like = layout._replace(per_device=max(1, num_tokens // held_out.tokens.shape[1]))
    step = make_scoring_step(config.model, config.compute, devices)
    return Evaluator(held_out.masked, config.model, step, like=like)


def make_input(config: PretrainConfig, manifest: Manifest, tokenizer: KmerTokenizer) -> Any:
    """The batches of this process, update by update; its state is the next update's number."""
    dataset = make_dataset(
        manifest,
        "train",
        tokenizer=tokenizer,
        data=config.data,
        sequences_per_update=config.sequences_per_update,
        seed=config.seed,
        process_index=jax.process_index(),
        num_processes=jax.process_count(),
    )
    return make_iterator(
        dataset.map(lambda batch: Sequences(batch.tokens, batch.rows)),
        num_threads=config.data.num_threads,
        num_buffered=config.data.num_buffered,
    )


def make_initial(config: PretrainConfig) -> Params:
    """Random parameters; a function of the seed alone."""
    return init_params(jax.random.key(config.seed), config.model, config.compute)


def load_initial(config: PretrainConfig) -> Params:
    """The parameters that a run starts from, by `init_from`.

    Rows of their token tables share nothing yet.

    Raises:
        InputError: if there are none, or they are of another architecture.
    """
    assert config.init_from is not None
    model = load_pretrained(config.init_from, compute=config.compute)
    free = {"init", "token_tables"} | (
        {"max_positions"} if config.model.position == "rotary" else set()
    )
    differing = [
        f"model.{field.name} = {there!r} there, {here!r} here"
        for field in dataclasses.fields(ModelConfig)
        if field.name not in free
        and (there := getattr(model.config, field.name))
        != (here := getattr(config.model, field.name))
    ]
    if differing:
        rule = "the model must be that of the weights"
        raise InputError(f"init_from = {config.init_from!r}: {'; '.join(differing)}: {rule}")
    return model.params


def count_run_flops(config: PretrainConfig) -> int:
    """Model FLOPs of one update of a run."""
    num_tokens = config.data.sequence_tokens
    return count_update_flops(
        config.model,
        num_sequences=config.sequences_per_update,
        num_tokens=num_tokens,
        num_head_tokens=count_slots(num_tokens, config.masking),
    )


def describe_run(
    config: PretrainConfig,
    manifest: Manifest,
    layout: Layout,
    held_out: HeldOut,
    counts: Counts | None,
    notes: Sequence[str],
) -> list[tuple[str, str]]:
    """The plan of a run: corpus, model, and what the tokens of an update become."""
    model = config.model
    devices = "device" if layout.num_devices == 1 else "devices"
    processes = f" in {layout.num_processes} processes" if layout.num_processes > 1 else ""
    slots = layout.num_devices * layout.accumulation * layout.per_device
    blank = slots - config.sequences_per_update
    num_held_out, wanted = len(held_out.tokens), config.evaluation.num_sequences
    return [
        (
            "corpus",
            f"{config.data.corpus}: {len(manifest.genomes)} genomes,"
            f" {manifest.num_nucleotides('train'):,} nucleotides to train on",
        ),
        (
            "model",
            f"{model.num_layers} layers, width {model.embed_dim}, {model.num_heads} heads,"
            f" feed-forward {model.ffn_dim}, {config.compute.compute_dtype}"
            + (f", from {config.init_from}" if config.init_from else ""),
        ),
        (
            "update",
            f"{config.tokens_per_update:,} tokens = {layout.num_devices} {devices}{processes}"
            f" x {layout.accumulation} accumulated x {layout.per_device} sequences"
            f" x {config.data.sequence_tokens} tokens"
            + (f", {blank} of the sequences blank" if blank else ""),
        ),
        (
            "held out",
            f"{num_held_out:,} sequences x {config.held_out_tokens} tokens"
            + (f", all that there are of {wanted:,}" if num_held_out < wanted else ""),
        ),
        *([("baselines", f"of {counts.num_nucleotides:,} nucleotides")] if counts else []),
        *(("note", note) for note in (*held_out.notes, *notes)),
        ("folder", str(config.output)),
    ]
