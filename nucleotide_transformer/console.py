"""What goes to the terminal: exit codes, the console, and outputs that may go away."""

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

FAILED = 1
"""Exit code of a run that failed; Python's own after a traceback, too."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
LOG_WIDTH = 160
"""Columns of a table where the output is no terminal."""


class LosableOutput:
    """An output that may go away: with the reader of a pipe, the terminal, or the room on a disk.

    No work may be lost with it. What is written afterwards is dropped, and so is everything where
    there was none from the start: sys.stdout is None then. Of one that does not wait for a slow
    reader, as programs that share a terminal may set it, what finds no room is dropped.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None
        """Why it went away."""

    def write(self, text: str) -> int:
        """Writes a text, if there is still somewhere to write it to."""
        self._try(lambda file: file.write(text))
        return len(text)

    def flush(self) -> None:
        """Writes what is held back."""
        self._try(lambda file: file.flush())

    def _try(self, write: Callable[[Any], object]) -> None:
        if self.error is None and self._file is not None:
            try:
                write(self._file)
            except BlockingIOError:
                pass
            except OSError as error:
                self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class PlainConsole(Console):
    """Takes no text for markup: the name of a species or a folder may have brackets.

    In a notebook it prints lines of text, not a box for each, and no bar.
    """

    def __init__(self, file: Any = None, *, quiet: bool = False) -> None:
        super().__init__(
            file=file,
            quiet=quiet,
            force_jupyter=False,
            force_terminal=False if Console().is_jupyter else None,
            soft_wrap=True,
            highlight=False,
            markup=False,
            emoji=False,
        )
        if not self.is_terminal:
            self.width = LOG_WIDTH


def say(text: str) -> None:
    """Prints a line."""
    PlainConsole().print(text)


def note(text: str) -> None:
    """Prints a line on standard error, if that is still there."""
    LosableOutput(sys.stderr).write(f"note: {text}\n")
