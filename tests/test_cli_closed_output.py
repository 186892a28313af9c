"""The command line where standard output or error is closed from the start: `nt ... >&-`."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from real_command import COMMAND, make_environment

from nucleotide_transformer.training.metrics import read_metrics
from nucleotide_transformer.training.progress import LosableOutput, RunProgress


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
    output = LosableOutput()
    assert output.write("text") == 4
    output.flush()
    with RunProgress(total_steps=2, first_step=0, show=True) as progress:
        progress.announce([("devices", "1")])
        progress.log(1, {"loss": 1.0})
    assert not progress.is_lost


def test_what_is_written_to_an_open_output_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    LosableOutput().write("text")
    assert text.getvalue() == "text"
