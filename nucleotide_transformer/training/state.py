"""What training changes: parameters, the optimiser's state and the number of updates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nucleotide_transformer.types import Array, Int

Tree = Any
"""Any nesting of dictionaries and tuples with arrays as its leaves."""


class TrainState(NamedTuple):
    """All that an update reads. No array has an axis of devices.

    Parameters are a tree that is cut in two: `trainable` and `frozen` have the structure of the
    whole and None where a leaf is in the other. JAX passes over None, so that only what is
    trainable has gradients and moments, and is saved.
    """

    trainable: Tree
    """Parameters that updates change."""
    frozen: Tree
    """Parameters that they don't."""
    opt_state: optax.OptState
    """Of the trainable parameters."""
    step: Int[Array, ""]
    """Updates applied so far."""

    @property
    def params(self) -> Tree:
        """All parameters."""
        return merge(self.trainable, self.frozen)


def partition(params: Tree, is_trainable: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Cuts parameters into trainable and frozen ones.

    Args:
        params: any tree of arrays.
        is_trainable: of a leaf's path, its keys joined by "/", such as "lora/mha/query/w".

    Example:
        >>> partition({"base": {"w": 1}, "lora": {"a": 2}}, lambda path: path.startswith("lora"))
        ({'base': {'w': None}, 'lora': {'a': 2}}, {'base': {'w': 1}, 'lora': {'a': None}})
    """

    def chosen(path: Any) -> bool:
        return is_trainable(jax.tree_util.keystr(path, simple=True, separator="/"))

    cut = jax.tree_util.tree_map_with_path
    trainable = cut(lambda path, leaf: leaf if chosen(path) else None, params)
    frozen = cut(lambda path, leaf: None if chosen(path) else leaf, params)
    return trainable, frozen


def merge(trainable: Tree, frozen: Tree) -> Tree:
    """The reverse of `partition`."""

    def choose(one: Any, other: Any) -> Any:
        return other if one is None else one

    return jax.tree.map(choose, trainable, frozen, is_leaf=lambda leaf: leaf is None)


def init_state(
    params: Tree,
    optimizer: optax.GradientTransformation,
    is_trainable: Callable[[str], bool] = lambda _: True,
) -> TrainState:
    """The state before the first update.

    Args:
        params: initial or pre-trained parameters.
        optimizer: any of optax.
        is_trainable: see `partition`; everything by default.
    """
    trainable, frozen = partition(params, is_trainable)
    return TrainState(trainable, frozen, optimizer.init(trainable), jnp.int32(0))
