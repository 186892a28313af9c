"""`nt completion`: what bash does with the script, and that zsh can read it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from nucleotide_transformer import cli


def write_script(shell: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    assert cli.main(["completion", shell]) == 0
    script = folder / f"nt.{shell}"
    script.write_text(capfd.readouterr().out)
    return script


def test_bash_completes_commands_options_choices_and_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Files where nothing else is offered: bash itself, which knows folders and spaces."""
    script = write_script("bash", tmp_path, capfd)
    groups = {name.partition(" ")[0] for name in cli.COMMANDS if " " in name}
    expected = {
        f"{group} ''": sorted(
            name.removeprefix(f"{group} ") for name in cli.COMMANDS if name.startswith(f"{group} ")
        )
        for group in groups
    }
    expected |= {
        "cor": ["corpus"],
        "corpus b": ["baselines", "build"],
        "corpus build --val": ["--validation-contigs", "--validation-fraction"],
        "pretrain --conf": ["--config"],
        "pretrain --model.position ro": ["rotary"],
        "pretrain --model.position = ro": ["rotary"],
        "pretrain --model.position rotary --no-dis": ["--no-distributed"],
        "benchmark --tasks train emb": ["embed"],
        "tasks run --batching.w": ["--batching.window-tokens"],
        "completion ''": ["bash", "zsh"],
        "corpus info ''": [],
        "corpus build --inputs a.fa ''": [],
        "embed --output =": [],
        "embed --pooling mean m": [],
    }
    lines = [f"source {script}", "complete -p nt"]
    for words in expected:
        lines.append(f"COMP_WORDS=(nt {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))")
        lines.append("_nt_complete; IFS=$'\\n'; echo ${#COMPREPLY[@]} $(sort <<< ${COMPREPLY[*]})")
    command = ["bash", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    registered, *found = done.stdout.splitlines()
    assert registered == "complete -o default -F _nt_complete nt", done.stderr
    assert [line.split() for line in found] == [
        [str(len(each)), *each] for each in expected.values()
    ]


def test_zsh_reads_its_script(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its syntax, where zsh is installed; anywhere, that it is one, with all commands in it."""
    script = write_script("zsh", tmp_path, capfd)
    text = script.read_text()
    assert text.startswith("#compdef nt\n")
    for name in cli.COMMANDS:
        assert f"'{name}') flags='--help" in text
    zsh = shutil.which("zsh")
    if zsh is not None:
        done = subprocess.run([zsh, "-n", script], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
