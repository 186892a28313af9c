"""The layout of the released JAX checkpoints: `hyperparams.json` and `pytree_ckpt.joblib`.

The released files agree on what the parts of a module name mean, not on the names: the first part
is `esm_transformer`, or (agro) the name of the model; attention is `mha` or `self_attention`, the
head `esm_roberta_lm_head` or (v2) `roberta_lm_head`. We write the first of each.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.files import write_json
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights.assembly import ParamsBuilder, count_bytes, expected_shapes
from nucleotide_transformer.weights.configs import make_hyperparams, read_hyperparams
from nucleotide_transformer.weights.unpickle import Budget, is_compressed, load_joblib

HYPERPARAMS, CHECKPOINT = "hyperparams.json", "pytree_ckpt.joblib"
_OLD_CHECKPOINT = "ckpt.joblib"
"""Its name in the cache of older published code, `~/.cache/nucleotide_transformer/<model>`."""

_SYNONYMS = {
    "self_attention": "mha",
    "self_attention_layer_norm": "mha_layer_norm",
    "roberta_lm_head": "esm_roberta_lm_head",
}
_PICKLE_PROTOCOL = 4
_NAME_BYTES = 1_024
"""Most that a file may have of an array beside its numbers; the released ones have up to 100."""


def find_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of a folder, by its name or its old one; None if there is none."""
    files = (folder / CHECKPOINT, folder / _OLD_CHECKPOINT)
    return next((file for file in files if file.is_file()), None)


def load_released_jax(folder: Path, compute: ComputeConfig) -> tuple[Params, ModelConfig]:
    """Loads a folder of this layout; the joblib file goes through the allow-list.

    Raises:
        MissingInputError: if one of the two files is not there.
        InputError: one line: what the joblib file asks for beyond arrays; or all tensors that are
            missing, unexpected, misshapen or non-finite; or what is wrong in the hyperparameters.
    """
    config = read_hyperparams(folder / HYPERPARAMS)
    file = find_checkpoint(folder) or folder / CHECKPOINT
    builder = ParamsBuilder(config, compute, file)
    modules = {simplify_module(module): module for module in expected_shapes(config)}
    tree = load_joblib(file, make_budget(config))
    if not isinstance(tree, dict):
        raise InputError(f"{file}: should hold a dict of modules, not a {type(tree).__name__}")
    for label, name, leaf in _take_leaves(tree):
        place = f"{label}/{name}" if name else label
        module = modules.get(simplify_module(label), label)
        if isinstance(leaf, np.ndarray):
            builder.add(module, name, leaf, place)
        else:
            builder.note("unexpected", f"(a {type(leaf).__name__})", place)
    return builder.finish(), config


def make_budget(config: ModelConfig) -> Budget:
    """What the checkpoint of a model may cost: 8 bytes a parameter, and a kB for each array."""
    num_arrays = _count_arrays(config)
    num_bytes = count_bytes(config, 8) + _NAME_BYTES * num_arrays + (1 << 20)
    return Budget(num_bytes, num_arrays)


def check_size(file: Path, config: ModelConfig) -> None:
    """Checks that a checkpoint has the size of a released model's: all are float32.

    A compressed one, as those of 2.5 billion parameters are by their size, must only not be larger.

    Raises:
        InputError: for another size.
    """
    size, plain = file.stat().st_size, count_bytes(config, 4)
    least = 0 if is_compressed(file) else plain
    most = plain + _NAME_BYTES * _count_arrays(config)
    rule = f"must be {least} to {most}: 4 for each parameter, and their names"
    rule += "; load_pretrained(..., revision='main') takes it unchecked"
    require(least <= size <= most, f"{file}: bytes", size, rule)


def _count_arrays(config: ModelConfig) -> int:
    return sum(map(len, expected_shapes(config).values()))


def _take_leaves(tree: dict[Any, Any]) -> Iterator[tuple[str, str, Any]]:
    """Module, name and array of each parameter, dropped from the tree as it is given."""
    for label in list(tree):
        leaves = tree.pop(label, {})
        if not isinstance(leaves, dict):
            yield str(label), "", leaves
            continue
        for name in list(leaves):
            yield str(label), str(name), leaves.pop(name)


def simplify_module(module: str) -> str:
    """Returns what all names of a module have in common: without its first part and Haiku's `~`.

    Example:
        >>> simplify_module("dcnuc_v2_500M_multi_species/attention_layer_3/~/self_attention/key")
        'attention_layer_3/mha/key'
    """
    parts = module.split("/")[1:]
    return "/".join(_SYNONYMS.get(part, part) for part in parts if part != "~")


def save_released_jax(folder: Path, params: Params, config: ModelConfig) -> None:
    """Writes hyperparameters and checkpoint into a folder; bfloat16 as float32."""
    import joblib  # only to write, so that reading does without

    write_json(folder / HYPERPARAMS, make_hyperparams(config))
    tree = {
        module: {name: _to_numpy(leaf) for name, leaf in leaves.items()}
        for module, leaves in params.items()
    }
    joblib.dump(tree, folder / CHECKPOINT, protocol=_PICKLE_PROTOCOL)


def _to_numpy(leaf: Any) -> Shaped[np.ndarray, "..."]:
    return np.asarray(leaf, np.float32 if leaf.dtype == jnp.bfloat16 else None)
