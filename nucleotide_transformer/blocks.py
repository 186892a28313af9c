"""Parameters of the transformer blocks: by layer, as released, or stacked over the layers.

A scan over the blocks takes each parameter of all layers as one array. Inference, which uses the
same parameters for many batches, stacks them once; else every call does it.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nucleotide_transformer.types import Params

Modules = Mapping[str, Mapping[str, Any]]
"""Parameters that are only read."""

BLOCK = "attention_layer"
"""Released name of a block, followed by its number from 0: `esm_transformer/attention_layer_0`."""
STACK = "attention_layers"
"""Ours for all blocks, of which each parameter has a first axis of layers."""


def read_block(params: Modules, model: str, index: int) -> Params:
    """Parameters of block `index` (from 0) in the module `model`, named from "block" on."""
    stacked = select(params, f"{model}/{STACK}/")
    if stacked:
        return jax.tree.map(lambda leaf: leaf[index], stacked)
    return select(params, f"{model}/{BLOCK}_{index}/")


def read_stack(params: Modules, model: str, run: range) -> Params:
    """Parameters of the blocks of a run, stacked along a first axis."""
    stacked = select(params, f"{model}/{STACK}/")
    if stacked:
        return jax.tree.map(lambda leaf: leaf[run.start : run.stop], stacked)
    blocks = [select(params, f"{model}/{BLOCK}_{index}/") for index in run]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)


def select(params: Modules, prefix: str) -> Params:
    """The modules whose names start with a prefix, for which "block/" then stands."""
    return {
        "block/" + name.removeprefix(prefix): dict(leaves)
        for name, leaves in params.items()
        if name.startswith(prefix)
    }


def stack_blocks(params: Modules) -> Params:
    """Parameters with those of all blocks stacked, which `make_forward` takes just as well."""
    pattern = re.compile(rf"(.*)/{BLOCK}_(\d+)/(.*)")
    rest: Params = {}
    stacks: dict[str, dict[int, dict[str, jax.Array]]] = {}
    for name, leaves in params.items():
        found = pattern.fullmatch(name)
        if found is None:
            rest[name] = dict(leaves)
        else:
            model, index, module = found.groups()
            stacks.setdefault(f"{model}/{STACK}/{module}", {})[int(index)] = dict(leaves)
    for name, blocks in stacks.items():
        in_order = [blocks[index] for index in range(len(blocks))]
        rest[name] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *in_order)
    return rest
