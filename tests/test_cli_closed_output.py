"""The command line where an output is closed from the start, as by `nt ... >&-`, or goes away; and
where a signal ends it."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real_command import COMMAND, ROOT, make_environment

from nucleotide_transformer.console import LosableOutput
from nucleotide_transformer.training.metrics import read_metrics
from nucleotide_transformer.training.progress import RunProgress

START = f"""import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from nucleotide_transformer import bars, cli, files
def write(_):
    with files.write_whole(Path(sys.argv[1])) as partial:
        partial.touch()
        {{line}}
    return 0
cli._dispatch = write
{{first}}
cli.run_and_exit()
"""
"""A command that writes a file, and does something else meanwhile."""


def start_command(line: str, path: Path, first: str = "", **streams: Any) -> int:
    """The exit code of that command, after a first line; `streams` as for `subprocess.run`."""
    command = [sys.executable, "-c", START.format(line=line, first=first), path]
    return subprocess.run(command, env=make_environment(), check=False, **streams).returncode


def run_closed(closed: str, *words: object) -> subprocess.CompletedProcess[bytes]:
    """Runs `nt WORDS` by a shell with some of its streams closed."""
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, *map(str, words)]
    return subprocess.run(command, capture_output=True, env=make_environment(), check=False)


@pytest.mark.parametrize(
    ("closed", "words", "code", "err"),
    [
        (">&-", "--version", 0, b""),
        (">&-", "--help", 0, b""),
        (">&-", "corpus build --help", 0, b""),
        (">&-", "frobnicate --x", 2, b"error: frobnicate: no such command; "),
        ("2>&-", "--version", 0, b""),
        ("2>&-", "frobnicate", 2, b""),
        (">&- 2>&-", "--version", 0, b""),
        (">&- 2>&- <&-", "frobnicate", 2, b""),
    ],
)
def test_a_closed_stream_is_no_error(closed: str, words: str, code: int, err: bytes) -> None:
    done = run_closed(closed, *words.split())
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(err)
    assert done.stderr.count(b"\n") == bool(err)


def test_a_run_goes_on_to_its_end(small_corpus: Path, tmp_path: Path) -> None:
    model = "--model.k 3 --model.num-layers 1 --model.embed-dim 8 --model.num-heads 2"
    run = "--data.sequence-tokens 32 --tokens-per-update 128 --total-tokens 256 --num-devices 1"
    rest = f"--model.ffn-dim 8 --log-every-steps 1 --evaluation.num-sequences 2 --output {tmp_path}"
    words = f"pretrain --data.corpus {small_corpus} {model} {run} {rest}".split()
    done = run_closed(">&-", *words)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert [line["step"] for line in read_metrics(tmp_path)][-1] == 2


def test_progress_without_a_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a program that calls `pretrain` has it: nothing to write to, and nothing lost by it."""
    monkeypatch.setattr(sys, "stdout", None)
    output = LosableOutput(sys.stdout)
    assert output.write("text") == 4
    output.flush()
    with RunProgress(total_steps=2, first_step=0, show=True) as progress:
        progress.announce([("devices", "1")])
        progress.log(1, {"loss": 1.0})
    assert not progress.is_lost


def test_what_is_written_to_an_open_output_arrives() -> None:
    text = io.StringIO()
    LosableOutput(text).write("text")
    assert text.getvalue() == "text"


def open_lost(place: str) -> int:
    """A full disk, or the end of a pipe that nobody reads."""
    if place == "full":
        return os.open("/dev/full", os.O_WRONLY)
    ours, theirs = os.pipe()
    os.close(ours)
    return theirs


@pytest.mark.parametrize(
    ("stream", "bar", "place", "code"),
    [
        ("stderr", "bars.make_bar('nt', is_shown=True)", "pipe", 0),
        ("stderr", "bars.show_steps(True)", "full", 0),
        ("stdout", "bars.make_byte_bar('bytes', is_shown=True)", "pipe", 141),
        ("stdout", "bars.make_byte_bar('bytes', is_shown=True)", "full", 1),
    ],
)
def test_a_bar_that_nobody_can_see_ends_no_work(
    stream: str, bar: str, place: str, code: int, tmp_path: Path
) -> None:
    """What is lost of standard output is told by the exit code, at the end."""
    lost = open_lost(place)
    line = f"with {bar} as bar: getattr(bar, 'add_task', bar)('task', total=1)"
    assert start_command(line, tmp_path / "file", **{stream: lost}) == code
    os.close(lost)
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize("place", ["pipe", "full"])
def test_a_message_that_nobody_can_see_keeps_its_exit_code(place: str) -> None:
    lost = open_lost(place)
    done = subprocess.run([*COMMAND, "frob"], stderr=lost, env=make_environment(), check=False)
    os.close(lost)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("kind", "before", "code"),
    [
        ("SIGTERM", "SIG_DFL", 130),
        ("SIGHUP", "SIG_DFL", 130),
        ("SIGHUP", "SIG_IGN", 0),
    ],
)
def test_a_signal_leaves_nothing_half_written(
    kind: str, before: str, code: int, tmp_path: Path
) -> None:
    """As by Ctrl-C; `nohup` stays in force."""
    path, kind = tmp_path / "file", f"signal.{kind}"
    first = f"signal.signal({kind}, signal.{before})"
    assert start_command(f"os.kill(os.getpid(), {kind})", path, first) == code
    assert list(tmp_path.iterdir()) == ([] if code else [path])


def test_outside_of_files_a_signal_ends_the_process_even_where_no_handler_would_run() -> None:
    """As while it waits for another process, in C."""
    code = START.split("def write")[0] + (
        "from signal import SIGTERM, SIG_DFL, getsignal\n"
        "cli._dispatch = lambda _: int(getsignal(SIGTERM) != SIG_DFL)\ncli.run_and_exit()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=make_environment(), check=False)
    assert done.returncode == 0
