"""Nucleotide Transformer in JAX and Haiku: pre-training, released weights, inference.

The public names are loaded when they are first used: importing the package, or its tokenizer, does
not import jax.
"""

import importlib
from typing import TYPE_CHECKING

from nucleotide_transformer.namesake import warn_of_namesake

if TYPE_CHECKING:
    from nucleotide_transformer.compat import get_pretrained_model as get_pretrained_model
    from nucleotide_transformer.config import ComputeConfig as ComputeConfig
    from nucleotide_transformer.config import ModelConfig as ModelConfig
    from nucleotide_transformer.config import PretrainConfig as PretrainConfig
    from nucleotide_transformer.configfile import load_config as load_config
    from nucleotide_transformer.data.corpus import build_corpus as build_corpus
    from nucleotide_transformer.data.corpus_config import CorpusConfig as CorpusConfig
    from nucleotide_transformer.data.dataset import make_dataset as make_dataset
    from nucleotide_transformer.data.manifest import load_manifest as load_manifest
    from nucleotide_transformer.errors import InputError as InputError
    from nucleotide_transformer.finetuning.config import FinetuneConfig as FinetuneConfig
    from nucleotide_transformer.finetuning.labels import read_labelled as read_labelled
    from nucleotide_transformer.finetuning.predict import predict as predict
    from nucleotide_transformer.finetuning.predict import predict_array as predict_array
    from nucleotide_transformer.finetuning.run import finetune as finetune
    from nucleotide_transformer.inference.embedding import attention_maps as attention_maps
    from nucleotide_transformer.inference.embedding import embed as embed
    from nucleotide_transformer.inference.embedding import embed_array as embed_array
    from nucleotide_transformer.inference.embedding import hidden_states as hidden_states
    from nucleotide_transformer.inference.embedding_tables import read_embeddings as read_embeddings
    from nucleotide_transformer.inference.likelihoods import fill_mask as fill_mask
    from nucleotide_transformer.inference.likelihoods import log_likelihoods as log_likelihoods
    from nucleotide_transformer.inference.likelihoods import (
        pseudo_log_likelihoods as pseudo_log_likelihoods,
    )
    from nucleotide_transformer.inference.likelihoods import score_sequences as score_sequences
    from nucleotide_transformer.inference.nucleotides import (
        nucleotide_probabilities as nucleotide_probabilities,
    )
    from nucleotide_transformer.model import init_params as init_params
    from nucleotide_transformer.model import make_forward as make_forward
    from nucleotide_transformer.pretrained import load_pretrained as load_pretrained
    from nucleotide_transformer.pretraining.evaluate import EvaluateConfig as EvaluateConfig
    from nucleotide_transformer.pretraining.evaluate import evaluate_model as evaluate_model
    from nucleotide_transformer.pretraining.run import pretrain as pretrain
    from nucleotide_transformer.tokenizers import KmerTokenizer as KmerTokenizer
    from nucleotide_transformer.training.devices import join_processes as join_processes
    from nucleotide_transformer.variants.config import ScoreVariantsConfig as ScoreVariantsConfig
    from nucleotide_transformer.variants.reference import open_reference as open_reference
    from nucleotide_transformer.variants.run import score_variants as score_variants
    from nucleotide_transformer.variants.scoring import Scorer as Scorer
    from nucleotide_transformer.verification import VerifyConfig as VerifyConfig
    from nucleotide_transformer.verification import verify_model as verify_model

__version__ = "0.1.0"

_HOME = {
    "ComputeConfig": "config",
    "CorpusConfig": "data.corpus_config",
    "EvaluateConfig": "pretraining.evaluate",
    "FinetuneConfig": "finetuning.config",
    "InputError": "errors",
    "KmerTokenizer": "tokenizers",
    "ModelConfig": "config",
    "PretrainConfig": "config",
    "ScoreVariantsConfig": "variants.config",
    "Scorer": "variants.scoring",
    "VerifyConfig": "verification",
    "attention_maps": "inference.embedding",
    "build_corpus": "data.corpus",
    "embed": "inference.embedding",
    "embed_array": "inference.embedding",
    "evaluate_model": "pretraining.evaluate",
    "fill_mask": "inference.likelihoods",
    "finetune": "finetuning.run",
    "get_pretrained_model": "compat",
    "hidden_states": "inference.embedding",
    "init_params": "model",
    "join_processes": "training.devices",
    "load_config": "configfile",
    "load_manifest": "data.manifest",
    "load_pretrained": "pretrained",
    "log_likelihoods": "inference.likelihoods",
    "make_dataset": "data.dataset",
    "make_forward": "model",
    "nucleotide_probabilities": "inference.nucleotides",
    "open_reference": "variants.reference",
    "predict": "finetuning.predict",
    "predict_array": "finetuning.predict",
    "pretrain": "pretraining.run",
    "pseudo_log_likelihoods": "inference.likelihoods",
    "read_embeddings": "inference.embedding_tables",
    "read_labelled": "finetuning.labels",
    "score_sequences": "inference.likelihoods",
    "score_variants": "variants.run",
    "verify_model": "verification",
}

if not TYPE_CHECKING:  # type checkers read the imports above
    __all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    """Imports the module where a public name lives, and returns what the name stands for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


warn_of_namesake()
