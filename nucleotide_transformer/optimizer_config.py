"""The configuration of the optimiser: its rule, its schedule, and what differs by group."""

import dataclasses
from typing import Literal

from nucleotide_transformer.errors import require, require_positive

Group = Literal["tables", "head", "norms", "matrices"]
"""Groups of parameters, by name; see `find_group` in training/optimizer.py."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """What differs for one group of parameters."""

    rate: float = 1.0
    """Factor on the learning rate, and thereby on the decay; 0 keeps the group as it is."""
    decay: float = 1.0
    """Factor on weight_decay."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormsConfig(GroupConfig):
    """The same for norms and biases, which do not decay unless asked to."""

    decay: float = 0.0
    """Factor on weight_decay."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The rule of the updates and their schedule. Defaults: the published run."""

    name: str = "adam"
    """adam, adamw, lion or muon: an entry in OPTIMIZERS of training/optimizer.py. adam and adamw
    are one rule, whose decay is weight_decay. lion wants a peak 3 to 10 times lower and
    beta2 = 0.99. muon is for matrices; tables, head, norms and biases take adam."""
    schedule: str = "published"
    """published, cosine, linear or constant: an entry in SCHEDULES of training/schedule.py. After
    the warm-up: peak * sqrt(warmup_steps / step) as published, a cosine or a line from the peak to
    final_learning_rate, or the peak."""
    initial_learning_rate: float = 5e-5
    """Learning rate of the first update."""
    peak_learning_rate: float = 1e-4
    """Learning rate at the end of the warm-up."""
    final_learning_rate: float = 0.0
    """Where cosine and linear end: at the end of the run, or where the cool-down begins."""
    warmup_steps: int = 16_000
    """Updates of linear warm-up, whatever the schedule after it."""
    cooldown_share: float = 0.0
    """Last share of the updates, over which the learning rate falls linearly to zero, whatever
    the schedule before it. It is zero after the last update: the last one still counts."""
    beta1: float = 0.9
    """Decay of the first moment; in Lion, the share of the moment in the direction."""
    beta2: float = 0.999
    """Decay of Adam's second moment, and of Lion's only one."""
    epsilon: float = 1e-8
    """Added to the square root of Adam's second moment."""
    momentum: float = 0.95
    """Decay of Muon's moment."""
    clip_norm: float | None = None
    """Largest global norm of the gradients; none by default."""
    weight_decay: float = 0.0
    """Decoupled weight decay, by group: an update takes learning rate * weight_decay of the
    parameter away. Off by default."""
    tables: GroupConfig = GroupConfig()
    """Embeddings of tokens and positions."""
    head: GroupConfig = GroupConfig()
    """Matrices of the head."""
    norms: NormsConfig = NormsConfig()
    """Scales and offsets of norms, and all biases."""
    matrices: GroupConfig = GroupConfig()
    """Everything else."""

    def __post_init__(self) -> None:
        require_positive(self, "peak_learning_rate", "warmup_steps", "epsilon")
        for field in ("initial_learning_rate", "weight_decay"):
            require_not_negative(field, getattr(self, field))
        final, rule = self.final_learning_rate, "must lie in [0, peak_learning_rate]"
        require(0 <= final <= self.peak_learning_rate, "final_learning_rate", final, rule)
        for field in ("beta1", "beta2", "momentum", "cooldown_share"):
            value = getattr(self, field)
            require(0 <= value < 1, field, value, "must lie in [0, 1)")
        clip = self.clip_norm
        require(clip is None or clip > 0, "clip_norm", clip, "must be above 0, or none")
        for field in ("tables", "head", "norms", "matrices"):
            group: GroupConfig = getattr(self, field)
            require_not_negative(f"{field}.rate", group.rate)
            require_not_negative(f"{field}.decay", group.decay)


def require_not_negative(field: str, value: float) -> None:
    """Raises an `InputError` for a value below zero."""
    require(value >= 0, field, value, "must be 0 or above")
