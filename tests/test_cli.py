"""The command line: exit codes, one-line errors, help, and the whole path once."""

import itertools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from printed_tables import read_table
from real_command import run
from small_runs import short_words  # noqa: F401

from nucleotide_transformer import __version__, cli
from nucleotide_transformer.commands import corpora
from nucleotide_transformer.data.corpus import build_corpus
from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.errors import (
    InputError,
    MissingInputError,
    NotAFolderError,
    OutputExistsError,
    RuleError,
    RunFailedError,
    UnwritableOutputError,
)

ROOT = Path(__file__).parent.parent

MODEL = "--model.k=3 --model.num-layers=1 --model.embed-dim=8 --model.num-heads=2 --model.ffn-dim=8"
RUN = (
    f"{MODEL} --data.sequence-tokens=32 --tokens-per-update=128 --sequences-per-device=4"
    " --num-devices=1 --total-tokens=256 --evaluation.num-sequences=2"
)


def test_help_lists_every_command(capfd):
    code, out, _ = run(capfd, "--help")
    assert code == 0
    assert all(f"nt {name}" in out for name in cli.COMMANDS)


@pytest.mark.parametrize("words", ["corpus --help", "corpus -h", "--help corpus"])
def test_help_of_a_group_lists_its_commands(capfd, words):
    code, out, err = run(capfd, words)
    assert (code, err) == (0, "")
    listed = re.findall(r"^  nt ([a-z -]+?)  ", out, re.MULTILINE)
    assert listed == [name for name in cli.COMMANDS if name.startswith("corpus ")]


def test_the_version(capfd):
    assert run(capfd, "--version") == (0, f"nucleotide-transformer-jax {__version__}\n", "")


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_option_is_documented(capfd, command):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert not stop.value.code
    out = capfd.readouterr().out
    # Its text stands beside an option or below it; what lacks one is followed by the next option.
    lines = [line.strip("│ ") for line in out.splitlines()]
    starts = [i for i, line in enumerate(lines) if re.match(r"--\w|PATH\b|\{bash", line)]
    assert len(starts) > 0
    for start, end in itertools.pairwise([*starts, len(lines)]):
        after = (line for line in lines[start + 1 : end] if not line.startswith("["))  # choices
        text = re.split(r"\s{2,}", lines[start], maxsplit=1)[1:] or [next(after, "")]
        assert re.match(r"\w", text[0]), f"{lines[start]}: no description"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("frobnicate", "no such command"),
        ("--help frobnicate", "error: frobnicate: no such command; there are "),
        ("pretain --seed 3", "error: pretain: no such command; did you mean pretrain?"),
        ("corpus", "corpus: which command? there are corpus build, corpus info"),
        ("corpus --frob", "corpus: which command? there are corpus build, corpus info"),
        ("--versio", "--versio: no such command; did you mean --version?"),
        ("corpus bild", "corpus bild: no such command; did you mean corpus build?"),
        ("pretrain --sed 3", "error: nt pretrain: --sed: unknown option; did you mean --seed?"),
        ("corpus build", "error: nt corpus build: --inputs: must be given"),
        ("pretrain --num-devices 99 --output {tmp}/run", "num_devices = 99"),
        ("pretrain --data.corpus {tmp}/none --num-devices 1 --output {tmp}/run", "none"),
        ("corpus info {tmp}/none", "none"),
        ("corpus build --inputs {tmp}/none.fa --output {tmp}/corpus", "none.fa"),
        ("corpus build --config {tmp}/none.toml", "none.toml: no such config file"),
        ("export --source {tmp}/none --folder {tmp}/export", "none: no such folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capfd, tmp_path, args, message):
    code, _, err = run(capfd, args.format(tmp=tmp_path))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def replace_command(monkeypatch, error):
    """Makes `nt corpus info` raise an error."""

    def fail(config: object) -> int:
        raise error

    monkeypatch.setattr(corpora, "describe_corpus", fail)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.fa: line 3:\nempty"), 2, "error: a.fa: line 3: empty"),
        (RuleError("seed", "x", "must be y"), 2, "error: seed = 'x': must be y"),
        (MissingInputError("a.fa: no such file"), 2, "error: a.fa: no such file"),
        (OutputExistsError("x: is not empty"), 2, "error: x: is not empty"),
        (NotAFolderError("x: is a file"), 2, "error: x: is a file"),
        (UnwritableOutputError("x: no room"), 1, "error: x: no room"),
        (RunFailedError("out of luck"), 1, "error: out of luck"),
        (PermissionError(13, "Permission denied", "x/y"), 1, "error: x/y: Permission denied"),
        (OSError(18, "Cross-device link", "x", None, "y"), 1, "error: x -> y: Cross-device link"),
        (OSError("x/y: can't be opened"), 1, "error: x/y: can't be opened"),
        (TimeoutError(), 1, "error: TimeoutError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(capfd, monkeypatch, error, code, line):
    replace_command(monkeypatch, error)
    assert run(capfd, "corpus info x") == (code, "", f"{line}\n")


@pytest.mark.parametrize(
    "kind",
    [ValueError, RuntimeError, jax.errors.JaxRuntimeError, IndexError, AssertionError, MemoryError],
)
def test_what_no_user_can_mend_is_raised(capfd, monkeypatch, kind):
    error = kind("RESOURCE_EXHAUSTED: out of memory")
    replace_command(monkeypatch, error)
    with pytest.raises(kind) as caught:
        run(capfd, "corpus info x")
    assert caught.value is error
    assert not capfd.readouterr().err


def test_a_bug_ends_the_process_with_its_traceback():
    program = (
        "from nucleotide_transformer import cli\n"
        "from nucleotide_transformer.commands import corpora\n"
        "def run(config):\n"
        "    raise RuntimeError('a bug of ours')\n"
        "corpora.describe_corpus = run\n"
        "cli.run_and_exit()\n"
    )
    command = [sys.executable, "-c", program, "corpus", "info", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("RuntimeError: a bug of ours\n")


def test_an_error_of_the_disk_names_its_place(capfd, monkeypatch, tmp_path):
    """Without a file name in the error: a full disk. With one: a name that is too long."""

    def fill_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.fa").write_text(">chr1\n" + "ACGT" * 1_000 + "\n")
    monkeypatch.setattr("nucleotide_transformer.data.manifest._to_json", fill_disk)
    words = f"corpus build --inputs {tmp_path / 'a.fa'} --workers 1 --output"
    code, _, err = run(capfd, f"{words} {tmp_path / 'corpus'}")
    assert code == 1
    assert err == "error: No space left on device (in manifest.py, save_genome)\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.fa"]

    code, _, err = run(capfd, f"{words} {tmp_path / ('x' * 300)}")
    assert code == 1
    assert re.fullmatch(rf"error: {tmp_path}/x{{300}}\S*: File name too long\n", err)


def test_a_run_that_diverges_is_one_line_and_exit_code_1(capfd, monkeypatch):
    from nucleotide_transformer.training import loop

    def diverge(*_: object, **__: object) -> None:
        raise loop.TrainingDivergedError("update 5: loss nan")

    monkeypatch.setattr("nucleotide_transformer.pretraining.run.pretrain", diverge)
    assert run(capfd, "pretrain") == (1, "", "error: update 5: loss nan\n")


def test_ctrl_c_is_exit_code_130(capfd, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nucleotide_transformer.commands.corpora.load_manifest", interrupt)
    assert run(capfd, "corpus info folder") == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    "error",
    [
        InputError("a"),
        RuleError("a", (1, "b"), "must be c"),
        MissingInputError("a"),
        NotAFolderError("a"),
        OutputExistsError("a"),
        UnwritableOutputError("a"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_the_way_from_another_process(error):
    """The genomes of a corpus are built in processes; what they raise is pickled."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert isinstance(copy, ValueError)


@pytest.mark.usefixtures("short_words")
def test_from_fasta_to_a_trained_model(capfd, drawn_curves, tmp_path):
    rng = np.random.default_rng(0)
    fasta = tmp_path / "yeast.fa"
    fasta.write_text(">chrI\n" + "".join(rng.choice(list("ACGT"), 40_000)) + "\n")
    corpus, output = tmp_path / "corpus", tmp_path / "run"
    build = "--chunk-length 100 --block-length 1000 --workers 1"
    config = tmp_path / "corpus.toml"
    config.write_text(f'inputs = ["{fasta}"]\noutput = "{tmp_path}/elsewhere"\noverlap = 10\n')
    code, out, err = run(capfd, f"corpus build --config {config} --output {corpus} {build}")
    assert code == 0, err
    assert "yeast" in out
    assert run(capfd, f"corpus info {corpus}")[0] == 0
    assert run(capfd, f"corpus baselines {corpus} --workers 1 --k 3")[0] == 0

    code, out, err = run(capfd, f"pretrain --data.corpus {corpus} --output {output} {RUN}")
    assert code == 0, err
    assert re.search(r"^held out +2 sequences x 32 tokens$", out, re.MULTILINE)
    for word in ("this model", "frequency", "markov", "curves.png", "checkpoints"):
        assert word in out
    assert (output / "curves.png").exists()
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    *_, held_out = (line for line in lines if line["kind"] == "validation")
    table = "\n".join(line for line in out.splitlines() if re.match("[│┃|]", line))
    row = read_table(table)["this model"]
    error = held_out["standard_error"]
    assert row["cross-entropy (nats)"] == f"{held_out['cross_entropy']:.4f} ± {error:.4f}"
    assert row["perplexity"] == f"{held_out['perplexity']:,.1f}"
    assert row["accuracy"].startswith(f"{100 * held_out['accuracy']:.2f}% ± ")
    assert row["bits/nucleotide"].startswith(f"{held_out['bits_per_nucleotide']:.4f} ± ")
    written = json.loads((output / "evaluation.json").read_text())
    assert written["step"] == held_out["step"]
    rows = written["all"]["predictors"]
    assert list(rows) == ["this model", "frequency", "markov_mixture"]
    assert rows["this model"]["cross_entropy"] == held_out["cross_entropy"]
    assert list(written["groups"]) == [""]


def test_names_with_brackets_are_printed_as_they_are(capfd, tmp_path):
    """rich would take them for markup: for an error, or for a colour."""
    species, group = "E. coli [/k12] [red]", "[bold]:smile:"
    (tmp_path / "a.fa").write_text(">c\n" + "ACGTTGCA" * 1_000 + "\n")
    row = f"a.fa\t{species}\tv[1]\t{group}"
    (tmp_path / "g.tsv").write_text(f"file\tspecies\tassembly\tgroup\n{row}\n")
    folder = tmp_path / "corpus[blue]"
    build_corpus(CorpusConfig(inputs=(tmp_path / "g.tsv",), output=folder, workers=1))
    code, out, err = run(capfd, f"corpus info {folder}")
    assert (code, err) == (0, "")
    assert all(text in out for text in (str(folder), species, "v[1]", group))


def test_an_interrupted_run_says_how_to_go_on(capfd, small_corpus, tmp_path, monkeypatch):
    from nucleotide_transformer.training.loop import Run

    update = Run._update

    def update_and_interrupt(self, stop):
        os.kill(os.getpid(), signal.SIGINT)
        return update(self, stop)

    monkeypatch.setattr(Run, "_update", update_and_interrupt)
    many = "--evaluation.num-sequences 100000000"
    corpus = shutil.copytree(small_corpus, tmp_path / "corpus")
    command = f"pretrain --data.corpus {corpus} --output {tmp_path / 'run'} {RUN} {many}"
    code, out, _ = run(capfd, command)
    assert code == 130
    note = f"note no baselines: `nt corpus baselines {corpus} --k 3` counts"
    assert note in " ".join(out.split())
    assert re.search(r"^held out +\d+ sequences x 32 tokens, all that there are of 1", out, re.M)
    assert "stopped after update 1; the same command resumes there" in out
    monkeypatch.undo()
    (corpus / "baselines.npz").write_text("counts of no use keep no run from going on")
    code, out, _ = run(capfd, command)
    assert code == 0
    assert f"note no baselines: {corpus}/baselines.npz: damaged" in " ".join(out.split())
    assert "2 updates, from 1" in out
