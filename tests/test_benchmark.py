"""The benchmark: figures that follow from each other, steps that really ran, the list of cases."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nucleotide_transformer import cli
from nucleotide_transformer.benchmark import compilation, machine, run
from nucleotide_transformer.benchmark.config import BenchmarkConfig, Case, list_cases
from nucleotide_transformer.benchmark.machine import Peak
from nucleotide_transformer.benchmark.results import FailedCase, find_base
from nucleotide_transformer.benchmark.run import run_benchmark
from nucleotide_transformer.benchmark.tables import describe_notes, print_report
from nucleotide_transformer.benchmark.workloads import InferenceWorkload, draw_tokens, make_workload
from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model import init_params, make_forward

MODEL = ModelConfig(k=3, num_layers=2, embed_dim=16, num_heads=2, ffn_dim=24, max_positions=64)
CONFIG = BenchmarkConfig(
    tasks=("train", "embed"),
    models=("custom",),
    model=MODEL,
    sequence_tokens=(20,),
    sequences_per_device=(2,),
    accumulation=3,
    num_devices=(2,),
    warmup_steps=1,
    rounds=2,
    round_steps=2,
    profile=True,
    peer=False,
)
NUM_STEPS = 1 + CONFIG.warmup_steps + CONFIG.rounds * CONFIG.round_steps
PEAK = Peak(data_sheet=2e12, measured=0.5e12)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    if jax.local_device_count() < 2:
        pytest.skip("needs 2 devices")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "find_peak", lambda *_: PEAK)
        output = tmp_path_factory.mktemp("benchmark") / "deep" / "folder"
        yield run_benchmark(dataclasses.replace(CONFIG, output=output))


@pytest.fixture(scope="module")
def results(report):
    return json.loads(report.json_file.read_text())["results"]


def test_the_file_says_what_was_measured_and_with_what(report):
    content = json.loads(report.json_file.read_text())
    machine = content["machine"]
    assert machine["device_kind"] == jax.devices()[0].device_kind
    assert machine["versions"]["jax"] == jax.__version__
    assert {"dm-haiku", "jaxlib", "numpy", "optax"} <= set(machine["versions"])
    assert machine["settings"]["XLA_FLAGS"] == os.environ["XLA_FLAGS"]
    for field in ("date", "python", "processor", "num_cores", "runtime", "commit", "gpus"):
        assert field in machine
    assert content["config"]["model"]["embed_dim"] == MODEL.embed_dim
    assert content["config"]["compute"] == dataclasses.asdict(ComputeConfig())
    assert report.picture.stat().st_size > 0
    assert {path.suffix for path in report.json_file.parent.iterdir()} == {".json", ".png"}


def test_mfu_is_flops_times_rate_over_peak(results):
    width, ffn, tokens, layers = MODEL.embed_dim, MODEL.ffn_dim, 20, MODEL.num_layers
    block = 2 * (4 * width**2 + 3 * width * ffn) + 4 * tokens * width
    head = 2 * (width**2 + width * MODEL.vocabulary_size)
    masked = 3  # 15 % of 20
    # Of the tokens without a mask the last block makes keys and values only.
    unused = (tokens - masked) * (block - 2 * 2 * width**2)
    everything = layers * tokens * block
    forward = {"train": everything - unused + masked * head, "embed": everything}
    for result in results:
        train = result["task"] == "train"
        sequences = 2 * 2 * (3 if train else 1)
        assert result["tokens_per_step"] == sequences * tokens
        flops = sequences * forward[result["task"]] * (3 if train else 1)
        assert result["flops_per_step"] == flops
        seconds = result["step_seconds"]["median"]
        np.testing.assert_allclose(result["tokens_per_second"] * seconds, sequences * tokens)
        # Virtual devices of a CPU share one peak.
        np.testing.assert_allclose(result["mfu"], flops / seconds / PEAK.data_sheet)
        np.testing.assert_allclose(result["mfu_of_measured_peak"], flops / seconds / PEAK.measured)


def test_every_step_ran(results):
    train, embed = (result["evidence"] for result in results)
    # The profile runs three more after these figures were taken.
    assert train["updates"] == NUM_STEPS
    assert abs(train["loss"] - np.log(MODEL.vocabulary_size)) < 1.0  # an untrained model's
    assert embed["batches"] == NUM_STEPS
    assert np.isfinite(embed["mean_result"])


def test_spread_compile_times_and_memory(results):
    for result in results:
        spread = list(result["step_seconds"].values())
        assert len(spread) == 5
        assert spread == sorted(spread)
        assert spread[0] > 0
        times = result["compile_seconds"]
        assert times["lower"] > 0 < times["compile"]
        assert times["second_start"] is None
        memory = result["memory_bytes"]
        assert memory["total"] > memory["arguments"] + memory["temporaries"] > 0
    parameters = 4 * results[0]["num_parameters"]
    # Parameters and two moments go into an update; embeddings do without the head's parameters.
    assert 3 * parameters <= results[0]["memory_bytes"]["arguments"] < 3.2 * parameters
    assert results[1]["memory_bytes"]["arguments"] < parameters


def test_profile_names_the_operations_that_the_time_goes_to(results):
    for result in results:
        profile = result["profile"]
        np.testing.assert_allclose(sum(profile["kinds"].values()), 1)
        assert profile["kinds"]["matrix products"] > 0
        assert profile["cost"]["flops"] > 0
        seconds = [row["seconds"] for row in profile["operations"]]
        assert seconds == sorted(seconds, reverse=True)
        assert sum(seconds) <= profile["operation_seconds"] * (1 + 1e-9)
        parts = " ".join(row["part"] for row in profile["operations"])
        assert "mha" in parts
        assert ("backward" in parts) == (result["task"] == "train")
        assert not any(row["name"].startswith("while") for row in profile["operations"])


def test_the_report_is_a_table_with_all_cases(report, capsys):
    from rich.console import Console

    print_report(report, Console(width=160))
    out = capsys.readouterr().out
    for word in ("train custom, 2 x 20 x 3, 2 devices", "embed custom", "MFU", "matrix products"):
        assert word in out


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_commit_has_a_plus_where_any_file_of_the_repository_differs(tmp_path, monkeypatch):
    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(("git", "-C", tmp_path, *who, *words), check=True, capture_output=True)

    inside, elsewhere = tmp_path / "package" / "machine.py", tmp_path / "README.md"
    inside.parent.mkdir()
    for path in (inside, elsewhere):
        path.write_text("one")
    monkeypatch.setattr(machine, "__file__", str(inside))
    git("init")
    assert machine.find_commit() is None  # as a package installed within a repository
    git("add", ".")
    git("commit", "-m", "one")
    assert re.fullmatch("[0-9a-f]{40}", machine.find_commit())
    elsewhere.write_text("two")
    assert re.fullmatch("[0-9a-f]{40}[+]", machine.find_commit())


@pytest.mark.devices(2)
@pytest.mark.parametrize("task", ["embed", "probe", "logits"])
def test_inference_computes_what_the_model_computes(task):
    config = dataclasses.replace(CONFIG, tasks=(task,), accumulation=1)
    (case,) = list_cases(config, num_local_devices=8, platform="cpu")
    workload = make_workload(case, config, jax.local_devices()[:2])
    assert isinstance(workload, InferenceWorkload)
    workload.lower()
    found = workload.start()
    tokens = jnp.asarray(draw_tokens(4, 20, MODEL, seed=config.seed))
    params = init_params(jax.random.key(config.seed), MODEL)
    layers = {"embed": (2,), "probe": (0, 1, 2), "logits": ()}[task]
    outputs = make_forward(MODEL).apply(params, tokens, layers=layers)
    keep = MODEL.is_known(tokens)[..., None]
    expected = {layer: (x * keep).sum(axis=1) for layer, x in outputs.embeddings.items()}
    # Sums of 20 float32 numbers near 1, in another order.
    right = outputs.logits if task == "logits" else expected
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, right)


@pytest.mark.devices(2)
def test_nothing_compiles_while_the_clock_runs():
    config = dataclasses.replace(CONFIG, tasks=("train",))
    (case,) = list_cases(config, num_local_devices=8, platform="cpu")
    workload = make_workload(case, config, jax.local_devices()[:2])
    compiled = []

    def listen(event, _seconds, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        workload.lower().compile()
        assert len(compiled) == 1
        for _ in range(3):
            workload.wait(workload.start())
        assert len(compiled) == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert workload.describe()["updates"] == 3


def test_fine_tuning_trains_what_its_method_trains():
    changes = {"tasks": ("finetune",), "accumulation": 1, "num_devices": (1,)}
    config = dataclasses.replace(CONFIG, **changes)
    cases = list_cases(config, num_local_devices=8, platform="cpu")
    assert [case.method for case in cases] == ["head", "ia3", "lora", "full"]
    assert cases[1].label == "finetune ia3 custom, 2 x 20"
    workload = make_workload(cases[1], config, jax.local_devices()[:1])
    workload.lower()
    workload.wait(workload.start())
    found = workload.describe()
    assert found["updates"] == 1
    factors, head = MODEL.num_layers * (2 * 16 + 24), 2 * (16 + 1)
    assert found["trained_parameters"] == factors + head
    assert abs(found["loss"] - np.log(2)) < 1.0
    # Products for the gradients of activations, and none for those of weights.
    block = 2 * (4 * 16**2 + 3 * 16 * 24) + 4 * 20 * 16
    assert workload.flops_per_step == 2 * 2 * MODEL.num_layers * 20 * block


def test_a_case_that_does_not_fit_and_a_lost_profile_are_reported(monkeypatch, tmp_path):
    measure = run.measure_case

    def measure_small(case, *args):
        if case.sequences_per_device > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return measure(case, *args)

    monkeypatch.setattr(run, "measure_case", measure_small)
    monkeypatch.setattr(run, "profile_workload", Mock(side_effect=InputError("no names")))
    monkeypatch.setattr(run, "find_peak", lambda *_: PEAK)
    config = dataclasses.replace(
        CONFIG,
        tasks=("embed",),
        accumulation=1,
        sequences_per_device=(2, 1),
        num_devices=(1,),
        output=tmp_path,
    )
    report = run_benchmark(config)
    first, second = json.loads(report.json_file.read_text())["results"]
    assert isinstance(report.results[0], FailedCase)
    assert first["error"] == "out of memory"
    assert second["evidence"]["batches"] == NUM_STEPS
    assert second["no_profile"] == "no names"
    assert "no profile: no names" in describe_notes(report, narrow=True)


def cases_of(**changes):
    config = dataclasses.replace(CONFIG, tasks=("train",), **changes)
    cases = list_cases(config, num_local_devices=8, platform="gpu")
    return [(case.scaling, case.num_devices, case.sequences_per_device) for case in cases]


def test_cases_of_scaling():
    weak = [("weak", count, 8) for count in (1, 2, 4, 8)]
    strong = [("strong", count, 8 // count) for count in (2, 4, 8)]
    both = {"num_devices": (), "sequences_per_device": (8,), "scaling": ("weak", "strong")}
    assert cases_of(**both) == weak + strong
    assert cases_of(**both | {"scaling": ()}) == weak[-1:]
    assert cases_of(**both | {"num_devices": (1, 4), "scaling": ()}) == [weak[0], weak[2]]
    assert cases_of(num_devices=(), sequences_per_device=()) == [("weak", 8, 32)]
    assert cases_of(num_devices=(), scaling=("strong",)) == [("weak", 1, 2), ("strong", 2, 1)]
    with pytest.raises(ValueError, match="sequences_per_device = 2: must be a multiple of 4"):
        cases_of(num_devices=(1, 2, 4), scaling=("strong",))


def test_scaling_is_compared_with_the_same_work_on_one_device(report):
    result = report.measured[0]

    def at(scaling, num_devices, sequences):
        changes = {"num_devices": num_devices, "sequences_per_device": sequences}
        case = dataclasses.replace(result.case, scaling=scaling, **changes)
        return dataclasses.replace(result, case=case)

    one, eight = at("weak", 1, 2), at("weak", 1, 8)
    weak, strong = at("weak", 4, 2), at("strong", 4, 2)
    all_cases = dataclasses.replace(report, results=[one, eight, weak, strong])
    assert find_base(weak, all_cases) is one
    assert find_base(strong, all_cases) is eight
    assert find_base(at("weak", 2, 4), all_cases) is None


@pytest.mark.parametrize(("dtype", "found"), [("bfloat16", (8.0, 4.0)), ("float32", (2.0, 1.0))])
def test_the_peak_is_looked_up_and_measured_in_the_type_of_the_computation(
    monkeypatch, dtype, found
):
    measured, listed = {"bfloat16": 4.0, "float32": 1.0}, {"bfloat16": 8.0, "float32": 2.0}
    monkeypatch.setattr(machine, "measure_peak_flops", lambda _, dtype, **__: measured[dtype])
    monkeypatch.setattr(machine, "look_up_peak_flops", lambda _, dtype: listed[dtype])
    assert machine.find_peak(jax.devices()[0], dtype) == found


@pytest.mark.parametrize("fits", [True, False])
def test_the_command_measures_prints_and_writes(capfd, tmp_path, monkeypatch, fits):
    monkeypatch.setattr(run, "find_peak", lambda *_: PEAK)
    if not fits:
        error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        monkeypatch.setattr(run, "measure_case", Mock(side_effect=error))
    model = "--model.k 3 --model.num-layers 1 --model.embed-dim 8 --model.num-heads 2"
    args = f"--models custom {model} --model.ffn-dim 8 --tasks logits --sequence-tokens 8"
    args += f" --num-devices 1 --rounds 1 --round-steps 1 --no-peer --output {tmp_path}"
    assert cli.main(["benchmark", *args.split()]) == (0 if fits else 1)
    out = capfd.readouterr().out
    assert "logits custom, 2 x 8" in out
    assert ("out of memory" in out) != fits
    (file,) = tmp_path.glob("*.json")
    assert str(file) in out
    assert json.loads(file.read_text())["results"][0]["task"] == "logits"
    assert [path.name in out for path in tmp_path.glob("*.png")] == [True] * fits
    assert (".png" in out) == fits


def test_benchmarks_of_the_same_second_have_files_of_their_own(tmp_path):
    files = [run.reserve_files(tmp_path)[0] for _ in range(3)]
    assert len(set(files)) == 3
    assert set(tmp_path.iterdir()) == set(files)


def test_the_peer_has_as_many_flops():
    from nucleotide_transformer.benchmark.torch_peer import explain_absence, make_esm_config

    options = make_esm_config(ModelConfig())
    assert options["intermediate_size"] == 3_072
    assert 2 * 512 * options["intermediate_size"] == 3 * 512 * ModelConfig().ffn_dim
    ungated = dataclasses.replace(ModelConfig(), ffn_gated=False)
    assert make_esm_config(ungated)["intermediate_size"] == 2_048
    case = Case(
        task="train",
        model="100M",
        sequence_tokens=8,
        sequences_per_device=1,
        accumulation=1,
        num_devices=2,
        scaling="weak",
    )
    assert explain_absence(case, "cpu") == "the peer runs on one device"
    if importlib.util.find_spec("torch") is None:
        alone = dataclasses.replace(case, num_devices=1)
        assert explain_absence(alone, "cpu") == "torch is not installed"


def test_drawn_tokens_are_kmers_after_cls():
    tokens = draw_tokens(50, 40, MODEL, seed=0)
    assert (tokens[:, 0] == MODEL.cls_token_id).all()
    assert np.asarray(MODEL.is_known(jnp.asarray(tokens[:, 1:]))).all()
    assert len(np.unique(tokens[:, 1:])) == 4**MODEL.k


def test_a_second_start_takes_the_program_from_the_cache():
    config = dataclasses.replace(CONFIG, tasks=("embed",), num_devices=(1,), accumulation=1)
    (case,) = list_cases(config, num_local_devices=8, platform="cpu")
    hits = []

    def listen(event, **_):
        hits.append(event.endswith("compilation_cache/cache_hits"))

    settings = [*compilation.CACHE_SETTINGS, "jax_compilation_cache_dir"]
    before = {name: getattr(jax.config, name) for name in settings}
    workload = make_workload(case, config, jax.local_devices()[:1])
    jax.monitoring.register_event_listener(listen)
    try:
        times, _ = compilation.compile_step(workload, cache=False)
        assert times.second_start is None
        assert sum(hits) == 0
        times, _ = compilation.compile_step(workload, cache=True)
        assert times.second_start is not None
        assert sum(hits) >= 1
    finally:
        jax.monitoring.unregister_event_listener(listen)
    assert {name: getattr(jax.config, name) for name in settings} == before
