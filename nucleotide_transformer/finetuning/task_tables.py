"""The table of many tasks as Markdown, JSON, Parquet and a plot."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nucleotide_transformer.errors import import_extra
from nucleotide_transformer.files import refuse_unwritable, write_json, write_whole
from nucleotide_transformer.finetuning.labels import Kind
from nucleotide_transformer.finetuning.methods import METHODS, NO_WEIGHTS
from nucleotide_transformer.finetuning.metrics import METRICS
from nucleotide_transformer.finetuning.probe import PRETRAINED, RANDOM
from nucleotide_transformer.finetuning.task_plots import plot_tasks
from nucleotide_transformer.finetuning.task_rows import Published, Row
from nucleotide_transformer.plots import save_figure

TABLE = "table"
"""Name of the files, before their suffix."""
_NAMES = {"mcc": "MCC", "f1": "F1", "auroc": "AUROC", "r2": "R²", "mse": "MSE"}
"""How metrics are written, where it is not as they are called."""


def write_tables(
    folder: Path, rows: Sequence[Row], published: Sequence[Published], head: dict[str, Any]
) -> str:
    """Writes the table in all forms, each file whole or not at all.

    Args:
        folder: where to; made if it is not there.
        rows: what `select_rows` left.
        published: scores of others on the same tasks.
        head: what the whole table was made with, for the JSON and the Markdown.

    Returns:
        The Markdown.
    """
    check_libraries(folder)
    text = make_markdown(rows, published, head)
    content = {
        "format_version": 1,
        **head,
        "rows": [dataclasses.asdict(row) for row in rows],
        "published": [dataclasses.asdict(each) for each in published],
    }
    with refuse_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{TABLE}.json", content, ensure_ascii=False, allow_nan=False)
        with write_whole(folder / f"{TABLE}.md") as partial:
            partial.write_text(text, encoding="utf-8")
        with write_whole(folder / f"{TABLE}.parquet") as partial:
            _write_parquet(partial, rows)
    save_figure(plot_tasks(rows, published), folder / f"{TABLE}.png")
    return text


def check_libraries(folder: Path) -> None:
    """Raises an `InputError` if what writes the Parquet file is not installed."""
    import_extra("pyarrow.parquet", "io", f"{folder}: to write Parquet")


def _write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """A row a method, with a column for each metric and for the ends of its interval."""
    arrow, parquet = (
        import_extra(name, "io", "to write Parquet") for name in ("pyarrow", "pyarrow.parquet")
    )
    parquet.write_table(arrow.Table.from_pylist([flatten(row) for row in rows]), path)


def flatten(row: Row) -> dict[str, Any]:
    """A row as plain columns, the same for all kinds of task."""
    flat: dict[str, Any] = {
        "task": row.task,
        "method": row.method,
        "weights": row.weights,
        "kind": row.kind,
        "num_seeds": len(row.seeds),
        "num_train": row.num_train,
        "num_test": row.num_test,
        "leaks_dropped": row.drop_leaks,
    }
    flat |= {f"leaks_{name}": count for name, count in row.leaks.items()}
    for name in dict.fromkeys(itertools.chain(*METRICS.values())):
        low, high = row.intervals.get(name, (None, None))
        flat |= {name: row.scores.get(name), f"{name}_low": low, f"{name}_high": high}
    return flat | {"interval_of": row.interval_of, "details": json.dumps(row.details)}


def make_markdown(rows: Sequence[Row], published: Sequence[Published], head: dict[str, Any]) -> str:
    """The table in words: the first metric by task and method, all metrics, and what they mean.

    Args:
        rows: what `select_rows` left.
        published: scores of others.
        head: `model` and `command`, for the first lines.
    """
    lines = ["# Tasks", "", f"Model: {head['model']}. Made by:", "", f"    {head['command']}", ""]
    for kind in METRICS:
        own = [row for row in rows if row.kind == kind]
        if own:
            lines += [*_make_short(kind, own, published), ""]
            lines += [*compare(own), ""]
            lines += [*_make_long(kind, own, published), ""]
    return "\n".join([*lines, *_make_notes(rows, published)]) + "\n"


def _make_short(kind: Kind, rows: Sequence[Row], published: Sequence[Published]) -> Iterator[str]:
    """The first metric, a line a task and a column a method."""
    metric = METRICS[kind][0]
    columns = list(dict.fromkeys(row.column for row in rows))
    others = [each for each in published if each.metric == metric]
    yield f"## {_NAMES.get(metric, metric)}"
    yield ""
    leaks = "same / other strand / nearly"
    heads = ["task", "train", "test", leaks, *columns, *(each.model for each in others)]
    yield _make_line(heads)
    yield _make_line(["---", "--:", "--:", *["---"] * (len(heads) - 3)])
    for task, group in itertools.groupby(rows, lambda row: row.task):
        of_task = list(group)
        cells = {row.column: _show(row, metric) for row in of_task}
        first = of_task[0]
        leaked = (first.leaks[name] for name in ("identical", "reverse_complement", "near"))
        yield _make_line(
            [
                *(task, f"{first.num_train:,}", f"{first.num_test:,}"),
                " / ".join(f"{count:,}" for count in leaked),
                *(cells.get(column, "") for column in columns),
                *(f"{each.scores[task]:.3f}" if task in each.scores else "" for each in others),
            ]
        )


def compare(rows: Sequence[Row]) -> Iterator[str]:
    """For each pretrained method, on how many tasks it is ahead of its controls."""
    scores = {(row.task, row.method, row.weights): row.scores[row.metric] for row in rows}
    counted = [name for name, method in METHODS.items() if not method.uses_network]
    for method in dict.fromkeys(row.method for row in rows if row.weights == PRETRAINED):
        own = {row.task: row for row in rows if (row.method, row.weights) == (method, PRETRAINED)}
        twins = {task: scores.get((task, method, RANDOM)) for task in own}
        parts = [_count(own, twins, "of the same with random weights")]
        best: dict[str, float | None] = {}
        for task in own:
            known = [scores.get((task, name, NO_WEIGHTS)) for name in counted]
            best[task] = max((score for score in known if score is not None), default=None)
        if any(score is not None for score in best.values()):
            parts.append(_count(own, best, "of the better k-mer counts"))
        yield f"- {method}: ahead {' and '.join(parts)}."


def _count(own: dict[str, Row], others: dict[str, float | None], name: str) -> str:
    """How often the first is ahead, of the tasks that have both."""
    pairs = [(row.scores[row.metric], others[task]) for task, row in own.items()]
    both = [(one, other) for one, other in pairs if one is not None and other is not None]
    return f"{name} on {sum(one > other for one, other in both)} of {len(both)} tasks"


def _make_long(kind: Kind, rows: Sequence[Row], published: Sequence[Published]) -> Iterator[str]:
    """All metrics, a line a row."""
    yield "## All metrics"
    yield ""
    heads = ["task", "method", "weights", *(_NAMES.get(name, name) for name in METRICS[kind])]
    yield _make_line(heads)
    yield _make_line(["---"] * len(heads))
    for task, group in itertools.groupby(rows, lambda row: row.task):
        for row in group:
            scores = [_show(row, name) for name in METRICS[kind]]
            yield _make_line([task, row.method, row.weights, *scores])
        for each in published:
            if task in each.scores:
                one = {each.metric: f"{each.scores[task]:.3f}"}
                scores = [one.get(name, "") for name in METRICS[kind]]
                yield _make_line([task, each.model, "published", *scores])


def _make_notes(rows: Sequence[Row], published: Sequence[Published]) -> Iterator[str]:
    yield "## What the numbers are"
    yield ""
    methods: dict[str, dict[str, None]] = {}
    for row in rows:
        methods.setdefault(row.interval_of, {})[row.method] = None
    for text, names in methods.items():
        which = f" of {', '.join(names)}" if len(methods) > 1 else ""
        yield f"- In parentheses{which}: {text}."
    yield (
        "- Same, other strand, nearly: test sequences that the training set has too, as they are,"
        " as reverse complement, or with half of the shorter one in common."
    )
    if any(row.drop_leaks for row in rows):
        yield "- The training sequences that these have in common with the test set were left out."
    elif rows:
        yield "- The training sequences that these have in common with the test set were kept."
    for each in published:
        yield f"- {each.model}: {_NAMES.get(each.metric, each.metric)}; {each.source}."


def _make_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _show(row: Row, metric: str) -> str:
    """A score with its interval."""
    value, (low, high) = row.scores[metric], row.intervals[metric]
    if value is None:
        return "not defined"
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if None not in (low, high) else "")
