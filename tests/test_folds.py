"""Cross-validation: how the training set is parted, and what comes of the runs."""

import dataclasses

import numpy as np
import pytest
from small_tasks import make_config, make_model, make_task

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning import folds
from nucleotide_transformer.finetuning.batches import group_equal, hold_out, turn
from nucleotide_transformer.finetuning.folds import FoldScores, cross_validate, part_folds
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


def test_more_folds_than_sequences_are_refused():
    with pytest.raises(InputError, match="small classification: folds = 5: the rarest class has 4"):
        part_folds(make_task(8), 5, seed=0)


def test_each_fold_is_a_run_of_its_own(tmp_path, monkeypatch):
    """The mean and two sample deviations of the test metrics; each part validates once."""
    seen, values = [], iter([0.1, 0.2, 0.6])

    def pretend(model, train, validation, config, *, show):
        seen.append((config.output.name, config.folds, set(validation.names)))
        assert not set(train.names) & set(validation.names)
        return FinetuneResult(model, config.output, 1, 1, {"mcc": 0.5}, 10)

    monkeypatch.setattr(folds, "finetune", pretend)
    monkeypatch.setattr(folds, "score_model", lambda *_, **__: {"mcc": next(values)})
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


def test_folds_and_a_validation_set_exclude_each_other(tmp_path):
    for fields in ({"folds": 1}, {"folds": 3, "validation": tmp_path / "v.csv"}):
        with pytest.raises(InputError, match=r"folds = .: must be 2 or above, and without a valid"):
            make_config(tmp_path, **fields)
