"""Bars of a command that has several parts, on standard error."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

Steps = Callable[[str, int], Callable[[], object]]
"""Title and number of steps -> a function that is called after each."""


@contextlib.contextmanager
def show_steps(visible: bool) -> Iterator[Steps]:
    """A bar for each part, with its steps and the time left."""
    columns = (
        TextColumn("{task.description}"),
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
