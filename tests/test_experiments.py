"""The configs of the published runs, complete and what they say they are; scripts beside them."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from experiment_scripts import FOLDER, load_script
from small_models import make_model
from task_folders import write_rows

from nucleotide_transformer.analysis.config import KnowledgeConfig
from nucleotide_transformer.commands import COMMANDS
from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.configfile import load_config, read_config, read_fields
from nucleotide_transformer.data.fasta import turn
from nucleotide_transformer.data.manifest import load_manifest
from nucleotide_transformer.data.reader import open_split
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.model import init_params
from nucleotide_transformer.options import parse
from nucleotide_transformer.packaging.package import PackageConfig
from nucleotide_transformer.pretraining.evaluate import EvaluateConfig
from nucleotide_transformer.weights.assembly import digest_params
from nucleotide_transformer.weights.hub import PACKAGED

SIZES = {
    "v2_50m": 54_855_179,
    "v2_100m": 96_839_179,
    "v2_250m": 233_545_995,
    "v2_500m": 496_245_771,
}
OMITTED = {
    *("clip_norm", "masking_ratio", "masking_probability"),  # off, or used by no v2 model
    "sequence_tokens",  # of the evaluation: as many as in training
    *("final_learning_rate", "momentum", "tables", "head", "norms", "matrices"),  # not Adam's
}
OF_A_MACHINE = {"num_devices", "distributed", "init_from"}


def test_every_config_is_one_of_a_run_with_an_output_of_its_own() -> None:
    outputs = {path.stem: load_config(path).output for path in FOLDER.glob("*.toml")}
    assert {"quickstart", *SIZES} <= outputs.keys()
    assert len(set(outputs.values())) == len(outputs)


@pytest.mark.parametrize(("name", "num_parameters"), SIZES.items())
def test_published_run(name: str, num_parameters: int) -> None:
    config = load_config(FOLDER / f"{name}.toml")
    assert config.num_devices is None
    assert config.total_steps == 300_000
    assert config.sequences_per_update == 1_000
    assert config.compute.compute_dtype == "bfloat16"
    rates = config.optimizer.initial_learning_rate, config.optimizer.peak_learning_rate
    assert (*rates, config.optimizer.warmup_steps) == (5e-5, 1e-4, 16_000)
    masking = config.masking.ratio, config.masking.mask_probability
    assert (*masking, config.masking.random_probability) == (0.15, 0.8, 0.1)
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), config.model, config.compute))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_parameters


@pytest.mark.parametrize("name", SIZES)
def test_published_run_leaves_nothing_to_defaults(name: str) -> None:
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text).keys() == {"base", "output", "model"}
    written = read_fields(FOLDER / f"{name}.toml")
    for field in dataclasses.fields(PretrainConfig):
        assert field.name in written.keys() | OF_A_MACHINE
        if dataclasses.is_dataclass(field.default):
            names = {inner.name for inner in dataclasses.fields(field.default)}
            assert names - set(written[field.name]) <= OMITTED
    assert f"{SIZES[name]:,} parameters" in re.sub(r"\s+", " ", text)


def test_published_100m_is_the_default_but_for_its_precision() -> None:
    config = load_config(FOLDER / "v2_100m.toml")
    compute = dataclasses.replace(config.compute, compute_dtype="float32")
    default = PretrainConfig()
    assert default == dataclasses.replace(config, output=default.output, compute=compute)


def test_every_config_of_fine_tuning_has_an_output_of_its_own() -> None:
    names = ("histones", "splice_sites", "quick")
    configs = [read_config(FinetuneConfig, FOLDER / "finetune" / f"{n}.toml") for n in names]
    assert len({config.output for config in configs}) == len(configs)
    assert [config.optimizer.peak_learning_rate for config in configs] == [3e-3, 3e-3, 1e-3]


@pytest.fixture
def ablate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs ablate.py on a plan; returns the speeds that its runs have yet to give."""
    script, speeds = load_script("ablate"), []
    plan = tmp_path / "plan.toml"
    plan.write_text('base = "base.toml"\n[variants.slow]\nseed = 1\n[variants.slower]\nseed = 2\n')
    (tmp_path / "base.toml").write_text('output = "x"\n')

    def pretrain(_base: Path, _fields: object, folder: Path) -> list[dict[str, Any]]:
        assert folder.parent.is_dir()
        assert folder.parent.parent == tmp_path / "runs" / "plan"
        assert not folder.exists()
        return [{"kind": "train", "tokens_per_second": speeds.pop(0)}]

    def run(*words: str) -> list[float]:
        folders = ["--output", str(tmp_path / "new" / "plan"), "--runs", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", ["ablate.py", str(plan), *folders, *words])
        script.main()
        return speeds

    monkeypatch.setattr(script, "pretrain", pretrain)
    run.speeds = speeds
    return run


def test_costs_are_medians_of_rounds_that_are_run_each_time(ablate: Any, tmp_path: Path) -> None:
    for slowest in (4.0, 8.0):
        ablate.speeds[:] = [8.0, 4.0, 2.0, 8.0, 2.0, 8.0 / slowest, 8.0, 4.0, 1.0]
        assert ablate("--cost") == []
        costs = json.loads((tmp_path / "new" / "plan_costs.json").read_text())
        assert costs == {"slow": 2.0, "slower": slowest}
    assert list((tmp_path / "runs" / "plan").iterdir()) == []


def test_a_variant_that_is_none_is_named(ablate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        ablate("--only", "slow", "muon")
    assert "--only: no variant muon in " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words", "folder"),
    [
        ("benchmark_variants", ["--output", "new/x.json"], "new"),
        ("evaluate_variants", ["--shared", "s", "--output", "new/x"], "new/x"),
        ("evaluate_variants", ["--shared", "s"], "runs/variants"),  # not among the results kept
    ],
)
def test_there_is_a_folder_for_what_is_going_to_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str], folder: str
) -> None:
    script = load_script(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    monkeypatch.setattr(script, "load_pretrained", Mock(side_effect=InputError("no model")))
    assert script.main() == 2
    assert (tmp_path / folder).is_dir()


def test_scores_of_variants_say_which_parameters_they_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, model = load_script("evaluate_variants"), make_model()
    known = {"load_pretrained": model, "score_brca1": [], "score_yeast": {}, "save_figure": None}
    for name, value in known.items():
        monkeypatch.setattr(script, name, Mock(return_value=value))
    words = ["evaluate_variants.py", "--shared", "s", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    assert script.main() == 0
    result = json.loads((tmp_path / "variants.json").read_text())
    assert (result["model"], result["parameters"]) == (PACKAGED, digest_params(model.params))


def test_sequences_that_pre_training_has_read_are_counted(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as reverse complements; half of the words decide; the shortest ones have none."""
    manifest, random = load_manifest(small_corpus), np.random.default_rng(5)
    (train,), (held_out,) = (
        [record.decode() for record in open_split(manifest, split).read([0])]
        for split in ("train", "validation")
    )
    new = "".join(random.choice(list("ACGT"), 112))
    seen = (train[5:117], turn(train[5:117]), train[:56] + new[:56])
    others = (new, train[:28] + new[:84], "ACGTTGCA")
    texts = [*seen, held_out[9:121], *others]
    write_rows(tmp_path / "tasks" / "one" / "train.csv", [("a", new, "0"), ("b", new[1:], "1")])
    rows = [(f"s{i}", text, str(i % 2)) for i, text in enumerate(texts)]
    write_rows(tmp_path / "tasks" / "one" / "test.csv", rows)
    script, output = load_script("seen_in_pretraining"), tmp_path / "new" / "seen.json"
    places = {"--tasks": tmp_path / "tasks", "--corpus": small_corpus, "--output": output}
    words = [str(word) for pair in places.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["seen_in_pretraining.py", *words])
    assert script.main() == 0
    counts = {"task": "one", "num_test": 7, "seen": 3, "held_out": 1}
    assert json.loads(output.read_text())["rows"] == [counts]
    monkeypatch.setattr(sys, "argv", ["seen_in_pretraining.py", *words, "--corpus", "nowhere"])
    assert script.main() == 2


@pytest.mark.parametrize(("platform", "size"), [("linux", 1_024), ("darwin", 1)])
def test_memory_is_counted_as_the_system_does(
    monkeypatch: pytest.MonkeyPatch, platform: str, size: int
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert size == load_script("benchmark_load").UNIT


def test_the_sbatch_file_gives_a_process_its_cores_and_needs_no_folder(tmp_path: Path) -> None:
    script = FOLDER / "slurm.sbatch"
    (log,) = re.findall(r"^#SBATCH --output=(\S+)", script.read_text(), flags=re.MULTILINE)
    assert "/" not in log
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    settings = os.environ | {"PATH": path, "SLURM_CPUS_PER_TASK": "32"}
    command = ["bash", str(script), "--seed", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True)
    words = done.stdout.split()
    assert "--cpus-per-task=32" in words[: words.index("nt")], done.stderr
    assert words[-3:] == ["--distributed", "--seed", "1"]


def list_commands(target: str, folder: Path) -> list[list[str]]:
    """What of ours `make` would run in a folder, without VENV/bin/."""
    for name in ("setup.py", "constraints.txt"):
        (folder / name).touch()
    words = ["make", "--dry-run", f"--file={FOLDER.parent / 'Makefile'}", "VENV=V", target]
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    lines = [line.removeprefix("V/bin/") for line in done.stdout.splitlines()]
    found = [shlex.split(line) for line in lines if re.match("nt |python experiments/", line)]
    assert found, done.stderr
    return found


@pytest.mark.parametrize("target", ["pretrain", "model", "model-results"])
def test_what_the_makefile_runs_has_every_option_that_it_needs(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = {"package.py": PackageConfig, "what_it_knows.py": KnowledgeConfig}
    scripts["evaluate_variants.py"] = load_script("evaluate_variants").EvaluateVariantsConfig
    monkeypatch.chdir(FOLDER.parent)  # where the configs are
    for program, name, *words in list_commands(target, tmp_path):
        if program == "nt":
            name = " ".join([name, *words][: 1 if name in COMMANDS else 2])
            takes_file = COMMANDS[name].takes_file
            kind, words = COMMANDS[name].find_config(), words[name.count(" ") :]
        else:
            kind, takes_file = scripts[Path(name).name], False
        parse(kind, words, name, takes_file=takes_file)


@pytest.mark.parametrize("is_over", [False, True])
def test_the_makefile_packages_the_last_run_of_the_model(is_over: bool, tmp_path: Path) -> None:
    """With its evaluations, and the records and configs of the runs that it went on from.

    The first one is not run where its packaged weights stand in for it.
    """
    (tmp_path / "runs" / "model").mkdir(parents=True)
    if is_over:
        (tmp_path / "runs" / "model" / "model.safetensors").touch()
    *lines, (_, _, *words) = list_commands("model", tmp_path)
    trained = [line[-1] for line in lines if line[1] == "pretrain"]
    config = parse(PackageConfig, words, "package.py")
    assert config.recipe
    recipes = [str(path) for path in (*config.earlier_recipes, config.recipe)]
    assert trained == recipes[is_over:]
    first, last = (load_config(FOLDER.parent / path) for path in recipes)
    metrics = Path("experiments/results/model.jsonl") if is_over else first.output / "metrics.jsonl"
    assert (config.run, config.earlier) == (last.output, (metrics,))
    assert (first.init_from, last.init_from) == (None, str(first.output))
    evaluated = [parse(EvaluateConfig, line[2:], "nt") for line in lines if line[1] == "evaluate"]
    assert [(each.model, each.output) for each in evaluated] == [
        (str(last.output), config.results),
        (str(last.output), config.unseen_results),
    ]


def test_results_of_each_packaged_model_have_a_folder_of_their_own(tmp_path: Path) -> None:
    packaged = tmp_path / "nucleotide_transformer" / "packaged" / PACKAGED
    packaged.mkdir(parents=True)
    (packaged / "SHA256SUMS").write_text(
        f"{'0' * 64}  config.json\n{'5' * 64}  model.safetensors\n"
    )
    outputs = [
        line[line.index("--output") + 1] for line in list_commands("model-results", tmp_path)
    ]
    assert {str(Path(output).parent) for output in outputs} == {f"runs/results/{'5' * 12}"}
    assert len(set(outputs)) == len(outputs) > 4
