"""What setup.py asks for is what was tested: the two constraints files hold the versions."""

import ast
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent


def lower_bounds() -> dict[str, Version]:
    """Package -> lower bound, of every requirement of setup.py, extras included."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    requirements = [
        Requirement(text) for text in texts if isinstance(text, str) and ">=" in text[1:]
    ]
    return {
        canonicalize_name(requirement.name): Version(specifier.version)
        for requirement in requirements
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }


def pins(file: str) -> dict[str, Version]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_minimum_constraints_are_the_lower_bounds() -> None:
    bounds = lower_bounds()
    minimum = pins("constraints-minimum.txt")
    assert len(bounds) >= 20
    assert minimum.pop("jaxlib") == minimum["jax"]
    assert minimum == bounds


def test_tested_versions_satisfy_the_lower_bounds() -> None:
    tested = pins("constraints.txt")
    below = {name for name, bound in lower_bounds().items() if tested[name] < bound}
    assert below == set()


def test_package_imports_only_what_setup_asks_for() -> None:
    """What a dependency happens to bring along may go with it."""
    imported = set()
    for path in (ROOT / "nucleotide_transformer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    outside = imported - sys.stdlib_module_names - {"nucleotide_transformer"}
    owners = packages_distributions()
    needed = {canonicalize_name(owner) for name in outside for owner in owners.get(name, [name])}
    assert needed - set(lower_bounds()) == set()


def test_the_command_starts_where_its_output_is_made_safe() -> None:
    """`main` alone leaves a terminal without our letters to fail."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert '"nt = nucleotide_transformer.cli:run_and_exit"' in text


def test_make_takes_the_first_python_that_runs(tmp_path: Path) -> None:
    """In a folder with a space, beside a shim that has nothing behind it."""
    folder, asked = tmp_path / "my tools", tmp_path / "asked"
    folder.mkdir()
    scripts = {
        "python3.11": "exit 127",
        "python3": f'[ "$1" = -c ] && exec "{sys.executable}" "$@"\necho "$0 $*" > {asked}',
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    venv = tmp_path / "venv"
    command = ["make", f"--directory={ROOT}", f"VENV={venv}", str(venv / "bin" / "python")]
    environment = os.environ | {"PATH": f"{folder}:/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert asked.read_text() == f"{folder}/python3 -m venv {venv}\n"
