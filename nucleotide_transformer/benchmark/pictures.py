"""A benchmark as a picture."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nucleotide_transformer.benchmark.results import CaseResult, Report, find_base
from nucleotide_transformer.plots import clear_frame

OURS, PEER = "tab:blue", "0.65"


def plot_results(report: Report) -> Figure:
    """Tokens per second of every case, its share of the peak and, if asked for, scaling."""
    rows = report.measured
    scaled = len({result.case.num_devices for result in rows}) > 1
    height = max(2.6, 0.9 + 0.5 * len(rows))
    figure = Figure(figsize=(15 if scaled else 11, height), layout="constrained")
    panels = figure.subplots(1, 3 if scaled else 2, squeeze=False)[0]
    plot_rates(panels[0], rows)
    plot_shares(panels[1], rows)
    if scaled:
        plot_scaling(panels[2], report)
    panels[1].sharey(panels[0])
    panels[1].tick_params(labelleft=False)
    compute, machine = report.config.compute, report.machine
    device = machine["processor"] if machine["platform"] == "cpu" else machine["device_kind"]
    title = f"{device}, {compute.compute_dtype}, jax {machine['versions']['jax']}"
    figure.suptitle(title, fontsize="medium")
    return figure


def plot_rates(axes: Axes, rows: list[CaseResult]) -> None:
    """Bars of tokens a second, with the quartiles, and the peer's below them."""
    with_peer = any(result.peer for result in rows)
    height = 0.38 if with_peer else 0.6
    for place, result in enumerate(rows):
        draw_bar(axes, place - with_peer * height / 2, result, height, OURS)
        if result.peer:
            draw_bar(axes, place + height / 2, result, height, PEER)
    axes.set_yticks(range(len(rows)), [result.case.label for result in rows])
    axes.invert_yaxis()
    axes.set_xlabel("Tokens per second; quartiles")
    axes.set_xlim(0, 1.15 * axes.get_xlim()[1])
    if with_peer:
        names = {result.peer.name for result in rows if result.peer}
        for label, color in (("this package", OURS), (names.pop(), PEER)):
            axes.barh([0], [0], color=color, label=label)
        add_legend(axes)
    clear_frame(axes)


def draw_bar(axes: Axes, place: float, result: CaseResult, height: float, color: str) -> None:
    """One bar, with its number."""
    whose = result if color == OURS else result.peer
    assert whose
    seconds, tokens = whose.step_seconds, result.case.tokens_per_step
    rate = whose.tokens_per_second
    low, high = tokens / seconds.third_quartile, tokens / seconds.first_quartile
    axes.barh(place, rate, height, color=color)
    axes.errorbar(rate, place, xerr=[[rate - low], [high - rate]], color="0.2", capsize=2)
    axes.text(high, place, f"  {rate:,.0f}", va="center", fontsize="small")


def plot_shares(axes: Axes, rows: list[CaseResult]) -> None:
    """Shares of the measured matrix product, and of the data sheet where there is one."""
    for place, result in enumerate(rows):
        axes.plot(100 * result.mfu_of_measured_peak, place, "o", color=OURS)
        if result.mfu is not None:
            axes.plot(100 * result.mfu, place, "D", color="tab:red")
    axes.plot([], [], "o", color=OURS, label="of a matrix product measured here")
    if any(result.mfu is not None for result in rows):
        axes.plot([], [], "D", color="tab:red", label="of the data sheet (MFU)")
    axes.set_xlim(0, 100)
    axes.set_xlabel("Model FLOP/s as a share of the peak (%)")
    add_legend(axes)
    clear_frame(axes)


def plot_scaling(axes: Axes, report: Report) -> None:
    """Rate over that of one device, by task, model, batch and kind of scaling."""
    series: dict[str, list[tuple[int, float]]] = {}
    for result in report.measured:
        base, case = find_base(result, report), result.case
        if base and base is not result:
            points = series.setdefault(f"{base.case.label}, {case.scaling}", [(1, 1.0)])
            speedup = result.tokens_per_second / base.tokens_per_second
            points.append((case.num_devices, speedup))
    for name, points in series.items():
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=name)
    counts = sorted({result.case.num_devices for result in report.measured})
    axes.plot([1, counts[-1]], [1, counts[-1]], ":", color="0.5", label="as many times as devices")
    axes.set_xticks(counts)
    axes.set_xlabel("Devices (on a CPU they share the cores)")
    axes.set_ylabel("Times the rate of one")
    axes.set_ylim(bottom=0)
    add_legend(axes)
    clear_frame(axes)


def add_legend(axes: Axes) -> None:
    """A legend above the panel, where no bar can be."""
    axes.legend(
        frameon=False,
        fontsize="small",
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        borderaxespad=0.2,
    )
