"""The most that a device can do: by its data sheet, and as a matrix product measured on it."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nucleotide_transformer.config import Dtype
from nucleotide_transformer.training.metrics import PEAK_FLOPS
from nucleotide_transformer.types import Array, Float

SIZES = {"cpu": (1_024, 2_048)}
"""Rows of the matrices that are multiplied, by platform."""
LARGE_SIZES = (4_096, 8_192, 16_384)


class Peak(NamedTuple):
    """FLOP/s of one device; on a CPU, whose virtual devices share the cores, of the machine."""

    data_sheet: float | None
    """Dense bfloat16, see `training.metrics.PEAK_FLOPS`; None for a device that it lacks."""
    measured: float
    """Of the best matrix product in the type of the computation, at JAX's default precision."""


def find_peak(device: jax.Device, dtype: Dtype) -> Peak:
    """Looks a device up and measures it."""
    names = [name for name in PEAK_FLOPS if name in device.device_kind]
    data_sheet = PEAK_FLOPS[max(names, key=len)] if names else None
    return Peak(data_sheet, measure_product(device, dtype))


def measure_product(device: jax.Device, dtype: Dtype, *, repeats: int = 8) -> float:
    """FLOP/s of the fastest of some products [S, S] x [S, S], over a few S; 2 S^3 FLOPs each.

    The numbers are random: a processor that multiplies ones or zeros draws less power, and may
    run at a clock that no real product sees.
    """
    product = jax.jit(jnp.matmul)
    best = 0.0
    for size in SIZES.get(device.platform, LARGE_SIZES):
        keys = jax.random.split(jax.random.key(0))
        left, right = (jax.device_put(draw_matrix(key, size, dtype), device) for key in keys)
        product(left, right).block_until_ready()
        for _ in range(repeats):
            start = time.perf_counter()
            product(left, right).block_until_ready()
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def draw_matrix(key: Array, size: int, dtype: Dtype) -> Float[Array, "S S"]:
    """Standard normal numbers."""
    return jax.random.normal(key, (size, size), jnp.dtype(dtype))


def count_units(device: jax.Device, num_devices: int) -> int:
    """How many times the peak is there: virtual devices of a CPU share it."""
    return 1 if device.platform == "cpu" else num_devices
