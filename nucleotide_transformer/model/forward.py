"""An encoder with a head, as the pair of pure functions that the rest of the package uses."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.model.adapters import Adapter
from nucleotide_transformer.model.encoder import Encoder
from nucleotide_transformer.model.heads import Head, MaskedLMHead
from nucleotide_transformer.model.layers import take_tokens
from nucleotide_transformer.model.platform import resolve_compute
from nucleotide_transformer.model.stacking import ENCODER, AnyParams, StackedParams
from nucleotide_transformer.types import Array, Float, Int, Params, PRNGKey


class Outputs(NamedTuple):
    """What a forward pass gives: what was asked for."""

    logits: Float[Array, "B M V"] | None
    """What the head gives at every token, or at the positions asked for; not zeroed at padding.
    None with `logits=False`, and without a head."""
    embeddings: dict[int, Float[Array, "B T D"]]
    """By layer: 0 is the input of the first block, L the output of block L; that of the last
    block is taken after the final norm, as in the released code and in transformers."""
    attention: dict[int, Float[Array, "B H T T"]]
    """By layer, from 1: softmax weights of every head (heads from 0), float32."""


def make_forward(
    config: ModelConfig,
    compute: ComputeConfig = ComputeConfig(),
    head: Head | None = MaskedLMHead,
    *,
    adapter: Adapter | None = None,
) -> hk.Transformed:
    """The model as a pair of pure functions.

    `init(key)` gives `Params`, under the names of the released JAX checkpoints; those of the
    encoder are the same for every head. Tokens may follow the key, as elsewhere in Haiku; the
    parameters do not depend on them. `apply(params, tokens, positions=None, *, layers=(),
    attention=(), logits=True)` gives `Outputs`:

    - params: `Params`, or `StackedParams` from `arrange_params`, which saves stacking them at every
      call. What a head of another model left behind is not used.
    - tokens: ids [B, T], `<pad>` where a sequence is short.
    - positions: [B, M], each at most once in a sequence; if given, the head runs at these tokens
      only, and the last block too, unless its embeddings or attention weights are asked for.
    - layers: layers whose embeddings to return, 0 to num_layers.
    - attention: layers whose attention weights to return, 1 to num_layers.
    - logits: whether to run the head. Without it no block runs after the last layer asked for.

    `apply` raises an `InputError` for more tokens than learned positions and for a layer that does
    not exist. It has derivatives of any order in reverse mode (`jax.grad`, `jax.vjp`), and forward
    over reverse (`jax.hessian`). In forward mode by itself (`jax.jvp`, `jax.jacfwd`) JAX raises a
    `TypeError`: norms, products and gates have rules for the backward pass alone.

    Args:
        config: architecture.
        compute: precision and form of the computation.
        head: a class such as `MaskedLMHead`, which is called with (config, compute), then with
            embeddings [B, M, D]; None for the encoder alone.
        adapter: a class such as `Ia3` in `model/adapters.py`, which every block makes and calls;
            None for the blocks as they are. The encoder's own parameters are the same with it.

    Example:
        >>> forward = make_forward(ModelConfig(num_layers=2), head=None)
        >>> params = forward.init(jax.random.key(0))
        >>> forward.apply(params, jnp.full((1, 5), 9), layers=(2,)).embeddings[2].shape
        (1, 5, 512)
    """
    compute = resolve_compute(compute, config)
    encoder = Encoder(config, compute, adapter)
    run_head = make_head(head, config, compute) if head else None

    def init(key: PRNGKey, tokens: Int[Array, "B T"] | None = None) -> Params:
        del tokens
        of_encoder, of_head = jax.random.split(key)
        params = encoder.init(of_encoder)
        if head:
            params |= init_head(head, config, compute, of_head)
        return params

    def apply(
        params: AnyParams,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B M"] | None = None,
        *,
        layers: Sequence[int] = (),
        attention: Sequence[int] = (),
        logits: bool = True,
    ) -> Outputs:
        run = run_head if logits else None
        encoded = encoder.apply(
            params, tokens, positions, layers=layers, attention=attention, to_the_end=bool(run)
        )
        dtype = jnp.dtype(compute.output_dtype)
        result = None
        if run:
            x = encoded.x if encoded.at_positions else take_tokens(encoded.x, positions)
            others = params.rest if isinstance(params, StackedParams) else params
            result = run.apply(others, x).astype(dtype)
        embeddings = {layer: x.astype(dtype) for layer, x in encoded.embeddings.items()}
        return Outputs(result, embeddings, encoded.attention)

    return hk.Transformed(init, apply)


def make_head(head: Head, config: ModelConfig, compute: ComputeConfig) -> hk.Transformed:
    """A head as a pair of pure functions, its parameters named as those of the released head."""

    def run(x: Float[Array, "B M D"]) -> Array:
        with hk.name_scope(ENCODER, method_name="__init__"):
            return head(config, compute)(x)

    return hk.without_apply_rng(hk.transform(run))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 4))
def init_head(
    head: Head, config: ModelConfig, compute: ComputeConfig, key: PRNGKey, width: int | None = None
) -> Params:
    """Random parameters of a head on embeddings, or on something of another width."""
    width = config.embed_dim if width is None else width
    return make_head(head, config, compute).init(key, jnp.zeros((1, 1, width)))


def init_adapter(
    adapter: Adapter, config: ModelConfig, compute: ComputeConfig, key: PRNGKey
) -> Params:
    """Parameters of an adapter in all blocks, before training."""
    return Encoder(config, compute, adapter).init_adapter(key)


def exact_products(compute: ComputeConfig) -> contextlib.AbstractContextManager[Any]:
    """Functions traced in this context use full float32 products, where GPUs and TPUs would round.

    In 16 bits nothing changes, nor where JAX_DEFAULT_MATMUL_PRECISION is set: that decides.
    """
    settings: Any = jax.config  # whose fields JAX's stubs lack
    chosen = settings.jax_default_matmul_precision
    if compute.compute_dtype == "float32" and chosen is None:
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def init_params(
    key: PRNGKey, config: ModelConfig, compute: ComputeConfig = ComputeConfig()
) -> Params:
    """Random parameters of the encoder and the masked-LM head, as `ModelConfig.init` says."""
    return make_forward(config, compute).init(key)


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters, from shapes alone."""
    shapes = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
