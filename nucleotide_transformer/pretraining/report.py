"""What a pre-training run ends with: tables beside the baselines, curves, and `evaluation.json`.

    {"format_version": 1, "step": updates applied, "split": "validation",
     "all": T, "groups": {group of species: T, ...}}

`nt evaluate` writes the same, with `step` null unless the model is a run, and between `split` and
`all` what was evaluated: `model`, `parameters` (their digest), `corpus` (its digest), `species`
(none named: all), `baselines` (digest of the corpus that they are fitted to, or null),
`sequence_tokens`, `masking_ratio`.

T, of all sequences or of those of a group, is

    {"num_sequences": ..., "num_masked": tokens, "num_nucleotides": that these spell,
     "predictors": {"this model": P, "frequency": P, "markov_mixture": P}}

and P has the fields of `scores.Metrics` (`cross_entropy` in nats per masked token, `perplexity`,
`accuracy`, `bits_per_nucleotide`), their `standard_errors` over sequences, and `difference`: the
`cross_entropy` of the model minus that of this predictor, with the standard `error` of the paired
differences. What is not known, as the error of one sequence, is null.
"""

import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nucleotide_transformer.files import write_json
from nucleotide_transformer.pretraining.scores import (
    MODEL,
    Comparison,
    Difference,
    Evaluation,
    Metrics,
    Row,
)
from nucleotide_transformer.training.curves import plot_curves

EVALUATION_FILE = "evaluation.json"
FORMAT_VERSION = 1
"""Version of the file's schema."""
PANELS = (
    ("loss", "cross_entropy", "Cross-entropy (nats per masked token)"),
    ("accuracy", "accuracy", "Accuracy over masked tokens"),
    ("learning_rate", None, "Learning rate"),
    ("tokens_per_second", None, "Tokens per second"),
)
"""Of the curves: train metric, validation metric, title."""
LABELS = {"train": "training", "validation": "held-out"}
NO_GROUP = "no group"
"""Shown for genomes without one."""


def write_results(folder: Path, step: int, evaluation: Evaluation | None) -> None:
    """Draws the curves of a run, and writes what it ends with, if it did."""
    rows = evaluation.overall.rows if evaluation else {}
    references = {name: row.metrics._asdict() for name, row in rows.items() if name != MODEL}
    plot_curves(folder, PANELS, labels=LABELS, references=references)
    if evaluation:
        head = {"step": step, "split": "validation"}
        write_evaluation(folder / EVALUATION_FILE, head, evaluation)


def write_evaluation(path: Path, head: dict[str, Any], evaluation: Evaluation) -> None:
    """Writes an `evaluation.json`, whole or not at all.

    Args:
        path: of the file.
        head: what it is of: `step` and `split`, and more where it is known.
        evaluation: the comparisons.
    """
    content = {"format_version": FORMAT_VERSION} | head | describe_evaluation(evaluation)
    write_json(path, content, ensure_ascii=False, allow_nan=False)


def print_summary(console: Console, folder: Path, evaluation: Evaluation) -> None:
    """Prints the final tables, and where everything is."""
    print_tables(console, evaluation)
    places = {
        "checkpoints": folder / "checkpoints",
        "metrics": folder / "metrics.jsonl",
        "evaluation": folder / EVALUATION_FILE,
        "tensorboard": folder / "tensorboard",
        "curves": folder / "curves.png",
    }
    for name, place in places.items():
        console.print(f"{name:12} {place}")


def print_tables(console: Console, evaluation: Evaluation, place: str = "held-out DNA") -> None:
    """Prints the table of all sequences, and that of the groups if there are several.

    Args:
        console: where to.
        evaluation: what to print.
        place: what the masked tokens are of.
    """
    console.print(make_table(evaluation.overall, place))
    if len(evaluation.groups) > 1:
        console.print()
        console.print(make_group_table(evaluation.groups))


def make_table(comparison: Comparison, place: str = "held-out DNA") -> Table:
    """The model against its baselines, on the same masked tokens."""
    title = (
        f"{comparison.num_masked:,} masked tokens of {place}"
        f" (± standard error over {comparison.num_sequences:,} sequences)"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    metrics = ("cross-entropy (nats)", "perplexity", "accuracy", "bits/nucleotide")
    for name in (*metrics, f"{MODEL} minus it (nats)"):
        table.add_column(name, justify="right", overflow="fold")
    for name, row in comparison.rows.items():
        values, errors = row.metrics, row.errors
        table.add_row(
            name,
            _show(values.cross_entropy, errors and errors.cross_entropy),
            f"{values.perplexity:,.1f}",
            f"{values.accuracy:.2%}" + (f" ± {errors.accuracy:.2%}" if errors else ""),
            _show(values.bits_per_nucleotide, errors and errors.bits_per_nucleotide),
            _show_difference(row),
        )
    return table


def make_group_table(groups: dict[str, Comparison]) -> Table:
    """Cross-entropies of each group of species, and how far the model is from the last baseline."""
    names = list(next(iter(groups.values())).rows)
    table = Table(title="By group: cross-entropy (nats)", title_justify="left")
    table.add_column("", overflow="fold")
    for name in ("sequences", *names, *(f"{MODEL} minus {name}" for name in names[1:][-1:])):
        table.add_column(name, justify="right", overflow="fold")
    for group, comparison in groups.items():
        rows = list(comparison.rows.values())
        cells = [
            _show(row.metrics.cross_entropy, row.errors and row.errors.cross_entropy)
            for row in rows
        ]
        cells += [_show_difference(row) for row in rows[1:][-1:]]
        table.add_row(group or NO_GROUP, f"{comparison.num_sequences:,}", *cells)
    return table


def describe_metrics(held_out: dict[str, float]) -> str:
    """Held-out metrics in words, for the log."""
    return (
        f"held-out loss {held_out['cross_entropy']:.4f}, accuracy {held_out['accuracy']:.2%},"
        f" {held_out['bits_per_nucleotide']:.4f} bits/nucleotide"
    )


def describe_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """`all` and `groups` of the file: see the top of the module."""
    return {
        "all": _describe_comparison(evaluation.overall),
        "groups": {name: _describe_comparison(part) for name, part in evaluation.groups.items()},
    }


def _show(value: float, error: float | None, sign: str = "") -> str:
    """A number of nats or bits, with its error if that is known."""
    return f"{value:{sign}.4f}" + (f" ± {error:.4f}" if error is not None else "")


def _show_difference(row: Row) -> str:
    return _show(*row.difference, sign="+") if row.difference else ""


def _describe_comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        **{name: value for name, value in comparison._asdict().items() if name != "rows"},
        "predictors": {name: _describe_row(row) for name, row in comparison.rows.items()},
    }


def _describe_row(row: Row) -> dict[str, Any]:
    return {
        **_drop_infinite(row.metrics),
        "standard_errors": _drop_infinite(row.errors) if row.errors else None,
        "difference": _drop_infinite(row.difference) if row.difference else None,
    }


def _drop_infinite(numbers: Metrics | Difference) -> dict[str, float | None]:
    """JSON knows no infinite number, such as the perplexity of a model that fails, and no NaN."""
    fields = numbers._asdict().items()
    return {name: x if x is not None and math.isfinite(x) else None for name, x in fields}
