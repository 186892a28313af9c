"""The training loop: set up or resume, update, evaluate, save. It knows no objective."""

import dataclasses
import math
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.errors import NotAFolderError, OutputExistsError, RunFailedError
from nucleotide_transformer.files import hold_folder
from nucleotide_transformer.training.checkpoints import Checkpointer, restore
from nucleotide_transformer.training.devices import (
    Layout,
    agree_on,
    check_agreement,
    check_same_settings,
    fail_together,
    lay_out,
)
from nucleotide_transformer.training.identity import (
    check_same_rates,
    check_same_run,
    list_settings,
)
from nucleotide_transformer.training.metrics import IntervalLog, MetricWriter, read_metrics
from nucleotide_transformer.training.progress import RunProgress
from nucleotide_transformer.training.state import TrainState
from nucleotide_transformer.training.step import StepMetrics, TrainStep, fetch_state, place_state
from nucleotide_transformer.weights.runs import FOLDER, is_run, read_record

METRICS_LAG = 2
"""Updates that may be under way before the host waits for the metrics of one: enough that a
device never waits for the host, few enough that a diverged run stops at once."""

ALREADY_TRAINING = (
    "another process is training this run; processes that train together each need --distributed"
)
"""They would remove each other's saves under way, and mix their metrics."""
STOPPING = (
    b"\nstopping after the updates under way, which are saved; Ctrl-C again ends it at once\n"
)


class _Update(NamedTuple):
    """An update that may still be under way."""

    step: int
    metrics: StepMetrics
    fill: float


class TrainingDivergedError(RunFailedError):
    """The loss or the gradient is not finite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunPlan:
    """When a run does what, and where it keeps it."""

    folder: Path
    """For checkpoints and metrics; a run found there is resumed."""
    total_steps: int
    """Updates of the whole run."""
    tokens_per_update: int
    """Tokens of an update, over all devices."""
    log_every_steps: int
    """Updates between lines of metrics; one more comes at the end, and when the run is stopped."""
    evaluate_every_steps: int
    """Updates between evaluations; one more comes at the end."""
    save_every_steps: int
    """Updates between checkpoints; one more comes at the end, and when the run is stopped."""
    keep: int
    """Latest checkpoints kept, besides the one with the lowest score."""
    config: Any
    """Config dataclass of the run, saved with each checkpoint."""
    free_fields: Collection[str]
    """Fields of it that may change when the run resumes."""
    record: dict[str, Any]
    """What else makes the run the same run, such as the digest of its corpus."""
    make_schedule: Callable[[Any], optax.Schedule]
    """Learning rates of a config like `config`."""
    is_over: Callable[[list[dict[str, Any]]], bool] | None = None
    """Whether the run ends before `total_steps`: a function of the lines of held-out metrics so
    far, as `metrics.jsonl` has them, so that a run that resumes decides as it would have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a run trains: all that the loop asks of an objective."""

    init_state: Callable[[], tuple[TrainState, dict[str, Any]]]
    """The state before the first update, and what checkpoints note of it beside `RunPlan.record`,
    also those of a run that resumed."""
    state_shapes: TrainState
    """Its shapes (`jax.eval_shape`)."""
    train_step: TrainStep
    """See `make_train_step`."""
    batches: Any
    """Iterator of this process's batches, arrays [S, ...], with `get_state` and `set_state`."""
    blank: Any
    """A batch of one row that weighs nothing."""
    evaluate: Callable[[Any], dict[str, float]]
    """Held-out metrics of placed parameters; `score` is what the best checkpoint has the lowest
    of. Every process calls it after the same updates."""
    describe: Callable[[dict[str, float]], str]
    """Held-out metrics in words."""
    flops_per_update: int
    """Model FLOPs of an update."""
    peak_flops: float
    """FLOP/s of all devices together."""
    init_frozen: Callable[[], Any] | None = None
    """The parameters that are not trained, which no checkpoint holds, for a run that resumes where
    `state_shapes` has some; by default those of `init_state`."""
    measure_fill: Callable[[Any], float] = lambda _: 1.0
    """Share of a batch that is not padding. What this process has of an update stands for all."""


class Run:
    """A run under way: its state, input and files."""

    def __init__(
        self,
        plan: RunPlan,
        task: Task,
        *,
        devices: list[jax.Device],
        layout: Layout,
        show: bool,
    ):
        """Opens the output folder, and restores what is there.

        Raises:
            InputError: if the folder holds another run, or other files, or another process trains
                there.
        """
        check_same_settings(list_settings(plan.config, plan.record))
        self._plan, self._task, self._layout = plan, task, layout
        first = jax.process_index() == 0
        with ExitStack() as opened:
            with fail_together():
                check_output(plan.folder)
                # Before the folder is there: weights that can't be used leave nothing behind.
                initial = None if is_run(plan.folder) else task.init_state()
            with fail_together():
                self._checkpointer: Checkpointer | None = None
                if first:
                    (plan.folder / FOLDER).mkdir(parents=True, exist_ok=True)
                    opened.enter_context(hold_folder(plan.folder, ALREADY_TRAINING))
                    self._checkpointer = Checkpointer(plan.folder, keep=plan.keep)
                    opened.callback(self._checkpointer.close)
            state, noted = self._restore() or initial or task.init_state()
            self._saved_record = noted | plan.record
            check_agreement(state)
            self.step, self._position = int(state.step), task.batches.get_state()
            self._state = place_state(state, devices)
            self._log = IntervalLog(
                tokens_per_update=plan.tokens_per_update,
                flops_per_update=task.flops_per_update,
                peak_flops=task.peak_flops,
                log_every_steps=plan.log_every_steps,
                total_steps=plan.total_steps,
            )
            self._writer = MetricWriter(plan.folder, step=self.step) if first else None
            if self._writer:
                opened.callback(self._writer.close)
            self._history = [
                line
                for line in read_metrics(plan.folder)
                if line["kind"] == "validation" and line["step"] <= self.step
            ]
            self._pending: deque[_Update] = deque()
            self._evaluated: tuple[int, dict[str, float]] | None = None
            self.progress = RunProgress(
                total_steps=plan.total_steps, first_step=self.step, show=show and first
            )
            self._opened = opened.pop_all()

    def train(self, stop: threading.Event) -> dict[str, float] | None:
        """Updates until the last step, or until `stop` is set in any process.

        It is set here if nobody sees the output any more: the reader of a pipe is gone.

        Returns:
            Held-out metrics at the end; None if the run was stopped before.
        """
        with self._keep_updates(stop):
            stopping, over = False, self._find_end()
            while self.step < self._plan.total_steps and not (stopping or over):
                if self.progress.is_lost:
                    stop.set()
                self._update(stop)
                stopping = self._record(leave=METRICS_LAG)
                # Alone, a process need not wait for its own word to come back from the devices.
                stopping |= jax.process_count() == 1 and stop.is_set()
                last = self.step >= self._plan.total_steps
                evaluate = last or self.step % self._plan.evaluate_every_steps == 0
                save = last or self.step % self._plan.save_every_steps == 0
                if evaluate or save or stopping:
                    stopping |= self._record(leave=0)
                    with self._log.pause():
                        if stopping:
                            self._save({})  # first: a cluster may give it seconds
                        held_out = self.evaluate() if evaluate else {}
                        over = self._is_over()
                        if save or stopping or over:
                            self._save(held_out)
            self._write_line(self.step, self._log.end_interval(self.step))
            if self.step < self._plan.total_steps and not over:
                return None
            held_out = self.evaluate()
            self._save(held_out)  # for a run that was finished already, and stopped before this
            return held_out

    @contextmanager
    def _keep_updates(self, stop: threading.Event) -> Iterator[None]:
        """Saves the state before an error goes on, if it is finite and no update was what failed.

        The first process does so; if another fails, its next update fails, too. After `stop` Ctrl-C
        is the second one, and saves nothing.
        """
        try:
            yield
        except BaseException as error:
            at_once = isinstance(error, KeyboardInterrupt) and stop.is_set()
            if at_once or isinstance(error, TrainingDivergedError):
                raise
            with suppress(Exception):  # there may be no state to save
                while self._pending:
                    with suppress(OSError):  # a line that can't be written may be what failed
                        self._record(leave=0)
                with suppress(OSError):
                    self._write_line(self.step, self._log.end_interval(self.step))
                if self.step:
                    self._save({})
            raise

    def evaluate(self) -> dict[str, float]:
        """Held-out metrics of the parameters as they are, written down and shown once."""
        if self._evaluated is None or self._evaluated[0] != self.step:
            held_out = self._task.evaluate(self._state.params)
            self._check_finite(self.step, {"held-out score": held_out["score"]})
            self._evaluated = (self.step, held_out)
            tokens = self.step * self._plan.tokens_per_update
            values = {name: value for name, value in held_out.items() if name != "score"}
            if self._writer:
                self._writer.write("validation", self.step, {"tokens": tokens, **values})
            self._history.append({"step": self.step, **values})
            self.progress.say(f"update {self.step:,}: {self._task.describe(held_out)}")
        return self._evaluated[1]

    def _find_end(self) -> bool:
        """Whether a run that resumes is over; measures what it was stopped before it could."""
        measured = {line["step"] for line in self._history}
        due = self.step and self.step % self._plan.evaluate_every_steps == 0
        if due and agree_on(self.step not in measured):
            self._save(self.evaluate())
        return self._is_over()

    def _is_over(self) -> bool:
        """Whether the plan ends the run here: the same answer in all processes."""
        is_over = self._plan.is_over
        return bool(is_over and agree_on(is_over(self._history)))

    def close(self) -> None:
        """Waits for what is being written, lets go of the folder, and then raises what failed."""
        self._opened.close()

    def _restore(self) -> tuple[TrainState, dict[str, Any]] | None:
        """State and record of the newest checkpoint, whose position the input gets; or None."""
        latest = self._checkpointer.latest_step if self._checkpointer else None
        step = agree_on(-1 if latest is None else latest)
        if step < 0:
            return None
        plan = self._plan
        checkpoint = plan.folder / FOLDER / str(step)
        saved = check_same_run(checkpoint, plan.config, free=plan.free_fields, record=plan.record)
        check_same_rates(
            checkpoint, step, plan.make_schedule(saved), plan.make_schedule(plan.config)
        )
        like = self._task.state_shapes
        if jax.tree.leaves(like.frozen):
            init_frozen = self._task.init_frozen
            frozen = init_frozen() if init_frozen else self._task.init_state()[0].frozen
            like = like._replace(frozen=frozen)
        state, position = restore(checkpoint, like)
        self._task.batches.set_state(position)
        return state, read_record(checkpoint)

    def _update(self, stop: threading.Event) -> None:
        """One update, which runs on while this returns; all processes learn of `stop` together."""
        newest = self._pending[-1].metrics if self._pending else None
        with self._log.wait_for_input(newest):
            batch = next(self._task.batches)
        position, fill = self._task.batches.get_state(), self._task.measure_fill(batch)
        laid_out = lay_out(batch, self._task.blank, self._layout)
        stops = np.full(self._layout.num_local, stop.is_set())
        self._state, metrics = self._task.train_step(self._state, laid_out, stops)
        self.step, self._position = self.step + 1, position  # no call between this and the state
        self._pending.append(_Update(self.step, metrics, fill))

    def _record(self, *, leave: int) -> bool:
        """Fetches, checks and logs the metrics of all but the last `leave` updates.

        Returns:
            Whether some process was asked to stop: the same answer in all of them.
        """
        stop = False
        while len(self._pending) > leave:
            step, metrics, fill = self._pending.popleft()
            values = jax.device_get(metrics)
            stop |= bool(values.stop)
            self._check_finite(step, {"loss": values.loss, "gradient norm": values.gradient_norm})
            line = self._log.add(step, values, fill=fill)
            self.progress.advance(step, values, self._log.tokens_per_second)
            self._write_line(step, line)
        return stop

    def _write_line(self, step: int, line: dict[str, int | float] | None) -> None:
        """Writes and shows the metrics of an interval, if one has ended, for all processes."""
        if line and self._writer:
            self._writer.write("train", step, line)
            self.progress.log(step, line)

    def _check_finite(self, step: int, values: dict[str, Any]) -> None:
        if all(map(math.isfinite, values.values())):
            return
        found = ", ".join(f"{name} {value}" for name, value in values.items())
        before = "none was saved"
        if self._checkpointer:
            latest = self._checkpointer.find_before(step)
            before = before if latest is None else str(self._checkpointer.path(latest))
        raise TrainingDivergedError(
            f"update {step}: {found}: not finite; the last checkpoint before it: {before}"
        )

    def _save(self, held_out: dict[str, float]) -> None:
        """Starts a checkpoint; only the first process fetches the state and writes it."""
        if self._checkpointer and self._checkpointer.has(self.step):
            self._checkpointer.add_metrics(self.step, held_out)
        elif self._checkpointer:
            self._checkpointer.save(
                fetch_state(self._state),
                self._position,
                config_to_dict(self._plan.config),
                self._saved_record,
                held_out,
            )


def check_output(folder: Path) -> None:
    """Raises an `InputError` if a run can neither start nor resume in `folder`."""
    if folder.exists() and not folder.is_dir():
        raise NotAFolderError(f"{folder}: is a file; the output of a run must be a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FOLDER).is_dir():
        kind = "is a checkpoint" if is_run(folder) else "holds other files"
        raise OutputExistsError(f"{folder}: {kind}; the output must be empty or a run")


@contextmanager
def catch_signals(*, show: bool) -> Iterator[threading.Event]:
    """Turns the first Ctrl-C or SIGTERM into an event and says so; a second ends the process.

    And SIGHUP, of a terminal that closes, unless `nohup` has it ignored. It may come twice.

    Call it after `join_processes`, which puts the handler of SIGTERM back that was there.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    if (of_terminal := signal.getsignal(signal.SIGHUP)) != signal.SIG_IGN:
        previous[signal.SIGHUP] = of_terminal

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        if show:
            with suppress(OSError):  # the terminal may be gone
                os.write(2, STOPPING)
        for kind, handler in previous.items():
            signal.signal(kind, signal.SIG_IGN if kind == signal.SIGHUP else handler)

    for kind in previous:
        signal.signal(kind, ask_to_stop)
    try:
        yield stop
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
