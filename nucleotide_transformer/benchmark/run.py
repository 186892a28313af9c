"""The benchmark: every case compiled, timed in turn with its peer, and written down."""

import dataclasses
import datetime
import gc
import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nucleotide_transformer.benchmark.compilation import (
    compile_step,
    find_device_peak,
    find_memory,
)
from nucleotide_transformer.benchmark.config import BenchmarkConfig, Case, find_model, list_cases
from nucleotide_transformer.benchmark.machine import Peak, describe_machine, find_peak
from nucleotide_transformer.benchmark.operations import Profile, profile_workload
from nucleotide_transformer.benchmark.pictures import plot_results
from nucleotide_transformer.benchmark.results import (
    CaseResult,
    FailedCase,
    PeerResult,
    Report,
    write_json,
)
from nucleotide_transformer.benchmark.timing import (
    Workload,
    compare_rates,
    summarize,
    time_in_turns,
)
from nucleotide_transformer.benchmark.torch_peer import TorchPeer, explain_absence
from nucleotide_transformer.benchmark.workloads import check_case, make_workload
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.files import catch_termination, refuse_unwritable
from nucleotide_transformer.model import count_parameters
from nucleotide_transformer.model.platform import resolve_compute
from nucleotide_transformer.plots import save_figure
from nucleotide_transformer.training.devices import OUT_OF_MEMORY, find_devices
from nucleotide_transformer.training.peaks import count_peaks


def run_benchmark(config: BenchmarkConfig, *, progress: bool = False) -> Report:
    """Measures every case; after each, all so far are on disk.

    Args:
        config: the cases, and how often to run them.
        progress: show a bar.

    Raises:
        InputError, NotAFolderError: one line, before anything is measured, for cases that
            can't be, several processes, or an output folder that can't be.
        RunFailedError: if a device has no memory for the product that measures its peak.
    """
    devices = find_devices(None)
    processes = jax.process_count()
    require(processes == 1, "processes", processes, "the benchmark runs in one")
    config = resolve_config(config, devices[0])
    platform = devices[0].platform
    cases = list_cases(config, num_local_devices=len(devices), platform=platform)
    for case in cases:
        check_case(case, config)
    machine = describe_machine(devices)
    with catch_termination():
        json_file, picture = reserve_files(config.output)
        report = Report(config=config, machine=machine, results=[], json_file=json_file)
        try:
            with BenchmarkProgress(config, cases, show=progress) as bar:
                bar.say("matrix product")
                dtype: Any = config.compute.compute_dtype  # "auto" no more
                peak = find_peak(devices[0], dtype)
                for case in cases:
                    report.results.append(run_case(case, config, peak, bar))
                    write_json(json_file, config, machine, report.results)
        finally:
            if not json_file.stat().st_size:
                json_file.unlink()
    if not report.measured:
        return report
    save_figure(plot_results(report), picture)
    return dataclasses.replace(report, picture=picture)


def resolve_config(config: BenchmarkConfig, device: jax.Device) -> BenchmarkConfig:
    """The same with the type of the activations decided; an `InputError` for what can't be.

    Models may differ in the form of the attention that is the fastest; each decides for itself.
    """
    for name in config.models:
        found = resolve_compute(config.compute, find_model(name, config.model), device)
    compute = dataclasses.replace(config.compute, compute_dtype=found.compute_dtype)
    return dataclasses.replace(config, compute=compute)


def reserve_files(folder: Path) -> tuple[Path, Path]:
    """Makes the output folder, and in it an empty JSON file, beside which a picture may be.

    Their name is the time, with a number after it if another benchmark has that already.
    """
    stem = f"benchmark_{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H-%M-%S}"
    with refuse_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count():
            json_file = folder / f"{stem}{f'_{number}' if number else ''}.json"
            with suppress(FileExistsError):
                json_file.open("x").close()
                break
    return json_file, json_file.with_suffix(".png")


def run_case(
    case: Case, config: BenchmarkConfig, peak: Peak, bar: "BenchmarkProgress"
) -> CaseResult | FailedCase:
    """Measures one case; one that the memory is too small for says so and ends nothing."""
    done = bar.num_done
    try:
        return measure_case(case, config, peak, bar)
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        bar.skip_to(done + count_steps(config))
        error.__traceback__ = None  # whose frames hold the arrays of this case
        gc.collect()
        return FailedCase(case=case, error="out of memory")


def measure_case(
    case: Case, config: BenchmarkConfig, peak: Peak, bar: "BenchmarkProgress"
) -> CaseResult:
    """Compiles, warms up, times and, if asked for, profiles one case."""
    devices = jax.local_devices()[: case.num_devices]
    bar.say(f"{case.label}: compiling")
    workload = make_workload(case, config, devices)
    compile_seconds, compiled = compile_step(workload, cache=config.cache)
    bar.advance()
    seconds, peer, no_peer = time_case(workload, case, config, bar)
    spread = summarize(list(itertools.chain(*seconds)))
    evidence = workload.describe()  # before the steps of the profile
    profile, no_profile = profile_case(workload, compiled, case, config)
    return CaseResult(
        case=case,
        num_parameters=count_parameters(find_model(case.model, config.model)),
        step_seconds=spread,
        flops_per_step=workload.flops_per_step,
        peak=peak,
        num_peaks=count_peaks(devices),
        compile_seconds=compile_seconds,
        memory=find_memory(compiled),
        device_peak_bytes=find_device_peak(devices[0]),
        evidence=evidence,
        peer=peer,
        no_peer=no_peer,
        profile=profile,
        no_profile=no_profile,
    )


def profile_case(
    workload: Workload, compiled: Any, case: Case, config: BenchmarkConfig
) -> tuple[Profile | None, str | None]:
    """The profile, or why there is none: what was timed is kept without it."""
    if not config.profile:
        return None, "not asked for"
    try:
        return profile_workload(workload, compiled, num_devices=case.num_devices), None
    except InputError as error:
        return None, str(error)


def time_case(
    workload: Workload, case: Case, config: BenchmarkConfig, bar: "BenchmarkProgress"
) -> tuple[list[list[float]], PeerResult | None, str | None]:
    """Seconds of our steps [round][step], and the peer's figures, or why there are none.

    Where the peer runs out of memory, ours is timed again, alone.
    """
    absence = explain_absence(case, jax.default_backend()) if config.peer else "not asked for"
    if not absence:
        done = bar.num_done
        try:
            return *time_with_peer(workload, case, config, bar), None
        except RuntimeError as error:
            if isinstance(error, jax.errors.JaxRuntimeError) or "out of memory" not in str(error):
                raise
            error.__traceback__ = None  # whose frames hold the peer
        gc.collect()
        TorchPeer.free_memory()
        bar.skip_to(done)
        absence = "the peer is out of memory; XLA_PYTHON_CLIENT_PREALLOCATE=false leaves it more"
    (ours,) = time_workloads([workload], case, config, bar)
    return ours, None, absence


def time_with_peer(
    workload: Workload, case: Case, config: BenchmarkConfig, bar: "BenchmarkProgress"
) -> tuple[list[list[float]], PeerResult]:
    """Seconds of our steps, and the peer's figures, taken in turns."""
    peer = TorchPeer(case, config, jax.default_backend())
    peer.wait(peer.start())
    ours, theirs = time_workloads([workload, peer], case, config, bar)
    spread = summarize(list(itertools.chain(*theirs)))
    return ours, PeerResult(
        name=peer.name,
        step_seconds=spread,
        tokens_per_second=case.tokens_per_step / spread.median,
        ratio=compare_rates(ours, theirs),
    )


def time_workloads(
    workloads: list[Workload], case: Case, config: BenchmarkConfig, bar: "BenchmarkProgress"
) -> list[list[list[float]]]:
    """Warms up; then seconds of steps [workload][round][step], taken in turns."""
    for _ in range(config.warmup_steps):
        bar.say(f"{case.label}: warming up")
        for each in workloads:
            each.wait(each.start())
        bar.advance()
    bar.say(case.label)
    return time_in_turns(
        workloads,
        rounds=config.rounds,
        round_steps=config.round_steps,
        advance=lambda: bar.advance(config.round_steps / len(workloads)),
    )


def count_steps(config: BenchmarkConfig) -> int:
    """Steps of a case, of which the first one compiles."""
    return 1 + config.warmup_steps + config.rounds * config.round_steps


class BenchmarkProgress:
    """The bar of a benchmark; says nothing if `show` is False."""

    def __init__(self, config: BenchmarkConfig, cases: list[Case], *, show: bool):
        self._bar = Progress(
            TextColumn("steps"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            disable=not show,
            transient=True,
        )
        self._task = self._bar.add_task("", total=len(cases) * count_steps(config))
        self.num_done = 0.0

    def __enter__(self) -> "BenchmarkProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, what: str) -> None:
        """Shows what is going on: in the bar, or as a line where the output is no terminal."""
        if what and not self._bar.disable and not self._bar.console.is_terminal:
            self._bar.console.print(what, soft_wrap=True)
        self._bar.update(self._task, description=what)

    def advance(self, num_steps: float = 1) -> None:
        """Counts steps."""
        self.skip_to(self.num_done + num_steps)

    def skip_to(self, num_steps: float) -> None:
        """Says how many steps are done."""
        self.num_done = num_steps
        self._bar.update(self._task, completed=round(num_steps))
