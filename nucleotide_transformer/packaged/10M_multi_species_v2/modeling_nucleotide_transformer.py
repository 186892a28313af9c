# Copyright 2026 The authors of nucleotide-transformer-jax. Licensed under the Apache License,
# Version 2.0: http://www.apache.org/licenses/LICENSE-2.0
"""The Nucleotide Transformer of the second generation in PyTorch, for transformers.

An exported folder holds a copy of this file, which its `config.json` names in `auto_map`. It needs
torch and transformers (4.46 or later) and nothing else. Tensors have the names of the released
files. Compared with transformers' own `EsmForMaskedLM`, feed-forward networks may be gated (SwiGLU)
and need no biases.
"""

import torch
from torch import nn
from transformers import EsmConfig, EsmTokenizer, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

ROTARY_BASE = 10_000.0
MASKING_RATE = 0.15 * 0.8
"""Share of `<mask>` in pre-training, by which token dropout rescales."""


class NucleotideTransformerConfig(EsmConfig):
    """The config of ESM with two options of the feed-forward networks."""

    model_type = "esm"

    def __init__(self, add_bias_fnn=False, ffn_gated=True, **options):
        """Args: add_bias_fnn, biases; ffn_gated, SwiGLU, else GELU."""
        super().__init__(**options)
        self.add_bias_fnn, self.ffn_gated = add_bias_fnn, ffn_gated


class NucleotideTransformerTokenizer(EsmTokenizer):
    """The tokenizer of ESM, with a method of the published example that transformers 5 lacks."""

    if not hasattr(EsmTokenizer, "batch_encode_plus"):

        def batch_encode_plus(self, batch_text_or_text_pairs, **options):
            """Tokenizes a list of texts."""
            return self(list(batch_text_or_text_pairs), **options)


class Embeddings(nn.Module):
    """Vectors of tokens, and of positions unless they are rotary."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, pad = config.hidden_size, config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=pad)
        if config.position_embedding_type == "absolute":
            rows = config.max_position_embeddings
            self.position_embeddings = nn.Embedding(rows, width, padding_idx=pad)
        if config.emb_layer_norm_before:
            self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, ids, keep):
        """The input of the first block; 0 where nothing is kept."""
        x = self.word_embeddings(ids)
        if self.config.token_dropout:
            hidden = ids == self.config.mask_token_id
            x = x.masked_fill(hidden[..., None], 0)
            share = (hidden & keep).sum(-1) / keep.sum(-1).clamp(min=1)
            share = share.masked_fill(share == 1, 0)  # nothing is left to rescale
            x = x * ((1 - MASKING_RATE) / (1 - share))[:, None, None].to(x.dtype)
        if hasattr(self, "position_embeddings"):
            pad = self.config.pad_token_id
            real = (ids != pad).long()
            x = x + self.position_embeddings(real.cumsum(-1) * real + pad)
        if hasattr(self, "layer_norm"):
            x = self.layer_norm(x)
        return x * keep[..., None]


class SelfAttention(nn.Module):
    """Queries, keys and values, and what the queries take from the values."""

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.is_rotary = config.position_embedding_type == "rotary"
        self.base = getattr(config, "rope_theta", ROTARY_BASE)  # transformers 4.46 has none
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x, keep, return_weights):
        """The mixed values, and the weights [batch, heads, tokens, tokens] if asked for."""
        batch, length, width = x.shape
        size = (batch, length, self.num_heads, width // self.num_heads)
        query, key, value = (
            linear(x).view(size).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        if self.is_rotary:
            query, key = rotate(query, self.base), rotate(key, self.base)
        seen = keep[:, None, None, :]
        weights = None
        if return_weights:
            scores = (query @ key.transpose(-1, -2)).float() / size[-1] ** 0.5
            weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
            mixed = weights.to(value.dtype) @ value
        else:
            mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return mixed.transpose(1, 2).reshape(batch, length, width), weights


def rotate(x, base):
    """Rotary embedding [batch, heads, tokens, width of a head] (Su et al. 2021), in halves."""
    length, half = x.shape[-2], x.shape[-1] // 2
    steps = torch.arange(half, device=x.device, dtype=torch.float32) / half
    places = torch.arange(length, device=x.device, dtype=torch.float32)
    angles = places[:, None] * base**-steps
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Dense(nn.Module):
    """A linear layer under the name that files have for it."""

    def __init__(self, inputs, outputs, bias):
        super().__init__()
        self.dense = nn.Linear(inputs, outputs, bias=bias)

    def forward(self, x):
        """The linear layer."""
        return self.dense(x)


class Attention(nn.Module):
    """x + attention(norm(x))."""

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.self = SelfAttention(config)
        self.output = Dense(width, width, bias=True)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x, keep, return_weights):
        """The new x, and the weights if asked for."""
        mixed, weights = self.self(self.LayerNorm(x), keep, return_weights)
        return x + self.output(mixed), weights


class Block(nn.Module):
    """Attention, then x + feed-forward(norm(x))."""

    def __init__(self, config):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.is_gated = config.ffn_gated
        self.attention = Attention(config)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = Dense(width, (1 + self.is_gated) * inner, config.add_bias_fnn)
        self.output = Dense(inner, width, config.add_bias_fnn)

    def forward(self, x, keep, return_weights):
        """The new x, and the weights if asked for."""
        x, weights = self.attention(x, keep, return_weights)
        inner = self.intermediate(self.LayerNorm(x))
        if self.is_gated:
            gate, inner = inner.chunk(2, dim=-1)
            inner = nn.functional.silu(gate) * inner
        else:
            inner = nn.functional.gelu(inner)
        return x + self.output(inner), weights


class Blocks(nn.Module):
    """All blocks, and the norm after them."""

    def __init__(self, config):
        super().__init__()
        self.layer = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.emb_layer_norm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Encoder(nn.Module):
    """From ids to the hidden states of all layers."""

    def __init__(self, config):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Blocks(config)

    def forward(self, ids, keep, return_weights):
        """Hidden states, the last after the norm; and the weights of each block, or None."""
        states, maps = [self.embeddings(ids, keep)], []
        for block in self.encoder.layer:
            x, weights = block(states[-1], keep, return_weights)
            states.append(x)
            maps.append(weights)
        states[-1] = self.encoder.emb_layer_norm_after(states[-1])
        return tuple(states), tuple(maps)


class Head(nn.Module):
    """Dense, GELU, norm, and a projection to the tokens."""

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.dense = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x):
        """Logits."""
        return self.decoder(self.layer_norm(nn.functional.gelu(self.dense(x)))) + self.bias


class NucleotideTransformerForMaskedLM(PreTrainedModel):
    """The model with its head, as `AutoModelForMaskedLM` gives it."""

    config_class = NucleotideTransformerConfig
    base_model_prefix = "esm"
    _supports_sdpa = True
    _keys_to_ignore_on_load_unexpected = (
        r"position_embeddings",
        r"position_ids",
        r"inv_freq",
        r"contact_head",
    )

    def __init__(self, config):
        super().__init__(config)
        self.esm = Encoder(config)
        self.lm_head = Head(config)
        self.post_init()

    def _init_weights(self, module):
        """Normals of `initializer_range` for what a file does not have."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self):
        """The table of token vectors."""
        return self.esm.embeddings.word_embeddings

    def get_output_embeddings(self):
        """The projection to the tokens, which shares nothing with that table."""
        return self.lm_head.decoder

    def forward(
        self,
        input_ids,
        attention_mask=None,
        encoder_attention_mask=None,  # noqa: ARG002
        labels=None,
        output_hidden_states=None,
        output_attentions=None,
        return_dict=None,
        **unused,  # noqa: ARG002
    ):
        """Logits, and what was asked for.

        Args:
            input_ids: [batch, tokens].
            attention_mask: tokens to attend to; all but `<pad>` by default.
            encoder_attention_mask: not used; the published example gives it.
            labels: tokens to predict, -100 where none is.
            output_hidden_states: return the input of the first block and the output of each.
            output_attentions: return the weights of each block.
            return_dict: False for a tuple.
            unused: what callers of other models give.
        """
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        keep = attention_mask.to(input_ids.device).bool()
        states, maps = self.esm(input_ids, keep, bool(output_attentions))
        logits = self.lm_head(states[-1])
        loss = None
        if labels is not None:
            targets = labels.to(logits.device).flatten()
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets)
        result = MaskedLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=states if output_hidden_states else None,
            attentions=maps if output_attentions else None,
        )
        return result if return_dict is not False else result.to_tuple()
