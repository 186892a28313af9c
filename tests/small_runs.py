"""A corpus and a run of pre-training that take seconds."""

import functools

import numpy as np
import pytest

from nucleotide_transformer.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
)
from nucleotide_transformer.data.corpus import build_corpus, open_split
from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.pretraining import counts


def read_all(manifest, split="train"):
    """Every record of a split, in its order."""
    reader = open_split(manifest, split)
    return reader.read(np.arange(len(reader)))


@pytest.fixture
def short_words(monkeypatch):
    """Counts of words of 8 nucleotides in place of 13: 65,536, not 67 million."""
    shorter = functools.partial(counts.count_split, max_order=7)
    monkeypatch.setattr(counts, "count_split", shorter)
    monkeypatch.setattr(counts, "MAX_ORDER", 7)


def build_small_corpus(inputs, output, **changes):
    """Chunks of 200 nt, of 30,000 nt or so; a tenth is held out for each of the other splits."""
    fields = {
        "chunk_length": 200,
        "overlap": 20,
        "block_length": 1_000,
        "validation_fraction": 0.1,
        "test_fraction": 0.1,
        "workers": 1,
    }
    build_corpus(CorpusConfig(inputs=inputs, output=output, **fields | changes))
    return output


def make_run_config(corpus, folder):
    """Eight updates of a tiny model, in `folder`: logs each, and evaluates and saves at some."""
    return PretrainConfig(
        output=folder / "run",
        model=ModelConfig(k=3, num_layers=2, embed_dim=16, num_heads=2, ffn_dim=24),
        data=DataConfig(corpus=corpus, sequence_tokens=64),
        tokens_per_update=512,
        sequences_per_device=4,
        total_tokens=512 * 8,
        num_devices=1,
        log_every_steps=1,
        optimizer=OptimizerConfig(peak_learning_rate=1e-2, warmup_steps=4),
        evaluation=EvaluationConfig(num_sequences=5, every_steps=4),
        checkpoint=CheckpointConfig(every_steps=3, keep=2),
    )
