"""Weights of classes: what they promise, whatever the size of a batch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import COMPUTE, MODEL, make_config, make_model, make_task

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning import run
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.job import digest_labelled, make_job
from nucleotide_transformer.finetuning.methods import Trial
from nucleotide_transformer.finetuning.objective import Examples, make_loss, weigh_classes
from nucleotide_transformer.finetuning.task_records import check_record
from nucleotide_transformer.finetuning.task_sources import Tables
from nucleotide_transformer.finetuning.tasks import TasksConfig, make_fingerprint
from nucleotide_transformer.model.task_network import TaskNetwork
from nucleotide_transformer.training.step import WEIGHT


class Undecided(TaskNetwork):
    """A network that gives every class the logit 0."""

    def apply(self, params, tokens):
        return jnp.zeros((len(tokens), 2)) + params["head"]["bias"]


def take_gradient(weights, labels):
    """The gradient of an update with respect to the logits, as the step takes it."""
    batch = Examples(np.zeros((len(labels), 4), np.int32), labels, weights)
    network = Undecided(config=MODEL, compute=COMPUTE, num_outputs=2)
    loss = make_loss(network, "classification")
    params = {"head": {"bias": jnp.zeros(2)}}
    (total, counts), grads = jax.value_and_grad(loss, has_aux=True)(
        params, batch, jax.random.key(0)
    )
    return total / counts[WEIGHT], counts, np.asarray(grads["head"]["bias"] / counts[WEIGHT])


@pytest.mark.parametrize("size", [1, 4, 20, 100])
def test_a_rare_class_has_half_of_an_epoch_whatever_the_size_of_an_update(size):
    """Then the gradient of one that says nothing is zero: both classes pull alike."""
    task = make_task(100)
    task.labels[:] = np.arange(100) % 20 == 0  # 5 of 100
    weights = weigh_classes(task, balanced=True)
    order = np.random.default_rng(0).permutation(100)
    updates = [
        take_gradient(weights[rows], task.labels[rows].astype(np.int32))
        for rows in order.reshape(-1, size)
    ]
    np.testing.assert_allclose(np.mean([grads for *_, grads in updates], axis=0), 0, atol=1e-6)
    assert np.mean([loss for loss, *_ in updates]) == pytest.approx(np.log(2), rel=1e-5)


def test_rows_that_fill_a_batch_count_nowhere():
    weights = np.array([0.5, 10.0, 0.0, 0.0], np.float32)
    loss, counts, _ = take_gradient(weights, np.array([0, 1, 0, 0], np.int32))
    assert float(loss) == pytest.approx(10.5 / 2 * np.log(2))
    assert {name: float(value) for name, value in counts.items()} == {WEIGHT: 2, "accuracy": 1}


def test_a_run_of_the_loss_of_before_does_not_resume(tmp_path):
    """It was divided by the weights; of a run without class weights nothing has changed."""
    sets = make_task(30), make_task(8, seed=1)
    records = [
        run.make_plan(make_job(make_model(), *sets, make_config(tmp_path, class_weights=w))).record
        for w in ("none", "balanced")
    ]
    assert records[0]["train"] == digest_labelled(sets[0])
    assert records[1] == records[0] | {"train": f"{digest_labelled(sets[0])}, mean of sequences"}


@pytest.mark.parametrize(
    ("method", "weights", "dtype", "version"),
    [
        *(("head", "none", "float32", 1), ("head", "balanced", "float32", 2)),
        *(("head", "none", "bfloat16", 2), ("kmers4", "balanced", "bfloat16", 1)),
        ("probe", "balanced", "bfloat16", 1),
    ],
)
def test_results_of_the_loss_of_before_are_not_mixed(method, weights, dtype, version, tmp_path):
    """Nor those of heads that were rounded to 16 bits; what is as it was keeps its version."""
    fields = {"finetune": FinetuneConfig(class_weights=weights)}
    config = TasksConfig(tasks="none", output=tmp_path, methods=(method,), **fields)
    trial, tables = Trial("a", method, "pretrained", 0), Tables(make_task(4), make_task(2, seed=1))
    prints = make_fingerprint(config, trial, tables, {"compute_dtype": dtype})
    assert prints["version"] == version
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"fingerprint": prints | {"version": 1}}))
    if version == 1:
        assert check_record(path, prints)
    else:
        with pytest.raises(InputError, match="was made with version = 1, not 2: choose another"):
            check_record(path, prints)


def test_a_run_gives_them_to_its_rows(tmp_path):
    task = make_task(30)
    task.labels[:] = np.arange(30) < 6
    config = make_config(tmp_path, class_weights="balanced", sequences_per_update=4)
    job = make_job(make_model(), task, make_task(8, seed=1), config)
    batch = next(run.make_input(job))
    expected = np.where(batch.labels == 1, 30 / (2 * 6), 30 / (2 * 24))
    np.testing.assert_allclose(batch.weights, expected)
