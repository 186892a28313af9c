"""Other libraries, which are imported when a test first uses them, or skips without them.

Each process of the tests reads the files of this folder, and few of them run one.
"""

from typing import Any

import pytest


class Later:
    """A module that is imported when something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks each name of a file for such
            raise AttributeError(attribute)
        return getattr(pytest.importorskip(self._name), attribute)


torch: Any = Later("torch")
transformers: Any = Later("transformers")
