"""What a figure was measured with: processors, their peak, versions, settings, commit."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import jax

from nucleotide_transformer import __version__
from nucleotide_transformer.config import Dtype
from nucleotide_transformer.data.parallel import count_cores
from nucleotide_transformer.training.peaks import look_up_peak_flops, measure_peak_flops

PACKAGES = (
    *("jax", "jaxlib", "dm-haiku", "optax", "numpy", "torch", "transformers"),
    *("jax-cuda13-plugin", "nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-nccl-cu13"),
    *("jax-cuda12-plugin", "nvidia-cudnn-cu12", "nvidia-cublas-cu12", "nvidia-nccl-cu12", "libtpu"),
)
SETTINGS = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_ENABLE_X64",
    "OMP_NUM_THREADS",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
)
"""Environment variables that change a figure."""

BUSY_LOAD = 0.3
"""Load of a core from which on figures can't be trusted."""


class Peak(NamedTuple):
    """FLOP/s of one device; on a CPU, whose virtual devices share the cores, of the machine."""

    data_sheet: float | None
    """Dense, in the type of the computation: see `training.peaks.DATA_SHEETS`; None for a device
    or a type that it lacks."""
    measured: float
    """Of the best matrix product in the type of the computation, as exact as the model's."""


def find_peak(device: jax.Device, dtype: Dtype) -> Peak:
    """Looks a device up and measures it."""
    sheet = look_up_peak_flops(device.device_kind, dtype)
    return Peak(sheet, measure_peak_flops(device, dtype))


def describe_machine(devices: list[jax.Device]) -> dict[str, Any]:
    """Hardware and versions as JSON has them; what can't be found out is None."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "num_local_devices": len(devices),
        "device_memory_bytes": (devices[0].memory_stats() or {}).get("bytes_limit"),
        "runtime": " ".join(devices[0].client.platform_version.split()),
        "gpus": query_gpus(),
        "processor": find_processor(),
        "num_cores": count_cores(),
        "load_before": find_load(),
        "host_memory_bytes": find_host_memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"nucleotide_transformer": __version__} | find_versions(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "commit": find_commit(),
    }


def find_versions() -> dict[str, str]:
    """Of the packages that are installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def find_load() -> float | None:
    """Programs that wanted to run over the last minute, on average: near 0 on a quiet machine."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def find_processor() -> str | None:
    """The processor's name; on Linux, where that may hide the generation, also its family."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        rows = (line.partition(":") for line in path.read_text().splitlines())
        first = {name.strip(): value.strip() for name, _, value in reversed(list(rows))}
        if "model name" in first:
            family, model = (first.get(name, "?") for name in ("cpu family", "model"))
            return f"{first['model name']} (family {family}, model {model})"
    return platform.processor() or None


def find_host_memory() -> int | None:
    """Bytes of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def describe_load(machine: dict[str, Any]) -> str | None:
    """A warning if the machine of `describe_machine` was busy before it was measured."""
    load, cores = machine["load_before"], machine["num_cores"]
    if load is None or load <= BUSY_LOAD * cores:
        return None
    return f"note: the machine was busy before the start: load {load} on {cores} cores"


def query_gpus() -> list[str] | None:
    """Name, driver, memory and power limit of every NVIDIA GPU, if the driver's tool is there."""
    fields = "name,driver_version,memory.total,power.limit"
    text = _run("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")
    return text.splitlines() if text else None


def find_commit() -> str | None:
    """The commit of the package's repository; "+" at its end if any file differs from it.

    None where this file is not part of a repository: an installed package, say.
    """
    git = ("git", "-C", str(Path(__file__).parent))
    if not _run(*git, "ls-files", Path(__file__).name):
        return None
    changed = _run(*git, "status", "--porcelain", "--untracked-files=no")
    return f"{_run(*git, 'rev-parse', 'HEAD')}{'+' if changed else ''}"


def _run(*command: str) -> str | None:
    """What a program prints; None if there is no such program, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
