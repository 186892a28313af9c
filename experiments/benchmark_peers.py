"""Training step and forward pass against the peers, on one device, in turns of one run.

    python experiments/benchmark_peers.py --output experiments/results
    python experiments/benchmark_peers.py --tasks train --peers plain --rounds 3 --round-steps 1

The peers: `torch`, ESM of transformers with rotary positions and a feed-forward network that makes
up for the missing gate (3,072 where ours has 2 x 2,048): blocks of as many FLOPs a token; and
`plain`, the model in JAX and Haiku as one writes it first (plain_model.py), in float32. In training
both compute the last block and the head at every token, ours at the masked ones alone: 5 % of the
FLOPs. All run in this process, one
after the other in every round, so that what else the machine does meets all of them; a ratio is
the median over rounds of our rate over the peer's. The machine should do nothing else: torch's
threads wait for each other, and suffer more than XLA's where they must share the cores.

Targets on a CPU in float32, 100M, 2 x 1,000 tokens: training 1.0 x torch and 4 x plain, forward
1.1 x torch.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
from plain_model import PlainWorkload
from rich.console import Console
from rich.table import Table

from nucleotide_transformer.benchmark.compilation import find_memory, use_cache
from nucleotide_transformer.benchmark.config import BenchmarkConfig, Case, list_cases
from nucleotide_transformer.benchmark.machine import describe_load, describe_machine
from nucleotide_transformer.benchmark.timing import (
    Workload,
    compare_rates,
    summarize,
    time_in_turns,
)
from nucleotide_transformer.benchmark.torch_peer import TorchPeer, explain_absence
from nucleotide_transformer.benchmark.workloads import make_workload
from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.training.devices import OUT_OF_MEMORY

OURS = "this package"
TORCH_OUT_OF_MEMORY = "out of memory"
"""What torch's error holds."""


def make_contenders(case: Case, config: BenchmarkConfig, peers: list[str]) -> dict[str, Workload]:
    """Ours and the peers, by name."""
    platform = jax.default_backend()
    contenders: dict[str, Workload] = {OURS: make_workload(case, config, jax.local_devices()[:1])}
    if "plain" in peers:
        contenders[PlainWorkload.name] = PlainWorkload(case, config)
    if "torch" in peers:
        peer = TorchPeer(case, config, platform)
        contenders[peer.name] = peer
    return contenders


def run_first_step(workload: Any) -> dict[str, Any]:
    """Runs a step, compiled without a cache if it is one of JAX; seconds, and bytes of memory."""
    start, memory = time.perf_counter(), None
    with use_cache(None):
        if hasattr(workload, "lower"):
            memory = find_memory(workload.lower().compile())
        workload.wait(workload.start())
    seconds = time.perf_counter() - start
    return {"first_step_seconds": seconds, "memory_bytes": memory.total if memory else None}


def measure_case(case: Case, config: BenchmarkConfig, peers: list[str]) -> dict[str, Any]:
    """All contenders of a case: name -> figures."""
    contenders = make_contenders(case, config, peers)
    figures: dict[str, Any] = {}
    running: dict[str, Workload] = {}
    for name in list(contenders):
        workload = contenders.pop(name)  # so that one that fails gives its memory back
        print(f"{case.label}: {name}, first step", file=sys.stderr, flush=True)
        try:
            figures[name] = run_first_step(workload)
            for _ in range(config.warmup_steps):
                workload.wait(workload.start())
            running[name] = workload
        except RuntimeError as error:
            if not any(text in str(error) for text in (OUT_OF_MEMORY, TORCH_OUT_OF_MEMORY)):
                raise
            figures[name] = {"error": "out of memory"}
        del workload
    print(f"{case.label}: {config.rounds} rounds", file=sys.stderr, flush=True)
    seconds = time_in_turns(
        list(running.values()), rounds=config.rounds, round_steps=config.round_steps
    )
    for name, own in zip(running, seconds, strict=True):
        spread = summarize([step for steps in own for step in steps])
        figures[name]["step_seconds"] = spread._asdict()
        figures[name]["tokens_per_second"] = case.tokens_per_step / spread.median
        if name != OURS and OURS in running:
            figures[name]["ratio"] = compare_rates(seconds[0], own)._asdict()
    return figures


def print_case(case: Case, figures: dict[str, Any]) -> None:
    """A line for each contender."""
    table = Table(title=case.label, title_justify="left")
    for name in ("", "tokens/s", "s a step", "ours over it", "first step s", "GiB"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in figures.items():
        if "error" in row:
            table.add_row(name, row["error"])
            continue
        ratio, memory = row.get("ratio"), row["memory_bytes"]
        table.add_row(
            name,
            f"{row['tokens_per_second']:,.0f}",
            show_quartiles(row["step_seconds"], ".3g"),
            show_quartiles(ratio, ".2f") if ratio else "",
            f"{row['first_step_seconds']:.1f}",
            f"{memory / 2**30:.2f}" if memory else "",
        )
    Console(width=110).print(table)


def show_quartiles(spread: dict[str, float], form: str) -> str:
    """`median [quartiles]` of a spread that is a dictionary."""
    low, middle, high = (spread[name] for name in ("first_quartile", "median", "third_quartile"))
    return f"{middle:{form}} [{low:{form}}-{high:{form}}]"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["train", "embed"])
    parser.add_argument("--peers", nargs="*", default=["torch", "plain"])
    parser.add_argument("--model", default="100M", help="as `nt benchmark` names them")
    parser.add_argument("--tiny", action="store_true", help="a model of seconds, to try this out")
    parser.add_argument("--tokens", type=int, default=1_000, help="of a sequence")
    parser.add_argument("--sequences", type=int, default=2, help="of a batch")
    parser.add_argument("--dtype", default="float32", help="of ours and of torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-steps", type=int, default=2)
    parser.add_argument("--output", type=Path, help="folder for a JSON file")
    return parser.parse_args()


def main() -> None:
    """Measures, prints, and writes if asked to."""
    arguments = parse_arguments()
    tiny = ModelConfig(k=4, num_layers=2, embed_dim=64, num_heads=4, ffn_dim=128)
    config = BenchmarkConfig(
        tasks=tuple(arguments.tasks),
        models=("custom" if arguments.tiny else arguments.model,),
        sequence_tokens=(arguments.tokens,),
        sequences_per_device=(arguments.sequences,),
        num_devices=(1,),
        warmup_steps=1,
        rounds=arguments.rounds,
        round_steps=arguments.round_steps,
        compute=ComputeConfig(compute_dtype=arguments.dtype),
        model=tiny if arguments.tiny else ModelConfig(),
    )
    machine = describe_machine(jax.local_devices())
    print(describe_load(machine) or "", file=sys.stderr)
    date = machine["date"].replace(":", "-").partition("+")[0]
    content: dict[str, Any] = {"machine": machine, "command": sys.argv[1:], "results": []}
    for case in list_cases(config, num_local_devices=1, platform=jax.default_backend()):
        no_torch = explain_absence(case, jax.default_backend())
        peers = [peer for peer in arguments.peers if peer != "torch" or not no_torch]
        if peers != arguments.peers:
            print(f"no peer on torch: {no_torch}", file=sys.stderr)
        figures = measure_case(case, config, peers)
        print_case(case, figures)
        content["results"].append({"case": case.label, "contenders": figures, "no_torch": no_torch})
        if arguments.output:
            path = write_whole(arguments.output / f"peers_{date}.json", content)
            print(f"written: {path}")


def write_whole(path: Path, content: dict[str, Any]) -> Path:
    """Writes a JSON file, or replaces it; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return partial.replace(path)


if __name__ == "__main__":
    main()
