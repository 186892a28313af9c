"""FLOPs and peaks against numbers worked out by hand; the metrics file through interruptions."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from nucleotide_transformer.config import DataConfig, ModelConfig, PretrainConfig
from nucleotide_transformer.model import count_parameters
from nucleotide_transformer.training import metrics
from nucleotide_transformer.training.metrics import (
    IntervalLog,
    MetricWriter,
    count_forward_flops,
    count_step_flops,
    find_peak_flops,
    look_up_peak_flops,
    read_metrics,
)
from nucleotide_transformer.training.step import StepMetrics, find_devices

CONFIG = PretrainConfig(
    tokens_per_update=800, sequences_per_device=1, data=DataConfig(sequence_tokens=100)
)


def make_step_metrics(loss, masked):
    values = (loss, 0.5, masked, 1.0, 1e-4)
    return StepMetrics(*(np.float32(value) for value in values))


def test_flops_of_a_tiny_model_by_hand():
    config = ModelConfig(k=3, num_layers=2, embed_dim=4, num_heads=2, ffn_dim=8)
    projections = 2 * (4 * 4 * 4 + 3 * 4 * 8)  # q, k, v, output; three feed-forward matrices
    attention = 2 * 2 * 10 * 4  # scores and their use, against 10 keys of width 4
    head = 2 * (4 * 4 + 4 * 75)
    both = 2 * 10 * (projections + attention)
    assert count_forward_flops(config, num_tokens=10, num_head_tokens=0) == both
    assert count_forward_flops(config, num_tokens=10, num_head_tokens=10) == both + 10 * head
    # With 3 tokens in the head the last block makes keys and values of 10, the rest of 3.
    unused = 7 * (projections - 2 * 2 * 4 * 4 + attention)
    expected = both - unused + 3 * head
    assert count_forward_flops(config, num_tokens=10, num_head_tokens=3) == expected


def test_flops_of_the_published_step_are_about_six_a_parameter():
    config = PretrainConfig()
    matrices = count_parameters(config.model) - 4107 * 512
    per_token = count_step_flops(config) / config.tokens_per_update
    # Six a parameter and attention's 12 L T D on top, less 85 % of the head and of the last block
    # but for its keys and values.
    head, block = 512 * 4107 + 512**2, 2 * 512**2 + 3 * 512 * 2048
    assert per_token == pytest.approx(
        6 * (matrices - 0.85 * (head + block)) + 12 * (22 - 0.85) * 1000 * 512, rel=0.001
    )


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v4", 275e12),
    ],
)
def test_peaks_of_the_data_sheets(kind, peak):
    assert look_up_peak_flops(kind) == peak


def test_an_unknown_device_is_measured():
    assert 1e9 < find_peak_flops(jax.devices()[0]) < 1e14


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
    clock = iter(np.arange(0, 100, 0.5))
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(metrics, "find_total_peak_flops", lambda _: 1e12)
    log = IntervalLog(dataclasses.replace(CONFIG, log_every_steps=3), find_devices(1))
    assert log.add(1, make_step_metrics(4.0, 30)) is None
    assert log.add(2, make_step_metrics(1.0, 10)) is None
    line = log.add(3, make_step_metrics(2.0, 20))
    assert line["loss"] == pytest.approx((4 * 30 + 1 * 10 + 2 * 20) / 60)
    assert line["tokens"] == 2400
    rate = line["tokens_per_second"] / 800  # updates a second
    assert line["mfu"] == pytest.approx(rate * count_step_flops(CONFIG) / 1e12)
    assert line["input_wait_share"] == 0


def test_time_inside_a_pause_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(metrics, "find_total_peak_flops", lambda _: 1e12)
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
    monkeypatch.setattr(metrics, "find_total_peak_flops", lambda _: 1e12)
    log = IntervalLog(dataclasses.replace(CONFIG, log_every_steps=1), find_devices(1))
    log.add(1, make_step_metrics(1.0, 10))
    loss = types.SimpleNamespace(is_ready=lambda: ready and now[0] == 1.0)
    with log.wait_for_input(make_step_metrics(1.0, 10)._replace(loss=loss)):
        now[0] = 1.0  # looked at only now: an update that ends meanwhile leaves the devices idle
    now[0] = 4.0
    assert log.add(2, make_step_metrics(1.0, 10))["input_wait_share"] == pytest.approx(share)
