"""The two forms of the parameters: by their released names, or stacked for a scan over the blocks.

`Params` is what `init` gives, what files hold and what users see. A scan takes each parameter of
all blocks but the last as one array: `StackedParams`. The last block is by itself, because in
training only masked tokens go through all of it. Training and inference, which use the parameters
many times, stack them once; else every call does it. `stack_params` and `name_params` lie between
the two, and nothing else does.

A leaf may be None in both: it belongs to the other half of parameters that are parted into
trainable and frozen ones.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.config import ComputeConfig, Stack
from nucleotide_transformer.errors import require
from nucleotide_transformer.types import Array, Params

ENCODER = "esm_transformer"
"""Released name of the whole model."""
BLOCK = "block"
"""Name of any one block, in place of the released one: `esm_transformer/attention_layer_0`."""


_HEAD = f"{ENCODER}/~/esm_roberta_lm_head/"
_ROUNDED = (f"{ENCODER}/attention_layer_", _HEAD)
"""Beginnings of the names of modules whose products have factors of the activations' type."""
_SHARED = f"{_HEAD}~/shared"
_ADDED = (_SHARED, f"{_HEAD}~/lm_final_fc")
"""Modules whose matrices are added up before they are rounded, if there are both."""


class StackedParams(NamedTuple):
    """Parameters with the blocks stacked."""

    rest: Params
    """All that is in no block, by released names."""
    blocks: Params
    """All blocks but the last: `block/~/fc1` and so on, each leaf with a first axis of layers
    [L - 1, ...]. Empty for a model of one block."""
    last: Params
    """The last block, by released names, which tell how many blocks there are."""


AnyParams = Params | StackedParams
"""Parameters in either form."""


def name_block(index: int) -> str:
    """Released name of a block (from 0), which those of its modules start with."""
    return f"{ENCODER}/attention_layer_{index}"


def stack_params(params: Params) -> StackedParams:
    """Stacks the blocks: arrays of JAX, or of NumPy where all are of NumPy.

    They are copies: as long as both forms are in use, the blocks lie in memory twice.

    Raises:
        InputError: if a block is missing, or if some of the blocks before the last have a
            parameter, and others None in its place.
    """
    rest: Params = {}
    blocks: dict[int, Params] = {}
    for name, leaves in params.items():
        found = re.fullmatch(rf"{ENCODER}/attention_layer_(\d+)(/.*)", name)
        modules, key = (
            (blocks.setdefault(int(found[1]), {}), BLOCK + found[2]) if found else (rest, name)
        )
        modules[key] = dict(leaves)
    if not blocks:
        return StackedParams(rest, {}, {})
    depth = max(blocks) + 1
    for index in range(depth):
        require(index in blocks, "params", name_block(index), f"missing among {depth} blocks")
    *early, last = (blocks[index] for index in range(depth))
    rule = "the blocks before the last must have the same parameters; compute.stack = 'loop' helps"
    require(len(set(map(jax.tree.structure, early))) <= 1, "compute.stack", "scan", rule)
    stacked = jax.tree.map(_stack, *early) if early else {}
    return StackedParams(rest, stacked, _rename(last, BLOCK, name_block(depth - 1)))


def name_params(tree: Any) -> Any:
    """The tree with `Params` by released names for each `StackedParams` in it.

    Other leaves stay as they are. Of NumPy's arrays the results are views, not copies.

    Args:
        tree: parameters, or any tree that has them in it, such as an optimiser's state.
    """
    return jax.tree.map(
        lambda node: _name(node) if _is_stacked(node) else node, tree, is_leaf=_is_stacked
    )


def arrange_params(params: Params, stack: Stack) -> AnyParams:
    """The form of the parameters that the model uses most cheaply: stacked for a scan."""
    return jax.jit(stack_params)(params) if stack == "scan" else params


def arrange_for_inference(params: Params, compute: ComputeConfig) -> AnyParams:
    """The form in which parameters that nothing trains are used most cheaply.

    Where products have 16-bit factors, the matrices (`w`) of the blocks and of the masked-LM head
    are rounded here, once, and not at every call, to the same bits. Not so where they are rounded
    as a sum, with vectors that token tables share, nor those of other heads, which may compute in
    float32, as those of tasks do. With `compute.stack` = "loop" nothing is stacked.

    Args:
        params: by their released names.
        compute: with the type of the activations decided ("auto" no more).
    """
    dtype = jnp.dtype(compute.compute_dtype)
    exact = _ADDED if _SHARED in params else ()

    def round_matrix(path: Any, leaf: Array) -> Array:
        module, name = path[0].key, path[-1].key
        is_matrix = name == "w" and module.startswith(_ROUNDED) and module not in exact
        return leaf.astype(dtype) if is_matrix and dtype.itemsize < leaf.dtype.itemsize else leaf

    def arrange(params: Params) -> AnyParams:
        rounded = jax.tree_util.tree_map_with_path(round_matrix, params)
        return stack_params(rounded) if compute.stack == "scan" else rounded

    if compute.stack == "loop" and dtype.itemsize >= 4:
        return params
    return jax.jit(arrange)(params)


def arrange_like(template: Any, tree: Any) -> Any:
    """The reverse of `name_params`: stacks the parameters of a tree where the template has them so.

    Args:
        template: the structure that comes back; of its leaves nothing is read, so that those of
            `jax.eval_shape` will do.
        tree: the same with `Params` by released names for each `StackedParams`.
    """
    return jax.tree.map(
        lambda like, node: stack_params(node) if _is_stacked(like) else node,
        template,
        tree,
        is_leaf=_is_stacked,
    )


def count_blocks(params: AnyParams) -> int:
    """Blocks that there are parameters of."""
    named = params.last if isinstance(params, StackedParams) else params
    found = (re.match(rf"{ENCODER}/attention_layer_(\d+)/", name) for name in named)
    return max((int(number[1]) + 1 for number in found if number), default=0)


def take_block(params: AnyParams, index: int) -> Params:
    """Parameters of one block (from 0), named from "block" on."""
    if isinstance(params, StackedParams):
        last = take_block(params.last, index)
        return last or jax.tree.map(lambda leaf: leaf[index], params.blocks)
    return _rename(params, name_block(index), BLOCK)


def _name(params: StackedParams) -> Params:
    named = {name: dict(leaves) for name, leaves in (params.rest | params.last).items()}
    for index in range(count_blocks(params) - 1):
        block = jax.tree.map(lambda leaf, index=index: leaf[index], params.blocks)
        named |= _rename(block, BLOCK, name_block(index))
    return named


def _rename(params: Params, old: str, new: str) -> Params:
    """The modules in the module `old`, which gets a new name."""
    return {
        new + name.removeprefix(old): dict(leaves)
        for name, leaves in params.items()
        if name.startswith(f"{old}/")
    }


def _stack(*leaves: Any) -> Any:
    library = np if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp
    return library.stack(leaves)


def _is_stacked(node: Any) -> bool:
    return isinstance(node, StackedParams)
