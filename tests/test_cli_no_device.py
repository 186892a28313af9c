"""The command line where JAX finds no device of the platform that it is told to use."""

import subprocess
from pathlib import Path

import pytest
from real_command import COMMAND, make_environment


@pytest.mark.parametrize(
    "words", ["verify", "export --source 100M --folder {tmp}/out", "embed --input {tmp}/a.fa"]
)
def test_a_platform_that_is_not_there_is_one_line(words: str, tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGTACGTACGT\n")
    rest = f" --output {tmp_path}/a.npz" if words.startswith("embed") else ""
    command = [*COMMAND, *f"{words}{rest}".format(tmp=tmp_path).split()]
    environment = make_environment(JAX_PLATFORMS="rocm")
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr == b"error: JAX_PLATFORMS = 'rocm': JAX finds no such device here\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.fa"]
