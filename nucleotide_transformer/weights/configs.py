"""The model's config as the two released layouts write it, and back.

Both have options that no released model uses and that this package does not compute; a file that
turns one on is refused by the name of the option, because its numbers would come out wrong.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.errors import InputError, MissingInputError, require
from nucleotide_transformer.types import Vocabulary

JAX_EPSILON = 1e-5
"""Layer-norm epsilon of the released JAX code, which its files do not mention."""
HUGGINGFACE_EPSILON = 1e-12
"""What transformers assumes where a file does not say it."""
TORCH_MODULE = "modeling_nucleotide_transformer"
"""Module, copied into an export, that transformers needs for the second generation of models."""

MAX_JSON_BYTES = 1 << 24
"""Of a config or an index: those of the largest released model have 100 kB."""

_PAD, _MASK = 1, 2
_ACTIVATIONS = {"swish": "swish", "silu": "swish", "gelu-no-approx": "gelu"}


def read_json(file: Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
        MissingInputError: if there is no such file.
        InputError: if it is too large, damaged or holds something else.
    """
    if not file.is_file():
        raise MissingInputError(f"{file}: no such file")
    size = file.stat().st_size
    if size > MAX_JSON_BYTES:
        raise InputError(f"{file}: {size} bytes: must have at most {MAX_JSON_BYTES}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: no valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: should be a JSON object, and is a {type(content).__name__}")
    return content


def find_vocabulary(size: int) -> tuple[Vocabulary, int] | None:
    """The vocabulary and the k that have so many tokens, or None."""
    for k in range(3, 9):
        for vocabulary, num_special in (("v1", 4), ("v2", 6)):
            if size == num_special + 4**k + 5:
                return vocabulary, k  # type: ignore[return-value]
    return None


class _Options:
    """The options of a file, taken one by one, with errors that name the file and the option."""

    def __init__(self, file: Path, content: Mapping[str, Any]):
        self.file, self.content = file, content

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        """Returns an option; the default where it is absent or null; None: there must be one."""
        value = self.content.get(name)
        value = default if value is None else value
        if kind is float and type(value) is int and abs(value) < 1 << 53:
            value = float(value)
        if type(value) is not kind:
            found = "is missing" if value is None else f"= {value!r:.60}"
            raise InputError(f"{self.file}: {name} {found}: must be a {kind.__name__}")
        return value

    def demand(self, name: str, *allowed: Any) -> None:
        """Raises an `InputError` if an option is there and is none of those that are computed."""
        value = self.content.get(name)
        if value is not None and value not in allowed:
            rule = " or ".join(map(repr, allowed))
            raise InputError(f"{self.file}: {name} = {value!r:.60}: only {rule} can be computed")

    def make_config(self, vocabulary_size: int | None, name: str, **fields: Any) -> ModelConfig:
        if vocabulary_size is not None:
            found = find_vocabulary(vocabulary_size)
            if found is None:
                rule = "must be 4**k + 9 (v1) or 4**k + 11 (v2), for a k from 3 to 8"
                raise InputError(f"{self.file}: {name} = {vocabulary_size!s:.60}: {rule}")
            fields["vocabulary"], fields["k"] = found
        try:
            return ModelConfig(**fields)
        except InputError as error:
            raise InputError(f"{self.file}: {error!s:.300}") from error


def read_huggingface_config(file: Path, fc1_shape: tuple[int, ...] | None) -> ModelConfig:
    """Reads a `config.json`.

    Args:
        file: the file.
        fc1_shape: of the first `intermediate.dense.weight`: [2 F, D] if the feed-forward network
            is gated, which no option says; None if there is no such tensor.
    """
    options = _Options(file, read_json(file))
    options.demand("model_type", "esm")
    options.demand("pad_token_id", _PAD)
    options.demand("mask_token_id", _MASK)
    options.demand("tie_word_embeddings", False)
    options.demand("is_folding_model", False)
    options.demand("position_embedding_type", "rotary", "absolute")
    ffn_dim = options.take("intermediate_size", int)
    is_gated = fc1_shape is not None and fc1_shape[:1] == (2 * ffn_dim,)
    rotary = options.take("position_embedding_type", str, "absolute") == "rotary"
    if rotary:
        options.demand("rope_theta", 10_000.0)
    return options.make_config(
        options.take("vocab_size", int),
        "vocab_size",
        num_layers=options.take("num_hidden_layers", int),
        embed_dim=options.take("hidden_size", int),
        num_heads=options.take("num_attention_heads", int),
        ffn_dim=ffn_dim,
        ffn_activation="swish" if is_gated else "gelu",
        ffn_gated=is_gated,
        ffn_bias=options.take("add_bias_fnn", bool, True),
        position="rotary" if rotary else "learned",
        max_positions=options.take("max_position_embeddings", int) - _PAD - 1,
        layer_norm_epsilon=options.take("layer_norm_eps", float, HUGGINGFACE_EPSILON),
        embed_layer_norm=options.take("emb_layer_norm_before", bool, False),
        token_dropout=options.take("token_dropout", bool, False),
    )


def make_huggingface_config(config: ModelConfig) -> dict[str, Any]:
    """Returns the content of a `config.json`.

    Raises:
        InputError: for what that layout has no option for.
    """
    _require_free_tables(config)
    shares = (config.masking_ratio, config.masking_probability)
    gated_swish = (config.ffn_gated, config.ffn_activation) in ((True, "swish"), (False, "gelu"))
    for field, value, fits, rule in (
        ("embed_scale", config.embed_scale, config.embed_scale == 1, "1"),
        ("ffn_activation", config.ffn_activation, gated_swish, "swish if gated, gelu if not"),
        (
            "masking_ratio",
            config.masking_ratio,
            not config.token_dropout or shares == (0.15, 0.8),
            "0.15, of which 0.8",
        ),
    ):
        if not fits:
            raise InputError(
                f"{field} = {value!r}: the layout huggingface can only say {rule}: use layout jax"
            )
    content = {
        "architectures": ["EsmForMaskedLM"],
        "attention_probs_dropout_prob": 0.0,
        "emb_layer_norm_before": config.embed_layer_norm,
        "esmfold_config": None,
        "hidden_dropout_prob": 0.0,
        "hidden_size": config.embed_dim,
        "initializer_range": 0.02,
        "intermediate_size": config.ffn_dim,
        "is_folding_model": False,
        "layer_norm_eps": config.layer_norm_epsilon,
        "mask_token_id": config.mask_token_id,
        "max_position_embeddings": config.max_positions + config.pad_token_id + 1,
        "model_type": "esm",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "pad_token_id": config.pad_token_id,
        "position_embedding_type": "rotary" if config.position == "rotary" else "absolute",
        "tie_word_embeddings": False,
        "token_dropout": config.token_dropout,
        "use_cache": False,
        "vocab_list": None,
        "vocab_size": config.vocabulary_size,
    }
    if not is_plain_esm(config):
        content["add_bias_fnn"] = config.ffn_bias
        content["ffn_gated"] = config.ffn_gated
        content["auto_map"] = {
            "AutoConfig": f"{TORCH_MODULE}.NucleotideTransformerConfig",
            "AutoModelForMaskedLM": f"{TORCH_MODULE}.NucleotideTransformerForMaskedLM",
        }
    return dict(sorted(content.items()))


def is_plain_esm(config: ModelConfig) -> bool:
    """Whether transformers' own `EsmForMaskedLM` computes it: no gate, and biases."""
    return not config.ffn_gated and config.ffn_bias


def read_hyperparams(file: Path) -> ModelConfig:
    """Reads a `hyperparams.json`.

    Those of the oldest models lack much; like the released code, this takes learned positions,
    GELU, no gate, biases and 6-mers for granted.
    """
    options = _Options(file, read_json(file))
    options.demand("pad_token_id", _PAD)
    options.demand("mask_token_id", _MASK)
    options.demand("lm_head", "roberta")
    options.demand("ffn_activation_name", *_ACTIVATIONS)
    options.demand("pre_layer_norm", True)
    for name in ("add_bias_kv", "mask_before_attention", "rescaling_factor"):
        options.demand(name, False)
    rotary = options.take("use_rotary_embedding", bool, False)
    options.demand("positional_embedding", "rotary" if rotary else "learned")
    options.demand("learned_positional_embedding", not rotary)
    embed_dim, heads = options.take("embed_dim", int), options.take("attention_heads", int)
    for name in ("key_size", "key_dim"):
        options.demand(name, embed_dim // max(heads, 1))
    k = options.take("k_for_kmers", int, 6)
    if not 3 <= k <= 8:
        raise InputError(f"{file}: k = {k!s:.60}: must lie between 3 and 8")
    special = 6 if rotary else 4
    config = options.make_config(
        options.take("alphabet_size", int, special + 4**k + 5),
        "alphabet_size",
        num_layers=options.take("num_layers", int),
        embed_dim=embed_dim,
        num_heads=heads,
        ffn_dim=options.take("ffn_embed_dim", int),
        ffn_activation=_ACTIVATIONS[options.take("ffn_activation_name", str, "gelu-no-approx")],
        ffn_gated=options.take("use_glu_in_ffn", bool, False),
        ffn_bias=options.take("add_bias_ffn", bool, True),
        position="rotary" if rotary else "learned",
        max_positions=options.take("max_positions", int),
        layer_norm_epsilon=options.take("layer_norm_eps", float, JAX_EPSILON),
        embed_scale=options.take("embed_scale", float, 1.0),
        embed_layer_norm=options.take("emb_layer_norm_before", bool, False),
        token_dropout=options.take("token_dropout", bool, False),
        masking_ratio=options.take("masking_ratio", float, 0.15),
        masking_probability=options.take("masking_prob", float, 0.8),
    )
    options.demand("k_for_kmers", config.k)
    return config


def _require_free_tables(config: ModelConfig) -> None:
    """Raises an `InputError` for a model whose rows share vectors: no layout has words for them."""
    rule = "fold them into the tables first: model.token_tables.fold_tables"
    require(config.token_tables == "free", "token_tables", config.token_tables, rule)


def make_hyperparams(config: ModelConfig) -> dict[str, Any]:
    """Returns the content of a `hyperparams.json`, with every option of the released files.

    `layer_norm_eps` is ours: the released code does not read it and computes with 1e-5, so it is
    there only where it differs.
    """
    _require_free_tables(config)
    rotary = config.position == "rotary"
    content = {
        "alphabet_size": config.vocabulary_size,
        "pad_token_id": config.pad_token_id,
        "mask_token_id": config.mask_token_id,
        "max_positions": config.max_positions,
        "embed_scale": config.embed_scale,
        "emb_layer_norm_before": config.embed_layer_norm,
        "attention_heads": config.num_heads,
        "key_size": config.key_dim,
        "embed_dim": config.embed_dim,
        "ffn_embed_dim": config.ffn_dim,
        "num_layers": config.num_layers,
        "positional_embedding": None if rotary else "learned",
        "lm_head": "roberta",
        "add_bias_kv": False,
        "add_bias_ffn": config.ffn_bias,
        "use_rotary_embedding": rotary,
        "ffn_activation_name": {"swish": "swish", "gelu": "gelu-no-approx"}[config.ffn_activation],
        "use_glu_in_ffn": config.ffn_gated,
        "mask_before_attention": False,
        "token_dropout": config.token_dropout,
        "masking_ratio": config.masking_ratio,
        "masking_prob": config.masking_probability,
        "use_gradient_checkpointing": False,
        "k_for_kmers": config.k,
    }
    own = {"layer_norm_eps": config.layer_norm_epsilon}
    return content | (own if config.layer_norm_epsilon != JAX_EPSILON else {})
