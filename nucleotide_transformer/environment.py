"""What a bug report starts with: what JAX finds on this machine, and what is not installed.

for name, text in describe_environment(EnvironmentConfig()): ...
for missing in find_missing(): print(missing.what, missing.remedy)
"""

import dataclasses
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax

from nucleotide_transformer.benchmark.machine import describe_machine, query_gpus
from nucleotide_transformer.config import Dtype
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model.platform import choose_attention, choose_dtype, describe
from nucleotide_transformer.training.devices import find_devices
from nucleotide_transformer.training.peaks import look_up_peak_flops, measure_peak_flops

PACKAGE = "nucleotide-transformer-jax"
KEY_DIM = 64
"""Width of an attention head, for the form that "auto" takes: that of most models."""
CUDA_13_DRIVER = 580
"""First driver for CUDA 13; older ones need CUDA 12."""
_TPU_FILES = ("/dev/accel0", "/dev/vfio/0")
_SAY_WHY = "JAX_PLATFORMS=cuda python -c 'import jax; jax.devices()' says why"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """Shows what JAX finds on this machine, and what is missing with the line that installs it.

    A bug report starts with this, and with what `nt verify` prints.
    """

    measure: bool = True
    """Measure the peak of a device that no data sheet here lists; takes seconds."""


class Extra(NamedTuple):
    """Modules that not everyone needs."""

    modules: tuple[str, ...]
    what: str
    """They are for."""
    line: str
    """That installs them."""


class Missing(NamedTuple):
    """Something that is not installed."""

    what: str
    remedy: str
    """The line that installs it."""


def install(extra: str) -> str:
    """The line that installs an extra of this package."""
    return f"pip install '{PACKAGE}[{extra}]'"


EXTRAS = (
    Extra(("h5py", "pyarrow"), "HDF5 and Parquet files", install("io")),
    Extra(("logomaker", "pandas", "sklearn"), "pictures of embeddings", install("plots")),
    Extra(("sklearn", "scipy", "threadpoolctl"), "probes and task tables", install("analysis")),
    Extra(("pyarrow", "pysam"), "scores of variants", install("variants")),
    Extra(("umap",), "UMAP", install("umap")),
    Extra(("requests", "urllib3"), "genomes from the network", install("download")),
    Extra(("datasets",), "datasets of the Hugging Face hub", install("hub")),
    Extra(("isal",), "gzipped FASTA files 1.8 times as fast", install("fast")),
    Extra(("pyBigWig",), "BigWig files", install("bigwig")),
    Extra(("torch",), "PyTorch weights", "pip install torch"),
)


def describe_environment(config: EnvironmentConfig) -> list[tuple[str, str]]:
    """Name and text of each line; what can't be found out has none."""
    try:
        devices = find_devices(None)
    except InputError as error:
        return [("devices", f"none: {error}")]
    machine = describe_machine(devices)
    rows = list(_describe_host(machine)) + list(_describe_devices(devices, machine))
    for dtype in get_args(Dtype)[:2]:
        form = choose_attention(devices[0], dtype, KEY_DIM)
        peak = describe_peak(devices[0], dtype, measure=config.measure)
        rows.append((dtype, f"attention auto is {form}{peak}"))
    rows.append(("compute auto", choose_dtype(devices[0])))
    return rows


def _describe_host(machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Versions, processor and settings."""
    versions = dict(machine["versions"])
    commit = f", commit {machine['commit']}" if machine["commit"] else ""
    yield "package", f"{PACKAGE} {versions.pop('nucleotide_transformer')}{commit}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "python", f"{machine['python']} on {machine['system']}"
    load = "" if machine["load_before"] is None else f", load {machine['load_before']}"
    yield "processor", f"{machine['processor']}, {machine['num_cores']} cores{load}"
    if machine["host_memory_bytes"]:
        yield "memory", f"{machine['host_memory_bytes'] / 2**30:.1f} GiB"
    for name, value in machine["settings"].items():
        yield "setting", f"{name}={value}"


def _describe_devices(
    devices: list[jax.Device], machine: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """What JAX computes on, and the cards that the driver knows."""
    first = devices[0]
    size = machine["device_memory_bytes"]
    memory = f", {size / 2**30:.1f} GiB each" if size else ""
    yield "devices", f"{len(devices)} x {first.device_kind} ({describe(first)}){memory}"
    yield "runtime", machine["runtime"]
    for card in machine["gpus"] or ():
        yield "card", card


def describe_peak(device: jax.Device, dtype: Dtype, *, measure: bool) -> str:
    """Words on the peak of a device, by its data sheet or measured."""
    sheet = look_up_peak_flops(device.device_kind, dtype)
    if sheet:
        return f", peak {sheet / 1e12:,.3g} TFLOP/s by the data sheet"
    if not measure:
        return ""
    measured = measure_peak_flops(device, dtype)
    return f", peak {measured / 1e12:,.3g} TFLOP/s, measured now"


def find_missing() -> list[Missing]:
    """What is not installed of the extras, and for the accelerators of this machine."""
    missing = list(_find_accelerators())
    for extra in EXTRAS:
        absent = [name for name in extra.modules if importlib.util.find_spec(name) is None]
        if absent:
            missing.append(Missing(f"{', '.join(absent)} ({extra.what})", extra.line))
    return missing


def _find_accelerators() -> Iterator[Missing]:
    """Plugins of JAX for what the machine has."""
    cards = query_gpus()
    has_plugins = has_plugin("jax-cuda13-plugin") or has_plugin("jax-cuda12-plugin")
    if cards and not has_plugins:
        extra = "cuda" if find_driver(cards) >= CUDA_13_DRIVER else "cuda12"
        yield Missing(f"JAX for {cards[0].partition(',')[0]}", install(extra))
    elif cards and find_platform() == "cpu":
        yield Missing(f"JAX does not use {cards[0].partition(',')[0]}", _SAY_WHY)
    if any(Path(file).exists() for file in _TPU_FILES) and not has_plugin("libtpu"):
        yield Missing("JAX for TPUs", install("tpu"))


def find_platform() -> str | None:
    """What JAX computes on, if it can."""
    try:
        return jax.default_backend()
    except RuntimeError:
        return None


def has_plugin(package: str) -> bool:
    """Whether a package is installed."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def find_driver(cards: list[str]) -> int:
    """The main number of the driver's version, from a line of `query_gpus`; 0 if it has none."""
    fields = cards[0].split(",")
    found = re.match(r"\s*(\d+)", fields[1]) if len(fields) > 1 else None
    return int(found[1]) if found else 0
