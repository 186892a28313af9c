"""Bars of long commands, on standard error but for those of bytes."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

Steps = Callable[[str, int], Callable[[], object]]
"""Title and number of steps -> a function that is called after each."""


class _RateColumn(ProgressColumn):
    """What is done in a second."""

    def __init__(self, unit: str) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._unit = unit

    def render(self, task: Task) -> Text:
        """The rate since the start."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f} {self._unit}/s" if speed else f"- {self._unit}/s")


def make_bar(unit: str, *, is_shown: bool) -> Progress:
    """A bar, as a context, for tasks that count some unit, such as "variants"."""
    return Progress(
        TextColumn("{task.description} {task.percentage:>3.0f} %", markup=False),  # names of files
        BarColumn(),
        _RateColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(quiet=not is_shown, stderr=True),
        disable=not is_shown,
    )


def make_byte_bar(title: str, *, is_shown: bool) -> Progress:
    """A bar over the bytes of files, as a context; on standard output."""
    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), disable=not is_shown)


@contextlib.contextmanager
def show_steps(visible: bool) -> Iterator[Steps]:
    """A bar for each part of a command, with its steps and the time left."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as bar:

        def start(title: str, total: int) -> Callable[[], object]:
            task = bar.add_task(title, total=total)
            return lambda: bar.advance(task)

        yield start
