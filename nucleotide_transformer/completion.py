"""The command `nt completion`: a script that completes commands, options and choices in a shell."""

import dataclasses
import sys
from typing import Literal, get_args

from nucleotide_transformer.commands import COMMANDS
from nucleotide_transformer.fields import list_fields
from nucleotide_transformer.options import FILE, list_flags

_FUNCTION = """\
_nt_complete() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} name= flag= count=0 flags= offered= each
    local IFS=$' \\t\\n'
    for each in "${{COMP_WORDS[@]:1:$((COMP_CWORD - 1))}}"; do
        case $each in
            =) ;;
            -*) flag=$each count=0 ;;
            *) case $name in
                ''|{groups}) name="${{name:+$name }}$each" ;;
                *) count=$((count + 1)) ;;
            esac ;;
        esac
    done
    case $name in
        '') offered='{first}' flags='--help --version' ;;
{commands}
    esac
    case "$name $flag $count" in
{choices}
    esac
    case $word in
        =) word= ;;
        -*) offered=$flags ;;
    esac
    COMPREPLY=($(compgen -W "$offered" -- "$word"))
}}
"""
"""Without anything to offer, a shell completes the name of a file, by `-o default`."""
_REGISTER = "complete -o default -F _nt_complete nt\n"
_BASH = _FUNCTION + _REGISTER
_ZSH = f"""\
#compdef nt
autoload -U +X bashcompinit && bashcompinit
{_FUNCTION}{_REGISTER}\
[[ ${{{{funcstack[1]}}}} != _nt ]] || _bash_complete -o default -F _nt_complete
"""
"""A file `_nt` of zsh's, which is a function; it completes at its first call, too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """Prints a script that lets a shell complete commands, options, choices and files.

    For bash:
        mkdir -p ~/.local/share/bash-completion/completions
        nt completion bash > ~/.local/share/bash-completion/completions/nt
    """

    shell: Literal["bash", "zsh"]
    """Which shell."""


def print_completion(config: CompletionConfig) -> int:
    """`nt completion`."""
    sys.stdout.write(make_script(config.shell))
    return 0


def make_script(shell: Literal["bash", "zsh"]) -> str:
    """The script, with what every command takes."""
    groups: dict[str, list[str]] = {}
    commands, choices = [], []
    for name, command in COMMANDS.items():
        group, _, inner = name.rpartition(" ")
        if group:
            groups.setdefault(group, []).append(inner)
        flags = ["--help", *([FILE] if command.takes_file else [])]
        for field in list_fields(command.find_config()):
            flags += list_flags(field)
            if offered := " ".join(get_args(field.kind)):
                place = f"{name} {next(iter(list_flags(field)), '')}"
                pattern = f"'{place} '*" if field.is_tuple else f"'{place} 0'"
                choices.append(f"        {pattern}) offered='{offered}' ;;")
        commands.append(f"        '{name}') flags='{' '.join(flags)}' ;;")
    commands += [f"        {name}) offered='{' '.join(each)}' ;;" for name, each in groups.items()]
    return (_BASH if shell == "bash" else _ZSH).format(
        groups="|".join(groups),
        first=" ".join(dict.fromkeys(name.partition(" ")[0] for name in COMMANDS)),
        commands="\n".join(commands),
        choices="\n".join(choices),
    )
