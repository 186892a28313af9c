"""What makes a training step faster on a GPU: one change at a time, in one table.

    python experiments/gpu_trials.py                 # 100M and 500M, in the order of expected gain
    python experiments/gpu_trials.py --models 100M --dry-run

Each trial is a run of `nt benchmark` in a process of its own, since XLA reads its flags once. The
table (Markdown and JSON) is written after each, and the same command runs what it lacks: trials
with figures, or for which the memory is too small, are not run again. What a trial prints is in a
.log file. The first trial is the step as it is by default; the others say what they change. Targets
on an H100: 45 % of the peak for 100M and 55 % for 500M.
"""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION"
FUSION = "--xla_gpu_enable_dynamic_slice_fusion=true"
UNROLL = "--xla_gpu_enable_while_loop_unrolling=WHILE_LOOP_UNROLLING_DOUBLE_BUFFER"
NO_COMMANDS = "--xla_gpu_enable_command_buffer="
DETERMINISTIC = "--xla_gpu_exclude_nondeterministic_ops=true"
OUT_OF_MEMORY = "out of memory"
"""The error of a case that `nt benchmark` finds no room for."""
ERROR = re.compile(r"(?:[\w.]*(?:Error|Exception)\b|error: |F\d{4} )")
"""How a line begins that names an error: Python's, `nt`'s, or one with which XLA aborts."""

Row = dict[str, Any]


class Trial(NamedTuple):
    """One change to the step."""

    name: str
    options: str = ""
    """Further options of `nt benchmark`."""
    flags: str = ""
    """Further flags of XLA."""
    memory: str = ".92"
    """Share of the device's memory that JAX takes at the start."""
    change: str = ""
    """A change to the code itself, one of CHANGES."""


def leave_out_the_mask() -> None:
    """The attention of cuDNN without lengths; right only where no sequence has padding, as here."""
    from nucleotide_transformer.model import attention

    attention.attend_by_cudnn = functools.partial(attention.attend_by_cudnn, masked=False)


def project_apart() -> None:
    """Queries, keys and values by a product each."""
    from nucleotide_transformer.model import layers

    layers.multiply_jointly = lambda x, weights, biases: [
        layers.multiply(x, w, b) for w, b in zip(weights, biases, strict=True)
    ]


CHANGES = {"no-mask": leave_out_the_mask, "apart": project_apart}
LOOP = "--compute.stack loop --compute.remat none"
TRIALS = (
    Trial("default (scan, dots)"),
    Trial("loop over the layers, nothing recomputed", LOOP),
    Trial("scan, nothing recomputed", "--compute.remat none"),
    Trial("scan, dynamic-slice fusion", flags=FUSION),
    Trial("scan, two layers a turn", flags=UNROLL),
    Trial("scan, two layers a turn, dynamic-slice fusion", flags=f"{UNROLL} {FUSION}"),
    Trial("blocks recomputed", "--compute.remat block"),
    Trial("cuDNN without its padding mask", change="no-mask"),
    Trial("queries, keys and values apart", change="apart"),
    Trial("attention by einsum", "--compute.attention einsum"),
    Trial("without command buffers", flags=NO_COMMANDS),
    Trial("JAX's default share of the memory", memory=".75"),
    Trial("deterministic operations", flags=DETERMINISTIC),
)
SEQUENCES = {"100M": (25, 64, 125), "500M": (16, 32, 50)}
"""Sequences of a micro-batch that each trial is run with, smallest first; other models: the first
of these for 100M."""


def make_command(trial: Trial, model: str, sequences: int, arguments: argparse.Namespace) -> str:
    """The options of `nt benchmark` for a trial."""
    fixed = f"--tasks train --models {model} --sequences-per-device {sequences} --no-peer"
    fixed += f" --num-devices 1 --compute.compute-dtype bfloat16 {arguments.options}"
    return f"{fixed} {trial.options}".strip()


def describe_trial(number: int, model: str, sequences: int, arguments: argparse.Namespace) -> Row:
    """What a row says before it has figures."""
    trial = TRIALS[number]
    command = make_command(trial, model, sequences, arguments)
    row = {"model": model, "sequences": sequences, "trial": trial.name, "command": command}
    return row | {"flags": trial.flags, "memory": trial.memory, "change": trial.change}


def run_trial(row: Row, log: Path, timeout: float) -> Row:
    """Runs one benchmark; its figures, or its error. Its JSON file gets the row that it is of."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {row['flags']}".strip()
    paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"XLA_FLAGS": flags, MEMORY: row["memory"], "PYTHONPATH": paths}
    program = [sys.executable, __file__, f"--inside={row['change']}", "benchmark"]
    words = [*program, *row["command"].split(), "--output", str(log.parent)]
    before = set(log.parent.glob("benchmark_*.json"))
    with log.open("w") as file:
        try:
            status = subprocess.run(
                words, env=environment, cwd=ROOT, stdout=file, stderr=file, timeout=timeout
            ).returncode
        except subprocess.TimeoutExpired:
            return {"error": f"no end within {timeout:g} s"}
    new = set(log.parent.glob("benchmark_*.json")) - before
    written = sorted(path for path in new if path.stat().st_size)  # none has if it was killed
    if not written:
        return {"error": find_error(log.read_text(errors="replace"), status)}
    content = json.loads(written[-1].read_text())
    write_whole(written[-1], json.dumps({"trial": row} | content, indent=2) + "\n")
    (result,) = content["results"]
    if "error" in result:
        return {"error": result["error"]}
    memory, compiling = result["memory_bytes"], result["compile_seconds"]
    return {
        "tokens_per_second": result["tokens_per_second"],
        "mfu": result["mfu"],
        "memory_gib": memory and memory["total"] / 2**30,
        "compile_seconds": compiling["lower"] + compiling["compile"],
        "loss": result["evidence"]["loss"],
    }


def find_error(text: str, status: int) -> str:
    """The last line that names an error; JAX ends with what it has left out, which names none."""
    lines = [line for line in text.splitlines() if line.strip()] or ["nothing printed"]
    named = [line for line in lines if ERROR.match(line)]
    return (named or [f"exit status {status}: {lines[-1]}"])[-1][:200]


def write_whole(path: Path, text: str) -> None:
    """Replaces a file in one go."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def format_table(rows: Collection[Row]) -> str:
    """The trials as a Markdown table, each beside the first trial of its model and micro-batch."""
    head = "| model | sequences | trial | tokens/s | over default | MFU | memory | compile |\n"
    lines = [head + "|---|---:|---|---:|---:|---:|---:|---:|"]
    rates = {
        (row["model"], row["sequences"]): row["tokens_per_second"]
        for row in rows
        if row["trial"] == TRIALS[0].name and "error" not in row
    }
    for row in rows:
        start = f"| {row['model']} | {row['sequences']} | {row['trial']} |"
        if "error" in row:
            lines.append(f"{start} {row['error']} | | | | |")
            continue
        rate, base = row["tokens_per_second"], rates.get((row["model"], row["sequences"]))
        ratio = "" if base is None else f"{rate / base:.2f}"
        mfu = "" if row["mfu"] is None else f"{row['mfu']:.1%}"
        memory = "" if row["memory_gib"] is None else f"{row['memory_gib']:.1f} GiB"
        seconds = f"{row['compile_seconds']:.0f} s"
        lines.append(f"{start} {rate:,.0f} | {ratio} | {mfu} | {memory} | {seconds} |")
    return "\n".join(lines) + "\n"


def read_rows(file: Path) -> dict[tuple[str, int, str], Row]:
    """What was found before, by model, micro-batch and trial."""
    rows = json.loads(file.read_text()) if file.is_file() else []
    return {(row["model"], row["sequences"], row["trial"]): row for row in rows}


def is_finished(row: Row, found: Row) -> bool:
    """Whether this very trial has figures, or is known not to fit."""
    return row.items() <= found.items() and found.get("error", OUT_OF_MEMORY) == OUT_OF_MEMORY


def run_inside(change: str, words: list[str]) -> int:
    """Runs `nt` in this process, after a change to the code."""
    from nucleotide_transformer.cli import main as run_nt

    if change:
        CHANGES[change]()
    return run_nt(words)


def main() -> int:
    """Runs the trials that have no figures yet; returns 1 if any in the table failed."""
    if sys.argv[1:2] and sys.argv[1].startswith("--inside="):
        return run_inside(sys.argv[1].removeprefix("--inside="), sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["100M", "500M"])
    parser.add_argument("--sequences", nargs="+", type=int, help="of a micro-batch")
    numbers = range(len(TRIALS))
    parser.add_argument("--trials", nargs="+", type=int, choices=numbers, default=numbers)
    parser.add_argument("--options", default="", help="further options of `nt benchmark`")
    parser.add_argument("--timeout", type=float, default=900, help="seconds of a trial")
    parser.add_argument("--output", type=Path, default=ROOT / "experiments" / "results" / "trials")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    arguments = parser.parse_args()
    file = arguments.output.resolve() / "trials.json"  # the trials run in another folder
    rows = read_rows(file)
    has_failed = False
    for model in arguments.models:
        for sequences in arguments.sequences or SEQUENCES.get(model, SEQUENCES["100M"][:1]):
            for number in arguments.trials:
                row = describe_trial(number, model, sequences, arguments)
                print(f"{MEMORY}={row['memory']} XLA_FLAGS='{row['flags']}' ", end="")
                print(f"nt benchmark {row['command']}", flush=True)
                key = (model, sequences, row["trial"])
                if arguments.dry_run or is_finished(row, rows.get(key, {})):
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                log = file.with_name(f"{model}-{sequences}-trial-{number}.log")
                rows[key] = row | run_trial(row, log, arguments.timeout)
                has_failed |= rows[key].get("error", OUT_OF_MEMORY) != OUT_OF_MEMORY
                write_whole(file, json.dumps(list(rows.values()), indent=1) + "\n")
                write_whole(file.with_suffix(".md"), format_table(rows.values()))
    if rows:
        print(format_table(rows.values()))
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
