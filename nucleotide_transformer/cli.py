"""The command line `nt`: finds the command, and turns errors into one line and an exit code."""

import difflib
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from nucleotide_transformer import __version__
from nucleotide_transformer.commands import COMMANDS as COMMANDS
from nucleotide_transformer.commands import Command
from nucleotide_transformer.console import FAILED, INTERRUPTED, LosableOutput
from nucleotide_transformer.errors import InputError, RunFailedError, UnwritableOutputError
from nucleotide_transformer.namesake import warn_of_namesake
from nucleotide_transformer.options import parse

BAD_INPUT = 2
"""Exit code for input that breaks a rule."""
READER_GONE = 141
"""Exit code where what reads our output has closed it, as `head` does; as shells have it."""
HELP = ("-h", "--help")
VERSION = "--version"


def main(args: Sequence[str] | None = None) -> int:
    """Runs `nt`; returns its exit code.

    One line on standard error, and no traceback, for what a user can mend (code 2), and for a run
    that failed without a fault of ours or that the operating system ended (1). All else is raised.
    """
    warn_of_namesake()  # whose __init__ may have taken the place of ours, which warns
    words = list(sys.argv[1:] if args is None else args)
    try:
        return _dispatch(words)
    except (UnwritableOutputError, RunFailedError) as error:
        return _fail(str(error), FAILED)
    except InputError as error:
        return _fail(str(error), BAD_INPUT)
    except OSError as error:
        return _fail(_describe_os_error(error), FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


def _dispatch(words: list[str]) -> int:
    """Runs the command that the first words name, or says what there is."""
    if words and words[0] in HELP:
        words = [*words[1:], words[0]]  # of `nt --help embed`
    for number in (2, 1):
        name = " ".join(words[:number])
        if name in COMMANDS:
            return _run(name, COMMANDS[name], words[number:])
    if words[:1] == [VERSION]:
        sys.stdout.write(f"nucleotide-transformer-jax {__version__}\n")
        return 0
    group = _list_group(words[0]) if words else []
    asks = not words or words[-1] in HELP
    if (asks and len(words) <= 1) or (asks and group):
        sys.stdout.write(_describe_commands(group or list(COMMANDS)))
        return 0 if words else BAD_INPUT
    raise InputError(_describe_unknown(words))


def _run(name: str, command: Command, args: list[str]) -> int:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what orbax finds wrong, it raises
    kind = command.find_config()
    return command.run(parse(kind, args, f"nt {name}", takes_file=command.takes_file))


def _fail(message: str, code: int) -> int:
    one_line = " ".join(message.split())
    sys.stderr.write(f"error: {one_line}\n")
    return code


def _describe_os_error(error: OSError) -> str:
    """What the operating system says, and of which file, or else where it was met."""
    reason = error.strerror or str(error) or type(error).__name__
    files = [str(file) for file in (error.filename, error.filename2) if file is not None]
    if files:
        return f"{' -> '.join(files)}: {reason}"
    if error.errno is None:  # raised with a message by a library or by us
        return reason
    package = str(Path(__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(package)]
    place = f" (in {Path(ours[-1].filename).name}, {ours[-1].name})" if ours else ""
    return f"{reason}{place}"


def _list_group(word: str) -> list[str]:
    """The commands that begin with a word: `corpus build` and others with `corpus`."""
    return [name for name in COMMANDS if name.startswith(f"{word} ")]


def _describe_unknown(words: list[str]) -> str:
    """Says that there is no such command, and which one may be meant."""
    group = _list_group(words[0])
    if group and (len(words) == 1 or words[1].startswith("-")):
        return f"{words[0]}: which command? there are {', '.join(group)}"
    in_full = " ".join(words[:2])
    near = [
        name
        for typed in (in_full, words[0])
        for name in difflib.get_close_matches(typed, [*COMMANDS, *HELP, VERSION], n=1)
    ]
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(group or COMMANDS)}"
    return f"{in_full if group else words[0]}: no such command; {hint}"


def _describe_commands(names: list[str]) -> str:
    width = max(map(len, names))
    rows = [f"  nt {name:{width}}  {COMMANDS[name].summary}" for name in names]
    head = "The Nucleotide Transformer: pre-train it, evaluate it, use it.\n\n"
    tail = (
        "\n\n`nt COMMAND --help` lists the options of a command, `nt --version` says which version"
        " this is.\n"
    )
    return head + "\n".join(rows) + tail


def run_and_exit() -> NoReturn:
    """Entry point of the console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a species' name, in ASCII
    for name in ("stdout", "stderr"):  # None if closed before we began, as by `nt ... >&-`
        nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the end
        setattr(sys, name, LosableOutput(getattr(sys, name) or nowhere))
    try:
        code: Any = main()
    except SystemExit as stop:  # after help
        code = stop.code
    output: Any = sys.stdout
    output.flush()  # here, where an error of it is told
    sys.exit(_find_code(code, output.error))


def _find_code(code: Any, lost: OSError | None) -> Any:
    """The exit code of a command whose output may have been lost on the way."""
    if isinstance(lost, BrokenPipeError):
        return READER_GONE
    if lost is None or code:
        return code
    return _fail(f"standard output: {lost.strerror}", FAILED)


if __name__ == "__main__":
    run_and_exit()
