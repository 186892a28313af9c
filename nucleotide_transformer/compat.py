"""`get_pretrained_model` with the arguments and results of the published package.

The code of the published README and of the notebooks `nucleotide_transformer`, `agro_nt` and
`codon_nt` was tried: it runs as it is, and logits and embeddings at real tokens are the published
ones. SegmentNT, the other models of the published package, and what it has beside this function
(`nucleotide_transformer.model`, the classes of `tokenizers`) are not covered. What differs:

- Attention heads. A request (l, n) gives head n of layer l, counted from 1, as the published
  documentation says. The published code gives the second next: its (l, n) is (l, n + 2) here, and
  its last two are both the last head. Code that relies on it must ask for n + 2.
- A layer or head that does not exist is an `InputError`; the published code gives the last head.
- At `<pad>` logits are 0 as published, but embeddings and attention are others.
- Parameters have the names of the JAX files with `esm_transformer/.../mha`, for every model.
- The tokenizer takes lower case, U and IUPAC codes (as N). `token_to_id` raises an `InputError`, a
  `ValueError`, for what is no token, where a `KeyError` was raised; so does an unknown model, for
  a `NotImplementedError`. The v2 `vocabulary` is in the order of its ids.
- The config is frozen, and has no `lm_head`, `bias_word_embedding` or `mask_before_attention`.
- `attention_mask` is refused: what is `<pad>` is never attended to. A token after `<pad>` is an
  `InputError`, and so is an id that the model has no embedding of.
- JAX files mean a layer-norm epsilon of 1e-5, Hugging Face files of the same model 1e-12 (codon_nt
  1e-5): embeddings differ slightly by which of them a folder has. The JAX ones are fetched.
- Files are kept in huggingface_hub's own cache, and those of a pinned revision are fetched. One
  of the old cache's folders, with `ckpt.joblib`, is read if it is given as `folder`.
- Nothing is set for the whole process.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import haiku as hk
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.model import exact_products, make_forward
from nucleotide_transformer.model.encoder import GivenTokens, check_tokens
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Array, Float, Int, Params
from nucleotide_transformer.weights.configs import make_hyperparams
from nucleotide_transformer.weights.folders import LATE_SPECIALS, find_folder, load_folder
from nucleotide_transformer.weights.hub import ReleasedModel, find_released

_DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class NucleotideTransformerConfig:
    """The published config, for code that reads it; the options are those of the JAX layout."""

    alphabet_size: int
    pad_token_id: int
    mask_token_id: int
    max_positions: int
    embed_scale: float
    emb_layer_norm_before: bool
    attention_heads: int
    key_size: int
    embed_dim: int
    ffn_embed_dim: int
    num_layers: int
    positional_embedding: str | None
    add_bias_kv: bool
    add_bias_ffn: bool
    use_rotary_embedding: bool
    ffn_activation_name: str
    use_glu_in_ffn: bool
    token_dropout: bool
    masking_ratio: float
    masking_prob: float
    use_gradient_checkpointing: bool
    embeddings_layers_to_save: tuple[int, ...]
    attention_maps_to_save: tuple[tuple[int, int], ...]
    layer_norm_eps: float
    pre_layer_norm: bool = True
    rescaling_factor: float | None = None


Tokenized = tuple[list[str], list[int]]
"""Tokens of a sequence and their ids."""


class FixedSizeTokenizer:
    """The published tokenizer: every sequence of a batch is padded to the same, given length."""

    unk_token, pad_token, mask_token, class_token = "<unk>", "<pad>", "<mask>", "<cls>"
    eos_token, bos_token = LATE_SPECIALS

    def __init__(self, tokenizer: KmerTokenizer, fixed_length: int):
        """Args: tokenizer does the work; fixed_length in tokens, `<cls>` included."""
        require(fixed_length >= 1, "max_positions", fixed_length, "must be 1 or above")
        self._tokenizer, self._fixed_length = tokenizer, fixed_length
        late = [] if tokenizer.vocabulary == "v2" else list(LATE_SPECIALS)
        self._tokens = [*tokenizer.tokens, *late]
        self._ids = {token: i for i, token in enumerate(self._tokens)}

    @property
    def fixed_length(self) -> int:
        """Tokens of every sequence of a batch."""
        return self._fixed_length

    @property
    def vocabulary(self) -> list[str]:
        """All tokens, in the order of the ids; v1 models have no embedding for the last two."""
        return list(self._tokens)

    @property
    def standard_tokens(self) -> list[str]:
        """The k-mers and the single letters."""
        return list(self._tokenizer.tokens[self._tokenizer.first_kmer_id :])

    @property
    def special_tokens(self) -> list[str]:
        """The six special tokens."""
        first = [self.unk_token, self.pad_token, self.mask_token, self.class_token]
        return [*first, self.eos_token, self.bos_token]

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self._tokens)

    @property
    def unk_token_id(self) -> int:
        """Id of `<unk>`."""
        return self._ids[self.unk_token]

    @property
    def pad_token_id(self) -> int:
        """Id of `<pad>`."""
        return self._ids[self.pad_token]

    @property
    def mask_token_id(self) -> int:
        """Id of `<mask>`."""
        return self._ids[self.mask_token]

    @property
    def class_token_id(self) -> int:
        """Id of `<cls>`."""
        return self._ids[self.class_token]

    @property
    def eos_token_id(self) -> int:
        """Id of `<eos>`."""
        return self._ids[self.eos_token]

    @property
    def bos_token_id(self) -> int:
        """Id of `<bos>`."""
        return self._ids[self.bos_token]

    def id_to_token(self, token_id: int) -> str:
        """Returns the spelling of an id, or raises an `InputError` if there is none."""
        rule = f"must lie between 0 and {self.vocabulary_size - 1}"
        require(0 <= token_id < self.vocabulary_size, "token_id", token_id, rule)
        return self._tokens[token_id]

    def token_to_id(self, token: str) -> int:
        """Returns the id of a token; an `InputError` if it is none."""
        require(token in self._ids, "token", token, "is no token of the vocabulary")
        return self._ids[token]

    def tokenize(self, sequence: str) -> Tokenized:
        """Returns the tokens of one sequence and their ids, `<cls>` first, not padded."""
        ids = self._tokenizer.encode(sequence).tolist()
        return [self._tokens[i] for i in ids], ids

    def batch_tokenize(self, sequences: Sequence[str]) -> list[Tokenized]:
        """Returns tokens and ids of each sequence, padded to the fixed length.

        Raises:
            InputError: for a sequence that is longer, or that has an illegal character.
        """
        return self.pad_tokens_batch([self.tokenize(sequence) for sequence in sequences])

    def pad_tokens_batch(self, batch: Sequence[Tokenized]) -> list[Tokenized]:
        """Returns the batch with `<pad>` after each sequence, up to the fixed length."""
        padded = []
        for i, (tokens, ids) in enumerate(batch):
            missing = self._fixed_length - len(ids)
            if missing < 0:
                raise InputError(
                    f"sequence {i}: {len(ids)} tokens with <cls>: more than max_positions ="
                    f" {self._fixed_length}"
                )
            end = [self.pad_token] * missing, [self.pad_token_id] * missing
            padded.append(([*tokens, *end[0]], [*ids, *end[1]]))
        return padded


def get_pretrained_model(
    model_name: str,
    compute_dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    output_dtype: Any = jnp.float32,
    embeddings_layers_to_save: Sequence[int] = (),
    attention_maps_to_save: Sequence[tuple[int, int]] | None = None,
    max_positions: int = 1024,
    verbose: bool = True,  # noqa: ARG001
    *,
    folder: str | Path | None = None,
) -> tuple[
    Params, Callable[..., dict[str, Array]], FixedSizeTokenizer, NucleotideTransformerConfig
]:
    """Loads a released model the way the published package does.

    Args:
        model_name: public name, such as "100M_multi_species_v2".
        compute_dtype: of activations; float32, bfloat16 or float16.
        param_dtype: of parameters.
        output_dtype: of logits and embeddings.
        embeddings_layers_to_save: layers, from 1. The last one's embedding is taken after the
            first layer norm of the head.
        attention_maps_to_save: pairs of layer and head, both from 1; see above for the head that
            the published code gives.
        max_positions: tokens that the tokenizer pads every sequence to, `<cls>` included.
        verbose: taken for compatibility; huggingface_hub shows its own progress.
        folder: a local copy to read instead of the hub's; the name then only has to say which
            family of models it is.

    Returns:
        parameters; a function for `hk.transform` from tokens [B, T] to a dict with "logits"
        [B, T, V], "embeddings_<layer>" [B, T, D] and "attention_map_layer_<layer>_number_<head>"
        [B, T, T]; the tokenizer; the config.

    Raises:
        InputError: for an unknown name (the nearest is suggested), a layer or a head that does not
            exist, another type of numbers, or a folder with a model of another family.
        MissingInputError: if there is no such folder, or neither network nor cache has the model.
    """
    released = find_released(model_name)
    compute = ComputeConfig(
        param_dtype=_dtype_name("param_dtype", param_dtype),
        compute_dtype=_dtype_name("compute_dtype", compute_dtype),
        output_dtype=_dtype_name("output_dtype", output_dtype),
    )
    place = find_folder(model_name) if folder is None else find_folder(Path(folder))
    params, config = load_folder(place, compute, released=released if folder is None else None)
    _check_family(place, config, model_name, released)
    layers = tuple(int(layer) for layer in embeddings_layers_to_save)
    maps = tuple((int(layer), int(head)) for layer, head in attention_maps_to_save or ())
    _check_numbers(config, layers, maps)
    tokenizer = KmerTokenizer(vocabulary=config.vocabulary, k=config.k)
    return (
        params,
        _make_forward_fn(config, compute, layers, maps),
        FixedSizeTokenizer(tokenizer, max_positions),
        _describe_config(config, layers, maps),
    )


def _make_forward_fn(
    config: ModelConfig,
    compute: ComputeConfig,
    layers: tuple[int, ...],
    maps: tuple[tuple[int, int], ...],
) -> Callable[..., dict[str, Array]]:
    """The function that is given to `hk.transform`."""
    # A scan over the blocks would stack the parameters at every call: they come by their names.
    forward = make_forward(config, dataclasses.replace(compute, stack="loop"))

    def forward_fn(tokens: GivenTokens, attention_mask: None = None) -> dict[str, Array]:
        if attention_mask is not None:
            raise InputError("attention_mask: not taken; what is <pad> is never attended to")
        ids = check_tokens(tokens, config)
        params = hk.transparent_lift(forward.init)(hk.maybe_next_rng_key())
        mapped = sorted({layer for layer, _ in maps})
        with exact_products(compute):
            outputs = forward.apply(params, ids, layers=layers, attention=mapped)
        outs: dict[str, Array] = {
            f"attention_map_layer_{layer}_number_{head}": outputs.attention[layer][:, head - 1]
            for layer, head in maps
        }
        outs |= {f"embeddings_{layer}": outputs.embeddings[layer] for layer in layers}
        return outs | {"logits": _zero_padding(outputs.logits, ids, config.pad_token_id)}

    return forward_fn


def _zero_padding(
    logits: Float[Array, "B T V"], tokens: Int[Array, "B T"], pad: int
) -> Float[Array, "B T V"]:
    """Logits with 0 at `<pad>`, as the published code has them."""
    return jnp.where(tokens[..., None] == pad, 0, logits)


def _dtype_name(argument: str, dtype: Any) -> Any:
    """The name of a type that may be given as a name, a NumPy or a JAX type."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    require(name in _DTYPES, argument, name, f"must be one of {', '.join(_DTYPES)}")
    return name


def _check_family(
    place: Path, config: ModelConfig, model_name: str, released: ReleasedModel
) -> None:
    for field in ("vocabulary", "k", "position"):
        found, expected = getattr(config, field), getattr(released.config, field)
        if found != expected:
            rule = f"{model_name} has {expected!r}"
            raise InputError(f"{place}: {field} = {found!r}: {rule}")


def _check_numbers(
    config: ModelConfig, layers: tuple[int, ...], maps: tuple[tuple[int, int], ...]
) -> None:
    asked = [("embeddings_layers_to_save", "layer", layer, config.num_layers) for layer in layers]
    for layer, head in maps:
        asked.append(("attention_maps_to_save", "layer", layer, config.num_layers))
        asked.append(("attention_maps_to_save", "head", head, config.num_heads))
    for argument, noun, number, last in asked:
        if not 1 <= number <= last:
            rule = f"the model's are numbered 1 to {last}"
            raise InputError(f"{argument}: there is no {noun} {number}; {rule}")


def _describe_config(
    config: ModelConfig, layers: tuple[int, ...], maps: tuple[tuple[int, int], ...]
) -> NucleotideTransformerConfig:
    names = {field.name for field in dataclasses.fields(NucleotideTransformerConfig)}
    options = {name: v for name, v in make_hyperparams(config).items() if name in names}
    return NucleotideTransformerConfig(
        **options | {"layer_norm_eps": config.layer_norm_epsilon},
        embeddings_layers_to_save=layers,
        attention_maps_to_save=maps,
    )
