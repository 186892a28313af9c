"""Nucleotides per second of `build_corpus` in one process, and of reading its records at random.

    python experiments/benchmark_corpus.py
    python experiments/benchmark_corpus.py --inputs my.fa.gz other.fa

The default input is the genomes of the repository, gzipped. The time of a build has everything in
it: decompression, checks, cutting, checksums, writing, waiting for the disk. The rates are the best
of several rounds: what else runs on the machine only ever slows a round down.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from nucleotide_transformer.data.corpus import CorpusConfig, Manifest, build_corpus, open_split

GENOMES = Path(__file__).parent.parent / "nucleotide_transformer/data/genomes/genomes.tsv"


def measure_build(
    inputs: tuple[Path, ...], folder: Path, compression: Literal["none", "zstd"], rounds: int
) -> tuple[Manifest, float, float]:
    """Returns the last corpus, and the fewest seconds and core seconds of a build."""
    seconds, core_seconds = [], []
    for number in range(rounds):
        output = folder / f"{compression}{number}"
        config = CorpusConfig(inputs=inputs, output=output, compression=compression, workers=1)
        start, core_start = time.perf_counter(), time.process_time()
        manifest = build_corpus(config)
        seconds.append(time.perf_counter() - start)
        core_seconds.append(time.process_time() - core_start)
    return manifest, min(seconds), min(core_seconds)


def measure_read(manifest: Manifest, batch: int, rounds: int) -> float:
    """Returns nucleotides per core second of random reads from the training split."""
    reader = open_split(manifest, "train")
    order = np.random.default_rng(0).permutation(len(reader))
    num_nucleotides = sum(map(len, reader.read(order)))

    def read() -> None:
        for start in range(0, len(order), batch):
            reader.read(order[start : start + batch])

    return num_nucleotides / min(measure_core_seconds(read) for _ in range(rounds))


def measure_core_seconds(function: Callable[[], object]) -> float:
    """Returns the seconds of all cores that a call takes."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=Path, nargs="+", default=[GENOMES], help="FASTA, or .tsv")
    parser.add_argument("--batch", type=int, default=1_000, help="records of one read")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the best counts")
    arguments = parser.parse_args()
    print("million nucleotides per second (and per core second)")
    print("compression      build      per core   read per core   bytes per nucleotide")
    for compression in ("none", "zstd"):
        with tempfile.TemporaryDirectory() as folder:
            manifest, seconds, core_seconds = measure_build(
                tuple(arguments.inputs), Path(folder), compression, arguments.rounds
            )
            read = measure_read(manifest, arguments.batch, arguments.rounds)
        num_nucleotides = sum(genome.num_nucleotides for genome in manifest.genomes)
        shards = [shard for genome in manifest.genomes for shard in genome.shards]
        size = sum(shard.num_bytes for shard in shards) / num_nucleotides
        rates = (num_nucleotides / seconds, num_nucleotides / core_seconds, read)
        columns = "".join(f"{rate / 1e6:14.0f}" for rate in rates)
        print(f"{compression:<8}{columns}{size:23.2f}")


if __name__ == "__main__":
    main()
