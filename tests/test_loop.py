"""The run: resume is bitwise the uninterrupted run; what stops it, and what it leaves behind."""

import dataclasses
import json
import os
import shutil
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from nucleotide_transformer.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
)
from nucleotide_transformer.model import make_forward
from nucleotide_transformer.training import loop
from nucleotide_transformer.training.checkpoints import Checkpointer, load_params
from nucleotide_transformer.training.loop import Run, TrainingDivergedError, pretrain
from nucleotide_transformer.training.metrics import read_metrics

TIMING = ("tokens_per_second", "mfu", "input_wait_share")


@pytest.fixture
def config(small_corpus, tmp_path):
    return PretrainConfig(
        output=tmp_path / "run",
        model=ModelConfig(k=3, num_layers=3, embed_dim=16, num_heads=2, ffn_dim=24),
        data=DataConfig(corpus=small_corpus, sequence_tokens=64),
        tokens_per_update=512,
        sequences_per_device=4,
        total_tokens=512 * 8,
        num_devices=1,
        log_every_steps=1,
        optimizer=OptimizerConfig(peak_learning_rate=1e-2, warmup_steps=4),
        evaluation=EvaluationConfig(num_sequences=5, every_steps=4),
        checkpoint=CheckpointConfig(every_steps=3, keep=2),
    )


def read_state(folder):
    """Every array of the newest checkpoint, and the input position."""
    checkpointer = Checkpointer(folder, keep=9)
    step = checkpointer.latest_step
    checkpointer.close()
    arrays = {}
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.restore(folder.absolute() / "checkpoints" / str(step) / "state")
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        arrays[jax.tree_util.keystr(path)] = np.asarray(leaf)
    position = folder / "checkpoints" / str(step) / "position" / "metadata"
    return arrays, json.loads(position.read_text())


def read_values(folder):
    """All metrics but those that depend on the clock."""
    lines = read_metrics(folder)
    return [{name: line[name] for name in line if name not in TIMING} for line in lines]


@pytest.fixture
def stop_after(monkeypatch):
    """Makes a run stop after a number of updates, as if Ctrl-C had been pressed then."""

    def arm(step):
        update = Run._update

        def update_and_stop(self, newest):
            result = update(self, newest)
            if self.step == step:
                os.kill(os.getpid(), signal.SIGINT)
            return result

        monkeypatch.setattr(Run, "_update", update_and_stop)

    return arm


def test_an_interrupted_run_goes_on_bit_for_bit(config, tmp_path, stop_after, monkeypatch):
    whole = dataclasses.replace(config, output=tmp_path / "whole")
    summary = pretrain(whole, show=False)
    assert (summary.step, summary.finished) == (8, True)

    stop_after(5)
    first = pretrain(config, show=False)
    assert (first.step, first.finished) == (5, False)
    monkeypatch.undo()
    second = pretrain(config, show=False)
    assert (second.step, second.finished) == (8, True)

    expected, expected_position = read_state(whole.output)
    found, position = read_state(config.output)
    assert position == expected_position == {"next_index": 8}
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)
    extra = {"kind": "validation", "step": 5}
    lines = [v for v in read_values(config.output) if not extra.items() <= v.items()]
    assert lines == read_values(whole.output)


def test_a_finished_run_is_not_trained_again(config):
    first = pretrain(config, show=False)
    lines = read_values(config.output)
    again = pretrain(config, show=False)
    assert again == first
    assert read_values(config.output) == lines


def test_what_a_run_leaves(config):
    summary = pretrain(config, show=False)
    names = {path.name for path in config.output.iterdir()}
    assert names == {"checkpoints", "metrics.jsonl", "tensorboard", "baselines.json", "curves.png"}
    steps = {int(path.name) for path in (config.output / "checkpoints").iterdir()}
    best = min(
        (line["cross_entropy"], line["step"])
        for line in read_metrics(config.output)
        if line["kind"] == "validation"
    )[1]
    assert steps == {6, 8} | {best}
    assert (config.output / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(summary.baselines) == 2
    trained = [line for line in read_metrics(config.output) if line["kind"] == "train"]
    assert [line["step"] for line in trained] == list(range(1, 9))
    assert trained[-1]["tokens"] == 8 * 512
    assert 0 < trained[-1]["mfu"] < 1


def test_parameters_of_a_run_give_its_model(config):
    pretrain(config, show=False)
    params, model = load_params(config.output)
    assert model == config.model
    tokens = np.full((1, 4), model.first_kmer_id, np.int32)
    logits = make_forward(model).apply(params, jax.numpy.asarray(tokens)).logits
    assert logits.shape == (1, 4, model.vocabulary_size)
    checkpoint = config.output / "checkpoints" / "8"
    assert load_params(checkpoint)[1] == model


def test_a_loss_that_is_not_finite_stops_with_step_and_last_good_checkpoint(config, monkeypatch):
    make_train_step = loop.make_train_step

    def make_broken_step(*args):
        step = make_train_step(*args)

        def broken(state, batch):
            state, metrics = step(state, batch)
            bad = int(state.step) == 5
            return state, metrics._replace(loss=jnp.float32(jnp.nan)) if bad else metrics

        return broken

    monkeypatch.setattr(loop, "make_train_step", make_broken_step)
    with pytest.raises(TrainingDivergedError, match=r"update 5: loss nan.*checkpoints/4$"):
        pretrain(config, show=False)
    assert [line["step"] for line in read_metrics(config.output)] == [1, 2, 3, 4, 4]


def test_another_config_cannot_go_on(config):
    pretrain(dataclasses.replace(config, total_tokens=512), show=False)
    masking = dataclasses.replace(config.masking, ratio=0.2)
    with pytest.raises(ValueError, match=r"masking.ratio = 0.15 there, 0.2 here: a run goes on"):
        pretrain(dataclasses.replace(config, masking=masking), show=False)


def test_another_corpus_cannot_go_on(config, small_corpus, tmp_path):
    pretrain(dataclasses.replace(config, total_tokens=512), show=False)
    other = shutil.copytree(small_corpus, tmp_path / "other")
    data = dataclasses.replace(config.data, corpus=other)
    with pytest.raises(ValueError, match=r"data.corpus = .* there, .*other' here"):
        pretrain(dataclasses.replace(config, data=data), show=False)


def test_a_longer_run_may_go_on_and_on_other_devices(config):
    pretrain(dataclasses.replace(config, total_tokens=512), show=False)
    longer = dataclasses.replace(config, total_tokens=1024, num_devices=2)
    assert pretrain(longer, show=False).step == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_devices": 9}, "num_devices = 9: this process has 8"),
        ({"sequences_per_device": 3}, "must be a multiple of 1 devices x 3"),
    ],
)
def test_bad_input_leaves_nothing_behind(config, fields, message):
    with pytest.raises(ValueError, match=message):
        pretrain(dataclasses.replace(config, **fields), show=False)
    assert not config.output.exists()


def test_a_missing_corpus_leaves_nothing_behind(config, tmp_path):
    data = dataclasses.replace(config.data, corpus=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="none"):
        pretrain(dataclasses.replace(config, data=data), show=False)
    assert not config.output.exists()


def test_a_folder_with_other_files_is_not_written_to(config):
    config.output.mkdir()
    (config.output / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="holds other files"):
        pretrain(config, show=False)
    assert [path.name for path in config.output.iterdir()] == ["thesis.tex"]


def test_signals_are_left_as_they_were():
    before = signal.getsignal(signal.SIGINT)
    with loop.catch_signals(show=True) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(5)
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before
    assert isinstance(stop, threading.Event)


def test_a_run_beyond_its_total_is_finished(config):
    pretrain(config, show=False)
    summary = pretrain(dataclasses.replace(config, total_tokens=512), show=False)
    assert (summary.step, summary.finished) == (8, True)


def test_attention_that_the_platform_lacks_is_refused_before_anything_is_written(config):
    cudnn = dataclasses.replace(config, compute=ComputeConfig(attention="cudnn"))
    with pytest.raises(ValueError, match=r"compute.attention = 'cudnn'.*needs a GPU and 16 bits"):
        pretrain(cudnn, show=False)
    assert not config.output.exists()
