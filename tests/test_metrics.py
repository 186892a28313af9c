"""What an interval of updates gives, by a clock in the test; the metrics file through stops."""

import dataclasses
import types

import numpy as np
import pytest

from nucleotide_transformer.config import DataConfig, PretrainConfig
from nucleotide_transformer.model.flops import count_update_flops
from nucleotide_transformer.training import metrics
from nucleotide_transformer.training.metrics import (
    IntervalLog,
    MetricWriter,
    read_metrics,
)
from nucleotide_transformer.training.step import StepMetrics, find_devices

CONFIG = PretrainConfig(
    tokens_per_update=800, sequences_per_device=1, data=DataConfig(sequence_tokens=100)
)


def make_step_metrics(loss, masked):
    values = (loss, 0.5, masked, 1.0, 1e-4)
    return StepMetrics(*(np.float32(value) for value in values))


def test_lines_beyond_the_step_are_dropped_when_a_run_goes_on(tmp_path):
    writer = MetricWriter(tmp_path, step=0)
    for step in (1, 2, 3):
        writer.write("train", step, {"loss": 1.0 / step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a line that was cut off
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    writer = MetricWriter(tmp_path, step=2)
    writer.write("train", 3, {"loss": 9.0})
    writer.write("train", 2, {"loss": 7.0})  # stands there already
    writer.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 9.0),
    ]


def test_an_interval_averages_over_masked_tokens_and_counts_time(monkeypatch):
    """The second and third update take 4 s together; the first one, which compiles, is left out."""
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(metrics, "find_total_peak_flops", lambda *_: 1e12)
    log = IntervalLog(dataclasses.replace(CONFIG, log_every_steps=3), find_devices(1))
    now[0] = 100.0
    assert log.add(1, make_step_metrics(4.0, 30)) is None
    now[0] = 103.0
    assert log.add(2, make_step_metrics(1.0, 10)) is None
    now[0] = 104.0
    line = log.add(3, make_step_metrics(2.0, 20))
    assert line["loss"] == pytest.approx((4 * 30 + 1 * 10 + 2 * 20) / 60)
    assert line["tokens"] == 2400
    assert line["tokens_per_second"] == pytest.approx(2 * 800 / 4)
    # 8 sequences of 100 tokens, 15 of them masked; what an update costs is tested in test_flops.
    flops = count_update_flops(CONFIG.model, num_sequences=8, num_tokens=100, num_head_tokens=15)
    assert line["mfu"] == pytest.approx(2 * flops / 4 / 1e12)
    assert line["input_wait_share"] == 0


def test_mfu_is_of_the_peak_in_the_precision_of_the_run(monkeypatch):
    asked = []
    monkeypatch.setattr(metrics, "find_total_peak_flops", lambda *args: asked.append(args) or 1e12)
    devices = find_devices(1)
    for dtype in ("bfloat16", "float32"):
        compute = dataclasses.replace(CONFIG.compute, compute_dtype=dtype)
        IntervalLog(dataclasses.replace(CONFIG, compute=compute), devices)
    assert asked == [(devices, "bfloat16"), (devices, "float32")]


def test_the_last_update_is_logged_where_no_interval_ends(monkeypatch):
    monkeypatch.setattr(metrics, "find_total_peak_flops", lambda *_: 1e12)
    config = dataclasses.replace(CONFIG, log_every_steps=3, total_tokens=5 * 800)
    log = IntervalLog(config, find_devices(1))
    lines = [log.add(step, make_step_metrics(float(step), 10)) for step in range(1, 6)]
    assert [line and line["loss"] for line in lines] == [None, None, 2.0, None, 4.5]


def test_time_inside_a_pause_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(metrics, "find_total_peak_flops", lambda *_: 1e12)
    log = IntervalLog(dataclasses.replace(CONFIG, log_every_steps=1), find_devices(1))
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
    monkeypatch.setattr(metrics, "find_total_peak_flops", lambda *_: 1e12)
    log = IntervalLog(dataclasses.replace(CONFIG, log_every_steps=1), find_devices(1))
    log.add(1, make_step_metrics(1.0, 10))
    loss = types.SimpleNamespace(is_ready=lambda: ready and now[0] == 1.0)
    with log.wait_for_input(make_step_metrics(1.0, 10)._replace(loss=loss)):
        now[0] = 1.0  # looked at only now: an update that ends meanwhile leaves the devices idle
    now[0] = 4.0
    assert log.add(2, make_step_metrics(1.0, 10))["input_wait_share"] == pytest.approx(share)
