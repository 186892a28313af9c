"""The real command in terminals of several kinds: errors are the same line as in a pipe."""

import os
import subprocess
from pathlib import Path

import pytest
from real_command import COMMAND, make_environment, run_in_pipe, run_in_terminal

from nucleotide_transformer import cli
from nucleotide_transformer.data.corpus import build_corpus
from nucleotide_transformer.data.corpus_config import CorpusConfig

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TERMINALS = {
    "coloured": {"FORCE_COLOR": "1"},
    "uncoloured": {"NO_COLOR": "1"},
    "dumb": {"TERM": "dumb"},
    "ascii": ASCII,
}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pretrain --sed 3", "nt pretrain: --sed: unknown option; did you mean --seed?"),
        ("pretrain --seed x", "nt pretrain: --seed = 'x': must be an integer"),
        (
            "pretrain --model.position absolute",
            "nt pretrain: --model.position = 'absolute': must be one of rotary, learned",
        ),
        (
            "pretrain --tokens-per-update 1500",
            "nt pretrain: --tokens-per-update = 1500: must be a multiple of data.sequence_tokens"
            " = 1000",
        ),
        ("corpus build", "nt corpus build: --inputs: must be given"),
        ("pretain --seed 3", "pretain: no such command; did you mean pretrain?"),
    ],
)
def test_an_error_is_one_line_in_any_terminal(words, message):
    line = f"error: {message}\n"
    assert run_in_pipe(*words.split()) == (2, "", line)
    for name, environment in TERMINALS.items():
        done = run_in_terminal(*words.split(), columns=60, **environment)
        assert done == (2, line, ""), name


@pytest.mark.parametrize("name", TERMINALS)
def test_help_is_drawn_in_any_terminal(name):
    code, out, _ = run_in_terminal("corpus", "build", "--help", columns=60, **TERMINALS[name])
    assert code == 0
    assert "--chunk-length" in out


def test_a_name_that_the_terminal_has_no_letters_for_is_still_printed(tmp_path):
    fasta = tmp_path / "mücke.fa"
    fasta.write_text(">chr1\n" + "ACGTTGCA" * 1_000 + "\n")
    output = tmp_path / "corpus"
    build_corpus(CorpusConfig(inputs=(fasta,), output=output, workers=1))
    for done in (
        run_in_pipe("corpus", "info", output, **ASCII),
        run_in_terminal("corpus", "info", output, columns=120, **ASCII),
    ):
        assert done.code == 0, done.err
        assert r"m\xfccke" in done.out


@pytest.mark.parametrize("words", ["--help", "corpus build --help", "corpus info {corpus}"])
def test_a_reader_that_leaves_is_no_error(small_corpus, words):
    """As `| head` does, even before the first line."""
    ours, theirs = os.pipe()
    os.close(ours)
    command = [*COMMAND, *words.format(corpus=small_corpus).split()]
    done = subprocess.run(
        command, stdout=theirs, stderr=subprocess.PIPE, env=make_environment(), check=False
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_full_disk_at_the_end_of_a_pipe_is_one_line():
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, env=make_environment()
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: No space left on device (in cli.py, ")
    assert done.stderr.count(b"\n") == 1


def test_bash_completes_commands_options_and_choices(tmp_path, capfd):
    with pytest.raises(SystemExit) as stop:
        cli.main(["completion", "bash"])
    assert not stop.value.code
    (tmp_path / "nt.bash").write_text(capfd.readouterr().out)
    expected = {
        "cor": "corpus",
        "corpus b": "baselines build",
        "corpus build --val": "--validation-contigs --validation-fraction",
        "pretrain --conf": "--config",
        "pretrain --model.position ro": "rotary",
    }
    lines = [f"source {tmp_path / 'nt.bash'}"]
    for words in expected:
        last = len(words.split())
        lines.append(f"COMP_WORDS=(nt {words}); COMP_CWORD={last}; _tyro_nt")
        lines.append('echo $(printf "%s\\n" "${COMPREPLY[@]}" | sort)')
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == list(expected.values()), done.stderr
