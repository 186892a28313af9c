"""What a run prints while it trains: its plan, a progress bar and held-out results."""

import datetime
import math
import sys
from collections.abc import Mapping, Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nucleotide_transformer.console import LosableOutput, PlainConsole
from nucleotide_transformer.training.step import StepMetrics

SHARES = ("accuracy",)
"""Metrics that are shown as per cent."""


class RunProgress:
    """The console of one run; says nothing if `show` is False."""

    def __init__(self, *, total_steps: int, first_step: int, show: bool):
        self._total_steps, self._first_step = total_steps, first_step
        output = sys.stdout  # now: rich puts one of its own in its place
        self._output = output if isinstance(output, LosableOutput) else LosableOutput(output)
        self._console = PlainConsole(self._output, quiet=not show)
        self._bar = Progress(
            TextColumn("updates"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            speed_estimate_period=3_600,  # by default 30 seconds, in which no update may end
            disable=not show,
        )
        self._task = self._bar.add_task(
            "", total=total_steps, completed=first_step, metrics="compiling"
        )

    @property
    def is_lost(self) -> bool:
        """Whether nobody can see it any more."""
        return self._output.error is not None

    def announce(self, plan: Sequence[tuple[str, str]]) -> None:
        """Prints what the run will do, a line for each name and text."""
        for name, text in plan:
            self._console.print(f"{name:9} {text}")
        start = f", from {self._first_step:,}" if self._first_step else ""
        if self._first_step >= self._total_steps:
            start = ", all applied"
        self._console.print(f"{'run':9} {self._total_steps:,} updates{start}")

    def say(self, text: str) -> None:
        """Prints a line, above the bar."""
        self._console.print(text)

    def advance(self, step: int, metrics: StepMetrics, tokens_per_second: float) -> None:
        """Shows the metrics of an update in the bar; the speed of the first is not known."""
        means = "".join(
            f"  {name} {value:{'.2%' if name in SHARES else '.4g'}}"
            for name, value in metrics.means.items()
        )
        speed = "" if math.isnan(tokens_per_second) else f"  {tokens_per_second:,.0f} tokens/s"
        text = f"loss {metrics.loss:.3f}{means}{speed}"
        self._bar.update(self._task, completed=step, metrics=text)

    def log(self, step: int, line: Mapping[str, int | float]) -> None:
        """Prints an interval's metrics where the bar can't be seen: in a file or a pipe."""
        if not self._console.is_terminal:
            rate = line.get("tokens_per_second")  # not of the first update, which compiles
            speed = "" if rate is None else f", {rate:,.0f} tokens/s"
            left = self._bar.tasks[0].time_remaining  # 0 at the end
            time = f", {datetime.timedelta(seconds=left)} left" if left else ""
            self._console.print(f"update {step:,}: loss {line['loss']:.4f}{speed}{time}")

    def __enter__(self) -> "RunProgress":
        if self._first_step < self._total_steps:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
