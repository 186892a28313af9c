r"""How many test sequences of each task are in the DNA that a model was pre-trained on.

    python experiments/seen_in_pretraining.py --tasks ../shared/data/tasks \
        --corpus runs/model_corpus_1530

Pre-training sees no label, but a model that has read the very sequences of a test set has something
that counts of k-mers and a network with random weights don't have. A test sequence counts as seen
if at least half of its words of 28 nucleotides, taken end to end, are in the training split of the
corpus, on either strand; as held out if they are in the validation split and not in training.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from nucleotide_transformer.bars import show_steps
from nucleotide_transformer.data.manifest import Manifest, load_manifest
from nucleotide_transformer.data.reader import open_split
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
            places = np.minimum(np.searchsorted(words, there), len(words) - 1)
            found[places[words[places] == there]] = True
            advance()
    return found


def main() -> None:
    """Prints a table, a row a task, and writes it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/seen_in_pretraining.json"))
    arguments = parser.parse_args()
    manifest = load_manifest(arguments.corpus)
    tests = {
        task.name: [list_words(text) for text in read_tables(task, ColumnsConfig()).test.sequences]
        for task in find_tasks(arguments.tasks, Path("runs/tasks"))
    }
    known = np.unique(np.concatenate([words for rows in tests.values() for words in rows]))
    has = {split: find_words(manifest, split, known) for split in ("train", "validation")}
    table, rows = Table("task", "test sequences", "seen in training", "held out"), []
    for name, sequences in tests.items():
        shares = {
            split: np.array([there[np.searchsorted(known, words)].mean() for words in sequences])
            for split, there in has.items()
        }
        seen = shares["train"] >= 0.5
        held_out = (shares["validation"] >= 0.5) & ~seen
        row = {"task": name, "num_test": len(seen), "seen": int(seen.sum())}
        rows.append(row | {"held_out": int(held_out.sum())})
        table.add_row(name, f"{len(seen):,}", f"{seen.mean():.1%}", f"{held_out.mean():.1%}")
    Console().print(table)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    about = {"corpus": manifest.digest, "word": WORD, "rows": rows}
    arguments.output.write_text(json.dumps(about, indent=1) + "\n")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
