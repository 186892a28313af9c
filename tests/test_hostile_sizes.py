"""Small files that would take gigabytes or minutes are refused at once, in one line."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile_sizes import CASES

ROOT = Path(__file__).parent.parent
MAX_GROWTH = 100 << 10
"""KiB of memory that reading any of them may add."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each file did in one process with a limit on its memory."""
    folder = tmp_path_factory.mktemp("bombs")
    for number, (build, _) in enumerate(CASES.values()):
        with contextlib.suppress(ImportError):  # torch; the test of its file is skipped then
            build(folder / str(number))
    run = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "hostile_sizes.py"), str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", CASES)
def test_a_small_file_takes_no_gigabytes_and_no_minutes(name: str, found: dict[str, Any]) -> None:
    if "stor" in name or "strides" in name:
        pytest.importorskip("torch")
    result = found[name]
    assert result["ok"], result
    assert CASES[name][1] in result["message"], result
    assert "\n" not in result["message"]
    assert result["grown"] < MAX_GROWTH, result
