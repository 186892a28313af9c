"""FLOPs of the matrix products of a forward pass and of an update, from sizes alone.

Norms, softmax, activations and the embedding look-up are left out, and so is what a backward pass
computes again: these are the model FLOPs of MFU (Chowdhery et al. 2022, appendix B).
"""

from nucleotide_transformer.config import ModelConfig


def count_forward_flops(config: ModelConfig, *, num_tokens: int, num_head_tokens: int) -> int:
    """FLOPs of one sequence's forward pass, 2 for each multiply-add.

    Per token and block 4 D^2 for keys and values, and 4 D^2 + 2 (2 + gated) D F for the other
    projections and 4 T D for the scores and their use; these last two in the last block only for
    tokens that go through the head, if any do. Per token there 2 (D^2 + D V).

    Args:
        config: architecture.
        num_tokens: T, tokens of the sequence.
        num_head_tokens: tokens whose logits are computed; 0 for embeddings of all tokens.
    """
    width, hidden = config.embed_dim, config.ffn_dim
    shared = 4 * width**2
    own = 4 * width**2 + 2 * (2 + config.ffn_gated) * width * hidden + 4 * num_tokens * width
    head = 2 * (width**2 + width * config.vocabulary_size)
    last = num_head_tokens or num_tokens
    updated = (config.num_layers - 1) * num_tokens + last
    return config.num_layers * num_tokens * shared + updated * own + num_head_tokens * head


def count_update_flops(
    config: ModelConfig, *, num_sequences: int, num_tokens: int, num_head_tokens: int
) -> int:
    """FLOPs of one update: the forward pass of every sequence, and twice that for backward.

    Args:
        config: architecture, all of whose parameters are trained.
        num_sequences: sequences of the update, over all devices and micro-batches.
        num_tokens: tokens of a sequence.
        num_head_tokens: tokens of a sequence whose logits are computed.
    """
    forward = count_forward_flops(config, num_tokens=num_tokens, num_head_tokens=num_head_tokens)
    return 3 * num_sequences * forward
