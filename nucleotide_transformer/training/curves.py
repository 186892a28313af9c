"""The learning curves of a run as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from nucleotide_transformer.files import write_whole
from nucleotide_transformer.training.metrics import read_metrics


def plot_curves(
    run: Path,
    panels: Sequence[tuple[str, str | None, str]],
    *,
    labels: Mapping[str, str],
    references: Mapping[str, Mapping[str, float]],
) -> Path:
    """Draws `curves.png` in the run's folder.

    Args:
        run: folder of a run with a `metrics.jsonl`.
        panels: four of them: train metric, validation metric or None, title.
        labels: of the curves, by kind: "train" and "validation".
        references: name -> metrics, drawn as horizontal lines.

    Returns:
        The path of the picture.
    """
    lines = read_metrics(run)
    figure = matplotlib.figure.Figure(figsize=(11, 7), layout="constrained")
    for axes, (train, validation, title) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        style: dict[str, Any] = {"label": labels["train"], "color": "tab:blue", "alpha": 0.6}
        _plot_series(axes, lines, "train", train, **style)
        if validation:
            style = {"label": labels["validation"], "color": "tab:red", "marker": "o"}
            _plot_series(axes, lines, "validation", validation, **style, markersize=3)
            dashes = ("--", ":", "-.")
            for (name, values), dash in zip(references.items(), dashes, strict=False):
                axes.axhline(values[validation], label=name, color="0.35", linestyle=dash)
            if axes.lines:  # none in a run that was stopped early
                axes.legend(fontsize="small", framealpha=0.9, edgecolor="none")
        axes.set(title=title, xlabel="Tokens seen")
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        if train == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path = Path(run) / "curves.png"
    with write_whole(path) as partial:
        figure.savefig(partial, dpi=130)
    return path


def _plot_series(
    axes: Any, lines: list[dict[str, Any]], kind: str, metric: str, **style: Any
) -> None:
    points = [
        (line["tokens"], line[metric]) for line in lines if line["kind"] == kind and metric in line
    ]
    if points:
        axes.plot(*zip(*points, strict=True), **style)
