"""Tasks of two classes that differ in composition, and a model to probe on them."""

import csv
from pathlib import Path

import numpy as np
from small_models import V2, random_params

from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer

SHARES = {"0": (0.4, 0.1, 0.1, 0.4), "1": (0.1, 0.4, 0.4, 0.1)}


def make_model() -> Model:
    return Model(params=random_params(V2), config=V2, tokenizer=KmerTokenizer(k=3), origin="small")


def draw(count: int, seed: int, size: int = 30) -> list[tuple[str, str, str]]:
    """Name, sequence and label; classes take turns."""
    random = np.random.default_rng(seed)
    labels = [str(i % 2) for i in range(count)]
    return [
        (f"s{i}", "".join(random.choice(list("ACGT"), size, p=SHARES[label])), label)
        for i, label in enumerate(labels)
    ]


def write_rows(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("name", "sequence", "label"), *rows])
    return path


def write_task(folder: Path, name: str, seed: int = 0) -> Path:
    """Of 40 training and 20 test sequences."""
    write_rows(folder / name / "train.csv", draw(40, 2 * seed))
    write_rows(folder / name / "test.csv", draw(20, 2 * seed + 1))
    return folder
