"""The Nucleotide Transformer as a Haiku module, and as the pure function that the rest uses."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.model.heads import MaskedLMHead
from nucleotide_transformer.model.layers import (
    LayerNorm,
    LearnedPositions,
    TransformerBlock,
    drop_mask_embeddings,
    take_tokens,
)
from nucleotide_transformer.model.platform import resolve_compute
from nucleotide_transformer.model.remat import checkpoint_block
from nucleotide_transformer.model.stacking import BLOCK, read_block, read_stack
from nucleotide_transformer.types import Array, Bool, Float, Int, Params


class Outputs(NamedTuple):
    """What a forward pass gives; layers and heads as they were asked for."""

    logits: Float[Array, "B M V"]
    """At every token, or at the positions asked for; not zeroed at padding."""
    embeddings: dict[int, Float[Array, "B T D"]]
    """By layer: 0 is the input of the first block, L the output of block L; that of the last
    block is taken after the head's first norm, as in the released code and in transformers."""
    attention: dict[int, Float[Array, "B H T T"]]
    """By layer, from 1: softmax weights of every head (heads from 0), float32."""


class NucleotideTransformer(hk.Module):
    """Token embedding, `num_layers` pre-layer-norm blocks and a masked-LM head."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, name: str = "esm_transformer"):
        super().__init__(name=name)
        self._config, self._compute = config, compute
        init = hk.initializers.TruncatedNormal(1.0)
        self._embed = hk.Embed(config.vocabulary_size, config.embed_dim, w_init=init)
        if config.position == "learned":
            self._positions = LearnedPositions(config)
        if config.embed_layer_norm:
            self._embed_norm = LayerNorm(
                epsilon=config.layer_norm_epsilon,
                param_dtype=compute.param_dtype,
                name="emb_layer_norm_before",
            )
        self._head = MaskedLMHead(config, compute)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B M"] | None = None,
        *,
        layers: Sequence[int] = (),
        attention: Sequence[int] = (),
    ) -> Outputs:
        """Runs the model.

        Args:
            tokens: token ids, `<pad>` where a sequence is short.
            positions: if given, the head runs at these tokens of each sequence only, and the last
                block too, unless its embeddings or attention weights are asked for.
            layers: layers whose embeddings to return, 0 to num_layers.
            attention: layers whose attention weights to return, 1 to num_layers.
        """
        self._check(tokens, layers, attention)
        keep = tokens != self._config.pad_token_id
        x = self._embed_tokens(tokens)
        taps = {0: x} if 0 in layers else {}
        last = self._config.num_layers
        early = positions if last not in {*layers, *attention} else None
        x, seen, maps = self._apply_blocks(x, keep, early, set(layers), set(attention))
        x = self._head.normalise(x)
        taps |= seen | ({last: x} if last in layers else {})
        if early is None:
            x = take_tokens(x, positions)
        dtype = jnp.dtype(self._compute.output_dtype)
        taps = {layer: tap.astype(dtype) for layer, tap in taps.items()}
        return Outputs(self._head(x).astype(dtype), taps, maps)

    @hk.transparent
    def _check(
        self, tokens: Int[Array, "B T"], layers: Sequence[int], attention: Sequence[int]
    ) -> None:
        """Raises a `ValueError` for too many tokens or for a layer that does not exist."""
        config = self._config
        if config.position == "learned" and tokens.shape[1] > config.max_positions:
            raise ValueError(
                f"tokens: {tokens.shape[1]} a sequence; the model's learned positions end at"
                f" {config.max_positions}"
            )
        for name, first, asked in (("layers", 0, layers), ("attention", 1, attention)):
            for layer in asked:
                if not first <= layer <= config.num_layers:
                    rule = f"the model's are numbered {first} to {config.num_layers}"
                    raise ValueError(f"{name}: there is no layer {layer}; {rule}")

    @hk.transparent
    def _embed_tokens(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        config, dtype = self._config, jnp.dtype(self._compute.compute_dtype)
        x = self._embed(tokens)
        if config.token_dropout:
            x = drop_mask_embeddings(x, tokens, config)
        x = x * config.embed_scale
        if config.position == "learned":
            x = x + self._positions(tokens)
        if config.embed_layer_norm:
            x = self._embed_norm(x)
        return x.astype(dtype)

    @hk.transparent
    def _apply_blocks(
        self,
        x: Float[Array, "B T D"],
        keep: Bool[Array, "B T"],
        positions: Int[Array, "B M"] | None,
        layers: set[int],
        attention: set[int],
    ) -> tuple[Float[Array, "B M D"], dict[int, Array], dict[int, Array]]:
        """All blocks in runs that end where something is asked for; a run may be one scan.

        The last block runs at the positions only, if there are any.
        """
        num_layers = self._config.num_layers
        taps: dict[int, Array] = {}
        maps: dict[int, Array] = {}
        ends = {layer for layer in layers | attention if 0 < layer < num_layers}
        start = 0
        for end in [*sorted(ends | {num_layers - 1}), num_layers]:
            at = positions if end == num_layers else None
            x = self._apply_run(x, keep, at, range(start, end - (end in attention)))
            if end in attention:
                x, maps[end] = self._apply_block(end - 1, x, keep)
            if end in layers and end < num_layers:
                taps[end] = x
            start = end
        return x, taps, maps

    @hk.transparent
    def _apply_run(
        self,
        x: Float[Array, "B T D"],
        keep: Bool[Array, "B T"],
        positions: Int[Array, "B M"] | None,
        run: range,
    ) -> Float[Array, "B M D"]:
        """The blocks of one run, one after the other or as a scan over stacked parameters."""
        if hk.running_init():
            for index in run:
                name = f"{BLOCK}_{index}"
                x, _ = TransformerBlock(self._config, self._compute, name)(x, keep, positions)
            return x

        block = hk.transform(self._call_block)

        def apply_block(x: Float[Array, "B T D"], params: Params) -> tuple[Array, None]:
            return block.apply(params, None, x, keep, positions)[0], None

        scan = self._compute.stack == "scan" and len(run) > 1
        checkpointed = checkpoint_block(apply_block, self._compute.remat, inside_scan=scan)
        params = hk.get_params()
        if scan:
            return jax.lax.scan(checkpointed, x, read_stack(params, self.module_name, run))[0]
        for index in run:
            x, _ = checkpointed(x, read_block(params, self.module_name, index))
        return x

    @hk.transparent
    def _apply_block(
        self, index: int, x: Float[Array, "B T D"], keep: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B H T T"]]:
        """One block (from 0), with its attention weights."""
        params = read_block(hk.get_params(), self.module_name, index)
        block = hk.transform(self._call_block)
        return block.apply(params, None, x, keep, return_weights=True)

    @hk.transparent
    def _call_block(
        self,
        x: Float[Array, "B T D"],
        keep: Bool[Array, "B T"],
        positions: Int[Array, "B M"] | None = None,
        *,
        return_weights: bool = False,
    ) -> tuple[Float[Array, "B M D"], Float[Array, "B H T T"] | None]:
        block = TransformerBlock(self._config, self._compute, "block")
        return block(x, keep, positions, return_weights=return_weights)


def make_forward(config: ModelConfig, compute: ComputeConfig = ComputeConfig()) -> hk.Transformed:
    """The model as a pair of pure functions.

    `init(key, tokens)` gives parameters under the names of the released JAX checkpoints;
    `apply(params, tokens, positions=None, *, layers=(), attention=())` gives `Outputs`.
    """

    def forward(
        tokens: Int[Array, "B T"], positions: Int[Array, "B M"] | None = None, **taps: Sequence[int]
    ) -> Outputs:
        concrete = resolve_compute(compute, config)
        return NucleotideTransformer(config, concrete)(tokens, positions, **taps)

    return hk.without_apply_rng(hk.transform(forward))


def exact_products(compute: ComputeConfig) -> contextlib.AbstractContextManager[Any]:
    """In float32, products as exact as on a CPU, where GPUs and TPUs would round their operands.

    What is traced inside has them; JAX_DEFAULT_MATMUL_PRECISION, if set, decides instead.
    """
    settings: Any = jax.config  # whose fields JAX's stubs lack
    chosen = settings.jax_default_matmul_precision
    if compute.compute_dtype == "float32" and chosen is None:
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def init_params(
    key: Array, config: ModelConfig, compute: ComputeConfig = ComputeConfig()
) -> Params:
    """Random parameters: truncated normals of variance 1 / fan-in, zero biases, unit norms."""
    simple = dataclasses.replace(compute, attention="einsum")  # needs no kernel for 8 tokens
    return make_forward(config, simple).init(key, jnp.zeros((1, 8), jnp.int32))


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters, from shapes alone."""
    shapes = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
