"""Files and folders that are there whole or not at all."""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rich import filesize

from nucleotide_transformer.errors import (
    InputError,
    NotAFolderError,
    OutputExistsError,
    RuleError,
    UnwritableOutputError,
)

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_TERMINATIONS = (signal.SIGTERM, signal.SIGHUP)
PARTIAL_PREFIX = ".partial-"
"""Start of the name of what is being written."""
LOCK_FILE = ".lock"
"""File in a folder that a process writes to. What counts is the system's lock on it, which ends
with its process: a file that a killed one left holds nothing up."""
_HELD = (errno.EAGAIN, errno.EACCES)
"""What a file system answers if another process has the lock."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems without locks answer."""


def require_local(field: str, path: Path) -> None:
    """Raises an `InputError` for an address such as gs://bucket/folder, which no path can hold.

    It would be a folder `gs:` where the command runs.
    """
    address = _ADDRESS.fullmatch(str(path))
    if address:
        rule = "must be a path of this machine: mount the bucket, or copy what it holds"
        raise RuleError(field, f"{address[1]}://{address[2]}", rule)


def read_path(field: str, text: str | Path) -> Path:
    """A path as a user writes it, with `~` for the home folder.

    Raises:
        RuleError: as `require_local`, or for the home of a user that there is not.
    """
    path = Path(text)
    require_local(field, path)
    try:
        return path.expanduser() if str(text).startswith("~") else path  # "./~x" is Path("~x")
    except RuntimeError:
        rule = "there is no such home folder; for a file of this name write ./ before it"
        raise RuleError(field, str(text), rule) from None


def check_place(output: Path) -> None:
    """Checks that a file or folder can be made, before anything is computed for it.

    Raises:
        InputError: for the address of an object store.
        NotAFolderError: if a file is in the way.
        UnwritableOutputError: if the system lets nobody write there.
    """
    require_local("output", output)
    place = output.absolute()
    above = next((folder for folder in place.parents if folder.exists()), place)
    if not above.is_dir():
        raise NotAFolderError(f"{output}: {above} is a file: must be a folder")
    if not os.access(above, os.W_OK):
        raise UnwritableOutputError(
            f"{output}: can't be written: no permission to write in {above}"
        )


def check_room(folder: Path, num_bytes: int, rule: str) -> None:
    """Checks that a disk has room, before anything is written to it.

    Args:
        folder: on the disk.
        num_bytes: that will be written.
        rule: what the message says after "1.0 GB".

    Raises:
        UnwritableOutputError: if it has not.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        needed = f"{filesize.decimal(num_bytes)} {rule}"
        raise UnwritableOutputError(f"{folder}: has room for {filesize.decimal(free)}: {needed}")


def check_new(output: Path) -> None:
    """As `check_place`, of a file that must not be there yet.

    Raises:
        OutputExistsError: if it is.
    """
    if output.exists():
        raise OutputExistsError(f"{output}: exists already: delete it, or choose another name")
    check_place(output)


def name_parts(output: Path) -> Path:
    """The folder `<output>.parts`, for what is finished of a file that takes long."""
    return output.with_name(f"{output.name}.parts")


@contextmanager
def refuse_unwritable(path: Path) -> Iterator[None]:
    """Names a file or folder that the system does not let us write.

    Raises:
        NotAFolderError: if a file is where a folder must be.
        UnwritableOutputError: for any other refusal.
    """
    try:
        yield
    except InputError:  # some are errors of the system, too
        raise
    except (FileExistsError, NotADirectoryError):
        raise NotAFolderError(f"{path}: a file is in its path: must be a folder") from None
    except OSError as error:
        raise UnwritableOutputError(
            f"{path}: can't be written: {error.strerror or error}"
        ) from None


@contextmanager
def open_output(folder: Path) -> Iterator[None]:
    """Makes a folder if it is not there, and keeps other processes out of it.

    Raises:
        NotAFolderError, UnwritableOutputError: if the system refuses.
        InputError: if another process writes there.
    """
    with ExitStack() as stack:
        with refuse_unwritable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            rule = "another process writes there: wait for it, or end it"
            stack.enter_context(hold_folder(folder, rule))
        yield


@contextmanager
def hold_parts(output: Path) -> Iterator[Path]:
    """Makes the folder `<output>.parts`, and keeps other processes out of it.

    At the end it is removed if it is empty.

    Raises:
        InputError: as `open_output`.
        OutputExistsError: if another process has just written the output.
    """
    folder = name_parts(output)
    try:
        with open_output(folder):
            check_new(output)
            yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()


def keep_settings(folder: Path, settings: Mapping[str, Any], what: str, rule: str) -> None:
    """Writes what a folder's content depends on, or compares it with what it says already.

    Args:
        folder: of files that a later run resumes with; must exist.
        settings: name -> value, in types that JSON has.
        what: the folder holds, for the message.
        rule: what to do if it is of other settings.

    Raises:
        InputError: if a setting differs, or they are damaged.
        UnwritableOutputError: if the system refuses to write them.
    """
    path = folder / "settings.json"
    if not path.exists():
        with refuse_unwritable(folder):
            write_json(path, settings)
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError):
        raise InputError(f"{path}: damaged: delete the folder {folder}") from None
    for name, value in settings.items():
        if found.get(name) != value:
            difference = f"{name} = {found.get(name)!r}, not {value!r}"
            raise InputError(f"{folder}: {what} with {difference}: {rule}")


UNFINISHED = ("an unfinished run", "finish it with the same arguments, or delete the folder")
"""What a folder of parts holds, and what to do about it."""


@contextmanager
def hold_folder(folder: Path, rule: str, name: str = LOCK_FILE) -> Iterator[None]:
    """Keeps other processes from writing to a folder, which must exist, meanwhile.

    On file systems without locks nothing is kept.

    Args:
        folder: which one.
        rule: what the message says.
        name: of the file that is locked, and removed at the end.

    Raises:
        InputError: if another process holds it.
    """
    path = folder / name
    with path.open("ab") as file:
        if not _lock(file):
            raise InputError(f"{folder}: {rule}")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(file: IO[bytes]) -> bool:
    """Locks a file until it is closed; whether nobody else holds it, as far as the system knows."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (*_HELD, *_NO_LOCKS):
            raise
        return error.errno in _NO_LOCKS
    return os.fstat(file.fileno()).st_nlink > 0  # or who held it has just removed it


@contextmanager
def catch_termination() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into what Ctrl-C raises, where nobody else deals with them.

    So what is half-written is removed. Where nothing can be left behind, do without: while Python
    waits for the devices or for another process, no handler runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = [kind for kind in _TERMINATIONS if signal.getsignal(kind) == signal.SIG_DFL]
    for kind in kinds:
        signal.signal(kind, signal.default_int_handler)
    try:
        yield
    finally:
        for kind in kinds:
            signal.signal(kind, signal.SIG_DFL)


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Gives a path to write a file or a folder to, which gets its own name when all went well.

    By then it is on disk: what has the name is complete even if the machine fails. A file that is
    there already is replaced; a folder with files in it is not. After an error, or Ctrl-C, what was
    written is removed, and what was there before stays; likewise after SIGTERM.

        with write_whole(folder / "counts.json") as partial:
            partial.write_text(text)

    Args:
        path: of the file or folder; its parent must exist.

    Yields:
        The path to write to, in the same folder, of which nothing exists yet. Its name can't be
        guessed: nobody can put a link there.
    """
    partial = path.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(8)}-{path.name}")
    with catch_termination():
        try:
            yield partial
            for part in (*partial.rglob("*"), partial):
                sync(part)
            partial.replace(path)
            sync(path.parent)
        finally:
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Writes a JSON file, whole or not at all; indented by one, if no option says otherwise."""
    with write_whole(path) as partial:
        text = json.dumps(content, **{"indent": 1} | options)
        partial.write_text(text + "\n", encoding="utf-8")


def drop_nan(content: Any) -> Any:
    """The same content with None for numbers that are not finite: JSON has no others."""
    if isinstance(content, Mapping):
        return {name: drop_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [drop_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def get_suffix(path: Path) -> str:
    """What follows the last dot of a file's name, .gz apart, in lower case."""
    return Path(path).name.removesuffix(".gz").rpartition(".")[2].lower()


def digest_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def show_digest(digest: str) -> str:
    """A digest as a message shows it: its first twelve digits."""
    return f"{digest[:12]}..."


def sync(path: Path) -> None:
    """Waits until a file, or the list of files of a folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
