"""Configs: rules, TOML files and their errors, and the numbers derived from them."""

import dataclasses
from pathlib import Path

import pytest

from nucleotide_transformer.config import (
    ComputeConfig,
    DataConfig,
    MaskingConfig,
    ModelConfig,
    PretrainConfig,
)
from nucleotide_transformer.configfile import config_from_dict, config_to_dict, load_config
from nucleotide_transformer.errors import InputError


@pytest.mark.parametrize(
    ("vocabulary", "k", "expected"), [("v1", 6, 4105), ("v2", 6, 4107), ("v2", 3, 75)]
)
def test_vocabulary_sizes(vocabulary, k, expected):
    assert ModelConfig(vocabulary=vocabulary, k=k).vocabulary_size == expected


def test_the_published_run_divides_over_eight_devices():
    config = PretrainConfig()
    assert config.sequences_per_update == 1_000
    assert config.accumulation_steps(8) == 5
    assert config.total_steps == 300_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(k=2), "k = 2: must lie between 3 and 8"),
        (lambda: ModelConfig(embed_dim=100), "embed_dim = 100: must be a multiple of num_heads"),
        (lambda: ModelConfig(embed_dim=48), "embed_dim / num_heads = 3: the width of a head must"),
        (lambda: MaskingConfig(ratio=0.0), "ratio = 0.0: must lie between 0 and 1"),
        (lambda: MaskingConfig(mask_probability=0.95), "add up to at most 1"),
        (lambda: DataConfig(temperature=0.5), "temperature = 0.5: must be 1 or above"),
        (lambda: PretrainConfig(tokens_per_update=1_500), "must be a multiple of data.sequence_"),
        (
            lambda: PretrainConfig(data=DataConfig(sequence_tokens=4_000), tokens_per_update=4_000),
            "must be at most model.max_positions = 2048",
        ),
    ],
)
def test_rules(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", "sed = 1: unknown field; did you mean seed?"),
        ("[optimizer]\nlearning_rat = 1", "optimizer.learning_rat = 1: unknown field"),
        ("[model]\nposition = 'absolute'", "model.position = 'absolute': must be one of rotary"),
        ("[model]\nnum_layers = 'x'", 'wrong value type for field "model.num_layers"'),
        ("[model]\nnum_layers = 0", ": model.num_layers = 0: must be above 0"),
        ("[optimizer]\nbeta1 = 1", ": optimizer.beta1 = 1.0: must lie in [0, 1)"),
        ("tokens_per_update = 1500", ": tokens_per_update = 1500: must be a multiple of data.seq"),
        ("output = 3", 'wrong value type for field "output"'),
        ("seed = true", "seed = True: must be no truth value"),
        ("model = 3", "model = 3: must be a table"),
        ("seed = ", "not TOML"),
    ],
)
def test_a_bad_config_file_is_one_line_with_file_and_field(tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)) as error:
        load_config(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.toml: no such config file"):
        load_config(tmp_path / "none.toml")


def test_a_config_survives_its_dictionary():
    config = dataclasses.replace(
        PretrainConfig(),
        output=Path("elsewhere"),
        num_devices=3,
        compute=ComputeConfig(compute_dtype="bfloat16"),
    )
    assert config_from_dict(PretrainConfig, config_to_dict(config), "here") == config


def test_integers_are_floats_too(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[optimizer]\npeak_learning_rate = 1\nclip_norm = 1.0")
    optimizer = load_config(path).optimizer
    assert (optimizer.peak_learning_rate, optimizer.clip_norm) == (1.0, 1.0)
