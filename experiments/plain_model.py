"""The model as one writes it down without a thought for speed: what `benchmark_peers.py` compares.

The public JAX code of the Nucleotide Transformer can't be shipped with this project. This is the
same network in the same style, in our words: Haiku's own layers, einsum attention over all heads at
once, a Python loop over the blocks, rotary angles in every block, logits of every token, and for
training a jitted function of parameters and Adam's state. It computes what the package computes
(tests/test_plain_model.py), from the same parameters, whose names lack only Haiku's `~`.
"""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from nucleotide_transformer.benchmark.config import BenchmarkConfig, Case, find_model
from nucleotide_transformer.benchmark.workloads import draw_tokens
from nucleotide_transformer.config import (
    MaskingConfig,
    ModelConfig,
)
from nucleotide_transformer.errors import require
from nucleotide_transformer.types import Array, Bool, Float, Int, Params

PLAIN_FIELDS = (
    *("position", "ffn_gated", "ffn_activation", "ffn_bias"),
    *("token_dropout", "embed_layer_norm", "embed_scale"),
)
"""Fields of `ModelConfig` that must have their defaults."""


class Attention(hk.Module):
    """Multi-head self-attention with rotary positions."""

    def __init__(self, config: ModelConfig, name: str = "mha"):
        super().__init__(name=name)
        self._config = config

    def __call__(self, x: Float[Array, "B T D"], keep: Bool[Array, "B T"]) -> Array:
        """Attention over all kept tokens."""
        width = self._config.embed_dim
        query = rotate(self._split(hk.Linear(width, name="query")(x)))
        key = rotate(self._split(hk.Linear(width, name="key")(x)))
        value = self._split(hk.Linear(width, name="value")(x))
        scores = jnp.einsum("bthk,bshk->bhts", query, key) / np.sqrt(self._config.key_dim)
        scores = jnp.where(keep[:, None, None, :], scores, -1e30)
        weights = jax.nn.softmax(scores, axis=-1)
        mixed = jnp.einsum("bhts,bshk->bthk", weights, value)
        return hk.Linear(width, name="mha_output")(mixed.reshape(x.shape))

    @hk.transparent
    def _split(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H K"]:
        return x.reshape(*x.shape[:2], self._config.num_heads, self._config.key_dim)


def rotate(x: Float[Array, "B T H K"]) -> Float[Array, "B T H K"]:
    """Rotary position embedding of queries or keys."""
    num_tokens, width = x.shape[1], x.shape[3]
    frequencies = 1.0 / 10_000 ** (jnp.arange(0, width, 2) / width)
    angles = jnp.outer(jnp.arange(num_tokens), frequencies)
    angles = jnp.concatenate([angles, angles], axis=-1)[None, :, None, :].astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return x * jnp.cos(angles) + jnp.concatenate([-second, first], axis=-1) * jnp.sin(angles)


class Block(hk.Module):
    """Attention and gated feed-forward network, each after a norm and beside a shortcut."""

    def __init__(self, config: ModelConfig, name: str):
        super().__init__(name=name)
        self._config = config

    def __call__(self, x: Float[Array, "B T D"], keep: Bool[Array, "B T"]) -> Array:
        """The block."""
        config = self._config
        x = x + Attention(config)(make_norm(config, "mha_layer_norm")(x), keep)
        hidden = make_norm(config, "final_layer_norm")(x)
        hidden = hk.Linear(2 * config.ffn_dim, with_bias=config.ffn_bias, name="fc1")(hidden)
        gate, hidden = jnp.split(hidden, 2, axis=-1)
        hidden = jax.nn.silu(gate) * hidden
        return x + hk.Linear(config.embed_dim, with_bias=config.ffn_bias, name="fc2")(hidden)


class Head(hk.Module):
    """Logits of every token, and the norm before them."""

    def __init__(self, config: ModelConfig, name: str = "esm_roberta_lm_head"):
        super().__init__(name=name)
        self._config = config

    def __call__(self, x: Float[Array, "B T D"]) -> dict[str, Array]:
        """Both."""
        config = self._config
        embeddings = make_norm(config, "emb_layer_norm_after")(x)
        x = jax.nn.gelu(hk.Linear(config.embed_dim, name="lm_head_fc_1")(embeddings), False)
        x = make_norm(config, "lm_head_layer_norm")(x)
        logits = hk.Linear(config.vocabulary_size, name="lm_final_fc")(x)
        return {"embeddings": embeddings, "logits": logits}


class PlainTransformer(hk.Module):
    """Embedding, blocks, head."""

    def __init__(self, config: ModelConfig, name: str = "esm_transformer"):
        super().__init__(name=name)
        self._config = config

    def __call__(self, tokens: Int[Array, "B T"]) -> dict[str, Array]:
        """Logits [B, T, V], and the embeddings [B, T, D] of the last block after the norm."""
        config = self._config
        x = hk.Embed(config.vocabulary_size, config.embed_dim, name="embed")(tokens)
        keep = tokens != config.pad_token_id
        for layer in range(config.num_layers):
            x = Block(config, f"attention_layer_{layer}")(x, keep)
        return Head(config)(x)


def make_norm(config: ModelConfig, name: str) -> hk.LayerNorm:
    """Haiku's layer norm with scale and offset."""
    return hk.LayerNorm(-1, True, True, eps=config.layer_norm_epsilon, name=name)


def make_plain_forward(config: ModelConfig) -> hk.Transformed:
    """The network as a pair of pure functions, for models of the second generation.

    Raises:
        ValueError: for a model that it can't compute.
    """
    defaults = ModelConfig()
    for field in PLAIN_FIELDS:
        value, known = getattr(config, field), getattr(defaults, field)
        require(value == known, f"model.{field}", value, f"the plain model knows only {known!r}")
    return hk.without_apply_rng(hk.transform(lambda tokens: PlainTransformer(config)(tokens)))


class PlainWorkload:
    """Its training step, or its forward pass and the mean of the embeddings, in float32."""

    overlaps = False
    name = "plain JAX"

    def __init__(self, case: Case, config: BenchmarkConfig):
        self._case, self._model = case, find_model(case.model, config.model)
        self._forward = make_plain_forward(self._model)
        size = (case.sequences_per_step, case.sequence_tokens)
        self._tokens = draw_tokens(*size, self._model, config.seed)
        self._key = jax.random.key(config.seed)
        self._params = self._forward.init(self._key, self._tokens[:1, :8])
        self._optimizer = optax.adam(1e-4)
        if case.task == "train":
            self._opt_state = self._optimizer.init(self._params)
        run = {"train": self._update, "embed": self._embed, "logits": self._logits}
        self._run = jax.jit(run[case.task])

    def lower(self) -> Any:
        """Traces the function that `start` runs."""
        return self._run.lower(*self._arguments())

    def start(self) -> Any:
        """Starts a step."""
        result = self._run(*self._arguments())
        if self._case.task != "train":
            return result
        self._params, self._opt_state, self._key, loss = result
        return loss

    def wait(self, started: Any) -> None:
        """Waits for its result."""
        jax.block_until_ready(started)

    def _arguments(self) -> tuple[Any, ...]:
        if self._case.task == "train":
            return self._params, self._opt_state, self._key, self._tokens
        return self._params, self._tokens

    def _update(
        self, params: Params, opt_state: Any, key: Array, tokens: Int[Array, "B T"]
    ) -> tuple[Params, Any, Array, Float[Array, ""]]:
        key, mask_key = jax.random.split(key)
        loss, grads = jax.value_and_grad(self._loss)(params, mask_key, tokens)
        updates, opt_state = self._optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, key, loss

    def _loss(self, params: Params, key: Array, tokens: Int[Array, "B T"]) -> Float[Array, ""]:
        """Mean cross-entropy over the masked tokens, 15 % of all, 80/10/10."""
        masking, model = MaskingConfig(), self._model
        select_key, kind_key, other_key = jax.random.split(key, 3)
        selected = jax.random.bernoulli(select_key, masking.ratio, tokens.shape)
        selected &= tokens >= model.first_kmer_id
        kind = jax.random.uniform(kind_key, tokens.shape)
        end = masking.mask_probability + masking.random_probability
        other = jax.random.randint(
            other_key, tokens.shape, model.first_kmer_id, model.vocabulary_size
        )
        inputs = jnp.where(selected & (kind < end), other, tokens)
        inputs = jnp.where(
            selected & (kind < masking.mask_probability), model.mask_token_id, inputs
        )
        logits = self._forward.apply(params, inputs)["logits"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
        return (losses * selected).sum() / selected.sum()

    def _embed(self, params: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B D"]:
        return self._forward.apply(params, tokens)["embeddings"].mean(axis=1)

    def _logits(self, params: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        return self._forward.apply(params, tokens)["logits"]
