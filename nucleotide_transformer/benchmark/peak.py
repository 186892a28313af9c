"""The most that a device can do: by its data sheet, and as a matrix product measured on it."""

from typing import NamedTuple

import jax

from nucleotide_transformer.config import Dtype
from nucleotide_transformer.training.peaks import look_up_peak_flops, measure_peak_flops

SIZES: dict[str, tuple[int, ...]] = {"cpu": (1_024, 2_048)}
"""Rows of the matrices that are multiplied, by platform."""
LARGE_SIZES = (4_096, 8_192, 16_384)


class Peak(NamedTuple):
    """FLOP/s of one device; on a CPU, whose virtual devices share the cores, of the machine."""

    data_sheet: float | None
    """Dense, in the type of the computation: see `training.peaks.DATA_SHEETS`; None for a device
    or a type that it lacks."""
    measured: float
    """Of the best matrix product in the type of the computation, as exact as the model's."""


def find_peak(device: jax.Device, dtype: Dtype) -> Peak:
    """Looks a device up and measures it."""
    sizes = SIZES.get(device.platform, LARGE_SIZES)
    sheet = look_up_peak_flops(device.device_kind, dtype)
    return Peak(sheet, measure_peak_flops(device, dtype, sizes=sizes))
