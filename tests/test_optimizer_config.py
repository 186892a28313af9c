"""The optimiser's config: rules for its values, files that set it, and configs of older runs."""

import pytest

from nucleotide_transformer.configfile import config_from_dict, config_to_dict, load_config
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.optimizer_config import GroupConfig, NormsConfig, OptimizerConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta1": 1.0}, r"beta1 = 1.0: must lie in \[0, 1\)"),
        ({"momentum": -0.1}, r"momentum = -0.1: must lie in \[0, 1\)"),
        ({"cooldown_share": 1.0}, r"cooldown_share = 1.0: must lie in \[0, 1\)"),
        ({"warmup_steps": 0}, "warmup_steps = 0: must be above 0"),
        ({"peak_learning_rate": float("inf")}, "peak_learning_rate = inf: must be finite"),
        ({"clip_norm": 0.0}, "clip_norm = 0.0: must be above 0, or none"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0: must be 0 or above"),
        ({"initial_learning_rate": -1.0}, "initial_learning_rate = -1.0: must be 0 or above"),
        ({"final_learning_rate": 1.0}, r"final_learning_rate = 1.0: must lie in \[0, peak_learn"),
        ({"head": GroupConfig(rate=-1.0)}, "head.rate = -1.0: must be 0 or above"),
        ({"norms": NormsConfig(decay=-1.0)}, "norms.decay = -1.0: must be 0 or above"),
    ],
)
def test_values_that_break_a_rule_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        OptimizerConfig(**fields)


def test_configs_of_older_runs_mean_what_they_meant():
    older = {
        "initial_learning_rate": 5e-5,
        "peak_learning_rate": 1e-4,
        "warmup_steps": 16_000,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "clip_norm": None,
        "weight_decay": 0.0,
    }
    assert config_from_dict(OptimizerConfig, older, "there") == OptimizerConfig()


def test_groups_in_a_config_file_keep_the_rest_of_their_defaults(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[optimizer]\nname = 'muon'\n[optimizer.norms]\nrate = 2\n[optimizer.head]\n")
    config = load_config(path).optimizer
    assert config == OptimizerConfig(name="muon", norms=NormsConfig(rate=2.0, decay=0.0))
    assert config_from_dict(OptimizerConfig, config_to_dict(config), "here") == config
