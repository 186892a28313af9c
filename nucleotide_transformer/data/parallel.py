"""Genomes built in several processes, with one progress bar."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.data.manifest import Genome
from nucleotide_transformer.data.shards import Report, build_genome
from nucleotide_transformer.data.sources import Source
from nucleotide_transformer.errors import RunFailedError

_BYTES_WORTH_A_PROCESS = 100_000_000
"""FASTA bytes below which starting another process takes longer than it saves."""
_SECONDS_BETWEEN_LOOKS = 0.1


def build_genomes(
    sources: Sequence[Source], config: CorpusConfig, *, progress: bool
) -> dict[str, Genome]:
    """Builds genomes, in several processes if that is worth it; keys are the sources' names.

    After an error, or Ctrl-C, the genomes that are not finished are removed.

    Raises:
        MissingInputError, InputError: for bad input, in one line.
        RunFailedError: if a process was killed.
    """
    if not sources:
        return {}
    # The largest first, so that no process is left with one at the end.
    order = sorted(sources, key=lambda source: -source.file.stat().st_size)
    num_bytes = sum(source.file.stat().st_size for source in order)
    num_workers = min(config.workers or _count_workers(num_bytes), len(order))
    with _show_progress(num_bytes, progress) as report:
        if num_workers > 1:
            return _build_parallel(order, config, num_workers, report)
        return {source.name: build_genome(source, config, report) for source in order}


def _count_workers(num_bytes: int) -> int:
    """Processes by default."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(num_cores or 1, 1 + num_bytes // _BYTES_WORTH_A_PROCESS)


@contextlib.contextmanager
def _show_progress(num_bytes: int, visible: bool) -> Iterator[Report]:
    """A bar over the bytes of the FASTA files, with the rate in nucleotides."""
    columns = (
        TextColumn("corpus"),
        BarColumn(),
        TextColumn("{task.fields[done]:,.1f} Mnt"),
        TextColumn("{task.fields[rate]:,.0f} Mnt/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not visible) as bar:
        task = bar.add_task("corpus", total=num_bytes, done=0.0, rate=0.0)
        state = bar.tasks[0]

        def report(num_nucleotides: int, num_bytes: int) -> None:
            done = state.fields["done"] + num_nucleotides / 1e6
            rate = done / max(state.elapsed or 0.0, 1e-3)
            bar.update(task, advance=num_bytes, done=done, rate=rate)

        yield report


class _StopError(Exception):
    """Raised in a process whose parent wants to stop."""


@dataclasses.dataclass(frozen=True)
class _RemoteReport:
    """Passes a report on to the parent, and stops the process if that wants to stop."""

    queue: Any
    stop: Any

    def __call__(self, num_nucleotides: int, num_bytes: int) -> None:
        if self.stop.is_set():
            raise _StopError
        self.queue.put((num_nucleotides, num_bytes))


def _build_parallel(
    sources: Sequence[Source], config: CorpusConfig, num_workers: int, report: Report
) -> dict[str, Genome]:
    """Builds genomes in processes of their own."""
    # Not forked: a process that has started jax has threads, which a fork would break.
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(num_workers, context, _ignore_interrupts) as executor,
    ):
        queue, stop = manager.Queue(), manager.Event()
        remote = _RemoteReport(queue, stop)
        futures = {s.name: executor.submit(build_genome, s, config, remote) for s in sources}
        try:
            _wait(list(futures.values()), queue, report)
            return {name: future.result() for name, future in futures.items()}
        except BrokenProcessPool:
            rule = "was there enough memory? The same command again goes on"
            raise RunFailedError(
                f"{config.output}: a process of the build was killed: {rule}"
            ) from None
        except BaseException:
            stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
            raise


def _wait(futures: Sequence[Future[Genome]], queue: Any, report: Report) -> None:
    """Waits for all, or for the first error, and passes reports on meanwhile."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
        while not queue.empty():
            report(*queue.get())
        for future in done:
            future.result()


def _ignore_interrupts() -> None:
    """Leaves Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
