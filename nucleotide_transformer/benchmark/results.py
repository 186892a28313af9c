"""What a case gave, and the file that keeps it."""

import dataclasses
from pathlib import Path
from typing import Any

from nucleotide_transformer import files
from nucleotide_transformer.benchmark.compilation import CompileTimes, StepMemory
from nucleotide_transformer.benchmark.config import BenchmarkConfig, Case
from nucleotide_transformer.benchmark.machine import Peak
from nucleotide_transformer.benchmark.operations import Profile
from nucleotide_transformer.benchmark.timing import Spread
from nucleotide_transformer.configfile import config_to_dict

PROFILE_ROWS_KEPT = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerResult:
    """The peer's steps, timed in turn with ours."""

    name: str
    step_seconds: Spread
    tokens_per_second: float
    ratio: Spread
    """Our rate over the peer's, round by round."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The figures of one case."""

    case: Case
    num_parameters: int
    step_seconds: Spread
    """Over all timed steps."""
    flops_per_step: int
    """Model FLOPs: matrix products of the forward pass; of an update 3 times as many, of
    fine-tuning `PASSES` times."""
    peak: Peak
    """Of one device."""
    num_peaks: int
    """How many times that peak is there: devices, or 1 on a CPU, whose devices share it."""
    compile_seconds: CompileTimes
    memory: StepMemory | None
    """Of one device, by the compiler's account."""
    device_peak_bytes: int | None
    """The most in use on a device so far in this process, where the device counts it: of this
    case if that took more than those before it, and more than the products of the peak."""
    evidence: dict[str, int | float]
    """Steps done, and a number that they gave."""
    peer: PeerResult | None = None
    no_peer: str | None = None
    """Why there is no peer."""
    profile: Profile | None = None
    no_profile: str | None = None
    """Why there is no profile."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens of a step over its median seconds."""
        return self.case.tokens_per_step / self.step_seconds.median

    @property
    def flops_per_second(self) -> float:
        """Model FLOPs of a step over its median seconds."""
        return self.flops_per_step / self.step_seconds.median

    @property
    def mfu(self) -> float | None:
        """Model FLOPs a second over the data sheet's peak of all devices; None without one."""
        sheet = self.peak.data_sheet
        return None if sheet is None else self.flops_per_second / (sheet * self.num_peaks)

    @property
    def mfu_of_measured_peak(self) -> float:
        """Model FLOPs a second over what a matrix product alone reaches on all devices."""
        return self.flops_per_second / (self.peak.measured * self.num_peaks)

    def to_dict(self) -> dict[str, Any]:
        """All of it, in types that JSON has."""
        found = {
            **dataclasses.asdict(self.case),
            "tokens_per_step": self.case.tokens_per_step,
            "num_parameters": self.num_parameters,
            "tokens_per_second": self.tokens_per_second,
            "step_seconds": self.step_seconds._asdict(),
            "flops_per_step": self.flops_per_step,
            "flops_per_second": self.flops_per_second,
            "peak_flops": {**self.peak._asdict(), "times": self.num_peaks},
            "mfu": self.mfu,
            "mfu_of_measured_peak": self.mfu_of_measured_peak,
            "compile_seconds": self.compile_seconds._asdict(),
            "memory_bytes": None,
            "device_peak_bytes": self.device_peak_bytes,
            "evidence": self.evidence,
            "peer": None,
            "no_peer": self.no_peer,
            "profile": None,
            "no_profile": self.no_profile,
        }
        if self.memory:
            found["memory_bytes"] = {**self.memory._asdict(), "total": self.memory.total}
        if self.peer:
            spreads = {
                name: getattr(self.peer, name)._asdict() for name in ("step_seconds", "ratio")
            }
            found["peer"] = {**dataclasses.asdict(self.peer), **spreads}
        if self.profile:
            found["profile"] = profile_to_dict(self.profile)
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailedCase:
    """A case that the devices' memory is too small for."""

    case: Case
    error: str

    def to_dict(self) -> dict[str, Any]:
        """All of it, in types that JSON has."""
        return {**dataclasses.asdict(self.case), "error": self.error}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A benchmark: its options, the machine, and what every case gave."""

    config: BenchmarkConfig
    machine: dict[str, Any]
    results: list[CaseResult | FailedCase]
    json_file: Path
    picture: Path | None = None
    """None if nothing was measured."""

    @property
    def measured(self) -> list[CaseResult]:
        """The cases that ran."""
        return [result for result in self.results if isinstance(result, CaseResult)]


def find_base(result: CaseResult, report: Report) -> CaseResult | None:
    """The case on one device that this one scales: equal batches (weak) or equal work (strong)."""
    case = result.case
    strong = case.scaling == "strong"
    sequences = case.sequences_per_device * (case.num_devices if strong else 1)
    same = {"num_devices": 1, "sequences_per_device": sequences, "scaling": "weak"}
    base = dataclasses.replace(case, **same)  # type: ignore[arg-type]
    return next((other for other in report.measured if other.case == base), None)


def profile_to_dict(profile: Profile) -> dict[str, Any]:
    """A profile in types that JSON has; of the operations, the costliest."""
    return {
        "step_seconds": profile.step_seconds,
        "operation_seconds": profile.total_seconds,
        "cost": profile.cost,
        "kinds": profile.sum_kinds(),
        "operations": [row._asdict() for row in profile.operations[:PROFILE_ROWS_KEPT]],
    }


def write_json(
    path: Path,
    config: BenchmarkConfig,
    machine: dict[str, Any],
    results: list[CaseResult | FailedCase],
) -> None:
    """Writes a report's file, or replaces it by one with more cases: whole at any time."""
    content = {
        "machine": machine,
        "config": {k: v for k, v in config_to_dict(config).items() if k != "output"},
        "results": [result.to_dict() for result in results],
    }
    files.write_json(path, content, indent=2)
