"""What a run costs and how it is written down: FLOPs, peak, JSON lines, TensorBoard."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorboardX

from nucleotide_transformer.config import Dtype, ModelConfig, PretrainConfig
from nucleotide_transformer.pretraining.masking import count_slots
from nucleotide_transformer.training.step import StepMetrics

METRICS_FILE = "metrics.jsonl"

PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "V100": 125e12,
    "TPU v6": 918e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
    "TPU v3": 123e12,
}
"""Dense bfloat16 (V100: float16) FLOP/s by the makers' data sheets; the longest name that fits."""


def count_forward_flops(config: ModelConfig, *, num_tokens: int, num_head_tokens: int) -> int:
    """FLOPs of the matrix products that one sequence's forward pass needs (2 per multiply-add).

    Per token and layer 4 D^2 for keys and values, and 4 D^2 + 2 (2 + gated) D F for the other
    projections and 4 T D for the scores and their use; these last two in the last layer only for
    tokens that go through the head, if any do. Per token there 2 (D^2 + D V). Norms, softmax,
    activations and the embedding look-up are left out, as is usual for MFU
    (Chowdhery et al. 2022, appendix B).
    """
    width, hidden = config.embed_dim, config.ffn_dim
    shared = 4 * width**2
    own = 4 * width**2 + 2 * (2 + config.ffn_gated) * width * hidden + 4 * num_tokens * width
    head = 2 * (width**2 + width * config.vocabulary_size)
    last = num_head_tokens or num_tokens
    updated = (config.num_layers - 1) * num_tokens + last
    return config.num_layers * num_tokens * shared + updated * own + num_head_tokens * head


def count_step_flops(config: PretrainConfig) -> int:
    """Model FLOPs of one update: forward, and twice that for backward; recomputation left out."""
    num_tokens = config.data.sequence_tokens
    num_slots = count_slots(num_tokens, config.masking)
    forward = count_forward_flops(config.model, num_tokens=num_tokens, num_head_tokens=num_slots)
    return 3 * forward * config.sequences_per_update


def find_peak_flops(device: jax.Device) -> float:
    """FLOP/s that the device can do: of the data sheet, else of a matrix product measured now."""
    return look_up_peak_flops(device.device_kind) or measure_peak_flops(device)


def look_up_peak_flops(device_kind: str) -> float | None:
    """FLOP/s by the maker's data sheet, of a name as `jax.Device.device_kind` gives it."""
    names = [name for name in PEAK_FLOPS if name in device_kind]
    return PEAK_FLOPS[max(names, key=len)] if names else None


def measure_peak_flops(
    device: jax.Device, *, size: int = 1024, dtype: Dtype = "float32", repeats: int = 8
) -> float:
    """FLOP/s of the fastest of some products of two [size, size] matrices; 2 size^3 FLOPs each.

    The numbers are random: a processor that multiplies ones or zeros draws less power, and may
    run at a clock that no real product sees. On a CPU all devices share the cores, so the value is
    that of the whole machine.
    """
    numbers = jax.random.normal(jax.random.key(0), (2, size, size), jnp.dtype(dtype))
    left, right = jax.device_put(tuple(numbers), device)
    product = jax.jit(jnp.matmul)
    product(left, right).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(left, right).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def find_total_peak_flops(devices: list[jax.Device]) -> float:
    """FLOP/s of all devices of all processes together."""
    peak = find_peak_flops(devices[0])
    shared = devices[0].platform == "cpu"  # virtual devices divide one machine's cores
    return peak * (1 if shared else len(devices)) * jax.process_count()


class MetricWriter:
    """Appends metrics to a run's `metrics.jsonl` and TensorBoard files.

    A line is `{"kind": "train" | "validation", "step": ..., ...}`; a run that goes on from `step`
    first drops what was written beyond it, so that every step stands there once.
    """

    def __init__(self, run: Path, *, step: int):
        """Opens the files of `run`, which goes on after `step` updates."""
        self._path = Path(run) / METRICS_FILE
        kept = [line for line in read_metrics(run) if line["step"] <= step]
        self._written = {(line["kind"], line["step"]) for line in kept}
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(self._path)
        self._file = self._path.open("a")
        board = str(Path(run) / "tensorboard")
        self._board = tensorboardX.SummaryWriter(board, purge_step=step + 1)

    def write(self, kind: str, step: int, values: dict[str, int | float]) -> None:
        """Appends one line, unless it is there; it is on disk when the call returns."""
        if (kind, step) in self._written:
            return
        self._written.add((kind, step))
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics, oldest first; a last line that is cut off is left out."""
    path = Path(run) / METRICS_FILE
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


class IntervalLog:
    """Averages metrics over `log_every_steps` updates, and times them."""

    def __init__(self, config: PretrainConfig, devices: list[jax.Device]):
        """Measures the peak of the devices where no data sheet gives it."""
        self._config = config
        self._flops_per_update = count_step_flops(config)
        self._peak_flops = find_total_peak_flops(devices)
        self._steps: list[StepMetrics] = []
        self._first = True
        self._restart()
        self.tokens_per_second = math.nan

    @contextmanager
    def wait_for_input(self, newest: StepMetrics | None) -> Iterator[None]:
        """Counts the seconds inside as waiting for input if the devices ran out of work in them.

        While they compute updates given to them earlier, a host that waits delays nothing. Where
        they finish meanwhile, all of the seconds count: an upper bound.

        Args:
            newest: what the newest of those updates will return; None if none is under way.
        """
        loss: Any = newest and newest.loss  # whose type in JAX's stubs lacks `is_ready`
        start = time.perf_counter()
        yield
        if newest is None or loss.is_ready():
            self._input_seconds += time.perf_counter() - start

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves the seconds inside, of evaluating and saving, out of the throughput."""
        start = time.perf_counter()
        yield
        self._paused_seconds += time.perf_counter() - start

    def add(self, step: int, metrics: StepMetrics) -> dict[str, int | float] | None:
        """Adds an update; at the end of an interval returns its line of metrics.

        MFU, the share of the hardware's peak, is the model FLOPs of an update (forward and
        backward, see `count_step_flops`) times updates per second over the peak of all devices.
        The first update of a process, which compiles, is left out of the timing.
        """
        self._steps.append(metrics)
        if self._first:
            self._restart()
        else:
            self._num_timed += 1
        self._first = False
        seconds = time.perf_counter() - self._start - self._paused_seconds
        if self._num_timed:
            self.tokens_per_second = self._num_timed * self._config.tokens_per_update / seconds
        if step % self._config.log_every_steps and step != self._config.total_steps:
            return None
        line = self._average(step)
        if self._num_timed:
            updates_per_second = self._num_timed / seconds
            line |= {
                "tokens_per_second": self.tokens_per_second,
                "mfu": updates_per_second * self._flops_per_update / self._peak_flops,
                "input_wait_share": self._input_seconds / seconds,
            }
        self._restart()
        return line

    def _average(self, step: int) -> dict[str, int | float]:
        """Loss and accuracy over all masked tokens of the interval, the rest of its last update."""
        steps, self._steps = self._steps, []
        weights = [metrics.masked_tokens for metrics in steps]
        return {
            "tokens": step * self._config.tokens_per_update,
            "loss": float(np.average([metrics.loss for metrics in steps], weights=weights)),
            "accuracy": float(np.average([m.accuracy for m in steps], weights=weights)),
            "gradient_norm": float(steps[-1].gradient_norm),
            "learning_rate": float(steps[-1].learning_rate),
        }

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._input_seconds = self._paused_seconds = 0.0
        self._num_timed = 0
