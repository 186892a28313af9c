"""What makes a run the same run: every setting but those that leave its updates as they were."""

import dataclasses
import json
from pathlib import Path

import pytest

from nucleotide_transformer.config import DataConfig, OptimizerConfig, PretrainConfig
from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.run import FREE_FIELDS as FREE_IN_FINE_TUNING
from nucleotide_transformer.pretraining.run import FREE_FIELDS
from nucleotide_transformer.training.identity import check_same_rates, check_same_run, flatten
from nucleotide_transformer.training.optimizer import make_schedule

MAY_CHANGE = {
    *("output", "num_devices", "distributed", "sequences_per_device", "total_tokens"),
    *("log_every_steps", "checkpoint.every_steps", "checkpoint.keep", "evaluation.every_steps"),
    *("data.num_threads", "data.num_readers", "data.num_buffered"),
    *("data.corpus", "model.init", "compute.attention", "compute.remat", "compute.stack"),
}
OTHER_VALUES = {
    "init_from": "100M_multi_species_v2",
    "model.vocabulary": "v1",
    "model.k": 4,
    "data.temperature": 2.0,
    "optimizer.final_learning_rate": 1e-6,
    "optimizer.cooldown_share": 0.1,
    "model.ffn_activation": "gelu",
    "model.position": "learned",
    "model.num_heads": 8,
    "model.init": "truncated_normal",
    "model.token_tables": "pairs",
    "evaluation.sequence_tokens": 500,
    "evaluation.masking_ratio": 0.2,
    "compute.compute_dtype": "bfloat16",
    "compute.output_dtype": "bfloat16",
    "compute.attention": "einsum",
    "compute.stack": "loop",
    "compute.remat": "block",
    "optimizer.name": "lion",
    "optimizer.schedule": "cosine",
    "optimizer.clip_norm": 1.0,
    "num_devices": 3,
    "data.corpus": "elsewhere",
    "output": "elsewhere",
}
UNCHANGEABLE = {"compute.param_dtype"}
"""Fields with no other value that a run accepts by itself."""
BEGAN = PretrainConfig(tokens_per_update=8_000_000)


def write(folder, config, record=None):
    for name, values in (("config", config), ("record", record)):
        if values is not None:
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "metadata").write_text(json.dumps(values))
    return folder


def change(config, field, value):
    name, _, rest = field.partition(".")
    inner = getattr(config, name)
    return dataclasses.replace(config, **{name: change(inner, rest, value) if rest else value})


def list_changes():
    for field, value in flatten(config_to_dict(BEGAN)).items():
        if field in UNCHANGEABLE:
            continue
        if field in OTHER_VALUES:
            yield field, OTHER_VALUES[field]
        elif isinstance(value, bool):
            yield field, not value
        else:
            assert isinstance(value, int | float), f"{field}: give it another value in the test"
            other = value / 2 or 0.1 if isinstance(value, float) else 2 * value or 1
            yield field, other


@pytest.mark.parametrize(("field", "value"), list(list_changes()))
def test_a_run_resumes_with_the_settings_that_it_began_with(field, value, tmp_path):
    record = {"format_version": 1, "corpus": "abc"}
    checkpoint = write(tmp_path, config_to_dict(BEGAN), record)
    check_same_run(checkpoint, BEGAN, free=FREE_FIELDS, record={"corpus": "abc"})
    other = change(
        BEGAN,
        field,
        type(DataConfig().corpus)(value) if field in ("output", "data.corpus") else value,
    )
    if field in MAY_CHANGE:
        check_same_run(checkpoint, other, free=FREE_FIELDS, record={"corpus": "abc"})
        return
    with pytest.raises(InputError, match=rf"{field} = .* there, .* here.*: a run resumes with"):
        check_same_run(checkpoint, other, free=FREE_FIELDS, record={"corpus": "abc"})


def test_a_corpus_counts_by_its_digest(tmp_path):
    checkpoint = write(tmp_path, config_to_dict(BEGAN), {"format_version": 1, "corpus": "abc"})
    with pytest.raises(InputError, match="corpus = 'abc' there, 'xyz' here"):
        check_same_run(checkpoint, BEGAN, free=FREE_FIELDS, record={"corpus": "xyz"})


def test_a_field_that_a_run_did_not_know_had_its_default(tmp_path):
    """As a run of version 0 is: without a record, with fields and choices that are gone."""
    saved = config_to_dict(BEGAN) | {"shard_optimizer": True}
    saved["evaluation"]["baseline_nucleotides"] = 10**9
    saved["compute"]["attention"] = "heads"
    del saved["optimizer"]["weight_decay"], saved["init_from"]
    checkpoint = write(tmp_path, saved)
    check_same_run(checkpoint, BEGAN, free=FREE_FIELDS, record={"corpus": "abc"})
    decaying = dataclasses.replace(BEGAN, optimizer=OptimizerConfig(weight_decay=0.1))
    with pytest.raises(InputError, match=r"optimizer.weight_decay = 0.0 there, 0.1 here"):
        check_same_run(checkpoint, decaying, free=FREE_FIELDS, record={"corpus": "abc"})


def test_an_unknown_field_is_not_passed_over(tmp_path):
    checkpoint = write(tmp_path, config_to_dict(BEGAN) | {"dropout": 0.1})
    with pytest.raises(InputError, match="dropout"):
        check_same_run(checkpoint, BEGAN, free=FREE_FIELDS, record={})


def test_another_length_must_leave_the_rates_so_far(tmp_path):
    def rates(total, **fields):
        return make_schedule(OptimizerConfig(warmup_steps=10, **fields), total)

    check_same_rates(tmp_path, 50, rates(100), rates(200))
    cooling = {"cooldown_share": 0.2}
    check_same_rates(tmp_path, 80, rates(100, **cooling), rates(200, **cooling))
    with pytest.raises(InputError, match=r"total_tokens: the learning rate of update"):
        check_same_rates(tmp_path, 95, rates(100, **cooling), rates(200, **cooling))
    with pytest.raises(InputError, match=r"total_tokens: the learning rate of update"):
        check_same_rates(tmp_path, 50, rates(100, schedule="cosine"), rates(200, schedule="cosine"))
    check_same_rates(tmp_path, 1, lambda _: 0.0, lambda _: 0.0)
    with pytest.raises(InputError, match=r"was 1e-06 and would be 1.01e-06 with"):
        check_same_rates(tmp_path, 1, lambda _: 1e-6, lambda _: 1.009e-6)


def test_fine_tuning_goes_by_what_its_files_hold(tmp_path):
    """Their names, labels of a segmentation included, may change; and a test set may come."""
    paths = {"train": Path("a.fa"), "train_labels": Path("a.bed")}
    began = FinetuneConfig(**paths, kind="segmentation")
    checkpoint = write(tmp_path, config_to_dict(began), {"format_version": 1, "train": "abc"})
    moved = {field: Path("/b") / path for field, path in paths.items()}
    tested = {"test": Path("t.fa"), "test_labels": Path("t.bed")}
    other = dataclasses.replace(began, **moved, **tested)
    check_same_run(checkpoint, other, free=FREE_IN_FINE_TUNING, record={"train": "abc"})
    with pytest.raises(InputError, match="train"):
        check_same_run(checkpoint, other, free=FREE_IN_FINE_TUNING, record={"train": "xyz"})
