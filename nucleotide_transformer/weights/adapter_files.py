"""Adapters on disk: what fine-tuning trained, and the model that it belongs on.

A folder has `adapter.safetensors`, with the trained parameters by their names in the model, and
`adapter.json`, which says how they were trained, what they predict, and the name and the digest of
the base model. The base model itself is not in it. peft's layout of a LoRA is written, too.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer import __version__
from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError, MissingInputError, require
from nucleotide_transformer.files import drop_nan, show_digest, write_json, write_whole
from nucleotide_transformer.model.adapters import (
    LINEAR,
    Method,
    Site,
    choose_adapter,
    merge_adapter,
)
from nucleotide_transformer.model.heads import Pooling
from nucleotide_transformer.model.task_network import HEAD, TaskNetwork, is_trained
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights.assembly import compare_shapes, digest_params, show_name
from nucleotide_transformer.weights.configs import read_json
from nucleotide_transformer.weights.hub import find_named
from nucleotide_transformer.weights.huggingface import open_tensors, write_safetensors

TaskKind = Literal["classification", "multilabel", "regression", "segmentation"]
"""What a model can be adapted to."""
KINDS = get_args(TaskKind)
Strand = Literal["both", "one"]
"""Whether predictions of both strands are averaged."""

FOLDER = "adapter"
"""Of a fine-tuning run: where its adapter is."""
RECORD, TENSORS = "adapter.json", "adapter.safetensors"
PEFT_CONFIG, PEFT_TENSORS = "adapter_config.json", "adapter_model.safetensors"
FORMAT_VERSION = 2
"""Of what the record holds. Version 1, which is read, too, lacks what `_ADDED` has."""
_ADDED: dict[str, Any] = {"layers": []}
"""Fields of version 2, and what they were before."""
_PEFT_LAYERS: dict[Site, str] = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
"""The linear layer of each site, as transformers calls it."""
_LORA_MODULE = re.compile(r"esm_transformer/attention_layer_(\d+)/~/lora/(\w+)")
assert _PEFT_LAYERS.keys() == LINEAR.keys()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainedHead:
    """What fine-tuning put onto a model, and what its outputs mean."""

    params: Params = dataclasses.field(repr=False)
    """Of the head alone, float32."""
    kind: str
    """One of `KINDS`."""
    classes: tuple[str, ...]
    """Names of the outputs: classes, or targets."""
    pooling: Pooling
    """What the head reads."""
    layers: tuple[int, ...]
    """Layers that it reads, side by side; the last one if empty."""
    strand: Strand
    """Whether predictions of both strands are averaged."""
    max_tokens: int
    """Tokens of the longest sequence that it takes, `<cls>` included."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """What was trained, and all that is known of it."""

    params: Params = dataclasses.field(repr=False)
    """By their names in the model: of the head, and of the adapter or, for full, the encoder."""
    method: Method
    lora_rank: int
    lora_alpha: float
    lora_sites: tuple[Site, ...]
    """LoRA's sizes and places; of no meaning for other methods."""
    kind: str
    classes: tuple[str, ...]
    pooling: Pooling
    layers: tuple[int, ...]
    """As in `TrainedHead`."""
    strand: Strand
    max_tokens: int
    base: str
    """The model that it belongs on: a name, or the path of a folder."""
    base_digest: str
    """SHA-256 of that model's parameters; see `digest_params`."""
    random_seed: int | None
    """Seed of random weights that the base got in place of its own; None for its own."""
    metrics: dict[str, float]
    """On the validation set; NaN, null in the record, where they are not defined."""
    config: dict[str, Any]
    """The run's, with the precision that was used."""

    def merge(self, base: Params) -> Params:
        """The base model's parameters with the adapter folded in; the head is not among them."""
        own = {name: leaves for name, leaves in self.params.items() if not name.startswith(HEAD)}
        return merge_adapter(base | own, self.lora_alpha)

    @property
    def head(self) -> TrainedHead:
        """The head, with what its outputs mean."""
        return TrainedHead(
            params={name: dict(p) for name, p in self.params.items() if name.startswith(HEAD)},
            kind=self.kind,
            classes=self.classes,
            pooling=self.pooling,
            layers=self.layers,
            strand=self.strand,
            max_tokens=self.max_tokens,
        )


def find_adapter(folder: Path) -> Path | None:
    """The folder of an adapter: the folder itself, or that in a run; None if there is none."""
    return next((at for at in (folder, folder / FOLDER) if (at / RECORD).is_file()), None)


def save_adapter(folder: Path, adapter: Adapter) -> None:
    """Writes an adapter into a folder, in place of one that is there.

    The record goes first and comes last: without it a folder holds no adapter.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    tensors = {
        f"{module}/{name}": np.asarray(leaf, np.float32)
        for module, leaves in adapter.params.items()
        for name, leaf in leaves.items()
    }
    with write_whole(folder / TENSORS) as partial:
        write_safetensors(partial, tensors)
    fields = {
        field.name: getattr(adapter, field.name)
        for field in dataclasses.fields(adapter)
        if field.name != "params"
    }
    record = {"format_version": FORMAT_VERSION, "version": __version__, **fields}
    write_json(folder / RECORD, drop_nan(record), allow_nan=False)


def save_peft(folder: Path, adapter: Adapter) -> None:
    """Writes a LoRA into an empty folder as Hugging Face's peft has it.

    It belongs on the base model in the Hugging Face layout, which is named by its repository; the
    packaged model has none, and is not named. The head of a fine-tuning run has no place there and
    is not written.

    Raises:
        InputError: for an adapter that is no LoRA, or whose base has random weights, or is an
            adapter itself.
    """
    if adapter.method != "lora":
        raise InputError(f"method = {adapter.method!r}: the peft layout is for lora: merge others")
    seed, rule = adapter.random_seed, "the base has random weights, which no name stands for"
    require(seed is None, "random_seed", seed, f"{rule}: merge it")
    is_adapter = find_adapter(Path(adapter.base)) is not None
    require(not is_adapter, "base", adapter.base, "the base is an adapter itself: merge it")
    released = find_named(adapter.base)
    layers = "|".join(re.escape(_PEFT_LAYERS[site]) for site in adapter.lora_sites)
    content = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": released.repository if released else adapter.base,
        "r": adapter.lora_rank,
        "lora_alpha": adapter.lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": rf"esm\.encoder\.layer\.\d+\.({layers})",
    }
    write_json(folder / PEFT_CONFIG, content)
    tensors = {}
    for module, leaves in adapter.params.items():
        found = _LORA_MODULE.fullmatch(module)
        if found is None:
            continue  # the head
        site: Site = found[2]  # type: ignore[assignment]
        name = f"base_model.model.esm.encoder.layer.{found[1]}.{_PEFT_LAYERS[site]}"
        for ours, theirs in (("down", "lora_A"), ("up", "lora_B")):
            turned = np.asarray(leaves[ours], np.float32).T
            tensors[f"{name}.{theirs}.weight"] = np.ascontiguousarray(turned)
    write_safetensors(folder / PEFT_TENSORS, tensors)


def load_adapter(folder: Path) -> Adapter:
    """Reads an adapter.

    Raises:
        MissingInputError: if a file of it is not there.
        InputError: for a record or a file that is damaged, or of a newer version.
    """
    file = folder / RECORD
    if not file.is_file():
        raise MissingInputError(f"{folder}: no adapter: no {RECORD} in it")
    record = read_json(file)
    version = record.pop("format_version", None)
    rule = f"this package reads 1 to {FORMAT_VERSION}; install a newer one"
    known = type(version) is int and 1 <= version <= FORMAT_VERSION
    require(known, f"{file}: format_version", version, rule)
    record.pop("version", None)
    names = {field.name for field in dataclasses.fields(Adapter)} - {"params"}
    if version == 1:
        names -= _ADDED.keys()
    if record.keys() != names:
        raise InputError(f"{file}: damaged: must have {', '.join(sorted(names))}")
    record = _ADDED | record
    for name, is_right in _CHECKS.items():
        require(is_right(record[name]), f"{file}: {name}", record[name], "is damaged")
    if record["kind"] == "segmentation":
        rule = "the head of a segmentation reads the last layer alone"
        require(not record["layers"], f"{file}: layers", record["layers"], rule)
    for name in ("classes", "lora_sites", "layers"):
        record[name] = tuple(record[name])
    metrics = record["metrics"].items()
    record["metrics"] = {name: math.nan if value is None else value for name, value in metrics}
    return Adapter(params=_read_tensors(folder / TENSORS), **record)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "method": lambda value: value in get_args(Method),
    "lora_rank": lambda value: type(value) is int and 0 < value < 1 << 16,
    "lora_alpha": lambda value: isinstance(value, float | int) and math.isfinite(value),
    "lora_sites": lambda value: _is_texts(value) and set(value) <= LINEAR.keys(),
    "kind": lambda value: value in KINDS,
    "classes": lambda value: _is_texts(value) and bool(value),
    "pooling": lambda value: value in get_args(Pooling),
    "layers": lambda value: _is_numbers(value) and len(set(value)) == len(value),
    "strand": lambda value: value in get_args(Strand),
    "max_tokens": lambda value: type(value) is int and value > 1,
    "base": lambda value: isinstance(value, str),
    "base_digest": lambda value: isinstance(value, str),
    "random_seed": lambda value: value is None or (type(value) is int and 0 <= value < 2**32),
    "metrics": lambda value: isinstance(value, dict),
    "config": lambda value: isinstance(value, dict),
}
"""What each field of a record must be."""


def _read_tensors(file: Path) -> Params:
    params: Params = {}
    for label, source in open_tensors(file).items():
        module, _, name = label.rpartition("/")
        array = source.read()
        is_number = np.issubdtype(array.dtype, np.floating)
        if not (is_number and (np.abs(array) <= np.finfo(np.float32).max).all()):
            rule = "has values that are no finite numbers of float32"
            raise InputError(f"{file}: {show_name(label)}: {rule}")
        params.setdefault(module, {})[name] = jnp.asarray(array, jnp.float32)
    return params


def check_base(adapter: Adapter, base: Params, folder: Path, name: str) -> None:
    """Checks that a model is the one that an adapter was trained on.

    Args:
        adapter: what was read.
        base: the model's parameters, in float32.
        folder: of the adapter, for the message.
        name: of the model, for the message.

    Raises:
        InputError: if it is another.
    """
    found = digest_params(base)
    if found != adapter.base_digest:
        expected = f"{adapter.base} ({show_digest(adapter.base_digest)})"
        rule = f"was trained on {expected}: give this model as the base"
        raise InputError(f"{folder}: base = {name!r} ({show_digest(found)}): the adapter {rule}")


def check_shapes(adapter: Adapter, base: Params, config: ModelConfig, folder: Path) -> None:
    """Checks the names and shapes of an adapter's tensors against those of its method.

    Args:
        adapter: what was read.
        base: the base model's parameters.
        config: architecture of the base model.
        folder: of the adapter, for the message.

    Raises:
        InputError: one line with all that is missing, unexpected or misshapen.
    """
    for layer in adapter.layers:
        rule = f"the model's are numbered 0 to {config.num_layers}"
        require(0 <= layer <= config.num_layers, f"{folder / RECORD}: layers", layer, rule)
    wanted = _list_shapes(expect_params(adapter, base, config))
    compare_shapes(folder / TENSORS, _list_shapes(adapter.params), wanted)


def expect_params(adapter: Adapter, base: Params, config: ModelConfig) -> Params:
    """Shapes of what the adapter's method trains on a base model."""
    network = TaskNetwork(
        config=config,
        compute=ComputeConfig(),
        num_outputs=len(adapter.classes),
        pooling=adapter.pooling,
        layers=adapter.layers,
        per_nucleotide=adapter.kind == "segmentation",
        adapter=choose_adapter(
            adapter.method,
            rank=adapter.lora_rank,
            alpha=adapter.lora_alpha,
            sites=adapter.lora_sites,
        ),
    )
    added = jax.eval_shape(network.init, jax.random.key(0))
    whole = network.take_base(base) | added
    return {name: whole[name] for name in whole if is_trained(name, adapter.method)}


def _list_shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {
        f"{module}/{name}": tuple(leaf.shape)
        for module, leaves in params.items()
        for name, leaf in leaves.items()
    }
