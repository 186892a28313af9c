"""`nt finetune` and `nt predict`: files in, files out, and what is said of bad ones."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from real_command import run_in_pipe
from small_models import save_model
from small_tasks import COMPUTE, MODEL, make_model, make_task

from nucleotide_transformer import cli
from nucleotide_transformer.commands import finetuning as commands
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning import prediction_files
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.predict import predict_array
from nucleotide_transformer.finetuning.run import FinetuneResult
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.model import init_params
from nucleotide_transformer.pretrained import load_pretrained

OPTIONS = (
    *("--total-steps", 6, "--warmup-steps", 2, "--evaluate-every-steps", 3, "--num-devices", 1),
    *("--learning-rate", 0.01, "--compute.attention", "einsum"),
)
ONE_PIECE = "is for embeddings: each sequence is predicted in one piece"


def write_table(path, task):
    rows = zip(task.names, task.sequences, task.labels.tolist(), strict=True)
    lines = [f"{name},{text},{task.classes[label]}" for name, text, label in rows]
    path.write_text("\n".join(["name,sequence,label", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model in a folder, and the tables of a task."""
    folder = tmp_path_factory.mktemp("commands")
    params = init_params(jax.random.key(0), MODEL, COMPUTE)
    save_model(folder / "base", MODEL, "huggingface", params)
    for seed, (name, size) in enumerate({"train": 40, "test": 10}.items()):
        write_table(folder / f"{name}.csv", make_task(size, seed=seed))
    return folder


@pytest.fixture(scope="module")
def tuned(folder):
    """What a real command said, which made the run in `folder / "run"`."""
    tables = ("--train", folder / "train.csv", "--test", folder / "test.csv")
    place = ("--model", folder / "base", "--output", folder / "run")
    return run_in_pipe("finetune", *place, *tables, *OPTIONS)


def test_a_real_run_leaves_an_adapter_and_its_results(folder, tuned):
    assert (tuned.code, tuned.err) == (0, "")
    assert "method    ia3, 146 trained parameters, learning rate 0.01" in tuned.out
    assert "best after update " in tuned.out
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["num_trained"] == 146
    assert results["test"].keys() == {"mcc", "f1", "accuracy", "auroc"}
    record = json.loads((folder / "run" / "adapter" / "adapter.json").read_text())
    assert record["base"] == str((folder / "base").resolve())
    assert (folder / "run" / "adapter" / "adapter.safetensors").stat().st_mode & 0o077


def test_results_that_are_not_defined_are_null(tmp_path):
    config = FinetuneConfig(output=tmp_path)
    commands.write_results(config, {"test": [{"auroc": float("nan"), "mcc": 0.5}]})
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == {"test": [{"auroc": None, "mcc": 0.5}]}


def test_validation_scores_are_there_before_the_test_set_is_scored(folder, tmp_path, monkeypatch):
    def stop(*_, batching):
        raise KeyboardInterrupt(batching)

    result = FinetuneResult(make_model(), tmp_path, 6, 3, {"mcc": 0.5}, 146)
    monkeypatch.setattr(commands, "run_finetuning", lambda *_: result)
    monkeypatch.setattr(commands, "score_model", stop)
    tables = {name: folder / f"{name}.csv" for name in ("train", "test")}
    config = FinetuneConfig(**tables, model=str(folder / "base"), output=tmp_path, num_devices=1)
    with pytest.raises(KeyboardInterrupt) as stopped:
        commands.finetune(config)
    assert stopped.value.args == (BatchConfig(num_devices=1),)
    assert json.loads((tmp_path / "results.json").read_text())["validation"] == {"mcc": 0.5}


def test_test_sequences_that_were_trained_on_are_told(folder, tmp_path, capsys):
    """Before the model is loaded: here there is none."""
    train, test = folder / "train.csv", tmp_path / "test.csv"
    test.write_text("".join(train.read_text().splitlines(keepends=True)[:4]))
    place = ("--model", tmp_path / "none", "--output", tmp_path / "run")
    words = ("finetune", "--train", train, "--test", test, *place, *OPTIONS)
    assert cli.main([str(word) for word in words]) == 2
    told = "of 3 sequences 3 identical, 0 reverse complement, 0 near are in"
    assert capsys.readouterr().out == f"note: {test}: {told} {train} too\n"


def test_a_prediction_is_that_of_the_function(folder, tuned, capsys):
    output = folder / "predicted.csv"
    place = ("--model", folder / "run", "--input", folder / "test.csv", "--output", output)
    assert cli.main([str(word) for word in ("predict", *place)]) == 0
    assert capsys.readouterr().out == f"wrote {output}\n"
    with output.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "prediction", "probability_poor", "probability_rich"]
    found = np.array([[row["probability_poor"], row["probability_rich"]] for row in rows], float)
    expected = predict_array(load_pretrained(folder / "run"), make_task(10, seed=1).sequences)
    np.testing.assert_allclose(found, expected, atol=2e-6)  # six digits
    assert [row["prediction"] for row in rows] == [
        ("poor", "rich")[index] for index in expected.argmax(axis=1)
    ]
    assert not output.with_name("predicted.csv.parts").exists()


def test_a_prediction_that_was_stopped_resumes(folder, tuned, tmp_path, monkeypatch):
    """After what was finished, which is not computed again; Parquet has the same rows."""
    pq = pytest.importorskip("pyarrow.parquet")
    model, whole = load_pretrained(folder / "run"), tmp_path / "whole.parquet"

    def predict(output, model=model):
        return prediction_files.predict_file(
            model,
            prediction_files.PredictLabelsConfig(
                model=str(folder / "run"), input=folder / "test.csv", output=output
            ),
        )

    predict(whole)
    compute, computed = prediction_files.predict, []

    def stop(model, sequences, **options):
        for values in compute(model, sequences, **options):
            computed.append(values)
            if len(computed) == 5:
                raise KeyboardInterrupt
            yield values

    monkeypatch.setattr(prediction_files, "predict", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path / "part.parquet")
    assert not (tmp_path / "part.parquet").exists()
    for field, value in {"strand": "one", "classes": ("rich", "poor"), "layers": (1,)}.items():
        head = dataclasses.replace(model.head, **{field: value})
        with pytest.raises(InputError, match=rf"parts: .* {field} = .*, not .*: finish it with"):
            predict(tmp_path / "part.parquet", dataclasses.replace(model, head=head))
    predict(tmp_path / "part.parquet")
    assert len(computed) == 5 + 6
    one, other = (
        pq.read_table(tmp_path / f"{name}.parquet").to_pydict() for name in ("part", "whole")
    )
    assert one == other
    assert len(one["name"]) == 10


def fails(capsys, *words):
    """The one line that a command ends with, for bad input."""
    code = cli.main([str(word) for word in words])
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1), err
    return err.removeprefix("error: ").rstrip("\n")


def test_bad_input_is_one_line_and_leaves_nothing(folder, tuned, tmp_path, capsys):
    base = ("--model", folder / "base", "--output", tmp_path / "run", *OPTIONS)

    def train(text, *words):
        table = tmp_path / "train.csv"
        table.write_text(text)
        return fails(capsys, "finetune", "--train", table, *base, *words)

    rows = "".join(f"ACGTACGTAC{'A' * (i % 3)},{i % 2}\n" for i in range(12))
    assert fails(capsys, "finetune", *base) == "nt finetune: --train: must be given"
    assert "train.csv: no column 'label'" in train("sequence\nACGT\n")
    assert "there must be two classes or more" in train("sequence,label\nACGT,1\nACGA,1\n")
    assert "row 1: label: no label" in train("sequence,label\nACGT,\n")
    long = "ACG" * 64
    said = train(
        f"name,sequence,label\nlong,{long},1\n"
        + "".join(f"n,{line}\n" for line in rows.splitlines())
    )
    assert said.endswith("sequence 'long': 192 nt are 65 tokens: the model takes 64 (max_tokens)")
    test = tmp_path / "test.csv"
    test.write_text("sequence,label\nACGT,7\n")
    said = train("sequence,label\n" + rows, "--test", test)
    assert "test.csv: row 1: label = '7': the training set has no such label" in said
    test.write_text(f"name,sequence,label\nlong,{long},1\n")
    said = train("sequence,label\n" + rows, "--test", test)
    assert said.endswith(
        "test.csv: sequence 'long': 192 nt are 65 tokens: the model takes 64 (max_tokens)"
    )
    said = train("sequence,label\n" + rows, "--lora.sites", "hidden")
    assert said == "nt finetune: --lora.sites = ('hidden',): hidden is no linear layer"
    said = train("sequence,label\n" + rows, "--batching.window-tokens", 8)
    assert said == f"nt finetune: --batching.window-tokens = 8: {ONE_PIECE}"
    said = train("sequence,label\n" + rows, "--kind", "segmentation")
    assert said.startswith("nt finetune: train_labels = None: a BED file and a FASTA file are")
    said = train("sequence,label\n" + rows, "--method", "prompt")
    assert "--method = 'prompt': must be one of head, ia3, lora, full" in said
    assert not (tmp_path / "run").exists()


def test_bad_predictions_are_one_line_and_leave_nothing(folder, tuned, tmp_path, capsys):
    def predict(model, text, output="out.csv", *options):
        table = tmp_path / "in.fa"
        table.write_text(text)
        words = ("--model", model, "--input", table, "--output", tmp_path / output)
        return fails(capsys, "predict", *words, *options)

    run = folder / "run"
    assert "must be .csv, .tsv, .parquet, .bedgraph" in predict(run, ">a\nACGT\n", "out.txt")
    assert "was not fine-tuned" in predict(folder / "base", ">a\nACGT\n")
    said = predict(run, f">short\nACGT\n>long\n{'ACG' * 64}\n")
    assert said.endswith("sequence 'long': 192 nt are 65 tokens: the model takes 64")
    said = predict(run, ">a\nACGT\n", "out.csv", "--batching.overlap-tokens", 0)
    assert said == f"nt predict: --batching.overlap-tokens = 0: {ONE_PIECE}"
    assert not list(tmp_path.glob("out.csv*"))
