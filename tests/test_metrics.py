"""What an interval of updates gives, by a clock in the test; the metrics file through stops."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.pretraining.objective import Sequences, measure_fill
from nucleotide_transformer.training import metrics
from nucleotide_transformer.training.metrics import (
    IntervalLog,
    MetricWriter,
    read_metrics,
)
from nucleotide_transformer.training.step import StepMetrics


def make_log(**fields):
    known = {"tokens_per_update": 800, "flops_per_update": 3_000, "peak_flops": 1e12}
    return IntervalLog(**known | {"log_every_steps": 1, "total_steps": 1_000} | fields)


def make_step_metrics(loss, masked):
    means = {"accuracy": np.float32(0.5 * loss)}
    rest = {"gradient_norm": 1.0, "learning_rate": 1e-4}
    numbers = {name: np.float32(value) for name, value in rest.items()}
    return StepMetrics(np.float32(loss), means, np.float32(masked), **numbers, stop=np.int32(0))


def test_lines_beyond_the_step_are_dropped_when_a_run_goes_on(tmp_path):
    writer = MetricWriter(tmp_path, step=0)
    for step in (1, 2, 3):
        writer.write("train", step, {"tokens": step, "loss": 1.0 / step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a line that was cut off
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    writer = MetricWriter(tmp_path, step=2)
    writer.write("train", 3, {"tokens": 3, "loss": 9.0})
    writer.write("train", 2, {"tokens": 2, "loss": 7.0})  # stands there already
    writer.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 9.0),
    ]


def test_padding_is_no_throughput(monkeypatch):
    """Of the two updates that are timed one is half padding, the other three quarters."""
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    log = make_log(log_every_steps=3)
    for step, (seconds, fill) in enumerate([(100.0, 1.0), (103.0, 0.5), (104.0, 0.25)], start=1):
        now[0] = seconds
        line = log.add(step, make_step_metrics(1.0, 10), fill=fill)
    assert line["tokens"] == 2400
    assert line["fill"] == pytest.approx(1.75 / 3)
    assert line["tokens_per_second"] == pytest.approx(0.75 * 800 / 4)
    assert line["mfu"] == pytest.approx(0.75 * 3_000 / 4 / 1e12)


def test_a_batch_says_how_much_of_it_is_padding():
    config = ModelConfig()
    tokens = np.full((4, 10), config.pad_token_id, np.int32)
    tokens[:, :3] = 9
    assert measure_fill(Sequences(tokens, np.arange(4, dtype=np.int32)), config) == 0.3


def test_an_interval_averages_over_masked_tokens_and_counts_time(monkeypatch):
    """The second and third update take 4 s together; the first one, which compiles, is left out."""
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    log = make_log(log_every_steps=3)
    now[0] = 100.0
    assert log.add(1, make_step_metrics(4.0, 30)) is None
    now[0] = 103.0
    assert log.add(2, make_step_metrics(1.0, 10)) is None
    now[0] = 104.0
    line = log.add(3, make_step_metrics(2.0, 20))
    assert line["loss"] == pytest.approx((4 * 30 + 1 * 10 + 2 * 20) / 60)
    assert line["tokens"] == 2400
    assert line["tokens_per_second"] == pytest.approx(2 * 800 / 4)
    assert line["accuracy"] == pytest.approx(line["loss"] / 2)
    assert line["mfu"] == pytest.approx(2 * 3_000 / 4 / 1e12)
    assert line["input_wait_share"] == 0


def test_the_last_update_is_logged_where_no_interval_ends():
    log = make_log(log_every_steps=3, total_steps=5)
    lines = [log.add(step, make_step_metrics(float(step), 10)) for step in range(1, 6)]
    assert [line and line["loss"] for line in lines] == [None, None, 2.0, None, 4.5]
    assert log.end_interval(5) is None


def test_a_run_that_is_stopped_within_an_interval_logs_what_there_is(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    log = make_log(log_every_steps=3)
    for step in range(1, 6):
        now[0] += 2.0
        log.add(step, make_step_metrics(float(step), 10))
    line = log.end_interval(5)
    assert (line["tokens"], line["loss"]) == (5 * 800, 4.5)
    assert line["tokens_per_second"] == pytest.approx(800 / 2)
    now[0] += 2.0
    assert log.add(6, make_step_metrics(6.0, 10))["loss"] == 6.0


def test_time_inside_a_pause_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    log = make_log()
    log.add(1, make_step_metrics(1.0, 10))
    now[0] = 2.0
    with log.wait_for_input(None):
        now[0] = 3.0
    with log.pause():
        now[0] = 100.0
    now[0] = 101.0
    line = log.add(2, make_step_metrics(1.0, 10))
    assert line["tokens_per_second"] == pytest.approx(800 / 4)
    assert line["input_wait_share"] == pytest.approx(1 / 4)


@pytest.mark.parametrize(("ready", "share"), [(True, 1 / 4), (False, 0)])
def test_input_that_comes_while_devices_compute_is_not_waited_for(monkeypatch, ready, share):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    log = make_log()
    log.add(1, make_step_metrics(1.0, 10))
    loss = types.SimpleNamespace(is_ready=lambda: ready and now[0] == 1.0)
    with log.wait_for_input(make_step_metrics(1.0, 10)._replace(loss=loss)):
        now[0] = 1.0  # looked at only now: an update that ends meanwhile leaves the devices idle
    now[0] = 4.0
    assert log.add(2, make_step_metrics(1.0, 10))["input_wait_share"] == pytest.approx(share)


def test_updates_that_weighed_nothing_do_not_divide_by_zero():
    assert make_log().add(1, make_step_metrics(3.0, 0))["loss"] == 3.0


def test_writing_imports_no_torch(tmp_path):
    """tensorboardX would; the user's own import still finds it."""
    (tmp_path / "torch.py").write_text("print('imported')\nTensor = int\n")
    code = (
        "from pathlib import Path\n"
        "from nucleotide_transformer.training.metrics import MetricWriter\n"
        f"MetricWriter(Path({str(tmp_path)!r}), step=0).close()\n"
        "print('written')\n"
        "import torch\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "written\nimported\n"), run.stderr[-2000:]
