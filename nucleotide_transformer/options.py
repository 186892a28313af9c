"""The options of a command, read into its config.

A command's options are the fields of its config dataclass: `model.num_layers` is
`--model.num-layers 22`, or with `=`; `ffn_bias` is `--ffn-bias` or `--no-ffn-bias`; a tuple takes
any number of words; `None` is a word where the field may be None. The last of two wins.

tyro draws the help from the same dataclass. It does not read the options: its errors are drawn,
too, in a frame that depends on the terminal, where ours must be one line with field, value and
rule.
"""

import collections
import dataclasses
import difflib
import inspect
import re
import types
from collections.abc import Callable, Iterator, Sequence
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

import tyro

from nucleotide_transformer.errors import InputError, RuleError, require

Config = TypeVar("Config")

_RULES = {int: "must be an integer", float: "must be a number"}
_TEXTS = (str, Path)


class Option(NamedTuple):
    """A value of a config that the command line can give."""

    path: str
    """Its field, with those of the configs that it is in: `model.num_layers`."""
    kind: Any
    """The type of the value, or of each value of a tuple; a `Literal` has choices."""
    is_tuple: bool
    may_be_none: bool
    is_positional: bool
    """Told by its place, without a name."""
    is_required: bool

    @property
    def flags(self) -> dict[str, bool | None]:
        """How it is written -> the value that this says by itself, if it does."""
        name = self.path.replace("_", "-")
        if self.is_positional:
            return {}
        if self.kind is not bool:
            return {f"--{name}": None}
        outer, dot, inner = name.rpartition(".")
        return {f"--{name}": True, f"--{outer}{dot}no-{inner}": False}

    @property
    def name(self) -> str:
        """How messages call it where it was not given."""
        return next(iter(self.flags), self.path)


class Given(NamedTuple):
    """What the command line says of one field."""

    typed: str
    """The name of the option, as it was typed."""
    value: Any


def parse(
    kind: Callable[..., Config], args: Sequence[str], prog: str, default: Config | None = None
) -> Config:
    """Reads the options of a command.

    Args:
        kind: a config dataclass, or a function whose parameters are the options. In
            `tyro.conf.PositionalRequiredArgs[kind]` what has no default is given without a name.
        args: the words after the command.
        prog: what to call the command in its help and, up to the first " [", in messages.
        default: the config that the options change; that of `kind` by default.

    Raises:
        InputError: one line, for an unknown option, a wrong type, or a broken rule.
        SystemExit: after `--help`.
    """
    if not {"-h", "--help"}.isdisjoint(args):
        given: Any = {} if default is None else {"default": default}
        tyro.cli(kind, args=["--help"], prog=prog, **given)
    command = prog.partition(" [")[0]
    options = list(list_options(kind))
    kind = _strip_marker(kind)
    words: dict[str, Given] = {}
    try:
        words = read_words(options, args)
        required = [option for option in options if option.is_required and default is None]
        missing = [option.name for option in required if option.path not in words]
        if missing:
            raise InputError(f"{', '.join(missing)}: must be given")
        return build(kind, {path: given.value for path, given in words.items()}, default)
    except RuleError as error:
        typed = words[error.field].typed if error.field in words else error.field
        raise InputError(f"{command}: {RuleError(typed, error.value, error.rule)}") from None
    except InputError as error:
        raise InputError(f"{command}: {error}") from None


def list_options(kind: Callable[..., Any], prefix: str = "") -> Iterator[Option]:
    """The options of a config, those of the configs in it included, in the order of its fields."""
    required_are_positional = get_origin(kind) is Annotated
    kind = _strip_marker(kind)
    hints = get_type_hints(kind, include_extras=True)
    for name, parameter in inspect.signature(kind).parameters.items():
        path, hint = f"{prefix}{name}", hints[name]
        if dataclasses.is_dataclass(hint):
            yield from list_options(hint, f"{path}.")  # type: ignore[arg-type]
            continue
        is_positional = get_origin(hint) is Annotated
        hint = get_args(hint)[0] if is_positional else hint
        inner, may_be_none = _strip_none(hint)
        is_tuple = get_origin(inner) is tuple
        item = get_args(inner)[0] if is_tuple else inner
        known = item in (bool, *_RULES, *_TEXTS) or get_origin(item) is Literal
        assert known, f"{path}: the command line can't give {hint}"
        is_required = parameter.default is inspect.Parameter.empty
        is_positional |= is_required and required_are_positional
        yield Option(path, item, is_tuple, may_be_none, is_positional, is_required)


def _strip_marker(kind: Callable[..., Config]) -> Callable[..., Config]:
    """A config class without tyro's marker that what it requires is given without a name."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _strip_none(hint: Any) -> tuple[Any, bool]:
    """`X | None` is X, and whether it was."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    inner = [part for part in get_args(hint) if part is not types.NoneType]
    assert len(inner) == 1, f"the command line can't give {hint}"
    return inner[0], True


def read_words(options: Sequence[Option], args: Sequence[str]) -> dict[str, Given]:
    """Reads the words of a command line: path of the field -> what was given.

    Raises:
        InputError: for an unknown option, one without its value, or a value of another type.
    """
    by_flag = {flag: (option, says) for option in options for flag, says in option.flags.items()}
    unnamed = [option for option in options if option.is_positional]
    given: dict[str, Given] = {}
    words = collections.deque(args)
    while words:
        word = words.popleft()
        if not _is_name(word):
            if not unnamed:
                raise InputError(f"{word!r}: belongs to no option")
            option = unnamed.pop(0)
            given[option.path] = Given(option.name, _convert(option, option.name, word))
            continue
        typed, equals, text = word.partition("=")
        option, says = _find(typed, by_flag)
        if says is not None:
            rule = f"takes no value: write {' or '.join(option.flags)}"
            require(not equals, typed, text, rule)
            given[option.path] = Given(typed, says)
            continue
        texts = [text] if equals else []
        while words and not _is_name(words[0]) and (option.is_tuple or not texts):
            texts.append(words.popleft())
        if not texts and not option.is_tuple:
            raise InputError(f"{typed}: needs a value")
        values = tuple(_convert(option, typed, text) for text in texts)
        given[option.path] = Given(typed, values if option.is_tuple else values[0])
    return given


def _is_name(word: str) -> bool:
    """Whether a word is the name of an option: it begins with "-" and is no number."""
    return re.match(r"-(?!\.?\d)", word) is not None


def _find(typed: str, by_flag: dict[str, tuple[Option, bool | None]]) -> tuple[Option, bool | None]:
    """The option that is called so, with hyphens or underscores."""
    flag = typed.replace("_", "-")
    if flag not in by_flag:
        near = difflib.get_close_matches(flag, by_flag, n=1)
        hint = f"did you mean {near[0]}?" if near else "--help lists them"
        raise InputError(f"{typed}: unknown option; {hint}")
    return by_flag[flag]


def _convert(option: Option, typed: str, word: str) -> Any:
    """A word as a value of the option's type."""
    if option.may_be_none and word.lower() == "none":
        return None
    if get_origin(option.kind) is Literal:
        choices = get_args(option.kind)
        require(word in choices, typed, word, f"must be one of {', '.join(choices)}")
        return word
    try:
        return option.kind(word)
    except ValueError:
        raise RuleError(typed, word, _RULES[option.kind]) from None


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
