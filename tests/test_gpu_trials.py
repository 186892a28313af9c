"""The trials for GPUs, tried on a CPU with a tiny model: commands that run, and a table."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import quick_compiler

ROOT = Path(__file__).parent.parent
TINY = "--model.num-layers 2 --model.embed-dim 16 --model.num-heads 2 --model.ffn-dim 16"
FAST = "--sequence-tokens 16 --rounds 1 --round-steps 1 --warmup-steps 1"


def run(*words, folder):
    command = [sys.executable, "experiments/gpu_trials.py", "--output", str(folder), *words]
    environment = os.environ | {"XLA_FLAGS": " ".join(quick_compiler.FLAGS)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_every_trial_that_a_cpu_can_run_gives_a_row(tmp_path):
    options = ["--models", "custom", "--sequences", "2", "--options", f"{TINY} {FAST}"]
    done = run(*options, "--trials", "0", "8", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "trials.json").read_text())
    names = ["default (scan, dots)", "queries, keys and values apart"]
    assert [row["trial"] for row in rows] == names
    assert all(row["tokens_per_second"] > 0 and row["compile_seconds"] > 0 for row in rows)
    # The same numbers up to rounding: a trial changes how, never what.
    assert abs(rows[0]["loss"] - rows[1]["loss"]) < 0.05
    table = (tmp_path / "trials.md").read_text()
    assert table.count("\n") == 4
    assert "| custom | 2 | default (scan, dots) |" in table
    assert " | 1.00 | " in table


def test_changes_to_the_code_reach_the_model(monkeypatch):
    """One product becomes three; cuDNN's kernel gets no lengths where the tokens are even."""
    import jax
    import jax.numpy as jnp

    from nucleotide_transformer.model import attention, layers

    spec = importlib.util.spec_from_file_location("gpu_trials", ROOT / "experiments/gpu_trials.py")
    trials = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trials)
    asked = []

    def attend(query, *_, **options):
        asked.append(options)
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
    monkeypatch.setattr(attention, "attend_by_cudnn", attention.attend_by_cudnn)
    x, keep = jnp.ones((1, 4, 2, 8)), jnp.ones((1, 4), bool)
    attention.attend(x, x, x, keep, "cudnn")
    trials.CHANGES["no-mask"]()
    attention.attend(x, x, x, keep, "cudnn")
    lengths = [more["key_value_seq_lengths"] for more in asked]
    assert lengths[0].tolist() == [4]
    assert lengths[1] is None

    def count(x, w):
        program = jax.make_jaxpr(lambda x: layers.multiply_jointly(x, [w] * 3, [None] * 3))(x)
        return str(program).count("dot_general")

    x, w = jnp.ones((2, 3)), jnp.ones((3, 5))
    monkeypatch.setattr(layers, "multiply_jointly", layers.multiply_jointly)
    before = layers.multiply_jointly(x, [w] * 3, None)
    trials.CHANGES["apart"]()
    after = layers.multiply_jointly(x, [w] * 3, [None] * 3)
    assert [y.tolist() for y in before] == [y.tolist() for y in after]
    assert count(x, w) == 3


def test_a_trial_that_fails_is_named_and_the_others_run(tmp_path):
    options = ["--models", "custom", "--sequences", "2", "--options", f"{TINY} --rounds 0"]
    done = run(*options, "--trials", "0", folder=tmp_path)
    assert done.returncode == 1
    (row,) = json.loads((tmp_path / "trials.json").read_text())
    assert "rounds" in row["error"]


def test_all_trials_are_commands_of_the_benchmark(tmp_path):
    from nucleotide_transformer.benchmark.config import BenchmarkConfig
    from nucleotide_transformer.options import parse

    lines = run("--dry-run", folder=tmp_path).stdout.splitlines()
    assert len(lines) == 2 * 3 * 13
    for line in lines:
        words = line.partition("nt benchmark ")[2].split()
        assert parse(BenchmarkConfig, words, "nt benchmark").tasks == ("train",)
