"""Small random models packaged as the real one is, a copy of the package, and files for cards."""

import csv
import hashlib
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
from small_models import V2, random_params

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.data.sources import SHIPPED_GENOMES
from nucleotide_transformer.types import Params
from nucleotide_transformer.verification import save_reference
from nucleotide_transformer.weights.exports import open_draft, write_files
from nucleotide_transformer.weights.folders import REFERENCE, write_sums
from nucleotide_transformer.weights.hub import PACKAGED

ROOT = Path(__file__).parent.parent
PACKAGE = "nucleotide_transformer"
SPECIES = {"Ursus minor": (0.1, 0.4, 0.4, 0.1), "Lupus | major": (0.4, 0.1, 0.1, 0.4)}
COLUMNS = ("file", "species", "assembly", "group", "nucleotides", "licence", "sha256")
FILES = {
    *("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"),
    *("special_tokens_map.json", "README.md", "SHA256SUMS", "reference.npz"),
    "modeling_nucleotide_transformer.py",
}
_REFERENCES: dict[tuple[ModelConfig, str], bytes] = {}
"""Files of logits: they take a second, and the models are always the same."""


def package_model(parent: Path, config: ModelConfig = V2, dtype: str = "float16") -> Params:
    """Packages a random model under the name of the real one; returns what is stored."""
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), random_params(config))
    parent.mkdir(parents=True, exist_ok=True)
    with open_draft(parent / PACKAGED, overwrite=True) as draft:
        write_files(draft, params, config, layout="huggingface", card="A random model.\n")
        if (config, dtype) not in _REFERENCES:
            save_reference(draft)
            _REFERENCES[config, dtype] = (draft / REFERENCE).read_bytes()
        (draft / REFERENCE).write_bytes(_REFERENCES[config, dtype])
        write_sums(draft)
    return params


def copy_package(folder: Path) -> Path:
    """A checkout with the sources, a packaged random model and no genomes; returns the folder."""
    ignored = shutil.ignore_patterns("__pycache__", "*.fa.gz", "packaged")
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=ignored)
    for name in ("setup.py", "README.md", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    package_model(folder / PACKAGE / "packaged")
    return folder


def write_genomes(folder: Path) -> Path:
    """A table of two random genomes, of which the second has the digest of one that ships."""
    with SHIPPED_GENOMES.open(encoding="utf-8") as stream:
        shipped = next(csv.DictReader(stream, delimiter="\t"))["sha256"]
    rng, rows = np.random.default_rng(0), ["\t".join(COLUMNS)]
    for number, (species, shares) in enumerate(SPECIES.items()):
        file = folder / f"{number}.fa"
        file.write_text(f">c{number}\n{''.join(rng.choice(list('ACGT'), 30_000, p=shares))}\n")
        digest = (hashlib.sha256(file.read_bytes()).hexdigest(), shipped)[number]
        row = (file.name, species, f"v{number}", "Made up", "30000", f"terms {number}", digest)
        rows.append("\t".join(row))
    (folder / "genomes.tsv").write_text("\n".join(rows) + "\n")
    return folder / "genomes.tsv"


def write_evaluation(path: Path, nats: float, step: int, **head: object) -> Path:
    """An `evaluation.json` of two groups and two other predictors, as a run writes it.

    With more in its `head`, as `nt evaluate` does.
    """
    others = {"frequency": nats + 0.2, "markov_mixture": nats + 0.05}
    groups = {"Fungi": _compare(nats - 0.1, 1_200, others), "": _compare(nats, 34, others)}
    content = {"format_version": 1, "step": step, "split": "validation", **head}
    content |= {"all": _compare(nats, 1_234, others), "groups": groups}
    path.write_text(json.dumps(content))
    return path


def _compare(nats: float, tokens: int, others: dict[str, float]) -> dict[str, object]:
    rows = {}
    for name, value in {"this model": nats, **others}.items():
        difference = {"cross_entropy": nats - value, "error": 0.002}
        rows[name] = {
            "cross_entropy": value,
            "perplexity": math.exp(value),
            "accuracy": 0.02,
            "bits_per_nucleotide": value / 6 / math.log(2),
            "standard_errors": {"cross_entropy": 0.01, "accuracy": 0.001},
            "difference": None if name == "this model" else difference,
        }
    return {"num_sequences": 3, "num_masked": tokens, "num_nucleotides": 9, "predictors": rows}
