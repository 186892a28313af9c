"""The run: resume is bitwise the uninterrupted run; what stops it, and what it leaves behind."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from chosen_scores import make_scores

from nucleotide_transformer.config import (
    CheckpointConfig,
    ComputeConfig,
    EvaluationConfig,
    OptimizerConfig,
)
from nucleotide_transformer.data.corpus import build_corpus
from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.data.dataset import UpdateLoader
from nucleotide_transformer.errors import InputError, OutputExistsError
from nucleotide_transformer.model import make_forward
from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.pretraining import run as pretraining_run
from nucleotide_transformer.pretraining.evaluation import Evaluator
from nucleotide_transformer.pretraining.run import pretrain
from nucleotide_transformer.training import loop
from nucleotide_transformer.training.loop import Run, TrainingDivergedError
from nucleotide_transformer.training.metrics import read_metrics
from nucleotide_transformer.weights.runs import find_checkpoint, load_run

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.devices(7)
TIMING = ("tokens_per_second", "mfu", "input_wait_share")


@pytest.fixture
def config(run_config):
    return run_config


@pytest.fixture
def finished(finished_run, tmp_path):
    """The config of a copy of the run that has ended."""
    config, _ = finished_run
    return dataclasses.replace(config, output=shutil.copytree(config.output, tmp_path / "finished"))


def list_steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def read_state(folder):
    """Every file of the newest checkpoint's state as arrays, and the input position."""
    import jax
    import orbax.checkpoint as ocp

    checkpoint = folder.absolute() / "checkpoints" / str(list_steps(folder)[-1])
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.restore(checkpoint / "state")
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return arrays, json.loads((checkpoint / "position" / "metadata").read_text())


def read_values(folder):
    """All metrics but those that depend on the clock."""
    lines = read_metrics(folder)
    return [{name: line[name] for name in line if name not in TIMING} for line in lines]


@pytest.fixture
def stop_after(monkeypatch):
    """Makes a run stop after a number of updates, as if it had got a signal then."""

    def arm(step, kind):
        update = Run._update

        def update_and_stop(self, stop):
            result = update(self, stop)
            if self.step == step:
                os.kill(os.getpid(), kind)
            return result

        monkeypatch.setattr(Run, "_update", update_and_stop)

    return arm


@pytest.fixture
def held_out_losses(monkeypatch):
    """Gives a run chosen held-out losses, evaluation by evaluation."""

    def arm(*losses):
        remaining = list(losses)

        def score(self, params):
            loss = remaining.pop(0)
            return make_scores(self, loss)

        monkeypatch.setattr(Evaluator, "score", score)
        return remaining

    return arm


def fail_to_read(monkeypatch, update):
    load = UpdateLoader.load

    def load_or_fail(self, number, rows):
        if number == update:
            raise OSError("a disk that is gone")
        return load(self, number, rows)

    monkeypatch.setattr(UpdateLoader, "load", load_or_fail)


@pytest.mark.parametrize("cause", ["a signal", "its input"])
def test_an_interrupted_run_resumes_bit_for_bit(
    config, finished_run, stop_after, monkeypatch, cause
):
    whole, summary = finished_run
    assert (summary.step, summary.finished) == (8, True)

    if cause == "a signal":
        stop_after(5, signal.SIGTERM)
        first = pretrain(config, show=False)
        assert (first.step, first.finished, first.held_out) == (5, False, None)
    else:
        fail_to_read(monkeypatch, update=5)
        with pytest.raises(OSError, match="a disk that is gone"):
            pretrain(config, show=False)
    assert list_steps(config.output) == [3, 5]
    monkeypatch.undo()
    second = pretrain(config, show=False)
    assert second == summary

    expected, expected_position = read_state(whole.output)
    found, position = read_state(config.output)
    assert position == expected_position == {"next_index": 8}
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)
    assert read_values(config.output) == read_values(whole.output)


def test_a_finished_run_is_not_trained_again(finished, finished_run):
    lines = read_values(finished.output)
    assert pretrain(finished, show=False) == finished_run[1]
    assert read_values(finished.output) == lines


def test_what_a_run_leaves(finished_run):
    config, summary = finished_run
    names = {path.name for path in config.output.iterdir()}
    assert names == {"checkpoints", "metrics.jsonl", "tensorboard", "curves.png", "evaluation.json"}
    assert (config.output / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert summary.baselines == {}  # this corpus has none
    trained = [line for line in read_metrics(config.output) if line["kind"] == "train"]
    assert [line["step"] for line in trained] == list(range(1, 9))
    assert trained[-1]["tokens"] == 8 * 512
    assert 0 < trained[-1]["mfu"] < 1


def test_the_best_checkpoint_stays_when_the_loss_rises(config, held_out_losses):
    saving = CheckpointConfig(every_steps=2, keep=1)
    config = dataclasses.replace(
        config, checkpoint=saving, evaluation=EvaluationConfig(num_sequences=5, every_steps=2)
    )
    held_out_losses(8.0, 7.0, 7.5, 7.6)
    pretrain(config, show=False)
    assert list_steps(config.output) == [4, 8]
    assert find_checkpoint(config.output).name == "4"
    held_out_losses(9.0)
    longer = dataclasses.replace(config, total_tokens=512 * 9)
    pretrain(longer, show=False)
    assert list_steps(config.output) == [4, 9]
    best = load_pretrained(config.output).params
    expected, _ = load_run(config.output / "checkpoints" / "4")
    for module, leaves in expected.items():
        for name, leaf in leaves.items():
            np.testing.assert_array_equal(leaf, best[module][name])


def test_an_evaluation_saves_nothing_and_a_checkpoint_evaluates_nothing(config):
    rare = CheckpointConfig(every_steps=5, keep=9)
    often = EvaluationConfig(num_sequences=5, every_steps=2)
    pretrain(dataclasses.replace(config, checkpoint=rare, evaluation=often), show=False)
    assert list_steps(config.output) == [5, 8]
    lines = read_metrics(config.output)
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [2, 4, 6, 8]


def test_a_step_saved_before_it_was_evaluated_can_become_the_best(config, stop_after, monkeypatch):
    """The run is stopped at update 5, and then 5 updates are found to be enough."""
    stop_after(5, signal.SIGINT)
    pretrain(config, show=False)
    monkeypatch.undo()
    assert find_checkpoint(config.output).name == "5"  # the latest: none has a score
    shorter = dataclasses.replace(config, total_tokens=512 * 5)
    summary = pretrain(shorter, show=False)
    metrics = json.loads((config.output / "checkpoints/5/metrics/metrics").read_text())
    assert metrics["score"] == summary.held_out.cross_entropy
    assert find_checkpoint(config.output).name == "5"


def test_parameters_of_a_run_give_its_model(finished_run):
    config, _ = finished_run
    params, model = load_run(config.output)
    assert model == config.model
    tokens = np.full((1, 4), model.first_kmer_id, np.int32)
    logits = make_forward(model).apply(params, jnp.asarray(tokens)).logits
    assert logits.shape == (1, 4, model.vocabulary_size)
    assert load_run(config.output / "checkpoints" / "8")[1] == model


@pytest.mark.parametrize("field", ["loss", "gradient_norm"])
def test_a_number_that_is_not_finite_stops_with_step_and_last_good_checkpoint(
    config, monkeypatch, field
):
    make_train_step = pretraining_run.make_train_step

    def make_broken_step(*args, **options):
        step = make_train_step(*args, **options)

        def broken(state, batch, stops):
            state, metrics = step(state, batch, stops)
            bad = int(state.step) == 5
            return state, metrics._replace(**{field: jnp.float32(jnp.nan)}) if bad else metrics

        return broken

    monkeypatch.setattr(pretraining_run, "make_train_step", make_broken_step)
    with pytest.raises(
        TrainingDivergedError,
        match=rf"update 5: .*{field.split('_')[0]}.* nan.*"
        r"checkpoints/3$",
    ):
        pretrain(config, show=False)
    assert [line["step"] for line in read_metrics(config.output)] == [1, 2, 3, 4, 4]


def test_a_model_that_diverges_by_itself_stops(config):
    wild = OptimizerConfig(initial_learning_rate=1e30, peak_learning_rate=1e30)
    with pytest.raises(TrainingDivergedError, match=r"update [23]: .*none was saved"):
        pretrain(dataclasses.replace(config, optimizer=wild), show=False)


def test_another_config_cannot_resume(finished):
    changes = {
        "masking.ratio = 0.15 there, 0.2 here": {
            "masking": dataclasses.replace(finished.masking, ratio=0.2)
        },
        "seed = 0 there, 1 here": {"seed": 1},
        "optimizer.beta2 = 0.999 there, 0.9 here": {
            "optimizer": dataclasses.replace(finished.optimizer, beta2=0.9)
        },
    }
    for message, fields in changes.items():
        with pytest.raises(InputError, match=f"{message}: a run resumes"):
            pretrain(dataclasses.replace(finished, **fields), show=False)


def test_the_same_corpus_may_lie_elsewhere_and_another_not_in_its_place(
    finished, small_corpus, tmp_path
):
    place = shutil.copytree(small_corpus, tmp_path / "corpus")
    here = dataclasses.replace(finished, data=dataclasses.replace(finished.data, corpus=place))
    assert pretrain(dataclasses.replace(here, total_tokens=512 * 9), show=False).step == 9
    shutil.rmtree(place)
    fasta = tmp_path / "other.fa"
    letters = np.random.default_rng(1).choice(list("ACGT"), 60_000)
    fasta.write_text(f">chr1\n{''.join(letters)}\n")
    recipe = {"chunk_length": 200, "overlap": 20, "block_length": 1_000, "workers": 1}
    shares = {"validation_fraction": 0.1, "test_fraction": 0.1}
    build_corpus(CorpusConfig(inputs=(fasta,), output=place, **recipe, **shares))
    with pytest.raises(InputError, match=r"corpus = '\w{64}' there, '\w{64}' here"):
        pretrain(dataclasses.replace(here, total_tokens=512 * 10), show=False)


def test_a_cosine_schedule_fixes_the_length(config):
    cosine = dataclasses.replace(config.optimizer, schedule="cosine")
    config = dataclasses.replace(config, optimizer=cosine)
    pretrain(config, show=False)
    with pytest.raises(InputError, match=r"total_tokens: the learning rate of update \d was"):
        pretrain(dataclasses.replace(config, total_tokens=512 * 20), show=False)


def test_any_number_of_sequences_runs_on_any_number_of_devices(config, finished_run):
    """Eight sequences an update: 1 device has two micro-batches, 7 have two rows with blanks."""
    pretrain(dataclasses.replace(config, num_devices=7), show=False)
    losses = [
        [line.get("loss", line.get("cross_entropy")) for line in read_values(folder)]
        for folder in (config.output, finished_run[0].output)
    ]
    np.testing.assert_allclose(*losses, atol=1e-5)


def test_bad_input_leaves_nothing_behind(config, tmp_path):
    with pytest.raises(InputError, match="num_devices = 99: this process has"):
        pretrain(dataclasses.replace(config, num_devices=99), show=False)
    data = dataclasses.replace(config.data, corpus=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="none"):
        pretrain(dataclasses.replace(config, data=data), show=False)
    cudnn = dataclasses.replace(config, compute=ComputeConfig(attention="cudnn"))
    with pytest.raises(ValueError, match=r"compute.attention = 'cudnn'"):
        pretrain(cudnn, show=False)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        pretrain(dataclasses.replace(config, init_from="./nowhere"), show=False)
    assert not config.output.exists()


def test_a_folder_with_other_files_is_not_written_to(config):
    config.output.mkdir()
    (config.output / "thesis.tex").write_text("")
    with pytest.raises(OutputExistsError, match="holds other files"):
        pretrain(config, show=False)
    assert [path.name for path in config.output.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_to_stop_and_all_are_left_as_they_were(kind):
    """A second one ends the process, but for SIGHUP, which a terminal may send twice."""
    before = signal.signal(kind, signal.default_int_handler)  # `nohup` may have it ignored
    try:
        with loop.catch_signals(show=True) as stop:
            os.kill(os.getpid(), kind)
            assert stop.wait(5)
            then = signal.SIG_IGN if kind == signal.SIGHUP else signal.default_int_handler
            assert signal.getsignal(kind) == then
        assert signal.getsignal(kind) is signal.default_int_handler
    finally:
        signal.signal(kind, before)


def test_a_run_beyond_its_total_is_finished(finished):
    summary = pretrain(dataclasses.replace(finished, total_tokens=512), show=False)
    assert (summary.step, summary.finished) == (8, True)
