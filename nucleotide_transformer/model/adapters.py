"""Adapters: small modules that change what a block computes, while its own weights stay frozen.

An adapter is a Haiku module `Adapter(config, compute)` that every block makes for itself and calls
as `adapter(site, x, y)` at each of its `SITES`: y is what was computed there, x what it was
computed from, and what comes back takes the place of y. At sites that it does not change an adapter
returns y. `make_forward(config, compute, adapter=Adapter)` puts it into all blocks; with settings
of its own, `adapter=functools.partial(Lora, rank=4)`.

Its parameters are named as those of the block are, such as `esm_transformer/attention_layer_0/~/
ia3/key`, and are stacked with them. `init_state(..., is_trainable=...)` tells them by that name.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import haiku as hk
import jax
import jax.numpy as jnp

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import require
from nucleotide_transformer.model.kernels.products import multiply
from nucleotide_transformer.model.remat import keep_for_backward
from nucleotide_transformer.types import Array, Float, Params

Site = Literal["query", "key", "value", "attention_output", "fc1", "hidden", "fc2"]
"""Places in a block. query, key, value (before the heads are parted and turned), attention_output,
fc1 and fc2: y is the result of that linear layer, x its input. hidden: y is the input of fc2, after
activation and gate, x that of fc1."""
SITES: tuple[Site, ...] = get_args(Site)
LORA_SITES: tuple[Site, ...] = ("query", "key", "value", "attention_output")
"""Where LoRA is by default."""

Method = Literal["head", "ia3", "lora", "full"]
"""What fine-tuning trains: the task's head alone; an adapter with it; or all weights."""

Adapt = Callable[[Site, Array, Array], Array]
"""(site, x, y) -> what takes the place of y."""
Adapter = Callable[[ModelConfig, ComputeConfig], Adapt]
"""The class of an adapter, or a function that makes one."""

LINEAR: dict[str, str] = {
    "query": "mha/query",
    "key": "mha/key",
    "value": "mha/value",
    "attention_output": "mha/mha_output",
    "fc1": "fc1",
    "fc2": "fc2",
}
"""The linear layer of each site that has one, as it is called in the block."""


def keeps_keys(adapter: Adapter | None) -> bool:
    """Whether an adapter marks keys and values for the backward pass by itself."""
    return bool(getattr(adapter, "keeps_keys", False))


def keep_plain(site: Site, x: Float[Array, "*batch D"], y: Float[Array, "*batch F"]) -> Array:
    """A block without an adapter: y, at every site."""
    del site, x
    return y


class Ia3(hk.Module):
    """Learned factors on keys, values and hidden activations, 1 at first (Liu et al. 2022).

    The mathematics is equation 2 and the text after it (arXiv 2205.05638). With 22 layers of 512,
    and 2,048 hidden activations, these are 67,584 numbers.
    """

    sites: tuple[Site, ...] = ("key", "value", "hidden")
    keeps_keys = True
    """Keys and values are kept before their factors: "dots" makes what follows them again."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, name: str = "ia3"):
        super().__init__(name=name)
        del config
        self._dtype = jnp.dtype(compute.param_dtype)

    def __call__(
        self, site: Site, x: Float[Array, "*batch D"], y: Float[Array, "*batch F"]
    ) -> Float[Array, "*batch F"]:
        """The product of y and its factors, in float32."""
        del x
        if site not in self.sites:
            return y
        scale = _Factors(self._dtype, name=site)(y.shape[-1])
        y = y if site == "hidden" else keep_for_backward(y)  # the factors' gradient needs it
        return (y.astype(jnp.float32) * scale.astype(jnp.float32)).astype(y.dtype)


class _Factors(hk.Module):
    def __init__(self, dtype: jnp.dtype, name: str):
        super().__init__(name=name)
        self._dtype = dtype

    def __call__(self, width: int) -> Float[Array, " F"]:
        return jnp.asarray(hk.get_parameter("scale", (width,), self._dtype, init=jnp.ones))


class Lora(hk.Module):
    """Low-rank changes of linear layers: y + (x A) B alpha / rank (Hu et al. 2022, section 4.1).

    A (`down`, [D, rank]) is drawn like other weights, B (`up`, [rank, F]) is zero: at first nothing
    changes (arXiv 2106.09685).
    """

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        *,
        rank: int = 8,
        alpha: float = 16.0,
        sites: Sequence[Site] = LORA_SITES,
        name: str = "lora",
    ):
        """Names the sizes.

        Args:
            config: architecture.
            compute: says the type of the parameters.
            rank: width between A and B.
            alpha: factor on the change, over the rank.
            sites: linear layers that are changed: all but "hidden" are some.
            name: of the module.
        """
        super().__init__(name=name)
        del config
        require(rank > 0, "rank", rank, "must be above 0")
        require(set(sites) <= LINEAR.keys(), "sites", sites, f"must be among {list(LINEAR)}")
        self._dtype = jnp.dtype(compute.param_dtype)
        self._rank, self._alpha, self._sites = rank, alpha, tuple(sites)

    def __call__(
        self, site: Site, x: Float[Array, "*batch D"], y: Float[Array, "*batch F"]
    ) -> Float[Array, "*batch F"]:
        """The sum of y and its change."""
        if site not in self._sites:
            return y
        down, up = _LowRank(self._rank, self._dtype, name=site)(x.shape[-1], y.shape[-1])
        change = multiply(multiply(x, down), up, None, "float32")
        return (y.astype(jnp.float32) + self._alpha / self._rank * change).astype(y.dtype)


class _LowRank(hk.Module):
    def __init__(self, rank: int, dtype: jnp.dtype, name: str):
        super().__init__(name=name)
        self._rank, self._dtype = rank, dtype

    def __call__(self, width: int, to: int) -> tuple[Float[Array, "D R"], Float[Array, "R F"]]:
        init = hk.initializers.TruncatedNormal(width**-0.5)
        down = hk.get_parameter("down", (width, self._rank), self._dtype, init=init)
        up = hk.get_parameter("up", (self._rank, to), self._dtype, init=jnp.zeros)
        return jnp.asarray(down), jnp.asarray(up)


def choose_adapter(
    method: Method, *, rank: int, alpha: float, sites: Sequence[Site]
) -> Adapter | None:
    """The adapter of a method; None for those that have none. The sizes are LoRA's.

    Equal choices give the same object, so that what is compiled for one serves all.
    """
    return _choose_adapter(method, rank, alpha, tuple(sites))


@functools.cache
def _choose_adapter(
    method: Method, rank: int, alpha: float, sites: tuple[Site, ...]
) -> Adapter | None:
    lora = functools.partial(Lora, rank=rank, alpha=alpha, sites=sites)
    adapters: dict[Method, Adapter] = {"ia3": Ia3, "lora": lora}
    return adapters.get(method)


def merge_adapter(params: Params, alpha: float = 16.0) -> Params:
    """The same function without its adapters: IA3 and LoRA are folded into the blocks' own weights.

    IA3's factors on keys and values scale the columns of their weights, and the biases; those on
    hidden activations scale the rows of fc2. LoRA adds A B alpha / rank.

    Args:
        params: by released names; parameters without an adapter come back as they are.
        alpha: LoRA's, which its parameters don't say.
    """
    merged = {name: dict(leaves) for name, leaves in params.items()}
    for name in params:
        block, _, rest = name.rpartition("/~/")
        kind, _, site = rest.partition("/")
        if kind == "ia3":
            _scale(merged, block, site, merged.pop(name)["scale"])
        elif kind == "lora":
            leaves, target = merged.pop(name), merged[f"{block}/~/{LINEAR[site]}"]
            rank = leaves["down"].shape[-1]
            change = jnp.matmul(leaves["down"], leaves["up"], precision=jax.lax.Precision.HIGHEST)
            target["w"] = jnp.asarray(target["w"]) + (alpha / rank) * change
    return merged


def _scale(params: Params, block: str, site: str, factors: Float[Array, " F"]) -> None:
    """Scales the rows of fc2 for hidden activations, else the columns of the site's layer."""
    if site == "hidden":
        target = params[f"{block}/~/fc2"]
        target["w"] = jnp.asarray(target["w"]) * factors[:, None]
        return
    target = params[f"{block}/~/{LINEAR[site]}"]
    for name, leaf in target.items():
        target[name] = jnp.asarray(leaf) * factors
