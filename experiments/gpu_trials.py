"""What makes a training step faster on a GPU: one change at a time, in one table.

    python experiments/gpu_trials.py                 # 100M and 500M, in the order of expected gain
    python experiments/gpu_trials.py --models 100M --dry-run

Each trial is a run of `nt benchmark` in a process of its own, since XLA reads its flags once. The
table (Markdown and JSON) is written after each, so that a run cut short leaves what it has. The
first trial is the step as it is by default; the others say what they change. Targets on an H100:
45 % of the peak for 100M and 55 % for 500M.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION"
FUSION = "--xla_gpu_enable_dynamic_slice_fusion=true"
UNROLL = "--xla_gpu_enable_while_loop_unrolling=WHILE_LOOP_UNROLLING_DOUBLE_BUFFER"
NO_COMMANDS = "--xla_gpu_enable_command_buffer="
DETERMINISTIC = "--xla_gpu_exclude_nondeterministic_ops=true"


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


def run_trial(trial: Trial, command: str, output: Path) -> dict[str, object]:
    """Runs one benchmark; its figures, or the last line of its error."""
    output.mkdir(parents=True, exist_ok=True)
    flags = f"{os.environ.get('XLA_FLAGS', '')} {trial.flags}".strip()
    paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"XLA_FLAGS": flags, MEMORY: trial.memory, "PYTHONPATH": paths}
    program = [sys.executable, __file__, f"--inside={trial.change}", "benchmark"]
    before = set(output.glob("*.json"))
    run = subprocess.run(
        [*program, *command.split(), "--output", str(output)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    written = sorted(set(output.glob("*.json")) - before)
    if run.returncode or not written:
        lines = run.stderr.strip().splitlines() or ["no figures"]
        return {"error": lines[-1][:200]}
    (result,) = json.loads(written[-1].read_text())["results"]
    if "tokens_per_second" not in result:
        return {"error": str(result.get("reason", result))[:200]}
    memory, compiling = result["memory_bytes"], result["compile_seconds"]
    return {
        "tokens_per_second": result["tokens_per_second"],
        "mfu": result["mfu"],
        "memory_gib": memory and memory["total"] / 2**30,
        "compile_seconds": compiling["lower"] + compiling["compile"],
        "loss": result["evidence"]["loss"],
    }


def format_table(rows: list[dict[str, object]]) -> str:
    """The trials as a Markdown table, each beside the default of its model and micro-batch."""
    head = "| model | sequences | trial | tokens/s | over default | MFU | memory | compile |\n"
    lines = [head + "|---|---:|---|---:|---:|---:|---:|---:|"]
    defaults: dict[object, float] = {}
    for row in rows:
        start = f"| {row['model']} | {row['sequences']} | {row['trial']} |"
        if "error" in row:
            lines.append(f"{start} {row['error']} | | | | |")
            continue
        rate = float(str(row["tokens_per_second"]))
        key = (row["model"], row["sequences"])
        base = defaults.setdefault(key, rate)
        mfu = "" if row["mfu"] is None else f"{row['mfu']:.1%}"
        memory = "" if row["memory_gib"] is None else f"{row['memory_gib']:.1f} GiB"
        seconds = f"{row['compile_seconds']:.0f} s"
        lines.append(f"{start} {rate:,.0f} | {rate / base:.2f} | {mfu} | {memory} | {seconds} |")
    return "\n".join(lines) + "\n"


def run_inside(change: str, words: list[str]) -> int:
    """Runs `nt` in this process, after a change to the code."""
    from nucleotide_transformer.cli import main as run_nt

    if change:
        CHANGES[change]()
    return run_nt(words)


def main() -> int:
    """Runs the trials; returns 1 if any of them failed."""
    if sys.argv[1:2] and sys.argv[1].startswith("--inside="):
        return run_inside(sys.argv[1].removeprefix("--inside="), sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["100M", "500M"])
    parser.add_argument("--sequences", nargs="+", type=int, help="of a micro-batch")
    parser.add_argument("--trials", nargs="+", type=int, help="numbers from 0; all by default")
    parser.add_argument("--options", default="", help="further options of `nt benchmark`")
    parser.add_argument("--output", type=Path, default=ROOT / "experiments" / "results" / "trials")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    arguments = parser.parse_args()
    chosen = range(len(TRIALS)) if arguments.trials is None else arguments.trials
    rows: list[dict[str, object]] = []
    for model in arguments.models:
        for sequences in arguments.sequences or SEQUENCES.get(model, SEQUENCES["100M"][:1]):
            for trial in (TRIALS[index] for index in chosen):
                command = make_command(trial, model, sequences, arguments)
                print(f"{MEMORY}={trial.memory} XLA_FLAGS='{trial.flags}' nt benchmark {command}")
                if arguments.dry_run:
                    continue
                found = run_trial(trial, command, arguments.output)
                rows.append({"model": model, "sequences": sequences, "trial": trial.name, **found})
                (arguments.output / "trials.json").write_text(json.dumps(rows, indent=1) + "\n")
                (arguments.output / "trials.md").write_text(format_table(rows))
    if rows:
        print(format_table(rows))
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
