"""Tokens per second of the input pipeline on one core, and where the time goes.

    python experiments/benchmark_dataset.py

Builds a corpus of 6,000-nt chunks from the genomes in the repository, in a folder that is removed
at the end, and draws updates of 1,000 sequences of 1,000 tokens from its training split. The
process is pinned to one core where the system can do that. Files are in the page cache.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np

from nucleotide_transformer.config import DataConfig
from nucleotide_transformer.data.corpus import (
    CorpusConfig,
    Manifest,
    build_corpus,
    load_manifest,
    open_split,
)
from nucleotide_transformer.data.dataset import make_dataset, make_iterator
from nucleotide_transformer.data.sampling import RecordOrder
from nucleotide_transformer.tokenizers import KmerTokenizer


def build_temporary_corpus(folder: Path) -> Manifest:
    """Builds a corpus from the genomes that come with the package."""
    table = resources.files("nucleotide_transformer") / "data" / "genomes" / "genomes.tsv"
    return build_corpus(CorpusConfig(inputs=(Path(str(table)),), output=folder / "corpus"))


def measure_seconds(function: Callable[[int], object], num_updates: int) -> float:
    """Returns the mean of the seconds that updates 0, 1, ... take, after one to warm up."""
    function(0)
    start = time.perf_counter()
    for update in range(num_updates):
        function(update)
    return (time.perf_counter() - start) / num_updates


def print_rates(manifest: Manifest, num_sequences: int, num_updates: int) -> None:
    """Measures the pipeline, its parts, and the iterator that reads ahead."""
    data = DataConfig(sequence_tokens=1_000, num_readers=1)
    tokenizer = KmerTokenizer()
    reader = open_split(manifest, "train")
    dataset = make_dataset(
        manifest,
        "train",
        tokenizer=tokenizer,
        data=data,
        sequences_per_update=num_sequences,
        seed=0,
    )
    order = RecordOrder(reader.species_offsets, data.temperature, seed=0)

    def draw(update: int) -> np.ndarray:
        return order.draw(np.arange(num_sequences) + update * num_sequences)

    indices = [draw(update) for update in range(num_updates)]
    windows = [[record[100:6_094] for record in reader.read(places)] for places in indices]
    iterator = make_iterator(dataset, num_threads=1)
    num_tokens = num_sequences * data.sequence_tokens
    parts: dict[str, Callable[[int], object]] = {
        "whole pipeline": lambda update: dataset[update],
        "  shuffle": draw,
        "  read": lambda update: reader.read(indices[update]),
        "  tokenize": lambda update: tokenizer.encode_batch(windows[update], 1_000, True),
        "iterator, 1 thread": lambda _: next(iterator),
    }
    print(f"{'':20}{'ms an update':>14}{'million tokens/s':>18}")
    for name, function in parts.items():
        seconds = measure_seconds(function, num_updates)
        print(f"{name:20}{seconds * 1e3:14.1f}{num_tokens / seconds / 1e6:18.1f}")


def main() -> None:
    """Builds the corpus and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="a corpus to use instead of building one")
    parser.add_argument("--sequences", type=int, default=1_000, help="sequences of an update")
    parser.add_argument("--updates", type=int, default=20, help="updates, of which the mean")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.corpus is None:
            manifest = build_temporary_corpus(Path(folder))
        else:
            manifest = load_manifest(arguments.corpus)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        num_records = manifest.num_records("train")
        print(f"{num_records:,} records of {manifest.record_length:,} nt to train on")
        print_rates(manifest, arguments.sequences, arguments.updates)


if __name__ == "__main__":
    main()
