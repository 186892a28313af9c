"""What a user can mend: bad input, told apart from a bug of ours by its class.

The command line prints these in one line: an `InputError` with exit code 2; an
`UnwritableOutputError`, a `RunFailedError` and what the operating system raises with 1. Everything
else keeps its traceback.

Each class is also the built-in one that a caller would expect, so `except FileNotFoundError` works.
"""

import functools
import importlib
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints


class InputError(ValueError):
    """Input that breaks a rule; one line with the file, the place, the value and the rule."""


class RuleError(InputError):
    """A field whose value breaks a rule; `field`, `value` and `rule` can be asked for."""

    def __init__(self, field: str, value: object, rule: str):
        super().__init__(field, value, rule)  # as they are: a pickled error is built from them
        self.field, self.value, self.rule = field, value, rule

    def __str__(self) -> str:
        value = str(self.value) if isinstance(self.value, PurePath) else self.value
        return f"{self.field} = {value!r}: {self.rule}"


class MissingInputError(InputError, FileNotFoundError):
    """A file or folder that is not there, or holds nothing that can be used."""


class NotAFolderError(InputError, NotADirectoryError):
    """A file where a folder must be."""


class OutputExistsError(InputError, FileExistsError):
    """An output that would overwrite what is there."""


class UnwritableOutputError(InputError, OSError):
    """An output where the system lets nothing be written: no permission, or no room."""


class RunFailedError(RuntimeError):
    """A run that was well begun and can't go on, for a reason that one line can say."""


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Raises a one-line `RuleError` that names the field, its value and the rule it breaks."""
    if not condition:
        raise RuleError(field, value, rule)


def require_positive(config: object, *fields: str) -> None:
    """Raises an `InputError` for the first of the fields that is not above zero, and finite."""
    for field in fields:
        value = getattr(config, field)
        require(value > 0, field, value, "must be above 0")
        require(value < float("inf"), field, value, "must be finite")


def require_choices(config: object) -> None:
    """Raises an `InputError` for the first field whose value is none that its `Literal` lists.

    Of a tuple of such each member is looked at.
    """
    kind: Any = type(config)
    for field, (choices, is_tuple) in _find_choices(kind).items():
        value = getattr(config, field)
        for each in value if is_tuple else (value,):
            require(each in choices, field, each, f"must be one of {', '.join(choices)}")


@functools.cache
def _find_choices(kind: type) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Of each field: what its `Literal` lists, and whether it is a tuple of them."""
    found = {}
    for field, hint in get_type_hints(kind).items():
        is_tuple = get_origin(hint) is tuple
        single = get_args(hint)[0] if is_tuple else hint
        if get_origin(single) is Literal:
            found[field] = (get_args(single), is_tuple)
    return found


def describe_error(error: BaseException) -> str:
    """The first line of what a library says went wrong; the error's type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Imports a module that not everyone needs; an `InputError` says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        hint = f"pip install 'nucleotide-transformer-jax[{extra}]'"
        raise InputError(f"{purpose}, {package} is needed: {hint}") from None
