"""The most FLOP/s that devices can do in the precision of a run: what MFU divides by."""

import functools
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nucleotide_transformer.config import ComputeConfig, Dtype
from nucleotide_transformer.errors import RunFailedError
from nucleotide_transformer.model import exact_products
from nucleotide_transformer.training.devices import OUT_OF_MEMORY


class DataSheet(NamedTuple):
    """Dense FLOP/s of one JAX device in matrix products; None where the maker names none."""

    float32: float | None
    """Products that are exact to float32: on GPUs without tensor cores, never TF32."""
    bfloat16: float | None
    float16: float | None


DATA_SHEETS = {
    "GB200": DataSheet(80e12, 2500e12, 2500e12),
    "B200": DataSheet(75e12, 2250e12, 2250e12),
    "GH200": DataSheet(67e12, 989e12, 989e12),
    "H200": DataSheet(67e12, 989e12, 989e12),
    "H200 NVL": DataSheet(60e12, 835e12, 835e12),
    "H100": DataSheet(67e12, 989e12, 989e12),
    "H100 NVL": DataSheet(60e12, 835e12, 835e12),
    "H100 PCIe": DataSheet(51e12, 756e12, 756e12),
    "A100": DataSheet(19.5e12, 312e12, 312e12),
    "A10": DataSheet(31.2e12, 125e12, 125e12),
    "A10G": DataSheet(35e12, 70e12, 70e12),
    "L40S": DataSheet(91.6e12, 362e12, 362e12),
    "L40": DataSheet(90.5e12, 181e12, 181e12),
    "L4": DataSheet(30.3e12, 121e12, 121e12),
    "V100": DataSheet(15.7e12, None, 125e12),
    "V100 PCIE": DataSheet(14e12, None, 112e12),
    "V100S": DataSheet(16.4e12, None, 130e12),
    "T4": DataSheet(8.1e12, None, 65e12),
    "TPU v6": DataSheet(None, 918e12, None),
    "TPU v6e": DataSheet(None, 918e12, None),
    "TPU v5p": DataSheet(None, 459e12, None),
    "TPU v5": DataSheet(None, 459e12, None),
    "TPU v5 lite": DataSheet(None, 197e12, None),
    "TPU v5e": DataSheet(None, 197e12, None),
    "TPU v4": DataSheet(None, 275e12, None),
    "TPU v3": DataSheet(None, 61.5e12, None),
}
"""By words of `jax.Device.device_kind`, a hyphen being a space; the longest name that fits counts.

Sheets that print FLOP/s "with sparsity" are halved. Bare names of GPUs are the SXM cards where
there are several. A device of TPU v3 is one of the two cores of a chip.
"""

SIZES: dict[str, tuple[int, ...]] = {"cpu": (1_024,)}
"""Rows of the square matrices that are multiplied to measure a peak, by platform."""
LARGE_SIZES = (4_096, 8_192)
"""The same for accelerators, which products of 1,024 rows keep busy for a part of the time."""

EXACT = (None, "highest", "float32", "F32_F32_F32")
"""Settings of `jax_default_matmul_precision` under which float32 products are exact here."""


def look_up_peak_flops(device_kind: str, dtype: Dtype) -> float | None:
    """FLOP/s by the maker's data sheet, or None where the table has none.

    A MIG slice has the name of its card, and a share of its units that the name doesn't tell
    exactly: it counts as unlisted. So does every device for float32 products that
    JAX_DEFAULT_MATMUL_PRECISION lets be rounded, to TF32 say.

    Args:
        device_kind: as `jax.Device.device_kind` has it.
        dtype: of the operands of matrix products.
    """
    words = device_kind.replace("-", " ")
    settings: Any = jax.config  # whose fields JAX's stubs lack
    is_rounded = dtype == "float32" and settings.jax_default_matmul_precision not in EXACT
    if is_rounded or re.search(r"\bMIG\b", words):
        return None
    names = [name for name in DATA_SHEETS if re.search(rf"\b{re.escape(name)}\b", words)]
    return getattr(DATA_SHEETS[max(names, key=len)], dtype) if names else None


def measure_peak_flops(
    device: jax.Device, dtype: Dtype, *, sizes: tuple[int, ...] | None = None, repeats: int = 5
) -> float:
    """FLOP/s of the fastest of some products of two [S, S] matrices; 2 S^3 FLOPs each.

    The numbers are random: a processor that multiplies ones or zeros draws less power, and may
    run at a clock that no real product sees. Products of float32 are as exact as a run's. On a CPU
    all devices share the cores, so the value is that of the whole machine. A size that the device
    has no memory for is left out.

    Args:
        device: where to multiply.
        dtype: of the operands; sums and results are of float32.
        sizes: values of S; those for the device's platform by default.
        repeats: products of each size, after one that compiles.

    Raises:
        RunFailedError: if there is memory for none.
    """
    chosen, found = sizes or SIZES.get(device.platform, LARGE_SIZES), list[float]()
    with exact_products(ComputeConfig(compute_dtype=dtype)):
        for size in chosen:
            try:
                found.append(2 * size**3 / _time_product(device, dtype, size, repeats))
            except jax.errors.JaxRuntimeError as error:
                if OUT_OF_MEMORY not in str(error):
                    raise
    if not found:
        shape = f"{min(chosen):,} x {min(chosen):,}"
        rule = f"its peak is that of products of {shape} numbers: end what else uses the device"
        raise RunFailedError(f"{device.device_kind}: out of memory: {rule}")
    return max(found)


def _time_product(device: jax.Device, dtype: Dtype, size: int, repeats: int) -> float:
    """Seconds of the fastest of some products."""
    draw = jax.random.normal
    left, right = jax.device_put(tuple(draw(jax.random.key(0), (2, size, size), dtype)), device)
    # Of 16-bit operands XLA has a kernel on CPUs only if the result is of 32 bits.
    product: Any = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
    product(left, right).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(left, right).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def count_peaks(devices: list[jax.Device]) -> int:
    """How many times the peak of one is there: virtual devices of a CPU share one machine."""
    return 1 if devices[0].platform == "cpu" else len(devices)


def find_total_peak_flops(devices: list[jax.Device], dtype: Dtype) -> float:
    """FLOP/s of the devices of all processes: by the data sheet, else measured now on one.

    Args:
        devices: this process's, all of one kind; other processes have as many.
        dtype: of the operands of matrix products.
    """
    sheet = look_up_peak_flops(devices[0].device_kind, dtype)
    peak = sheet or measure_peak_flops(devices[0], dtype)
    return peak * count_peaks(devices) * jax.process_count()
