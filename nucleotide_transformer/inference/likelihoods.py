"""What the language-model head says: logits, log-likelihoods, and the tokens at `<mask>`."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.config import ComputeConfig, ModelConfig, require_positive
from nucleotide_transformer.errors import require
from nucleotide_transformer.inference.batching import (
    BatchConfig,
    Group,
    ModelTask,
    Row,
    encode_sequences,
    encode_whole,
    resolve_windows,
    run_groups,
    run_rows,
)
from nucleotide_transformer.inference.windows import WindowSize, find_windows, place_windows
from nucleotide_transformer.model import make_forward
from nucleotide_transformer.model.stacking import AnyParams
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer, Nucleotides
from nucleotide_transformer.types import Array, Bool, Float, Int
from nucleotide_transformer.weights.hub import LoadConfig

_MASK = "<mask>"
_NO_MASK = f"must hold at least one {_MASK}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FillMaskConfig(LoadConfig):
    """The likeliest tokens at each <mask> of a sequence."""

    sequence: str
    """Nucleotides with at least one <mask>, each of which stands for one token."""
    top_k: int = 5
    """Tokens to show for each <mask>."""

    def __post_init__(self) -> None:
        require_positive(self, "top_k")
        has_mask = _MASK in self.sequence
        require(has_mask, "sequence", _shorten(self.sequence), _NO_MASK)
        next(encode_sequences(KmerTokenizer(), [self.sequence]))  # before a model is fetched


class Likelihoods(NamedTuple):
    """Log-likelihoods of sequences, and how many tokens each goes over."""

    log_likelihood: Float[np.ndarray, " N"]
    """Sum over the tokens of known nucleotides, in nats, float64; NaN where there is none."""
    num_tokens: Int[np.ndarray, " N"]
    """Tokens in the sum. Sequences compare by the mean over them, or with equal numbers."""


class TokenProbability(NamedTuple):
    """A token that the model puts in place of a `<mask>`."""

    token: str
    probability: float


def fill_mask(
    model: Model, sequence: Nucleotides, *, top_k: int = 5
) -> list[list[TokenProbability]]:
    """The most probable tokens at each `<mask>` of a sequence, best first.

    Probabilities are the softmax over the whole vocabulary, special tokens included.

    Example:
        >>> for best, *others in fill_mask(load_pretrained(), "ACCTGA<mask>TTCTGAGTC"):
        ...     print(best.token, best.probability)

    Args:
        model: what `load_pretrained` returns.
        sequence: nucleotides with at least one `<mask>`, each of which stands for one token.
        top_k: tokens to return for each.

    Raises:
        InputError: for a sequence without `<mask>`, with an illegal character, or with more
            tokens than the model has positions.
    """
    vocabulary = model.config.vocabulary_size
    require(1 <= top_k <= vocabulary, "top_k", top_k, f"must lie between 1 and {vocabulary}")
    tokens = encode_whole(model, sequence)
    masks = np.flatnonzero(tokens == model.config.mask_token_id)
    require(masks.size > 0, "sequence", _shorten(sequence), _NO_MASK)
    task = LogitsTask(model.config, model.compute)
    (result,) = run_rows(model, task, [Row(tokens)], BatchConfig(num_devices=1))
    probabilities = np.asarray(jax.nn.softmax(result[masks].astype(np.float32), axis=-1))
    best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
    names = model.tokenizer.tokens
    return [
        [TokenProbability(names[i], float(row[i])) for i in ids]
        for row, ids in zip(probabilities, best, strict=True)
    ]


def logits(
    model: Model, sequences: Iterable[Nucleotides], *, batching: BatchConfig = BatchConfig()
) -> Iterator[Float[np.ndarray, "T V"]]:
    """Yields the logits of every sequence, a row for each token of `model.tokenizer.encode`.

    Of a sequence longer than a window, a token has the logits of the window it belongs to, and
    `<cls>` those of the first window. Arguments and errors as `embed`.
    """
    resolve_windows(model.config, batching)
    return _run_windows(model, LogitsTask(model.config, model.compute), sequences, batching)


def log_likelihoods(
    model: Model, sequences: Iterable[Nucleotides], *, batching: BatchConfig = BatchConfig()
) -> Float[np.ndarray, " N"]:
    """Sum over the tokens t_j of log p(t_j | t): every token is in sight of the model.

    In nats, float64. The sum goes over the tokens of known nucleotides (see `embed`); p is the
    softmax over the whole vocabulary. One pass through the model for a sequence: fast, but the
    model can copy what it sees, so compare sequences of one length only, and prefer
    `pseudo_log_likelihoods` where time allows. NaN for a sequence without known nucleotides.
    `score_sequences` gives the numbers of tokens, too.
    """
    return score_sequences(model, sequences, masked=False, batching=batching).log_likelihood


def pseudo_log_likelihoods(
    model: Model, sequences: Iterable[Nucleotides], *, batching: BatchConfig = BatchConfig()
) -> Float[np.ndarray, " N"]:
    """Sum over the tokens t_j of log p(t_j | t with `<mask>` in place of t_j).

    In nats, float64 (Salazar et al. 2020, Masked Language Model Scoring, eq. 2). The sum goes over
    the tokens of known nucleotides. A pass through the model for every token. NaN for a sequence
    without known nucleotides. `score_sequences` gives the numbers of tokens, too.
    """
    return score_sequences(model, sequences, masked=True, batching=batching).log_likelihood


def score_sequences(
    model: Model,
    sequences: Iterable[Nucleotides],
    *,
    masked: bool,
    batching: BatchConfig = BatchConfig(),
) -> Likelihoods:
    """The log-likelihood of every sequence with the number of tokens that it goes over.

    Arguments as for `token_log_likelihoods`.
    """
    totals, counts = [], []
    for row in token_log_likelihoods(model, sequences, masked=masked, batching=batching):
        counts.append(int(np.isfinite(row).sum()))
        totals.append(float(np.nansum(row, dtype=np.float64)) if counts[-1] else np.nan)
    return Likelihoods(np.array(totals, np.float64), np.array(counts, np.int64))


def token_log_likelihoods(
    model: Model,
    sequences: Iterable[Nucleotides],
    *,
    masked: bool,
    batching: BatchConfig = BatchConfig(),
) -> Iterator[Float[np.ndarray, " T"]]:
    """Yields, for every sequence, the log-probability of each token of `model.tokenizer.encode`.

    In nats, float32; NaN for `<cls>` and whatever is no known nucleotide.

    Args:
        model: what `load_pretrained` returns.
        sequences: as for `embed`.
        masked: hide each token in turn from the model, in a pass of its own.
        batching: size of windows and batches, devices. A token of a sequence longer than a window
            is judged in the window it belongs to.
    """
    resolve_windows(model.config, batching)
    return _fill_rows(model, sequences, masked, batching)


def _fill_rows(
    model: Model, sequences: Iterable[Nucleotides], masked: bool, batching: BatchConfig
) -> Iterator[Float[np.ndarray, " T"]]:
    """What `token_log_likelihoods` yields."""

    def take_all() -> Iterator[tuple[Bool[np.ndarray, " T"], TokenChoice]]:
        for tokens in encode_sequences(model.tokenizer, sequences):
            known = model.config.is_known(tokens)
            yield known, TokenChoice(tokens, np.flatnonzero(known))

    for known, scores in _score_choices(model, take_all(), masked, batching):
        values = np.full(known.size, np.nan, np.float32)
        values[known] = scores
        yield values


class TokenChoice(NamedTuple):
    """A sequence, and some of its tokens."""

    tokens: Int[np.ndarray, " T"]
    """Of the whole sequence, `<cls>` first."""
    wanted: Int[np.ndarray, " W"]
    """Indices of those to judge, in increasing order; none but tokens of known nucleotides."""


def score_tokens(
    model: Model,
    choices: Iterable[TokenChoice],
    *,
    masked: bool,
    batching: BatchConfig = BatchConfig(),
) -> Iterator[Float[np.ndarray, " W"]]:
    """Yields the log-probabilities of the wanted tokens of each sequence.

    Other arguments as for `token_log_likelihoods`. Windows without a wanted token are not run.
    """
    noted = ((None, choice) for choice in choices)
    return (scores for _, scores in _score_choices(model, noted, masked, batching))


def _score_choices(
    model: Model,
    choices: Iterable[tuple[Group, TokenChoice]],
    masked: bool,
    batching: BatchConfig,
) -> Iterator[tuple[Group, Float[np.ndarray, " W"]]]:
    """What `score_tokens` yields, with what came with each choice."""
    size, cut = resolve_windows(model.config, batching), _hide_each if masked else _show_windows
    kind = MaskedLogLikelihoodTask if masked else TokenLogLikelihoodTask
    task, none = kind(model.config, model.compute), np.zeros(0, np.float32)
    groups = ((group, cut(choice, size)) for group, choice in choices)
    for group, parts in run_groups(model, task, groups, batching, lambda at, result: result[at]):
        yield group, np.concatenate([none, *parts])


class LogitsTask(ModelTask):
    """Logits of every token."""

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B E"]
    ) -> Float[Array, "B T V"]:
        """Returns the logits; `numbers` is not used."""
        del numbers
        return make_forward(self.config, self.compute).apply(params, tokens).logits


class TokenLogLikelihoodTask(ModelTask):
    """Log-probability of every token that spells a known nucleotide, NaN for the others."""

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B E"]
    ) -> Float[Array, "B T"]:
        """Returns the log-probabilities; `numbers` is not used."""
        scores = LogitsTask(self.config, self.compute)(params, tokens, numbers)
        return jnp.where(self.config.is_known(tokens), log_probability(scores, tokens), jnp.nan)


class MaskedLogLikelihoodTask(ModelTask):
    """Log-probabilities of the tokens at `numbers`, all of them hidden by `<mask>`."""

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B M"]
    ) -> Float[Array, "B M"]:
        """In nats, float32; softmax over the whole vocabulary."""
        scores = mask_and_score(self.config, self.compute, params, tokens, numbers)
        return log_probability(scores, jnp.take_along_axis(tokens, numbers, axis=1))


def mask_and_score(
    config: ModelConfig,
    compute: ComputeConfig,
    params: AnyParams,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B M"],
) -> Float[Array, "B M V"]:
    """Logits at some positions of every row, with `<mask>` in all of these places at once."""
    places = jnp.arange(tokens.shape[1])[:, None]
    hidden = (places == positions[:, None, :]).any(axis=-1)
    inputs = jnp.where(hidden, config.mask_token_id, tokens)
    return make_forward(config, compute).apply(params, inputs, positions).logits


def log_probability(
    scores: Float[Array, "B T V"], targets: Int[Array, "B T"]
) -> Float[Array, "B T"]:
    """Log-softmax of the scores at the targets, in float32."""
    log_probabilities = jax.nn.log_softmax(scores.astype(jnp.float32), axis=-1)
    return jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]


def _run_windows(
    model: Model, task: Any, sequences: Iterable[Nucleotides], batching: BatchConfig
) -> Iterator[Float[np.ndarray, "T ..."]]:
    """A task that gives each token a result, over sequences of any length."""
    size = resolve_windows(model.config, batching)

    def cut(tokens: Int[np.ndarray, " T"]) -> Iterator[tuple[slice, Row]]:
        for window in place_windows(tokens.size, *size):
            own, is_first = window.own_slice(), window.own_start == 1
            yield slice(own.start - is_first, own.stop), Row(window.cut(tokens))  # <cls> once

    groups = ((None, cut(tokens)) for tokens in encode_sequences(model.tokenizer, sequences))
    for _, parts in run_groups(model, task, groups, batching, lambda own, result: result[own]):
        yield np.concatenate(parts)


def hide_in_turn(
    tokens: Int[np.ndarray, " T"], wanted: Int[np.ndarray, " W"], size: WindowSize
) -> Iterator[tuple[int, Row]]:
    """Yields every wanted token's index, and a row that hides it alone, in the window that owns it.

    Args:
        tokens: of a sequence, `<cls>` first.
        wanted: indices of the tokens to hide, in increasing order.
        size: of the windows.
    """
    for window, places in find_windows(wanted, tokens.size, size):
        row = window.cut(tokens)
        yield from ((place, Row(row, (place - window.start + 1,))) for place in places.tolist())


def _hide_each(choice: TokenChoice, size: WindowSize) -> Iterator[tuple[Any, Row]]:
    """A row for each wanted token, and which of its results to take: the only one."""
    return ((slice(1), row) for _, row in hide_in_turn(choice.tokens, choice.wanted, size))


def _show_windows(choice: TokenChoice, size: WindowSize) -> Iterator[tuple[Any, Row]]:
    """The windows that wanted tokens belong to, and which of their results to take."""
    for window, places in find_windows(choice.wanted, choice.tokens.size, size):
        yield places - window.start + 1, Row(window.cut(choice.tokens))


def _shorten(sequence: Nucleotides) -> str:
    """The beginning of a sequence, for a message."""
    text = sequence if isinstance(sequence, str) else bytes(sequence).decode("latin-1")
    return text if len(text) <= 30 else text[:30] + "..."
