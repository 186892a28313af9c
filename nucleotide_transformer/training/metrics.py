"""What a run writes down: JSON lines, TensorBoard, and averages over intervals with their rate."""

import importlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from nucleotide_transformer.console import note
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.files import write_whole
from nucleotide_transformer.training.step import StepMetrics

METRICS_FILE = "metrics.jsonl"


def _import_tensorboard() -> Any:
    """The module tensorboardX, without torch, which it would import wherever that is installed.

    torch takes seconds and memory, and brings CUDA libraries of its own beside those of JAX.
    Meanwhile, no other thread of the process can import it.
    """
    modules: dict[str, Any] = sys.modules
    if "torch" in modules:
        return importlib.import_module("tensorboardX")
    modules["torch"] = None  # to an import: not installed
    try:
        return importlib.import_module("tensorboardX")
    finally:
        modules.pop("torch", None)


_TENSORBOARD = _import_tensorboard()


class Board:
    """Appends scalars to a new file for TensorBoard; after an error, which it tells, no more.

    It writes in its caller's thread. The thread that tensorboardX has for this ends at an error,
    and whoever writes more would wait for it forever.
    """

    def __init__(self, folder: Path, *, step: int):
        """Opens a file for what comes after `step`; what older ones have of it, readers drop."""
        self._place = folder
        self._writer: Any = None
        try:
            folder.mkdir(exist_ok=True)
            make = _TENSORBOARD.event_file_writer.EventsWriter
            self._writer = make(str(folder / "events"), f".{step}")
        except OSError as error:
            self._give_up(error)
        self._write(step=step + 1, session_log={"status": "START"})

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Appends what of some values is finite, by their names."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        scalars = [{"tag": name, "simple_value": value} for name, value in finite.items()]
        self._write(step=step, summary={"value": scalars})

    def _write(self, **fields: Any) -> None:
        """Appends an event."""
        if self._writer is None:
            return
        event = _TENSORBOARD.proto.event_pb2.Event(wall_time=time.time(), **fields)
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        note(f"{self._place}: {error.strerror or error}: nothing more is written for TensorBoard")
        self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
        self._writer = None


class MetricWriter:
    """Appends metrics to a run's `metrics.jsonl` and TensorBoard files.

    A line is `{"kind": "train" | "validation", "step": ..., "tokens": ..., ...}`; a run that
    resumes at `step` first drops what was written beyond it, so that every step is there once.
    """

    def __init__(self, run: Path, *, step: int):
        """Opens the files of `run`, which resumes after `step` updates."""
        self._path = Path(run) / METRICS_FILE
        kept = [line for line in read_metrics(run) if line["step"] <= step]
        self._written = {(line["kind"], line["step"]) for line in kept}
        with write_whole(self._path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a")
        self._board = Board(Path(run) / "tensorboard", step=step)

    def write(self, kind: str, step: int, values: dict[str, int | float]) -> None:
        """Appends one line, unless it is there; other processes can read it at once."""
        if (kind, step) in self._written:
            return
        self._written.add((kind, step))
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        self._board.write(step, {f"{kind}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Closes the files."""
        self._board.close()
        self._file.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics; see `read_metrics_file`."""
    return read_metrics_file(Path(run) / METRICS_FILE)


def read_metrics_file(path: Path) -> list[dict[str, Any]]:
    """All lines of metrics, oldest first; a last line that is cut off is left out.

    Raises:
        InputError: for another line that is no JSON, or no line of metrics.
    """
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    lines = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: line {number}: {error}; take this line out") from None
        if not _is_line(found):
            rule = "must have kind, step and tokens; take this line out"
            raise InputError(f"{path}: line {number}: {line[:60]}: {rule}")
        lines.append(found)
    return lines


def _is_line(found: Any) -> bool:
    """Whether a piece of JSON is a line of metrics."""
    types = {"kind": str, "step": int, "tokens": int}
    return isinstance(found, dict) and all(
        isinstance(found.get(name), kind) for name, kind in types.items()
    )


class IntervalLog:
    """Averages metrics over intervals of updates, and times them."""

    def __init__(
        self,
        *,
        tokens_per_update: int,
        flops_per_update: int,
        peak_flops: float,
        log_every_steps: int,
        total_steps: int,
    ):
        """Starts the clock of the first interval.

        Args:
            tokens_per_update: over all devices.
            flops_per_update: model FLOPs, over all devices.
            peak_flops: FLOP/s of all devices together.
            log_every_steps: updates of an interval.
            total_steps: of the run; the last update ends an interval.
        """
        self._tokens, self._flops, self._peak = tokens_per_update, flops_per_update, peak_flops
        self._every, self._total = log_every_steps, total_steps
        self._steps: list[StepMetrics] = []
        self._fills: list[float] = []
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
        try:
            yield
        finally:
            self._paused_seconds += time.perf_counter() - start

    def add(
        self, step: int, metrics: StepMetrics, *, fill: float = 1.0
    ) -> dict[str, int | float] | None:
        """Adds an update; at the end of an interval returns its line of metrics.

        MFU, the share of the hardware's peak, is the model FLOPs of an update (forward and
        backward) times updates per second over the peak of all devices. Neither it nor the tokens
        per second count padding. The first update of a process, which compiles, is left out of the
        timing.

        Args:
            step: its number.
            metrics: what it returned.
            fill: share of its tokens that are not padding.
        """
        self._steps.append(metrics)
        self._fills.append(fill)
        if self._first:
            self._restart()
        else:
            self._num_timed += fill
        self._first = False
        if self._num_timed:
            self.tokens_per_second = self._num_timed * self._tokens / self._count_seconds()
        return None if step % self._every and step != self._total else self.end_interval(step)

    def end_interval(self, step: int) -> dict[str, int | float] | None:
        """The line of metrics of the updates since the last one; None if there were none."""
        if not self._steps:
            return None
        line, seconds = self._average(step), self._count_seconds()
        if self._num_timed:
            line |= {
                "tokens_per_second": self._num_timed * self._tokens / seconds,
                "mfu": self._num_timed / seconds * self._flops / self._peak,
                "input_wait_share": self._input_seconds / seconds,
            }
        self._restart()
        return line

    def _count_seconds(self) -> float:
        return time.perf_counter() - self._start - self._paused_seconds

    def _average(self, step: int) -> dict[str, int | float]:
        """Means over all that the interval's updates weighed; the rest of its last update."""
        steps, self._steps = self._steps, []
        fills, self._fills = self._fills, []
        last = steps[-1]
        weights = [metrics.weight for metrics in steps]

        def average(values: list[Any]) -> float:
            return float(np.average(values, weights=weights if any(weights) else None))

        return {
            "tokens": step * self._tokens,
            "fill": float(np.mean(fills)),
            "loss": average([metrics.loss for metrics in steps]),
            **{name: average([m.means[name] for m in steps]) for name in last.means},
            "gradient_norm": float(last.gradient_norm),
            "learning_rate": float(last.learning_rate),
        }

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._input_seconds = self._paused_seconds = 0.0
        self._num_timed = 0.0  # updates, of which padding is no part
