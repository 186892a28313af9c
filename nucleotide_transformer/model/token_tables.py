"""Token tables whose rows share vectors: one for each letter, and pair of letters, that they spell.

As published, every 6-mer has a row of its own in the table of embeddings and a column in the last
projection, and learns from its own occurrences alone. With `ModelConfig.token_tables` a row is

    E[t] = R[t] + sum over places i of P_i[t_i] (+ sum over i of Q_i[t_i t_{i+1}] with pairs)

and the head's weights and biases likewise. Rows of special tokens and of single letters share
nothing. The sum is a table like any other: `fold_tables` writes it out, so that a trained model
has the published parameters and the published function.
"""

import dataclasses
import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import require
from nucleotide_transformer.model.stacking import ENCODER
from nucleotide_transformer.types import Array, Float, Params

NAME = "shared"
"""Module of the shared vectors, in the encoder and in the head."""
FREE_STDDEV, LETTER_STDDEV = 0.2, 0.4
"""At first, before truncation, of a token's own row and of a letter's vector: with six letters a
row has the variance of a free one. Vectors of pairs, and all of the head's, start at zero."""
_EMBEDDING = f"{ENCODER}/~/embed"
_SHARED = f"{ENCODER}/~/{NAME}"
_HEAD = f"{ENCODER}/~/esm_roberta_lm_head/~"


def count_shared(config: ModelConfig) -> int:
    """S, the vectors that rows share: 4 for each place of a letter, 16 for each of a pair."""
    pairs = 16 * (config.k - 1) if config.token_tables == "pairs" else 0
    return 0 if config.token_tables == "free" else 4 * config.k + pairs


@functools.cache
def spell_tokens(config: ModelConfig) -> Float[np.ndarray, "V S"]:
    """1 where a token spells what a vector stands for, else 0; float32.

    First the letters A, T, C, G of the first place, of the second, and so on; then the pairs.
    """
    k, places = config.k, np.arange(config.k)
    letters = np.arange(4**k)[:, None] >> 2 * (k - 1 - places) & 3
    columns = 4 * places + letters
    if config.token_tables == "pairs":
        pairs = 4 * k + 16 * places[:-1] + 4 * letters[:, :-1] + letters[:, 1:]
        columns = np.concatenate([columns, pairs], axis=1)
    spelled = np.zeros((config.vocabulary_size, count_shared(config)), np.float32)
    rows = config.first_kmer_id + np.arange(4**k)
    spelled[rows[:, None], columns] = 1
    return spelled


class SharedRows(hk.Module):
    """What the shared vectors add to each row of the table of embeddings."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, name: str = NAME):
        super().__init__(name=name)
        self._config, self._dtype = config, jnp.dtype(compute.param_dtype)

    def __call__(self) -> Float[Array, "V D"]:
        """The sums, in the type of the parameters."""
        shape = (count_shared(self._config), self._config.embed_dim)
        vectors = hk.get_parameter("embeddings", shape, self._dtype, init=self._init)
        spelled = spell_tokens(self._config).astype(self._dtype)
        return jnp.matmul(spelled, vectors, precision=jax.lax.Precision.HIGHEST)

    @hk.transparent
    def _init(self, shape: Any, dtype: Any) -> Float[Array, "S D"]:
        drawn = hk.initializers.TruncatedNormal(LETTER_STDDEV)(shape, dtype)
        return drawn.at[4 * self._config.k :].set(0.0)


class SharedColumns(hk.Module):
    """What the shared vectors add to the weights and the bias of the last projection."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, name: str = NAME):
        super().__init__(name=name)
        self._config, self._dtype = config, jnp.dtype(compute.param_dtype)

    def __call__(self) -> tuple[Float[Array, "D V"], Float[Array, " V"]]:
        """The sums, in the type of the parameters."""
        num_shared = count_shared(self._config)
        shape = (self._config.embed_dim, num_shared)
        w = hk.get_parameter("w", shape, self._dtype, init=jnp.zeros)
        b = hk.get_parameter("b", (num_shared,), self._dtype, init=jnp.zeros)
        spelled = spell_tokens(self._config).astype(self._dtype)
        multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        return multiply(w, spelled.T), multiply(spelled, b)


def fold_tables(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """The same model in the published form: every row written out, nothing shared.

    The sums are made in float64 in a fixed order and rounded once, so that the result is the same,
    bit for bit, on every machine. A model whose tables are free comes back as it is.

    Args:
        params: by their released names.
        config: architecture.

    Raises:
        InputError: if the shared vectors are missing, or not as many as the config says.
    """
    if config.token_tables == "free":
        return params, config
    spelled = spell_tokens(config)

    def fold(module: str, name: str, shared: str, axis: int) -> Array | np.ndarray:
        own, vectors = params[module][name], params.get(shared, {}).get(name)
        found = None if vectors is None else vectors.shape[axis]
        rule = f"must be {spelled.shape[1]}, as model.token_tables = {config.token_tables!r} says"
        require(found == spelled.shape[1], f"vectors in {shared}/{name}", found, rule)
        rows = np.moveaxis(np.asarray(own, np.float64), axis, 0)  # a copy
        vectors = np.moveaxis(np.asarray(vectors, np.float64), axis, 0)
        for vector, spells in zip(vectors, spelled.T.astype(bool), strict=True):
            rows[spells] += vector
        folded = np.moveaxis(rows, 0, axis).astype(own.dtype)
        return folded if isinstance(own, np.ndarray) else jnp.asarray(folded)

    output, of_head = f"{_HEAD}/lm_final_fc", f"{_HEAD}/{NAME}"
    folded = {name: dict(leaves) for name, leaves in params.items()}
    folded[_EMBEDDING]["embeddings"] = fold(_EMBEDDING, "embeddings", _SHARED, 0)
    folded[output] = {"w": fold(output, "w", of_head, 1), "b": fold(output, "b", of_head, 0)}
    del folded[_SHARED], folded[of_head]
    return folded, dataclasses.replace(config, token_tables="free")


def unfold_tables(params: Params, config: ModelConfig) -> Params:
    """The reverse: a model of free tables as one of shared vectors, all of them zero at first.

    Args:
        params: of a model whose tables are free, by their released names.
        config: architecture of the result; free tables come back as they are.
    """
    num_shared, width = count_shared(config), config.embed_dim
    if not num_shared:
        return params
    dtype = params[_EMBEDDING]["embeddings"].dtype
    columns = {"w": jnp.zeros((width, num_shared), dtype), "b": jnp.zeros(num_shared, dtype)}
    rows = {"embeddings": jnp.zeros((num_shared, width), dtype)}
    return params | {_SHARED: rows, f"{_HEAD}/{NAME}": columns}
