"""The training step: the only pmap, and the only sum over devices.

What processes tell each other is in `devices.py`.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from nucleotide_transformer.training.devices import AXIS, span_processes
from nucleotide_transformer.training.state import TrainState, Tree, merge
from nucleotide_transformer.types import Array, Bool, Float, Int, PRNGKey

WEIGHT = "weight"
"""The count that a loss is divided by."""
Counts = dict[str, Any]
"""Float32 scalars that are added up like the loss: WEIGHT, and what else is to be reported as a
mean, such as {"weight": masked tokens, "accuracy": those predicted right}."""
LossFn = Callable[[Tree, Any, PRNGKey], tuple[Float[Array, ""], Counts]]
"""(parameters, micro-batch, key) -> sum of the losses, counts.

A sum and not a mean, because devices may hold different counts, and so that rows that weigh nothing
can fill a batch. The key is that of the update; what differs between rows must come from the
micro-batch, so that the number of devices does not matter."""
Context = Callable[[], contextlib.AbstractContextManager[Any]]


class StepMetrics(NamedTuple):
    """Scalars of one update, over all devices and processes."""

    loss: Float[Array, ""]
    """Mean loss before the update."""
    means: dict[str, Float[Array, ""]]
    """The other counts over the weight, before the update."""
    weight: Float[Array, ""]
    """What the mean is taken over, for instance masked tokens."""
    gradient_norm: Float[Array, ""]
    """Global norm of the mean gradient, before clipping."""
    learning_rate: Float[Array, ""]
    """Of the update."""
    stop: Int[Array, ""]
    """Devices whose process was asked to stop when it started the update."""


Placed = TypeVar("Placed")
TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, StepMetrics]]


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    devices: list[jax.Device],
    *,
    seed: int,
    context: Context = contextlib.nullcontext,
) -> TrainStep:
    """A compiled update of any objective with any optimiser.

    Args:
        loss_fn: the objective.
        optimizer: one chain with clipping, decay and schedule in it.
        schedule: its learning rate by the number of updates applied, for the metrics.
        devices: this process's devices that take part.
        seed: of the key that the objective gets, with the step folded in.
        context: in which the step is traced, such as one that sets the precision of products.

    Returns:
        A function of the state (donated), this process's batch laid out [N, A, B, ...], and for
        each device whether this process was asked to stop [N]. The state comes back on every
        device, bitwise the same.
    """
    run_key = jax.random.key(seed)

    def train_step(
        state: TrainState, batch: Any, stop: Bool[Array, ""]
    ) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(run_key, state.step)

        def differentiate(micro: Any) -> tuple[Array, Counts, Tree]:
            def compute_loss(trainable: Tree) -> tuple[Array, Counts]:
                return loss_fn(merge(trainable, state.frozen), micro, key)

            gradient = jax.value_and_grad(compute_loss, has_aux=True)
            (loss, counts), grads = gradient(state.trainable)
            return loss, counts, grads

        sums = add_up(differentiate, batch)
        (loss, counts, grads), stops = lax.psum((sums, stop.astype(jnp.int32)), AXIS)
        weight = counts.pop(WEIGHT)
        divisor = jnp.where(weight > 0, weight, 1.0)
        grads = jax.tree.map(lambda leaf: leaf / divisor, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)

        metrics = StepMetrics(
            loss=loss / divisor,
            means={name: count / divisor for name, count in counts.items()},
            weight=weight,
            gradient_norm=optax.tree.norm(grads),
            learning_rate=jnp.float32(schedule(state.step)),
            stop=stops,
        )
        return TrainState(trainable, state.frozen, opt_state, state.step + 1), metrics

    return jax.pmap(
        trace_in(context, train_step),
        AXIS,
        in_axes=(None, 0, 0),
        out_axes=(None, None),
        donate_argnums=0,
        devices=span_processes(devices),
    )


def make_gather_step(
    function: Callable[[Tree, Any], Tree],
    devices: list[jax.Device],
    *,
    context: Context = contextlib.nullcontext,
) -> Callable[[Tree, Any], Tree]:
    """A compiled function of parameters and a batch [N, B, ...], such as one row of numbers each.

    Returns:
        A function whose result is that of all devices, leaves [N, ...], in every process: the
        devices of the first process come first.
    """
    return jax.pmap(
        trace_in(context, lambda params, batch: lax.all_gather(function(params, batch), AXIS)),
        AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=span_processes(devices),
    )


def trace_in(context: Context, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced inside a context."""

    def traced(*arguments: Any) -> Any:
        with context():
            return function(*arguments)

    return traced


def add_up(function: Callable[[Any], Tree], batch: Any) -> Tree:
    """The sum of a function over the micro-batches [A, ...]; of one, without a pass of adding."""
    function = jax.jit(function, inline=True)  # traced once for its shapes and the scan
    first = jax.tree.map(lambda leaf: leaf[0], batch)
    if jax.tree.leaves(batch)[0].shape[0] == 1:
        return function(first)

    def accumulate(sums: Tree, micro: Any) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, sums, function(micro)), None

    shapes = jax.eval_shape(function, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return lax.scan(accumulate, zeros, batch)[0]


def place_state(state: Placed, devices: list[jax.Device]) -> Placed:
    """A state, or parameters alone, on every device, as a step takes and returns it.

    For a state that lies on the devices in another way the step would be compiled a second time.
    """
    place = jax.pmap(
        lambda state, _: state,
        AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=span_processes(devices),
    )
    return place(state, np.zeros(len(devices)))  # pmap asks for one argument with a device axis


def fetch_state(state: Placed) -> Placed:
    """A copy of a placed state, or of parameters alone, in this process's memory: NumPy arrays.

    Taken from this process's first device, so that no other process has to take part. A copy on
    CPUs too, where an array can be a view of the device's memory, which the next step overwrites.
    """
    return jax.tree.map(lambda leaf: np.array(leaf.addressable_shards[0].data), state)
