"""Small random models packaged as the real one is, and a copy of the package that has one."""

import shutil
from pathlib import Path

import jax
from small_models import V2, random_params

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights.folders import open_draft, write_files
from nucleotide_transformer.weights.hub import PACKAGED
from nucleotide_transformer.weights.packaged import write_sums

ROOT = Path(__file__).parent.parent
PACKAGE = "nucleotide_transformer"
FILES = {
    *("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"),
    *("special_tokens_map.json", "README.md", "SHA256SUMS"),
}


def package_model(parent: Path, config: ModelConfig = V2, dtype: str = "float16") -> Params:
    """Packages a random model under the name of the real one; returns what is stored."""
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), random_params(config))
    parent.mkdir(parents=True, exist_ok=True)
    with open_draft(parent / PACKAGED, overwrite=True) as draft:
        write_files(draft, params, config, layout="huggingface", card="A random model.\n")
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
