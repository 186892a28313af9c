"""Using a trained model: embeddings, likelihoods, probabilities, hidden states, attention."""

from nucleotide_transformer.data.intervals import Interval, label_windows, read_annotation
from nucleotide_transformer.data.sequences import SequenceRecord, read_sequences
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.inference.embedding import (
    Embedding,
    Pooling,
    attention_maps,
    embed,
    embed_array,
    hidden_states,
)
from nucleotide_transformer.inference.embedding_files import EmbedConfig, embed_file
from nucleotide_transformer.inference.embedding_tables import EmbeddingTable, read_embeddings
from nucleotide_transformer.inference.likelihoods import (
    FillMaskConfig,
    Likelihoods,
    TokenProbability,
    fill_mask,
    log_likelihoods,
    logits,
    pseudo_log_likelihoods,
    score_sequences,
    token_log_likelihoods,
)
from nucleotide_transformer.inference.nucleotides import NUCLEOTIDES, nucleotide_probabilities

__all__ = [
    "NUCLEOTIDES",
    "BatchConfig",
    "EmbedConfig",
    "Embedding",
    "EmbeddingTable",
    "FillMaskConfig",
    "Interval",
    "Likelihoods",
    "Pooling",
    "SequenceRecord",
    "TokenProbability",
    "attention_maps",
    "embed",
    "embed_array",
    "embed_file",
    "fill_mask",
    "hidden_states",
    "label_windows",
    "log_likelihoods",
    "logits",
    "nucleotide_probabilities",
    "pseudo_log_likelihoods",
    "read_annotation",
    "read_embeddings",
    "read_sequences",
    "score_sequences",
    "token_log_likelihoods",
]
