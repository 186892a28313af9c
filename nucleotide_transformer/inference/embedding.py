"""Embeddings of sequences of any length, in bounded memory; hidden states and attention of one."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.errors import require
from nucleotide_transformer.inference.batching import (
    SIZES_ON_CPU,
    BatchConfig,
    ModelTask,
    Row,
    encode_sequences,
    encode_whole,
    resolve_windows,
    run_groups,
)
from nucleotide_transformer.inference.windows import Window, place_windows
from nucleotide_transformer.model import Outputs, make_forward
from nucleotide_transformer.model.encoder import check_layers
from nucleotide_transformer.model.stacking import AnyParams
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import Nucleotides
from nucleotide_transformer.types import Array, Bool, Float, Int

MAX_MAP_BYTES = 1 << 32
"""Attention maps of one sequence, before heads are chosen."""
Pooling = Literal["mean", "cls", "max", "tokens"]
Embedding = dict[int, Float[np.ndarray, "..."]]
"""By layer: float32 [D], or [T, D] for pooling "tokens"."""


def embed(
    model: Model,
    sequences: Iterable[Nucleotides],
    *,
    pooling: Pooling = "mean",
    layers: Sequence[int] = (),
    batching: BatchConfig = BatchConfig(),
    report: Callable[[float], object] = lambda _: None,
) -> Iterator[Embedding]:
    """Yields the embedding of every sequence, in their order.

    Sequences are read as they are needed and results are given as they come: memory is bounded
    for any number of them.

    Pooling:

    - "mean" and "max" go over the tokens of known nucleotides: k-mers and A, C, G, T. `<cls>`,
      padding, N and `<mask>` don't count. Without any such token the result is NaN. Windows
      without one are not computed.
    - "cls" is the embedding of `<cls>`.
    - "tokens" gives every token a row: those of `model.tokenizer.encode(sequence)`, `<cls>` first.

    A sequence longer than a window is cut (see `windows.py`). Its tokens have the embeddings of
    the windows they belong to, and mean and max go over these; its `<cls>` is the mean of those of
    the windows, weighted by how many tokens belong to each.

    Args:
        model: what `load_pretrained` returns.
        sequences: nucleotides, in upper or lower case; see `KmerTokenizer`.
        pooling: see above.
        layers: 0 (the input of the first block) to num_layers (the default), which is taken after
            the final norm, as in the released code.
        batching: size of windows and batches, devices.
        report: called as the windows of the next sequence to come are finished, each with its
            share of that sequence.

    Raises:
        InputError: in one line, for a layer that does not exist or windows that don't fit the
            model; while iterating for a sequence that is empty or has an illegal character: of a
            list before any is computed.
    """
    rule = f"must be one of {', '.join(get_args(Pooling))}"
    require(pooling in get_args(Pooling), "pooling", pooling, rule)
    layers = resolve_layers(model.config, layers)
    resolve_windows(model.config, batching)
    task = PoolTask(model.config, model.compute, layers, pooling)
    return _embed(model, sequences, task, batching, report)


def embed_array(
    model: Model,
    sequences: Iterable[Nucleotides],
    *,
    pooling: Literal["mean", "cls", "max"] = "mean",
    layer: int | None = None,
    batching: BatchConfig = BatchConfig(),
) -> Float[np.ndarray, "N D"]:
    """One float32 row a sequence: `embed` for one layer (the last by default) and what fits memory.

    Example:
        >>> embed_array(load_pretrained("100M_multi_species_v2"), ["ATTCCG" * 9]).shape
        (1, 512)
    """
    rule = 'must be mean, cls or max; for "tokens" iterate over embed'
    require(pooling in ("mean", "cls", "max"), "pooling", pooling, rule)
    layer = model.config.num_layers if layer is None else layer
    stream = embed(model, sequences, pooling=pooling, layers=(layer,), batching=batching)
    rows = [embedding[layer] for embedding in stream]
    return np.stack(rows) if rows else np.zeros((0, model.config.embed_dim), np.float32)


def make_unknown(config: ModelConfig, layers: Sequence[int]) -> Embedding:
    """The pooled embedding of a sequence without known nucleotides: NaN."""
    return {layer: np.full(config.embed_dim, np.nan, np.float32) for layer in layers}


def resolve_layers(config: ModelConfig, layers: Sequence[int]) -> tuple[int, ...]:
    """The layers asked for, or the last one; an `InputError` for one that does not exist."""
    check_layers(config, layers)
    return tuple(layers) or (config.num_layers,)


@dataclasses.dataclass(frozen=True)
class PoolTask(ModelTask):
    """Pools the embeddings of a row over the tokens from numbers[0] on, to before numbers[1]."""

    layers: tuple[int, ...]
    pooling: Pooling

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B 2"]
    ) -> dict[int, Float[Array, "..."]]:
        """Sums for "mean", maxima (minus infinity without tokens), or what was asked for."""
        forward = make_forward(self.config, self.compute, head=None)
        embeddings = forward.apply(params, tokens, layers=self.layers).embeddings
        keep = self.config.is_known(tokens) & is_within(tokens, numbers)
        pool = functools.partial(pool_tokens, keep=keep, pooling=self.pooling)
        return {layer: pool(x.astype(jnp.float32)) for layer, x in embeddings.items()}


def pool_tokens(
    x: Float[Array, "B T D"], keep: Bool[Array, "B T"], pooling: Pooling
) -> Float[Array, "..."]:
    """[B, D]: sum ("mean") or maximum of the tokens kept, or the first one; [B, T, D]: all."""
    if pooling == "mean":
        return jnp.sum(x, axis=1, where=keep[..., None])
    if pooling == "max":
        return jnp.max(x, axis=1, where=keep[..., None], initial=-jnp.inf)
    return x[:, 0] if pooling == "cls" else x


def is_within(tokens: Int[Array, "B T"], spans: Int[Array, "B 2"]) -> Bool[Array, "B T"]:
    """Which tokens lie from spans[:, 0] on and before spans[:, 1]."""
    places = jnp.arange(tokens.shape[1])
    return (places >= spans[:, :1]) & (places < spans[:, 1:])


class _Plan(NamedTuple):
    """How the results of a sequence's windows become one."""

    windows: list[Window]
    num_known: int
    pooling: Pooling

    def make_rows(self, tokens: Int[np.ndarray, " T"]) -> Iterator[tuple[float, Row]]:
        """The windows of a sequence, each with its share of it."""
        for window in self.windows:
            own = window.own_slice()
            yield 1 / len(self.windows), Row(window.cut(tokens), (own.start, own.stop))

    def merge(self, parts: list[Embedding]) -> Embedding:
        """The embedding of the sequence."""
        return {layer: self._merge([part[layer] for part in parts]) for layer in parts[0]}

    def _merge(self, parts: list[Float[np.ndarray, "..."]]) -> Float[np.ndarray, "..."]:
        if self.pooling == "cls":
            return self._average(parts)
        if self.pooling == "tokens":
            pairs = zip(parts, self.windows, strict=True)
            own = [part[window.own_slice()] for part, window in pairs]
            cls = self._average([part[0] for part in parts])
            return np.concatenate([cls[None], *own])
        if self.pooling == "max":
            return np.asarray(np.max(np.stack(parts), axis=0))
        total = np.sum(np.stack(parts), axis=0, dtype=np.float64)
        return np.asarray(total / self.num_known, np.float32)

    def _average(self, parts: list[Float[np.ndarray, " D"]]) -> Float[np.ndarray, " D"]:
        weights = np.array([window.num_own for window in self.windows], np.float64)
        return np.asarray(np.average(np.stack(parts), axis=0, weights=weights), np.float32)


def _embed(
    model: Model,
    sequences: Iterable[Nucleotides],
    task: PoolTask,
    batching: BatchConfig,
    report: Callable[[float], object],
) -> Iterator[Embedding]:
    """The generator behind `embed`."""
    size = resolve_windows(model.config, batching)

    def plan_all() -> Iterator[tuple[_Plan, Iterator[tuple[float, Row]]]]:
        for tokens in encode_sequences(model.tokenizer, sequences):
            windows, known = place_windows(tokens.size, *size), model.config.is_known(tokens)
            if task.pooling in ("mean", "max"):
                windows = [each for each in windows if known[each.own_start : each.own_stop].any()]
            plan = _Plan(windows, int(known.sum()), task.pooling)
            yield plan, plan.make_rows(tokens)

    def read(share: float, part: Embedding) -> Embedding:
        report(share)
        return part

    for plan, parts in run_groups(model, task, plan_all(), batching, read):
        if not parts:
            report(1)
        yield plan.merge(parts) if parts else make_unknown(model.config, task.layers)


def hidden_states(
    model: Model, sequence: Nucleotides, *, layers: Sequence[int] = ()
) -> dict[int, Float[np.ndarray, "T D"]]:
    """The embedding of every token, `<cls>` first, by layer.

    Args:
        model: what `load_pretrained` returns.
        sequence: nucleotides that fit the model's positions; special tokens may be in it.
        layers: 0 (the input of the first block) to num_layers (after the final norm); all
            by default.

    Raises:
        InputError: for a layer that does not exist, an illegal character or too many tokens.
    """
    check_layers(model.config, layers)
    layers = tuple(layers) or tuple(range(model.config.num_layers + 1))
    tokens = encode_whole(model, sequence)
    embeddings = _run_one(model, tokens, layers=layers).embeddings
    return {layer: np.asarray(x)[0, : tokens.size] for layer, x in sorted(embeddings.items())}


def attention_maps(
    model: Model, sequence: Nucleotides, *, layers: Sequence[int] = (), heads: Sequence[int] = ()
) -> dict[int, Float[np.ndarray, "H T T"]]:
    """The attention weights of the heads asked for, by layer; rows attend to columns, sum to 1.

    Args:
        model: what `load_pretrained` returns.
        sequence: nucleotides that fit the model's positions; special tokens may be in it.
        layers: 1 to num_layers; all by default.
        heads: 0 to num_heads - 1, in the order of the result; all by default. (Those of
            `get_pretrained_model` count from 1, as the published documentation has it.)

    Raises:
        InputError: for a layer or head that does not exist, an illegal character, too many tokens,
            or maps of more than 4 GiB: ask for some of the layers.
    """
    check_layers(model.config, attention=layers)
    layers = tuple(layers) or tuple(range(1, model.config.num_layers + 1))
    for head in heads:
        rule = f"the model's are numbered 0 to {model.config.num_heads - 1}"
        require(0 <= head < model.config.num_heads, "head", head, rule)
    tokens = encode_whole(model, sequence)
    num_bytes = 4 * len(layers) * model.config.num_heads * tokens.size**2
    rule = f"{tokens.size} tokens have {num_bytes / 1e9:.1f} GB of maps: ask for fewer layers"
    require(num_bytes <= MAX_MAP_BYTES, "layers", len(layers), rule)
    maps = _run_one(model, tokens, attention=layers).attention
    size = tokens.size
    kept = list(heads) or list(range(model.config.num_heads))
    return {layer: np.asarray(x)[0, kept, :size, :size] for layer, x in sorted(maps.items())}


def _run_one(
    model: Model,
    tokens: Int[np.ndarray, " T"],
    *,
    layers: tuple[int, ...] = (),
    attention: tuple[int, ...] = (),
) -> Outputs:
    """What was asked for of one sequence, in a batch of one that may be padded at the end."""
    length = SIZES_ON_CPU.round_length(tokens.size, model.config.position_limit)
    padded = np.full((1, length), model.config.pad_token_id)
    padded[0, : tokens.size] = tokens
    return jax.device_get(model(padded, layers, attention, logits=False))
