"""`nt env`: what is there, what is missing, and the line that installs it."""

import ast
import importlib.metadata
import importlib.util
import json
from pathlib import Path
from unittest.mock import Mock

import jax
import pytest
from packaging.requirements import Requirement

from nucleotide_transformer import cli, environment
from nucleotide_transformer.environment import (
    EXTRAS,
    EnvironmentConfig,
    describe_environment,
    describe_peak,
    find_missing,
)
from nucleotide_transformer.errors import InputError

ROOT = Path(__file__).parent.parent


def hide(monkeypatch, *modules):
    find = importlib.util.find_spec
    replacement = lambda name, *rest: None if name in modules else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", replacement)


def test_the_command_shows_versions_devices_and_what_auto_is(capfd):
    assert cli.main(["env", "--no-measure"]) == 0
    out, err = capfd.readouterr()
    assert not err
    rows = [line.split(maxsplit=1) for line in out.splitlines()]
    texts = dict(rows)
    assert f"jax {jax.__version__}" in texts["versions"]
    assert texts["devices"].startswith(f"{jax.local_device_count()} x ")
    if jax.default_backend() == "cpu":
        assert texts["float32"] == texts["bfloat16"] == "attention auto is per_head"


def test_the_peak_is_that_of_the_data_sheet_or_measured(monkeypatch):
    device = jax.devices("cpu")[0]
    monkeypatch.setattr(environment, "measure_peak_flops", lambda *_: 0.25e12)
    monkeypatch.setattr(environment, "look_up_peak_flops", lambda *_: None)
    assert describe_peak(device, "float32", measure=True) == ", peak 0.25 TFLOP/s, measured now"
    assert not describe_peak(device, "float32", measure=False)
    monkeypatch.setattr(environment, "look_up_peak_flops", lambda *_: 989.4e12)
    for measure in (True, False):
        words = describe_peak(device, "bfloat16", measure=measure)
        assert words == ", peak 989 TFLOP/s by the data sheet"


def test_no_device_is_a_line_and_no_error(monkeypatch):
    def fail(_: object) -> None:
        raise InputError("JAX_PLATFORMS = 'tpu': JAX finds no such device here")

    monkeypatch.setattr(environment, "find_devices", fail)
    (row,) = describe_environment(EnvironmentConfig())
    assert row == ("devices", "none: JAX_PLATFORMS = 'tpu': JAX finds no such device here")


def test_a_missing_module_has_the_line_that_installs_it(monkeypatch):
    hide(monkeypatch, "h5py", "umap", "isal")
    found = dict(find_missing())
    assert found["h5py (HDF5 and Parquet files)"] == "pip install 'nucleotide-transformer-jax[io]'"
    assert found["umap (UMAP)"] == "pip install 'nucleotide-transformer-jax[umap]'"
    fast = "pip install 'nucleotide-transformer-jax[fast]'"
    assert found["isal (gzipped FASTA files 1.8 times as fast)"] == fast


def read_extras():
    """The extras of setup.py: name -> its packages, without their bounds."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Dict)
    ]
    names = {}
    exec(compile(tree, "setup.py", "exec"), names)  # without what calls setup
    extras = names["EXTRAS"].items()
    return {extra: {Requirement(text).name for text in texts} for extra, texts in extras}


ELSEWHERE = {"cuda", "cuda12", "tpu", "dev", "interop", "notebooks"}
"""Extras of accelerators, which are advised where one is found, and those for developers."""


def test_extras_are_those_of_setup():
    """Each line installs what it says, and none is forgotten."""
    packages = {"sklearn": "scikit-learn", "umap": "umap-learn"}
    extras = read_extras()
    assert extras.keys() >= ELSEWHERE
    expected = {
        environment.install(name): asked for name, asked in extras.items() if name not in ELSEWHERE
    }
    found = {extra.line: {packages.get(name, name) for name in extra.modules} for extra in EXTRAS}
    assert found == expected | {"pip install torch": {"torch"}}


@pytest.mark.parametrize(
    ("driver", "plugin", "line"),
    [
        ("580.65.06", None, "pip install 'nucleotide-transformer-jax[cuda]'"),
        ("570.133", None, "pip install 'nucleotide-transformer-jax[cuda12]'"),
        ("580.65.06", "jax-cuda13-plugin", None),
        ("570.133", "jax-cuda12-plugin", None),
    ],
)
def test_a_card_without_its_plugin(monkeypatch, driver, plugin, line):
    cards = [f"NVIDIA H200, {driver}, 143771 MiB, 700.00 W"]
    monkeypatch.setattr(environment, "query_gpus", lambda: cards)
    monkeypatch.setattr(environment, "has_plugin", lambda name: name == plugin)
    monkeypatch.setattr(environment, "find_platform", lambda: "gpu")
    assert "JAX does not use NVIDIA H200" not in dict(find_missing())
    assert dict(find_missing()).get("JAX for NVIDIA H200") == line


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
@pytest.mark.parametrize(
    ("driver", "files", "extra"),
    [
        ("580.65.06", [], {"cuda"}),
        ("550.54.15", [], {"cuda12"}),
        ("bash: nvidia-smi: command not found", ["/dev/accel0"], {"tpu"}),
        ("bash: nvidia-smi: command not found", [], set()),
    ],
)
def test_notebooks_install_what_the_accelerator_needs(monkeypatch, path, driver, files, extra):
    """Else pip may replace Colab's JAX by one that knows no accelerator."""
    text = pytest.importorskip("IPython.utils.text")
    manager = pytest.importorskip("IPython.core.inputtransformer2").TransformerManager()
    shell = Mock()
    shell.getoutput.return_value = text.SList([driver])
    hide(monkeypatch, "nucleotide_transformer")
    monkeypatch.setattr(Path, "exists", lambda path: str(path) in files)
    names = {"get_ipython": lambda: shell}
    cell = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][1]["source"])
    exec(manager.transform_cell(cell), names)
    ((magic, line), _) = shell.run_line_magic.call_args
    assert magic == "pip"
    line = text.DollarFormatter().vformat(line, (), names)
    asked = Requirement(line.partition('"')[2].rstrip('"'))
    assert asked.extras & {"cuda", "cuda12", "tpu"} == extra
    assert asked.extras <= read_extras().keys()


def test_plugins_are_looked_up_by_their_package():
    assert environment.has_plugin("jaxlib")
    assert not environment.has_plugin("no-such-plugin")
    assert importlib.metadata.version("jaxlib")


def test_a_card_that_jax_does_not_use(monkeypatch):
    monkeypatch.setattr(environment, "query_gpus", lambda: ["NVIDIA H200, 580.65.06, 1 MiB, 1 W"])
    monkeypatch.setattr(environment, "has_plugin", lambda name: name == "jax-cuda13-plugin")
    monkeypatch.setattr(environment, "find_platform", lambda: "cpu")
    remedy = dict(find_missing())["JAX does not use NVIDIA H200"]
    assert remedy == "JAX_PLATFORMS=cuda python -c 'import jax; jax.devices()' says why"
