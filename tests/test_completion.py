"""`nt completion`: what bash does with the script, and that zsh can read it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from nucleotide_transformer import cli


def write_script(shell: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    with pytest.raises(SystemExit) as stop:
        cli.main(["completion", shell])
    assert not stop.value.code
    script = folder / f"nt.{shell}"
    script.write_text(capfd.readouterr().out)
    return script


def test_bash_completes_commands_options_and_choices(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of every group, also of one with one command, whose options are called as they are typed."""
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
        "tasks run --batching.w": ["--batching.window-tokens"],
    }
    lines = [f"source {script}"]
    for words in expected:
        last = len(words.split())
        lines.append(f"COMP_WORDS=(nt {words}); COMP_CWORD={last}; _tyro_nt")
        lines.append('echo $(printf "%s\\n" "${COMPREPLY[@]}" | grep -v "^-h$\\|^--help$" | sort)')
    command = ["bash", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line.split() for line in done.stdout.splitlines()] == list(expected.values()), (
        done.stderr
    )


def test_zsh_reads_its_script(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its syntax, where zsh is installed; anywhere, that it is one, with all commands in it."""
    script = write_script("zsh", tmp_path, capfd)
    text = script.read_text()
    assert text.startswith("#compdef nt\n")
    for name in cli.COMMANDS:
        assert f"'{name.rpartition(' ')[2]}': {{'description': " in text
    zsh = shutil.which("zsh")
    if zsh is not None:
        done = subprocess.run([zsh, "-n", script], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
