"""The training step and the evaluation step. Only this file names pmap and its collectives."""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.experimental import multihost_utils

from nucleotide_transformer.config import (
    PretrainConfig,
)
from nucleotide_transformer.errors import require
from nucleotide_transformer.model import exact_products, init_params, make_forward
from nucleotide_transformer.model.stacking import AnyParams as Params
from nucleotide_transformer.model.stacking import arrange_params, name_params
from nucleotide_transformer.pretraining.masking import MaskedTokens, mask_tokens
from nucleotide_transformer.pretraining.objective import TokenCounts, masked_cross_entropy
from nucleotide_transformer.training.optimizer import (
    apply_updates,
    clip_gradient,
    make_optimizer,
    make_schedule,
)
from nucleotide_transformer.types import Array, Float, Int

AXIS = "device"


class TrainState(NamedTuple):
    """All that an update changes. No array has a device axis, but for sharded Adam moments."""

    params: Params
    """By their released names; on the devices, those of the blocks are stacked for a scan."""
    opt_state: Any
    """Adam's moments, as the parameters; if sharded, each array as its slices [N, Q]."""
    step: Int[Array, ""]
    """Updates applied so far."""


class DeviceBatch(NamedTuple):
    """One update's sequences, laid out by device and micro-batch; NumPy arrays until the step."""

    tokens: Int[Array, "N A B T"]
    rows: Int[Array, "N A B"]
    """Place of each sequence in the global batch."""


class StepMetrics(NamedTuple):
    """Scalars of one update, over all devices and processes."""

    loss: Float[Array, ""]
    """Cross-entropy in nats per masked token, before the update."""
    accuracy: Float[Array, ""]
    """Share of masked tokens whose most likely token is right, before the update."""
    masked_tokens: Float[Array, ""]
    """Masked tokens of the update."""
    gradient_norm: Float[Array, ""]
    """Global norm of the mean gradient, before clipping."""
    learning_rate: Float[Array, ""]
    """Learning rate of the update."""


TrainStep = Callable[[TrainState, DeviceBatch], tuple[TrainState, StepMetrics]]


def init_state(config: PretrainConfig) -> TrainState:
    """The state before the first update; a function of the seed alone."""
    params = init_params(jax.random.key(config.seed), config.model, config.compute)
    return TrainState(params, make_optimizer(config.optimizer).init(params), jnp.int32(0))


def join_processes(config: PretrainConfig) -> None:
    """Joins the other processes of a run on several hosts; nothing happens on one host.

    The address of the first and their number come from the cluster's environment (Slurm, Open
    MPI, TPU pods, Kubernetes) or from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.
    """
    if config.distributed and not jax.distributed.is_initialized():
        jax.distributed.initialize(**read_cluster())


def read_cluster() -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize` that the environment gives."""
    kinds = {"coordinator_address": str, "num_processes": int, "process_id": int}
    found = {name: os.environ.get(f"JAX_{name.upper()}") for name in kinds}
    return {name: kinds[name](value) for name, value in found.items() if value is not None}


def find_devices(num_devices: int | None) -> list[jax.Device]:
    """This process's devices that take part: all, or the first `num_devices`.

    Raises:
        ValueError: if there are fewer, or none of the platform that JAX_PLATFORMS names.
    """
    try:
        devices = jax.local_devices()
    except (RuntimeError, AssertionError):
        platforms = os.environ.get("JAX_PLATFORMS", "")
        raise ValueError(f"JAX_PLATFORMS = {platforms!r}: JAX finds no such device here") from None
    number = len(devices) if num_devices is None else num_devices
    rule = f"this process has {len(devices)} of the platform {devices[0].platform}"
    require(1 <= number <= len(devices), "num_devices", number, rule)
    return devices[:number]


def span_processes(devices: list[jax.Device]) -> list[jax.Device]:
    """As many devices of every process as are given of this one: what pmap asks for."""
    if jax.process_count() == 1:
        return devices
    processes = range(jax.process_count())
    return [d for process in processes for d in jax.local_devices(process)[: len(devices)]]


def agree_to_stop(stop: bool) -> bool:
    """Whether any process was asked to stop; every process gets the same answer.

    One process answers at once. Several must all call this after the same update.
    """
    if jax.process_count() == 1:
        return stop
    return bool(multihost_utils.process_allgather(np.asarray(stop)).any())


def make_train_step(config: PretrainConfig, devices: list[jax.Device]) -> TrainStep:
    """A compiled update: masks, forward, backward, the gradient added up over devices, Adam.

    Args:
        config: the run.
        devices: this process's devices that take part.

    Returns:
        A function of the state (donated) and this process's batch. The state comes back on
        every device, bitwise the same.
    """
    forward = make_forward(config.model, config.compute)
    optimizer = make_optimizer(config.optimizer)
    schedule = make_schedule(config.optimizer)
    mask_key = jax.random.key(config.seed)

    def masked_loss(
        params: Params, micro: DeviceBatch, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], TokenCounts]:
        key = jax.random.fold_in(mask_key, step)
        masked = mask_tokens(micro.tokens, micro.rows, key, config.masking, config.model)
        logits = forward.apply(params, masked.inputs, masked.positions).logits  # [B, M, V]
        return masked_cross_entropy(logits, masked.targets, masked.valid)

    def train_step(state: TrainState, batch: DeviceBatch) -> tuple[TrainState, StepMetrics]:
        def differentiate(micro: DeviceBatch) -> tuple[Array, TokenCounts, Params]:
            gradient = jax.value_and_grad(masked_loss, has_aux=True)
            (loss, counts), grads = gradient(state.params, micro, state.step)
            return loss, counts, grads

        loss, counts, grads = add_up(differentiate, batch)

        loss, counts = lax.psum((loss, counts), AXIS)
        num_masked = jnp.maximum(counts.masked, 1.0)
        summed = reduce_gradient(grads, sharded=config.shard_optimizer)
        gradient = jax.tree.map(lambda leaf: leaf / num_masked, summed)
        norm = measure_norm(gradient, sharded=config.shard_optimizer)
        gradient = clip_gradient(gradient, norm, config.optimizer)
        update, opt_state = optimizer.update(gradient, state.opt_state)
        updates = gather_update(update, state.params, sharded=config.shard_optimizer)

        learning_rate = schedule(state.step)
        params = apply_updates(state.params, updates, learning_rate, config.optimizer)
        accuracy = counts.correct / num_masked
        metrics = StepMetrics(loss / num_masked, accuracy, counts.masked, norm, learning_rate)
        return TrainState(params, opt_state, state.step + 1), metrics

    axes = find_state_axes(config)
    return jax.pmap(
        multiply_exactly(train_step, config),
        AXIS,
        in_axes=(axes, 0),
        out_axes=(axes, None),
        donate_argnums=0,
        devices=span_processes(devices),
    )


def multiply_exactly(function: Callable[..., Any], config: PretrainConfig) -> Callable[..., Any]:
    """The function, with the products of a float32 run as exact on accelerators as on a CPU."""

    @functools.wraps(function)
    def exact(*arguments: Any) -> Any:
        with exact_products(config.compute):
            return function(*arguments)

    return exact


def add_up(function: Callable[[Any], Any], batch: DeviceBatch) -> Any:
    """The sum of a function of the micro-batches; of a single one, without a pass of adding."""
    if len(batch.tokens) == 1:
        return function(jax.tree.map(lambda leaf: leaf[0], batch))

    def accumulate(sums: Any, micro: DeviceBatch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, function(micro)), None

    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], batch))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return lax.scan(accumulate, zeros, batch)[0]


def cut(leaf: Float[Array, "*shape"], num_slices: int) -> Float[Array, "N Q"]:
    """The elements of an array as slices of equal length, with zeros behind the last one."""
    flat = leaf.reshape(-1)
    return jnp.pad(flat, (0, -flat.size % num_slices)).reshape(num_slices, -1)


def reduce_gradient(grads: Params, *, sharded: bool) -> Params:
    """Adds up gradients over devices; sharded, each gets its slice [Q] of every array."""
    if not sharded:
        return lax.psum(grads, AXIS)
    num_slices = lax.axis_size(AXIS)
    return jax.tree.map(lambda leaf: lax.psum_scatter(cut(leaf, num_slices), AXIS), grads)


def measure_norm(gradient: Params, *, sharded: bool) -> Float[Array, ""]:
    """Euclidean norm of a gradient, of which each device may hold a slice."""
    square = optax.tree.norm(gradient, squared=True)
    return jnp.sqrt(lax.psum(square, AXIS) if sharded else square)


def gather_update(update: Params, like: Params, *, sharded: bool) -> Params:
    """The whole update (or moment) on every device, in the form of the parameters `like`."""
    if not sharded:
        return update

    def join(own: Float[Array, " Q"], leaf: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return lax.all_gather(own, AXIS, tiled=True)[: leaf.size].reshape(leaf.shape)

    return jax.tree.map(join, update, like)


def map_moments(function: Callable[[Any], Any], opt_state: Any) -> Any:
    """Applies a function to each of Adam's two moments, and leaves the counts."""
    adam, *rest = opt_state
    return adam._replace(mu=function(adam.mu), nu=function(adam.nu)), *rest


def map_params(function: Callable[[Params], Any], state: TrainState) -> TrainState:
    """Applies a function to the parameters and, alike, to each of Adam's whole moments."""
    moments = map_moments(function, state.opt_state)
    return state._replace(params=function(state.params), opt_state=moments)


def find_state_axes(config: PretrainConfig) -> Any:
    """The pmap axes of a `TrainState`: none, but the first of sharded Adam moments."""
    if not config.shard_optimizer:
        return None
    shapes = jax.eval_shape(lambda: make_optimizer(config.optimizer).init(jnp.zeros(1)))
    axes: Any = (None, jax.tree.map(lambda leaf: 0 if leaf.ndim else None, shapes), None)
    return TrainState(*axes)


def place_state(state: TrainState, config: PretrainConfig, devices: list[jax.Device]) -> TrainState:
    """A whole state on this process's devices, as the step takes and returns it.

    Blocks are stacked for a scan here, not in every update. With `shard_optimizer`, moments become
    slices [N, Q], of which each process keeps those of its own devices. For a state
    that lies on the devices in another way the step would be compiled a second time.
    """
    arrange = functools.partial(arrange_params, stack=config.compute.stack)
    state = map_params(arrange, state)
    axes = find_state_axes(config)
    if config.shard_optimizer:
        total = len(devices) * jax.process_count()
        first = jax.process_index() * len(devices)

        def shard(moment: Params) -> Params:
            own = slice(first, first + len(devices))
            return jax.tree.map(lambda leaf: cut(leaf, total)[own], moment)

        state = state._replace(opt_state=map_moments(shard, state.opt_state))
    place = jax.pmap(
        lambda state, _: state,
        AXIS,
        in_axes=(axes, 0),
        out_axes=axes,
        devices=span_processes(devices),
    )
    return place(state, jnp.zeros(len(devices)))  # pmap asks for one argument with a device axis


def make_collect(
    config: PretrainConfig, devices: list[jax.Device]
) -> Callable[[TrainState], TrainState]:
    """The reverse of `place_state`: what is saved depends neither on devices nor on the stack."""
    if not config.shard_optimizer:
        return jax.jit(name_params)
    axes = find_state_axes(config)

    def collect(state: TrainState) -> TrainState:
        gather = functools.partial(gather_update, like=state.params, sharded=True)
        whole = state._replace(opt_state=map_moments(gather, state.opt_state))
        return name_params(whole)

    everywhere = span_processes(devices)
    return jax.pmap(collect, AXIS, in_axes=(axes,), out_axes=None, devices=everywhere)


def lay_out_batch(
    tokens: Int[np.ndarray, "S T"],
    rows: Int[np.ndarray, " S"],
    *,
    num_devices: int,
    sequences_per_device: int,
) -> DeviceBatch:
    """This process's sequences as [devices, micro-batches, sequences, tokens]: a view."""
    shape = (num_devices, -1, sequences_per_device)
    laid_out: Any = (tokens.reshape(*shape, tokens.shape[1]), rows.reshape(shape))
    return DeviceBatch(*laid_out)


class EvaluationSums(NamedTuple):
    """Sums over masked tokens, over all devices and processes."""

    nats: Float[Array, ""]
    counts: TokenCounts


EvaluationStep = Callable[[Params, MaskedTokens], EvaluationSums]


def make_evaluation_step(config: PretrainConfig, devices: list[jax.Device]) -> EvaluationStep:
    """A compiled forward pass: sums over masked sequences laid out [devices, B, ...]."""
    forward = make_forward(config.model, config.compute)

    def evaluation_step(params: Params, masked: MaskedTokens) -> EvaluationSums:
        logits = forward.apply(params, masked.inputs, masked.positions).logits
        sums = masked_cross_entropy(logits, masked.targets, masked.valid)
        return EvaluationSums(*lax.psum(sums, AXIS))

    everywhere = span_processes(devices)
    return jax.pmap(
        multiply_exactly(evaluation_step, config),
        AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=everywhere,
    )
