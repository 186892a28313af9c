"""A head that starts where a linear probe of the network ends."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import make_config, make_task, random_model  # noqa: F401

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning import head_start, run
from nucleotide_transformer.finetuning.estimators import CERTAIN, fit_estimator
from nucleotide_transformer.finetuning.job import make_job
from nucleotide_transformer.finetuning.objective import make_predictions
from nucleotide_transformer.finetuning.predict import predict_array
from nucleotide_transformer.finetuning.run import finetune
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.inference.embedding import embed_array

KINDS = ("classification", "multilabel", "regression")


def make_labels(kind, x):
    """Of rows x [S, 3]: two classes, three labels of which one never varies, or two numbers."""
    signs = x > 0
    return {
        "classification": signs[:, 0].astype(np.int64),
        "multilabel": np.stack([signs[:, 0], signs[:, 1], signs[:, 0] < 2], 1).astype(np.int64),
        "regression": (x[:, :2] * 5 + 100).astype(np.float32),
    }[kind]


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("case", [*KINDS, "three classes", "one label", "one number"])
def test_weights_and_bias_predict_what_the_estimator_does(case, standardise):
    """Features of other scales and centres, which the weights have to undo."""
    x = np.random.default_rng(0).standard_normal((90, 3))
    others = {"three classes": KINDS[0], "one label": KINDS[1], "one number": KINDS[2]}
    kind = others.get(case, case)
    labels = make_labels(kind, x)
    if case == "three classes":
        labels = labels + (x[:, 1] > 0.5)
    elif case in others:
        labels = labels[:, :1]
    num_outputs = len(np.unique(labels)) if kind == "classification" else labels.shape[1]
    data = dataclasses.replace(
        make_task(90, kind), labels=labels, classes=tuple(f"c{i}" for i in range(num_outputs))
    )
    features = (x * [1, 10, 0.1] + [5, -3, 100]).astype(np.float32)
    fitted = fit_estimator(features, data, standardise=standardise)
    weights, bias = fitted.unfold()
    assert weights.shape == (3, num_outputs)
    found = np.asarray(make_predictions(kind, jnp.asarray(features @ weights + bias)))
    expected = fitted.predict(features)
    if case == "multilabel":  # of the label that all have scikit-learn says 1
        np.testing.assert_allclose(found[:, 2], 1 / (1 + np.exp(-CERTAIN)), rtol=1e-6)
        found, expected = found[:, :2], expected[:, :2]
    # scikit-learn scales in float32, and one feature is near 100: 3e-6 was measured.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def scale(rows, layer):
    """Rows as the head reads them: those before the last layer have mean 0 and variance 1."""
    rows = np.nan_to_num(rows)
    centred = rows - rows.mean(axis=1, keepdims=True)
    return rows if layer == 2 else centred / np.sqrt(rows.var(axis=1, keepdims=True) + 1e-5)


@pytest.mark.parametrize(
    ("kind", "pooling", "layers"),
    [
        *((kind, "mean", ()) for kind in KINDS),
        *(("classification", "max", ()), ("regression", "mean", (2, 0))),
    ],
)
def test_a_run_starts_with_the_predictions_of_a_probe(kind, pooling, layers, model, tmp_path):
    """scikit-learn's, on embeddings of the sequences as they are; one has no known letter."""
    train, validation = make_task(36, kind), make_task(12, kind, seed=1)
    train = dataclasses.replace(train, sequences=["N" * 30, *train.sequences[1:]])
    fields = {"kind": kind, "pooling": pooling, "layers": layers}
    config = make_config(tmp_path, **fields, head_start="probe", seed=3, method="lora")
    job = make_job(model, train, validation, config)
    state, _ = run.make_task(job).init_state()
    tokens = np.stack([model.tokenizer.encode(text) for text in validation.sequences])
    outputs = job.network.apply(state.params, jnp.asarray(tokens))
    found = job.standard.restore(np.asarray(make_predictions(kind, outputs)))

    rows, others = (
        np.concatenate(
            [
                scale(embed_array(model, data.sequences, layer=layer, pooling=pooling), layer)
                for layer in layers or (2,)
            ],
            axis=1,
        )
        for data in (train, validation)
    )
    expected = fit_estimator(rows, train, seed=3).predict(others)
    # Targets are near 110, probabilities below 1: 1.4e-7 of the first, 2e-7 were measured.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6)


def test_a_head_starts_from_whole_sequences_on_the_devices_of_the_run(model, tmp_path, monkeypatch):
    """As training reads them: here of 81 tokens, beyond the 64 of the model's own windows."""

    def stop(*_, batching, **__):
        raise KeyboardInterrupt(batching)

    monkeypatch.setattr(head_start, "embed", stop)
    sets = make_task(4, length=240), make_task(4, length=240, seed=1)
    config = make_config(tmp_path, head_start="probe", max_tokens=90)
    with pytest.raises(KeyboardInterrupt) as stopped:
        head_start.fit_head(make_job(model, *sets, config))
    assert stopped.value.args == (BatchConfig(window_tokens=90, num_devices=1),)


def test_a_run_stopped_before_its_first_checkpoint_starts_again(model, tmp_path):
    train, validation = make_task(36), make_task(12, seed=1)
    config = make_config(tmp_path, head_start="probe", total_steps=4)
    expected = predict_array(
        finetune(model, train, validation, config, show=False).model, validation.sequences
    )
    again = dataclasses.replace(config, output=tmp_path / "again")
    (again.output / "checkpoints").mkdir(parents=True)
    found = finetune(model, train, validation, again, show=False)
    np.testing.assert_array_equal(predict_array(found.model, validation.sequences), expected)


def test_what_cannot_be_probed_is_one_line(model, tmp_path):
    for field, value in {"head_start": "probe", "layers": (1,), "pooling": "max"}.items():
        with pytest.raises(InputError, match=f"^{field} = .*: is not for segmentation"):
            make_config(tmp_path, kind="segmentation", **{field: value})
    train = make_task(36).take([0, 2, 4, 6, 1])
    config = make_config(tmp_path, head_start="probe")
    with pytest.raises(
        InputError, match=r"class = 'rich': has 1 different sequences: there must be 2"
    ):
        finetune(model, train, make_task(12, seed=1), config, show=False)
    assert not config.output.exists()
