"""Where the time of a step goes, operation by operation, from a trace of the profiler."""

import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData

from nucleotide_transformer.benchmark.timing import Workload
from nucleotide_transformer.errors import InputError

NUM_TRACED_STEPS = 3
CONTROL_FLOW = ("while", "conditional", "call", "async-start", "async-done", "tuple")
"""Operations that contain others, which the trace has too: their own time would count twice."""
KINDS = {
    "matrix products": r"dot_general|\bdot\b|gemm|cublas|nvjet|cutlass|wgmma|convolution|einsum",
    "attention kernel": r"fmha|flash|cudnn.*attention|dot_product_attention",
    "between devices": r"all-reduce|all-gather|reduce-scatter|all-to-all|collective|psum",
    "moves": r"copy|transpose|concatenate|slice|gather|scatter|broadcast|pad|reshape|stack|squeeze",
    "random numbers": r"threefry|random|uniform|rng",
}
"""Kind -> what its name or place in the program looks like; the first that fits, in this order."""
OTHER = "elementwise and sums"


class Operation(NamedTuple):
    """One instruction of the compiled program, over all its executions."""

    name: str
    """As the compiler calls it, such as fusion.12."""
    part: str
    """The place in the model that it comes from, as far as the compiler still knows."""
    kind: str
    """One of KINDS, or OTHER."""
    calls: float
    """Executions a step."""
    seconds: float
    """Seconds a step, added up over threads, streams and devices."""


class Profile(NamedTuple):
    """The operations of a step, the costliest first."""

    operations: list[Operation]
    step_seconds: float
    """Mean seconds of the steps that were traced; tracing slows small operations."""
    cost: dict[str, float]
    """XLA's own count of a step's FLOPs and bytes on one device. It counts the body of a loop
    once, however often it runs: with a scanned stack it is far too low."""

    @property
    def total_seconds(self) -> float:
        """Seconds of all operations."""
        return sum(operation.seconds for operation in self.operations)

    def sum_kinds(self) -> dict[str, float]:
        """Kind -> share of all operations' seconds, the largest first."""
        sums: dict[str, float] = defaultdict(float)
        for operation in self.operations:
            sums[operation.kind] += operation.seconds / self.total_seconds
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


def profile_workload(workload: Workload, compiled: Any, *, num_devices: int) -> Profile:
    """Traces some steps of a workload that has run before.

    Args:
        workload: its steps.
        compiled: the program that its steps run, `jax.stages.Compiled`.
        num_devices: that it runs on.

    Raises:
        InputError: if the platform's trace names no operations.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 2  # on a CPU the operations are events of the host
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            start = time.perf_counter()
            for _ in range(NUM_TRACED_STEPS):
                workload.wait(workload.start())
            seconds = (time.perf_counter() - start) / NUM_TRACED_STEPS
        (path,) = Path(folder).rglob("*.xplane.pb")
        timed = sum_events(read_events(ProfileData.from_file(str(path))))
    if not timed:
        raise InputError(f"profile: the trace of {jax.default_backend()} names no operations")
    places = find_places(compiled.as_text())
    operations = [
        describe_operation(name, places.get(name, ""), calls, total, num_devices=num_devices)
        for name, (calls, total) in timed.items()
    ]
    operations.sort(key=lambda operation: -operation.seconds)
    return Profile(operations, seconds, read_cost(compiled))


class Event(NamedTuple):
    """One execution of an operation."""

    name: str
    seconds: float


def read_events(profile: ProfileData) -> Iterator[Event]:
    """Executions of operations: streams of a GPU, "XLA Ops" of a TPU, else threads of the host.

    A kernel that the trace does not trace back to an operation goes by its own name.
    """
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        for line in plane.lines:
            on_device = bool(devices) and line.name.startswith(("Stream", "XLA Ops"))
            if devices and not on_device:
                continue
            for event in line.events:
                name = next((value for key, value in event.stats if key == "hlo_op"), None)
                if name is None and on_device:
                    name = event.name.partition(" = ")[0].removeprefix("%")
                if name is not None and not event.name.startswith("end: "):
                    yield Event(str(name), event.duration_ns * 1e-9)


def sum_events(events: Iterator[Event]) -> dict[str, tuple[float, float]]:
    """Operation -> (calls a step, seconds a step), without control flow."""
    calls: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if not re.match(rf"(?:{'|'.join(CONTROL_FLOW)})(?:\.\d+)*(?:\.clone)*$", event.name):
            calls[event.name] += 1
            seconds[event.name] += event.seconds
    steps = NUM_TRACED_STEPS
    return {name: (calls[name] / steps, seconds[name] / steps) for name in calls}


def find_places(program: str) -> dict[str, str]:
    """Operation -> the path of the traced function that it comes from, read from HLO text."""
    pattern = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*?op_name="([^"]*)"', re.MULTILINE)
    return dict(pattern.findall(program))


def describe_operation(
    name: str, place: str, calls: float, seconds: float, *, num_devices: int
) -> Operation:
    """Sorts an operation into its kind, and shortens its place."""
    kind = find_kind(name, place, num_devices=num_devices)
    return Operation(name, shorten_place(place), kind, calls, seconds)


def find_kind(name: str, place: str, *, num_devices: int) -> str:
    """One of KINDS by the name, else by the last part of the place, or OTHER.

    XLA names a fusion after its last two operations, and what the last one makes is what it is
    for: broadcast_divide_fusion divides. A bitcast does nothing. A sum over one device is a copy.
    """
    if "_fusion" in name:
        words = name.partition("_fusion")[0].split("_")
        name = next((word for word in reversed(words) if word != "bitcast"), "")
    for text in (name, place.rpartition("/")[2]):
        for kind, like in KINDS.items():
            if re.search(like, text):
                return "moves" if kind == "between devices" and num_devices == 1 else kind
    return OTHER


def shorten_place(place: str) -> str:
    """`jit(f)/while/body/transpose(jvp(esm))/block/mha/dot_general` -> `backward block/mha/...`.

    What remains are the names of modules and of the operation itself.
    """
    place = place.partition(";")[0]
    backward = "transpose(jvp" in place or "rematted" in place
    parts = [part for part in place.split("/") if part and not is_wrapper(part)]
    return ("backward " if backward else "") + "/".join(parts[-3:])


def is_wrapper(part: str) -> bool:
    """Whether a step of a place is there only for the sake of a transformation or a loop."""
    loops = ("while", "body", "cond", "closed_call", "checkpoint", "shard_map", "branch")
    return "(" in part or part in loops or part.startswith(("rematted_", "make_"))


def read_cost(compiled: Any) -> dict[str, float]:
    """FLOPs, transcendentals and bytes of memory traffic, where XLA counts them."""
    found = compiled.cost_analysis() or {}
    found = found[0] if isinstance(found, list) else found
    names = ("flops", "transcendentals", "bytes accessed")
    return {name.replace(" ", "_"): float(found[name]) for name in names if name in found}
