"""Tasks in several processes, with one progress bar; Ctrl-C and errors stop all of them."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.managers import SyncManager
from typing import Any, TypeVar

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nucleotide_transformer.errors import RunFailedError
from nucleotide_transformer.files import catch_termination

Result = TypeVar("Result")
Report = Callable[[int, int], None]
"""Is told how many nucleotides are done since last time, and how far the bar moves."""
Task = Callable[[Report], Result]
"""Work for one process: it reports about once a second or more often, and stops when that raises.
It can be pickled."""

_SIZE_WORTH_A_PROCESS = 100_000_000
"""Nucleotides, or bytes of FASTA, below which another process takes longer to start than it
saves."""
_SECONDS_BETWEEN_LOOKS = 0.1


def run_tasks(
    tasks: Mapping[str, Task[Result]],
    num_workers: int,
    report: Report,
    collect: Callable[[str, Result], None],
) -> None:
    """Runs tasks in the order given, in several processes if there are several workers.

    After the first error of a task, Ctrl-C or SIGTERM, no other task starts, those under way end
    at their next report, and the error is raised when they have. If this process is killed, the
    others end with it.

    Args:
        tasks: name -> task.
        num_workers: tasks at a time. With one, they run in this process.
        report: is told what the tasks report, in this process.
        collect: is given the name and the result of each task as it ends, in this process.

    Raises:
        RunFailedError: if a process was killed.
    """
    num_workers = min(num_workers, len(tasks))
    with catch_termination():
        if num_workers > 1:
            _run_in_processes(tasks, num_workers, report, collect)
            return
        for name, task in tasks.items():
            collect(name, task(report))


def _run_in_processes(
    tasks: Mapping[str, Task[Result]],
    num_workers: int,
    report: Report,
    collect: Callable[[str, Result], None],
) -> None:
    # Not forked: a process that has started jax has threads, which a fork would break.
    context = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=context)
    with contextlib.ExitStack() as opened:
        with _hold_interrupts():
            manager.start(_end_with_parent)
            opened.enter_context(manager)  # here: a signal that was held back comes at the end
            executor = ProcessPoolExecutor(num_workers, context, _end_with_parent)
            opened.enter_context(executor)
        queue, stop = manager.Queue(), manager.Event()
        remote = _RemoteReport(queue, stop)
        try:
            with _hold_interrupts():
                waiting = {executor.submit(task, remote): name for name, task in tasks.items()}
            while waiting:
                done = wait(waiting, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done
                while not queue.empty():
                    report(*queue.get())
                for future in done:
                    collect(waiting.pop(future), future.result())
        except BrokenProcessPool:
            rule = "was there enough memory? The same command resumes"
            raise RunFailedError(f"one of {num_workers} processes was killed: {rule}") from None
        except BaseException:
            with contextlib.suppress(OSError, EOFError):  # a signal to all ended the manager, too
                stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Ends this process as soon as the one that started it has ended, whatever ended that."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_and_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def count_workers(wanted: int | None, size: int) -> int:
    """Processes for a task: those wanted, or one per core, but no more than its size is worth.

    Args:
        wanted: processes, or None for the default.
        size: nucleotides, or bytes of FASTA.
    """
    return wanted or min(count_cores(), 1 + size // _SIZE_WORTH_A_PROCESS)


def count_cores() -> int:
    """Cores that this process may use."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return num_cores or 1


@contextlib.contextmanager
def show_progress(title: str, total: int, *, visible: bool) -> Iterator[Report]:
    """A bar over `total` units of whatever the tasks report, with the rate in nucleotides."""
    columns = (
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.fields[done]:,.1f} Mnt"),
        TextColumn("{task.fields[rate]:,.0f} Mnt/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not visible) as bar:
        task = bar.add_task(title, total=total, done=0.0, rate=0.0)
        state = bar.tasks[0]

        def report(num_nucleotides: int, num_units: int) -> None:
            done = state.fields["done"] + num_nucleotides / 1e6
            rate = done / max(state.elapsed or 0.0, 1e-3)
            bar.update(task, advance=num_units, done=done, rate=rate)

        yield report


class _StopError(Exception):
    """Raised in a process whose parent wants to stop."""


@dataclasses.dataclass(frozen=True)
class _RemoteReport:
    """Passes a report on to the parent, and stops the process if that wants to stop."""

    queue: Any
    stop: Any

    def __call__(self, num_nucleotides: int, num_units: int) -> None:
        if self.stop.is_set():
            raise _StopError
        self.queue.put((num_nucleotides, num_units))


@contextlib.contextmanager
def _hold_interrupts() -> Iterator[None]:
    """Holds Ctrl-C and SIGHUP back for a moment; processes started in it leave them to this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    resource_tracker.ensure_running()  # here: it would let go of SIGINT below
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
