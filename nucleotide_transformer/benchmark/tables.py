"""A benchmark as text."""

from collections.abc import Iterator

from rich.box import HEAVY_HEAD, SIMPLE
from rich.console import Console
from rich.table import Table

from nucleotide_transformer.benchmark.machine import describe_load
from nucleotide_transformer.benchmark.results import (
    CaseResult,
    FailedCase,
    Report,
    find_base,
)
from nucleotide_transformer.benchmark.timing import Spread
from nucleotide_transformer.finetuning.run import PASSES

GIB = 2**30
MFU_FORMULA = (
    "MFU = model FLOPs of a step / (median seconds x peak FLOP/s of all devices). Model FLOPs: 2"
    " for each multiply-add of the matrix products of the forward pass{passes}; recomputation is"
    " left out."
)

LEFT_OUT_IF_NARROW = ("of product", "temporary")
"""Columns that a narrow terminal has no room for, as for the quartiles."""


def print_report(report: Report, console: Console) -> None:
    """Prints the machine, a table of all cases, and the profiles."""
    for line in describe_setting(report):
        console.print(line, soft_wrap=True)
    narrow = print_cases(report, console)
    for line in describe_notes(report, narrow=narrow):
        console.print(line, soft_wrap=True)
    for result in report.measured:
        if result.profile:
            console.print(make_kind_table(result), make_operation_table(result, report))
    picture = f", {report.picture.name}" if report.picture else ""
    console.print(f"written: {report.json_file}{picture}", soft_wrap=True)


def describe_setting(report: Report) -> Iterator[str]:
    """The devices, the versions, the precision and the peaks."""
    machine, compute = report.machine, report.config.compute
    device = machine["gpus"][0] if machine["gpus"] else machine["device_kind"]
    if machine["platform"] == "cpu":
        device = f"{machine['processor']}, {machine['num_cores']} cores"
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    yield f"{machine['num_local_devices']} x {device}; {versions}"
    yield (
        f"{compute.compute_dtype}, parameters {compute.param_dtype}, attention {compute.attention},"
        f" stack {compute.stack}, remat {compute.remat}"
    )
    busy = describe_load(machine)
    if busy:
        yield busy
    if report.measured:
        peak = report.measured[0].peak
        sheet = f"{peak.data_sheet / 1e12:,.4g}" if peak.data_sheet else "unknown"
        yield (
            f"peak of {'the machine' if machine['platform'] == 'cpu' else 'a device'}: matrix"
            f" product {peak.measured / 1e12:,.3g} TFLOP/s, data sheet {sheet}; both in"
            f" {compute.compute_dtype}"
        )


def print_cases(report: Report, console: Console) -> bool:
    """Prints the figures of each case in a table, or in lines where no table has room for them.

    Returns:
        Whether the table is the narrow one, without some figures.
    """
    for narrow in (False, True):
        table = make_table(report, narrow=narrow)
        unbounded = console.options.update(width=10_000)
        if console.measure(table, options=unbounded).maximum <= console.width:
            console.print(table)
            return narrow
    for result in report.results:
        console.print(result.case.label, soft_wrap=True)
        for name, text in describe_any(result).items():
            if text:
                console.print(f"  {name:11} {text}", soft_wrap=True)
    return False


def make_table(report: Report, *, narrow: bool) -> Table:
    """A row for each case, and the columns that any of them fills.

    Args:
        report: what was measured.
        narrow: leave out the quartiles and `LEFT_OUT_IF_NARROW`.
    """
    title = "medians; a wider terminal has more" if narrow else "medians [quartiles]"
    table = Table(title=title, title_justify="left", box=SIMPLE if narrow else HEAVY_HEAD)
    table.add_column("case", no_wrap=True)
    rows = [describe_any(result) for result in report.results]
    filled = max(rows, key=lambda row: sum(map(bool, row.values())))
    names = [name for name in filled if any(row.get(name) for row in rows)]
    if narrow:
        names = [name for name in names if name not in LEFT_OUT_IF_NARROW]
        rows = [{name: text.partition(" [")[0] for name, text in row.items()} for row in rows]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for result, row in zip(report.results, rows, strict=True):
        table.add_row(result.case.label, *(row.get(name, "") for name in names))
    return table


def describe_any(result: CaseResult | FailedCase) -> dict[str, str]:
    """As `describe_result`; of a case that failed, why."""
    return {"tokens/s": result.error} if isinstance(result, FailedCase) else describe_result(result)


def describe_result(result: CaseResult) -> dict[str, str]:
    """The cells of a case by the names of their columns; empty where there is no figure."""
    times, peer = result.compile_seconds, result.peer
    again = "" if times.second_start is None else f" ({times.second_start:.1f})"
    return {
        "tokens/s": f"{result.tokens_per_second:,.0f}",
        "ms a step": show_spread(result.step_seconds, 1e3, ",.4g"),
        "MFU": "" if result.mfu is None else f"{result.mfu:.1%}",
        "of product": f"{result.mfu_of_measured_peak:.1%}",
        "GiB": "" if result.memory is None else f"{result.memory.total / GIB:.2f}",
        "temporary": "" if result.memory is None else f"{result.memory.temporaries / GIB:.3g}",
        "compile s": f"{times.lower + times.compile:.1f}{again}",
        "peer": f"{peer.tokens_per_second:,.0f}" if peer else "",
        "ratio": show_spread(peer.ratio, 1.0, ".2f") if peer else "",
    }


def show_spread(spread: Spread, factor: float, form: str) -> str:
    """`median [first quartile-third quartile]`."""
    low, middle, high = (
        format(factor * value, form)
        for value in (spread.first_quartile, spread.median, spread.third_quartile)
    )
    return f"{middle} [{low}-{high}]"


def describe_notes(report: Report, *, narrow: bool) -> Iterator[str]:
    """What the table needs to be understood: formulas, the peer, scaling."""
    yield MFU_FORMULA.format(passes=describe_passes(report))
    if narrow:
        yield "GiB: of one device"
    else:
        yield "of product: the same, of the matrix product measured here; GiB: of one device;"
        yield "temporary: the GiB of these that are there during a step alone"
    if report.config.cache:
        yield "compile s: in brackets, the second start with a persistent compilation cache"
    peers = [result.peer for result in report.measured if result.peer]
    if peers:
        yield (
            f"peer: tokens/s of ESM of {peers[0].name}, whose blocks have as many FLOPs a token;"
            " ratio: our rate over its, round by round"
        )
    reasons = dict.fromkeys(result.no_peer for result in report.measured if result.no_peer)
    if report.config.peer and reasons:
        yield f"no peer{' where the cell is empty' if peers else ''}: {'; '.join(reasons)}"
    lacking = dict.fromkeys(result.no_profile for result in report.measured if result.no_profile)
    if report.config.profile and lacking:
        yield f"no profile: {'; '.join(lacking)}"
    for result in report.measured:
        base = find_base(result, report)
        if base and base is not result:
            speedup = result.tokens_per_second / base.tokens_per_second
            efficiency = speedup * base.num_peaks / result.num_peaks
            yield f"{result.case.label}: {speedup:.2f} x one device, efficiency {efficiency:.0%}"


def describe_passes(report: Report) -> str:
    """What the FLOPs of updates are over those of a forward pass."""
    cases = [result.case for result in report.results]
    passes = {
        case.what: PASSES[case.method] if case.method else 3
        for case in cases
        if case.task in ("train", "finetune")
    }
    return "".join(f", x {number} for {what}" for what, number in passes.items())


def make_kind_table(result: CaseResult) -> Table:
    """The shares of kinds of operations."""
    assert result.profile
    table = Table(title=f"where the time goes: {result.case.label}", title_justify="left")
    table.add_column("kind", min_width=len(result.case.label) + 12)
    table.add_column("share", justify="right")
    for kind, share in result.profile.sum_kinds().items():
        table.add_row(kind, f"{share:.1%}")
    return table


def make_operation_table(result: CaseResult, report: Report) -> Table:
    """The costliest operations."""
    assert result.profile
    profile = result.profile
    counted = ", ".join(f"{name} {value:.3g}" for name, value in profile.cost.items())
    caption = (
        f"{1e3 * profile.total_seconds:,.4g} ms in operations, added up over threads, streams and"
        f" devices; {1e3 * profile.step_seconds:,.4g} ms a traced step."
        f" XLA counts, the body of a loop once: {counted}"
    )
    table = Table(caption=caption, caption_justify="left")
    for name in ("operation", "from", "kind"):
        table.add_column(name, overflow="fold")
    for name in ("times a step", "ms a step", "share"):
        table.add_column(name, justify="right")
    for row in profile.operations[: report.config.profile_rows]:
        share = row.seconds / profile.total_seconds
        cells = (f"{row.calls:,.0f}", f"{1e3 * row.seconds:,.3g}", f"{share:.1%}")
        table.add_row(row.name, row.part, row.kind, *cells)
    return table
