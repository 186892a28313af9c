"""Recipes against each other at equal time: one table, one picture, every run a real `nt pretrain`.

    python experiments/ablate.py experiments/ablation/recipes.toml --cost       # first
    python experiments/ablate.py experiments/ablation/recipes.toml
    python experiments/ablate.py experiments/ablation/recipes.toml --only pairs --seeds 0 1 2

The file names a base config, and variants: fields of the config that differ. `--cost` times some
updates of every variant, in turn with the base; the machine should do nothing else, and nothing is
left of these runs. A variant then gets as many tokens as it has time for: those of the base, times
the base's time for a token, over its own. What is finished is in OUTPUT.jsonl and is not run again;
OUTPUT.md and OUTPUT.png are drawn from it.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nucleotide_transformer.configfile import load_config
from nucleotide_transformer.training.metrics import read_metrics

_RESULTS = Path(__file__).parent / "results"
_COST_ROUNDS = 3
_COST_UPDATES = 120

Fields = dict[str, Any]


def main() -> None:
    """Runs what is not finished, and writes table and picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("plan", type=Path, help="TOML file: base, [variants.NAME]")
    parser.add_argument("--output", type=Path, help="default: experiments/results/NAME")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="folders of runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", help="names of variants")
    parser.add_argument("--cost", action="store_true", help="time an update of each instead")
    arguments = parser.parse_args()
    plan = tomllib.loads(arguments.plan.read_text())
    base = arguments.plan.parent / plan["base"]
    variants: dict[str, Fields] = plan["variants"]
    names = arguments.only or list(variants)
    if unknown := [name for name in names if name not in variants]:
        parser.error(f"--only: no variant {', '.join(unknown)} in {arguments.plan}")
    runs = arguments.runs / arguments.plan.stem
    output = arguments.output or _RESULTS / arguments.plan.stem
    output.parent.mkdir(parents=True, exist_ok=True)
    costs_file = output.with_name(f"{output.name}_costs.json")
    costs = json.loads(costs_file.read_text()) if costs_file.is_file() else {}
    twins = {name: fields.pop("same_cost_as", name) for name, fields in variants.items()}
    if arguments.cost:
        timed = {name: variants[name] for name in names if twins[name] == name}
        costs |= measure_costs(base, timed, runs)
        costs_file.write_text(json.dumps(costs, indent=1) + "\n")
        return
    if unknown := [name for name in names if twins[name] not in costs]:
        parser.error(f"{costs_file}: no cost of {', '.join(unknown)}: run with --cost first")
    log = output.with_suffix(".jsonl")
    finished = read_log(log)
    for seed in arguments.seeds:
        for name in names:
            if (name, seed) not in finished:
                row = run_variant(base, name, variants[name], seed, costs[twins[name]], runs)
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                finished[name, seed] = row
    rows = [row for (name, _), row in read_log(log).items() if name in variants]
    output.with_suffix(".md").write_text(make_table(rows, variants))
    draw_curves(rows).savefig(output.with_suffix(".png"), dpi=120)


def make_slug(name: str) -> str:
    """The name of a variant as that of a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower())


def read_log(log: Path) -> dict[tuple[str, int], Fields]:
    """Finished runs by variant and seed."""
    lines = log.read_text().splitlines() if log.is_file() else []
    return {(row["variant"], row["seed"]): row for row in map(json.loads, lines)}


def pretrain(base: Path, fields: Fields, folder: Path) -> list[dict[str, Any]]:
    """Runs `nt pretrain` and returns its metrics."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]
    nt = str(Path(sys.executable).with_name("nt"))
    command = [nt, "pretrain", "--config", str(base), "--output", str(folder), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return list(read_metrics(folder))


def measure_costs(base: Path, variants: dict[str, Fields], runs: Path) -> dict[str, float]:
    """Time of a token, over that of the base: the median over rounds of runs in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(_COST_ROUNDS):
        first = time_token(base, {}, runs)
        for name, fields in variants.items():
            own = time_token(base, fields, runs)
            seconds[name].append(own / first)
            print(f"{name:36} {own * 1e6:8.1f} us a token, {own / first:.3f} of the base")
    return {name: round(statistics.median(found), 3) for name, found in seconds.items()}


def time_token(base: Path, fields: Fields, runs: Path) -> float:
    """Seconds of a token of a variant: the median over intervals of a run, by the clock.

    Not by CPU time: that of two short runs, which compile too, has differed by more than their
    updates took.
    """
    per_update = fields.get("tokens_per_update", load_config(base).tokens_per_update)
    short = {"total_tokens": _COST_UPDATES * per_update, "evaluation.every_steps": 10**6}
    short |= {"log_every_steps": 10, "optimizer.warmup_steps": 2}
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cost-", dir=runs) as folder:
        rows = pretrain(base, fields | short, Path(folder) / "run")
    return 1 / statistics.median(r["tokens_per_second"] for r in rows if r["kind"] == "train")


def run_variant(
    base: Path, name: str, fields: Fields, seed: int, cost: float, runs: Path
) -> Fields:
    """One run to its end: its curve and what it cost."""
    config = load_config(base)
    per_update = fields.get("tokens_per_update", config.tokens_per_update)
    updates = round(config.total_tokens / cost / per_update)
    tokens = updates * per_update
    every = -(-updates // 8)
    fixed = {"seed": seed, "total_tokens": tokens, "evaluation.every_steps": every}
    rows = pretrain(base, fields | fixed, runs / f"{make_slug(name)}-{seed}")
    held_out = [row for row in rows if row["kind"] == "validation"]
    curve = [(row["step"] / updates, round(row["cross_entropy"], 4)) for row in held_out]
    print(f"{name:36} seed {seed}: {curve[-1][1]:.4f} nats after {tokens:,} tokens")
    return {"variant": name, "seed": seed, "cost": cost, "tokens": tokens, "curve": curve}


def make_table(rows: list[Fields], variants: dict[str, Fields]) -> str:
    """Markdown: the variants in their order, mean and range over seeds."""
    lines = ["| recipe | time a token | tokens | seeds | held-out nats | from | to |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for name in variants:
        own = [row for row in rows if row["variant"] == name]
        if own:
            ends = [row["curve"][-1][1] for row in own]
            lines.append(
                f"| {name} | {own[0]['cost']:.2f} | {own[0]['tokens']:,} | {len(own)}"
                f" | {np.mean(ends):.4f} | {min(ends):.4f} | {max(ends):.4f} |"
            )
    return "\n".join(lines) + "\n"


def draw_curves(rows: list[Fields]) -> Figure:
    """Held-out loss by the share of the time, one line a variant (its first seed)."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    ranked = sorted((row for row in rows if row["seed"] == 0), key=lambda row: row["curve"][-1][1])
    for row in ranked:
        shares, nats = zip(*row["curve"], strict=True)
        axes.plot(shares, nats, label=f"{nats[-1]:.3f}  {row['variant']}", linewidth=1.3)
    axes.set(xlabel="share of the time", ylabel="held-out cross-entropy (nats per masked token)")
    axes.legend(fontsize=7, loc="upper right")
    return figure


if __name__ == "__main__":
    main()
