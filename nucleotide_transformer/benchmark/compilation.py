"""How long a step takes to compile, and the memory that the compiled program asks for."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from nucleotide_transformer.benchmark.timing import Workload

CACHE_SETTINGS: dict[str, object] = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


class CompileTimes(NamedTuple):
    """Seconds."""

    lower: float
    """From Python to the compiler's input: tracing and lowering."""
    compile: float
    """The compiler's own; nothing comes from a cache."""
    first_step: float
    """From the start of tracing to the result of the first step."""
    second_start: float | None
    """Tracing, lowering and fetching the program from a persistent cache, if measured."""


class StepMemory(NamedTuple):
    """Bytes on one device."""

    arguments: int
    """What goes in: parameters, optimiser state, a batch."""
    outputs: int
    """What comes out, less what takes the place of arguments."""
    temporaries: int
    """Activations, gradients and all else in between."""

    @property
    def total(self) -> int:
        """The most that a step holds at a time, by the compiler's own account."""
        return self.arguments + self.outputs + self.temporaries


def compile_step(workload: Any, *, cache: bool) -> tuple[CompileTimes, Any]:
    """Compiles a workload's step and runs it once.

    Args:
        workload: of `workloads.make_workload`.
        cache: measure a second start too, with a persistent cache in a temporary folder.

    Returns:
        The times, and the compiled program (`jax.stages.Compiled`).
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if cache else None
        with use_cache(folder):
            start = time.perf_counter()
            lower, compile_seconds, compiled = _compile(workload)
            _run_once(workload)
            first_step = time.perf_counter() - start
            second_start = None
            if cache:
                jax.clear_caches()
                second_start = sum(_compile(workload)[:2])
    return CompileTimes(lower, compile_seconds, first_step, second_start), compiled


def _compile(workload: Any) -> tuple[float, float, Any]:
    start = time.perf_counter()
    lowered = workload.lower()
    middle = time.perf_counter()
    compiled = lowered.compile()
    return middle - start, time.perf_counter() - middle, compiled


def _run_once(workload: Workload) -> None:
    workload.wait(workload.start())


@contextlib.contextmanager
def use_cache(folder: str | None) -> Iterator[None]:
    """Keeps compiled programs in a folder, or nowhere, and then as before."""
    settings = CACHE_SETTINGS | {"jax_compilation_cache_dir": folder}
    settings["jax_enable_compilation_cache"] = folder is not None
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def find_memory(compiled: Any) -> StepMemory | None:
    """What the compiler says about a program's memory; None where it says nothing."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return StepMemory(found.argument_size_in_bytes, outputs, found.temp_size_in_bytes)


def find_device_peak(device: jax.Device) -> int | None:
    """The most bytes that were in use on a device since the process began, where it counts them."""
    statistics = device.memory_stats()
    return statistics.get("peak_bytes_in_use") if statistics else None
