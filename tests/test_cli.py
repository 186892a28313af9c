"""The command line: exit codes, one-line errors, help, and the whole path once."""

import re

import numpy as np
import pytest

from nucleotide_transformer import cli

MODEL = "--model.k=3 --model.num-layers=1 --model.embed-dim=8 --model.num-heads=2 --model.ffn-dim=8"
RUN = (
    f"{MODEL} --data.sequence-tokens=32 --tokens-per-update=128 --sequences-per-device=4"
    " --num-devices=1 --total-tokens=256 --evaluation.num-sequences=2"
)


def run(capfd, *args):
    code = cli.main([word for arg in args for word in str(arg).split()])
    out, err = capfd.readouterr()
    return code, out, err


def test_help_lists_every_command(capfd):
    code, out, _ = run(capfd, "--help")
    assert code == 0
    assert all(f"nt {name}" in out for name in cli.COMMANDS)


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_option_is_documented(capfd, command):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert not stop.value.code
    out = capfd.readouterr().out
    # Its text stands beside an option or below it; what lacks one is followed by the next option.
    lines = [line.strip("│ ") for line in out.splitlines()]
    starts = [i for i, line in enumerate(lines) if re.match(r"--\w|PATH\b", line)]
    texts = [re.split(r"\s{2,}", lines[i], maxsplit=1)[1:] or lines[i + 1 : i + 2] for i in starts]
    assert len(starts) > 0
    for start, text in zip(starts, texts, strict=True):
        assert re.match(r"\w", text[0]), f"{lines[start]}: no description"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("frobnicate", "no such command"),
        ("pretrain --config none.toml", "none.toml: no such config file"),
        ("pretrain --config", "--config: needs a value"),
        ("pretrain --sed 3", "Unrecognized options: --sed"),
        ("pretrain --seed x", "invalid literal"),
        ("pretrain --model.num-layers 0", "num_layers = 0: must be above 0"),
        ("pretrain --model.position absolute", "rotary"),
        ("pretrain --num-devices 99 --output {tmp}/run", "num_devices = 99"),
        ("pretrain --data.corpus {tmp}/none --num-devices 1 --output {tmp}/run", "none"),
        ("corpus info {tmp}/none", "none"),
        ("corpus build --inputs {tmp}/none.fa --output {tmp}/corpus", "none.fa"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capfd, tmp_path, args, message):
    code, _, err = run(capfd, args.format(tmp=tmp_path))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_from_fasta_to_a_trained_model(capfd, tmp_path):
    rng = np.random.default_rng(0)
    fasta = tmp_path / "yeast.fa"
    fasta.write_text(">chrI\n" + "".join(rng.choice(list("ACGT"), 40_000)) + "\n")
    corpus, output = tmp_path / "corpus", tmp_path / "run"
    build = "--chunk-length 100 --overlap 10 --block-length 1000 --workers 1"
    code, out, err = run(capfd, f"corpus build --inputs {fasta} --output {corpus} {build}")
    assert code == 0, err
    assert "yeast" in out
    assert run(capfd, f"corpus info {corpus}")[0] == 0

    code, out, err = run(capfd, f"pretrain --data.corpus {corpus} --output {output} {RUN}")
    assert code == 0, err
    for word in ("this model", "frequency", "markov", "curves.png", "checkpoints"):
        assert word in out
    assert (output / "curves.png").exists()


def test_an_interrupted_run_says_how_to_go_on(capfd, small_corpus, tmp_path, monkeypatch):
    from nucleotide_transformer.training import loop

    monkeypatch.setattr(loop, "agree_to_stop", lambda _: True)
    command = f"pretrain --data.corpus {small_corpus} --output {tmp_path / 'run'} {RUN}"
    code, out, _ = run(capfd, command)
    assert code == 130
    assert "stopped after update 1; the same command goes on from there" in out
    monkeypatch.undo()
    code, out, _ = run(capfd, command)
    assert code == 0
    assert "2 updates, from 1 on" in out
