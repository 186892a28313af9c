"""Cross-validation: how the training set is parted, and what comes of the runs."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from small_tasks import failing_evaluation, make_config, make_model, make_task

from nucleotide_transformer.data.fasta import turn
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning import folds
from nucleotide_transformer.finetuning.folds import (
    FoldScores,
    cross_validate,
    part_folds,
    share_devices,
)
from nucleotide_transformer.finetuning.groups import group_equal, hold_out
from nucleotide_transformer.finetuning.run import FinetuneResult


def repeat(task):
    """A task with each sequence three times, once from the other strand."""
    copies = [*task.sequences, *map(turn, task.sequences), *task.sequences]
    return dataclasses.replace(
        task, names=task.names * 3, sequences=copies, labels=np.concatenate([task.labels] * 3)
    )


@pytest.mark.parametrize("kind", ["classification", "regression", "multilabel"])
def test_every_sequence_is_held_out_once_and_never_apart_from_its_equal(kind):
    data = repeat(make_task(40, kind))
    parts = part_folds(data, 5, seed=0)
    assert sorted(np.concatenate(parts)) == list(range(120))
    groups = group_equal(data.sequences)
    assert all(len(np.intersect1d(groups[part], np.delete(groups, part))) == 0 for part in parts)
    if kind == "classification":
        assert all(np.bincount(data.labels[part]).tolist() == [12, 12] for part in parts)
    assert [part.tolist() for part in part_folds(data, 5, seed=1)] != [p.tolist() for p in parts]


def test_what_is_held_out_has_its_share_of_each_class():
    data = repeat(make_task(40))
    train, held = hold_out(data, 0.2, seed=0)
    assert np.bincount(held.labels).tolist() == [12, 12]
    assert not set(group_equal([*train.sequences, *held.sequences])[: len(train)]) & set(
        group_equal([*train.sequences, *held.sequences])[len(train) :]
    )
    assert hold_out(data, 0.2, seed=0)[1].names == held.names


def test_a_class_of_one_sequence_stays_in_training():
    """Held out, all of it would be: the copies are not parted."""
    task = repeat(make_task(40)).take([*range(40), 0, 40])
    labels = np.append(task.labels[:40], [2, 2])
    labels[[0, 40, 41]] = 2
    data = dataclasses.replace(task, labels=labels, classes=("poor", "rich", "one"))
    for seed in range(5):
        train, held = hold_out(data, 0.1, seed)
        assert np.bincount(train.labels).tolist() == [17, 18, 3]
        assert np.bincount(held.labels).tolist() == [2, 2]
    with pytest.raises(InputError, match="2 sequences: too few different ones to hold some out"):
        hold_out(data.take([0, 40]), 0.1, 0)


def test_more_folds_than_sequences_are_refused():
    said = "small classification: folds = 5: the rarest class has 4 different sequences"
    for task in (make_task(8), repeat(make_task(8))):
        with pytest.raises(InputError, match=said):
            part_folds(task, 5, seed=0)


def test_folds_that_leave_one_class_to_train_on_are_refused():
    task = make_task(4).take([0, 1, 3, 3])
    data = dataclasses.replace(task, labels=np.array([0, 1, 1, 0]))
    with pytest.raises(InputError, match="different sequences = 3: too few to cross-validate with"):
        part_folds(data, 2, seed=0)


def test_what_no_fold_can_do_is_said_before_the_first_begins(tmp_path):
    config, sets = make_config(tmp_path, folds=3), (make_task(12), make_task(4, length=195))
    said = "^small classification: sequence 's0': 195 nt are 66 tokens: the model takes 64"
    with pytest.raises(InputError, match=said):
        cross_validate(make_model(), *sets, config)
    assert not config.output.exists()
    (config.output / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="/run: holds a run of its own, whose results"):
        cross_validate(make_model(), sets[0], None, config)


def test_each_fold_is_a_run_of_its_own(tmp_path, monkeypatch):
    """The mean and two sample deviations of the test metrics; each part validates once."""
    seen, values = [], iter([0.1, 0.2, 0.6])

    def pretend(job, stop, *, show):
        seen.append((job.config.output.name, job.config.folds, set(job.validation.names)))
        assert not set(job.train.names) & set(job.validation.names)
        return FinetuneResult(job.model, job.config.output, 1, 1, {"mcc": 0.5}, 10)

    monkeypatch.setattr(folds, "train_job", pretend)

    def score(*_, batching):
        return {"mcc": next(values) * batching.num_devices}  # of the run: 1

    monkeypatch.setattr(folds, "score_model", score)
    task, config = make_task(12), make_config(tmp_path, folds=3)
    scores = cross_validate(make_model(), task, make_task(4, seed=1), config)
    assert [name for name, _, _ in seen] == ["fold-0", "fold-1", "fold-2"]
    assert set.union(*(names for _, _, names in seen)) == set(task.names)
    expected = {"mean": pytest.approx(0.3), "two_deviations": pytest.approx(2 * 0.2645751)}
    assert scores.summarise() == {
        "validation": {"mcc": {"mean": 0.5, "two_deviations": 0.0}},
        "test": {"mcc": expected},
    }
    assert FoldScores([{"mcc": 1.0}] * 2, []).summarise().keys() == {"validation"}


def test_types_are_checked_before_any_fold(tmp_path):
    config = make_config(tmp_path, folds=3)
    object.__setattr__(config, "learning_rate", np.float32(0.5))
    with pytest.raises(InputError, match=r"^config: learning_rate = np\.float32\(0\.5\): must be"):
        cross_validate(make_model(), make_task(12), None, config)
    assert not config.output.exists()


def test_the_bar_counts_finished_folds_alone(tmp_path, monkeypatch):
    """The second of three was stopped."""
    advanced, models = [], iter([make_model(), None, make_model()])

    @contextlib.contextmanager
    def show_steps(_):
        yield lambda _title, total: lambda: advanced.append(total)

    def pretend(job, stop, *, show):
        return FinetuneResult(next(models), job.config.output, 1, 1, {"mcc": 0.5}, 10)

    monkeypatch.setattr(folds, "train_job", pretend)
    monkeypatch.setattr(folds, "show_steps", show_steps)
    assert cross_validate(make_model(), make_task(12), None, make_config(tmp_path, folds=3)) is None
    assert advanced == [3, 3]


@pytest.mark.devices(8)
def test_devices_are_shared_equally():
    devices = jax.devices()
    assert share_devices(devices, 10) == [[device] for device in devices]
    assert share_devices(devices, 3) == [devices[:2], devices[2:4], devices[4:6]]
    assert share_devices(devices[:1], 5) == [devices[:1]]


def read_adapters(config):
    return [
        (config.output / f"fold-{n}" / "adapter" / "adapter.safetensors").read_bytes()
        for n in range(3)
    ]


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """Three folds on one device: config, scores and adapters."""
    config = make_config(tmp_path_factory.mktemp("one"), folds=3)
    scores = cross_validate(make_model(), make_task(36), make_task(8, seed=1), config, show=False)
    return config, scores, read_adapters(config)


@pytest.mark.devices(3)
def test_folds_side_by_side_are_those_one_by_one(one_by_one, tmp_path, capsys):
    """To the same bit: each is alone on its device, whatever the others do."""
    _, scores, adapters = one_by_one
    config = make_config(tmp_path, folds=3, num_devices=3)
    found = cross_validate(make_model(), make_task(36), make_task(8, seed=1), config)
    assert (found, read_adapters(config)) == (scores, adapters)
    assert len(set(adapters)) == 3
    assert capsys.readouterr().out == ""  # lines of three runs at once would be no use


@pytest.mark.devices(3)
def test_a_fold_that_fails_stops_all_and_each_resumes(one_by_one, tmp_path):
    """The first evaluation fails: the run beside it saves, and the third does not begin."""
    _, scores, adapters = one_by_one
    config = make_config(tmp_path, folds=3, num_devices=2)
    with failing_evaluation(1, OSError("as if")), pytest.raises(OSError, match="as if"):
        cross_validate(make_model(), make_task(36), None, config, show=False)
    assert not (config.output / "fold-2").exists()
    found = cross_validate(make_model(), make_task(36), make_task(8, seed=1), config, show=False)
    assert (found, read_adapters(config)) == (scores, adapters)


def test_folds_and_a_validation_set_exclude_each_other(tmp_path):
    for fields in ({"folds": 1}, {"folds": 3, "validation": tmp_path / "v.csv"}):
        with pytest.raises(InputError, match=r"folds = .: must be 2 or above, and without a valid"):
            make_config(tmp_path, **fields)
