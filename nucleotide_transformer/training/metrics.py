"""What a run costs and how it is written down: throughput, MFU, JSON lines, TensorBoard."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorboardX

from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.model.flops import count_update_flops
from nucleotide_transformer.pretraining.masking import count_slots
from nucleotide_transformer.training.peaks import find_total_peak_flops
from nucleotide_transformer.training.step import StepMetrics

METRICS_FILE = "metrics.jsonl"


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
        num_tokens = config.data.sequence_tokens
        self._flops_per_update = count_update_flops(
            config.model,
            num_sequences=config.sequences_per_update,
            num_tokens=num_tokens,
            num_head_tokens=count_slots(num_tokens, config.masking),
        )
        self._peak_flops = find_total_peak_flops(devices, config.compute.compute_dtype)
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
        backward, see `count_update_flops`) times updates per second over the peak of all devices.
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
