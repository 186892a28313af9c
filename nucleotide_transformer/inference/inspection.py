"""A look inside: hidden states and attention maps of one sequence, on request."""

from collections.abc import Sequence

import jax
import numpy as np

from nucleotide_transformer.errors import require
from nucleotide_transformer.inference.batching import SIZES_ON_CPU
from nucleotide_transformer.inference.likelihoods import encode_whole
from nucleotide_transformer.model import Outputs
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import Nucleotides
from nucleotide_transformer.types import Float, Int


def hidden_states(
    model: Model, sequence: Nucleotides, *, layers: Sequence[int] = ()
) -> dict[int, Float[np.ndarray, "T D"]]:
    """The embedding of every token, `<cls>` first, by layer.

    Args:
        model: what `load_pretrained` returns.
        sequence: nucleotides that fit the model's positions; special tokens may stand in it.
        layers: 0 (the input of the first block) to num_layers (after the head's first norm); all
            by default.

    Raises:
        InputError: for a layer that does not exist, an illegal character or too many tokens.
    """
    count = model.config.num_layers
    layers = _resolve(layers, "layer", range(count + 1))
    tokens = encode_whole(model, sequence)
    embeddings = _run_one(model, tokens, layers=layers).embeddings
    return {layer: np.asarray(x)[0, : tokens.size] for layer, x in sorted(embeddings.items())}


def attention_maps(
    model: Model, sequence: Nucleotides, *, layers: Sequence[int] = (), heads: Sequence[int] = ()
) -> dict[int, Float[np.ndarray, "H T T"]]:
    """The attention weights of the heads asked for, by layer; rows attend to columns, sum to 1.

    Args:
        model: what `load_pretrained` returns.
        sequence: nucleotides that fit the model's positions; special tokens may stand in it.
        layers: 1 to num_layers; all by default.
        heads: 0 to num_heads - 1, in the order of the result; all by default.

    Raises:
        InputError: for a layer or head that does not exist, an illegal character or too many
            tokens.
    """
    layers = _resolve(layers, "layer", range(1, model.config.num_layers + 1))
    heads = _resolve(heads, "head", range(model.config.num_heads))
    tokens = encode_whole(model, sequence)
    maps = _run_one(model, tokens, attention=layers).attention
    size = tokens.size
    kept = list(heads)
    return {layer: np.asarray(x)[0, kept, :size, :size] for layer, x in sorted(maps.items())}


def _resolve(asked: Sequence[int], name: str, there: range) -> tuple[int, ...]:
    """What was asked for, or all there is; an `InputError` for what there is not."""
    for number in asked:
        rule = f"the model's are numbered {there.start} to {there.stop - 1}"
        require(number in there, name, number, rule)
    return tuple(asked) or tuple(there)


def _run_one(
    model: Model,
    tokens: Int[np.ndarray, " T"],
    *,
    layers: tuple[int, ...] = (),
    attention: tuple[int, ...] = (),
) -> Outputs:
    """The outputs of one sequence, in a batch of one that may be padded at the end."""
    length = SIZES_ON_CPU.round_length(tokens.size, model.config.max_positions)
    padded = np.full((1, length), model.config.pad_token_id)
    padded[0, : tokens.size] = tokens
    return jax.device_get(model(padded, layers, attention))
