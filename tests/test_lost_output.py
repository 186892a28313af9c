"""A run whose reader or terminal goes away is saved, and resumes."""

import fcntl
import os
import pty
import signal
import subprocess
import termios
from pathlib import Path

from real_command import COMMAND, make_environment

from nucleotide_transformer.cli import READER_GONE
from nucleotide_transformer.console import INTERRUPTED, LosableOutput
from nucleotide_transformer.training.loop import catch_signals
from nucleotide_transformer.training.metrics import read_metrics
from nucleotide_transformer.weights.runs import open_manager

TIMEOUT = 120


def list_words(corpus: Path, output: Path) -> list[str]:
    """A run of more updates than anybody waits for."""
    options = {
        "output": output,
        "data.corpus": corpus,
        "data.sequence-tokens": 64,
        "model.k": 3,
        "model.num-layers": 2,
        "model.embed-dim": 16,
        "model.num-heads": 2,
        "model.ffn-dim": 24,
        "tokens-per-update": 512,
        "total-tokens": 512 * 1_000_000,
        "num-devices": 1,
        "log-every-steps": 1,
        "checkpoint.every-steps": 1_000_000,
        "evaluation.num-sequences": 4,
        "evaluation.every-steps": 1_000_000,
    }
    pairs = [(f"--{name}", str(value)) for name, value in options.items()]
    return [*COMMAND, "pretrain", *(word for pair in pairs for word in pair)]


def check_saved(output: Path) -> None:
    """One checkpoint, of the last update that the metrics tell of."""
    with open_manager(output, keep=2) as manager:
        steps = manager.all_steps()
    assert len(steps) == 1
    assert steps[0] > 0
    assert [line["step"] for line in read_metrics(output)][-1] == steps[0]


def test_a_pipe_whose_reader_is_gone(small_corpus: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        list_words(small_corpus, tmp_path / "run"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=make_environment(),
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(b"update 3:"):
            assert process.poll() is None, process.communicate()
        process.stdout.close()
        assert process.wait(TIMEOUT) == READER_GONE
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    check_saved(tmp_path / "run")


def test_a_terminal_that_is_closed(small_corpus: Path, tmp_path: Path) -> None:
    """As when a connection breaks: SIGHUP, and nowhere to write to."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        list_words(small_corpus, tmp_path / "run"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=make_environment(),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(theirs)
        seen = b""
        while b"tokens/s" not in seen:
            seen += os.read(ours, 65_536)
        os.close(ours)
        assert process.wait(TIMEOUT) == INTERRUPTED
    check_saved(tmp_path / "run")


def test_a_terminal_whose_reader_is_slow_is_not_gone() -> None:
    """It does not wait for its reader: a program that shares it set it so."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(reader, "rb", buffering=0) as there, os.fdopen(writer, "w") as file:
        output = LosableOutput(file)
        for _ in range(2_000):
            output.write(f"{'update':90}\n")
            output.flush()
        there.read(1 << 20)
        output.write("later\n")
        output.flush()
        assert output.error is None
        assert there.read(1 << 20).endswith(b"later\n")


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_signals(show=False) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
