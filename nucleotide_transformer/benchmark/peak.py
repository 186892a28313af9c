"""The most that a device can do: by its data sheet, and as a matrix product measured on it."""

from typing import NamedTuple

import jax

from nucleotide_transformer.config import Dtype
from nucleotide_transformer.training.peaks import look_up_peak_flops, measure_peak_flops

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
    return Peak(look_up_peak_flops(device.device_kind), measure_product(device, dtype))


def measure_product(device: jax.Device, dtype: Dtype) -> float:
    """FLOP/s of the fastest of some products [S, S] x [S, S], over a few S."""
    sizes = SIZES.get(device.platform, LARGE_SIZES)
    return max(measure_peak_flops(device, size=size, dtype=dtype) for size in sizes)


def count_units(device: jax.Device, num_devices: int) -> int:
    """How many times the peak is there: virtual devices of a CPU share it."""
    return 1 if device.platform == "cpu" else num_devices
