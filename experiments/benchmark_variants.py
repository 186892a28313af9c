"""Variants a second: scattered, dense and along a contig, against a plain loop in the same run.

    python experiments/benchmark_variants.py

The plain loop takes one variant at a time: a window around it, tokenized, its token hidden, one
pass for each strand (and each frame, where those are averaged), all logits, a softmax in NumPy. It
computes the same `llr`, to which it is compared. `--help` lists the options.
"""

import dataclasses
import json
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nucleotide_transformer.benchmark.machine import describe_machine
from nucleotide_transformer.data.fasta import reverse_complement
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.options import parse
from nucleotide_transformer.pretrained import Model, load_pretrained
from nucleotide_transformer.variants.config import WindowConfig
from nucleotide_transformer.variants.reading import Allele
from nucleotide_transformer.variants.reference import Reference
from nucleotide_transformer.variants.scoring import Scorer
from nucleotide_transformer.weights.hub import PACKAGED


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkVariantsConfig:
    """Variants a second, against a plain loop."""

    model: str = PACKAGED
    """What `load_pretrained` takes."""
    window: int = 1_024
    """Nucleotides."""
    scattered: int = 48
    """Variants that are far from one another."""
    dense: int = 100
    """Nucleotides whose changes are all scored."""
    contig: int = 400
    """Nucleotides of a contig, all of whose changes are scored."""
    naive: int = 6
    """Variants for the plain loop."""
    output: Path | None = None
    """JSON file to write as well."""


def list_changes(text: str, places: Sequence[int]) -> list[Allele]:
    """All changes at some places."""
    return [
        Allele("", "c", place, text[place], letter, ".")
        for place in places
        for letter in "ACGT"
        if letter != text[place]
    ]


def score_plainly(model: Model, text: bytes, allele: Allele, num_kmers: int, frames: int) -> float:
    """`llr` of one variant: a pass for every strand and frame."""
    k, left = model.config.k, num_kmers // 2
    first = model.config.first_kmer_id
    letters = {"+": (text, allele.start), "-": (reverse_complement(text), 0)}
    letters["-"] = (letters["-"][0], len(text) - 1 - allele.start)
    sums = dict.fromkeys("ACGT", 0.0)
    for strand, (oriented, place) in letters.items():
        for j in range(k):
            start = place - j
            if start % k >= frames:
                continue
            window = oriented[start - left * k : start + (num_kmers - left) * k]
            tokens = model.tokenizer.encode(window)[None].copy()
            tokens[0, left + 1] = model.config.mask_token_id
            logits = np.asarray(model(tokens).logits[0], np.float64)[left + 1]
            kmers = np.exp(logits[first : first + 4**k] - logits[first : first + 4**k].max())
            by_letter = (kmers / kmers.sum()).reshape(4**j, 4, -1).sum(axis=(0, 2))
            for letter, p in zip("ATCG" if strand == "+" else "TAGC", by_letter, strict=True):
                sums[letter] += p
    return float(np.log(sums[allele.alt]) - np.log(sums[allele.ref]))


def measure(model: Model, config: BenchmarkVariantsConfig) -> list[dict[str, Any]]:
    """A row for each number of frames and each way that variants lie."""
    text = "".join(np.random.default_rng(0).choice(list("ACGT"), 400_000))
    reference = Reference(Path("random"), {"c": len(text)}, lambda _, a, b: text[a:b].encode())
    random = np.random.default_rng(1)
    scattered = [list_changes(text, [p])[0] for p in range(5_000, 390_000, 7_000)]
    scattered = [scattered[i] for i in random.permutation(len(scattered))[: config.scattered]]
    cases = {
        "scattered": scattered,
        "dense": list_changes(text, range(200_000, 200_000 + config.dense)),
        "contig": list_changes(text, range(300_000, 300_000 + config.contig)),
    }
    rows = []
    for frames in (1, model.config.k):
        around = WindowConfig(window=config.window, frames=frames)
        scorer = Scorer(model, reference, ("llr",), around=around)
        scorer.score(scattered[:1])  # compiles
        num_kmers = around.resolve(model).num_kmers
        arguments = (num_kmers, frames)
        score_plainly(model, text.encode(), scattered[0], *arguments)
        some = scattered[: config.naive]
        start = time.perf_counter()
        plain = [score_plainly(model, text.encode(), allele, *arguments) for allele in some]
        naive = len(some) / (time.perf_counter() - start)
        for name, alleles in cases.items():
            start = time.perf_counter()
            values = scorer.score(alleles).values[:, 0]
            rate = len(alleles) / (time.perf_counter() - start)
            if name == "scattered":
                difference = float(np.abs(values[: len(plain)] - plain).max())
                assert difference < 1e-3, f"the plain loop has other scores: {difference}"
            row = {"frames": frames, "variants": name, "count": len(alleles)}
            row |= {"per_second": round(rate, 2), "naive_per_second": round(naive, 2)}
            rows.append(row | {"ratio": round(rate / naive, 1)})
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def main() -> int:
    """Measures, and writes what was asked for."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        config = parse(BenchmarkVariantsConfig, sys.argv[1:], "benchmark_variants.py")
        if config.output:
            config.output.parent.mkdir(parents=True, exist_ok=True)
        machine = describe_machine(jax.devices())
        rows = measure(load_pretrained(config.model), config)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if config.output:
        command = shlex.join(["python", *sys.argv])
        result = {"command": command, "machine": machine, "window": config.window, "rows": rows}
        config.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
