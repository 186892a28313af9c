"""The Hugging Face layout: `config.json`, and safetensors (whole or in shards) or PyTorch weights.

transformers keeps matrices as [output, input], we as [input, output]. Its files also have tensors
that the masked-language-model path never reads: `contact_head`, `position_ids`, the frequencies of
the rotary embedding, and a table of positions beside it; these are skipped, and not written.
"""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights.assembly import ParamsBuilder
from nucleotide_transformer.weights.configs import (
    make_huggingface_config,
    read_huggingface_config,
    read_json,
    write_json,
)
from nucleotide_transformer.weights.huggingface_names import (
    FC1,
    POSITIONS,
    Place,
    tensor_places,
)
from nucleotide_transformer.weights.safetensors_file import (
    TensorEntry,
    read_header,
    read_tensor,
    write_tensors,
)

CONFIG = "config.json"
SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"
SAFETENSORS_INDEX, PYTORCH_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
WEIGHT_FILES = (SAFETENSORS, SAFETENSORS_INDEX, PYTORCH, PYTORCH_INDEX)
"""In the order of preference."""

MAX_SHARD_BYTES = 5_000_000_000
_UNUSED = re.compile(
    r"esm\.contact_head\..*|esm\.pooler\..*|.*\binv_freq|.*\bposition_ids|lm_head\.decoder\.bias"
)


class Source(NamedTuple):
    """A tensor of a file, not read yet."""

    shape: tuple[int, ...]
    missing: int
    """Bytes that it lacks."""
    read: Callable[[], Shaped[np.ndarray, "..."]]


def load_huggingface(folder: Path, compute: ComputeConfig) -> tuple[Params, ModelConfig]:
    """Loads a folder of this layout, one tensor at a time.

    Raises:
        MissingInputError: if the config or the weights are not there.
        InputError: one line with all tensors that are missing, unexpected, misshapen, non-finite
            or half-written; or with what is wrong in the config.
    """
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise MissingInputError(f"{folder}: none of {', '.join(WEIGHT_FILES)} is there")
    sources = _open_sources(file)
    fc1_shapes = (source.shape for name, source in sources.items() if FC1.fullmatch(name))
    config = read_huggingface_config(folder / CONFIG, next(fc1_shapes, None))
    places = tensor_places(config)
    labels = {(place.module, place.name): name for name, place in places.items()}
    builder = ParamsBuilder(config, compute, file, lambda module, name: labels[module, name])
    for name, source in sources.items():
        place = places.get(name)
        if place is None:
            if not (_UNUSED.fullmatch(name) or name == POSITIONS):
                builder.note("unexpected", "", name)
        elif source.missing:
            detail = f"({source.missing} bytes short)"
            builder.note("half-written", detail, name, place.module, place.name)
        else:
            array = source.read()
            builder.add(place.module, place.name, array, name, is_transposed=place.is_transposed)
    return builder.finish(), config


def _open_sources(file: Path) -> dict[str, Source]:
    """The tensors of a weight file, or of all the shards that an index lists."""
    if file.name == SAFETENSORS:
        return _open_safetensors(file)
    if file.name == PYTORCH:
        return _open_pytorch(file)
    opener = _open_safetensors if file.name == SAFETENSORS_INDEX else _open_pytorch
    weight_map = read_json(file).get("weight_map")
    if not isinstance(weight_map, dict) or not all(map(_is_file_name, weight_map.values())):
        raise InputError(f"{file}: weight_map must give each tensor a file name in this folder")
    sources: dict[str, Source] = {}
    for name in sorted(set(weight_map.values())):
        sources |= opener(file.parent / name)
    return sources


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and Path(value).name == value and value not in ("", "..")


def _open_safetensors(file: Path) -> dict[str, Source]:
    def make_source(entry: TensorEntry) -> Source:
        return Source(entry.shape, entry.missing, partial(read_tensor, entry))

    return {name: make_source(entry) for name, entry in read_header(file).items()}


def _open_pytorch(file: Path) -> dict[str, Source]:
    """Opens PyTorch weights, which are a pickle, with torch's own allow-list."""
    if not file.is_file():
        raise MissingInputError(f"{file}: no such file")
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise InputError(
            f"{file}: reading PyTorch weights needs torch (pip install torch); a safetensors"
            " file or the jax_model folder of the same release does not"
        ) from error
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises what its pickle, zip and storage readers raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{file}: refused or damaged: {' '.join(reason)[:300]}") from error
    if not isinstance(tensors, Mapping) or not all(map(torch.is_tensor, tensors.values())):
        raise InputError(f"{file}: should hold tensors by name, and nothing else")

    def read(tensor: Any) -> Shaped[np.ndarray, "..."]:
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    return {
        name: Source(tuple(tensor.shape), 0, partial(read, tensor))
        for name, tensor in tensors.items()
    }


class _Tensors(Mapping[str, Shaped[np.ndarray, "..."]]):
    """Parameters under the names of the file; a matrix is transposed when it is asked for."""

    def __init__(self, params: Params, places: Mapping[str, Place]):
        self._params, self._places = params, places

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "..."]:
        place = self._places[name]
        array = np.asarray(self._params[place.module][place.name])
        return array.T if place.is_transposed else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def save_huggingface(
    folder: Path, params: Params, config: ModelConfig, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes config and weights into a folder; in shards if they are larger than one may be.

    Raises:
        InputError: for an architecture that this layout has no words for.
    """
    content = make_huggingface_config(config)
    places = tensor_places(config)
    dtypes = {str(leaf.dtype) for leaves in params.values() for leaf in leaves.values()}
    write_json(folder / CONFIG, content | {"torch_dtype": min(dtypes)})
    shards = _split(params, places, max_shard_bytes)
    if len(shards) == 1:
        write_tensors(folder / SAFETENSORS, _Tensors(params, places))
        return
    weight_map: dict[str, str] = {}
    total = 0
    for i, names in enumerate(shards, 1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        shard = _Tensors(params, {tensor: places[tensor] for tensor in names})
        write_tensors(folder / name, shard)
        weight_map |= dict.fromkeys(names, name)
        total += sum(array.nbytes for array in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / SAFETENSORS_INDEX, index)


def _split(params: Params, places: Mapping[str, Place], max_bytes: int) -> list[list[str]]:
    """The names of the tensors in order, cut into shards of at most so many bytes."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, place in places.items():
        size = params[place.module][place.name].nbytes
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
