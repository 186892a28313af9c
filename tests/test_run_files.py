"""What a run writes again is there as it was, should the writing fail in the middle."""

import errno
import re
import struct
from pathlib import Path

import pytest
from full_disks import full_disk
from matplotlib.figure import Figure
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter, masked_crc32c
from test_checkpoints import save

from nucleotide_transformer.errors import UnwritableOutputError
from nucleotide_transformer.training.checkpoints import Checkpointer
from nucleotide_transformer.training.curves import plot_curves
from nucleotide_transformer.training.metrics import MetricWriter, read_metrics
from nucleotide_transformer.weights.runs import find_checkpoint

PANELS = (("loss", None, "loss"),) * 4


@pytest.fixture
def half_written(monkeypatch):
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


def test_curves_stay_when_the_disk_is_full(run, half_written):
    before, tried = (run / "curves.png").read_bytes(), half_written()
    with pytest.raises(OSError, match="No space left"):
        plot_curves(run, PANELS, labels={"train": "training"}, references={})
    assert len(tried) == 1
    assert (run / "curves.png").read_bytes() == before
    assert before.startswith(b"\x89PNG")


def test_the_best_stays_known_when_a_later_score_can_not_be_written(tmp_path, half_written):
    checkpointer = Checkpointer(tmp_path, keep=2)
    save(checkpointer, 1, 8.0)
    save(checkpointer, 2)
    tried = half_written()
    with pytest.raises(OSError, match="No space left"):
        checkpointer.add_metrics(2, {"score": 7.0})
    assert len(tried) == 1
    checkpointer.close()
    assert find_checkpoint(tmp_path).name == "1"


@pytest.mark.parametrize("size", [0, 200, 5_000])  # which fail in the save, and in the background
def test_a_checkpoint_that_can_not_be_written_is_left_out(size, tmp_path, capsys):
    checkpointer = Checkpointer(tmp_path, keep=9)
    save(checkpointer, 1, 8.0)
    with full_disk(size):
        save(checkpointer, 2)
    assert not checkpointer.has(2)
    expected = f"{tmp_path}/checkpoints/{{}}: can't be written: .*File too large"
    assert re.fullmatch(f"note: {expected.format(2)}\n", capsys.readouterr().err)
    save(checkpointer, 3)
    checkpointer.close()
    assert find_checkpoint(tmp_path, "best").name == "1"
    checkpointer = Checkpointer(tmp_path, keep=9)
    assert checkpointer.latest_step == 3
    with full_disk(size):
        save(checkpointer, 4)
        with pytest.raises(UnwritableOutputError, match=expected.format(4)):
            checkpointer.close()
    assert find_checkpoint(tmp_path, "last").name == "3"


def read_events(run):
    """What TensorBoard finds in a run's only file of events, checksums held against the records."""
    (file,) = (run / "tensorboard").glob("*tfevents*")
    data, events = file.read_bytes(), []
    while data:
        size, check = struct.unpack("<QI", data[:12])
        assert check == masked_crc32c(data[:8])
        record, end, data = data[12 : 12 + size], data[12 + size : 16 + size], data[16 + size :]
        assert struct.unpack("<I", end) == (masked_crc32c(record),)
        events.append(Event.FromString(record))
    return events


def test_tensorboard_finds_what_is_finite_and_from_where_on_it_is_new(tmp_path):
    writer = MetricWriter(tmp_path, step=4)
    writer.write("train", 5, {"tokens": 512, "loss": 0.5, "mfu": float("nan")})
    head, start, event = read_events(tmp_path)  # before it is closed
    writer.close()
    assert head.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, SessionLog.START)
    values = {value.tag: value.simple_value for value in event.summary.value}
    assert (event.step, values) == (5, {"train/tokens": 512, "train/loss": 0.5})


@pytest.mark.parametrize("failing", ["at first", "later"])
def test_a_run_goes_on_where_tensorboard_can_not_be_written(failing, tmp_path, monkeypatch, capsys):
    if failing == "at first":
        (tmp_path / "tensorboard").touch()
    writer = MetricWriter(tmp_path, step=0)

    def refuse(_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(RecordWriter, "flush", refuse)
    for step in range(1, 30):
        writer.write("train", step, {"tokens": step, "loss": 0.5})
    writer.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, 30))
    (told,) = capsys.readouterr().err.splitlines()
    assert "tensorboard: " in told
    assert told.endswith(": nothing more is written for TensorBoard")
