"""The programs in experiments/, which are no package, as modules."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "experiments"


def load_script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module
