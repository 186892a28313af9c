"""Building blocks of the Nucleotide Transformer: rotary embedding, attention, feed-forward, block.

Module and parameter names are those of the released JAX checkpoints; tests freeze them.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from nucleotide_transformer.config import ComputeConfig, Dtype, ModelConfig
from nucleotide_transformer.model.adapters import Adapt, Adapter, Site, keep_plain
from nucleotide_transformer.model.attention import attend, attention_weights
from nucleotide_transformer.model.kernels.gate import apply_gate
from nucleotide_transformer.model.kernels.layer_norm import normalise
from nucleotide_transformer.model.kernels.products import multiply, multiply_jointly
from nucleotide_transformer.model.remat import KEYS, keep_for_backward
from nucleotide_transformer.types import Array, Bool, Float, Int

ROTARY_BASE = 10_000.0


class Linear(hk.Module):
    """x @ w + b, with the parameters in one type and the product in the type of x, or another."""

    def __init__(
        self,
        output_dim: int,
        *,
        param_dtype: Dtype,
        bias: bool = True,
        init: hk.initializers.Initializer | None = None,
        output_dtype: Dtype | None = None,
        name: str,
    ):
        """Names the sizes.

        Args:
            output_dim: width of the result.
            param_dtype: of the parameters.
            bias: whether there is one.
            init: draws weights and biases; by default weights are truncated normals of standard
                deviation D ** -0.5 before the truncation (0.88 of that after it), biases zero.
            output_dtype: of the result; by default that of x.
            name: of the module.
        """
        super().__init__(name=name)
        self._output_dtype = output_dtype
        self._output_dim, self._bias, self._dtype = output_dim, bias, jnp.dtype(param_dtype)
        self._init = init

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        """The product, over the last axis."""
        w, b = self.read(x.shape[-1])
        return multiply(x, w, b, self._output_dtype)

    def read(self, input_dim: int) -> tuple[Float[Array, "D F"], Float[Array, " F"] | None]:
        """Weights and, if there is one, the bias; for products of several at once."""
        w_init = self._init or hk.initializers.TruncatedNormal(input_dim**-0.5)
        w = hk.get_parameter("w", (input_dim, self._output_dim), self._dtype, init=w_init)
        if not self._bias:
            return jnp.asarray(w), None
        b_init = self._init or jnp.zeros
        b = hk.get_parameter("b", (self._output_dim,), self._dtype, init=b_init)
        return jnp.asarray(w), jnp.asarray(b)


def he_uniform(shape: Sequence[int], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Uniform numbers of variance 2 / fan-in (He et al. 2015, equation 10).

    The fan-in of a bias is its own length, as the published code has it: the width of the output.
    """
    limit = math.sqrt(6 / shape[0])
    return jax.random.uniform(hk.next_rng_key(), shape, dtype, -limit, limit)


class LayerNorm(hk.Module):
    """Layer norm over the last axis, computed in float32 whatever the type of x."""

    def __init__(self, *, epsilon: float, param_dtype: Dtype, name: str):
        super().__init__(name=name)
        self._epsilon, self._dtype = epsilon, jnp.dtype(param_dtype)

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """The normalised x, scaled and shifted."""
        scale = hk.get_parameter("scale", x.shape[-1:], self._dtype, init=jnp.ones)
        offset = hk.get_parameter("offset", x.shape[-1:], self._dtype, init=jnp.zeros)
        return normalise(x, jnp.asarray(scale), jnp.asarray(offset), self._epsilon)


class RotaryAngles(NamedTuple):
    """Cosine and sine of position times frequency, float32."""

    cos: Float[Array, "*batch T K/2"]
    sin: Float[Array, "*batch T K/2"]


def make_rotary_angles(num_tokens: int, key_dim: int) -> RotaryAngles:
    """Angles position / 10,000 ** (2 i / K) for i < K / 2 (Su et al. 2021, RoFormer, eq. 15).

    Always float32: in bfloat16 the position itself is rounded beyond 256 and the cosine of a
    position near 2,048 can be wrong by 2.
    """
    exponents = jnp.arange(0, key_dim, 2, dtype=jnp.float32) / key_dim
    positions = jnp.arange(num_tokens, dtype=jnp.float32)
    angles = positions[:, None] * (1.0 / ROTARY_BASE**exponents)
    return RotaryAngles(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "B T H K"], angles: RotaryAngles) -> Float[Array, "B T H K"]:
    """Rotates the pairs (x[i], x[i + K/2]) of every head by the angles of its position."""
    cos, sin = angles.cos[..., None, :], angles.sin[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def take_tokens(
    x: Float[Array, "B T D"], positions: Int[Array, "B M"] | None
) -> Float[Array, "B M D"]:
    """The tokens at some positions of each sequence; without positions, all of them (M = T).

    A position occurs at most once in a sequence, so that no two gradients meet at a token: the
    backward pass adds up nothing, in whatever type.
    """
    if positions is None:
        return x
    rows = jnp.arange(x.shape[0])[:, None]
    return x.at[rows, positions].get(unique_indices=True, mode="promise_in_bounds")


class SelfAttention(hk.Module):
    """Multi-head self-attention, rotary or not, with biases in all four projections."""

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        adapt: Adapt = keep_plain,
        name: str = "mha",
    ):
        super().__init__(name=name)
        self._config, self._compute, self._adapt = config, compute, adapt

    def __call__(
        self,
        x: Float[Array, "B T D"],
        keep: Bool[Array, "B T"],
        positions: Int[Array, "B M"] | None = None,
        *,
        return_weights: bool = False,
    ) -> tuple[Float[Array, "B M D"], Float[Array, "B H M T"] | None]:
        """Returns the update of x (at the positions) and, if asked for, the attention weights.

        The weights are in float32.
        """
        config, queries = self._config, take_tokens(x, positions)
        if positions is None:
            query, key, value = self._project(x, "query", "key", "value")
        else:
            (query,) = self._project(queries, "query")
            key, value = self._project(x, "key", "value")
        if config.position == "rotary":
            angles = make_rotary_angles(x.shape[1], config.key_dim)
            key = rotate(key, angles)
            if positions is not None:
                angles = RotaryAngles(angles.cos[positions], angles.sin[positions])
            query = rotate(query, angles)
        query = keep_for_backward(query)
        key, value = keep_for_backward((key, value), KEYS)
        mixed = attend(query, key, value, keep, self._compute.attention)
        weights = attention_weights(query, key, keep) if return_weights else None
        mixed = mixed.reshape(queries.shape)
        update = self._make_linear("mha_output")(mixed)
        return self._adapt("attention_output", mixed, update), weights

    @hk.transparent
    def _project(self, x: Float[Array, "B N D"], *names: Site) -> list[Float[Array, "B N H K"]]:
        """What each of the linear layers gives, all in one product."""
        layers = [self._make_linear(name).read(x.shape[-1]) for name in names]
        weights, biases = zip(*layers, strict=True)
        heads = (*x.shape[:2], self._config.num_heads, self._config.key_dim)
        results = zip(names, multiply_jointly(x, weights, biases), strict=True)
        return [self._adapt(name, x, y).reshape(heads) for name, y in results]

    @hk.transparent
    def _make_linear(self, name: str) -> Linear:
        init = {"he_uniform": he_uniform, "truncated_normal": None}[self._config.init]
        dtype = self._compute.param_dtype
        return Linear(self._config.embed_dim, param_dtype=dtype, init=init, name=name)


class TransformerBlock(hk.Module):
    """Pre-layer-norm block: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        name: str,
        adapter: Adapter | None = None,
    ):
        super().__init__(name=name)
        self._config = config
        self._adapt = adapter(config, compute) if adapter else keep_plain
        dtype = compute.param_dtype
        norm = functools.partial(LayerNorm, epsilon=config.layer_norm_epsilon, param_dtype=dtype)
        linear = functools.partial(Linear, bias=config.ffn_bias, param_dtype=dtype)
        self._attention_norm = norm(name="mha_layer_norm")
        self._attention = SelfAttention(config, compute, self._adapt)
        self._ffn_norm = norm(name="final_layer_norm")
        self._fc1 = linear((1 + config.ffn_gated) * config.ffn_dim, name="fc1")
        self._fc2 = linear(config.embed_dim, name="fc2")

    def __call__(
        self,
        x: Float[Array, "B T D"],
        keep: Bool[Array, "B T"],
        positions: Int[Array, "B M"] | None = None,
        *,
        return_weights: bool = False,
    ) -> tuple[Float[Array, "B M D"], Float[Array, "B H M T"] | None]:
        """Returns the new x and, if asked for, the attention weights.

        With positions only these tokens are updated and returned; they attend to all.
        """
        update, weights = self._attention(
            self._attention_norm(x), keep, positions, return_weights=return_weights
        )
        x = keep_for_backward(take_tokens(x, positions) + update)
        return x + self._feed_forward(self._ffn_norm(x)), weights

    @hk.transparent
    def _feed_forward(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """(act(x W1a) * x W1b) W2 if gated (SwiGLU: Shazeer 2020), else act(x W1) W2."""
        activate = {"swish": jax.nn.silu, "gelu": gelu}[self._config.ffn_activation]
        wide = keep_for_backward(self._adapt("fc1", x, self._fc1(x)))
        hidden = apply_gate(activate, wide) if self._config.ffn_gated else activate(wide)
        hidden = self._adapt("hidden", x, hidden)
        return self._adapt("fc2", hidden, self._fc2(hidden))


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Gaussian error linear unit with the exact erf, as the released models use."""
    return jax.nn.gelu(x, approximate=False)


class Embed(hk.Module):
    """A table with a row for each id; at first truncated normals."""

    def __init__(
        self,
        num_rows: int,
        embed_dim: int,
        *,
        param_dtype: Dtype,
        stddev: float = 1.0,
        name: str = "embed",
    ):
        """Names the sizes; `stddev` is that before the truncation."""
        super().__init__(name=name)
        self._shape, self._dtype = (num_rows, embed_dim), jnp.dtype(param_dtype)
        self._init = hk.initializers.TruncatedNormal(stddev)

    def __call__(
        self, ids: Int[Array, "B T"], shared: Float[Array, "V D"] | None = None
    ) -> Float[Array, "B T D"]:
        """The rows of the ids, in the table plus what is `shared` by its rows, if anything is."""
        table = hk.get_parameter("embeddings", self._shape, self._dtype, init=self._init)
        return jnp.asarray(table if shared is None else table + shared)[ids]


class LearnedPositions(hk.Module):
    """Table of position embeddings. Real tokens count from pad + 1; padding gets row pad."""

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        name: str = "esm_learned_positional_embeddings",
    ):
        super().__init__(name=name)
        self._pad = config.pad_token_id
        rows = config.max_positions + config.pad_token_id + 1
        stddev = {"he_uniform": 1.0, "truncated_normal": 0.02}[config.init]
        dtype = compute.param_dtype
        self._embed = Embed(rows, config.embed_dim, param_dtype=dtype, stddev=stddev)

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """The rows of the table that the tokens' places name."""
        real = tokens != self._pad
        return self._embed(jnp.cumsum(real, axis=1) * real + self._pad)


def drop_mask_embeddings(
    x: Float[Array, "B T D"], tokens: Int[Array, "B T"], config: ModelConfig
) -> Float[Array, "B T D"]:
    """ESM's token dropout: zero at `<mask>`, and a rescale as if 12 % of the rest were hidden.

    The factor is (1 - ratio * probability) / (1 - observed share of `<mask>` among real tokens)
    (Rives et al. 2021). Computed in float32. A sequence of nothing but `<mask>` stays zero.
    """
    masked, real = tokens == config.mask_token_id, tokens != config.pad_token_id
    observed = masked.sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)
    expected = config.masking_ratio * config.masking_probability
    factor = (1 - expected) / jnp.where(observed < 1, 1 - observed, 1.0)
    kept = jnp.where(masked[..., None], 0.0, x.astype(jnp.float32))
    return (kept * factor[:, None, None]).astype(x.dtype)
