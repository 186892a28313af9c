"""What every test runs under: eight virtual CPU devices, and shapes checked at run time.

On another platform, or with a number of devices given in XLA_FLAGS, there may be fewer: tests that
are marked `devices(n)` are skipped then.

The environment is set before anything imports jax, and the import hook before anything imports the
package: both must stay above the fixtures, and no plugin may import the package earlier.
"""

import gc
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import quick_compiler

REPOSITORY = Path(__file__).resolve().parent.parent
TESTS = itertools.count(1)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
for flag in ("--xla_force_host_platform_device_count=8", *quick_compiler.FLAGS):
    given = os.environ.get("XLA_FLAGS", "")
    if flag.partition("=")[0] not in given:
        os.environ["XLA_FLAGS"] = f"{given} {flag}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Most time goes into tracing and compiling: no program's lines are looked up for the compiler,
# and the garbage collector, which goes through all that JAX keeps of them, comes less often.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
gc.set_threshold(200_000, 20, 100)
os.environ.setdefault("MPLBACKEND", "agg")

jaxtyping.install_import_hook("nucleotide_transformer", "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts modules with dear fixtures first: what an idle worker takes over is made twice."""
    dear = ("test_what_it_knows.py", "test_packaging.py", "test_loop.py", "test_start.py")
    items.sort(key=lambda item: item.path.name not in dear)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests that need more devices than there are."""
    marker = item.get_closest_marker("devices")
    if marker is None:
        return
    import jax

    (needed,) = marker.args
    found = jax.local_device_count()
    if found < needed:
        pytest.skip(f"needs {needed} devices, and JAX finds {found}")


def pytest_runtest_teardown() -> None:
    """Drops compiled functions before their memory maps run out.

    Each kernel that XLA compiles for the CPU is mapped by itself, and Linux allows a process 65,530
    maps (vm.max_map_count): beyond them the compiler crashes. A run leaves 1,500 to 4,000. To count
    them takes up to 30 ms, so that it is done after every eighth test.
    """
    maps = Path("/proc/self/maps")
    if next(TESTS) % 8 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def quick_ends() -> Iterator[None]:
    """What a run does at its ends: small products for the machine's peak, and no picture."""
    from nucleotide_transformer.pretraining import report
    from nucleotide_transformer.training import peaks

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(peaks.SIZES, "cpu", (128,))
        patch.setattr(report, "plot_curves", lambda _run, _panels, **_: None)
        yield


@pytest.fixture
def drawn_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of a test draw their curves."""
    from nucleotide_transformer.pretraining import report
    from nucleotide_transformer.training.curves import plot_curves

    monkeypatch.setattr(report, "plot_curves", plot_curves)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data next to the repository; the test is skipped without it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"the reference data are absent: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two species of 30,000 nt each, in chunks of 200 nt; both with held-out blocks."""
    import numpy as np

    from nucleotide_transformer.data.corpus import build_corpus
    from nucleotide_transformer.data.corpus_config import CorpusConfig

    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    for species, shares in (("rich", (0.1, 0.4, 0.4, 0.1)), ("poor", (0.4, 0.1, 0.1, 0.4))):
        letters = "".join(rng.choice(list("ACGT"), 30_000, p=shares))
        (folder / f"{species}.fa").write_text(f">chr1\n{letters}\n")
    config = CorpusConfig(
        inputs=(folder / "rich.fa", folder / "poor.fa"),
        output=folder / "corpus",
        chunk_length=200,
        overlap=20,
        block_length=1_000,
        validation_fraction=0.1,
        test_fraction=0.1,
        workers=1,
    )
    build_corpus(config)
    return config.output


@pytest.fixture
def run_config(small_corpus: Path, tmp_path: Path) -> object:
    """A run that takes seconds, in a folder of the test's own."""
    from small_runs import make_run_config

    return make_run_config(small_corpus, tmp_path)


@pytest.fixture(scope="session")
def finished_run(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """Such a run that has ended, with its curves: its config and its summary. Only read it."""
    from small_runs import make_run_config

    from nucleotide_transformer.pretraining import report
    from nucleotide_transformer.pretraining.run import pretrain
    from nucleotide_transformer.training.curves import plot_curves

    config = make_run_config(small_corpus, tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "plot_curves", plot_curves)
        return config, pretrain(config, show=False)
