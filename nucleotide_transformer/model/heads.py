"""Heads on top of the transformer blocks."""

import functools

import haiku as hk

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.model.layers import LayerNorm, Linear, gelu
from nucleotide_transformer.types import Array, Float


class MaskedLMHead(hk.Module):
    """RoBERTa's head: norm, then dense, GELU, norm and an untied projection to the vocabulary."""

    def __init__(
        self, config: ModelConfig, compute: ComputeConfig, name: str = "esm_roberta_lm_head"
    ):
        super().__init__(name=name)
        dtype = compute.param_dtype
        norm = functools.partial(LayerNorm, epsilon=config.layer_norm_epsilon, param_dtype=dtype)
        self._first_norm = norm(name="emb_layer_norm_after")
        self._dense = Linear(config.embed_dim, param_dtype=dtype, name="lm_head_fc_1")
        self._second_norm = norm(name="lm_head_layer_norm")
        self._output = Linear(
            config.vocabulary_size, param_dtype=dtype, output_dtype="float32", name="lm_final_fc"
        )

    @hk.transparent
    def normalise(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """The head's first norm: what the released code calls the embedding of the last layer."""
        return self._first_norm(x)

    def __call__(self, normal: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Logits of embeddings that went through `normalise`."""
        return self._output(self._second_norm(gelu(self._dense(normal))))
