"""The Hugging Face layout: `config.json`, and safetensors (whole or in shards) or PyTorch weights.

transformers keeps matrices as [output, input], we as [input, output]. Its files also have tensors
that the masked-language-model path never reads: `contact_head`, `position_ids`, the frequencies of
the rotary embedding, and a table of positions beside it; these are skipped, and not written.
"""

import importlib
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.files import write_json
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights.assembly import ParamsBuilder, show_name
from nucleotide_transformer.weights.configs import (
    make_huggingface_config,
    read_huggingface_config,
    read_json,
)

CONFIG = "config.json"
SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"
SAFETENSORS_INDEX, PYTORCH_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
WEIGHT_FILES = (SAFETENSORS, SAFETENSORS_INDEX, PYTORCH, PYTORCH_INDEX)
"""In the order of preference."""

MAX_SHARD_BYTES = 5_000_000_000
_POSITIONS = "esm.embeddings.position_embeddings.weight"
_FC1 = re.compile(r"esm\.encoder\.layer\.\d+\.intermediate\.dense\.weight")
_UNUSED = re.compile(
    r"esm\.contact_head\..*|esm\.pooler\..*|.*\binv_freq|.*\bposition_ids|lm_head\.decoder\.bias"
)


class Source(NamedTuple):
    """A tensor of a file, not read yet."""

    shape: tuple[int, ...]
    read: Callable[[], Shaped[np.ndarray, "..."]]


def load_huggingface(folder: Path, compute: ComputeConfig) -> tuple[Params, ModelConfig]:
    """Loads a folder of this layout, one tensor at a time; none whose name or shape is wrong.

    Raises:
        MissingInputError: if the config or the weights are not there.
        InputError: one line with all tensors that are missing, unexpected, misshapen or non-finite;
            or that a file is half-written or damaged; or with what is wrong in the config.
    """
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise MissingInputError(f"{folder}: none of {', '.join(WEIGHT_FILES)} is there")
    sources = open_tensors(file)
    fc1_shapes = (source.shape for name, source in sources.items() if _FC1.fullmatch(name))
    config = read_huggingface_config(folder / CONFIG, next(fc1_shapes, None))
    places = tensor_places(config)
    labels = {(place.module, place.name): name for name, place in places.items()}
    builder = ParamsBuilder(config, compute, file, lambda module, name: labels[module, name])
    for name, source in sources.items():
        place = places.get(name)
        if place is None:
            if not (_UNUSED.fullmatch(name) or name == _POSITIONS):
                builder.note("unexpected", "", name)
        elif builder.accepts(*place, source.shape, name):
            builder.add(place.module, place.name, source.read(), name, place.is_transposed)
    return builder.finish(), config


def open_tensors(file: Path) -> dict[str, Source]:
    """The tensors of a weight file, or of all the shards that an index lists.

    Raises:
        MissingInputError: if there is none.
        InputError: for a file that is damaged, or a shard with a tensor that the index gives to
            another file, or to none.
    """
    if file.name in (SAFETENSORS_INDEX, PYTORCH_INDEX):
        return _open_shards(file)
    if not file.is_file():
        raise MissingInputError(f"{file}: no such file")
    return _open_safetensors(file) if file.suffix == ".safetensors" else _open_pytorch(file)


def _open_shards(index: Path) -> dict[str, Source]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(map(_is_file_name, weight_map.values())):
        raise InputError(f"{index}: weight_map must give each tensor a file name in this folder")
    sources: dict[str, Source] = {}
    for shard in sorted(set(weight_map.values())):
        found = open_tensors(index.parent / shard)
        for name in found:
            if weight_map.get(name) != shard:
                owner = show_name(weight_map.get(name, "no file"))
                place = f"{index.parent / shard}: holds {show_name(name)}"
                raise InputError(f"{place}, which {index.name} gives to {owner}")
        sources |= found
    return sources


def _is_file_name(value: Any) -> bool:
    is_name = isinstance(value, str) and Path(value).name == value and value not in ("", "..")
    return is_name and value not in (SAFETENSORS_INDEX, PYTORCH_INDEX)


def _open_safetensors(file: Path) -> dict[str, Source]:
    """Opens a file with the library of that name, which refuses overlaps, holes and cut files."""
    from safetensors import SafetensorError, safe_open  # only here: other layouts do without

    try:
        with safe_open(file, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
            kinds = {name: str(each.get_dtype()) for name, each in slices.items()}
    except (SafetensorError, OSError) as error:
        reason = show_name(" ".join(str(error).split()))
        raise InputError(f"{file}: half-written or damaged ({reason}): fetch it again") from error

    def read(name: str) -> Shaped[np.ndarray, "..."]:
        try:  # opened anew: what is read of a mapped file stays in memory until it is closed
            with safe_open(file, framework="numpy") as tensors:
                return tensors.get_tensor(name)
        except (SafetensorError, TypeError, KeyError, AttributeError) as error:
            place = f"{file}: {show_name(name)}"
            raise InputError(f"{place}: type {kinds[name]} can't be read") from error

    return {name: Source(shape, partial(read, name)) for name, shape in shapes.items()}


def _open_pytorch(file: Path) -> dict[str, Source]:
    """Opens PyTorch weights, which are a pickle in a zip archive, with torch's own allow-list."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise InputError(
            f"{file}: reading PyTorch weights needs torch (pip install torch); a safetensors"
            " file or the jax_model folder of the same release does not"
        ) from error
    _check_archive(file)
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises what its pickle, zip and storage readers raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{file}: refused or damaged: {' '.join(reason)[:300]}") from error
    if not isinstance(tensors, Mapping) or not all(map(torch.is_tensor, tensors.values())):
        raise InputError(f"{file}: should hold tensors by name, and nothing else")
    sizes = (tensor.numel() * tensor.element_size() for tensor in tensors.values())
    total, size = sum(sizes), file.stat().st_size
    if total > 2 * size:  # two tensors may share what is stored, such as both token tables
        raise InputError(
            f"{file}: its tensors have {total} bytes, more than twice the file's {size}"
        )

    def read(name: str, tensor: Any) -> Shaped[np.ndarray, "..."]:
        try:
            plain = tensor.detach()
            if tensor.dtype == torch.bfloat16:
                array = plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
            else:
                array = plain.numpy()
            return array.copy()  # the file is mapped: what is written to it later would show
        except (TypeError, RuntimeError) as error:
            kind = f"{tensor.dtype}, {tensor.layout}"
            raise InputError(f"{file}: {show_name(name)}: type {kind} can't be read") from error

    return {
        str(name): Source(tuple(tensor.shape), partial(read, name, tensor))
        for name, tensor in tensors.items()
    }


def _check_archive(file: Path) -> None:
    """Raises an `InputError` for what is no zip archive, or one that unpacks to more than it is."""
    if not zipfile.is_zipfile(file):
        rule = "half-written, or saved by torch below 1.6: fetch it, or save it, again"
        raise InputError(f"{file}: no zip archive: {rule}")
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise InputError(f"{file}: damaged ({error!s:.100}): fetch it again") from error
    size = file.stat().st_size
    if unpacked > size:
        raise InputError(f"{file}: compressed, or damaged: {size} bytes hold {unpacked}")


def save_huggingface(
    folder: Path, params: Params, config: ModelConfig, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes config and weights into a folder; in shards if they are larger than one may be.

    The library needs the bytes of a shard once more while it writes them.

    Raises:
        InputError: for an architecture that this layout has no words for.
    """
    content = make_huggingface_config(config)
    places = tensor_places(config)
    dtypes = {str(leaf.dtype) for leaves in params.values() for leaf in leaves.values()}
    write_json(folder / CONFIG, content | {"torch_dtype": min(dtypes)})
    shards = _split(params, places, max_shard_bytes)
    weight_map: dict[str, str] = {}
    total = 0
    for i, names in enumerate(shards, 1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        shard = {tensor: _take_tensor(params, places[tensor]) for tensor in names}
        file = folder / (SAFETENSORS if len(shards) == 1 else name)
        write_safetensors(file, shard)
        weight_map |= dict.fromkeys(names, name)
        total += sum(array.nbytes for array in shard.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / SAFETENSORS_INDEX, index)


def write_safetensors(file: Path, tensors: dict[str, Shaped[np.ndarray, "..."]]) -> None:
    """Writes a file; a disk that is full is an `OSError`, as elsewhere."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(tensors, file, {"format": "pt"})
        file.chmod(mode)  # the library writes for the owner alone
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(file)) from error


def _take_tensor(params: Params, place: "Place") -> Shaped[np.ndarray, "..."]:
    array = np.asarray(params[place.module][place.name])
    return np.ascontiguousarray(array.T) if place.is_transposed else array


def _split(params: Params, places: Mapping[str, "Place"], max_bytes: int) -> list[list[str]]:
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


class Place(NamedTuple):
    """Where a tensor of the file belongs."""

    module: str
    name: str
    is_transposed: bool


def tensor_places(config: ModelConfig) -> dict[str, Place]:
    """Every tensor that a file of this architecture must have, by its name there."""
    top, head = "esm_transformer/~", "esm_transformer/~/esm_roberta_lm_head/~"
    embed, norm_before = "esm.embeddings.word_embeddings", "esm.embeddings.layer_norm"
    places = {f"{embed}.weight": Place(f"{top}/embed", "embeddings", False)}
    if config.position == "learned":
        table = f"{top}/esm_learned_positional_embeddings/~/embed"
        places[_POSITIONS] = Place(table, "embeddings", False)
    if config.embed_layer_norm:
        places |= _norm(norm_before, f"{top}/emb_layer_norm_before")
    for layer in range(config.num_layers):
        places |= _layer_places(layer, config.ffn_bias)
    places |= _norm("esm.encoder.emb_layer_norm_after", f"{head}/emb_layer_norm_after")
    places |= _linear("lm_head.dense", f"{head}/lm_head_fc_1")
    places |= _norm("lm_head.layer_norm", f"{head}/lm_head_layer_norm")
    places["lm_head.decoder.weight"] = Place(f"{head}/lm_final_fc", "w", True)
    places["lm_head.bias"] = Place(f"{head}/lm_final_fc", "b", False)
    return places


def _layer_places(layer: int, ffn_bias: bool) -> dict[str, Place]:
    there, here = f"esm.encoder.layer.{layer}", f"esm_transformer/attention_layer_{layer}/~"
    places = _norm(f"{there}.attention.LayerNorm", f"{here}/mha_layer_norm")
    for name in ("query", "key", "value"):
        places |= _linear(f"{there}.attention.self.{name}", f"{here}/mha/{name}")
    places |= _linear(f"{there}.attention.output.dense", f"{here}/mha/mha_output")
    places |= _norm(f"{there}.LayerNorm", f"{here}/final_layer_norm")
    places |= _linear(f"{there}.intermediate.dense", f"{here}/fc1", ffn_bias)
    return places | _linear(f"{there}.output.dense", f"{here}/fc2", ffn_bias)


def _linear(there: str, here: str, bias: bool = True) -> dict[str, Place]:
    weight = {f"{there}.weight": Place(here, "w", True)}
    return weight | ({f"{there}.bias": Place(here, "b", False)} if bias else {})


def _norm(there: str, here: str) -> dict[str, Place]:
    places = {"weight": Place(here, "scale", False), "bias": Place(here, "offset", False)}
    return {f"{there}.{name}": place for name, place in places.items()}
