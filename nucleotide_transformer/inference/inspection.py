"""A look inside: hidden states and attention maps of one sequence, on request."""

from collections.abc import Sequence

import jax
import numpy as np

from nucleotide_transformer.errors import require
from nucleotide_transformer.inference.batching import SIZES_ON_CPU
from nucleotide_transformer.inference.likelihoods import encode_whole
from nucleotide_transformer.model import Outputs
from nucleotide_transformer.model.encoder import check_layers
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
        sequence: nucleotides that fit the model's positions; special tokens may stand in it.
        layers: 1 to num_layers; all by default.
        heads: 0 to num_heads - 1, in the order of the result; all by default.

    Raises:
        InputError: for a layer or head that does not exist, an illegal character or too many
            tokens.
    """
    check_layers(model.config, attention=layers)
    layers = tuple(layers) or tuple(range(1, model.config.num_layers + 1))
    for head in heads:
        rule = f"the model's are numbered 0 to {model.config.num_heads - 1}"
        require(0 <= head < model.config.num_heads, "head", head, rule)
    tokens = encode_whole(model, sequence)
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
