"""What a run starts from: given weights, and settings in which it can learn."""

import dataclasses
import shutil

import numpy as np
import pytest

from nucleotide_transformer.config import ComputeConfig, OptimizerConfig, PretrainConfig
from nucleotide_transformer.configfile import config_from_dict, config_to_dict
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.pretraining.run import count_run_flops, pretrain
from nucleotide_transformer.training.metrics import read_metrics
from nucleotide_transformer.weights.assembly import digest_params
from nucleotide_transformer.weights.runs import find_checkpoint, read_record


@pytest.fixture
def config(run_config):
    return run_config


@pytest.fixture
def finished(finished_run):
    """The config of a run that has ended; its last checkpoint is its best."""
    config, _ = finished_run
    first, last = (line["cross_entropy"] for line in read_validation(config.output))
    assert last <= first
    return config


def read_validation(folder):
    return [line for line in read_metrics(folder) if line["kind"] == "validation"]


@pytest.mark.parametrize("source", ["run", "checkpoint", "folder"])
def test_a_run_starts_from_given_weights(finished, tmp_path, source):
    """With another schedule, seed and masks, and a first loss that shows where it starts."""
    given = tmp_path / "given"
    if source == "folder":
        load_pretrained(finished.output).save_pretrained(given)
    else:
        shutil.copytree(finished.output, given)
    further = dataclasses.replace(
        finished,
        output=tmp_path / "further",
        init_from=str(find_checkpoint(given) if source == "checkpoint" else given),
        seed=9,
        optimizer=OptimizerConfig(initial_learning_rate=0.0, peak_learning_rate=1e-30),
        evaluation=dataclasses.replace(finished.evaluation, every_steps=1),
        total_tokens=512 * 2,
    )
    pretrain(further, show=False)
    last, found = read_validation(finished.output)[-1], read_validation(further.output)[0]
    assert found["cross_entropy"] == pytest.approx(last["cross_entropy"], abs=1e-6)
    digest = digest_params(load_pretrained(given).params)
    if source == "run":
        shutil.rmtree(given)  # a run that resumes has its own weights
        assert pretrain(dataclasses.replace(further, total_tokens=512 * 3), show=False).step == 3
    assert read_record(find_checkpoint(further.output, "last"))["started_from"] == digest
    assert "started_from" not in read_record(find_checkpoint(finished.output))


def test_weights_of_another_architecture_are_refused(finished, tmp_path):
    wider = dataclasses.replace(finished.model, ffn_dim=32, max_positions=100)
    further = dataclasses.replace(
        finished, output=tmp_path / "further", init_from=str(finished.output), model=wider
    )
    rule = r"init_from = .*run': model.ffn_dim = 24 there, 32 here: the model must be that of"
    with pytest.raises(InputError, match=rule):
        pretrain(further, show=False)
    assert not further.output.exists()


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"param_dtype": "bfloat16"}, "param_dtype = 'bfloat16': training needs float32"),
        ({"param_dtype": "float16"}, "param_dtype = 'float16': training needs float32"),
        ({"compute_dtype": "float16"}, "compute_dtype = 'float16': float16 would need loss"),
    ],
)
def test_a_precision_that_does_not_train_is_refused(config, compute, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(config, compute=ComputeConfig(**compute))


def test_token_dropout_takes_the_rates_of_the_masking(config):
    model = dataclasses.replace(config.model, token_dropout=True)
    masking = dataclasses.replace(config.masking, ratio=0.3)
    dataclasses.replace(config, model=model)
    with pytest.raises(InputError, match=r"masking.ratio, .* = \(0.3, 0.8\): model.token_dropout"):
        dataclasses.replace(config, model=model, masking=masking)


def test_mfu_is_held_against_the_peak_in_the_precision_of_the_run(config, monkeypatch):
    class OtherPrecisionError(Exception):
        pass

    def find(devices, precision):
        if precision != "float32":
            raise OtherPrecisionError(precision)
        return len(devices) * 1e12

    monkeypatch.setattr("nucleotide_transformer.pretraining.run.find_total_peak_flops", find)
    half = ComputeConfig(compute_dtype="bfloat16")
    with pytest.raises(OtherPrecisionError, match=r"^bfloat16$"):
        pretrain(dataclasses.replace(config, compute=half), show=False)
    pretrain(dataclasses.replace(config, total_tokens=1024), show=False)
    rate, flops = read_metrics(config.output)[1], count_run_flops(config)
    assert rate["mfu"] == pytest.approx(rate["tokens_per_second"] / 512 * flops / 1e12)


@pytest.mark.parametrize(
    ("table", "field", "value", "rule"),
    [
        ("", "total_tokens", 512e0, "integer"),
        ("", "seed", np.int64(3), "integer"),
        ("optimizer", "peak_learning_rate", np.float32(0.5), "number"),
    ],
)
def test_numbers_that_no_checkpoint_holds_are_refused(table, field, value, rule, config):
    """Fields have other types: such a run could be trained, and not resumed."""
    config = dataclasses.replace(config, optimizer=OptimizerConfig())
    object.__setattr__(getattr(config, table) if table else config, field, value)
    place = f"config: {table and table + '.'}{field} = {value!r}: must be an? {rule}"
    with pytest.raises(InputError, match=f"^{place.replace('(', '.').replace(')', '.')}$"):
        pretrain(config, show=False)
    assert not config.output.exists()


def test_a_float_of_numpy_is_a_number(config):
    optimizer = OptimizerConfig()
    object.__setattr__(optimizer, "peak_learning_rate", np.float64(1e-2))
    config = dataclasses.replace(config, optimizer=optimizer)
    assert config_from_dict(PretrainConfig, config_to_dict(config), "config") == config


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_jax_would_cut_is_refused(config, seed):
    with pytest.raises(InputError, match=rf"seed = {seed}: must lie in \[0, 2\*\*32\)"):
        dataclasses.replace(config, seed=seed)


def test_the_largest_seed_trains(config):
    largest = dataclasses.replace(config, seed=2**32 - 1, total_tokens=512)
    assert pretrain(largest, show=False).step == 1


def test_sequences_too_short_for_a_mask_are_refused(config):
    """15 % of three tokens beside <cls> round to none: the loss would be 0 / 0."""
    short = dataclasses.replace(config.data, sequence_tokens=4)
    with pytest.raises(InputError, match=r"sequence_tokens = 4: with masking.ratio = 0.15 no tok"):
        dataclasses.replace(config, data=short)
    dataclasses.replace(config, data=dataclasses.replace(config.data, sequence_tokens=8))
