"""Peaks by the data sheets, and measured: in the precision of the run, once a machine or device."""

import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from nucleotide_transformer.errors import RunFailedError
from nucleotide_transformer.training import peaks

# device_kind: (float32, bfloat16, float16) in TFLOP/s as the makers print them. NVIDIA prints
# tensor cores' figures with sparsity from Ampere on: twice the dense ones.
SHEETS = {
    "NVIDIA GB200": (160 / 2, 10_000 / 2 / 2, 10_000 / 2 / 2),  # the superchip has two GPUs
    "NVIDIA B200": (75, 4_500 / 2, 4_500 / 2),
    "NVIDIA GH200 480GB": (67, 1_979 / 2, 1_979 / 2),
    "NVIDIA H200": (67, 1_979 / 2, 1_979 / 2),
    "NVIDIA H200 NVL": (60, 1_671 / 2, 1_671 / 2),
    "NVIDIA H100 80GB HBM3": (67, 1_979 / 2, 1_979 / 2),
    "NVIDIA H100 NVL": (60, 1_671 / 2, 1_671 / 2),
    "NVIDIA H100 PCIe": (51, 1_513 / 2, 1_513 / 2),
    "NVIDIA A100-SXM4-80GB": (19.5, 624 / 2, 624 / 2),
    "NVIDIA A100 80GB PCIe": (19.5, 624 / 2, 624 / 2),
    "NVIDIA A10": (31.2, 250 / 2, 250 / 2),
    "NVIDIA A10G": (35, 140 / 2, 140 / 2),
    "NVIDIA L40S": (91.6, 362.05, 362.05),  # printed so beside 733 with sparsity
    "NVIDIA L40": (90.5, 362 / 2, 362 / 2),
    "NVIDIA L4": (30.3, 242 / 2, 242 / 2),
    "Tesla V100-SXM2-16GB": (15.7, None, 125),
    "Tesla V100-PCIE-32GB": (14, None, 112),
    "Tesla V100S-PCIE-32GB": (16.4, None, 130),
    "Tesla T4": (8.1, None, 65),
    "TPU v6 lite": (None, 918, None),
    "TPU v6e": (None, 918, None),
    "TPU v5p": (None, 459, None),
    "TPU v5": (None, 459, None),
    "TPU v5 lite": (None, 197, None),
    "TPU v5e": (None, 197, None),
    "TPU v4": (None, 275, None),
    "TPU v3": (None, 123 / 2, None),  # a device is a core, and a chip has two
}
UNLISTED = (
    "NVIDIA GeForce RTX 4090",
    "NVIDIA RTX A1000",  # neither an A100 nor an A10
    "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
    "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
    "NVIDIA H20",
    "NVIDIA B300 SXM6 AC",
    "AMD Instinct MI300X",
    "TPU v2",
    "cpu",
)


@pytest.mark.parametrize("kind", SHEETS)
def test_peaks_are_those_of_the_data_sheets(kind):
    for dtype, wanted in zip(("float32", "bfloat16", "float16"), SHEETS[kind], strict=True):
        found = peaks.look_up_peak_flops(kind, dtype)
        if wanted is None:
            assert found is None, dtype
        else:  # three digits, as the sheets have
            assert found == pytest.approx(wanted * 1e12, rel=2e-3), dtype


def test_every_row_of_the_table_is_compared_with_a_data_sheet():
    rows = {id(sheet) for sheet in peaks.DATA_SHEETS.values()}
    names = {kind: [n for n in peaks.DATA_SHEETS if n in kind.replace("-", " ")] for kind in SHEETS}
    assert {id(peaks.DATA_SHEETS[max(found, key=len)]) for found in names.values()} == rows


@pytest.mark.parametrize("kind", UNLISTED)
def test_other_devices_and_slices_are_not_looked_up(kind):
    for dtype in ("float32", "bfloat16", "float16"):
        assert peaks.look_up_peak_flops(kind, dtype) is None


@pytest.mark.parametrize(("precision", "listed"), [
    ("highest", True), ("float32", True), ("tensorfloat32", False), ("default", False),
])  # fmt: skip
def test_rounded_products_are_not_held_against_the_float32_peak(precision, listed):
    with jax.default_matmul_precision(precision):
        assert (peaks.look_up_peak_flops("NVIDIA H100 PCIe", "float32") == 51e12) == listed
        assert peaks.look_up_peak_flops("NVIDIA H100 PCIe", "bfloat16") == 756e12


def make_device(platform, kind):
    """As far as a peak is concerned, a device."""
    device = mock.Mock(spec=jax.Device)
    device.platform, device.device_kind = platform, kind
    return device


@pytest.mark.parametrize(("platform", "kind", "dtype", "peak"), [
    ("cpu", "cpu", "float32", 3e9),  # measured; two virtual devices are one machine
    ("gpu", "NVIDIA L4", "bfloat16", 2 * 121e12),
    ("gpu", "NVIDIA L4", "float32", 2 * 30.3e12),
    ("gpu", "Tesla V100-SXM2-16GB", "float16", 2 * 125e12),
    ("gpu", "Tesla V100-SXM2-16GB", "bfloat16", 2 * 3e9),  # measured in what it emulates
    ("gpu", "NVIDIA H100 PCIe MIG 1g.10gb", "bfloat16", 2 * 3e9),
])  # fmt: skip
def test_total_peak_of_two_devices(monkeypatch, platform, kind, dtype, peak):
    measured = []

    def measure(device, dtype):
        measured.append(dtype)
        return 3e9

    monkeypatch.setattr(peaks, "measure_peak_flops", measure)
    devices = [make_device(platform, kind)] * 2
    assert peaks.find_total_peak_flops(devices, dtype) == pytest.approx(peak)
    assert measured == ([dtype] if peak < 1e12 else [])
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    assert peaks.find_total_peak_flops(devices, dtype) == pytest.approx(3 * peak)


def test_a_product_counts_two_flops_a_multiply_add(monkeypatch):
    ticks = itertools.count(step=0.5)
    monkeypatch.setattr(peaks.time, "perf_counter", lambda: next(ticks))
    found = peaks.measure_peak_flops(jax.devices()[0], "bfloat16", sizes=(32, 64, 16), repeats=2)
    assert found == 2 * 64**3 / 0.5


def test_products_that_do_not_fit_are_left_out(monkeypatch):
    def time_product(device, dtype, size, repeats):
        if size > limit:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return 0.5

    monkeypatch.setattr(peaks, "_time_product", time_product)
    device, limit = make_device("gpu", "unlisted"), 4_096
    assert peaks.measure_peak_flops(device, "float32") == 2 * 4_096**3 / 0.5
    limit = 1_024
    with pytest.raises(RunFailedError, match="unlisted: out of memory: its peak"):
        peaks.measure_peak_flops(device, "float32")


@pytest.mark.parametrize(("dtype", "chosen", "precision"), [
    ("float32", None, "highest"), ("float32", "tensorfloat32", "tensorfloat32"),
    ("bfloat16", None, None), ("float16", None, None),
])  # fmt: skip
def test_measured_products_are_those_of_a_run(monkeypatch, dtype, chosen, precision):
    """Operands of the run's type, results of float32, and as exact as the run's."""
    matmul, seen = jnp.matmul, set()

    def record(left, right, **options):
        setting = jax.config.jax_default_matmul_precision
        seen.add((str(left.dtype), str(right.dtype), setting))
        product = matmul(left, right, **options)
        assert product.dtype == jnp.float32
        return product

    monkeypatch.setattr(jnp, "matmul", record)
    with jax.default_matmul_precision(chosen):
        peaks.measure_peak_flops(jax.devices()[0], dtype, sizes=(16,), repeats=1)
    assert seen == {(dtype, dtype, precision)}


def test_accelerators_multiply_matrices_that_keep_them_busy(monkeypatch):
    """At least 2 x 4,096^3 FLOPs, 0.1 ms of the fastest; starting a product takes 0.01 ms."""
    sizes = {}

    def time_product(device, dtype, size, repeats):
        sizes.setdefault(device.platform, []).append(size)
        return 1.0

    monkeypatch.setattr(peaks, "_time_product", time_product)
    for platform in ("cpu", "gpu", "tpu", "rocm"):
        peaks.measure_peak_flops(make_device(platform, "unlisted"), "bfloat16")
    assert min(sizes["gpu"] + sizes["tpu"] + sizes["rocm"]) >= 4_096
    assert max(sizes["cpu"]) <= 2_048  # which takes a second on two cores
