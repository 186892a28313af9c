"""The encoder: embedding, blocks and final norm, each a pure function of its own parameters."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.model.adapters import Adapter, keeps_keys
from nucleotide_transformer.model.layers import (
    Embed,
    LayerNorm,
    LearnedPositions,
    TransformerBlock,
    drop_mask_embeddings,
)
from nucleotide_transformer.model.remat import recompute
from nucleotide_transformer.model.stacking import (
    BLOCK,
    ENCODER,
    AnyParams,
    StackedParams,
    count_blocks,
    name_block,
    stack_params,
    take_block,
)
from nucleotide_transformer.model.token_tables import FREE_STDDEV, SharedRows
from nucleotide_transformer.types import Array, Bool, Float, Int, Params, PRNGKey

_OF_ADAPTERS = 0xADA97E25
"""Folded into the key of an adapter. Its blocks would have the keys of the encoder's with a small
number, since `split` folds in 0, 1 and so on: low ranks would be copies of random weights."""
GivenTokens = Shaped[Array | np.ndarray, "..."] | Sequence[Sequence[int]]
"""Token ids as users give them; see `check_tokens`."""


class Embedding(hk.Module):
    """Tokens, and positions where they are learned, as the first block gets them."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, name: str = ENCODER):
        super().__init__(name=name)
        self._config, self._compute = config, compute
        dtype = compute.param_dtype
        shared = config.token_tables != "free"
        self._shared = SharedRows(config, compute) if shared else None
        self._embed = Embed(
            config.vocabulary_size,
            config.embed_dim,
            param_dtype=dtype,
            stddev=FREE_STDDEV if shared else 1.0,
        )
        if config.position == "learned":
            self._positions = LearnedPositions(config, compute)
        if config.embed_layer_norm:
            self._norm = LayerNorm(
                epsilon=config.layer_norm_epsilon, param_dtype=dtype, name="emb_layer_norm_before"
            )

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """The embeddings, in the type of the activations."""
        config = self._config
        x = self._embed(tokens, self._shared() if self._shared else None)
        if config.token_dropout:
            x = drop_mask_embeddings(x, tokens, config)
        x = x * config.embed_scale
        if config.position == "learned":
            x = x + self._positions(tokens)
        if config.embed_layer_norm:
            x = self._norm(x)
        return x.astype(jnp.dtype(self._compute.compute_dtype))


class Encoded(NamedTuple):
    """What the encoder gives, in the type of the activations."""

    x: Float[Array, "B M D"]
    """What the last block that ran gives, after the final norm if that was the last of all; at
    the positions alone if `at_positions`."""
    at_positions: bool
    embeddings: dict[int, Float[Array, "B T D"]]
    attention: dict[int, Float[Array, "B H T T"]]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Embedding, `num_layers` pre-layer-norm blocks and a final norm."""

    config: ModelConfig
    compute: ComputeConfig
    adapter: Adapter | None = None
    """What changes the blocks; see `model/adapters.py`."""

    def init(self, key: PRNGKey) -> Params:
        """Random parameters, whose numbers depend on the key and the architecture alone.

        Those of an adapter come on top, and change none of the others.

        One small program draws each block in turn: one of all blocks takes half a minute to
        compile, and drawing them stacked takes their memory twice.
        """
        # A form of the attention that needs no kernel: there is one token.
        compute = dataclasses.replace(self.compute, attention="einsum")
        simple = dataclasses.replace(self, compute=compute, adapter=None)
        of_ends, of_blocks = jax.random.split(key)
        params: Params = simple._init_ends(of_ends)
        for index in range(self.config.num_layers):
            block = simple._init_block(jax.random.fold_in(of_blocks, index))
            params |= {
                name_block(index) + name.removeprefix(BLOCK): leaves
                for name, leaves in block.items()
            }
        return params | self.init_adapter(key)

    def init_adapter(self, key: PRNGKey) -> Params:
        """Random parameters of the adapter alone, in all blocks; none without an adapter."""
        if self.adapter is None:
            return {}
        compute = dataclasses.replace(self.compute, attention="einsum")
        simple = dataclasses.replace(self, compute=compute)
        params: Params = {}
        for index in range(self.config.num_layers):
            of_block = jax.random.fold_in(jax.random.fold_in(key, _OF_ADAPTERS), index)
            added = simple._init_block_adapter(of_block)
            params |= {
                name_block(index) + name.removeprefix(BLOCK): leaves
                for name, leaves in added.items()
            }
        return params

    @functools.partial(jax.jit, static_argnums=0)
    def _init_block_adapter(self, key: PRNGKey) -> Params:
        """What the adapter adds to the parameters of a block."""
        x, keep = jnp.zeros((1, 1, self.config.embed_dim)), jnp.ones((1, 1), bool)
        plain = dataclasses.replace(self, adapter=None)._block
        known = jax.eval_shape(plain.init, key, x, keep)
        params: Any = self._block.init(key, x, keep)
        return {name: leaves for name, leaves in params.items() if name not in known}

    @functools.partial(jax.jit, static_argnums=0)
    def _init_ends(self, key: PRNGKey) -> Params:
        """Parameters of the embedding and the final norm."""
        tokens = jnp.zeros((1, 1), jnp.int32)
        x = jnp.zeros((1, 1, self.config.embed_dim))
        return {**self._embedding.init(key, tokens), **self._norm.init(key, x)}

    @functools.partial(jax.jit, static_argnums=0)
    def _init_block(self, key: PRNGKey) -> Params:
        x = jnp.zeros((1, 1, self.config.embed_dim))
        return self._block.init(key, x, jnp.ones((1, 1), bool))

    def apply(
        self,
        params: AnyParams,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B M"] | None = None,
        *,
        layers: Collection[int] = (),
        attention: Collection[int] = (),
        to_the_end: bool = True,
    ) -> Encoded:
        """Runs the blocks as far as they are needed: as a scan if their parameters are stacked.

        Args:
            params: `Params` or `StackedParams`; `compute.stack` decides whether `Params` are
                stacked first.
            tokens: token ids, `<pad>` where a sequence is short.
            positions: if given, the last block runs at these tokens of each sequence only, unless
                its embeddings or attention weights are asked for.
            layers: layers whose embeddings to return, 0 to num_layers.
            attention: layers whose attention weights to return, 1 to num_layers.
            to_the_end: run all blocks and the norm, even if none of the layers asks for it.
        """
        for name, ids in (("tokens", tokens), ("positions", positions)):
            if ids is not None:
                require(ids.size > 0, name, ids.shape, "must not be empty")
        check_length(tokens.shape[1], self.config)
        check_layers(self.config, layers, attention)
        depth = count_blocks(params)
        rule = f"there are parameters of {depth} blocks"
        require(depth >= self.config.num_layers, "num_layers", self.config.num_layers, rule)
        if self.compute.stack == "scan" and not isinstance(params, StackedParams):
            params = stack_params(params)
        others = params.rest if isinstance(params, StackedParams) else params
        keep, last = tokens != self.config.pad_token_id, self.config.num_layers
        asked = {*layers, *attention}
        early = positions if last not in asked else None
        x = self._embedding.apply(others, tokens)
        embeddings: dict[int, Any] = {0: x}
        maps: dict[int, Any] = {}
        start = 0
        for end in sorted((asked | ({last} if to_the_end else set())) - {0}):
            alone = end == last or end in attention
            x = self._run_blocks(params, x, keep, range(start, end - alone))
            if alone:
                at = early if end == last else None
                x, maps[end] = self._run_block(
                    params, end - 1, x, keep, at, return_weights=end in attention
                )
            x = self._norm.apply(others, x) if end == last else x
            embeddings[end], start = x, end
        return Encoded(
            x,
            early is not None and start == last,
            {layer: embeddings[layer] for layer in layers},
            {layer: maps[layer] for layer in attention},
        )

    def _run_blocks(
        self,
        params: AnyParams,
        x: Float[Array, "B T D"],
        keep: Bool[Array, "B T"],
        indices: range,
    ) -> Float[Array, "B T D"]:
        """Some blocks before the last: a scan over the stacked ones, or one after the other."""

        def step(x: Array, block: Params) -> tuple[Array, None]:
            return self._block.apply(block, x, keep)[0], None

        if isinstance(params, StackedParams) and len(indices) > 1:
            first, end = indices.start, indices.stop
            blocks = jax.tree.map(lambda leaf: leaf[first:end], params.blocks)
            step = self._recompute(step, inside_scan=True)
            return jax.lax.scan(step, x, blocks)[0]
        step = self._recompute(step, inside_scan=False)  # traced once for all
        for index in indices:
            x, _ = step(x, take_block(params, index))
        return x

    def _run_block(
        self,
        params: AnyParams,
        index: int,
        x: Float[Array, "B T D"],
        keep: Bool[Array, "B T"],
        positions: Int[Array, "B M"] | None,
        *,
        return_weights: bool,
    ) -> tuple[Float[Array, "B M D"], Float[Array, "B H T T"] | None]:
        """One block (from 0) at the positions, or with its attention weights."""

        def run(x: Array, block: Params) -> Any:
            return self._block.apply(block, x, keep, positions, return_weights=return_weights)

        run = self._recompute(run, inside_scan=False)
        return run(x, take_block(params, index))

    def _recompute(self, function: Callable[..., Any], *, inside_scan: bool) -> Callable[..., Any]:
        """A function of a block, with the backward pass that was asked for."""
        keep_keys = not keeps_keys(self.adapter)
        remat = self.compute.remat
        return recompute(function, remat, inside_scan=inside_scan, keep_keys=keep_keys)

    @functools.cached_property
    def _embedding(self) -> hk.Transformed:
        embed = lambda tokens: Embedding(self.config, self.compute)(tokens)  # noqa: E731
        return hk.without_apply_rng(hk.transform(embed))

    @functools.cached_property
    def _block(self) -> hk.Transformed:
        def run(*inputs: Any, **options: Any) -> Any:
            block = TransformerBlock(self.config, self.compute, BLOCK, self.adapter)
            return block(*inputs, **options)

        return hk.without_apply_rng(hk.transform(run))

    @functools.cached_property
    def _norm(self) -> hk.Transformed:
        def normalise(x: Float[Array, "B M D"]) -> Float[Array, "B M D"]:
            epsilon, dtype = self.config.layer_norm_epsilon, self.compute.param_dtype
            with (
                hk.name_scope(ENCODER, method_name="__init__"),
                hk.name_scope("esm_roberta_lm_head", method_name="__init__"),  # as released
            ):
                norm = LayerNorm(epsilon=epsilon, param_dtype=dtype, name="emb_layer_norm_after")
            return norm(x)

        return hk.without_apply_rng(hk.transform(normalise))


def check_length(num_tokens: int, config: ModelConfig, field: str = "tokens") -> None:
    """Raises an `InputError` for a sequence that is longer than the model's learned positions.

    Rotary models take longer ones than those they were trained with.

    Args:
        num_tokens: tokens of the sequence, `<cls>` and padding included.
        config: architecture.
        field: what the message says has this length.
    """
    limit = config.position_limit
    rule = f"the model's learned positions end at {limit} tokens"
    require(limit is None or num_tokens <= limit, field, num_tokens, rule)


def check_layers(
    config: ModelConfig,
    layers: Collection[int] = (),
    attention: Collection[int] = (),
    field: str = "layers",
) -> None:
    """Raises an `InputError` for a layer that does not exist: 0 is the embedding's, for one.

    Args:
        config: architecture.
        layers: whose embeddings are asked for.
        attention: whose attention weights are.
        field: what the message calls `layers`.
    """
    for name, first, asked in ((field, 0, layers), ("attention", 1, attention)):
        for layer in asked:
            if not first <= layer <= config.num_layers:
                rule = f"the model's are numbered {first} to {config.num_layers}"
                raise InputError(f"{name}: there is no layer {layer}; {rule}")


def check_tokens(tokens: GivenTokens, config: ModelConfig) -> Int[Array, "B T"]:
    """Returns token ids as int32 on the device, or raises a one-line `InputError`.

    `<pad>` must be at the end: not every form of the attention takes it elsewhere. Inside a traced
    function the values of the ids are not known and not checked.
    """
    array = tokens if isinstance(tokens, jax.Array | np.ndarray) else np.asarray(tokens)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"tokens: shape {list(array.shape)}: must be [sequences, tokens]")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise InputError(f"tokens: {array.dtype}: must be integers, as the tokenizer gives them")
    check_length(array.shape[1], config)
    if not isinstance(array, jax.core.Tracer):
        values = np.asarray(array)
        outside = (values < 0) | (values >= config.vocabulary_size)
        for wrong, rule in (
            (outside, f"must lie between 0 and {config.vocabulary_size - 1}"),
            (find_late(values, config.pad_token_id), "follows <pad>, which must be at the end"),
        ):
            for row, column in np.argwhere(wrong)[:1]:
                raise InputError(f"tokens[{row}, {column}] = {values[row, column]}: {rule}")
    return jnp.asarray(array, jnp.int32)


def find_late(tokens: Int[np.ndarray, "*B T"], pad_token_id: int) -> Bool[np.ndarray, "*B T"]:
    """Which tokens come after `<pad>`, and are none."""
    is_pad = tokens == pad_token_id
    return np.logical_or.accumulate(is_pad, axis=-1) & ~is_pad
