"""Errors that a user reads: one line, which says what and where."""

import pytest


def assert_one_line(error: pytest.ExceptionInfo[Exception], *parts: object) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
