"""Fine-tuning runs: what they compute, what they leave alone, how they stop and resume."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import assert_same_params
from small_tasks import (
    COMPUTE,
    MODEL,
    failing_evaluation,
    make_config,
    make_model,
    make_task,
    random_model,  # noqa: F401
)

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning import run
from nucleotide_transformer.finetuning.batches import round_lengths
from nucleotide_transformer.finetuning.evaluation import Evaluator, has_stalled
from nucleotide_transformer.finetuning.job import make_adapter, make_job
from nucleotide_transformer.finetuning.predict import predict_array, score_model
from nucleotide_transformer.finetuning.run import finetune
from nucleotide_transformer.model import make_forward
from nucleotide_transformer.model.adapters import merge_adapter
from nucleotide_transformer.model.stacking import arrange_for_inference, name_params
from nucleotide_transformer.model.task_network import TaskNetwork, is_trained
from nucleotide_transformer.pretrained import load_pretrained, randomise
from nucleotide_transformer.training.metrics import read_metrics
from nucleotide_transformer.training.step import fetch_state, place_state
from nucleotide_transformer.weights.adapter_files import TrainedHead, load_adapter, save_adapter
from nucleotide_transformer.weights.runs import find_checkpoint, read_params

TRAIN, VALIDATION, TEST = (make_task(number, seed=seed) for seed, number in enumerate((36, 12, 16)))


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    """A run of IA3 that nothing interrupted."""
    config = make_config(tmp_path_factory.mktemp("tuned"))
    return config, finetune(model, TRAIN, VALIDATION, config, show=False)


def run_plainly(job, config):
    """The parameters that a run trains, after its last update: Adam, written out.

    The loss is that of the merged weights, so that no adapter is called.
    """
    params = job.network.init(jax.random.key(config.seed))
    forward = make_forward(MODEL, job.model.compute)
    batches = run.make_input(job)

    def loss(params, batch):
        head = params["esm_transformer/~/task_head/~/outputs"]
        base = {name: leaves for name, leaves in params.items() if "task_head" not in name}
        merged = merge_adapter(job.model.params | base, config.lora.alpha)
        x = forward.apply(merged, batch.tokens, layers=(2,)).embeddings[2]
        keep = (batch.tokens >= MODEL.first_kmer_id)[..., None]  # no N among them
        logits = (x * keep).sum(1) / keep.sum(1).clip(1) @ head["w"] + head["b"]
        nats = -jax.nn.log_softmax(logits)[np.arange(len(logits)), batch.labels]
        return (nats * batch.weights).sum() / batch.weights.sum()

    first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    slope = jax.jit(jax.grad(loss))
    for n in range(config.total_steps):
        found = slope(params, batches.load(n))
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, found)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, found)
        warm, left = min(n / 2, 1), (12 - max(n, 2)) / 10
        rate = 1e-2 * warm * left

        def move(p, m, v, n=n, rate=rate):
            return p - rate * (m / (1 - 0.9 ** (n + 1))) / (
                np.sqrt(v / (1 - 0.999 ** (n + 1))) + 1e-8
            )

        params = jax.tree.map(move, params, first, second)
    return params


@pytest.mark.parametrize("method", ["ia3", "lora"])
def test_a_run_is_the_plain_one(method, model, tmp_path):
    """Twelve updates, one after the other: float32, and Adam's division, of numbers near 1."""
    config = make_config(tmp_path, method=method, patience=None, evaluate_every_steps=12)
    finetune(model, TRAIN, VALIDATION, config, show=False)
    expected = run_plainly(make_job(model, TRAIN, VALIDATION, config), config)
    found = read_params(find_checkpoint(config.output, "last") / "state")
    found = {name: leaves for name, leaves in found.items() if name in expected}
    assert found.keys() == expected.keys()
    for name, leaves in expected.items():
        for leaf, right in leaves.items():
            np.testing.assert_allclose(found[name][leaf], right, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("method", ["head", "ia3", "lora", "full"])
def test_what_a_method_leaves_alone_keeps_every_bit(method, model, tmp_path):
    """And what it trains changes, each of its parameters; moments are kept of these alone."""
    config = make_config(tmp_path, method=method, learning_rate=0.1)
    job = make_job(model, TRAIN, VALIDATION, config)
    task = run.make_task(job)
    batch = jax.tree.map(lambda leaf: leaf[None, None], next(task.batches))
    before, _ = task.init_state()
    state = place_state(before, job.devices)
    for _ in range(3):
        state, _ = task.train_step(state, batch, np.zeros(1, bool))
    after = fetch_state(state)
    for one, other in zip(*map(jax.tree.leaves, (after.frozen, before.frozen)), strict=True):
        np.testing.assert_array_equal(one, other)
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), after.trainable, before.trainable)
    still = [
        jax.tree_util.keystr(path)
        for path, differs in jax.tree_util.tree_leaves_with_path(changed)
        if not differs
    ]
    if method == "lora":  # A has a gradient once B is not zero
        assert not still
    # A softmax is the same for all keys' biases, and a table has rows of other tokens.
    assert all("key" in path and "'b'" in path for path in still)
    trained, base = (
        sum(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (after.trainable, job.network.take_base(model.params))
    )
    moments = sum(leaf.size for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim)
    assert moments == 2 * trained
    added = {"head": 0, "ia3": 2 * 56, "lora": 2 * 4 * 8 * 32, "full": base}
    assert trained == 34 + added[method]
    assert bool(jax.tree.leaves(after.frozen)) == (method != "full")


def test_the_base_model_keeps_every_bit(model, tuned):
    assert_same_params(model.params, make_model().params)


def test_a_checkpoint_has_what_is_trained_alone(tuned):
    config, _ = tuned
    saved = read_params(find_checkpoint(config.output) / "state")
    names = [name for name, leaves in saved.items() if any(x is not None for x in leaves.values())]
    assert names
    assert all(is_trained(name, "ia3") for name in names)


def test_a_run_that_was_stopped_resumes_to_the_same_bit(model, tuned, tmp_path):
    """Stopped in the middle of its second evaluation, then by the rule that ends it early."""
    config, expected = tuned
    config = dataclasses.replace(config, output=tmp_path / "run")
    with failing_evaluation(2, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        finetune(model, TRAIN, VALIDATION, config, show=False)
    best_so_far = load_pretrained(config.output, base=model)
    assert best_so_far.head.classes == ("poor", "rich")
    found = finetune(model, TRAIN, VALIDATION, config, show=False)
    assert (found.step, found.best_step) == (expected.step, expected.best_step)
    one, other = ((each.adapter / "adapter.safetensors").read_bytes() for each in (found, expected))
    assert one == other

    def list_losses(output):
        lines = read_metrics(output)
        return [(line["kind"], line["step"], line.get("loss"), line.get("mcc")) for line in lines]

    assert sorted(list_losses(config.output)) == sorted(list_losses(tuned[0].output))


def test_a_run_ends_once_nothing_improves(model, tmp_path, monkeypatch):
    """At the evaluation after which two were no better; a run that resumes knows it."""
    values = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    monkeypatch.setattr(
        Evaluator, "evaluate", lambda *_: (lambda mcc: {"score": -mcc, "mcc": mcc})(next(values))
    )
    config = make_config(tmp_path, evaluate_every_steps=2, patience=2)
    found = finetune(model, TRAIN, VALIDATION, config, show=False)
    assert (found.step, found.best_step, found.metrics) == (8, 4, {"mcc": 0.3})
    again = finetune(model, TRAIN, VALIDATION, config, show=False)
    assert again.step == 8


def test_patience_counts_evaluations_since_the_best():
    def stalls(*values):
        return has_stalled([{"mcc": value} for value in values], "mcc", 2)

    assert not stalls()
    assert not stalls(0.1, 0.0)
    assert stalls(0.1, 0.0, 0.1)
    assert not stalls(0.1, 0.0, 0.2, float("nan"))
    assert stalls(float("nan"), float("nan"), float("nan"))
    assert not has_stalled([{"mcc": 0.0}] * 9, "mcc", None)


def test_an_adapter_on_disk_predicts_as_the_run_did(model, tuned):
    _, result = tuned
    loaded = load_pretrained(result.adapter, base=model, compute=COMPUTE)
    found = predict_array(loaded, TEST.sequences)
    np.testing.assert_array_equal(found, predict_array(result.model, TEST.sequences))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert (result.adapter / "adapter.safetensors").stat().st_size < 4_000
    assert score_model(loaded, TEST)["auroc"] > 0.7
    run_folder = load_pretrained(result.adapter.parent, base=model)
    assert_same_params(run_folder.params, loaded.params)


def test_validation_metrics_are_those_of_the_loaded_model(model, tuned):
    """In another batch and padded otherwise; metrics are of probabilities that round alike."""
    _, result = tuned
    found = score_model(result.model, VALIDATION)
    assert found == pytest.approx(result.metrics, abs=1e-6)


def test_both_strands_give_one_prediction(tuned):
    _, result = tuned
    turned = [text.translate(str.maketrans("ACGT", "TGCA"))[::-1] for text in TEST.sequences]
    one, other = (predict_array(result.model, texts) for texts in (TEST.sequences, turned))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_an_adapter_on_another_base_is_refused(model, tuned, tmp_path):
    _, result = tuned
    with pytest.raises(InputError, match=r"adapter: base = '.*was trained on random numbers \("):
        load_pretrained(result.adapter, base=make_model(seed=1))
    with pytest.raises(InputError, match="is for adapters, and this is none"):
        load_pretrained(base=model)
    adapter = load_adapter(result.adapter)
    save_adapter(tmp_path, dataclasses.replace(adapter, method="lora"))
    with pytest.raises(
        InputError, match=r"adapter.safetensors: 2\d tensors wrong; missing: .*lora"
    ):
        load_pretrained(tmp_path, base=model)
    (tmp_path / "adapter.json").write_text(json.dumps({"format_version": 9}))
    with pytest.raises(
        InputError, match=r"adapter.json: format_version = 9: this package reads 1 to 2"
    ):
        load_pretrained(tmp_path, base=model)


def test_an_adapter_is_no_base_of_itself(tuned, tmp_path):
    adapter = load_adapter(tuned[1].adapter)
    bases = {"itself": "itself", "model/adapter": "model", "one": "other", "other": "one"}
    for name, base in bases.items():
        save_adapter(tmp_path / name, dataclasses.replace(adapter, base=str(tmp_path / base)))
    for name in (*bases, "model"):
        with pytest.raises(InputError, match=rf"base = '{tmp_path}/.*': is this adapter, [^\n]*$"):
            load_pretrained(tmp_path / name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("classes", 3), ("kind", "poetry"), ("max_tokens", True), ("lora_sites", ["hidden"])],
)
def test_a_damaged_record_is_one_line(field, value, tuned, tmp_path):
    record = json.loads((tuned[1].adapter / "adapter.json").read_text())
    (tmp_path / "adapter.json").write_text(json.dumps(record | {field: value}))
    with pytest.raises(InputError, match=rf"adapter.json: {field} = .*: is damaged"):
        load_adapter(tmp_path)
    (tmp_path / "adapter.json").write_text(json.dumps({"format_version": 2}))
    with pytest.raises(InputError, match=r"adapter.json: damaged: must have base, base_digest, "):
        load_adapter(tmp_path)


@pytest.mark.parametrize(
    ("mean", "deviation", "dtype"),
    # Beyond the range of float16, closer than bfloat16 tells apart, and neither.
    [(3e6, 2e6, "float16"), (2e-5, 1e-6, "bfloat16"), (0.0, 1.0, "bfloat16")],
)
def test_a_head_stays_exact_where_the_encoder_computes_in_16_bits(mean, deviation, dtype, model):
    """So it was trained and validated; its numbers are as large as the targets are."""
    compute = dataclasses.replace(COMPUTE, compute_dtype=dtype)
    network = TaskNetwork(config=MODEL, compute=compute, num_outputs=1)
    head = {
        name: {key: leaf * deviation for key, leaf in leaves.items()}
        for name, leaves in network.init(jax.random.key(1)).items()
    }
    (name,) = head
    head[name]["b"] += mean
    trained = TrainedHead(
        params=head,
        kind="regression",
        classes=("y",),
        pooling="mean",
        layers=(),
        strand="one",
        max_tokens=64,
    )
    rounded = dataclasses.replace(model, compute=compute, head=trained)
    found = predict_array(rounded, TEST.sequences)
    tokens = jnp.asarray(model.tokenizer.encode_batch(TEST.sequences))
    expected = network.apply(network.take_base(model.params) | head, tokens)
    # The same products, in batches that are padded otherwise.
    np.testing.assert_allclose((found - mean) / deviation, (expected - mean) / deviation, atol=2e-2)
    assert np.isfinite(found).all()
    arranged = name_params(arrange_for_inference(model.params | head, compute))
    np.testing.assert_array_equal(arranged[name]["w"], head[name]["w"])


def test_an_adapter_notes_the_precision_that_was_used(model, tmp_path):
    """That of the model, whatever the config says."""
    compute = dataclasses.replace(COMPUTE, compute_dtype="bfloat16")
    rounded = dataclasses.replace(model, compute=compute)
    job = make_job(rounded, TRAIN, VALIDATION, make_config(tmp_path))
    assert make_adapter(job, {}, {}).config["compute"]["compute_dtype"] == "bfloat16"


def test_a_checkpoint_of_fine_tuning_is_no_model(tuned):
    config, _ = tuned
    checkpoint = find_checkpoint(config.output)
    with pytest.raises(InputError, match=r"/\d+: a checkpoint of fine-tuning: the adapter of its"):
        load_pretrained(checkpoint)


def test_a_run_without_an_adapter_yet_is_one_line(tuned, tmp_path):
    config, _ = tuned
    shutil.copytree(config.output, tmp_path / "run")
    (tmp_path / "run" / "adapter" / "adapter.json").unlink()
    with pytest.raises(
        InputError, match=r"a checkpoint of fine-tuning: .* the command that began it"
    ):
        load_pretrained(tmp_path / "run")


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_kinds_of_labels_are_learned(kind, model, tmp_path):
    """The content of G and C is nearly linear in an average of embeddings; targets are near 110."""
    train, validation = make_task(36, kind), make_task(12, kind, seed=1)
    config = make_config(
        tmp_path, kind=kind, method="head", learning_rate=0.1, total_steps=40, patience=None
    )
    result = finetune(model, train, validation, config, show=False)
    losses = [line["loss"] for line in read_metrics(config.output) if line["kind"] == "train"]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    predictions = predict_array(result.model, TEST.sequences)
    if kind == "regression":
        assert result.metrics["pearson"] > 0.6
        assert 105 < predictions.mean() < 115
    else:
        assert predictions.shape == (16, 2)
        assert result.metrics["auroc"] > 0.6


def test_a_random_twin_has_the_same_method_and_other_weights(model, tmp_path):
    config = make_config(tmp_path, random_init=True, total_steps=4, seed=1)  # the model's is 0
    result = finetune(model, TRAIN, VALIDATION, config, show=False)
    twin = randomise(model, config.seed)
    found, same, other = (
        each.params["esm_transformer/~/embed"]["embeddings"] for each in (result.model, twin, model)
    )
    np.testing.assert_array_equal(found, same)
    assert (found != other).mean() > 0.9
    loaded = load_pretrained(result.adapter, base=model)
    assert_same_params(loaded.params, result.model.params)


@pytest.mark.devices(3)
def test_the_number_of_devices_does_not_matter(model, tuned, tmp_path):
    """Eight sequences on three devices, one of nine rows blank; sums in another order."""
    config = make_config(tmp_path, num_devices=3, sequences_per_device=2)
    found = finetune(model, TRAIN, VALIDATION, config, show=False)
    one, other = (load_adapter(each.adapter).params for each in (found, tuned[1]))
    for name, leaves in one.items():
        for leaf, value in leaves.items():
            np.testing.assert_allclose(value, other[name][leaf], atol=2e-5, err_msg=name)


def test_lengths_are_few_and_batches_are_whole(model):
    """Every sequence once an epoch, whatever its length; an update is a function of its number."""
    lengths = (9, 30, 31, 60, 90, 120)
    tasks = [make_task(7, length=length, seed=length) for length in lengths]
    data = dataclasses.replace(
        tasks[0],
        names=[
            f"{length}-{name}"
            for length, task in zip(lengths, tasks, strict=True)
            for name in task.names
        ],
        sequences=[text for task in tasks for text in task.sequences],
        labels=np.concatenate([task.labels for task in tasks]),
    )
    job = make_job(model, data, VALIDATION, make_config(Path("unused"), strand="one"))
    batches = run.make_input(job)
    epoch = [batches.load(n) for n in range(6)]
    assert sum(int(batch.weights.sum()) for batch in epoch) == 42
    texts = [
        model.tokenizer.decode(row) for batch in epoch for row in batch.tokens[batch.weights > 0]
    ]
    assert sorted(texts) == sorted(data.sequences)
    assert {batch.tokens.shape[1] % 8 for batch in epoch} == {0}
    again = run.make_input(job).load(4)
    np.testing.assert_array_equal(again.tokens, epoch[4].tokens)
    later = [batches.load(n).tokens for n in range(6, 12)]
    assert any(
        a.shape != b.tokens.shape or (a != b.tokens).any()
        for a, b in zip(later, epoch, strict=True)
    )
    assert len(np.unique(round_lengths(np.arange(2, 900), None))) <= 8
    assert round_lengths(np.array([3, 62]), 60).tolist() == [8, 60]
