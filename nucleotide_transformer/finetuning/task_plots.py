"""The plot of a task table: a panel for each kind of task, a line for each task."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nucleotide_transformer.finetuning.metrics import METRICS
from nucleotide_transformer.finetuning.probe import RANDOM
from nucleotide_transformer.finetuning.task_rows import Published, Row

_SPREAD = 0.62
"""Share of a task's line over which its methods are spread."""


def plot_tasks(rows: Sequence[Row], published: Sequence[Published]) -> Figure:
    """Scores with their intervals; random weights are hollow, published scores are crosses.

    Args:
        rows: what is in the table.
        published: scores of others; those of the metric that is drawn.
    """
    kinds = [kind for kind in METRICS if any(row.kind == kind for row in rows)]
    sizes = [len({row.task for row in rows if row.kind == kind}) for kind in kinds]
    figure = Figure(figsize=(8.0, 1.6 + 0.5 * sum(sizes)), layout="constrained")
    ratios = [size + 1 for size in sizes] or [1]
    panels = figure.subplots(max(len(kinds), 1), squeeze=False, height_ratios=ratios)[:, 0]
    for axes, kind in zip(panels, kinds, strict=False):
        _draw(axes, [row for row in rows if row.kind == kind], published)
        axes.set_xlabel(METRICS[kind][0])
    handles: dict[str, Artist] = {}
    for axes in panels:
        found, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    names = list(handles)
    figure.legend(handles.values(), names, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _draw(axes: Axes, rows: Sequence[Row], published: Sequence[Published]) -> None:
    tasks = list(dict.fromkeys(row.task for row in rows))
    columns = list(dict.fromkeys(row.column for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    metric = rows[0].metric
    offsets = dict(
        zip(columns, np.linspace(-0.5, 0.5, max(len(columns), 2)) * _SPREAD, strict=False)
    )
    for row in rows:
        value, (low, high) = row.scores[metric], row.intervals[metric]
        if value is None:
            continue
        height = tasks.index(row.task) + offsets[row.column]
        color = f"C{methods.index(row.method) % 10}"
        if low is not None and high is not None:
            axes.plot([low, high], [height, height], color=color, linewidth=1, alpha=0.6)
        fill = "none" if row.weights == RANDOM else "full"
        axes.plot(
            [value], [height], "o", color=color, fillstyle=fill, markersize=5, label=row.column
        )
    for number, each in enumerate(one for one in published if one.metric == metric):
        known = {task: score for task, score in each.scores.items() if task in tasks}
        places = [tasks.index(task) for task in known]
        marker = "x+12"[number % 4]
        axes.plot(list(known.values()), places, marker, color="0.3", linestyle="", label=each.model)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.invert_yaxis()
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
