"""Optimisers: one optax chain, made from a config.

    gradient -> clipped -> direction (the rule: Adam, Lion, Muon) -> update

The update of a parameter p with direction d, in update number n (from 0), is

    -rate(n) * group.rate * (d + weight_decay * group.decay * p)

so decay is decoupled from the gradient (Loshchilov & Hutter 2019, algorithm 2; arXiv 1711.05101).
What the parts remember is a pair, (of the rule, number of updates), whatever the config. Every
moment in the first has the structure of the parameters, with None where the rule keeps none.

A new rule is one entry in `OPTIMIZERS`; its name there is its name in a config.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from nucleotide_transformer.errors import require
from nucleotide_transformer.optimizer_config import Group, GroupConfig, OptimizerConfig
from nucleotide_transformer.training.schedule import make_schedule as make_schedule
from nucleotide_transformer.types import Array, Float

NORM_LEAVES = ("b", "scale", "offset")
"""Names of parameters that are vectors, stacked over the layers or not."""
TABLE_LEAVES = ("embeddings",)
"""Names of tables, a row for each token or position."""
MUON_RMS = 0.2
"""Root mean square of Muon's directions, which is about that of Adam's (Liu et al. 2025)."""

Path = tuple[Any, ...]
"""Keys from the root of a tree to a leaf, as `jax.tree_util` gives them."""


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """The whole update, from a gradient to what is added to the parameters.

    Args:
        config: the optimiser.
        total_steps: updates of the whole run.

    Returns:
        An optimiser for any tree whose paths end with module and parameter names: by released
        names, stacked over the layers, wrapped in further dictionaries, with None for what is
        frozen. Its `update` needs the parameters.

    Raises:
        InputError: for an unknown rule or schedule, or a run too short for its schedule.
    """
    known = f"must be one of {', '.join(OPTIMIZERS)}"
    require(config.name in OPTIMIZERS, "optimizer.name", config.name, known)
    rule = OPTIMIZERS[config.name](config)
    return optax.chain(
        clip_before(rule, config.clip_norm),
        descend(make_schedule(config, total_steps), config),
    )


def find_group(path: Path) -> Group:
    """The group of a parameter, by its names alone, since stacked biases have two axes as well.

    norms: parameters called b, scale or offset, wherever they are; tables: those called
    embeddings; head: the others in modules whose names contain "head"; matrices: the rest.
    """
    leaf = jax.tree_util.keystr(path[-1:], simple=True)
    if leaf in NORM_LEAVES:
        return "norms"
    if leaf in TABLE_LEAVES:
        return "tables"
    modules = jax.tree_util.keystr(path[:-1], simple=True, separator="/")
    return "head" if "head" in modules else "matrices"


def clip_before(
    rule: optax.GradientTransformation, clip_norm: float | None
) -> optax.GradientTransformation:
    """The rule, fed with gradients times min(1, clip_norm / their global norm).

    The norm is over all trainable parameters (Pascanu et al. 2013, algorithm 1).
    """
    if clip_norm is None:
        return rule

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factor = jnp.minimum(1.0, clip_norm / optax.tree.norm(gradient))  # 1 for a norm of zero
        clipped = jax.tree.map(lambda leaf: leaf * factor, gradient)
        return rule.update(clipped, state, params)

    return optax.GradientTransformation(rule.init, update)


def descend(schedule: optax.Schedule, config: OptimizerConfig) -> optax.GradientTransformation:
    """Turns directions into updates: learning rate and decay, by group."""

    def init(params: Any) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(directions: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        assert params is not None, "the update of an optimiser with decay needs the parameters"
        rate = schedule(state.count)

        def scale(
            path: Path, direction: Float[Array, "*shape"], param: Float[Array, "*shape"]
        ) -> Float[Array, "*shape"]:
            group: GroupConfig = getattr(config, find_group(path))
            decay = config.weight_decay * group.decay
            if decay:
                direction = direction + decay * param
            return jnp.asarray(-rate * group.rate, direction.dtype) * direction

        updates = jax.tree_util.tree_map_with_path(scale, directions, params)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def make_adam(config: OptimizerConfig) -> optax.GradientTransformation:
    """Adam's directions (Kingma & Ba 2015, algorithm 1); with weight_decay it is AdamW."""
    return optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)


def make_lion(config: OptimizerConfig) -> optax.GradientTransformation:
    """Lion's directions: sign(beta1 * m + (1 - beta1) * g), then m decays with beta2.

    Chen et al. 2023, algorithm 2 (arXiv 2302.06675).
    """
    return optax.scale_by_lion(config.beta1, config.beta2)


class MuonState(NamedTuple):
    """What Muon's two halves remember; None stands for the parameters of the other half."""

    matrices: Any
    others: Any
    """Adam's moments, of tables, head, norms and biases."""


def make_muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Muon for the group `matrices`, Adam for the other groups.

    A matrix's direction is its Nesterov momentum, made nearly orthogonal by five Newton-Schulz
    iterations (Jordan 2024, github.com/KellerJordan/Muon), times 0.2 * sqrt(max(rows, columns)).
    With that its root mean square is about Adam's, so that one learning rate and one decay do for
    both (Liu et al. 2025, equation 4; arXiv 2502.16982). Matrices stacked over the layers,
    [L, D, F], are each made orthogonal by themselves.
    """
    muon, adam = orthogonalise_momentum(config.momentum), make_adam(config)

    def init(params: Any) -> MuonState:
        matrices, others = split_matrices(params)
        return MuonState(muon.init(matrices), adam.init(others))

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        of_matrices, of_others = split_matrices(gradient)
        matrices, muon_state = muon.update(of_matrices, state.matrices)
        others, adam_state = adam.update(of_others, state.others)
        directions = jax.tree.map(
            lambda matrix, other: other if matrix is None else matrix,
            matrices,
            others,
            is_leaf=lambda leaf: leaf is None,
        )
        return directions, MuonState(muon_state, adam_state)

    return optax.GradientTransformation(init, update)


def split_matrices(tree: Any) -> tuple[Any, Any]:
    """The group `matrices` and the other groups: two trees, with None for what is not theirs."""

    def keep(matrices: bool) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if (find_group(path) == "matrices") == matrices else None, tree
        )

    return keep(True), keep(False)


def orthogonalise_momentum(momentum: float) -> optax.GradientTransformation:
    """Muon's directions of matrices [..., rows, columns], with a root mean square of `MUON_RMS`."""
    last_two = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    muon = optax.contrib.scale_by_muon(
        beta=momentum,
        weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: last_two, tree),
    )

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        directions, state = muon.update(gradient, state, params)
        scaled = jax.tree.map(
            lambda leaf: MUON_RMS * math.sqrt(max(leaf.shape[-2:])) * leaf, directions
        )
        return scaled, state

    return optax.GradientTransformation(muon.init, update)


OPTIMIZERS: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adam": make_adam,
    "adamw": make_adam,
    "lion": make_lion,
    "muon": make_muon,
}
"""From gradients to directions. Learning rate, decay and clipping come from `make_optimizer`."""
