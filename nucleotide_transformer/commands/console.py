"""What the commands share: exit codes, the console, and where they may write."""

import os
from pathlib import Path

from rich.console import Console

from nucleotide_transformer.errors import NotAFolderError, UnwritableOutputError

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


def check_place(output: Path) -> None:
    """Checks that a file or folder can be made, before a model is loaded for it.

    Raises:
        NotAFolderError: if a file is in the way.
        UnwritableOutputError: if the system lets nobody write there.
    """
    place = output.expanduser().absolute()
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir():
        raise NotAFolderError(f"{output}: {above} is a file: must be a folder")
    if not os.access(above, os.W_OK):
        raise UnwritableOutputError(f"{output}: {above} can't be written to")
