"""The bar of a long command, on standard error."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text


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
        TextColumn("{task.description} {task.percentage:>3.0f} %"),
        BarColumn(),
        _RateColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(quiet=not is_shown, stderr=True),
        disable=not is_shown,
    )
