"""The command `nt completion`: a script that completes commands, options and choices in a shell."""

import dataclasses
from typing import Annotated, Any, Literal, Union

import tyro

from nucleotide_transformer.commands import COMMANDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """Prints a script that lets a shell complete commands, options and choices.

    For bash: nt completion bash > ~/.local/share/bash-completion/completions/nt
    """

    shell: Literal["bash", "zsh"]
    """Which shell."""


def print_completion(config: CompletionConfig) -> int:
    """`nt completion`."""
    words = ["--tyro-print-completion", config.shell]
    tyro.cli(make_parser(), args=words, prog="nt", config=(tyro.conf.OmitSubcommandPrefixes,))
    raise AssertionError("tyro exits")


def make_parser() -> Any:
    """All commands as tyro has them: a union of their configs, groups of commands in dataclasses.

    For completion alone.
    """
    from nucleotide_transformer.option_help import show_class

    by_group: dict[str, list[Any]] = {"": []}
    for name, command in COMMANDS.items():
        group, _, inner = name.rpartition(" ")
        kind = show_class(command.find_config(), takes_file=command.takes_file)
        by_group.setdefault(group, []).append(Annotated[kind, tyro.conf.subcommand(inner)])
    choices = by_group.pop("")
    for group, members in by_group.items():
        field = ("command", _unite(members))
        nested = dataclasses.make_dataclass(group, [field])
        choices.append(Annotated[nested, tyro.conf.subcommand(group)])
    return _unite(choices)


def _unite(kinds: list[Any]) -> Any:
    """A union; tyro needs two members, so that one alone gets a hidden one beside it."""
    hidden = [Annotated[None, tyro.conf.Suppress]] if len(kinds) == 1 else []
    return Union[tuple(kinds + hidden)]  # noqa: UP007 - of a list
