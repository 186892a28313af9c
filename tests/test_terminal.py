"""The real command in terminals of several kinds: errors are the same line as in a pipe."""

import os
import subprocess
from pathlib import Path

import pytest
from real_command import COMMAND, make_environment, run_in_pipe, run_in_terminal

from nucleotide_transformer.data.corpus import build_corpus
from nucleotide_transformer.data.corpus_config import CorpusConfig

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TERMINALS = {
    "coloured": {"FORCE_COLOR": "1"},
    "uncoloured": {"NO_COLOR": "1"},
    "dumb": {"TERM": "dumb"},
    "ascii": ASCII,
}
WRONG = ("pretrain", "--tokens-per-update", "1500")
LINE = (
    "error: nt pretrain: --tokens-per-update = 1500: must be a multiple of data.sequence_tokens"
    " = 1000\n"
)


def test_an_error_is_one_line_in_a_pipe():
    assert run_in_pipe(*WRONG) == (2, "", LINE)


@pytest.mark.parametrize("name", TERMINALS)
def test_an_error_is_one_line_and_help_is_drawn_in_any_terminal(name):
    """Of 60 columns: the line is longer."""
    assert run_in_terminal(*WRONG, columns=60, **TERMINALS[name]) == (2, LINE, "")
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
    message = b"error: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)
