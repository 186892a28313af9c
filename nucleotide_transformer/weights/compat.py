"""`get_pretrained_model` with the arguments, results and conventions of the published package.

Code that was written for the published package's documentation runs on this one unchanged. Layers
and heads are numbered from 1 here, logits are 0 at `<pad>`, and sequences are padded to a fixed
length. Two things differ: a layer or head that does not exist is an error (the published code
returns another head), and nothing is set for the whole process.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import haiku as hk
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.config import (
    ComputeConfig,
    ModelConfig,
)
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.model import make_forward
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Array, Float, Int, Params
from nucleotide_transformer.weights.configs import make_hyperparams
from nucleotide_transformer.weights.fixed_tokenizer import FixedSizeTokenizer
from nucleotide_transformer.weights.folders import find_layout, load_folder
from nucleotide_transformer.weights.hub import ReleasedModel, check_config, find_released
from nucleotide_transformer.weights.sources import find_by_name, find_folder

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
        attention_maps_to_save: pairs of layer and head, both from 1.
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
    place = find_by_name(model_name) if folder is None else find_folder(Path(folder))
    params, config = load_folder(place, compute)
    if folder is None and released.repository is not None:
        found = find_layout(place)
        check_config(place, config, released, jax=found is not None and found[0] == "jax")
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

    def forward_fn(tokens: Int[Array, "B T"], attention_mask: None = None) -> dict[str, Array]:
        if attention_mask is not None:
            raise InputError("attention_mask: not taken; what is <pad> is never attended to")
        params = hk.transparent_lift(forward.init)(hk.maybe_next_rng_key())
        mapped = sorted({layer for layer, _ in maps})
        outputs = forward.apply(params, jnp.asarray(tokens), layers=layers, attention=mapped)
        outs: dict[str, Array] = {
            f"attention_map_layer_{layer}_number_{head}": outputs.attention[layer][:, head - 1]
            for layer, head in maps
        }
        outs |= {f"embeddings_{layer}": outputs.embeddings[layer] for layer in layers}
        return outs | {"logits": _zero_padding(outputs.logits, tokens, config.pad_token_id)}

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
            rule = f"{model_name} is of the family {released.family}, with {expected!r}"
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
