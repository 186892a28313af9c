"""Tiny tasks for fine-tuning: sequences whose labels follow from how much G and C they have."""

import contextlib
import itertools

import jax
import numpy as np
import pytest

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.evaluation import Evaluator
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.model import init_params
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer

MODEL = ModelConfig(k=3, num_layers=2, embed_dim=16, num_heads=4, ffn_dim=24, max_positions=64)
COMPUTE = ComputeConfig(attention="einsum")


def make_model(seed=0, config=MODEL):
    """A model with random weights."""
    return Model(
        params=init_params(jax.random.key(seed), config, COMPUTE),
        config=config,
        compute=COMPUTE,
        tokenizer=KmerTokenizer(config.vocabulary, config.k),
        origin="random numbers",
    )


@pytest.fixture(scope="module", name="model")
def random_model():
    return make_model()


def make_task(num_sequences=40, kind="classification", seed=0, length=30):
    """Sequences of one length; half of them rich in G and C."""
    rng = np.random.default_rng(seed)
    is_rich = np.arange(num_sequences) % 2
    shares = np.array([(0.4, 0.1, 0.1, 0.4), (0.1, 0.4, 0.4, 0.1)])
    letters = [rng.choice(list("ACGT"), length, p=shares[rich]) for rich in is_rich]
    rich = np.array([np.isin(each, ["G", "C"]).mean() for each in letters])
    starts_with_a = np.array([each[0] == "A" for each in letters])
    labels = {
        "classification": is_rich.astype(np.int64),
        "multilabel": np.stack([is_rich, starts_with_a], axis=1).astype(np.int64),
        "regression": (100 + 20 * rich[:, None]).astype(np.float32),
    }
    classes = {"classification": ("poor", "rich"), "multilabel": ("rich", "a")}
    return LabelledSequences(
        names=[f"s{i}" for i in range(num_sequences)],
        sequences=["".join(each) for each in letters],
        labels=labels[kind],
        kind=kind,
        classes=classes.get(kind, ("content",)),
        source=f"small {kind}",
    )


def make_config(folder, **fields):
    """A run of twelve updates."""
    defaults = {
        "output": folder / "run",
        "total_steps": 12,
        "warmup_steps": 2,
        "evaluate_every_steps": 4,
        "log_every_steps": 1,
        "num_devices": 1,
        "learning_rate": 1e-2,
    }
    return FinetuneConfig(**defaults | fields)


@contextlib.contextmanager
def failing_evaluation(number, error):
    """Makes one evaluation fail: the first is 1, those of all runs and threads count."""
    evaluate, calls = Evaluator.evaluate, itertools.count(1)

    def fail(self, params):
        if next(calls) == number:
            raise error
        return evaluate(self, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", fail)
        yield
