"""Which checkpoint is the best, where scores are equal, or no numbers; what a failure leaves."""

import dataclasses
import itertools
import json
import math
import os
import signal

import pytest
from chosen_scores import make_scores
from small_tasks import make_config, make_task, random_model  # noqa: F401
from test_checkpoints import save, steps

from nucleotide_transformer.errors import OutputExistsError
from nucleotide_transformer.finetuning import job
from nucleotide_transformer.finetuning.evaluation import has_stalled, score_metric
from nucleotide_transformer.pretraining import run as pretraining_run
from nucleotide_transformer.pretraining.evaluation import Evaluator
from nucleotide_transformer.pretraining.run import pretrain
from nucleotide_transformer.training import loop
from nucleotide_transformer.training.checkpoints import Checkpointer
from nucleotide_transformer.training.loop import Run, TrainingDivergedError
from nucleotide_transformer.training.metrics import MetricWriter, read_metrics
from nucleotide_transformer.weights.runs import find_checkpoint


@pytest.fixture
def config(run_config):
    return run_config


@pytest.mark.parametrize(
    ("scores", "best", "kept"),
    [
        ((7.0, math.nan, 8.0), 1, [1, 3]),
        ((math.nan, 7.0, 8.0), 2, [2, 3]),
        ((math.nan, math.nan, math.nan), None, [3]),
        ((7.0, 7.0, 8.0), 2, [2, 3]),
    ],
    ids=["nan later", "nan first", "nan alone", "equal"],
)
def test_the_best_where_scores_are_equal_or_no_numbers(scores, best, kept, tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=1)
    for step, score in enumerate(scores, start=1):
        save(checkpointer, step, score)
    checkpointer.close()
    assert set(kept) <= set(steps(tmp_path))
    assert find_checkpoint(tmp_path).name == str(best or 3)


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ((math.nan, 0.7, 0.5), 1),
        ((-1.0, math.nan), 0),
        ((math.nan, -1.0), 1),
        ((math.nan, math.nan), 0),
        ((0.7, 0.9, 0.9, 0.9), 1),
    ],
)
def test_a_fine_tuning_run_keeps_the_first_of_its_best(values, best, model, tmp_path, monkeypatch):
    """As adapter, and as checkpoint by the lowest score; patience counts from it, too."""
    kept, scores = [], []
    monkeypatch.setattr(job, "make_adapter", lambda *_: len(scores))
    monkeypatch.setattr(job, "save_adapter", lambda _, adapter: kept.append(adapter))
    made = job.make_job(model, make_task(20), make_task(8, seed=1), make_config(tmp_path))
    made.config.output.mkdir()
    for value in values:
        metrics = {"score": score_metric(value), "mcc": value}
        scores.append(job.keep_best(made, lambda _, found=metrics: found)({})["score"])
        with (made.config.output / "metrics.jsonl").open("a") as file:
            step = len(scores)
            line = {"kind": "validation", "step": step, "tokens": 8 * step, "mcc": value}
            file.write(json.dumps(line) + "\n")
    assert kept[-1] == best
    assert [place for place, score in enumerate(scores) if score == min(scores)] == [best]
    history, since = [{"mcc": value} for value in values], len(values) - 1 - best
    assert has_stalled(history, "mcc", max(since, 1)) == (since > 0)
    assert not has_stalled(history, "mcc", since + 1)


def failing(function, number, error):
    """Fails at one of its calls, after it has done what it does."""
    calls = itertools.count(1)

    def call(*arguments, **options):
        found = function(*arguments, **options)
        if next(calls) == number:
            raise error
        return found

    return call


@pytest.mark.parametrize(
    ("owner", "name", "number", "error", "saved"),
    [
        (Evaluator, "score", 1, MemoryError, 3),
        (Evaluator, "score", 1, KeyboardInterrupt, 3),
        (MetricWriter, "write", 1, OSError, 3),
        (loop, "lay_out", 3, MemoryError, 2),
    ],
    ids=["evaluation", "interrupted", "metrics", "batch"],
)
def test_a_failure_loses_no_update(owner, name, number, error, saved, config, monkeypatch):
    """Before any checkpoint is written."""
    config = dataclasses.replace(config, total_tokens=512 * 3)
    monkeypatch.setattr(owner, name, failing(getattr(owner, name), number, error))
    with pytest.raises(error):
        pretrain(config, show=False)
    assert steps(config.output) == [saved]
    checkpoint = find_checkpoint(config.output)
    assert json.loads((checkpoint / "position" / "metadata").read_text()) == {"next_index": saved}
    monkeypatch.undo()
    summary = pretrain(config, show=False)
    assert (summary.step, summary.finished) == (3, True)


def test_an_update_that_fails_takes_the_state_with_it(config, monkeypatch):
    """It was given away to the update: what the update says counts, and not that there is none."""
    make = pretraining_run.make_train_step

    def make_failing(*arguments, **options):
        return failing(make(*arguments, **options), 5, RuntimeError("out of memory"))

    monkeypatch.setattr(pretraining_run, "make_train_step", make_failing)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        pretrain(config, show=False)
    assert steps(config.output) == [3]
    assert [line["step"] for line in read_metrics(config.output)] == [1, 2, 3, 4, 4]


def after_update(monkeypatch, number, act):
    """Does something with the run and its `stop` after an update."""
    update = Run._update

    def update_and_act(self, stop):
        update(self, stop)
        if self.step == number:
            act(self, stop)

    monkeypatch.setattr(Run, "_update", update_and_act)


def test_a_run_that_is_asked_to_stop_saves_before_it_evaluates(config, monkeypatch):
    """A cluster gives it seconds, and update 4 is one at which it evaluates."""
    seen = []

    def score(self, params):
        saves = config.output / "checkpoints"
        seen.append(any(path.name.startswith("4") for path in saves.iterdir()))
        return make_scores(self, 7.0)

    monkeypatch.setattr(Evaluator, "score", score)
    after_update(monkeypatch, 4, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert pretrain(config, show=False).step == 4
    assert seen == [True]
    assert find_checkpoint(config.output).name == "4"


def test_what_a_second_signal_kept_from_being_measured_is_measured_later(config, monkeypatch):
    """The first is update 4, which is due; the second, while it is measured, ends at once."""
    after_update(monkeypatch, 4, lambda _, stop: stop.set())
    monkeypatch.setattr(Evaluator, "score", failing(Evaluator.score, 1, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, show=False)
    monkeypatch.undo()
    pretrain(config, show=False)
    measured = [
        line["step"] for line in read_metrics(config.output) if line["kind"] == "validation"
    ]
    assert measured == [4, 8]


def test_a_second_signal_ends_a_run_at_once(config, monkeypatch):
    """Without waiting for updates under way, and without saving."""

    def end(_, stop):
        for name in ("_record", "_save"):
            monkeypatch.setattr(Run, name, lambda *_, name=name, **__: pytest.fail(name))
        stop.set()
        raise KeyboardInterrupt

    after_update(monkeypatch, 2, end)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, show=False)


def test_a_held_out_score_that_is_no_number_stops_the_run(config, monkeypatch):
    monkeypatch.setattr(Evaluator, "score", lambda self, _: make_scores(self, math.nan))
    with pytest.raises(TrainingDivergedError, match=r"update 4: held-out score nan.*/3$"):
        pretrain(config, show=False)


def test_a_checkpoint_is_no_place_for_a_run(config):
    pretrain(dataclasses.replace(config, total_tokens=512), show=False)
    checkpoint = config.output / "checkpoints" / "1"
    before = sorted(checkpoint.iterdir())
    with pytest.raises(OutputExistsError, match="checkpoints/1: is a checkpoint; the output must"):
        pretrain(dataclasses.replace(config, output=checkpoint), show=False)
    assert sorted(checkpoint.iterdir()) == before
