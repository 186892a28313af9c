"""The training step and the evaluation step. Only this file knows of devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.experimental import multihost_utils

from nucleotide_transformer.config import PretrainConfig, require
from nucleotide_transformer.model import init_params, make_forward
from nucleotide_transformer.training.losses import TokenCounts, masked_cross_entropy
from nucleotide_transformer.training.masking import MaskedTokens, mask_tokens
from nucleotide_transformer.training.optimizer import make_optimizer, make_schedule
from nucleotide_transformer.types import Array, Float, Int, Params

AXIS = "device"


class TrainState(NamedTuple):
    """All that an update changes. No array has a device axis outside the step."""

    params: Params
    opt_state: Any
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


def find_devices(num_devices: int | None) -> list[jax.Device]:
    """This process's devices that take part: all, or the first `num_devices`.

    Raises:
        ValueError: if there are fewer.
    """
    devices = jax.local_devices()
    number = len(devices) if num_devices is None else num_devices
    rule = f"this process has {len(devices)} of the platform {devices[0].platform}"
    require(1 <= number <= len(devices), "num_devices", number, rule)
    return devices[:number]


def agree_to_stop(stop: bool) -> bool:
    """Whether any process was asked to stop; every process gets the same answer.

    One process answers at once. Several must all call this after the same update.
    """
    if jax.process_count() == 1:
        return stop
    return bool(multihost_utils.process_allgather(np.asarray(stop)).any())


def make_train_step(config: PretrainConfig, devices: list[jax.Device]) -> TrainStep:
    """A compiled update: masks, forward, backward, one all-reduce, Adam.

    Args:
        config: the run.
        devices: this process's devices that take part.

    Returns:
        A function of the state (donated) and this process's batch. The state comes back on
        every device, bitwise the same, and without a device axis.
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
        gradient = jax.value_and_grad(masked_loss, has_aux=True)

        def accumulate(sums: Any, micro: DeviceBatch) -> tuple[Any, None]:
            (loss, counts), grads = gradient(state.params, micro, state.step)
            return jax.tree.map(jnp.add, sums, (loss, counts, grads)), None

        zeros = (jnp.float32(0), TokenCounts(jnp.float32(0), jnp.float32(0)))
        zero_grads = jax.tree.map(jnp.zeros_like, state.params)
        sums, _ = lax.scan(accumulate, (*zeros, zero_grads), batch)
        loss, counts, grads = lax.psum(sums, AXIS)  # the one all-reduce of an update
        num_masked = jnp.maximum(counts.masked, 1.0)
        grads = jax.tree.map(lambda grad: grad / num_masked, grads)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = StepMetrics(
            loss=loss / num_masked,
            accuracy=counts.correct / num_masked,
            masked_tokens=counts.masked,
            gradient_norm=optax.tree.norm(grads),
            learning_rate=schedule(state.step),
        )
        return TrainState(params, opt_state, state.step + 1), metrics

    return jax.pmap(
        train_step,
        AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )


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

    return jax.pmap(evaluation_step, AXIS, in_axes=(None, 0), out_axes=None, devices=devices)
