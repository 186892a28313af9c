"""Configurations as TOML files and as dictionaries."""

import dataclasses
import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.errors import InputError, MissingInputError, RuleError
from nucleotide_transformer.fields import Field, build, list_fields, read_value
from nucleotide_transformer.files import read_path

Config = TypeVar("Config")


BASE = "base"
"""Key of a config file: another file, relative to it, whose fields it takes and overrides."""


def load_config(path: Path) -> PretrainConfig:
    """Reads the config of a pre-training run; fields that the file leaves out keep their default.

    With `base = "other.toml"` the fields of that file come first. "none" empties a field that may
    be None.

    Raises:
        MissingInputError, InputError: one line with the file, the field, its value and the rule.
    """
    return read_config(PretrainConfig, path)


def read_config(kind: type[Config], path: Path) -> Config:
    """As `load_config`, the config of any command."""
    path = Path(path)
    return config_from_dict(kind, read_fields(path, kind), str(path))


def load_values(kind: type, path: Path) -> dict[str, Any]:
    """What a config file says of single fields, by their paths, in the types that `kind` has.

    Rules are left to who builds a config of them, perhaps with other values above them.

    Raises:
        MissingInputError, InputError: as `load_config`, for a field that `kind` lacks or a type.
    """
    return check_fields(kind, read_fields(path, kind), str(path))


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
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
        fields = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers and lists beyond Python's
        raise InputError(f"{path}: not TOML that can be read: {error}") from None
    base = fields.pop(BASE, None)
    check_fields(kind, fields, str(path))
    if base is None:
        return fields
    if not isinstance(base, str):
        raise InputError(f"{path}: base = {base!r}: must be the path of a config file")
    below = path.parent / read_path(f"{path}: {BASE}", base)
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
    values = check_fields(kind, fields, source)
    required = [field.path for field in list_fields(kind) if field.is_required]
    missing = [path for path in required if path not in values]
    if missing:
        raise InputError(f"{source}: {', '.join(missing)}: must be given")
    try:
        return build(kind, values)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def check_fields(kind: type, fields: dict[str, Any], source: str) -> dict[str, Any]:
    """The values of fields by their paths, in the types that `kind` has.

    Raises:
        InputError: for the first field that `kind` lacks, or whose value is of another type.
    """
    known = {field.path: field for field in list_fields(kind)}
    try:
        return dict(_read_values(kind, fields, known, ""))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _read_values(
    kind: type, fields: dict[str, Any], known: dict[str, Field], prefix: str
) -> Iterator[tuple[str, Any]]:
    """Path and value of each field, table by table."""
    types = get_type_hints(kind)
    for name, value in fields.items():
        path = f"{prefix}{name}"
        if name not in types:
            near = difflib.get_close_matches(name, types, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(types)}"
            raise RuleError(path, value, f"unknown field; {hint}")
        if not dataclasses.is_dataclass(types[name]):
            yield path, read_value(known[path], path, value)
        elif isinstance(value, dict):
            yield from _read_values(types[name], value, known, f"{path}.")
        else:
            raise RuleError(path, value, "must be a table of fields")


def check_config(config: Config) -> Config:
    """A config that was built in Python, as a file would give it.

    Raises:
        InputError: one line with the field, its value and the rule, as of a file.
    """
    return config_from_dict(type(config), config_to_dict(config), "config")


def config_to_dict(config: Any) -> dict[str, Any]:
    """The reverse of `config_from_dict`, in types that JSON and TOML have."""

    def simplify(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: simplify(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [simplify(item) for item in value]
        if isinstance(value, float):
            return float(value)  # NumPy's, too
        if isinstance(value, Path):  # "~" alone would be read as a home folder
            return f"./{value}" if str(value).startswith("~") else str(value)
        return value

    return simplify(dataclasses.asdict(config))
