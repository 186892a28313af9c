"""Many tasks and methods: trials that are not run twice, controls, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_command import run_in_pipe
from small_models import V2, random_params, save_model
from task_folders import draw, make_model, write_rows, write_task

from nucleotide_transformer import cli
from nucleotide_transformer.config import ComputeConfig
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.finetuning import methods
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.finetuning.methods import (
    METHODS,
    Method,
    Outcome,
    Setting,
    Trial,
    make_finetune_config,
)
from nucleotide_transformer.finetuning.task_sources import ColumnsConfig
from nucleotide_transformer.finetuning.tasks import (
    TasksConfig,
    load_tables,
    make_setting,
    run_tasks,
)
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.pretrained import Model

ONE = BatchConfig(num_devices=1)


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a", "b")):
        write_task(tmp_path / "tasks", name, seed)
    return tmp_path / "tasks"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """Two methods that take no time, "coin" with a network and "mean" without; lists what ran."""
    trials: list[Trial] = []

    def toss(trial: Trial, train: LabelledSequences, test: list[str], setting: Setting) -> Outcome:
        trials.append(trial)
        random = np.random.default_rng(trial.seed)
        ones = random.random(len(test)) if METHODS[trial.method].is_random else np.ones(len(test))
        details = {"strand": setting.strand, "num_train": len(train)}
        return Outcome(np.stack([1 - ones, ones], axis=1), details)

    coin = Method(toss, uses_network=True, is_random=True)
    mean = Method(toss, uses_network=False, is_random=False)
    for name, method in {"coin": coin, "mean": mean}.items():
        monkeypatch.setitem(methods.METHODS, name, method)
    return trials


def make_config(tasks: Path, **changes: Any) -> TasksConfig:
    defaults: dict[str, Any] = {
        "tasks": str(tasks),
        "output": tasks.parent / "out",
        "methods": ("mean", "coin"),
        "resamples": 20,
        "batching": ONE,
    }
    return TasksConfig(**(defaults | changes))


def run(config: TasksConfig, model: Model, **options: Any) -> list[dict[str, Any]]:
    return run_tasks(config, load_tables(config), model, **options)


def test_every_pretrained_trial_has_its_random_twin(
    tasks: Path, ran: list[Trial], model: Model
) -> None:
    records = run(make_config(tasks, seeds=2), model)
    assert [trial.name for trial in ran if trial.task == "a"] == [
        "mean-none-0",
        *("coin-pretrained-0", "coin-random-0", "coin-pretrained-1", "coin-random-1"),
    ]
    assert [record["task"] for record in records] == ["a"] * 5 + ["b"] * 5
    first = json.loads((tasks.parent / "out/results/a/mean-none-0.json").read_text())
    assert first == records[0]
    assert first["scores"] == {"mcc": 0.0, "f1": 0.66667, "accuracy": 0.5, "auroc": 0.5}
    assert first["intervals"]["accuracy"][0] < 0.5 < first["intervals"]["accuracy"][1]


def test_what_is_there_is_not_run_again(tasks: Path, ran: list[Trial], model: Model) -> None:
    config = make_config(tasks)
    before = run(config, model)
    assert len(ran) == 6
    ran.clear()
    gone = config.output / "results/b/coin-random-0.json"
    gone.unlink()
    again = run(config, model)
    assert ran == [Trial("b", "coin", "random", 0)]
    for old, new in zip(before, again, strict=True):
        assert {**old, "seconds": 0} == {**new, "seconds": 0}
    ran.clear()
    run(make_config(tasks, seeds=2, only=("a",)), model)
    assert [trial.name for trial in ran] == ["coin-pretrained-1", "coin-random-1"]


def test_controls_are_taken_from_a_table_of_other_weights(
    tasks: Path, ran: list[Trial], model: Model
) -> None:
    before = run(make_config(tasks), model)
    for path in (tasks.parent / "out/results").rglob("*.json"):  # of a version before the field
        record = json.loads(path.read_text())
        assert record["fingerprint"].pop("resamples") == record["resamples"] == 20
        path.write_text(json.dumps(record))
    other = dataclasses.replace(model, params=random_params(V2, seed=5))
    again = make_config(tasks, output=tasks.parent / "again", controls=tasks.parent / "out")
    ran.clear()
    lines: list[str] = []
    after = run(again, other, note=lines.append)
    assert [trial.name for trial in ran] == ["coin-pretrained-0"] * 2
    assert lines[1] == f"4 controls taken from {again.controls}"
    for old, new in zip(before, after, strict=True):
        assert (old == new) == (old["weights"] != "pretrained")
    assert run(make_config(tasks), model)[0]["resamples"] == 20
    with pytest.raises(InputError, match="was made with resamples = 20, not 30: choose another"):
        run(make_config(tasks, resamples=30), model)
    ran.clear()
    lines.clear()
    run(dataclasses.replace(again, output=tasks.parent / "more", resamples=30), other)
    assert len(ran) == 6
    wider = dataclasses.replace(V2, layer_norm_epsilon=1e-6)  # the same random weights
    ran.clear()
    run(
        dataclasses.replace(again, output=tasks.parent / "third"),
        dataclasses.replace(model, config=wider),
    )
    assert [trial.name for trial in ran] == ["coin-pretrained-0", "coin-random-0"] * 2
    with pytest.raises(MissingInputError, match="absent: no such folder of a table"):
        run(dataclasses.replace(again, controls=Path("absent")), other)


def test_a_stop_keeps_the_trials_that_are_finished(
    tasks: Path, ran: list[Trial], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = METHODS["coin"].run

    def stop(trial: Trial, *others: Any) -> Outcome:
        if trial.weights == "random":
            raise KeyboardInterrupt
        return real(trial, *others)

    monkeypatch.setitem(methods.METHODS, "coin", METHODS["coin"]._replace(run=stop))
    config = make_config(tasks)
    with pytest.raises(KeyboardInterrupt):
        run(config, model)
    there = sorted(path.name for path in (config.output / "results").rglob("*"))
    assert there == ["a", "coin-pretrained-0.json", "mean-none-0.json"]


def test_results_of_other_settings_are_not_mixed(
    tasks: Path, ran: list[Trial], model: Model
) -> None:
    run(make_config(tasks, only=("a",)), model)
    with pytest.raises(InputError, match=r"0\.json: was made with drop_leaks = False, not True"):
        run(make_config(tasks, drop_leaks=True), model)
    write_rows(tasks / "a" / "test.csv", draw(20, 9))
    with pytest.raises(InputError, match=r"0\.json: was made with test = '\w+', not '\w+'"):
        run(make_config(tasks), model)
    record = tasks.parent / "out/results/a/mean-none-0.json"
    record.write_text("{")
    with pytest.raises(InputError, match="damaged: delete it, and the trial runs again"):
        run(make_config(tasks), model)


def test_leaks_are_counted_and_dropped(tasks: Path, ran: list[Trial], model: Model) -> None:
    rows = draw(40, 0)
    write_rows(tasks / "a" / "test.csv", [*draw(18, 1), rows[0], rows[1]])
    lines: list[str] = []
    for drop in (False, True):
        output = tasks.parent / f"out_{drop}"
        config = make_config(tasks, only=("a",), methods=("mean",), drop_leaks=drop, output=output)
        (record,) = run(config, model, note=lines.append)
        assert record["leaks"] == {"identical": 2, "reverse_complement": 0, "near": 0, "train": 2}
        assert record["details"]["num_train"] == record["num_train"] == 40 - 2 * drop
    assert "a: of 20 test sequences, the training set has 2 too" in lines[1]


def test_strands_are_a_table(tasks: Path, ran: list[Trial], model: Model) -> None:
    write_task(tasks, "promoter_x")
    config = make_config(tasks, methods=("mean",), stranded=("promoter_*", "b"))
    strands = {record["task"]: record["details"]["strand"] for record in run(config, model)}
    assert strands == {"a": "both", "b": "one", "promoter_x": "one"}
    default = make_config(tasks)
    assert default.find_strand("splice_sites_all") == default.find_strand("promoter_tata") == "one"
    assert default.find_strand("H3") == default.find_strand("enhancers") == "both"


def test_counts_and_probes_learn_what_there_is(tasks: Path, model: Model) -> None:
    config = make_config(tasks, only=("a",), methods=("kmers4", "kmers6", "probe"), layers=(1,))
    records = {(r["method"], r["weights"]): r for r in run(config, model)}
    for name in ("kmers4", "kmers6"):
        assert records[name, "none"]["scores"]["mcc"] > 0.7
    assert records["probe", "pretrained"]["scores"]["mcc"] > 0.4
    assert records["probe", "pretrained"]["details"]["layer"] == 1
    assert (config.output / "embeddings" / "random_0" / "settings.json").is_file()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"layers": (1, 9)}, "layers"),
        ({"finetune": FinetuneConfig(layers=(9,))}, "finetune.layers"),
    ],
)
def test_a_layer_that_is_not_there_stops_before_anything_runs(
    changes: dict[str, Any], field: str, tasks: Path, ran: list[Trial], model: Model
) -> None:
    config = make_config(tasks, **changes)
    with pytest.raises(InputError, match=f"^{field}: there is no layer 9; the model's are"):
        run(config, model)
    assert not ran
    assert not config.output.exists()


def test_fine_tuning_is_a_method_like_others(tasks: Path, model: Model) -> None:
    finetune = FinetuneConfig(
        total_steps=4, warmup_steps=1, evaluate_every_steps=4, learning_rate=0.01, num_devices=1
    )
    config = make_config(tasks, only=("a",), methods=("head",), finetune=finetune)
    trained, control = run(config, model)
    assert [trained["weights"], control["weights"]] == ["pretrained", "random"]
    assert trained["details"]["num_trained"] == control["details"]["num_trained"] == 16 * 2 + 2
    assert trained["fingerprint"]["finetune.total_steps"] == 4
    assert trained["scores"] != control["scores"]
    folder = config.output / "finetuning" / "a"
    assert sorted(path.name for path in folder.iterdir()) == ["head-pretrained-0", "head-random-0"]
    for path in (config.output / "results" / "a").rglob("*.json"):  # of a version before the field
        record = json.loads(path.read_text())
        del record["fingerprint"]["finetune.head_start"]
        path.write_text(json.dumps(record))
    again = [record["scores"] for record in run(config, model)]
    assert again == [trained["scores"], control["scores"]]
    other = dataclasses.replace(finetune, head_start="probe")
    with pytest.raises(InputError, match=r"finetune.head_start = 'random', not 'probe': choose"):
        run(dataclasses.replace(config, finetune=other), model)
    compute = dataclasses.replace(model.compute, compute_dtype="bfloat16")
    rounded = dataclasses.replace(model, compute=compute)
    said = "compute_dtype = 'float32', not 'bfloat16': choose another output, or delete it, and"
    with pytest.raises(
        InputError, match=rf"{said} {folder}/head-pretrained-0 if that refuses, too$"
    ):
        run(config, rounded)
    shutil.rmtree(config.output / "results")
    with pytest.raises(InputError, match="compute_dtype = 'float32' there, 'bfloat16' here"):
        run(config, rounded)


def test_windows_are_for_embeddings_alone(tasks: Path, model: Model) -> None:
    """Of a table they are those of its probes."""
    sizes = dataclasses.replace(ONE, window_tokens=16, overlap_tokens=2)
    config = make_config(tasks, methods=("head",), batching=sizes)
    setting = make_setting(config, "a", model, note=print, show=False)
    trial = Trial("a", "head", "random", 0)
    assert make_finetune_config(setting, trial, "classification", "head").batching == ONE


def test_a_metric_that_is_not_defined_ends_no_table(tasks: Path, tmp_path: Path) -> None:
    """The rows held out to validate have one class: their AUROC is no number."""
    rows = draw(29, 0)
    write_rows(tasks / "a" / "train.csv", [(*row[:2], str(int(row is rows[0]))) for row in rows])
    output = tmp_path / "out"
    save_model(tmp_path / "model", V2, "huggingface")
    words = ["tasks", "run", "--tasks", tasks, "--only", "a", "--methods", "head"]
    words += ["--model", tmp_path / "model"]
    words += ["--finetune.total-steps", 2, "--finetune.warmup-steps", 1, "--output", output]
    words += ["--finetune.num-devices", 1, "--batching.num-devices", 1, "--resamples", 20]
    assert cli.main([str(word) for word in words]) == 0
    path = output / "results" / "a" / "head-pretrained-0.json"
    record, table = (json.loads(file.read_text()) for file in (path, output / "table.json"))
    assert record["details"]["validation"]["auroc"] is None
    assert table["parameters"] == record["fingerprint"]["parameters"]
    path.write_text(path.read_text().replace("null", "NaN"))  # as an older version wrote it
    (output / "table.md").unlink()
    assert cli.main([str(word) for word in words]) == 0
    assert (output / "table.md").is_file()


def test_results_depend_on_windows_and_on_the_precision_that_was_used(
    tasks: Path, ran: list[Trial], model: Model
) -> None:
    config = make_config(tasks)
    run(config, model)
    ran.clear()
    path = config.output / "results" / "a" / "coin-pretrained-0.json"
    record = json.loads(path.read_text())
    assert record["fingerprint"]["compute_dtype"] == model.compute.compute_dtype
    for name in ("window_tokens", "overlap_tokens"):  # records of older versions
        del record["fingerprint"][name]
    path.write_text(json.dumps(record))
    run(config, model)
    assert not ran
    other = dataclasses.replace(config, batching=dataclasses.replace(ONE, window_tokens=16))
    with pytest.raises(InputError, match="was made with window_tokens = None, not 16"):
        run(other, model)
    rounded = dataclasses.replace(model.compute, compute_dtype="bfloat16")
    with pytest.raises(InputError, match="compute_dtype = 'float32', not 'bfloat16'"):
        run(config, dataclasses.replace(model, compute=rounded))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown method": ({"methods": ("knn",)}, r"methods = \('knn',\): must be some of kmers4"),
    "no method": ({"methods": ()}, r"methods = \(\): must be some of"),
    "a method twice": ({"methods": ("probe", "probe")}, "must be named once each"),
    "no seed": ({"seeds": 0}, "seeds = 0: must be above 0"),
    "another seed": ({"finetune": FinetuneConfig(seed=1)}, "finetune.seed = 1: is set by nt tasks"),
    "folds": ({"finetune": FinetuneConfig(folds=5)}, "finetune.folds = 5: is set by nt tasks"),
    "windows": ({"finetune": FinetuneConfig(window=6)}, "finetune.window = 6: is set by nt tasks"),
    "processes": (
        {"finetune": FinetuneConfig(distributed=True)},
        "finetune.distributed = True: is set by nt tasks",
    ),
    "another precision": (
        {"finetune": FinetuneConfig(compute=ComputeConfig(compute_dtype="bfloat16"))},
        "is set by nt tasks run itself",
    ),
    "a table": ({"finetune": FinetuneConfig(train=Path("x.csv"))}, "^finetune.train = 'x.csv': is"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_setting_is_one_line(tasks: Path, case: str) -> None:
    changes, message = BAD[case]
    with pytest.raises(InputError, match=message):
        dataclasses.replace(make_config(tasks, methods=("probe",)), **changes)


def test_a_bad_table_stops_before_anything_runs(
    tasks: Path, ran: list[Trial], model: Model
) -> None:
    write_rows(tasks / "b" / "test.csv", [("x", "ACGT", "7")])
    with pytest.raises(InputError, match=r"b/test\.csv: row 1: label = '7': the training set"):
        run(make_config(tasks), model)
    columns = ColumnsConfig(label=("kind",))
    with pytest.raises(InputError, match=r"a/train\.csv: no column 'kind'; has name, sequence"):
        run(make_config(tasks, columns=columns), model)
    assert ran == []
    assert not (tasks.parent / "out").exists()
    write_rows(tasks / "b" / "test.csv", [("x", "ACG" * 100, "1")])
    with pytest.raises(InputError, match=r"b/test\.csv: sequence 'x': 300 nt are 101 tokens: the"):
        run(make_config(tasks, methods=("coin", "head")), model)
    assert ran == []


def test_the_command_writes_the_table_and_says_what_is_wrong(tasks: Path) -> None:
    """`nt tasks run` as a user runs it: in a process of its own, without a network."""
    output = tasks.parent / "out"
    words = ["tasks", "run", "--tasks", tasks, "--output", output, "--methods", "kmers4"]
    done = run_in_pipe(*words, "--resamples", 20)
    assert (done.code, done.err) == (0, "")
    assert "2 tasks, 2 trials, 0 done before" in done.out
    assert (output / "table.md").read_text() in done.out
    assert sorted(path.name for path in output.iterdir()) == [
        "results",
        *(f"table.{suffix}" for suffix in ("json", "md", "parquet", "png")),
    ]


def test_bad_words_of_the_command_are_one_line(
    tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tasks", "run", "--tasks", str(tasks), "--methods", "kmers4", "--output"]
    blocked = tasks / "a" / "train.csv"
    cases = {
        f"error: {blocked}/out: a file is in its path": [*words, str(blocked / "out")],
        f"error: {tasks}/none.toml: no such file of published scores": [
            *(*words, str(tasks.parent / "out"), "--published", str(tasks / "none.toml"))
        ],
        "error: nt tasks run: --methods = ('knn',): must be some of kmers4": [
            *(*words, str(tasks.parent / "out"), "--methods", "knn")
        ],
    }
    for message, line in cases.items():
        assert cli.main(line) == 2
        err = capsys.readouterr().err
        assert err.startswith(message)
        assert err.count("\n") == 1
    assert not (tasks.parent / "out").exists()
