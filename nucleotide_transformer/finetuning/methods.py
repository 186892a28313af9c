"""The methods of a task table: each learns from a training set and predicts a test set.

A new method is a function and an entry in `METHODS`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.files import drop_nan
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.embedding_store import EmbeddingStore
from nucleotide_transformer.finetuning.estimators import Estimator
from nucleotide_transformer.finetuning.kmer_counts import count_kmers, fit_kmers
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.finetuning.predict import predict_array
from nucleotide_transformer.finetuning.probe import (
    PRETRAINED,
    RANDOM,
    fit_probe,
    name_network,
    predict_layer,
)
from nucleotide_transformer.finetuning.run import FREE_FIELDS, finetune
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.model.adapters import Method as Adaptation
from nucleotide_transformer.pretrained import Model, randomise
from nucleotide_transformer.types import Float
from nucleotide_transformer.weights.adapter_files import Strand, TaskKind

NO_WEIGHTS = "none"
"""Of a method without a network."""
SET_BY_TRIAL = (
    *("output", "model", "random_init", "train", "validation", "test", "kind", "method"),
    *("sequence_column", "label_column", "name_column", "separator", "strand", "seed"),
    *("batching", "compute", "folds", "window", "distributed"),
)
"""Fields of a fine-tuning run that a task, a trial or the command's other fields decide, or that
are of no use to one."""
RUNS = "finetuning"
"""Folder of fine-tuning runs in that of a table: RUNS/TASK/METHOD-WEIGHTS-SEED."""
_FINETUNE = "finetune"
"""What the settings of a result are called that are fields of a fine-tuning run, before a dot."""


class Trial(NamedTuple):
    """One method on one task, once."""

    task: str
    method: str
    weights: str
    """`PRETRAINED`, `RANDOM` or `NO_WEIGHTS`."""
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.method}-{self.weights}-{self.seed}"


class Outcome(NamedTuple):
    """What a method says of a test set."""

    predictions: Float[np.ndarray, "S C"]
    """Probabilities of the classes, or values of the targets."""
    details: dict[str, Any]
    """What was chosen or measured on the way, as JSON has it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What every method can ask for."""

    model: Model | None
    """The pretrained network; None if no method needs one."""
    strand: Strand
    """Whether the sequences of the task have a strand."""
    estimator: Estimator
    """What a probe trains on embeddings."""
    layers: tuple[int, ...]
    """Those that are probed; all if empty."""
    finetune: FinetuneConfig
    """Of the fine-tuning methods, but for what belongs to a trial."""
    batching: BatchConfig
    """Its windows are those of probes."""
    output: Path
    """Folder for what a method keeps: embeddings, runs."""
    note: Callable[[str], object] = lambda _: None
    """Takes a line about what is done."""
    show: bool = False
    """Whether runs show their progress."""

    def load_network(self, trial: Trial) -> Model:
        """The network of a trial, with its weights or with random ones."""
        assert self.model, "asked for by a method that says that it uses a network"
        return self.model if trial.weights == PRETRAINED else randomise(self.model, trial.seed)


Run = Callable[[Trial, LabelledSequences, Sequence[str], Setting], Outcome]
"""Trial, training set, test sequences, setting -> outcome. No method sees the test labels."""


class Method(NamedTuple):
    """A method, and what is known of it before it runs."""

    run: Run
    uses_network: bool
    """If so, it runs with pretrained weights and, beside each, with random ones."""
    is_random: bool
    """Whether seeds differ: without, one is enough."""
    describe: Callable[[Setting], dict[str, Any]] = lambda _: {}
    """Settings on which its result depends, as JSON has them."""
    is_whole: bool = False
    """Whether each sequence goes through the network in one piece."""


def run_kmers(
    trial: Trial, train: LabelledSequences, test: Sequence[str], setting: Setting, *, k: int
) -> Outcome:
    """Logistic regression on k-mer counts."""
    stranded = setting.strand == "one"
    fitted = fit_kmers(train, k, stranded=stranded, seed=trial.seed)
    predictions = fitted.predict(count_kmers(test, k, stranded=stranded))
    return Outcome(predictions, {"strength": fitted.strength, "score": fitted.score})


def run_probe(
    trial: Trial, train: LabelledSequences, test: Sequence[str], setting: Setting
) -> Outcome:
    """An estimator on the embeddings of the layer that is best within the training set."""
    folder = setting.output / "embeddings" / name_network(trial.weights, trial.seed)
    network = setting.load_network(trial)
    store = EmbeddingStore(folder, network, layers=setting.layers, batching=setting.batching)
    sequences = [*train.sequences, *test]
    if missing := store.count_missing(sequences, setting.strand):
        setting.note(f"{trial.task}: {missing:,} embeddings with {trial.weights} weights")
        store.add(sequences, setting.strand)
    probe = fit_probe(
        store, train, strand=setting.strand, estimator=setting.estimator, seed=trial.seed
    )
    layer = probe.chosen
    details = {
        "layer": layer,
        "strength": probe.layers[layer].strength,
        "score": probe.layers[layer].score,
        "score_by_layer": {str(each): fitted.score for each, fitted in probe.layers.items()},
    }
    return Outcome(predict_layer(store, probe, test, setting.strand, layer), details)


def run_finetuning(
    trial: Trial,
    train: LabelledSequences,
    test: Sequence[str],
    setting: Setting,
    *,
    method: Adaptation,
) -> Outcome:
    """A fine-tuned network; a share of the training set says when to stop.

    Raises:
        KeyboardInterrupt: if the run was stopped; the next one resumes it.
    """
    assert setting.model, "asked for by a method that says that it uses a network"
    config = make_finetune_config(setting, trial, train.kind, method)
    result = finetune(setting.model, train, None, config, show=setting.show)
    if result.model is None:
        raise KeyboardInterrupt
    predictions = predict_array(result.model, test, batching=config.inference)
    details = {
        "steps": result.step,
        "best_step": result.best_step,
        "validation": drop_nan(result.metrics),
        "num_trained": result.num_trained,
    }
    return Outcome(predictions, details)


def make_finetune_config(
    setting: Setting, trial: Trial, kind: TaskKind, method: Adaptation
) -> FinetuneConfig:
    """The config of a trial's run."""
    return dataclasses.replace(
        setting.finetune,
        output=setting.output / RUNS / trial.task / trial.name,
        kind=kind,
        method=method,
        strand=setting.strand,
        seed=trial.seed,
        random_init=trial.weights == RANDOM,
        batching=dataclasses.replace(setting.batching, window_tokens=None, overlap_tokens=None),
    )


def _describe_kmers(setting: Setting) -> dict[str, Any]:
    return {"strand": setting.strand}


def _describe_probe(setting: Setting) -> dict[str, Any]:
    layers = list(setting.layers)
    return {"strand": setting.strand, "estimator": setting.estimator, "layers": layers}


def _describe_finetuning(setting: Setting) -> dict[str, Any]:
    fields = config_to_dict(setting.finetune)
    left_out = {*SET_BY_TRIAL, *FREE_FIELDS}
    own = {f"{_FINETUNE}.{name}": v for name, v in fields.items() if name not in left_out}
    return {"strand": setting.strand} | own


def find_default(setting: str) -> Any:
    """What a setting of a result was in versions that did not have it; None where none is known.

    A new field of `FinetuneConfig` has what was done before for its default. Windows were not noted
    once; None is the default of theirs.
    """
    table, _, field = setting.partition(".")
    return config_to_dict(FinetuneConfig()).get(field) if table == _FINETUNE else None


def _make_kmers(k: int) -> Method:
    run = functools.partial(run_kmers, k=k)
    return Method(run, uses_network=False, is_random=False, describe=_describe_kmers)


def _make_finetuning(method: Adaptation) -> Method:
    run = functools.partial(run_finetuning, method=method)
    return Method(
        run, uses_network=True, is_random=True, describe=_describe_finetuning, is_whole=True
    )


METHODS: dict[str, Method] = {
    "kmers4": _make_kmers(4),
    "kmers6": _make_kmers(6),
    "probe": Method(run_probe, uses_network=True, is_random=True, describe=_describe_probe),
    "head": _make_finetuning("head"),
    "ia3": _make_finetuning("ia3"),
    "lora": _make_finetuning("lora"),
    "full": _make_finetuning("full"),
}
"""Name -> method."""
