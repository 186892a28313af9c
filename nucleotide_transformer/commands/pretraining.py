"""The commands of pre-training: `nt pretrain` and `nt evaluate`."""

from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.console import INTERRUPTED, PlainConsole
from nucleotide_transformer.pretraining import run
from nucleotide_transformer.pretraining.evaluate import EvaluateConfig, evaluate_model
from nucleotide_transformer.pretraining.report import print_summary, print_tables


def pretrain(config: PretrainConfig) -> int:
    """`nt pretrain`."""
    summary = run.pretrain(config)
    console = PlainConsole()
    if summary.evaluation is None:
        console.print(f"stopped after update {summary.step:,}; the same command resumes there")
        return INTERRUPTED
    print_summary(console, config.output, summary.evaluation)
    return 0


def evaluate(config: EvaluateConfig) -> int:
    """`nt evaluate`."""
    result = evaluate_model(config, progress=True)
    console = PlainConsole()
    print_tables(console, result.evaluation, f"{config.split} of {config.corpus}")
    for note in result.notes:
        console.print(f"note: {note}")
    console.print(f"wrote {config.output}")
    return 0
