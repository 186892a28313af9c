"""The pre-training run: set up or resume, update, evaluate, save, report."""

import dataclasses
import json
import math
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax

from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.data.dataset import make_dataset, make_iterator
from nucleotide_transformer.data.manifest import Manifest, load_manifest
from nucleotide_transformer.model.platform import resolve_compute
from nucleotide_transformer.pretraining.baselines import Metrics
from nucleotide_transformer.pretraining.evaluation import (
    Evaluator,
    mask_evaluation_set,
    measure_baselines,
    read_evaluation_tokens,
)
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.training.checkpoints import Checkpointer, is_run
from nucleotide_transformer.training.curves import plot_curves
from nucleotide_transformer.training.metrics import IntervalLog, MetricWriter
from nucleotide_transformer.training.progress import RunProgress
from nucleotide_transformer.training.step import (
    StepMetrics,
    agree_to_stop,
    find_devices,
    init_state,
    join_processes,
    lay_out_batch,
    make_collect,
    make_evaluation_step,
    make_train_step,
    place_state,
)

METRICS_LAG = 2
"""Updates that may be under way before the host waits for the metrics of one: enough that a
device never waits for the host, few enough that a diverged run stops at once."""

BASELINES_FILE = "baselines.json"
STOPPING = b"\nstopping: this update is finished and saved; Ctrl-C again ends at once\n"


class TrainingDivergedError(RuntimeError):
    """The loss or the gradient is not finite."""


class RunSummary(NamedTuple):
    """How a run ended."""

    step: int
    """Updates applied."""
    finished: bool
    """False if it was stopped before `total_steps`."""
    held_out: Metrics
    """Of the model as it is now."""
    baselines: dict[str, Metrics]
    """Name -> the same metrics on the same masked tokens."""


def pretrain(config: PretrainConfig, *, show: bool = True) -> RunSummary:
    """Pre-trains a model, or goes on with the run in `config.output`.

    Args:
        config: the run.
        show: print the plan, a progress bar and held-out results.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: one line; the input is checked before
            anything is written.
        TrainingDivergedError: if the loss is not finite; the checkpoints are those of before.
    """
    with catch_signals(show=show) as stop:
        run = Run(config, show=show)
        try:
            with run.progress:
                finished = run.train(stop)
                held_out = run.evaluate_and_save()
        finally:
            run.close()
    if jax.process_index() == 0:
        plot_curves(config.output, run.baselines)
    return RunSummary(run.step, finished, held_out, run.baselines)


class Run:
    """A run under way: its devices, input, state and files."""

    def __init__(self, config: PretrainConfig, *, show: bool):
        """Checks the input, then opens the output folder and restores what is there."""
        join_processes(config)
        self._devices = find_devices(config.num_devices)
        compute = resolve_compute(config.compute, config.model, self._devices[0])
        self._config = config = dataclasses.replace(config, compute=compute)
        num_devices = len(self._devices) * jax.process_count()
        accumulation = config.accumulation_steps(num_devices)
        manifest = load_manifest(config.data.corpus)
        tokenizer = KmerTokenizer(config.model.vocabulary, config.model.k)
        self._input = make_input(config, manifest, tokenizer)
        tokens = read_evaluation_tokens(config, manifest, tokenizer)
        check_output(config.output)

        self._checkpointer = Checkpointer(config.output, keep=config.checkpoint.keep)
        state = init_state(config)
        if self._checkpointer.latest_step is not None:
            state, position = self._checkpointer.restore(state, config)
            self._input.set_state(position)
        self.step = int(state.step)
        self._state = place_state(state, config, self._devices)
        self._collect = make_collect(config, self._devices)
        show = show and jax.process_index() == 0
        self.progress = RunProgress(config, first_step=self.step, show=show)
        self.progress.announce(manifest, num_devices=num_devices, accumulation=accumulation)

        masked = mask_evaluation_set(tokens, config.masking, config.model)
        self.baselines = load_baselines(config.output)
        if not self.baselines:
            self.progress.say("baselines: counting the training split")
            self.baselines = measure_baselines(config, manifest, tokenizer, tokens, masked)
            save_baselines(config.output, self.baselines)
        self._evaluator = Evaluator(
            masked,
            config,
            make_evaluation_step(config, self._devices),
            num_devices=len(self._devices),
        )
        self._evaluated: tuple[int, Metrics] | None = None
        self._train_step = make_train_step(config, self._devices)
        self._log = IntervalLog(config, self._devices)
        first = jax.process_index() == 0
        self._writer = MetricWriter(config.output, step=self.step) if first else None

    def train(self, stop: threading.Event) -> bool:
        """Updates until the last step, or until `stop` is set; says whether it got to the end."""
        pending: deque[tuple[int, StepMetrics]] = deque()
        while self.step < self._config.total_steps:
            pending.append(self._update(newest=pending[-1][1] if pending else None))
            self._record(pending, leave=METRICS_LAG)
            evaluate = self.step % self._config.evaluation.every_steps == 0
            save = self.step % self._config.checkpoint.every_steps == 0
            stopping = agree_to_stop(stop.is_set())
            if evaluate or save or stopping:
                self._record(pending, leave=0)
                with self._log.pause():
                    if evaluate:
                        self.evaluate_and_save()
                    else:
                        self._save()
            if stopping:
                break
        self._record(pending, leave=0)
        return self.step >= self._config.total_steps

    def evaluate_and_save(self) -> Metrics:
        """Held-out metrics of the state as it is, written down, and a checkpoint with them."""
        if self._evaluated is None or self._evaluated[0] != self.step:
            held_out = self._evaluator.evaluate(self._state.params)
            self._evaluated = (self.step, held_out)
            tokens = self.step * self._config.tokens_per_update
            self._write("validation", self.step, {"tokens": tokens, **held_out._asdict()})
            self.progress.show_validation(self.step, held_out)
        held_out = self._evaluated[1]
        self._save(held_out._asdict())
        return held_out

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpointer.close()
        if self._writer:
            self._writer.close()

    def _update(self, newest: StepMetrics | None) -> tuple[int, StepMetrics]:
        """One update: the next batch, and the step, which runs on while this returns.

        Args:
            newest: what the update before will return, if it may still be under way.
        """
        with self._log.wait_for_input(newest):
            batch = next(self._input)
        laid_out = lay_out_batch(
            batch.tokens,
            batch.rows,
            num_devices=len(self._devices),
            sequences_per_device=self._config.sequences_per_device,
        )
        self._state, metrics = self._train_step(self._state, laid_out)
        self.step += 1
        return self.step, metrics

    def _record(self, pending: deque[tuple[int, StepMetrics]], *, leave: int) -> None:
        """Fetches the metrics of all but the last `leave` updates; checks and logs them."""
        while len(pending) > leave:
            step, metrics = pending.popleft()
            values = jax.device_get(metrics)
            self._check_finite(step, values)
            line = self._log.add(step, values)
            self.progress.advance(step, values, self._log.tokens_per_second)
            if line:
                self._write("train", step, line)

    def _write(self, kind: str, step: int, values: dict[str, int | float]) -> None:
        """Writes a line of metrics; the first process does so for all."""
        if self._writer:
            self._writer.write(kind, step, values)

    def _check_finite(self, step: int, metrics: StepMetrics) -> None:
        if math.isfinite(metrics.loss) and math.isfinite(metrics.gradient_norm):
            return
        self._checkpointer.wait()
        latest = self._checkpointer.latest_step
        good = "none was saved" if latest is None else str(self._checkpointer.path(latest))
        raise TrainingDivergedError(
            f"update {step}: loss {metrics.loss}, gradient norm {metrics.gradient_norm}:"
            f" not finite; the last good checkpoint: {good}"
        )

    def _save(self, metrics: dict[str, int | float] | None = None) -> None:
        position = self._input.get_state()
        state = self._collect(self._state)
        self._checkpointer.save(state, position, self._config, metrics=metrics)


def make_input(config: PretrainConfig, manifest: Manifest, tokenizer: KmerTokenizer) -> Any:
    """The batches of this process, update by update; its state is the next update's number."""
    dataset = make_dataset(
        manifest,
        "train",
        tokenizer=tokenizer,
        data=config.data,
        sequences_per_update=config.sequences_per_update,
        seed=config.seed,
        process_index=jax.process_index(),
        num_processes=jax.process_count(),
    )
    return make_iterator(dataset)


def save_baselines(run: Path, baselines: dict[str, Metrics]) -> None:
    """Writes the baselines into a run's folder, so that they are measured once."""
    rows = {name: row._asdict() for name, row in baselines.items()}
    partial = run / f"{BASELINES_FILE}.{jax.process_index()}"
    partial.write_text(json.dumps(rows, indent=2) + "\n")
    partial.replace(run / BASELINES_FILE)


def load_baselines(run: Path) -> dict[str, Metrics]:
    """What `save_baselines` wrote; nothing if it has not."""
    path = run / BASELINES_FILE
    rows = json.loads(path.read_text()) if path.exists() else {}
    return {name: Metrics(**row) for name, row in rows.items()}


def check_output(folder: Path) -> None:
    """Raises a `FileExistsError` if a run can neither start nor go on in `folder`."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: is a file; the output of a run must be a folder")
    if folder.is_dir() and any(folder.iterdir()) and not is_run(folder):
        raise FileExistsError(f"{folder}: holds other files; the output must be empty or a run")


@contextmanager
def catch_signals(*, show: bool) -> Iterator[threading.Event]:
    """Turns the first Ctrl-C or SIGTERM into an event and says so; a second ends the process."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        if show:
            os.write(2, STOPPING)
        for kind, handler in previous.items():
            signal.signal(kind, handler)

    for kind in previous:
        signal.signal(kind, ask_to_stop)
    try:
        yield stop
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
