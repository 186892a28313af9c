"""Files of a table, fetched: several at a time, resumed, asked for again, and checked.

A file has its name once all of it is there and its size and digest are those of the table. Until
then it is `.partial-download-NAME`, which the next run of the same command adds to if the table
has a digest: without one nobody could tell whether the two parts belong together.
"""

import concurrent.futures
import contextlib
import dataclasses
import ftplib
import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from nucleotide_transformer.bars import make_byte_bar
from nucleotide_transformer.data.assemblies import Assembly, load_assemblies
from nucleotide_transformer.data.intervals import is_count
from nucleotide_transformer.data.web import (
    RETRY_STATUSES,
    WAIT_SECONDS,
    describe_failure,
    find_server,
    make_session,
)
from nucleotide_transformer.errors import require, require_positive
from nucleotide_transformer.files import (
    PARTIAL_PREFIX,
    catch_termination,
    check_room,
    hold_folder,
    show_digest,
)

LOCK_FILE = ".download.lock"
_BLOCK_BYTES = 1 << 20
_LONGEST_WAIT = 60.0
_FETCHED, _KEPT = "fetched", "kept"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """What to download, and how."""

    table: Path
    """Table that `nt corpus list` made. The files go to its folder."""
    num_downloads: int = 4
    """Files at a time."""
    num_retries: int = 8
    """Requests in a row for one file that may fail without a byte, after the first."""
    first_wait: float = 1.0
    """Seconds to wait before the first retry; twice as long before each further one, up to a
    minute, or as long as the server asks."""
    timeout: float = WAIT_SECONDS
    """Seconds without a byte after which a connection is given up."""

    def __post_init__(self) -> None:
        require_positive(self, "num_downloads", "first_wait", "timeout")
        require(self.num_retries >= 0, "num_retries", self.num_retries, "must be 0 or above")


class Downloaded(NamedTuple):
    """What became of the files of a table."""

    fetched: tuple[str, ...]
    kept: tuple[str, ...]
    """Were there, and are right."""
    failed: dict[str, str]
    """File -> why it is not there."""


class _FailedError(Exception):
    """A file that can't be had; asking again would not help."""


class _WrongError(_FailedError):
    """A file whose size or digest is not that of the table."""


class _AgainError(Exception):
    """A file that may be had a little later; `wait` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


Advance = Callable[[int], None]
"""Is told how many more bytes are there."""


def download(
    config: DownloadConfig, *, start: Callable[[int], Advance] = lambda _: lambda _: None
) -> Downloaded:
    """Downloads the files of a table that are not there yet.

    Args:
        config: what to download.
        start: is told how many bytes there are in all, as far as the table says; what it returns
            is told how many of them have come.

    Raises:
        InputError: for a bad table.
        UnwritableOutputError: if the disk has no room for what it lists.
    """
    assemblies = load_assemblies(config.table)
    folder = config.table.parent
    rule = "another process is downloading to this folder: wait for it, or end it"
    with hold_folder(folder, rule, LOCK_FILE), catch_termination():
        _check_room(folder, assemblies)
        advance = start(sum(assembly.num_bytes or 0 for assembly in assemblies))
        stop, session = threading.Event(), make_session()
        downloads = [_Download(config, session, each, advance, stop) for each in assemblies]
        with concurrent.futures.ThreadPoolExecutor(config.num_downloads) as pool:
            futures = {each.name: pool.submit(each.run) for each in downloads}
            try:
                concurrent.futures.wait(futures.values())
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        results = {name: future.result() for name, future in futures.items()}
    fetched = tuple(name for name, result in results.items() if result == _FETCHED)
    kept = tuple(name for name, result in results.items() if result == _KEPT)
    failed = {name: result for name, result in results.items() if result not in (_FETCHED, _KEPT)}
    return Downloaded(fetched, kept, failed)


@contextlib.contextmanager
def show_bytes(*, visible: bool) -> Iterator[Callable[[int], Advance]]:
    """A bar over the bytes of a download; gives what `download` takes as `start`."""
    with make_byte_bar("download", is_shown=visible) as bar:

        def start(total: int) -> Advance:
            task = bar.add_task("download", total=total or None)
            return lambda num_bytes: bar.advance(task, num_bytes)

        yield start


class _Download:
    """One file."""

    def __init__(
        self,
        config: DownloadConfig,
        session: Any,
        assembly: Assembly,
        advance: Advance,
        stop: threading.Event,
    ) -> None:
        self.name = assembly.file
        self._config, self._session, self._assembly = config, session, assembly
        self._advance, self._stop = advance, stop
        self._path = config.table.parent / assembly.file
        self._partial = _name_partial(self._path)
        self._tag = ""
        self._length = assembly.num_bytes

    def run(self) -> str:
        """Fetches the file; returns what became of it, or why it is not there."""
        try:
            if self._path.exists():
                self._check(self._path, "is there, and differs: move it away")
                self._advance(self._path.stat().st_size)
                return _KEPT
            if not self._assembly.checksum:
                self._partial.unlink(missing_ok=True)
            self._advance(self._size())
            self._fetch()
            self._partial.replace(self._path)
        except _FailedError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename or self._path}: {error.strerror or error}"
        return _FETCHED

    def _fetch(self) -> None:
        """Asks until all of the file is there and right."""
        failures, is_new = 0, False
        while True:
            before = self._size()
            try:
                self._ask()
                self._check(self._partial, "came")
                return
            except _AgainError as error:
                failures = 0 if self._size() > before else failures + 1
                if failures > self._config.num_retries:
                    raise _FailedError(f"{error}, after {failures} attempts in a row") from None
                self._wait(failures, error.wait)
            except _WrongError as error:
                # What was there before may have been of another file: once more, from the start.
                if is_new:
                    raise _FailedError(str(error)) from None
                is_new = True
                self._restart()

    def _ask(self) -> None:
        """Asks for what is missing, and writes what comes."""
        server = urlsplit(find_server(self._assembly.address))
        if self._length is not None and self._size() == self._length:
            return
        blocks = self._ask_ftp(server) if server.scheme == "ftp" else self._ask_http()
        for block in blocks:
            if self._stop.is_set():
                raise _FailedError("stopped; the same command resumes")
            with self._partial.open("ab") as file:
                file.write(block)
            self._advance(len(block))
        if self._length is not None and self._size() < self._length:
            raise _AgainError("the connection ended before the file did")
        if not self._size():
            raise _WrongError("came empty")

    def _ask_http(self) -> Iterator[bytes]:
        import requests
        import urllib3

        headers = {"Range": f"bytes={self._size()}-"} if self._size() else {}
        if headers and self._tag:
            headers["If-Range"] = self._tag
        address = find_server(self._assembly.address)
        timeout = self._config.timeout
        try:
            with self._session.get(
                address, headers=headers, stream=True, timeout=timeout
            ) as answer:
                self._check_answer(answer)
                while block := answer.raw.read1(_BLOCK_BYTES):  # whatever has come by now
                    yield block
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _AgainError(describe_failure(error)) from None

    def _check_answer(self, answer: Any) -> None:
        """Raises what an answer means if it brings nothing; starts anew if it brings all."""
        status = answer.status_code
        if status == 416:  # more is here than there
            self._restart()
            raise _AgainError("the server has less of the file than was fetched")
        if status in RETRY_STATUSES:
            raise _AgainError(f"{status} {answer.reason}", _read_wait(answer.headers))
        if status not in (200, 206):
            raise _FailedError(f"{status} {answer.reason}")
        begins = f"bytes {self._size()}-"
        if status == 200 or not answer.headers.get("Content-Range", "").startswith(begins):
            if self._size():
                self._restart()
            if status == 206:
                raise _AgainError("the server sent another part of the file")
        length = answer.headers.get("Content-Length", "")
        if is_count(length) and not answer.headers.get("Content-Encoding"):
            self._length = self._size() + int(length)
        self._tag = answer.headers.get("ETag", "")
        if self._tag.startswith("W/"):
            self._tag = ""

    def _ask_ftp(self, server: Any) -> Iterator[bytes]:
        try:
            with ftplib.FTP(timeout=self._config.timeout) as ftp:
                ftp.connect(server.hostname, server.port or ftplib.FTP_PORT)
                ftp.login()
                path = unquote(server.path)
                ftp.voidcmd("TYPE I")
                self._length = ftp.size(path)
                with ftp.transfercmd(f"RETR {path}", rest=self._size() or None) as connection:
                    while block := connection.recv(_BLOCK_BYTES):
                        yield block
                ftp.voidresp()
        except ftplib.error_perm as error:
            raise _FailedError(str(error)) from None
        except (ftplib.Error, OSError, EOFError) as error:
            raise _AgainError(f"FTP: {error or type(error).__name__}") from None

    def _check(self, path: Path, state: str) -> None:
        """Raises `_WrongError` if a file is not the one of the table."""
        size, expected = path.stat().st_size if path.exists() else 0, self._assembly.num_bytes
        if expected is not None and size != expected:
            raise _WrongError(f"{size:,} bytes, must be {expected:,}: {state}")
        kind, _, digest = self._assembly.checksum.partition(":")
        if kind:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != digest:
                raise _WrongError(
                    f"{kind} {show_digest(found)}, must be {show_digest(digest)}: {state}"
                )

    def _restart(self) -> None:
        self._advance(-self._size())
        self._partial.unlink(missing_ok=True)
        self._length, self._tag = self._assembly.num_bytes, ""

    def _wait(self, failures: int, asked: float) -> None:
        """Waits as long as the server asks, or longer after each failure; never all at once."""
        wait = self._config.first_wait * 2 ** max(failures - 1, 0) * random.uniform(0.5, 1.0)
        self._stop.wait(min(max(wait, asked), _LONGEST_WAIT))

    def _size(self) -> int:
        return self._partial.stat().st_size if self._partial.exists() else 0


def _read_wait(headers: Any) -> float:
    """Seconds that a server asks to wait; dates are not read."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(headers.get("Retry-After", "0")))
    return 0.0


def _name_partial(path: Path) -> Path:
    """What a file is called until all of it is there."""
    return path.with_name(f"{PARTIAL_PREFIX}download-{path.name}")


def _check_room(folder: Path, assemblies: Sequence[Assembly]) -> None:
    """Checks that the disk has room for what the table says is missing."""
    needed = sum(_count_missing(folder / each.file, each.num_bytes or 0) for each in assemblies)
    check_room(folder, needed, "of what the table lists are not there yet")


def _count_missing(path: Path, num_bytes: int) -> int:
    """How much less room there will be when a file of so many bytes has come.

    What an earlier run fetched of it is added to, or removed first.
    """
    if path.exists():
        return 0
    partial = _name_partial(path)
    return max(0, num_bytes - (partial.stat().st_size if partial.exists() else 0))
