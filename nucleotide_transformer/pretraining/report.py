"""What a pre-training run ends with: a table beside the baselines, and its curves."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from nucleotide_transformer.pretraining.baselines import Metrics

PANELS = (
    ("loss", "cross_entropy", "Cross-entropy (nats per masked token)"),
    ("accuracy", "accuracy", "Accuracy over masked tokens"),
    ("learning_rate", None, "Learning rate"),
    ("tokens_per_second", None, "Tokens per second"),
)
"""Of the curves: train metric, validation metric, title."""
LABELS = {"train": "training, 80/10/10 masks", "validation": "held-out, all hidden"}


def print_summary(
    console: Console, folder: Path, held_out: Metrics, baselines: dict[str, Metrics]
) -> None:
    """Prints the final table, and where everything is."""
    console.print(make_table(held_out, baselines))
    places = {
        "checkpoints": folder / "checkpoints",
        "metrics": folder / "metrics.jsonl",
        "tensorboard": folder / "tensorboard",
        "curves": folder / "curves.png",
    }
    for name, place in places.items():
        console.print(f"{name:12} {place}")


def make_table(held_out: Metrics, baselines: dict[str, Metrics]) -> Table:
    """The model against its baselines, on the same masked tokens of held-out DNA."""
    table = Table(title="Masked tokens of held-out DNA", title_justify="left")
    table.add_column("")
    for title in ("cross-entropy (nats)", "perplexity", "accuracy", "bits/nucleotide"):
        table.add_column(title, justify="right")
    for name, row in {"this model": held_out, **baselines}.items():
        numbers = (f"{row.cross_entropy:.4f}", f"{row.perplexity:,.1f}")
        shares = (f"{row.accuracy:.2%}", f"{row.bits_per_nucleotide:.4f}")
        table.add_row(name, *numbers, *shares)
    return table


def describe_metrics(held_out: dict[str, float]) -> str:
    """Held-out metrics in words, for the log."""
    return (
        f"held-out loss {held_out['cross_entropy']:.4f}, accuracy {held_out['accuracy']:.2%},"
        f" {held_out['bits_per_nucleotide']:.4f} bits/nucleotide"
    )
