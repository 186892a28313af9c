"""Nucleotides per second of the tokenizer on one core, and of Hugging Face's if it is installed.

    python experiments/benchmark_tokenizer.py

Random DNA without N and with 1 % of it, in records of 6,200 nt as the corpus has them. The rate is
the best of several rounds: what else runs on the machine only ever slows a round down.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nucleotide_transformer.tokenizers import KmerTokenizer


def make_records(num_records: int, length: int, unknown: float, seed: int = 0) -> list[str]:
    """Returns random DNA in which a share of the letters, drawn one by one, is N."""
    generator = np.random.default_rng(seed)
    letters = generator.choice(np.frombuffer(b"ACGT", np.uint8), (num_records, length))
    letters[generator.random(letters.shape) < unknown] = ord("N")
    return [row.tobytes().decode() for row in letters]


def measure_rate(function: Callable[[], object], num_nucleotides: int, rounds: int) -> float:
    """Returns nucleotides per second in the fastest of several rounds."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return num_nucleotides / min(seconds)


def measure_hugging_face(tokenizer: KmerTokenizer, records: list[str]) -> float | None:
    """Returns the rate of `EsmTokenizer` with the same vocabulary; None without transformers."""
    try:
        from transformers import EsmTokenizer
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.txt"
        file.write_text("\n".join(tokenizer.tokens))
        other = EsmTokenizer(str(file), eos_token=None)
    few = records[:20]
    if other(few[0])["input_ids"] != tokenizer.encode(few[0]).tolist():
        print("note: EsmTokenizer gives other ids here")
    return measure_rate(lambda: other(few), sum(map(len, few)), rounds=3)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=512, help="records of a batch")
    parser.add_argument("--length", type=int, default=6_200, help="nucleotides of a record")
    parser.add_argument("--rounds", type=int, default=20, help="rounds, of which the best counts")
    arguments = parser.parse_args()
    tokenizer = KmerTokenizer(vocabulary="v2", k=6)
    print(f"{'million nucleotides/s':24}{'encode':>10}{'encode_batch':>14}{'EsmTokenizer':>14}")
    for name, unknown in (("no N", 0.0), ("1 % N", 0.01)):
        records = make_records(arguments.records, arguments.length, unknown)
        total = arguments.records * arguments.length

        def encode_each(records: list[str] = records) -> None:
            for record in records:
                tokenizer.encode(record)

        def encode_all(records: list[str] = records) -> None:
            tokenizer.encode_batch(records)

        single = measure_rate(encode_each, total, arguments.rounds)
        batch = measure_rate(encode_all, total, arguments.rounds)
        other = measure_hugging_face(tokenizer, records)
        last = f"{other / 1e6:14.2f}" if other else f"{'not installed':>14}"
        print(f"{name:24}{single / 1e6:10.0f}{batch / 1e6:14.0f}{last}")
        if other:
            print(f"{'  times EsmTokenizer':24}{single / other:10.0f}{batch / other:14.0f}")


if __name__ == "__main__":
    main()
