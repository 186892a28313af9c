"""The configuration of a fine-tuning run."""

import dataclasses
from pathlib import Path
from typing import Literal

from nucleotide_transformer.config import ComputeConfig, check_trainable
from nucleotide_transformer.errors import require, require_choices, require_positive
from nucleotide_transformer.files import require_local
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.model.adapters import LORA_SITES, Method, Site
from nucleotide_transformer.model.heads import Pooling
from nucleotide_transformer.optimizer_config import OptimizerConfig
from nucleotide_transformer.weights.adapter_files import Strand, TaskKind
from nucleotide_transformer.weights.hub import PACKAGED

HeadStart = Literal["random", "probe"]

LEARNING_RATES: dict[Method, float] = {"head": 3e-3, "ia3": 3e-3, "lora": 5e-4, "full": 3e-5}
"""Highest learning rate of each method, unless one is given. ia3 is that of the paper."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank changes of linear layers, for the method lora."""

    rank: int = 8
    """Width between the two factors of a change."""
    alpha: float = 16.0
    """Factor on a change, over the rank."""
    sites: tuple[Site, ...] = LORA_SITES
    """Linear layers that are changed."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_positive(self, "rank", "alpha")
        require(bool(self.sites), "sites", self.sites, "must name at least one")
        require("hidden" not in self.sites, "sites", self.sites, "hidden is no linear layer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A model adapted to labelled sequences. The defaults are those of the paper, with IA3."""

    output: Path = Path("runs/finetune")
    """Folder for the adapter, checkpoints and metrics; a run found there is resumed."""
    model: str = PACKAGED
    """Model to start from: what `load_pretrained` takes. By default the one that comes with the
    package."""
    random_init: bool = False
    """Random weights in place of the model's: the control that shows what pre-training gives."""
    train: Path | None = None
    """Table of the training sequences: .csv or .tsv (also with .gz), or .parquet."""
    validation: Path | None = None
    """Table of the sequences that decide when to stop; by default they are held out from the
    training set."""
    test: Path | None = None
    """Table of the sequences that the result is measured on, once, at the end."""
    held_out_share: float = 0.1
    """Share of the training set that is held out where there is no validation set, by class."""
    folds: int | None = None
    """Cross-validation: so many runs, each validated with another part of the training set, and all
    measured on the test set; in place of validation and held_out_share. With several devices they
    go side by side."""
    kind: TaskKind = "classification"
    """What the labels are: one class a sequence, any number of classes, or numbers; segmentation:
    any number of classes a nucleotide, as intervals of FASTA files."""
    train_labels: Path | None = None
    """For segmentation: a BED file, whose intervals are named after their classes."""
    validation_labels: Path | None = None
    """For segmentation: likewise of the validation set."""
    test_labels: Path | None = None
    """For segmentation: likewise of the test set."""
    window: int = 1_200
    """For segmentation: nucleotides of the tiles that sequences are cut into."""
    sequence_column: str = "sequence"
    """Column with the sequences."""
    label_column: tuple[str, ...] = ("label",)
    """Column with the labels; several for multilabel (0 and 1) and regression."""
    name_column: str = "name"
    """Column with the names; rows are numbered without it."""
    separator: str = ";"
    """Between the classes of a multilabel row."""
    method: Method = "ia3"
    """What is trained: head, the linear layer alone; ia3 and lora, an adapter with it; full, all
    of the encoder with it."""
    lora: LoraConfig = LoraConfig()
    """Size and places of the changes."""
    pooling: Pooling = "mean"
    """What the head reads: mean or maximum over the tokens of known nucleotides, or <cls>."""
    layers: tuple[int, ...] = ()
    """Layers that the head reads, side by side: 0 (the input of the first block) to the number of
    blocks. By default the last one; earlier ones often know more of a task (see `nt probe`). Pooled
    embeddings of earlier layers are normalised, and those of several divided by their number. No
    block above the highest of them is run."""
    head_start: HeadStart = "random"
    """First weights of the head: random; or probe, those of a logistic regression (of numbers, a
    ridge regression) on the embeddings of the training set before any update, which needs fewer
    updates."""
    strand: Strand = "both"
    """both: sequences are read from either strand in training, and predictions of both strands are
    averaged. one, where the strand means something: splice sites, promoters."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class has the same weight in the loss, however rare (classification)."""
    max_tokens: int | None = None
    """Longest sequence, in tokens with <cls>; max_positions of the model by default."""
    seed: int = 0
    """Seed of the new parameters, what is held out, the order of the data and the strands."""
    total_steps: int = 10_000
    """Updates of the whole run."""
    sequences_per_update: int = 8
    """Sequences of one update, over all devices."""
    sequences_per_device: int | None = None
    """Most sequences of a micro-batch on one device; all by default."""
    learning_rate: float | None = None
    """Highest learning rate; by default 3e-3 for head and ia3, 5e-4 for lora, 3e-5 for full."""
    warmup_steps: int = 100
    """Updates of linear warm-up; then the learning rate falls linearly to zero."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices."""
    clip_norm: float | None = None
    """Largest global norm of the gradients; none by default."""
    evaluate_every_steps: int = 500
    """Evaluate on the validation set and save a checkpoint every N updates, and at the end."""
    patience: int | None = 5
    """Evaluations without a better one after which the run ends; none to go to the last update."""
    log_every_steps: int = 50
    """Updates between lines of metrics."""
    num_devices: int | None = None
    """Accelerators of this process to use; all by default."""
    distributed: bool = False
    """Set when several processes train together (jax.distributed); start one per host."""
    compute: ComputeConfig = ComputeConfig()
    """Precision and form of the computation."""
    batching: BatchConfig = BatchConfig()
    """Size of the batches that the test set is predicted in; num_devices of the run by default."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_local("output", self.output)
        require_positive(self, "total_steps", "sequences_per_update", "warmup_steps")
        require_positive(self, "evaluate_every_steps", "log_every_steps", "window")
        for name in ("train", "validation", "test"):
            table, labels = getattr(self, name), getattr(self, f"{name}_labels")
            rule = "a BED file and a FASTA file are given together, for segmentation alone"
            given = self.kind == "segmentation" and table is not None
            require((labels is not None) == given, f"{name}_labels", labels, rule)
        for field in ("sequences_per_device", "learning_rate", "clip_norm", "patience"):
            value = getattr(self, field)
            require(value is None or value > 0, field, value, "must be above 0, or none")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must be 0 or above")
        share = self.held_out_share
        require(0 < share < 1, "held_out_share", share, "must lie between 0 and 1")
        rule = "must be 2 or above, and without a validation set; or none"
        fits = self.folds is None or (self.folds >= 2 and self.validation is None)
        require(fits, "folds", self.folds, rule)
        require(0 <= self.seed < 2**32, "seed", self.seed, "must lie in [0, 2**32)")
        rule = f"must be below total_steps = {self.total_steps}"
        require(self.warmup_steps < self.total_steps, "warmup_steps", self.warmup_steps, rule)
        rule = "is for classification"
        plain = self.class_weights == "none" or self.kind == "classification"
        require(plain, "class_weights", self.class_weights, rule)
        rule = "is not for segmentation, whose head is a network"
        for field in ("pooling", "layers", "head_start"):
            value, default = getattr(self, field), getattr(FinetuneConfig, field)
            require(value == default or self.kind != "segmentation", field, value, rule)
        rule = "must name each layer once"
        require(len(set(self.layers)) == len(self.layers), "layers", self.layers, rule)
        check_trainable(self.compute)
        self.batching.refuse_windows()

    @property
    def inference(self) -> BatchConfig:
        """Batches before and after training, on the devices of the run unless it says otherwise."""
        num_devices = self.batching.num_devices or self.num_devices
        return dataclasses.replace(self.batching, num_devices=num_devices)

    @property
    def optimizer(self) -> OptimizerConfig:
        """Adam, with a linear warm-up and a linear decay to zero."""
        rate = self.learning_rate
        rate = LEARNING_RATES[self.method] if rate is None else rate
        return OptimizerConfig(
            schedule="linear",
            initial_learning_rate=0.0,
            peak_learning_rate=rate,
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )
