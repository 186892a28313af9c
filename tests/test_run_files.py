"""What a run writes again is there as it was, should the writing fail in the middle."""

import errno
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from test_checkpoints import save

from nucleotide_transformer.training.checkpoints import Checkpointer
from nucleotide_transformer.training.curves import plot_curves
from nucleotide_transformer.training.metrics import MetricWriter

PANELS = (("loss", None, "loss"),) * 4


@pytest.fixture
def full_disk(monkeypatch):
    """Writes the first bytes of a file, then fails; returns what was written to."""
    tried = []

    def write(path, text, *arguments, **options):
        tried.append(path)
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    def arm():
        monkeypatch.setattr(Path, "write_text", write)
        monkeypatch.setattr(Figure, "savefig", lambda _, path, **__: write(path, ""))
        return tried

    return arm


@pytest.fixture
def run(tmp_path):
    """A folder with two lines of metrics and curves."""
    writer = MetricWriter(tmp_path, step=0)
    for step in (1, 2):
        writer.write("train", step, {"tokens": step, "loss": 1.0 / step})
    writer.close()
    plot_curves(tmp_path, PANELS, labels={"train": "training"}, references={})
    return tmp_path


def test_curves_stay_when_the_disk_is_full(run, full_disk):
    before, tried = (run / "curves.png").read_bytes(), full_disk()
    with pytest.raises(OSError, match="No space left"):
        plot_curves(run, PANELS, labels={"train": "training"}, references={})
    assert len(tried) == 1
    assert (run / "curves.png").read_bytes() == before
    assert before.startswith(b"\x89PNG")


def test_the_best_stays_known_when_a_later_score_can_not_be_written(tmp_path, full_disk):
    checkpointer = Checkpointer(tmp_path, keep=2)
    save(checkpointer, 1, 8.0)
    save(checkpointer, 2)
    tried = full_disk()
    with pytest.raises(OSError, match="No space left"):
        checkpointer.add_metrics(2, {"score": 7.0})
    assert len(tried) == 1
    checkpointer.close()
    again = Checkpointer(tmp_path, keep=2)
    assert again.best_step == 1
    again.close()
