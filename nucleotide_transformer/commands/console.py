"""What the commands share: exit codes and the console."""

from rich.console import Console

FAILED = 1
"""Exit code of a run that failed; Python's own after a traceback, too."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
LOG_WIDTH = 160
"""Columns of a table where the output is no terminal."""


class PlainConsole(Console):
    """Takes no text for markup: the name of a species or a folder may have brackets."""

    def __init__(self) -> None:
        super().__init__(
            force_jupyter=False,
            force_terminal=False if Console().is_jupyter else None,
            soft_wrap=True,
            highlight=False,
            markup=False,
            emoji=False,
        )
        if not self.is_terminal:
            self.width = LOG_WIDTH

    def on_broken_pipe(self) -> None:
        """The reader of a pipe is gone: rich would exit here."""
        raise


def say(text: str) -> None:
    """Prints a line."""
    PlainConsole().print(text)
