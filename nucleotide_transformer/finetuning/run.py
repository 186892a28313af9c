"""A fine-tuning run put together: labelled sequences, network, loss, optimiser, validation."""

import dataclasses
import functools
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nucleotide_transformer.bars import show_steps
from nucleotide_transformer.configfile import check_config
from nucleotide_transformer.finetuning.batches import Batches
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.evaluation import Evaluator, find_metric, has_stalled
from nucleotide_transformer.finetuning.head_start import fit_head
from nucleotide_transformer.finetuning.job import (
    Job,
    digest_labelled,
    keep_best,
    make_adapter,
    make_job,
)
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.finetuning.objective import (
    Examples,
    encode_labels,
    make_loss,
    make_predictions,
    weigh_classes,
)
from nucleotide_transformer.model import exact_products
from nucleotide_transformer.model.adapters import Method
from nucleotide_transformer.model.flops import count_forward_flops
from nucleotide_transformer.model.stacking import AnyParams, arrange_params
from nucleotide_transformer.model.task_network import is_trained
from nucleotide_transformer.pretrained import Model, describe_adapted
from nucleotide_transformer.training.devices import (
    agree_on,
    fail_together,
    join_processes,
    wait_for_processes,
)
from nucleotide_transformer.training.loop import Run, RunPlan, Task, catch_signals
from nucleotide_transformer.training.optimizer import make_optimizer, make_schedule
from nucleotide_transformer.training.peaks import find_total_peak_flops
from nucleotide_transformer.training.state import TrainState, init_state
from nucleotide_transformer.training.step import make_gather_step, make_train_step
from nucleotide_transformer.types import Array, Float, Int, Params
from nucleotide_transformer.weights.adapter_files import FOLDER, save_adapter
from nucleotide_transformer.weights.assembly import digest_params
from nucleotide_transformer.weights.runs import FOLDER as CHECKPOINTS
from nucleotide_transformer.weights.runs import find_checkpoint, read_held_out, read_params

FREE_FIELDS = (
    *("output", "model", "train", "validation", "test", "num_devices", "distributed"),
    *("train_labels", "validation_labels", "test_labels"),
    *("sequences_per_device", "log_every_steps", "batching"),
    *("compute.attention", "compute.remat", "compute.stack"),
)
"""Config fields that may change when a run resumes: they leave every update as it was, up to
rounding. The model and the tables count by the digests of their content and not by their names."""
PASSES: dict[Method, int] = {"head": 1, "ia3": 2, "lora": 2, "full": 3}
"""Products of an update over those of a forward pass: gradients of activations, and of weights."""


class FinetuneResult(NamedTuple):
    """How a run ended."""

    model: Model | None
    """The best of the run on the validation set, with its head; None if the run was stopped."""
    adapter: Path
    """Folder of the adapter."""
    step: int
    """Updates applied."""
    best_step: int
    """Updates after which the model was the best; of several that were equal, the fewest. A metric
    that is not defined is worse than any other."""
    metrics: dict[str, float]
    """Of the best model on the validation set."""
    num_trained: int
    """Parameters that were trained, the head among them."""

    @property
    def finished(self) -> bool:
        """False if the run was stopped before its end."""
        return self.model is not None


def finetune(
    model: Model,
    train: LabelledSequences,
    validation: LabelledSequences | None,
    config: FinetuneConfig,
    *,
    show: bool = True,
) -> FinetuneResult:
    """Adapts a model to labelled sequences, or resumes the run in `config.output`.

    Where several processes train together (`config.distributed`), each joins the others before it
    loads the model (`join_processes`), and returns the same.

    Args:
        model: to start from, in the precision that it computes in; what `config.model` and
            `config.compute` say is not looked at.
        train: training set.
        validation: what decides when to stop and which updates were the best; None to hold
            `config.held_out_share` of the training set out.
        config: the run; its tables are not looked at.
        show: print the plan, a progress bar and validation results.

    Raises:
        InputError: one line; the input is checked before anything is written.
        TrainingDivergedError: if the loss is not finite.
    """
    config = check_config(config)
    join_processes(distributed=config.distributed)
    with catch_signals(show=show) as stop:
        with fail_together():
            job = make_job(model, train, validation, config)
        return train_job(job, stop, show=show)


def train_job(job: Job, stop: threading.Event, *, show: bool) -> FinetuneResult:
    """A run from its start, or from where it was stopped, to its end or until `stop` is set."""
    task = make_task(job, show=show)
    run = Run(make_plan(job), task, devices=job.devices, layout=job.layout, show=show)
    run.progress.announce(describe_run(job, count_trained(task)))
    try:
        with run.progress:
            result = run.train(stop)
    finally:
        run.close()
    if result is None:
        folder, empty = job.config.output / FOLDER, dict[str, float]()
        return FinetuneResult(None, folder, run.step, 0, empty, count_trained(task))
    return finish(job, run.step, count_trained(task))


def make_plan(job: Job) -> RunPlan:
    """When the run does what, and what makes it the same run."""
    config, metric = job.config, find_metric(job.train)
    # Weighted losses were divided by the sum of the weights once: such a run can't go on.
    loss = {"none": "", "balanced": ", mean of sequences"}[config.class_weights]
    return RunPlan(
        folder=config.output,
        total_steps=config.total_steps,
        tokens_per_update=count_update_tokens(job),
        log_every_steps=config.log_every_steps,
        evaluate_every_steps=config.evaluate_every_steps,
        save_every_steps=config.evaluate_every_steps,
        keep=1,
        config=config,
        free_fields=FREE_FIELDS,
        record={
            "base": digest_params(job.model.params),
            "train": digest_labelled(job.train) + loss,
            "validation": digest_labelled(job.validation),
            "compute_dtype": job.model.compute.compute_dtype,
        },
        make_schedule=lambda config: make_schedule(config.optimizer, config.total_steps),
        is_over=lambda history: has_stalled(history, metric, config.patience),
    )


def make_task(job: Job, *, show: bool = False) -> Task:
    """Fine-tuning as the loop takes it; `show` a bar where the head's start takes a while."""
    config, network = job.config, job.network
    optimizer = make_optimizer(config.optimizer, config.total_steps)
    choose = functools.partial(is_trained, method=config.method)

    def start(head: Params) -> TrainState:
        added = network.init(jax.random.key(config.seed)) | head
        params = network.take_base(job.model.params) | added
        return init_state(arrange_params(params, job.model.compute.stack), optimizer, choose)

    def begin() -> tuple[TrainState, dict[str, Any]]:
        if config.head_start == "random":
            return start({}), {}
        with show_steps(show and jax.process_index() == 0) as steps:
            return start(fit_head(job, advance=steps("probe: embeddings", len(job.train)))), {}

    dtype: Any = job.model.compute.compute_dtype  # "auto" no more
    return Task(
        init_state=begin,
        init_frozen=lambda: start({}).frozen,
        state_shapes=jax.eval_shape(start, {}),
        train_step=make_train_step(
            make_loss(network, job.train.kind),
            optimizer,
            make_schedule(config.optimizer, config.total_steps),
            job.devices,
            seed=config.seed,
            context=functools.partial(exact_products, job.model.compute),
        ),
        batches=make_input(job),
        blank=Examples(*(np.zeros((1,), np.float32),) * 3),  # batches are full
        evaluate=keep_best(job, make_evaluator(job).evaluate),
        describe=describe_metrics,
        flops_per_update=count_run_flops(job),
        peak_flops=find_total_peak_flops(job.devices, dtype),
        measure_fill=functools.partial(measure_fill, job),
    )


def make_input(job: Job) -> Batches:
    """The batches of this process, update by update."""
    config = job.config
    return Batches(
        job.train,
        encode_labels(job.train, job.standard),
        weigh_classes(job.train, balanced=config.class_weights == "balanced"),
        tokenizer=job.model.tokenizer,
        lengths=job.round(job.train_tokens),
        sequences_per_update=config.sequences_per_update,
        layout=job.layout,
        both_strands=config.strand == "both",
        seed=config.seed,
    )


def make_evaluator(job: Job) -> Evaluator:
    """What measures the model on the validation set, compiled."""

    def predict(params: AnyParams, tokens: Int[Array, "B T"]) -> Float[Array, "..."]:
        return make_predictions(job.train.kind, job.network.apply(params, tokens))

    step = make_gather_step(
        predict,
        job.devices,
        context=functools.partial(exact_products, job.model.compute),
    )
    return Evaluator(
        job.validation,
        tokenizer=job.model.tokenizer,
        lengths=job.round(job.validation_tokens),
        both_strands=job.config.strand == "both",
        step=step,
        layout=job.layout,
        standard=job.standard,
    )


def finish(job: Job, step: int, num_trained: int) -> FinetuneResult:
    """Writes the adapter of the best checkpoint, and puts it onto the base.

    The first process writes, and no other goes on before the adapter is there.
    """
    config = job.config
    best = find_best(config.output)
    metrics = {name: v for name, v in read_held_out(best).items() if name != "score"}
    adapter = make_adapter(job, read_params(best / "state"), metrics)
    folder = config.output / FOLDER
    if jax.process_index() == 0:
        save_adapter(folder, adapter)
    wait_for_processes(f"{FOLDER} written")
    model = dataclasses.replace(
        job.model,
        params=adapter.merge(job.model.params),
        origin=describe_adapted(job.model.origin, folder),
        source=str(folder.resolve()),
        head=adapter.head,
    )
    return FinetuneResult(model, folder, step, int(best.name), metrics, num_trained)


def find_best(output: Path) -> Path:
    """The best checkpoint, which the first process names for all once it has written its last."""
    step = int(find_checkpoint(output).name) if jax.process_index() == 0 else -1
    return output.absolute() / CHECKPOINTS / str(agree_on(step))


def count_update_tokens(job: Job) -> int:
    """Tokens of an update, padding included, on average."""
    return round(job.config.sequences_per_update * float(job.round(job.train_tokens).mean()))


def measure_fill(job: Job, batch: Examples) -> float:
    """Tokens of a batch that are not padding, over those of an average one with its padding."""
    num_tokens = np.count_nonzero(np.asarray(batch.tokens) != job.model.config.pad_token_id)
    return num_tokens * jax.process_count() / count_update_tokens(job)


def count_run_flops(job: Job) -> int:
    """Model FLOPs of one update: of the blocks up to the highest layer that the head reads."""
    config, model = job.config, job.model.config
    length = round(float(job.round(job.train_tokens).mean()))
    forward = count_forward_flops(model, num_tokens=length, num_head_tokens=0)
    num_blocks = max(config.layers, default=model.num_layers)
    needed = forward * num_blocks // model.num_layers  # all blocks cost the same
    return PASSES[config.method] * config.sequences_per_update * needed


def count_trained(task: Task) -> int:
    """Parameters that are trained."""
    return sum(leaf.size for leaf in jax.tree.leaves(task.state_shapes.trainable))


def describe_metrics(metrics: dict[str, float]) -> str:
    """Validation metrics in words."""
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name != "score")


def describe_run(job: Job, num_trained: int) -> list[tuple[str, str]]:
    """The plan of a run: model, method, sequences."""
    config, layout = job.config, job.layout
    devices = "device" if layout.num_devices == 1 else "devices"
    longest = int(job.train_tokens.max())
    return [
        ("model", job.model.origin),
        (
            "method",
            f"{config.method}, {num_trained:,} trained parameters, learning rate"
            f" {config.optimizer.peak_learning_rate:g}",
        ),
        (
            "sequences",
            f"{len(job.train):,} to train, {len(job.validation):,} to validate, {longest} tokens"
            f" at most; {job.train.kind}: {', '.join(job.train.classes)}",
        ),
        ("update", f"{config.sequences_per_update} sequences on {layout.num_devices} {devices}"),
    ]
