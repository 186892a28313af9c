"""Processes and devices of a run, and how the sequences of an update lie on them."""

import math
import os
import signal
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from nucleotide_transformer.errors import InputError, RunFailedError, require

AXIS = "device"
"""Name of the axis of devices, for the collectives."""

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
"""What JAX's error says where the memory of a device is too small."""

Batch = TypeVar("Batch")


def join_processes(*, distributed: bool) -> None:
    """Joins the other processes of a run on several hosts; nothing happens without `distributed`.

    The address of the first process and their number come from the cluster's environment (Slurm,
    Open MPI, TPU pods, Kubernetes) or from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. A process joins before JAX finds its devices, so before it loads a model; once
    it has joined, another call changes nothing.

    Raises:
        InputError: if the environment says too little, or what can't be, or JAX has found this
            process's devices already.
    """
    if not distributed or jax.distributed.is_initialized():
        return
    arguments = read_cluster()
    try:
        with _keep_sigterm():
            jax.distributed.initialize(**arguments)
    except ValueError as error:  # what JAX raises before it tries to connect
        rule = "set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or use a cluster"
        raise InputError(f"distributed = True: {error} ({rule})") from None
    except jax.errors.JaxRuntimeError:  # it could not connect
        raise
    except RuntimeError:
        call = "nucleotide_transformer.join_processes(distributed=True) before a model is loaded"
        rule = f"JAX is in use in this process already: call {call}"
        raise InputError(f"distributed = True: {rule}") from None


@contextmanager
def _keep_sigterm() -> Iterator[None]:
    """Leaves SIGTERM as it was to the process: JAX would take it over, and do nothing with it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def read_cluster() -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize` that the environment gives.

    Under Slurm JAX shows each process one GPU, that of its number on the host. Where a host runs
    one task this would leave the other GPUs unused, so all are shown (an empty list), unless
    JAX_LOCAL_DEVICE_IDS names some.

    Raises:
        InputError: for a number of processes, or of this one, that is no number.
    """
    kinds = {"coordinator_address": str, "num_processes": int, "process_id": int}
    arguments: dict[str, Any] = {}
    for name, kind in kinds.items():
        variable = f"JAX_{name.upper()}"
        value = os.environ.get(variable)
        if value is not None:
            number = kind is int
            require(not number or value.isdecimal(), variable, value, "must be a whole number")
            arguments[name] = kind(value)
    tasks, hosts = (os.environ.get(name) for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_NODES"))
    if tasks is not None and tasks == hosts and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        arguments["local_device_ids"] = []
    return arguments


def find_devices(num_devices: int | None) -> list[jax.Device]:
    """This process's devices that take part: all, or the first `num_devices`.

    Raises:
        InputError: if there are fewer, or none of the platform that JAX_PLATFORMS names, or if the
            processes that have joined have unequal numbers of them.
    """
    try:
        devices = jax.local_devices()
    except (RuntimeError, AssertionError):
        platforms = os.environ.get("JAX_PLATFORMS", "")
        raise InputError(f"JAX_PLATFORMS = {platforms!r}: JAX finds no such device here") from None
    numbers = [len(jax.local_devices(process)) for process in range(jax.process_count())]
    if len(set(numbers)) > 1:  # the collectives of all processes ask for as many of each
        each = ", ".join(f"{number} in process {p}" for p, number in enumerate(numbers))
        raise InputError(f"distributed = True: devices: {each}: must be as many in all processes")
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


def check_agreement(tree: Any) -> None:
    """Raises a `RunFailedError` unless all processes hold the same bits.

    A step that takes the state as replicated never compares the replicas. Processes on different
    hardware, or with another version of JAX, may start from different random parameters.

    Args:
        tree: arrays that every process has whole.
    """
    if jax.process_count() == 1:
        return
    checksum = 0
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), checksum)
    sums = multihost_utils.process_allgather(np.uint32(checksum))
    if len(np.unique(sums)) > 1:
        raise RunFailedError(
            f"the processes start from different states: checksums {sums.tolist()}"
        )


def check_same_settings(settings: Mapping[str, Any]) -> None:
    """Raises an `InputError` unless all processes were started with the same settings.

    Each compiles its own step. With another learning rate, say, their parameters would drift apart
    unseen; with another interval of evaluation they would wait for each other forever.

    Args:
        settings: name -> value, with the same names in all processes.
    """
    if jax.process_count() == 1:
        return
    names = sorted(settings)
    checksums = np.asarray([zlib.crc32(repr(settings[name]).encode()) for name in names], np.uint32)
    agree = np.ptp(multihost_utils.process_allgather(checksums), axis=0) == 0
    differing = [
        f"{name} = {settings[name]!r} in process {jax.process_index()}"
        for name, same in zip(names, agree, strict=True)
        if not same
    ]
    if differing:
        raise InputError(f"{'; '.join(differing)}: must be the same in all processes of a run")


def agree_on(value: int) -> int:
    """The first process's value, in every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def agree_on_any(value: bool) -> bool:
    """Whether `value` is true in some process: the same answer in all, which wait for each other.

    Several threads may ask where there is one process, and one thread where there are several.
    """
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.bool_(value)).any())


@contextmanager
def fail_together() -> Iterator[None]:
    """Ends all processes if what stands here fails in one, for which the others would wait forever.

    At its end each waits for all. What stands here must not wait for other processes itself.

    Raises:
        InputError: where nothing failed, if something did in another process, which says what.
    """
    try:
        yield
    except Exception:
        agree_on_any(True)
        raise
    if agree_on_any(False):
        raise InputError("distributed = True: another process could not start: see what it says")


def wait_for_processes(place: str) -> None:
    """Waits until all processes are here; nothing happens where there is one.

    Args:
        place: what they have done, the same words in all.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


class Layout(NamedTuple):
    """How the sequences of an update lie on the devices of all processes."""

    num_local: int
    """Devices of this process."""
    num_processes: int
    """Processes, with as many devices each."""
    accumulation: int
    """Micro-batches of an update on each device."""
    per_device: int
    """Sequences of a micro-batch on a device."""

    @property
    def num_devices(self) -> int:
        """Devices of all processes."""
        return self.num_local * self.num_processes


def plan_layout(num_sequences: int, *, at_most: int, num_local: int, num_processes: int) -> Layout:
    """The fewest micro-batches that hold an update, and of these the smallest.

    Any number of devices will do: where the update does not divide, blank rows, which weigh
    nothing, fill the micro-batches.

    Args:
        num_sequences: sequences of an update, over all processes.
        at_most: sequences that a device takes at once.
        num_local: devices of this process.
        num_processes: processes.
    """
    num_devices = num_local * num_processes
    accumulation = math.ceil(num_sequences / (num_devices * at_most))
    per_device = math.ceil(num_sequences / (num_devices * accumulation))
    return Layout(num_local, num_processes, accumulation, per_device)


def lay_out(batch: Batch, blank: Batch, layout: Layout) -> Batch:
    """This process's rows as [devices, micro-batches, rows, ...]: N, A, B.

    Args:
        batch: arrays with a first axis of rows.
        blank: the same arrays with one row, which weighs nothing in the loss.
        layout: how they lie.
    """
    shape = (layout.num_local, layout.accumulation, layout.per_device)

    def arrange(leaf: np.ndarray, fill: np.ndarray) -> np.ndarray:
        missing = math.prod(shape) - len(leaf)
        if missing:
            leaf = np.concatenate([leaf, np.repeat(fill, missing, axis=0)])
        return leaf.reshape(*shape, *leaf.shape[1:])

    return jax.tree.map(arrange, batch, blank)
