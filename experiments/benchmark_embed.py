"""Embedding sequences of many lengths: `embed` against batches padded to the longest.

    python experiments/benchmark_embed.py
    python experiments/benchmark_embed.py --sequences 32                # some minutes on a CPU
    python experiments/benchmark_embed.py --passes 1 --loops published  # 2,000 within the hour

The loops do what the documentation of the published package shows: all sequences padded to one
length, one compiled `apply` that returns logits and embeddings, mean over the real tokens. One
computes as the published code does (the scores of all heads at once, layer after layer), the other
as this package does. All use the same weights, random numbers in the shape of a released model.
The first pass compiles and is shown by itself; the best pass counts. Target: `embed` is twice as
fast as the first loop.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.benchmark.machine import describe_machine
from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.inference import embed_array
from nucleotide_transformer.model import init_params, make_forward
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.weights.hub import find_released

TARGET = 2.0


def make_sequences(count: int, shortest: int, longest: int, seed: int = 0) -> list[str]:
    """Random DNA, lengths drawn evenly."""
    generator = np.random.default_rng(seed)
    letters = np.frombuffer(b"ACGT", np.uint8)
    sizes = generator.integers(shortest, longest + 1, count)
    return [generator.choice(letters, size).tobytes().decode() for size in sizes]


def make_model(config: ModelConfig, compute: ComputeConfig) -> Model:
    """A model of random numbers."""
    params = init_params(jax.random.key(0), config, compute)
    tokenizer = KmerTokenizer(vocabulary=config.vocabulary, k=config.k)
    return Model(params=params, config=config, compute=compute, tokenizer=tokenizer)


def make_padded_loop(
    model: Model, compute: ComputeConfig, batch_tokens: int
) -> Callable[[list[str]], np.ndarray]:
    """The loop over batches padded to the longest sequence, of `batch_tokens` tokens each."""
    last = model.config.num_layers
    forward = make_forward(model.config, compute)
    apply = jax.jit(lambda params, tokens: forward.apply(params, tokens, layers=(last,))[:2])

    def embed_padded(sequences: list[str]) -> np.ndarray:
        length = max(model.tokenizer.encode(sequence).size for sequence in sequences)
        size = max(1, batch_tokens // length)
        rows = []
        for first in range(0, len(sequences), size):
            batch = sequences[first : first + size]
            batch += batch[:1] * (size - len(batch))
            tokens = jnp.asarray(model.tokenizer.encode_batch(batch, length))
            _, embeddings = apply(model.params, tokens)
            real = ((tokens != 1) & (tokens != 3))[..., None]
            mean = (embeddings[last] * real).sum(1) / real.sum(1)
            rows.append(np.asarray(mean)[: len(sequences) - first])
        return np.concatenate(rows)

    return embed_padded


def make_runs(
    model: Model, loops: list[str], batch_tokens: int | None
) -> dict[str, Callable[[list[str]], np.ndarray]]:
    """The padded loops in the forms asked for, in their order, then `embed`."""
    on_cpu = jax.default_backend() == "cpu"
    batch_tokens = batch_tokens or (2_048 if on_cpu else 16_384)
    forms = {
        "published": dataclasses.replace(model.compute, attention="einsum", stack="loop"),
        "ours": model.compute,
    }
    runs = {f"padded, {loop}": make_padded_loop(model, forms[loop], batch_tokens) for loop in loops}
    return runs | {"embed": functools.partial(embed_array, model)}


def measure(run: Callable[[], np.ndarray], passes: int) -> tuple[list[float], np.ndarray]:
    """Seconds of each pass, and the result."""
    seconds = []
    for _ in range(passes):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return seconds, result


def save_figures(figures: dict[str, Any], path: Path | None) -> None:
    """Writes what there is so far, where asked to."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Prints the rates and the ratio; writes them as JSON if asked to, after each loop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="100M_multi_species_v2", help="a released shape")
    parser.add_argument("--sequences", type=int, default=2_000)
    parser.add_argument("--shortest", type=int, default=50, help="nucleotides")
    parser.add_argument("--longest", type=int, default=6_000, help="nucleotides")
    parser.add_argument("--batch-tokens", type=int, help="tokens of a padded batch")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument(
        "--loops",
        nargs="+",
        default=["published", "ours"],
        choices=["published", "ours"],
        help="forms of the padded loop to compare with; the ratio is that of the first",
    )
    parser.add_argument("--output", type=Path, help="JSON with the figures")
    arguments = parser.parse_args()
    machine = describe_machine(jax.devices())
    compute = ComputeConfig(compute_dtype=arguments.dtype)
    model = make_model(find_released(arguments.model).config, compute)
    sequences = make_sequences(arguments.sequences, arguments.shortest, arguments.longest)
    num_nucleotides = sum(map(len, sequences))
    runs = make_runs(model, arguments.loops, arguments.batch_tokens)
    reference = next(iter(runs))
    print(f"{arguments.model}, {arguments.dtype}, {jax.devices()[0].device_kind}")
    print(f"{len(sequences):,} sequences, {num_nucleotides:,} nt, jax {jax.__version__}")
    print(f"{'':24}{'first pass':>12}{'best pass':>12}{'nt/s':>12}{'embed is':>12}")
    seconds: dict[str, list[float]] = {}
    results: dict[str, np.ndarray] = {}
    figures = {name: str(value) for name, value in vars(arguments).items()}
    figures |= {"machine": machine, "num_nucleotides": num_nucleotides, "seconds": seconds}
    save_figures(figures, arguments.output)
    for title, run in reversed(runs.items()):
        measured = measure(functools.partial(run, sequences), arguments.passes)
        seconds[title], results[title] = measured
        save_figures(figures, arguments.output)
        best = min(seconds[title])
        line = f"{title:24}{seconds[title][0]:10.1f} s{best:10.1f} s{num_nucleotides / best:12,.0f}"
        print(f"{line}{best / min(seconds['embed']):10.2f} x", flush=True)
    ratio = min(seconds[reference]) / min(seconds["embed"])
    found, expected = results["embed"], results[reference]
    difference = float(np.abs(found - expected).max())
    print(f"ratio {ratio:.2f} (target {TARGET}); largest difference {difference:.1e}")
    save_figures(figures | {"ratio": ratio, "largest_difference": difference}, arguments.output)


if __name__ == "__main__":
    main()
