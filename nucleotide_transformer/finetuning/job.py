"""What the parts of a fine-tuning run have in common: checked, and taken apart once."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.config import check_trainable
from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.finetuning.batches import count_tokens, round_lengths
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.evaluation import (
    find_first_best,
    find_metric,
    score_metric,
)
from nucleotide_transformer.finetuning.groups import hold_out
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.finetuning.objective import Standard, measure_labels
from nucleotide_transformer.finetuning.segments import cut_long_tiles
from nucleotide_transformer.model.adapters import choose_adapter
from nucleotide_transformer.model.encoder import check_layers, check_length
from nucleotide_transformer.model.stacking import name_params
from nucleotide_transformer.model.task_network import HEAD, TaskNetwork, is_trained
from nucleotide_transformer.pretrained import Model, randomise
from nucleotide_transformer.training.devices import Layout, find_devices, plan_layout
from nucleotide_transformer.training.metrics import read_metrics
from nucleotide_transformer.training.step import fetch_state
from nucleotide_transformer.types import Int, Params
from nucleotide_transformer.weights.adapter_files import FOLDER, Adapter, save_adapter
from nucleotide_transformer.weights.assembly import digest_params


class Job(NamedTuple):
    """What the parts of a run have in common."""

    config: FinetuneConfig
    model: Model
    network: TaskNetwork
    train: LabelledSequences
    validation: LabelledSequences
    train_tokens: Int[np.ndarray, " S"]
    """Of each training sequence."""
    validation_tokens: Int[np.ndarray, " S"]
    max_tokens: int
    standard: Standard
    devices: list[jax.Device]
    layout: Layout

    def round(self, sizes: Int[np.ndarray, " S"]) -> Int[np.ndarray, " S"]:
        """Padded lengths."""
        return round_lengths(sizes, self.model.config.position_limit)


def make_job(
    model: Model,
    train: LabelledSequences,
    validation: LabelledSequences | None,
    config: FinetuneConfig,
    devices: list[jax.Device] | None = None,
) -> Job:
    """Checks what a run is made of, and takes it apart.

    Args:
        model: to start from.
        train: training set.
        validation: None to hold a share of the training set out.
        config: the run.
        devices: of this process, that take part; those of `config.num_devices` by default.
    """
    check_trainable(model.compute)
    rule = f"the labels of {train.source} are for {train.kind}"
    require(config.kind == train.kind, "kind", config.kind, rule)
    model = randomise(model, config.seed) if config.random_init else model
    if validation is None:
        train, validation = hold_out(train, config.held_out_share, config.seed)
    if (validation.kind, validation.classes) != (train.kind, train.classes):
        raise InputError(
            f"{validation.source}: {validation.kind} of {', '.join(validation.classes)}: must be"
            f" what {train.source} has: {train.kind} of {', '.join(train.classes)}"
        )
    most = find_most_tokens(model, config)
    check_layers(model.config, config.layers)
    train, validation = (
        cut_long_tiles(data, model.tokenizer, most) for data in (train, validation)
    )
    devices = find_devices(config.num_devices) if devices is None else devices
    layout = plan_layout(
        config.sequences_per_update,
        at_most=config.sequences_per_device or config.sequences_per_update,
        num_local=len(devices),
        num_processes=jax.process_count(),
    )
    lora = config.lora
    network = TaskNetwork(
        config=model.config,
        compute=model.compute,
        num_outputs=len(train.classes),
        pooling=config.pooling,
        layers=config.layers,
        per_nucleotide=config.kind == "segmentation",
        adapter=choose_adapter(config.method, rank=lora.rank, alpha=lora.alpha, sites=lora.sites),
    )
    return Job(
        config=config,
        model=model,
        network=network,
        train=train,
        validation=validation,
        train_tokens=count_tokens(train, model.tokenizer, most),
        validation_tokens=count_tokens(validation, model.tokenizer, most),
        max_tokens=most,
        standard=measure_labels(train),
        devices=devices,
        layout=layout,
    )


def find_most_tokens(model: Model, config: FinetuneConfig) -> int:
    """Tokens of the longest sequence of a run; an `InputError` for more than the model takes."""
    most = model.config.max_positions if config.max_tokens is None else config.max_tokens
    check_length(most, model.config, "max_tokens")
    return most


def check_lengths(model: Model, data: LabelledSequences | None, config: FinetuneConfig) -> None:
    """Raises an `InputError` for the first sequence of a set that a run's model can't predict."""
    if data is not None:
        most = find_most_tokens(model, config)
        count_tokens(cut_long_tiles(data, model.tokenizer, most), model.tokenizer, most)


def make_adapter(job: Job, saved: Params, metrics: dict[str, float]) -> Adapter:
    """What a checkpoint has of a run, as an adapter."""
    config, model = job.config, job.model
    used = dataclasses.replace(config.compute, compute_dtype=model.compute.compute_dtype)
    params = {
        module: {name: jnp.asarray(leaf) for name, leaf in leaves.items() if leaf is not None}
        for module, leaves in saved.items()
        if is_trained(module, config.method)
    }
    of_head = {name: leaves for name, leaves in params.items() if name.startswith(HEAD)}
    return Adapter(
        params=params | job.standard.fold_into(of_head),
        method=config.method,
        lora_rank=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_sites=config.lora.sites,
        kind=job.train.kind,
        classes=job.train.classes,
        pooling=config.pooling,
        layers=config.layers,
        strand=config.strand,
        max_tokens=job.max_tokens,
        base=model.source or model.origin,
        base_digest=digest_params(model.params),
        random_seed=config.seed if config.random_init else None,
        metrics=metrics,
        config=config_to_dict(dataclasses.replace(config, compute=used)),
    )


def keep_best(
    job: Job, evaluate: Callable[[Any], dict[str, float]]
) -> Callable[[Any], dict[str, float]]:
    """The same evaluation, which also writes the adapter of each new best.

    Of checkpoints with equal scores the latest would count. So what is no better than an earlier
    evaluation has a higher score than the best of these.

    Args:
        job: the run.
        evaluate: metrics of placed parameters.
    """
    metric = find_metric(job.train)

    def evaluate_and_keep(params: Any) -> dict[str, float]:
        found = evaluate(params)
        lines = [line for line in read_metrics(job.config.output) if line["kind"] == "validation"]
        values = [*(line[metric] for line in lines), found[metric]]
        best = find_first_best(values)
        if best < len(lines):
            least = float(np.nextafter(score_metric(values[best]), np.inf))
            return found | {"score": max(found["score"], least)}
        if jax.process_index() == 0:
            metrics = {name: value for name, value in found.items() if name != "score"}
            adapter = make_adapter(job, name_params(fetch_state(params)), metrics)
            save_adapter(job.config.output / FOLDER, adapter)
        return found

    return evaluate_and_keep


def digest_labelled(data: LabelledSequences) -> str:
    """Hexadecimal, of sequences and labels in their order."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((data.kind, data.classes)).encode())
    digest.update("\n".join(data.sequences).encode())
    digest.update(np.ascontiguousarray(data.labels).tobytes())
    return digest.hexdigest()
