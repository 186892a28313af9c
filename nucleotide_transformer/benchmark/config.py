"""What is measured: the options of `nt benchmark`, and the list of cases that they make."""

import dataclasses
import difflib
import itertools
from pathlib import Path
from typing import Literal, get_args

from nucleotide_transformer.config import (
    ComputeConfig,
    ModelConfig,
    require_positive,
)
from nucleotide_transformer.errors import InputError, require, require_choices
from nucleotide_transformer.model.adapters import Method
from nucleotide_transformer.weights.hub import RELEASED

Task = Literal["train", "finetune", "embed", "probe", "logits"]
Scaling = Literal["weak", "strong"]

CUSTOM = "custom"
SIZE_SUFFIX = "_multi_species_v2"
"""What the short names 50M, 100M, 250M and 500M leave out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to measure, and how often. Every combination of the lists is one case."""

    tasks: tuple[Task, ...] = ("train", "embed")
    """train is a whole update of pre-training, finetune one of each of the methods; embed gives
    mean embeddings of the last layer, probe those of every layer; logits are of every token."""
    methods: tuple[Method, ...] = get_args(Method)
    """What finetune trains, a case for each; see `nt finetune`."""
    models: tuple[str, ...] = ("100M",)
    """50M, 100M, 250M, 500M (the released v2 shapes), any other released name, or `custom` for
    the shape that `model` describes. Parameters are random."""
    sequence_tokens: tuple[int, ...] = (1_000,)
    """Tokens of a sequence, <cls> included."""
    sequences_per_device: tuple[int, ...] = ()
    """Sequences of a (micro-)batch on one device; 2 on a CPU and 32 elsewhere by default."""
    accumulation: int = 1
    """Micro-batches of an update; train and finetune only."""
    num_devices: tuple[int, ...] = ()
    """Devices to use, a case for each number. All by default; 1, 2, 4, ... all with `scaling`.
    A CPU has as many as XLA_FLAGS=--xla_force_host_platform_device_count says."""
    scaling: tuple[Scaling, ...] = ()
    """weak: every device has `sequences_per_device`; strong: these are divided over the devices,
    without the numbers of devices that do not divide them, unless `num_devices` names these.
    Weak alone by default."""
    warmup_steps: int = 2
    """Steps between the first one, which compiles, and those that are timed."""
    rounds: int = 5
    """Rounds of timed steps; the peer has its turn after each, so that noise meets both."""
    round_steps: int = 4
    """Timed steps of a round. The host waits for the step before the last one, as in a run."""
    peer: bool = True
    """Also time ESM of transformers with blocks of as many FLOPs, where torch is installed; on
    one device. Of fine-tuning lora alone, by peft."""
    cache: bool = False
    """Also measure the compile time of a second start, with a persistent compilation cache."""
    profile: bool = False
    """Also list the operations that the time goes to, and XLA's cost analysis."""
    profile_rows: int = 15
    """Operations in that list."""
    seed: int = 0
    """Seed of parameters and sequences."""
    output: Path = Path("runs/benchmark")
    """Folder for the JSON file and the picture of this benchmark, named by date and time."""
    compute: ComputeConfig = ComputeConfig()
    """Precision and form of the computation."""
    model: ModelConfig = ModelConfig()
    """Architecture of the model `custom`."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_positive(self, "accumulation", "rounds", "round_steps", "profile_rows")
        require(0 <= self.seed < 2**32, "seed", self.seed, "must lie in [0, 2**32)")
        require(self.warmup_steps >= 1, "warmup_steps", self.warmup_steps, "must be 1 or above")
        for field in ("tasks", "methods", "models", "sequence_tokens"):
            require(len(getattr(self, field)) > 0, field, (), "must name at least one")
        for field, lowest in (("sequence_tokens", 2), ("sequences_per_device", 1)):
            values = getattr(self, field)
            require(min(values, default=lowest) >= lowest, field, values, f"at least {lowest} each")
        self._refuse_what_does_nothing()
        for name in self.models:
            find_model(name, self.model)

    def _refuse_what_does_nothing(self) -> None:
        is_update = not {"train", "finetune"}.isdisjoint(self.tasks)
        for field, is_used, needed in (
            ("accumulation", is_update, "train or finetune among the tasks"),
            ("methods", "finetune" in self.tasks, "finetune among the tasks"),
            ("profile_rows", self.profile, "profile"),
        ):
            value = getattr(self, field)
            is_default = value == getattr(BenchmarkConfig, field)
            require(is_used or is_default, field, value, f"does nothing without {needed}")
        is_used = CUSTOM in self.models or self.model == ModelConfig()
        rule = f"must name {CUSTOM}: the fields of model are the shape of that alone"
        require(is_used, "models", self.models, rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure."""

    task: Task
    model: str
    sequence_tokens: int
    sequences_per_device: int
    accumulation: int
    num_devices: int
    scaling: Scaling
    """weak on one device."""
    method: Method | None = None
    """Of finetune."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one step over all devices, padding included."""
        return self.sequences_per_step * self.sequence_tokens

    @property
    def sequences_per_step(self) -> int:
        """Sequences of one step over all devices and micro-batches."""
        return self.sequences_per_device * self.accumulation * self.num_devices

    @property
    def what(self) -> str:
        """The task, and what it trains."""
        return " ".join(filter(None, (self.task, self.method)))

    @property
    def label(self) -> str:
        """The case in a few words."""
        batch = f"{self.sequences_per_device} x {self.sequence_tokens:,}"
        batch += f" x {self.accumulation}" if self.accumulation > 1 else ""
        scaling = " strong" if self.scaling == "strong" else ""
        devices = f", {self.num_devices} devices{scaling}" if self.num_devices > 1 else ""
        return f"{self.what} {self.model}, {batch}{devices}"


def find_model(name: str, custom: ModelConfig) -> ModelConfig:
    """The architecture that a name stands for.

    Raises:
        InputError: for another name, with the nearest one.
    """
    if name == CUSTOM:
        return custom
    by_name = {known.removesuffix(SIZE_SUFFIX): released for known, released in RELEASED.items()}
    released = RELEASED.get(name) or by_name.get(name)
    if released is None:
        known = [CUSTOM, *by_name]
        folded = {other.casefold(): other for other in known}
        near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.4)
        hint = f"did you mean {folded[near[0]]}? " if near else ""
        raise InputError(f"models: {name!r} is none: {hint}There are {', '.join(known)}")
    return released.config


def list_cases(config: BenchmarkConfig, *, num_local_devices: int, platform: str) -> list[Case]:
    """Every combination, in the order of the fields; devices last, so that they stand together.

    Raises:
        InputError: for more devices than there are, sequences that the model has no positions
            for, or that can't be divided over the devices.
    """
    at_once = config.sequences_per_device or ((2,) if platform == "cpu" else (32,))
    counts = list_device_counts(config, num_local_devices, platform)
    for name, tokens in itertools.product(config.models, config.sequence_tokens):
        limit = find_model(name, config.model).position_limit
        rule = f"the positions of model {name} end at {limit}"
        require(limit is None or tokens <= limit, "sequence_tokens", tokens, rule)
    scalings = config.scaling or ("weak",)
    tasks: list[tuple[Task, Method | None]] = [
        (task, method)
        for task in config.tasks
        for method in (config.methods if task == "finetune" else (None,))
    ]
    choices = (tasks, config.models, config.sequence_tokens, at_once, scalings)
    cases = [
        Case(
            task=task,
            model=name,
            sequence_tokens=tokens,
            sequences_per_device=divide(sequences, count, scaling),
            accumulation=config.accumulation if task in ("train", "finetune") else 1,
            num_devices=count,
            scaling=scaling if count > 1 else "weak",
            method=method,
        )
        for (task, method), name, tokens, sequences, scaling in itertools.product(*choices)
        for count in (counts if config.num_devices else list_fitting(counts, sequences, scaling))
    ]
    return list(dict.fromkeys(cases))  # one device is where both kinds of scaling begin


def list_device_counts(
    config: BenchmarkConfig, num_local_devices: int, platform: str
) -> tuple[int, ...]:
    """The numbers of devices asked for, or those that scaling goes through, or all."""
    for count in config.num_devices:
        rule = f"this process has {num_local_devices} of the platform {platform}"
        require(1 <= count <= num_local_devices, "num_devices", count, rule)
    if config.num_devices:
        return config.num_devices
    if not config.scaling:
        return (num_local_devices,)
    powers = [2**i for i in range(num_local_devices.bit_length())]
    return tuple(sorted({*powers, num_local_devices}))


def list_fitting(counts: tuple[int, ...], sequences: int, scaling: Scaling) -> tuple[int, ...]:
    """Numbers of devices that sequences can be shared out over; all if that is one device alone."""
    fitting = tuple(count for count in counts if scaling == "weak" or sequences % count == 0)
    return fitting if len(fitting) > 1 else counts


def divide(sequences: int, num_devices: int, scaling: Scaling) -> int:
    """Sequences of one device; an `InputError` if strong scaling can't share them out."""
    if scaling == "weak":
        return sequences
    rule = f"must be a multiple of {num_devices} devices for strong scaling"
    require(sequences % num_devices == 0, "sequences_per_device", sequences, rule)
    return sequences // num_devices
