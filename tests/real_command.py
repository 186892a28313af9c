"""The command `nt`: within the test, or as a process of its own, through pipes or in a terminal."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import NamedTuple

import pytest

from nucleotide_transformer import cli

ROOT = Path(__file__).parent.parent
COMMAND = (sys.executable, "-m", "nucleotide_transformer.cli")


class Done(NamedTuple):
    """What a process left behind. In a terminal both outputs are one: `out`."""

    code: int
    out: str
    err: str


def make_environment(**changes: str) -> dict[str, str]:
    """Ours, with this copy of the package; without what tells rich and tyro about colours."""
    told = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM")
    kept = {name: value for name, value in os.environ.items() if name not in told}
    return kept | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | changes


def run(capfd: pytest.CaptureFixture[str], *args: object) -> Done:
    """Runs `nt ARGS`, texts of one or more words each, in this process."""
    code = cli.main([word for arg in args for word in str(arg).split()])
    return Done(code, *capfd.readouterr())


def run_in_pipe(*words: object, **changes: str) -> Done:
    """Runs `nt WORDS` with its outputs in pipes; changes are of the environment."""
    command, environment = [*COMMAND, *map(str, words)], make_environment(**changes)
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def run_in_terminal(*words: object, columns: int = 80, **changes: str) -> Done:
    """Runs `nt WORDS` in a pseudo-terminal of a width; changes are of the environment."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command, environment = [*COMMAND, *map(str, words)], make_environment(**changes)
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        chunks = []
        while chunk := _read(ours):
            chunks.append(chunk)
    os.close(ours)
    return Done(process.returncode, b"".join(chunks).decode().replace("\r\n", "\n"), "")


def _read(terminal: int) -> bytes:
    """The next bytes of a terminal; none once the process has closed it (on Linux, an error)."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""
