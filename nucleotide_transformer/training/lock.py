"""One process at a time writes a run."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nucleotide_transformer.errors import InputError

LOCK = ".lock"
"""File in the folder of a run that is under way. What counts is the system's lock on it, which ends
with its process: a file that a killed run left behind holds nothing up."""


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keeps other processes from training the run in a folder, which must exist, meanwhile.

    They would remove each other's saves under way, and mix their metrics. On file systems without
    locks nothing is kept.

    Raises:
        InputError: if another process holds it.
    """
    path = folder / LOCK
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            rule = "processes that train together each need --distributed"
            raise InputError(f"{folder}: another process is training this run; {rule}") from None
        except OSError:
            yield
            return
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
