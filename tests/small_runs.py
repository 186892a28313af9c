"""A run of pre-training that takes seconds."""

from nucleotide_transformer.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
)


def make_run_config(corpus, folder):
    """Eight updates of a tiny model, in `folder`: logs each, and evaluates and saves at some."""
    return PretrainConfig(
        output=folder / "run",
        model=ModelConfig(k=3, num_layers=2, embed_dim=16, num_heads=2, ffn_dim=24),
        data=DataConfig(corpus=corpus, sequence_tokens=64),
        tokens_per_update=512,
        sequences_per_device=4,
        total_tokens=512 * 8,
        num_devices=1,
        log_every_steps=1,
        optimizer=OptimizerConfig(peak_learning_rate=1e-2, warmup_steps=4),
        evaluation=EvaluationConfig(num_sequences=5, every_steps=4),
        checkpoint=CheckpointConfig(every_steps=3, keep=2),
    )
