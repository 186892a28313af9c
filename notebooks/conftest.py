"""The notebooks take the model that comes with the package, and are skipped where there is none."""

from pathlib import Path

import pytest

from nucleotide_transformer.weights.folders import PACKAGED_FOLDER
from nucleotide_transformer.weights.hub import PACKAGED

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the notebooks, if nothing was packaged yet."""
    if (PACKAGED_FOLDER / PACKAGED).is_dir():
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"no packaged model: {PACKAGED_FOLDER / PACKAGED}"))
