"""The options of a command, read into its config.

A command's options are the fields of its config dataclass: `model.num_layers` is
`--model.num-layers 22`, or with `=`; `ffn_bias` is `--ffn-bias` or `--no-ffn-bias`; a tuple takes
any number of words; `none` is a word where the field may be None. The last of two wins.

tyro draws the help from the same dataclass. It does not read the options: its errors are drawn,
too, in a frame that depends on the terminal, where ours must be one line with field, value and
rule.
"""

import collections
import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from nucleotide_transformer.configfile import load_values
from nucleotide_transformer.errors import InputError, RuleError, require
from nucleotide_transformer.fields import Field, build, list_fields, read_word, strip_marker
from nucleotide_transformer.files import read_path
from nucleotide_transformer.option_help import print_help

Config = TypeVar("Config")

FILE = "--config"
"""Option of the commands whose config can be read from a file."""


class Given(NamedTuple):
    """What the command line says of one field."""

    typed: str
    """The name of the option, as it was typed."""
    value: Any


def parse(
    kind: Callable[..., Config],
    args: Sequence[str],
    prog: str,
    default: Config | None = None,
    *,
    takes_file: bool = False,
) -> Config:
    """Reads the options of a command.

    Args:
        kind: a config dataclass, or a function whose parameters are the options. In
            `tyro.conf.PositionalRequiredArgs[kind]` what has no default is given without a name.
        args: the words after the command.
        prog: what to call the command in its help and in messages.
        default: the config that the options change; that of `kind` by default.
        takes_file: whether `--config FILE` gives values, which the other options override.

    Raises:
        InputError: one line, for an unknown option, a wrong type, or a broken rule; or as the file
            is read. Rules are for what file and options say together.
        SystemExit: after `--help`.
    """
    file, below = None, {}
    plain = strip_marker(kind)
    if takes_file:
        file, args = take_file(args, prog)
    if file is not None:
        below, default = load_values(cast(type[Config], plain), file), None
    if not {"-h", "--help"}.isdisjoint(args):
        shown = default if file is None else _build_alone(plain, below)
        print_help(kind, prog, shown, takes_file=takes_file)
    fields = list(list_fields(kind))
    try:
        words = read_words(fields, args)
    except InputError as error:
        raise InputError(f"{prog}: {error}") from None
    values = below | {path: given.value for path, given in words.items()}
    required = [field for field in fields if field.is_required and default is None]
    missing = [name_option(field) for field in required if field.path not in values]
    if missing:
        place = "" if file is None else f", here or in {file}"
        raise InputError(f"{prog}: {', '.join(missing)}: must be given{place}")
    try:
        return build(plain, values, default)
    except InputError as error:
        if isinstance(error, RuleError) and error.field in words:
            typed = words[error.field].typed
            raise InputError(f"{prog}: {RuleError(typed, error.value, error.rule)}") from None
        alone = {field.path: values[field.path] for field in required} | below
        is_of_file = file is not None and _breaks_rule(plain, alone, str(error))
        raise InputError(f"{file if is_of_file else prog}: {error}") from None


def _build_alone(kind: Callable[..., Config], values: dict[str, Any]) -> Config | None:
    """The config of a file without options; None where it needs some."""
    if any(field.is_required and field.path not in values for field in list_fields(kind)):
        return None
    try:
        return build(kind, values)
    except InputError:
        return None


def _breaks_rule(kind: Callable[..., Any], values: dict[str, Any], message: str) -> bool:
    """Whether these values are refused with the same words."""
    try:
        build(kind, values)
    except InputError as error:
        return str(error) == message
    return False


def take_file(args: Sequence[str], prog: str) -> tuple[Path | None, list[str]]:
    """Takes `--config FILE` or `--config=FILE` out of the arguments.

    Raises:
        InputError: if the file is not named, or two are, or by the address of an object store.
    """
    found, others = [], []
    words = collections.deque(args)
    while words:
        word = words.popleft()
        if word == FILE:
            found.append(words.popleft() if words and not _is_name(words[0]) else "")
        elif word.startswith(f"{FILE}="):
            found.append(word.removeprefix(f"{FILE}="))
        else:
            others.append(word)
    if "" in found:
        raise InputError(f"{prog}: {FILE}: needs a value")
    if len(found) > 1:
        rule = 'must be given once: a file has another below it by base = "FILE"'
        raise InputError(f"{prog}: {FILE}: {rule}")
    return read_path(f"{prog}: {FILE}", found[0]) if found else None, others


def list_flags(field: Field) -> dict[str, bool | None]:
    """How an option is written -> the value that this says by itself, if it does."""
    name = field.path.replace("_", "-")
    if field.is_positional:
        return {}
    if field.kind is not bool:
        return {f"--{name}": None}
    outer, dot, inner = name.rpartition(".")
    return {f"--{name}": True, f"--{outer}{dot}no-{inner}": False}


def name_option(field: Field) -> str:
    """How messages call an option that was not given."""
    return next(iter(list_flags(field)), field.path)


def read_words(fields: Sequence[Field], args: Sequence[str]) -> dict[str, Given]:
    """Reads the words of a command line: path of the field -> what was given.

    Raises:
        InputError: for an unknown option, one without its value, or a value of another type.
    """
    by_flag = {flag: (field, says) for field in fields for flag, says in list_flags(field).items()}
    unnamed = [field for field in fields if field.is_positional]
    given: dict[str, Given] = {}
    words = collections.deque(args)
    while words:
        word = words.popleft()
        if not _is_name(word):
            if not unnamed:
                raise InputError(f"{word!r}: belongs to no option")
            field = unnamed.pop(0)
            given[field.path] = Given(field.path, read_word(field, field.path, word))
            continue
        typed, equals, text = word.partition("=")
        field, says = _find(typed, by_flag)
        if says is not None:
            rule = f"takes no value: write {' or '.join(list_flags(field))}"
            require(not equals, typed, text, rule)
            given[field.path] = Given(typed, says)
            continue
        texts = [text] if equals else []
        while words and not _is_name(words[0]) and (field.is_tuple or not texts):
            texts.append(words.popleft())
        if not texts and not field.is_tuple:
            raise InputError(f"{typed}: needs a value")
        values = tuple(read_word(field, typed, text) for text in texts)
        given[field.path] = Given(typed, values if field.is_tuple else values[0])
    return given


def _is_name(word: str) -> bool:
    """Whether a word is the name of an option: "-" and what follows it, but no number."""
    return re.match(r"-(?!$|\.?\d)", word) is not None


def _find(typed: str, by_flag: dict[str, tuple[Field, bool | None]]) -> tuple[Field, bool | None]:
    """The option that is called so, with hyphens or underscores."""
    flag = typed.replace("_", "-")
    if flag not in by_flag:
        near = difflib.get_close_matches(flag, by_flag, n=1)
        hint = f"did you mean {near[0]}?" if near else "--help lists them"
        raise InputError(f"{typed}: unknown option; {hint}")
    return by_flag[flag]
