"""Heads: what is computed from the encoder's embedding of each token.

A head is a Haiku module `Head(config, compute)`, called with embeddings [B, M, D] that went through
the encoder's final norm; that of a task also with other layers' (see `task_network.py`).
`make_forward(config, compute, head=Head)` puts it onto an encoder; with settings of its own,
`head=functools.partial(Head, num_labels=3)`.
"""

from collections.abc import Callable
from typing import Literal

import haiku as hk
import jax.numpy as jnp

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.model.kernels.products import multiply
from nucleotide_transformer.model.layers import LayerNorm, Linear, gelu
from nucleotide_transformer.model.token_tables import SharedColumns
from nucleotide_transformer.types import Array, Float, Int

Head = Callable[[ModelConfig, ComputeConfig], Callable[[Array], Array]]
"""The class of a head, or a function that makes one."""
Pooling = Literal["mean", "cls", "max"]
"""How the embeddings of a sequence's tokens become one."""


class MaskedLMHead(hk.Module):
    """RoBERTa's head without its first norm: dense, GELU, norm, an untied projection to tokens.

    That first norm is the encoder's last; in released files it bears this head's name.
    """

    def __init__(
        self, config: ModelConfig, compute: ComputeConfig, name: str = "esm_roberta_lm_head"
    ):
        super().__init__(name=name)
        dtype = compute.param_dtype
        self._dense = Linear(config.embed_dim, param_dtype=dtype, name="lm_head_fc_1")
        self._norm = LayerNorm(
            epsilon=config.layer_norm_epsilon, param_dtype=dtype, name="lm_head_layer_norm"
        )
        self._output = Linear(config.vocabulary_size, param_dtype=dtype, name="lm_final_fc")
        shared = config.token_tables != "free"
        self._shared = SharedColumns(config, compute) if shared else None

    def __call__(self, x: Float[Array, "B M D"]) -> Float[Array, "B M V"]:
        """Logits of the tokens."""
        x = self._norm(gelu(self._dense(x)))
        w, b = self._output.read(x.shape[-1])
        if self._shared:
            added, added_bias = self._shared()
            assert b is not None
            w, b = w + added, b + added_bias
        return multiply(x, w, b, "float32")


class TaskHead(hk.Module):
    """One linear layer: what fine-tuning puts onto pooled embeddings, or onto those of tokens."""

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        *,
        num_outputs: int,
        name: str = "task_head",
    ):
        super().__init__(name=name)
        del config
        self._linear = Linear(
            num_outputs, param_dtype=compute.param_dtype, output_dtype="float32", name="outputs"
        )

    def __call__(self, x: Float[Array, "B M D"]) -> Float[Array, "B M C"]:
        """Logits, or values, in float32."""
        return self._linear(x)


def pool_known(
    x: Float[Array, "B T D"], tokens: Int[Array, "B T"], config: ModelConfig, pooling: Pooling
) -> Float[Array, "B D"]:
    """One embedding a sequence, in float32.

    mean and max go over the tokens of known nucleotides: `<cls>`, padding, N and `<mask>` don't
    count. Without any such token they are zero. cls is the embedding of `<cls>`.
    """
    x = x.astype(jnp.float32)
    if pooling == "cls":
        return x[:, 0]
    keep = config.is_known(tokens)[..., None]
    if pooling == "mean":
        return jnp.sum(x, axis=1, where=keep) / jnp.maximum(keep.sum(axis=1), 1)
    largest = jnp.max(x, axis=1, where=keep, initial=-jnp.inf)
    return jnp.where(keep.any(axis=1), largest, 0.0)
