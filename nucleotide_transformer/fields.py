"""The fields of a config, and the one set of rules by which values are read into them.

Options of the command line (`options`) are words; TOML files and the configs of checkpoints
(`configfile`) have values with a type. Both break the same rules with the same message.
"""

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from nucleotide_transformer.errors import RuleError, require
from nucleotide_transformer.files import read_path

Config = TypeVar("Config")

NONE = "none"
"""How a field that may be None is emptied, where there is no None to write."""
_RULES: dict[Any, str] = {
    bool: "must be true or false",
    int: "must be an integer",
    float: "must be a number",
    str: "must be a text",
    Path: "must be a path",
}
_INTEGER_BITS = 63
_LARGEST = 1e300


class Field(NamedTuple):
    """A value of a config that a user can give."""

    path: str
    """Its name, with those of the configs that it is in: `model.num_layers`."""
    kind: Any
    """The type of the value, or of each value of a tuple; a `Literal` has choices."""
    is_tuple: bool
    may_be_none: bool
    is_positional: bool
    """Told on the command line by its place, without a name."""
    is_required: bool


def list_fields(kind: Callable[..., Any], prefix: str = "") -> Iterator[Field]:
    """The fields of a config, those of the configs in it included, in their order.

    Args:
        kind: a config dataclass, or a function whose parameters are the fields. In
            `tyro.conf.PositionalRequiredArgs[kind]` what has no default is positional.
        prefix: of their paths.
    """
    required_are_positional = get_origin(kind) is Annotated
    kind = strip_marker(kind)
    hints = get_type_hints(kind, include_extras=True)
    for name, parameter in inspect.signature(kind).parameters.items():
        path, hint = f"{prefix}{name}", hints[name]
        if dataclasses.is_dataclass(hint):
            yield from list_fields(hint, f"{path}.")  # type: ignore[arg-type]
            continue
        is_positional = get_origin(hint) is Annotated
        hint = get_args(hint)[0] if is_positional else hint
        inner, may_be_none = _strip_none(hint)
        is_tuple = get_origin(inner) is tuple
        item = get_args(inner)[0] if is_tuple else inner
        known = item in _RULES or get_origin(item) is Literal
        assert known, f"{path}: can't be read: {hint}"
        is_required = parameter.default is inspect.Parameter.empty
        is_positional |= is_required and required_are_positional
        yield Field(path, item, is_tuple, may_be_none, is_positional, is_required)


def strip_marker(kind: Callable[..., Config]) -> Callable[..., Config]:
    """A config class without tyro's marker that what it requires is given without a name."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def read_word(field: Field, name: str, word: str) -> Any:
    """A word as a value of a field, or as one of the values of a tuple.

    Args:
        field: the field.
        name: what messages call it.
        word: what was typed.

    Raises:
        RuleError: for a word of another type, or without the right choice or size.
    """
    if field.may_be_none and word.lower() == NONE:
        return None
    value: Any = word
    if field.kind in (int, float):
        try:
            value = field.kind(word)
        except ValueError:
            raise RuleError(name, word, _RULES[field.kind]) from None
    return _check(field.kind, name, value)


def read_value(field: Field, name: str, value: Any) -> Any:
    """A value of TOML or JSON as that of a field; the types must agree.

    An integer is a number too, a text a path, a list a tuple.

    Raises:
        RuleError: as `read_word`.
    """
    is_none = value is None or (isinstance(value, str) and value.lower() == NONE)
    if field.may_be_none and is_none:
        return None
    if not field.is_tuple:
        return _check(field.kind, name, value)
    require(isinstance(value, list | tuple), name, value, "must be a list")
    return tuple(_check(field.kind, name, item) for item in value)


def _check(kind: Any, name: str, value: Any) -> Any:
    """The value in the type of its field, or a `RuleError`."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        require(value in choices, name, value, f"must be one of {', '.join(choices)}")
        return value
    also: dict[Any, tuple[type, ...]] = {float: (int,), Path: (str, *type(Path()).__mro__)}
    require(type(value) in (kind, *also.get(kind, ())), name, value, _RULES[kind])
    if kind is int:
        rule = f"must have fewer than {_INTEGER_BITS + 1} bits"
        require(abs(value) < 2**_INTEGER_BITS, name, value, rule)
    if kind is float:
        rule = "must be a finite number"
        require(abs(value) < _LARGEST, name, value, rule)  # not so for nan
    if kind is Path:
        require(str(value) != "", name, value, "must not be empty")
        return read_path(name, value)  # here, so that no command can forget it
    return kind(value)


def build(
    kind: Callable[..., Config],
    values: dict[str, Any],
    default: Config | None = None,
    prefix: str = "",
) -> Config:
    """Builds a config from path -> value; the fields left out are those of `default`.

    Raises:
        RuleError: for a value that breaks a rule, with the whole path of its field.
        InputError: as `kind` raises it.
    """
    hints = get_type_hints(kind)
    fields: dict[str, Any] = {}
    unnamed = []
    for name, parameter in inspect.signature(kind).parameters.items():
        path = f"{prefix}{name}"
        if dataclasses.is_dataclass(hints[name]):
            inner = parameter.default if default is None else getattr(default, name)
            if any(given.startswith(f"{path}.") for given in values):
                fields[name] = build(hints[name], values, inner, f"{path}.")
        elif path in values and parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            unnamed.append(values[path])
        elif path in values:
            fields[name] = values[path]
    try:
        if default is None:
            return kind(*unnamed, **fields)
        return dataclasses.replace(default, **fields)  # type: ignore[type-var]
    except RuleError as error:
        raise RuleError(f"{prefix}{error.field}", error.value, error.rule) from None


def _strip_none(hint: Any) -> tuple[Any, bool]:
    """`X | None` is X, and whether it was."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    inner = [part for part in get_args(hint) if part is not types.NoneType]
    assert len(inner) == 1, f"can't be read: {hint}"
    return inner[0], True
