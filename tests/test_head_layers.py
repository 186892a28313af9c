"""A head that reads several layers side by side, and adapters from before there was a choice."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import save_model
from small_tasks import (
    COMPUTE,
    MODEL,
    failing_evaluation,
    make_config,
    make_task,
    random_model,  # noqa: F401
)

from nucleotide_transformer import cli
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning import run
from nucleotide_transformer.finetuning.predict import predict_array
from nucleotide_transformer.finetuning.run import finetune
from nucleotide_transformer.model import make_forward
from nucleotide_transformer.model.stacking import arrange_params
from nucleotide_transformer.model.task_network import TaskNetwork, join_layers
from nucleotide_transformer.pretrained import load_pretrained

TRAIN, VALIDATION = make_task(36), make_task(12, seed=1)
HEAD = "esm_transformer/~/task_head/~/outputs"
RECORD = "adapter.json"


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    """A run whose head reads layers 2 and 0, in this order, and starts with a probe of them."""
    config = make_config(tmp_path_factory.mktemp("tuned"), layers=(2, 0), head_start="probe")
    return config, finetune(model, TRAIN, VALIDATION, config, show=False)


def normalise(x):
    """Mean 0 and variance 1 over the width."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def rewrite(adapter, folder, change):
    """A copy of an adapter with another record."""
    for file in adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    record = json.loads((folder / RECORD).read_text())
    change(record)
    (folder / RECORD).write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("layers", "pooling", "stack"),
    [
        *(((), "mean", "scan"), ((1,), "max", "loop"), ((2, 0), "mean", "loop")),
        *(((2, 0), "cls", "scan"), ((0, 1, 2), "mean", "scan"), ((0, 1, 2), "max", "scan")),
    ],
)
def test_outputs_are_those_of_pooled_embeddings_side_by_side(layers, pooling, stack, model):
    """Written out in NumPy; one sequence is shorter and has an N."""
    compute = dataclasses.replace(COMPUTE, stack=stack)
    network = TaskNetwork(
        config=MODEL, compute=compute, num_outputs=3, pooling=pooling, layers=layers
    )
    params = network.take_base(model.params) | network.init(jax.random.key(1))
    tokens = model.tokenizer.encode_batch(["ACGTTGCAACGT", "ACGNTG"])
    found = network.apply(arrange_params(params, stack), jnp.asarray(tokens))

    forward = make_forward(MODEL, COMPUTE)
    embeddings = forward.apply(model.params, jnp.asarray(tokens), layers=(0, 1, 2)).embeddings
    known = (tokens >= MODEL.first_kmer_id) & (tokens != model.tokenizer.encode("N")[1])
    rows = []
    for number, keep in enumerate(known):
        parts = []
        for layer in layers or (2,):
            x = np.asarray(embeddings[layer][number])
            pooled = {"mean": x[keep].mean(0), "cls": x[0], "max": x[keep].max(0)}[pooling]
            parts.append(pooled if layer == 2 else normalise(pooled))
        joined = np.concatenate(parts) / len(parts)
        rows.append(joined @ params[HEAD]["w"] + params[HEAD]["b"])
    np.testing.assert_allclose(found, rows, atol=1e-5)


@pytest.mark.parametrize("layers", [(2,), (1, 2), (0, 1, 2)])
def test_an_update_moves_an_output_as_far_however_many_layers_there_are(layers, model):
    """Adam's first step is one of equal size for each weight, in the direction of its input."""
    rng = np.random.default_rng(0)
    pooled = {layer: jnp.asarray(rng.normal(3, 10 + layer, (4, 16))) for layer in range(2)}
    pooled[2] = jnp.asarray(rng.choice([-1.0, 1.0], (4, 16)))  # as after a norm
    joined = np.asarray(join_layers(pooled, layers, MODEL))
    moved = np.abs(joined).sum(axis=1) / 16
    assert joined.shape == (4, 16 * len(layers))
    assert ((moved > 0.6) & (moved < 1.1)).all()  # a normal number is 0.8 from its mean


@pytest.mark.parametrize("layers", [(0, 1), (2,)])
def test_blocks_above_the_layers_stay_as_they_are(layers, model, tmp_path):
    """No gradient reaches them."""
    config = make_config(tmp_path, layers=layers, total_steps=4, patience=None)
    result = finetune(model, TRAIN, VALIDATION, config, show=False)
    after = load_pretrained(result.adapter, base=model).params
    moved = [
        any(
            not np.array_equal(leaf, model.params[name][key])
            for name, leaves in after.items()
            if f"attention_layer_{block}/" in name
            for key, leaf in leaves.items()
        )
        for block in (0, 1)
    ]
    assert moved == ([True, False] if layers == (0, 1) else [True, True])


def test_an_adapter_remembers_the_layers_in_their_order(model, tuned):
    config, result = tuned
    record = json.loads((result.adapter / RECORD).read_text())
    assert (record["format_version"], record["layers"]) == (2, [2, 0])
    loaded = load_pretrained(result.adapter, base=model)
    assert loaded.head.layers == config.layers
    expected = predict_array(result.model, VALIDATION.sequences)
    np.testing.assert_allclose(predict_array(loaded, VALIDATION.sequences), expected, atol=1e-6)


def test_a_stopped_run_resumes_to_the_same_bit_without_a_second_probe(
    model, tuned, tmp_path, monkeypatch
):
    config, whole = tuned
    stopped = dataclasses.replace(config, output=tmp_path / "stopped")
    with failing_evaluation(2, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        finetune(model, TRAIN, VALIDATION, stopped, show=False)
    other_order = dataclasses.replace(stopped, layers=(0, 2))
    with pytest.raises(InputError, match=r"layers = .*2, 0.* there, .*0, 2.* here"):
        finetune(model, TRAIN, VALIDATION, other_order, show=False)
    other_start = dataclasses.replace(stopped, head_start="random")
    with pytest.raises(InputError, match=r"head_start = 'probe' there, 'random' here"):
        finetune(model, TRAIN, VALIDATION, other_start, show=False)
    monkeypatch.setattr(run, "fit_head", None)
    found = finetune(model, TRAIN, VALIDATION, stopped, show=False)
    one, other = ((each.adapter / "adapter.safetensors").read_bytes() for each in (found, whole))
    assert one == other


def test_an_adapter_of_version_1_reads_the_last_layer(model, tmp_path):
    result = finetune(
        model, TRAIN, VALIDATION, make_config(tmp_path / "run", total_steps=4), show=False
    )

    def make_old(record):
        record["format_version"] = 1
        del record["layers"]

    (tmp_path / "old").mkdir()
    old = load_pretrained(rewrite(result.adapter, tmp_path / "old", make_old), base=model)
    expected = predict_array(result.model, VALIDATION.sequences)
    np.testing.assert_allclose(predict_array(old, VALIDATION.sequences), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([2, 9], r"adapter.json: layers = 9: the model's are numbered 0 to 2"),
        ([2, True], r"adapter.json: layers = \[2, True\]: is damaged"),
        ([2, 2], r"adapter.json: layers = \[2, 2\]: is damaged"),
        ([2], r"adapter.safetensors: 1 tensor wrong"),
        ({"kind": "segmentation"}, r"adapter.json: layers = \[2, 0\]: the head of a segmentation"),
        ({"format_version": 1}, r"adapter.json: damaged: must have base, "),
        ({"format_version": 2.0}, r"adapter.json: format_version = 2.0: this package reads 1 to 2"),
    ],
)
def test_a_record_with_other_layers_is_one_line(layers, message, model, tuned, tmp_path):
    fields = layers if isinstance(layers, dict) else {"layers": layers}
    changed = rewrite(tuned[1].adapter, tmp_path, lambda record: record.update(fields))
    with pytest.raises(InputError, match=message):
        load_pretrained(changed, base=model)


def test_layers_that_cannot_be_read_are_one_line(model, tmp_path):
    with pytest.raises(InputError, match=r"layers = \(1, 1\): must name each layer once"):
        make_config(tmp_path, layers=(1, 1))
    config = make_config(tmp_path, layers=(1, 3))
    with pytest.raises(InputError, match=r"^layers: there is no layer 3; the model's are"):
        finetune(model, TRAIN, VALIDATION, config, show=False)
    assert not config.output.exists()


def test_the_commands(model, tmp_path):
    """`nt finetune`, then `nt predict`, which is told nothing of the layers."""
    save_model(tmp_path / "base", MODEL, "huggingface", model.params)
    rows = zip(TRAIN.sequences, TRAIN.labels.tolist(), strict=True)
    table = tmp_path / "train.csv"
    table.write_text("sequence,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    place = ("--model", tmp_path / "base", "--train", table, "--output", tmp_path / "run")
    steps = ("--total-steps", 4, "--warmup-steps", 1, "--evaluate-every-steps", 2)
    output = tmp_path / "out.csv"
    for words in (
        ("finetune", *place, *steps, "--layers", 1, 2, "--num-devices", 1),
        ("predict", "--model", tmp_path / "run", "--input", table, "--output", output),
    ):
        assert cli.main([str(word) for word in words]) == 0
    tuned = load_pretrained(tmp_path / "run")
    assert tuned.head.layers == (1, 2)
    with output.open() as file:
        found = [float(row["probability_1"]) for row in csv.DictReader(file)]
    expected = predict_array(tuned, TRAIN.sequences)[:, 1]
    np.testing.assert_allclose(found, expected, atol=2e-6)  # six digits
