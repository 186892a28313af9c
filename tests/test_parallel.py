"""Tasks in several processes: every result once, and an end for all when one fails."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nucleotide_transformer.data.parallel import (
    Report,
    count_workers,
    run_tasks,
    show_progress,
)

LONG = 30.0
"""Seconds that a task takes which is not told to stop: far more than its processes need."""


def square(number: int, report: Report) -> int:
    for _ in range(number):
        report(10, 1)
    return number * number


def fail_once_there(path: Path, report: Report) -> None:
    """Fails when the other task has begun."""
    end = time.monotonic() + LONG
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    raise ValueError("bad genome")


def go_on(begun: Path, finished: Path, report: Report) -> None:
    """Reports for a long time, and says so if it was left to."""
    begun.touch()
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        report(0, 0)
        time.sleep(0.01)
    finished.touch()


def die(report: Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ignore(*_: object) -> None:
    pass


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_result_and_report_once(num_workers: int) -> None:
    tasks = {str(number): functools.partial(square, number) for number in range(5)}
    results: dict[str, int] = {}
    done = []
    run_tasks(tasks, num_workers, lambda *numbers: done.append(numbers), results.__setitem__)
    assert results == {"0": 0, "1": 1, "2": 4, "3": 9, "4": 16}
    assert done == [(10, 1)] * sum(range(5))


def test_error_of_one_task_stops_the_others(tmp_path: Path) -> None:
    begun, finished = tmp_path / "begun", tmp_path / "finished"
    tasks = {
        "long": functools.partial(go_on, begun, finished),
        "bad": functools.partial(fail_once_there, begun),
        "later": functools.partial(go_on, tmp_path / "later", finished),
    }
    with pytest.raises(ValueError, match="bad genome"):
        run_tasks(tasks, 2, ignore, ignore)
    assert begun.exists()
    assert not finished.exists()


def test_process_that_is_killed() -> None:
    with pytest.raises(RuntimeError, match="one of 2 processes was killed") as error:
        run_tasks({"a": die, "b": die}, 2, ignore, ignore)
    assert "\n" not in str(error.value)


INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
import functools
import os
import sys
import time
from pathlib import Path
from test_parallel import go_on, ignore
from nucleotide_transformer.data.parallel import run_tasks

if __name__ != "__main__":  # imported by one of the processes
    Path(f"starting {os.getpid()}").touch()
    time.sleep(float(sys.argv[1]))

if __name__ == "__main__":
    finished = Path("finished")
    tasks = {n: functools.partial(go_on, Path(n), finished) for n in ("one", "two")}
    try:
        run_tasks(tasks, 2, ignore, ignore)
    except KeyboardInterrupt:
        raise SystemExit(130)
"""


def start_script(folder: Path, seconds_to_start: float, marks: str) -> subprocess.Popen[bytes]:
    """Starts the script above; returns when the marks are there."""
    script = folder / "script.py"
    script.write_text(INTERRUPTED)
    root = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, str(script), str(seconds_to_start)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{root}:{root.parent}"},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not all(list(folder.glob(mark)) for mark in marks.split()):
        assert process.poll() is None
        time.sleep(0.01)
    return process


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("kind", "seconds_to_start", "marks"),
    [
        (signal.SIGINT, 0, "one two"),
        (signal.SIGINT, 2, "starting*"),
        (signal.SIGTERM, 0, "one two"),
        (signal.SIGHUP, 0, "one two"),
    ],
)
def test_interrupt_stops_all_processes(
    kind: signal.Signals, seconds_to_start: int, marks: str, tmp_path: Path
) -> None:
    """Ctrl-C in a terminal, or its end, goes to all processes of the command, whatever they are
    about; so does the SIGTERM of a cluster."""
    process = start_script(tmp_path, seconds_to_start, marks)
    try:
        os.killpg(process.pid, kind)
        _, errors = process.communicate(timeout=LONG)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == b""
    assert not (tmp_path / "finished").exists()


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_processes_end_with_the_one_that_started_them(
    kind: signal.Signals, code: int, tmp_path: Path
) -> None:
    process = start_script(tmp_path, 0, "one two")
    pids = [int(path.name.split()[1]) for path in tmp_path.glob("starting *")]
    assert len(pids) == 3  # two workers, and what passes their reports on
    assert all(map(is_running, pids))
    os.kill(process.pid, kind)
    assert process.wait(LONG) == code
    end = time.monotonic() + LONG / 2  # half of what the tasks take
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(is_running, pids))
    assert not (tmp_path / "finished").exists()


def test_default_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert count_workers(None, 0) == 1
    assert count_workers(None, 250_000_000) == 3
    assert count_workers(None, 10**12) == 8
    assert count_workers(5, 0) == 5


def test_bar_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("letters", 4, visible=True) as report:
        report(1_500_000, 3)
        report(500_000, 1)
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith("letters")
    assert " 2.0 Mnt " in line
