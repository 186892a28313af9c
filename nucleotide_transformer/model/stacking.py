"""Parameters of the transformer blocks: by layer, as released, or stacked over the layers.

A scan over the blocks takes each parameter of all but the last as one array; the last block is by
itself, because in training only masked tokens go through all of it. Training and
inference, which use the parameters many times, stack them once; else every call does it. What is
read and written goes by the released names: `stack_blocks` and `unstack_blocks` lie in between.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nucleotide_transformer.config import Stack
from nucleotide_transformer.types import Params

Modules = Mapping[str, Mapping[str, Any]]
"""Parameters that are only read."""

BLOCK = "attention_layer"
"""Released name of a block, followed by its number from 0: `esm_transformer/attention_layer_0`."""
STACK = "attention_layers"
"""Ours for all blocks but the last; each parameter has a first axis of layers."""


def read_block(params: Modules, model: str, index: int) -> Params:
    """Parameters of block `index` (from 0) in the module `model`, named from "block" on."""
    named = select(params, f"{model}/{BLOCK}_{index}/")
    return named or jax.tree.map(lambda leaf: leaf[index], select(params, f"{model}/{STACK}/"))


def read_stack(params: Modules, model: str, run: range) -> Params:
    """Parameters of the blocks of a run, without the last of all, stacked along a first axis."""
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
    """Parameters with the blocks but the last stacked, which `make_forward` takes just as well.

    They are copies: as long as both forms are in use, the blocks lie in memory twice.
    """
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
        *in_order, last = (blocks[index] for index in range(len(blocks)))
        rest[name.replace(STACK, f"{BLOCK}_{len(in_order)}")] = last
        if in_order:
            rest[name] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *in_order)
    return rest


def arrange_blocks(params: Params, stack: Stack) -> Params:
    """Parameters as the model uses them most cheaply: those of the blocks stacked for a scan."""
    return jax.jit(stack_blocks)(params) if stack == "scan" else params


def unstack_blocks(params: Modules) -> Params:
    """The reverse of `stack_blocks`; other parameters stay as they are."""
    named: Params = {}
    for name, leaves in params.items():
        model, stacked, module = name.partition(f"/{STACK}/")
        if not stacked:
            named[name] = dict(leaves)
            continue
        for index in range(len(next(iter(leaves.values())))):
            block = f"{model}/{BLOCK}_{index}/{module}"
            named[block] = {leaf: stack[index] for leaf, stack in leaves.items()}
    return named
