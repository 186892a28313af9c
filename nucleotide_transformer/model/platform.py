"""What a device has, and which forms and types are chosen for it: every "auto" is decided here."""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from nucleotide_transformer.config import ComputeConfig, Implementation, ModelConfig
from nucleotide_transformer.errors import require

AMPERE = 8.0
"""CUDA's compute capability of A100, the first with bfloat16 and the attention of cuDNN."""
CUDNN_WIDTHS = range(8, 129, 8)
"""Widths of a head that cuDNN's kernel takes."""
CPU_INFO = Path("/proc/cpuinfo")
TILES = "amx_bf16"
"""Linux's name of Intel's units for bfloat16 matrices, from Sapphire Rapids on."""


@runtime_checkable
class Device(Protocol):
    """What is read of a `jax.Device`; on GPUs it has a `compute_capability` too."""

    platform: str


def find_default_device() -> jax.Device:
    """The device that JAX computes on where it is told nothing else."""
    chosen: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
    if isinstance(chosen, str):
        return jax.local_devices(backend=chosen)[0]
    return chosen or jax.local_devices()[0]


def find_cuda_capability(device: Device) -> float | None:
    """CUDA's compute capability, such as 9.0; None for all else, such as ROCm's "gfx942"."""
    named = str(getattr(device, "compute_capability", ""))
    return float(named) if re.fullmatch(r"\d+\.\d+", named) else None


def has_cudnn_attention(device: Device) -> bool:
    """Whether cuDNN's attention runs there: on CUDA since Ampere."""
    return (find_cuda_capability(device) or 0.0) >= AMPERE


def has_fast_bfloat16(device: Device) -> bool:
    """Whether a device has units for bfloat16 that are faster than those for float32.

    TPUs have, CUDA since Ampere, and CPUs with AMX under Linux. The bfloat16 of AVX-512 alone
    (Zen 4, Cooper Lake) was not measured and does not count, and neither does ROCm.
    """
    if device.platform == "cpu":
        return TILES in read_cpu_flags(CPU_INFO)
    return device.platform == "tpu" or (find_cuda_capability(device) or 0.0) >= AMPERE


@functools.cache
def read_cpu_flags(cpu_info: Path) -> frozenset[str]:
    """What Linux says that the processor has; nothing on other systems."""
    if not cpu_info.is_file():
        return frozenset()
    text = cpu_info.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def choose_attention(device: Device, dtype: Any, key_dim: int) -> Implementation:
    """The fastest form of the attention on a device: measured on CPUs, expected on others so far.

    cuDNN's kernel takes 16-bit numbers and heads whose width is a multiple of 8, at most 128.
    """
    half = jnp.dtype(dtype).itemsize == 2
    if has_cudnn_attention(device) and half and key_dim in CUDNN_WIDTHS:
        return "cudnn"
    return "per_head" if device.platform == "cpu" else "einsum"


def choose_dtype(device: Device) -> Literal["float32", "bfloat16"]:
    """bfloat16 where it is the faster."""
    return "bfloat16" if has_fast_bfloat16(device) else "float32"


def resolve_compute(
    compute: ComputeConfig, model: ModelConfig, device: Device | None = None
) -> ComputeConfig:
    """The same without any "auto"; all that computes is given this.

    Args:
        compute: with or without "auto".
        model: the width of whose heads decides on the form of the attention.
        device: one that will compute. If None, JAX's default one decides and nothing is checked:
            what is traced may be compiled for another platform.

    Raises:
        InputError: for a form of the attention that the device lacks.
    """
    checks, device = device is not None, device or find_default_device()
    if compute.compute_dtype == "auto":
        compute = dataclasses.replace(compute, compute_dtype=choose_dtype(device))
    if compute.attention == "auto":
        form = choose_attention(device, compute.compute_dtype, model.key_dim)
        compute = dataclasses.replace(compute, attention=form)
    if checks:
        check_attention(compute, model, device)
    return compute


def check_attention(compute: ComputeConfig, model: ModelConfig, device: Device) -> None:
    """Raises an `InputError` if the device lacks the form of the attention that is asked for."""
    if compute.attention != "cudnn":
        return
    fits = choose_attention(device, compute.compute_dtype, model.key_dim) == "cudnn"
    rule = (
        "needs CUDA since Ampere (compute capability 8.0), 16 bits and heads of a width that is a"
        f" multiple of 8, at most 128; here is {describe(device)}, {compute.compute_dtype},"
        f" width {model.key_dim}"
    )
    require(fits, "compute.attention", compute.attention, rule)


def describe(device: Device) -> str:
    """The platform, with the capability if it is one of GPUs."""
    return f"{device.platform} {getattr(device, 'compute_capability', '')}".strip()
