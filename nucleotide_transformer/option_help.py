"""What tyro draws help from: config classes in the form that it shows best.

tyro reads the text below each field of our source, with its line breaks; here it gets each text on
one line, and `--config` as one more field.
"""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from nucleotide_transformer.fields import strip_marker

_FILE_HELP = "TOML file with fields of the config, which the other options override."


def print_help(kind: Any, prog: str, default: Any = None, *, takes_file: bool = False) -> None:
    """Prints the help of a command, and exits.

    Args:
        kind: as `options.parse` takes it.
        prog: what to call the command.
        default: a config whose values are shown; that of `kind` by default.
        takes_file: whether there is a `--config`.
    """
    shown = show_class(kind, takes_file=takes_file)
    given = {} if default is None else {"default": show_value(default, strip_marker(shown))}
    tyro.cli(shown, args=["--help"], prog=prog, **given)


def show_class(kind: Any, *, takes_file: bool = False) -> Any:
    """A class with the fields of a config and nothing else; a function stays as it is."""
    if get_origin(kind) is Annotated:
        marked, *markers = get_args(kind)
        return Annotated[(show_class(marked, takes_file=takes_file), *markers)]
    if not dataclasses.is_dataclass(kind):
        return kind
    assert isinstance(kind, type)
    hints, texts = get_type_hints(kind), read_texts(kind)
    fields: list[Any] = [
        _show_field(field, hints[field.name], texts.get(field.name, ""))
        for field in dataclasses.fields(kind)
    ]
    if takes_file:
        hint = Annotated[Path | None, tyro.conf.arg(help=_FILE_HELP, metavar="FILE")]
        fields.append(("config", hint, dataclasses.field(default=None)))
    shown = dataclasses.make_dataclass(kind.__name__, fields, frozen=True, kw_only=True)
    shown.__doc__ = inspect.getdoc(kind)
    return shown


def _show_field(field: Any, hint: Any, text: str) -> tuple[str, Any, Any]:
    """Name, type and default of a field."""
    if dataclasses.is_dataclass(hint):
        hint = show_class(hint)
        assert field.default is not dataclasses.MISSING
        default = show_value(field.default, hint)
        shown = Annotated[hint, tyro.conf.arg(help=text)]
        return field.name, shown, dataclasses.field(default=default)
    if field.default == ():  # tyro would write an empty default
        hint = Annotated[hint, tyro.conf.arg(help=text, help_behavior_hint=_show_default)]
    else:
        hint = Annotated[hint, tyro.conf.arg(help=text)]
    return field.name, hint, dataclasses.field(default=field.default)


def _show_default(text: str) -> str:
    return f"(default: {text or 'none'})"


def show_value(config: Any, shown: Any) -> Any:
    """A config as an instance of the class that shows it."""
    hints = get_type_hints(shown)
    values = {
        field.name: show_value(value, hints[field.name])
        if dataclasses.is_dataclass(value := getattr(config, field.name))
        else value
        for field in dataclasses.fields(config)
    }
    return shown(**values)


def read_texts(kind: type) -> dict[str, str]:
    """The text below each field of a config class, on one line."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for field, below in itertools.pairwise(body.body):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    texts[name] = " ".join(text.split())
    return texts
