r"""How many test sequences of each task are in the DNA that a model was pre-trained on.

    python experiments/seen_in_pretraining.py --tasks ../shared/data/tasks \
        --corpus runs/model_corpus_1530

Pre-training sees no label, but a model that has read the very sequences of a test set has something
that counts of k-mers and a network with random weights don't have. A test sequence counts as seen
if at least half of its words of 28 nucleotides, taken end to end, are in the training split of the
corpus, on either strand; as held out if they are in the validation split and not in training.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from nucleotide_transformer.bars import show_steps
from nucleotide_transformer.data.manifest import Manifest, load_manifest
from nucleotide_transformer.data.reader import open_split
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.files import write_json
from nucleotide_transformer.finetuning.kmer_counts import number_words
from nucleotide_transformer.finetuning.task_sources import ColumnsConfig, find_tasks, read_tables
from nucleotide_transformer.types import Bool, Split, UInt

WORD = 28
RECORDS_AT_ONCE = 512


def list_words(sequence: str) -> UInt[np.ndarray, " W"]:
    """The words of a sequence, taken end to end; those with N are left out."""
    parts = [sequence[i : i + WORD] for i in range(0, len(sequence) - WORD + 1, WORD)]
    return np.concatenate([np.zeros(0, np.uint64), *(number_words(part, WORD) for part in parts)])


def find_words(
    manifest: Manifest, split: Split, words: UInt[np.ndarray, " W"]
) -> Bool[np.ndarray, " W"]:
    """Which of some sorted words a split of a corpus has, at any place."""
    reader, found = open_split(manifest, split), np.zeros(len(words), bool)
    starts = range(0, len(reader), RECORDS_AT_ONCE)
    with show_steps(True) as steps:
        advance = steps(f"records of {split}", len(starts))
        for start in starts:
            records = reader.read(range(start, min(start + RECORDS_AT_ONCE, len(reader))))
            there = number_words("N".join(record.decode() for record in records), WORD)
            found |= np.isin(words, there)
            advance()
    return found


def count_seen(manifest: Manifest, tests: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """How many sequences of each test set are seen, held out, or neither; a row a task."""
    words = {name: [list_words(text) for text in texts] for name, texts in tests.items()}
    known = np.unique(np.concatenate([each for rows in words.values() for each in rows]))
    has = {split: find_words(manifest, split, known) for split in ("train", "validation")}
    counts = []
    for name, rows in words.items():
        places = [np.searchsorted(known, each) for each in rows]
        seen, held_out = (
            np.array([2 * there[at].sum() >= max(at.size, 1) for at in places], bool)
            for there in has.values()
        )
        numbers = {"seen": int(seen.sum()), "held_out": int((held_out & ~seen).sum())}
        counts.append({"task": name, "num_test": len(rows), **numbers})
    return counts


def main() -> int:
    """Prints a table, a row a task, and writes it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/seen_in_pretraining.json"))
    arguments = parser.parse_args()
    try:
        manifest = load_manifest(arguments.corpus)
        tests = {
            task.name: read_tables(task, ColumnsConfig()).test.sequences
            for task in find_tasks(arguments.tasks, arguments.output.with_name("tasks"))
        }
        rows = count_seen(manifest, tests)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        about = {"corpus": manifest.digest, "word": WORD, "rows": rows}
        write_json(arguments.output, about)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = Table("task", "test sequences", "seen in training", "held out")
    for row in rows:
        size = row["num_test"]
        shares = (f"{row[name] / size:.1%}" for name in ("seen", "held_out"))
        table.add_row(row["task"], f"{size:,}", *shares)
    Console().print(table)
    print(f"wrote {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
