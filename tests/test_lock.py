"""Two processes never train one run."""

import dataclasses

import pytest

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.files import LOCK_FILE
from nucleotide_transformer.pretraining.run import pretrain
from nucleotide_transformer.training.loop import Run
from nucleotide_transformer.training.metrics import read_metrics


def test_a_run_under_way_is_not_started_again(run_config, monkeypatch):
    """As a cluster does that starts a task for each GPU, without `distributed`."""
    update, refused = Run._update, []

    def start_another(self, stop):
        if self.step == 4 and not refused:
            refused.append(self.step)
            with pytest.raises(InputError, match=r"run: another process is training this run; pr"):
                pretrain(run_config, show=False)
        return update(self, stop)

    monkeypatch.setattr(Run, "_update", start_another)
    assert pretrain(run_config, show=False).step == 8
    assert refused == [4]
    steps = [line["step"] for line in read_metrics(run_config.output) if line["kind"] == "train"]
    assert steps == list(range(1, 9))
    assert not (run_config.output / LOCK_FILE).exists()


def test_what_a_killed_or_refused_run_left_holds_nothing_up(run_config):
    short = dataclasses.replace(run_config, total_tokens=512)
    pretrain(short, show=False)
    (short.output / LOCK_FILE).touch()
    with pytest.raises(InputError, match="seed = 0 there, 1 here"):
        pretrain(dataclasses.replace(short, seed=1), show=False)
    assert pretrain(dataclasses.replace(short, total_tokens=1024), show=False).step == 2
