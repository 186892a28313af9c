"""The commands that look at this machine: `nt env`, `verify`, `benchmark`."""

from nucleotide_transformer import environment
from nucleotide_transformer.benchmark.config import BenchmarkConfig
from nucleotide_transformer.benchmark.run import run_benchmark
from nucleotide_transformer.benchmark.tables import print_report
from nucleotide_transformer.console import FAILED, PlainConsole
from nucleotide_transformer.environment import EnvironmentConfig
from nucleotide_transformer.training.devices import find_devices
from nucleotide_transformer.verification import VerifyConfig, verify_model


def benchmark(config: BenchmarkConfig) -> int:
    """`nt benchmark`."""
    report = run_benchmark(config, progress=True)
    print_report(report, PlainConsole())
    return 0 if report.measured else FAILED


def describe_environment(config: EnvironmentConfig) -> int:
    """`nt env`."""
    console = PlainConsole()
    for name, text in environment.describe_environment(config):
        console.print(f"{name:14} {text}")
    for missing in environment.find_missing():
        console.print(f"missing        {missing.what}: {missing.remedy}")
    return 0


def verify(config: VerifyConfig) -> int:
    """`nt verify`."""
    find_devices(None)
    result = verify_model(config)
    compute, console = result.model.compute, PlainConsole()
    console.print(f"model       {config.model}")
    console.print(
        f"computed    on {result.device}, {compute.compute_dtype}, attention {compute.attention}"
    )
    console.print(f"reference   {result.origin}")
    console.print(
        f"difference  {result.largest:.2g} at most, of logits with a root mean square of"
        f" {result.scale:.2g}; may be {result.tolerance:.2g}"
    )
    console.print("ok" if result.is_ok else "not ok")
    return 0 if result.is_ok else FAILED
