"""Names of the tensors in the Hugging Face layout, and where each belongs in ours."""

import re
from typing import NamedTuple

from nucleotide_transformer.config import ModelConfig

POSITIONS = "esm.embeddings.position_embeddings.weight"
FC1 = re.compile(r"esm\.encoder\.layer\.\d+\.intermediate\.dense\.weight")


class Place(NamedTuple):
    """Where a tensor of the file belongs."""

    module: str
    name: str
    is_transposed: bool


def tensor_places(config: ModelConfig) -> dict[str, Place]:
    """Every tensor that a file of this architecture must have, by its name there."""
    top, head = "esm_transformer/~", "esm_transformer/~/esm_roberta_lm_head/~"
    embed, norm_before = "esm.embeddings.word_embeddings", "esm.embeddings.layer_norm"
    places = {f"{embed}.weight": Place(f"{top}/embed", "embeddings", False)}
    if config.position == "learned":
        table = f"{top}/esm_learned_positional_embeddings/~/embed"
        places[POSITIONS] = Place(table, "embeddings", False)
    if config.embed_layer_norm:
        places |= _norm(norm_before, f"{top}/emb_layer_norm_before")
    for layer in range(config.num_layers):
        places |= _layer_places(layer, config.ffn_bias)
    places |= _norm("esm.encoder.emb_layer_norm_after", f"{head}/emb_layer_norm_after")
    places |= _linear("lm_head.dense", f"{head}/lm_head_fc_1")
    places |= _norm("lm_head.layer_norm", f"{head}/lm_head_layer_norm")
    places["lm_head.decoder.weight"] = Place(f"{head}/lm_final_fc", "w", True)
    places["lm_head.bias"] = Place(f"{head}/lm_final_fc", "b", False)
    return places


def _layer_places(layer: int, ffn_bias: bool) -> dict[str, Place]:
    there, here = f"esm.encoder.layer.{layer}", f"esm_transformer/attention_layer_{layer}/~"
    places = _norm(f"{there}.attention.LayerNorm", f"{here}/mha_layer_norm")
    for name in ("query", "key", "value"):
        places |= _linear(f"{there}.attention.self.{name}", f"{here}/mha/{name}")
    places |= _linear(f"{there}.attention.output.dense", f"{here}/mha/mha_output")
    places |= _norm(f"{there}.LayerNorm", f"{here}/final_layer_norm")
    places |= _linear(f"{there}.intermediate.dense", f"{here}/fc1", ffn_bias)
    return places | _linear(f"{there}.output.dense", f"{here}/fc2", ffn_bias)


def _linear(there: str, here: str, bias: bool = True) -> dict[str, Place]:
    weight = {f"{there}.weight": Place(here, "w", True)}
    return weight | ({f"{there}.bias": Place(here, "b", False)} if bias else {})


def _norm(there: str, here: str) -> dict[str, Place]:
    places = {"weight": Place(here, "scale", False), "bias": Place(here, "offset", False)}
    return {f"{there}.{name}": place for name, place in places.items()}
