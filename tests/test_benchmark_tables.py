"""The benchmark's table at every width: no figure is cut."""

import dataclasses
import io
from pathlib import Path

import pytest
from printed_tables import read_table
from rich.box import SIMPLE
from rich.console import Console

from nucleotide_transformer.benchmark.compilation import CompileTimes, StepMemory
from nucleotide_transformer.benchmark.config import BenchmarkConfig, Case
from nucleotide_transformer.benchmark.machine import Peak
from nucleotide_transformer.benchmark.results import CaseResult, FailedCase, PeerResult, Report
from nucleotide_transformer.benchmark.tables import describe_result, print_report
from nucleotide_transformer.benchmark.timing import Spread

CASE = Case(
    task="train",
    model="100M",
    sequence_tokens=1_000,
    sequences_per_device=2,
    accumulation=1,
    num_devices=1,
    scaling="weak",
)
RESULT = CaseResult(
    case=CASE,
    num_parameters=97_000_000,
    step_seconds=Spread(0.5, 0.6234, 0.6312, 0.6456, 0.7),
    flops_per_step=10**12,
    peak=Peak(data_sheet=None, measured=2e12),
    num_peaks=1,
    compile_seconds=CompileTimes(1.5, 10.1, 14.0, None),
    memory=StepMemory(2**30, 2**20, 2**31),
    device_peak_bytes=None,
    evidence={"updates": 3},
)
PEER = PeerResult(
    name="torch",
    step_seconds=RESULT.step_seconds,
    tokens_per_second=3_168.9,
    ratio=Spread(0.9, 0.95, 1.01, 1.06, 1.1),
)
MACHINE = {
    "gpus": [],
    "device_kind": "cpu",
    "platform": "cpu",
    "processor": "a processor",
    "num_cores": 2,
    "num_local_devices": 1,
    "load_before": 0.0,
    "versions": {"jax": "0"},
}


def print_at(width: int, *results: CaseResult | FailedCase) -> str:
    """The whole report on a terminal of so many columns."""
    text = io.StringIO()
    report = Report(
        config=BenchmarkConfig(),
        machine=MACHINE,
        results=list(results),
        json_file=Path("b.json"),
        picture=Path("b.png"),
    )
    console = Console(file=text, width=width, soft_wrap=True, markup=False, highlight=False)
    print_report(report, console)
    return text.getvalue()


def test_the_notes_say_how_flops_are_counted_and_why_a_cell_is_empty() -> None:
    lora = dataclasses.replace(CASE, task="finetune", method="lora")
    head = dataclasses.replace(RESULT, case=dataclasses.replace(lora, method="head"), no_peer="why")
    text = print_at(160, dataclasses.replace(RESULT, case=lora, peer=PEER), head)
    assert "of the forward pass, x 2 for finetune lora, x 1 for finetune head; " in text
    assert "\nno peer where the cell is empty: why\n" in text
    assert "\nno peer: why\n" in print_at(160, head)
    assert "of the forward pass, x 3 for train; " in print_at(160, RESULT)
    embed = dataclasses.replace(CASE, task="embed")
    assert "of the forward pass; " in print_at(160, dataclasses.replace(RESULT, case=embed))


def test_a_wide_terminal_has_every_figure() -> None:
    cells = describe_result(RESULT)
    row = read_table(print_at(160, RESULT))["train 100M, 2 x 1,000"]
    assert row == {name: text for name, text in cells.items() if text}


def test_a_narrow_terminal_has_fewer_figures_and_each_whole() -> None:
    text = print_at(80, RESULT, FailedCase(case=CASE, error="out of memory"))
    assert SIMPLE.head_row_horizontal in text
    assert "…" not in text
    line = next(line for line in text.splitlines() if "train 100M" in line)
    assert line.split() == ["train", "100M,", "2", "x", "1,000", "3,169", "631.2", "3.00", "11.6"]
    assert "out of memory" in text
    for left_out in ("[quartiles]", "of product", "temporary", "["):
        assert left_out not in text


@pytest.mark.parametrize("width", [30, 80])
def test_where_no_table_has_room_each_case_has_lines(width: int) -> None:
    case = dataclasses.replace(CASE, model="500M_1000G", num_devices=8, scaling="strong")
    result = dataclasses.replace(RESULT, case=case, peer=PEER)
    text = print_at(width, result, FailedCase(case=CASE, error="out of memory"))
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.startswith("  ")]
    assert "\ntrain 500M_1000G, 2 x 1,000, 8 devices strong\n  tokens/s    25,349\n" in text
    assert "  ms a step   631.2 [623.4-645.6]\n" in text
    assert "  ratio       1.01 [0.95-1.06]\n" in text
    assert "\ntrain 100M, 2 x 1,000\n  tokens/s    out of memory\n" in text
    assert len(lines) == sum(map(bool, describe_result(result).values())) + 1


@pytest.mark.parametrize("width", range(20, 200, 12))
def test_no_figure_is_cut_at_any_width(width: int) -> None:
    for result in (RESULT, dataclasses.replace(RESULT, peer=PEER)):
        text = print_at(width, result)
        assert "…" not in text
        for figure in ("3,169", "631.2", "3.00", "11.6"):
            assert figure in text
