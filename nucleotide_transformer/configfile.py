"""Configurations as TOML files and as dictionaries."""

import dataclasses
import difflib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import dacite

from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.errors import InputError, MissingInputError, RuleError

Config = TypeVar("Config")


BASE = "base"
"""Key of a config file: another file, relative to it, whose fields it takes and overrides."""


def load_config(path: Path) -> PretrainConfig:
    """Reads the config of a pre-training run; fields that the file leaves out keep their default.

    With `base = "other.toml"` the fields of that file come first.

    Raises:
        MissingInputError, InputError: one line with the file, the field, its value and the rule.
    """
    return read_config(PretrainConfig, path)


def read_config(kind: type[Config], path: Path) -> Config:
    """As `load_config`, the config of any command."""
    path = Path(path)
    return config_from_dict(kind, read_fields(path, kind), str(path))


def read_fields(
    path: Path, kind: type = PretrainConfig, *, above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """The fields of a config file, over those of its base; checked file by file.

    Args:
        path: the file.
        kind: the config dataclass that has these fields.
        above: the files that have it as their base.
    """
    if not path.is_file():
        raise MissingInputError(f"{path}: no such config file")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    base = fields.pop(BASE, None)
    check_fields(kind, fields, str(path))
    if base is None:
        return fields
    if not isinstance(base, str):
        raise InputError(f"{path}: base = {base!r}: must be the path of a config file")
    below = path.parent / base
    if below.resolve() in {file.resolve() for file in (*above, path)}:
        raise InputError(f"{path}: base = {base!r}: is a base of itself")
    return merge_fields(read_fields(below, kind, above=(*above, path)), fields)


def merge_fields(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested fields, of which those above override those below."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(name), dict)
        merged[name] = merge_fields(below[name], value) if both else value
    return merged


def config_from_dict(kind: type[Config], fields: dict[str, Any], source: str) -> Config:
    """Builds a config of class `kind` from nested dictionaries.

    Args:
        kind: a config dataclass.
        fields: field -> value; nested configs are dictionaries.
        source: where the fields come from, for error messages.

    Raises:
        InputError: for an unknown field, a wrong type or a value that breaks a rule; the field is
            named with the configs that it is in, as in `model.num_layers`.
    """
    check_fields(kind, fields, source)
    return _build(kind, fields, source, "")


def _build(kind: type[Config], fields: dict[str, Any], source: str, prefix: str) -> Config:
    """Builds the inner configs first, so that an error in one knows where it is."""
    types = get_type_hints(kind)
    values = {
        name: _build(types[name], value, source, f"{prefix}{name}.")
        if dataclasses.is_dataclass(types[name])
        else value
        for name, value in fields.items()
    }
    rules = dacite.Config(type_hooks=_TYPE_HOOKS)
    try:
        return dacite.from_dict(kind, values, rules)
    except RuleError as error:
        raise InputError(f"{source}: {prefix}{error}") from None
    except dacite.DaciteFieldError as error:
        error.field_path = f"{prefix}{error.field_path}"
        raise InputError(f"{source}: {error}") from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def check_fields(kind: type, fields: dict[str, Any], source: str, prefix: str = "") -> None:
    """Raises an `InputError` for the first field that `kind` lacks, or whose choice it lacks."""
    types = get_type_hints(kind)
    for name, value in fields.items():
        where = f"{source}: {prefix}{name}"
        if name not in types:
            near = difflib.get_close_matches(name, types, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(types)}"
            raise InputError(f"{where} = {value!r}: unknown field; {hint}")
        if dataclasses.is_dataclass(types[name]):
            if not isinstance(value, dict):
                raise InputError(f"{where} = {value!r}: must be a table of fields")
            check_fields(types[name], value, source, f"{prefix}{name}.")
        elif get_origin(types[name]) is Literal and value not in get_args(types[name]):
            choices = ", ".join(map(str, get_args(types[name])))
            raise InputError(f"{where} = {value!r}: must be one of {choices}")
        elif isinstance(value, bool) and types[name] is not bool:  # Python's True is an int
            raise InputError(f"{where} = {value!r}: must not be true or false")


def to_float(value: object) -> object:
    """Integers are floats too; anything else is left for the type check."""
    return float(value) if type(value) is int else value


def to_path(value: object) -> object:
    """Texts are paths too; anything else is left for the type check."""
    return Path(value) if isinstance(value, str) else value


def to_texts(value: object) -> object:
    """Lists are tuples too; anything else is left for the type check."""
    return tuple(value) if isinstance(value, list) else value


def to_paths(value: object) -> object:
    """A list of texts as paths; anything else is left for the type check."""
    return tuple(map(to_path, value)) if isinstance(value, list) else value


_TYPE_HOOKS: dict[Any, Callable[[Any], Any]] = {
    float: to_float,
    Path: to_path,
    tuple[str, ...]: to_texts,
    tuple[Path, ...]: to_paths,
}


def config_to_dict(config: Any) -> dict[str, Any]:
    """The reverse of `config_from_dict`, in types that JSON and TOML have."""

    def simplify(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: simplify(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [simplify(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return simplify(dataclasses.asdict(config))
