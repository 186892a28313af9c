"""The learning curves of a run as a picture."""

from pathlib import Path
from typing import Any

import matplotlib.figure

from nucleotide_transformer.pretraining.baselines import Metrics
from nucleotide_transformer.training.metrics import read_metrics

PANELS = (
    ("loss", "cross_entropy", "Cross-entropy (nats per masked token)"),
    ("accuracy", "accuracy", "Accuracy over masked tokens"),
    ("learning_rate", None, "Learning rate"),
    ("tokens_per_second", None, "Tokens per second"),
)
"""Train metric, validation metric, title."""


def plot_curves(run: Path, baselines: dict[str, Metrics]) -> Path:
    """Draws `curves.png` in the run's folder.

    Args:
        run: folder of a run with a `metrics.jsonl`.
        baselines: name -> metrics, drawn as horizontal lines.

    Returns:
        The path of the picture.
    """
    lines = read_metrics(run)
    figure = matplotlib.figure.Figure(figsize=(11, 7), layout="constrained")
    for axes, (train, validation, title) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        _plot_series(
            axes,
            lines,
            "train",
            train,
            label="training, 80/10/10 masks",
            color="tab:blue",
            alpha=0.6,
        )
        if validation:
            style = {
                "label": "held-out, all hidden",
                "color": "tab:red",
                "marker": "o",
                "markersize": 3,
            }
            _plot_series(axes, lines, "validation", validation, **style)
            for (name, values), dash in zip(baselines.items(), ("--", ":", "-."), strict=False):
                axes.axhline(getattr(values, validation), label=name, color="0.35", linestyle=dash)
            axes.legend(frameon=False, fontsize="small")
        axes.set(title=title, xlabel="Tokens seen")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path = Path(run) / "curves.png"
    partial = path.with_name("curves.partial.png")
    figure.savefig(partial, dpi=130)
    partial.replace(path)
    return path


def _plot_series(
    axes: Any, lines: list[dict[str, Any]], kind: str, metric: str, **style: Any
) -> None:
    points = [
        (line["tokens"], line[metric]) for line in lines if line["kind"] == kind and metric in line
    ]
    if points:
        axes.plot(*zip(*points, strict=True), **style)
