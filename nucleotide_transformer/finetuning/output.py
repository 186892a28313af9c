"""The folder of a probe or of a task table."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nucleotide_transformer.errors import NotAFolderError, UnwritableOutputError
from nucleotide_transformer.files import hold_folder


@contextlib.contextmanager
def open_output(folder: Path) -> Iterator[None]:
    """Makes a folder if it is not there, and keeps other processes out of it.

    Raises:
        NotAFolderError: if a file is in the way.
        UnwritableOutputError: if the system lets nothing be written there.
        InputError: if another process writes to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotAFolderError(f"{folder}: a file is in its path: must be a folder") from None
    except OSError as error:
        raise UnwritableOutputError(f"{folder}: can't be written: {error.strerror}") from None
    with hold_folder(folder, "another process writes there: wait for it, or end it"):
        yield
