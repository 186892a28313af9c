"""The commands `nt probe` and `nt tasks run`."""

import shlex
import sys
from typing import Any

from nucleotide_transformer.bars import show_steps
from nucleotide_transformer.console import say
from nucleotide_transformer.finetuning.leaks import describe_leaks
from nucleotide_transformer.finetuning.probe import (
    PLOT_FILE,
    RESULT_FILE,
    ProbeConfig,
    read_tables,
    run_probe,
)
from nucleotide_transformer.finetuning.task_rows import make_rows, read_published, select_rows
from nucleotide_transformer.finetuning.task_tables import TABLE, check_libraries, write_tables
from nucleotide_transformer.finetuning.tasks import TasksConfig, load_tables
from nucleotide_transformer.finetuning.tasks import run_tasks as run_trials
from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.training.devices import find_devices
from nucleotide_transformer.weights.assembly import digest_params


def probe(config: ProbeConfig) -> int:
    """`nt probe`."""
    tables = read_tables(config)  # before the model: a typo should not cost a download
    find_devices(None)
    model = load_pretrained(config.model, compute=config.compute)
    with show_steps(visible=True) as steps:
        result = run_probe(model, *tables, config, steps=steps)
    say(describe_leaks(result["leaks"], result["num_test"]))
    for line in _make_lines(result):
        say(line)
    say(f"wrote {config.output / RESULT_FILE} and {config.output / PLOT_FILE}")
    return 0


def run_tasks(config: TasksConfig) -> int:
    """`nt tasks run`."""
    check_libraries(config.output)
    published = [] if config.published is None else read_published(config.published)
    tables = load_tables(config)
    model = None
    if config.uses_network:
        find_devices(None)
        model = load_pretrained(config.model, compute=config.compute)
    records = run_trials(config, tables, model, note=say, show=True)
    rows, left_out = select_rows(make_rows(records))
    parameters = digest_params(model.params) if model else None
    head = {"model": config.model, "parameters": parameters, "command": find_command()}
    say(write_tables(config.output, rows, published, head))
    for line in left_out:
        say(line)
    say(f"wrote {config.output}/{TABLE}.md, .json, .parquet and .png")
    return 0


def find_command() -> str:
    """The command line that runs; of a call from elsewhere, what it is a call of."""
    words = sys.argv[1:]
    return shlex.join(["nt", *words]) if words[:1] == ["tasks"] else "run_tasks(TasksConfig(...))"


def _make_lines(result: dict[str, Any]) -> list[str]:
    """Scores by layer; a star marks the layer that cross-validation chose."""
    lines = []
    for name, network in result["networks"].items():
        first = next(iter(network["layers"].values()))
        (metric,) = first["cross_validation"]
        heads = [f"cross-validation {metric}", *(f"test {each}" for each in first["test"])]
        lines += ["", f"{name} weights", "  ".join(["layer", *heads])]
        for layer, row in network["layers"].items():
            values = [row["cross_validation"][metric], *row["test"].values()]
            mark = "*" if int(layer) == network["chosen_layer"] else " "
            cells = (
                _show(value).rjust(len(head)) for value, head in zip(values, heads, strict=True)
            )
            lines.append("  ".join([f"{layer:>4}{mark}", *cells]))
    return [*lines, ""]


def _show(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
