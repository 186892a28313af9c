"""What "auto" is: decided by the device that computes, in one place."""

from types import SimpleNamespace

import jax
import pytest

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model import platform
from nucleotide_transformer.model.platform import (
    choose_attention,
    has_fast_bfloat16,
    resolve_compute,
)

CPU = SimpleNamespace(platform="cpu")
TPU = SimpleNamespace(platform="tpu")
V100 = SimpleNamespace(platform="gpu", compute_capability="7.0")
T4 = SimpleNamespace(platform="gpu", compute_capability="7.5")
A100 = SimpleNamespace(platform="gpu", compute_capability="8.0")
H100 = SimpleNamespace(platform="gpu", compute_capability="9.0")
B200 = SimpleNamespace(platform="gpu", compute_capability="10.0")
MI300 = SimpleNamespace(platform="gpu", compute_capability="gfx942")
WITH_TILES = "processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n"
WITHOUT_TILES = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"


@pytest.fixture
def cpu_info(tmp_path, monkeypatch):
    """Writes what Linux says of the processor."""

    def write(text):
        path = tmp_path / f"cpuinfo_{len(list(tmp_path.iterdir()))}"
        path.write_text(text)
        monkeypatch.setattr(platform, "CPU_INFO", path)

    return write


@pytest.mark.parametrize(
    ("device", "dtype", "form"),
    [
        (CPU, "float32", "per_head"),
        (CPU, "bfloat16", "per_head"),
        (V100, "float16", "einsum"),
        (T4, "float16", "einsum"),
        (A100, "float32", "einsum"),
        (A100, "bfloat16", "cudnn"),
        (A100, "float16", "cudnn"),
        (H100, "bfloat16", "cudnn"),
        (B200, "bfloat16", "cudnn"),
        (MI300, "bfloat16", "einsum"),
        (MI300, "float32", "einsum"),
        (TPU, "bfloat16", "einsum"),
        (TPU, "float32", "einsum"),
    ],
)
def test_the_form_of_the_attention_follows_the_device(device, dtype, form):
    assert choose_attention(device, dtype, 32) == form


@pytest.mark.parametrize(
    ("width", "form"),
    [(8, "cudnn"), (32, "cudnn"), (75, "einsum"), (128, "cudnn"), (136, "einsum")],
)
def test_cudnn_is_chosen_for_widths_that_its_kernel_takes(width, form):
    assert choose_attention(H100, "bfloat16", width) == form


@pytest.mark.parametrize("device", [CPU, V100, MI300, TPU], ids=str)
def test_cudnn_is_refused_where_it_cannot_run(device):
    compute = ComputeConfig(attention="cudnn", compute_dtype="bfloat16")
    with pytest.raises(InputError, match=r"compute\.attention = 'cudnn': needs CUDA since Ampere"):
        resolve_compute(compute, ModelConfig(), device)


def test_cudnn_is_refused_in_float32_and_for_wide_heads():
    compute = ComputeConfig(attention="cudnn", compute_dtype="float32")
    with pytest.raises(InputError, match=r"here is gpu 9\.0, float32"):
        resolve_compute(compute, ModelConfig(), H100)
    compute = ComputeConfig(attention="cudnn", compute_dtype="bfloat16")
    with pytest.raises(InputError, match="width 256"):
        resolve_compute(compute, ModelConfig(embed_dim=512, num_heads=2), H100)


def test_without_a_device_nothing_is_refused():
    """What is traced here may be compiled for another platform."""
    compute = ComputeConfig(attention="cudnn", compute_dtype="bfloat16")
    assert resolve_compute(compute, ModelConfig()) == compute


@pytest.mark.parametrize(
    ("device", "found"),
    [(TPU, True), (V100, False), (T4, False), (A100, True), (B200, True), (MI300, False)],
)
def test_bfloat16_is_fast_where_there_are_units_for_it(device, found):
    assert has_fast_bfloat16(device) is found


@pytest.mark.parametrize(
    ("text", "found"), [(WITH_TILES, True), (WITHOUT_TILES, False), ("", False)]
)
def test_bfloat16_is_fast_on_a_cpu_with_amx(text, found, cpu_info):
    cpu_info(text)
    assert has_fast_bfloat16(CPU) is found


def test_bfloat16_is_not_fast_where_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "CPU_INFO", tmp_path / "absent")
    assert not has_fast_bfloat16(CPU)


@pytest.mark.parametrize("text", [WITH_TILES, WITHOUT_TILES])
def test_auto_is_resolved_and_all_else_stays(text, cpu_info):
    cpu_info(text)
    asked = ComputeConfig(compute_dtype="auto", stack="loop", remat="block")
    dtype = "bfloat16" if text == WITH_TILES else "float32"
    expected = ComputeConfig(compute_dtype=dtype, attention="per_head", stack="loop", remat="block")
    assert resolve_compute(asked, ModelConfig(), CPU) == expected
    on_gpu = resolve_compute(asked, ModelConfig(), H100)
    assert (on_gpu.compute_dtype, on_gpu.attention) == ("bfloat16", "cudnn")
    on_old = resolve_compute(asked, ModelConfig(), V100)
    assert (on_old.compute_dtype, on_old.attention) == ("float32", "einsum")


def test_what_is_asked_for_is_not_changed():
    asked = ComputeConfig(compute_dtype="float16", attention="einsum")
    assert resolve_compute(asked, ModelConfig(), H100) == asked


def test_the_default_device_is_the_one_that_jax_is_told():
    assert platform.find_default_device() == jax.local_devices()[0]
    with jax.default_device(jax.local_devices()[-1]):
        assert platform.find_default_device() == jax.local_devices()[-1]
    with jax.default_device("cpu"):
        assert platform.find_default_device() == jax.local_devices()[0]
