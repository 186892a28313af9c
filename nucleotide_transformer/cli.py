"""The command line `nt`. Each command is a config dataclass and a function of it."""

import difflib
import io
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console

from nucleotide_transformer.errors import InputError, RunFailedError
from nucleotide_transformer.namesake import warn_of_namesake
from nucleotide_transformer.options import parse

FAILED = 1
"""Exit code of a run that failed; Python's own after a traceback, too."""
BAD_INPUT = 2
"""Exit code for input that breaks a rule."""
LOG_WIDTH = 160
"""Columns of a table where the output is no terminal."""
LEFT_OUT_IF_NARROW = ("assembly", "group", "contigs", "unknown")
"""Columns of a corpus that a narrow terminal has no room for."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class Command(NamedTuple):
    """One command; its module is imported when the command runs, so that help is quick."""

    summary: str
    run: Callable[[list[str]], int]


def main(args: Sequence[str] | None = None) -> int:
    """Runs `nt`; returns its exit code.

    One line on standard error, and no traceback, for what a user can mend (code 2), and for a run
    that failed without a fault of ours or that the operating system ended (1). All else is raised.
    """
    warn_of_namesake()  # whose __init__ may have taken the place of ours, which warns
    words = list(sys.argv[1:] if args is None else args)
    for number in (2, 1):
        command = COMMANDS.get(" ".join(words[:number]))
        if command:
            return _run_command(command, words[number:])
    asked = not words or words[0] in ("-h", "--help")
    if asked:
        sys.stdout.write(_describe_commands())
        return 0 if words else BAD_INPUT
    return _fail(_describe_unknown(words), BAD_INPUT)


def _run_command(command: Command, args: list[str]) -> int:
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax remarks on what is as it should be
    try:
        return command.run(args)
    except InputError as error:
        return _fail(str(error), BAD_INPUT)
    except RunFailedError as error:
        return _fail(str(error), FAILED)
    except OSError as error:
        return _fail(_describe_os_error(error), FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


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


def _describe_unknown(words: list[str]) -> str:
    """Says that there is no such command, and which one may be meant."""
    group = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    is_incomplete = bool(group) and (len(words) == 1 or words[1].startswith("-"))
    in_full = " ".join(words[:2])
    asked = in_full if group and not is_incomplete else words[0]
    near = [
        name
        for typed in (in_full, words[0])
        for name in difflib.get_close_matches(typed, COMMANDS, n=1)
        if not is_incomplete
    ]
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(group or COMMANDS)}"
    return f"{asked}: no such command; {hint}"


def _describe_commands() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  nt {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = "The Nucleotide Transformer: pre-training and what one does with a trained model.\n\n"
    return head + "\n".join(rows) + "\n\n`nt COMMAND --help` lists the options of a command.\n"


def _build_corpus(args: list[str]) -> int:
    from nucleotide_transformer.configfile import read_config
    from nucleotide_transformer.data.corpus import CorpusConfig, build_corpus

    path, rest = _take_option(args, "--config")
    default = read_config(CorpusConfig, Path(path)) if path else None
    config = parse(CorpusConfig, rest, "nt corpus build [--config FILE.toml]", default)
    build_corpus(config, progress=True)
    return _print_corpus(config.output)


def _describe_corpus(args: list[str]) -> int:
    def info(folder: tyro.conf.Positional[Path], /) -> Path:
        """Lists the genomes of a corpus and the size of its splits.

        Args:
            folder: folder that `nt corpus build` made.
        """
        return folder

    return _print_corpus(parse(info, args, "nt corpus info"))


def _count_baselines(args: list[str]) -> int:
    from nucleotide_transformer.pretraining.counts import BaselinesConfig, count_corpus

    kind = tyro.conf.PositionalRequiredArgs[BaselinesConfig]
    config = parse(kind, args, "nt corpus baselines")
    path, is_new = count_corpus(config, progress=True)
    state = "wrote" if is_new else "counted before, and still right:"
    _console().print(f"{state} {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def _print_corpus(folder: Path) -> int:
    from rich.box import HEAVY_HEAD, SIMPLE
    from rich.table import Table

    from nucleotide_transformer.data.manifest import describe, load_manifest

    rows = describe(load_manifest(folder))
    console = _console()
    narrow = console.width < LOG_WIDTH
    columns = [name for name in rows[0] if not (narrow and name in LEFT_OUT_IF_NARROW)]
    table = Table(title=str(folder), title_justify="left", box=SIMPLE if narrow else HEAVY_HEAD)
    for name in columns:
        is_number = not isinstance(rows[0][name], str)
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number)
    for row in rows:
        values = (row[name] for name in columns)
        table.add_row(*(v if isinstance(v, str) else f"{v:,}" for v in values))
    console.print(table)
    for split in ("train", "validation", "test"):
        if rows[-1][split] == 0:
            console.print(f"note: the {split} split has no record")
    return 0


def _pretrain(args: list[str]) -> int:
    from nucleotide_transformer.config import PretrainConfig
    from nucleotide_transformer.configfile import load_config

    path, rest = _take_option(args, "--config")
    default = load_config(Path(path)) if path else PretrainConfig()
    prog = "nt pretrain [--config FILE.toml]"
    config = parse(PretrainConfig, rest, prog, default)

    from nucleotide_transformer.pretraining.report import print_summary
    from nucleotide_transformer.pretraining.run import pretrain

    summary = pretrain(config)
    if summary.evaluation is None:
        _console().print(f"stopped after update {summary.step:,}; the same command resumes there")
        return INTERRUPTED
    print_summary(_console(), config.output, summary.evaluation)
    return 0


def _benchmark(args: list[str]) -> int:
    from nucleotide_transformer.benchmark.config import BenchmarkConfig

    config = parse(BenchmarkConfig, args, "nt benchmark")

    from nucleotide_transformer.benchmark.run import run_benchmark
    from nucleotide_transformer.benchmark.tables import print_report

    print_report(run_benchmark(config, progress=True), _console())
    return 0


def _export(args: list[str]) -> int:
    from nucleotide_transformer.pretrained import ExportConfig, export_model

    config = parse(ExportConfig, args, "nt export")
    export_model(config.source, config.folder, layout=config.layout, overwrite=config.overwrite)
    _console().print(f"wrote {config.folder} in the {config.layout} layout")
    return 0


def _embed(args: list[str]) -> int:
    from nucleotide_transformer.inference.embedding_files import (
        EmbedConfig,
        check_files,
        embed_file,
    )

    config = parse(EmbedConfig, args, "nt embed")
    totals = check_files(config)  # before the model: a typo should not cost a download

    from nucleotide_transformer.pretrained import load_pretrained
    from nucleotide_transformer.training.devices import find_devices

    find_devices(None)
    model = load_pretrained(config.model, compute=config.compute)
    _console().print(f"wrote {embed_file(model, config, totals=totals, progress=True)}")
    return 0


def _fill_mask(args: list[str]) -> int:
    from nucleotide_transformer.inference.likelihoods import FillMaskConfig, fill_mask

    config = parse(FillMaskConfig, args, "nt fill-mask")

    from nucleotide_transformer.pretrained import load_pretrained
    from nucleotide_transformer.training.devices import find_devices

    find_devices(None)
    model = load_pretrained(config.model, compute=config.compute)
    for number, tokens in enumerate(fill_mask(model, config.sequence, top_k=config.top_k), start=1):
        _console().print(f"<mask> {number}")
        for token, probability in tokens:
            _console().print(f"  {token:10} {probability:.4f}")
    return 0


def _take_option(args: list[str], name: str) -> tuple[str | None, list[str]]:
    """Takes `name VALUE` or `name=VALUE` out of the arguments."""
    for index, word in enumerate(args):
        if word.startswith(name + "="):
            return word.removeprefix(name + "="), args[:index] + args[index + 1 :]
        if word == name:
            if index + 1 == len(args):
                raise InputError(f"{name}: needs a value")
            return args[index + 1], args[:index] + args[index + 2 :]
    return None, args


def _console() -> Console:
    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    return console


COMMANDS: dict[str, Command] = {
    "corpus build": Command("FASTA files to a corpus of shuffled-access chunks", _build_corpus),
    "corpus info": Command("the genomes and splits of a corpus", _describe_corpus),
    "corpus baselines": Command("count what baselines are fitted to, once", _count_baselines),
    "pretrain": Command("pre-train a model on a corpus, or go on with a run", _pretrain),
    "export": Command("a run or released weights to a folder that others can load", _export),
    "embed": Command("embeddings of the sequences of a file", _embed),
    "fill-mask": Command("the likeliest tokens behind each <mask> of a sequence", _fill_mask),
    "benchmark": Command("speed and memory of training and inference on this machine", _benchmark),
}


def run_and_exit() -> Any:
    """Entry point of the console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a species' name, in ASCII
    sys.exit(main())


if __name__ == "__main__":
    run_and_exit()
