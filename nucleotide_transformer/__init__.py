"""Nucleotide Transformer in JAX and Haiku: pre-training, released weights, inference.

The public names are loaded when they are first used: importing the package, or its tokenizer, does
not import jax.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nucleotide_transformer.config import ModelConfig as ModelConfig
    from nucleotide_transformer.config import PretrainConfig as PretrainConfig
    from nucleotide_transformer.tokenizers import KmerTokenizer as KmerTokenizer

__version__ = "0.1.0"

_HOME = {
    "KmerTokenizer": "tokenizers",
    "ModelConfig": "config",
    "PretrainConfig": "config",
}

__all__ = ["KmerTokenizer", "ModelConfig", "PretrainConfig", "__version__"]


def __getattr__(name: str) -> object:
    """Imports the module where a public name lives, and returns what the name stands for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
