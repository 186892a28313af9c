"""What the layers of a frozen network know: an estimator on the mean embedding of each.

The layer is chosen by cross-validation inside the training set. Scores of all layers on the test
set are shown, and choose nothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nucleotide_transformer.bars import Steps
from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.errors import require, require_choices
from nucleotide_transformer.files import open_output, require_local, write_json
from nucleotide_transformer.finetuning.embedding_store import EmbeddingStore
from nucleotide_transformer.finetuning.estimators import Estimator, Fitted, fit_estimator
from nucleotide_transformer.finetuning.labels import Kind, LabelledSequences, read_labelled
from nucleotide_transformer.finetuning.leaks import drop_leaks, find_leaks
from nucleotide_transformer.finetuning.metrics import METRICS, score_predictions
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.plots import save_figure
from nucleotide_transformer.pretrained import Model, randomise
from nucleotide_transformer.types import Float
from nucleotide_transformer.weights.adapter_files import Strand
from nucleotide_transformer.weights.hub import LoadConfig

PRETRAINED, RANDOM = "pretrained", "random"
"""Weights of a network: those that were given, or those of its control."""
RESULT_FILE, PLOT_FILE = "probe.json", "probe.png"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeConfig(LoadConfig):
    """What the layers of a frozen model know of labelled sequences."""

    train: Path
    """Table of the training sequences: .csv or .tsv (also with .gz), or .parquet."""
    test: Path
    """Table of the sequences that the result is measured on."""
    output: Path
    """Folder for probe.json, probe.png and the embeddings; these are used again if they are there
    already."""
    kind: Kind = "classification"
    """What the labels are: one class a sequence, any number of classes, or numbers."""
    sequence_column: str = "sequence"
    """Column with the sequences."""
    label_column: tuple[str, ...] = ("label",)
    """Column with the labels; several for multilabel (0 and 1) and regression."""
    name_column: str = "name"
    """Column with the names; rows are numbered without it."""
    separator: str = ";"
    """Between the classes of a multilabel row."""
    layers: tuple[int, ...] = ()
    """Layers, 0 (the input of the first block) to the number of blocks; all by default."""
    estimator: Estimator = "logistic"
    """What is trained on the embeddings: logistic regression (ridge for numbers), or a network with
    one hidden layer."""
    strand: Strand = "both"
    """both: the embeddings of both strands are averaged. one, where the strand means something:
    splice sites, promoters."""
    control: bool = True
    """Probe the same network with random weights, too."""
    drop_leaks: bool = False
    """Leave out training sequences that the test set has too, or nearly so."""
    seed: int = 0
    """Seed of the folds and of the random weights."""
    batching: BatchConfig = BatchConfig()
    """Size of windows and batches, devices."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_local("output", self.output)
        require(0 <= self.seed < 2**32, "seed", self.seed, "must lie in [0, 2**32)")


class Probe(NamedTuple):
    """An estimator for each layer, and which one is the best."""

    layers: dict[int, Fitted]

    @property
    def chosen(self) -> int:
        """The layer with the highest score in cross-validation; of equal ones the first."""
        return max(self.layers, key=lambda layer: self.layers[layer].score)


def fit_probe(
    store: EmbeddingStore,
    train: LabelledSequences,
    *,
    strand: Strand,
    estimator: Estimator = "logistic",
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> Probe:
    """Trains an estimator on every layer of a store.

    Args:
        store: to which the sequences were added.
        train: training set; nothing else is looked at.
        strand: of what the embeddings are.
        estimator: which one.
        seed: of the folds.
        advance: called after each layer.
    """
    fitted: dict[int, Fitted] = {}
    for layer in store.layers:
        features = store.load(train.sequences, strand, layer)
        fitted[layer] = fit_estimator(features, train, estimator=estimator, seed=seed)
        advance()
    return Probe(fitted)


def predict_layer(
    store: EmbeddingStore, probe: Probe, sequences: Sequence[str], strand: Strand, layer: int
) -> Float[np.ndarray, "S C"]:
    """What the estimator of a layer predicts for sequences that were added to the store."""
    return probe.layers[layer].predict(store.load(sequences, strand, layer))


def run_probe(
    model: Model,
    train: LabelledSequences,
    test: LabelledSequences,
    config: ProbeConfig,
    *,
    steps: Steps = lambda _title, _total: lambda: None,
) -> dict[str, Any]:
    """Probes a model and its random twin; what `nt probe` does.

    Args:
        model: what `load_pretrained` returns; what `config.model` says is not looked at.
        train: training set, within which the layer is chosen.
        test: what the result is measured on; see `read_tables`.
        config: the rest; its tables are not looked at.
        steps: shows the progress.

    Returns:
        What `probe.json` holds: for each of the networks the scores by layer, in cross-validation
        and on the test set, and the layer that was chosen.

    Raises:
        InputError: in one line, for labels that can't be learnt, embeddings of another network in
            the output folder, or another process that writes to it.
        NotAFolderError, UnwritableOutputError: if nothing can be written there.
    """
    with open_output(config.output):
        return _run_probe(model, train, test, config, steps)


def _run_probe(
    model: Model,
    train: LabelledSequences,
    test: LabelledSequences,
    config: ProbeConfig,
    steps: Steps,
) -> dict[str, Any]:
    """`run_probe` in its folder."""
    leaks = find_leaks(train.sequences, test.sequences)
    train = drop_leaks(train, leaks) if config.drop_leaks else train
    networks = {PRETRAINED: model}
    if config.control:
        networks[RANDOM] = randomise(model, config.seed)
    result: dict[str, Any] = {
        "settings": config_to_dict(config),
        "num_train": len(train),
        "num_test": len(test),
        "leaks": leaks.count_rows(),
        "classes": list(train.classes),
        "networks": {},
    }
    for name, network in networks.items():
        folder = config.output / "embeddings" / name_network(name, config.seed)
        store = EmbeddingStore(folder, network, layers=config.layers, batching=config.batching)
        sequences = [*train.sequences, *test.sequences]
        missing = store.count_missing(sequences, config.strand)
        store.add(sequences, config.strand, advance=steps(f"{name}: embeddings", missing))
        advance = steps(f"{name}: layers", len(store.layers))
        probe = fit_probe(
            store,
            train,
            strand=config.strand,
            estimator=config.estimator,
            seed=config.seed,
            advance=advance,
        )
        result["networks"][name] = _describe(store, probe, test, config.strand)
    _write(config.output, result)
    return result


def name_network(weights: str, seed: int) -> str:
    """The folder of a network's embeddings: random weights differ by their seed."""
    return f"{weights}_{seed}" if weights == RANDOM else weights


def read_tables(config: ProbeConfig) -> tuple[LabelledSequences, LabelledSequences]:
    """The training and the test set; the test set has the classes of the training set."""
    read = functools.partial(
        read_labelled,
        kind=config.kind,
        sequence_column=config.sequence_column,
        label_column=config.label_column,
        name_column=config.name_column,
        separator=config.separator,
    )
    train = read(config.train)
    return train, read(config.test, classes=train.classes)


def _describe(
    store: EmbeddingStore, probe: Probe, test: LabelledSequences, strand: Strand
) -> dict[str, Any]:
    """Scores of each layer, and the chosen one."""
    layers = {}
    for layer, fitted in probe.layers.items():
        predictions = predict_layer(store, probe, test.sequences, strand, layer)
        layers[str(layer)] = {
            "cross_validation": {METRICS[test.kind][0]: round(fitted.score, 5)},
            "test": {
                name: round(value, 5) if np.isfinite(value) else None
                for name, value in score_predictions(test.kind, test.labels, predictions).items()
            },
            "strength": fitted.strength,
        }
    return {"chosen_layer": probe.chosen, "layers": layers}


def _write(folder: Path, result: dict[str, Any]) -> None:
    """The JSON and the plot, each whole or not at all."""
    write_json(folder / RESULT_FILE, result, allow_nan=False)
    save_figure(plot_layers(result), folder / PLOT_FILE)


def plot_layers(result: dict[str, Any]) -> Figure:
    """Scores by layer, of cross-validation and of the test set.

    Args:
        result: what `run_probe` returns.
    """
    metric = METRICS[result["settings"]["kind"]][0]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, color in ((PRETRAINED, "C0"), (RANDOM, "0.6")):
        network = result["networks"].get(name)
        if network is None:
            continue
        layers = [int(layer) for layer in network["layers"]]
        for part, style in (("cross_validation", "--"), ("test", "-")):
            values = [row[part][metric] for row in network["layers"].values()]
            heights = [np.nan if value is None else value for value in values]
            label = f"{name}, {part.replace('_', '-')}"
            axes.plot(layers, heights, style, color=color, marker="o", markersize=4, label=label)
        chosen = network["chosen_layer"]
        height = network["layers"][str(chosen)]["test"][metric]
        axes.plot([chosen], [height], "o", color=color, markersize=10, fillstyle="none")
    axes.set(xlabel="layer", ylabel=metric, title="Probes of each layer (ring: the chosen one)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
