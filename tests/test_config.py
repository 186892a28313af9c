"""Configs: rules, TOML files and their errors, and the numbers derived from them."""

import dataclasses
from pathlib import Path

import pytest

from nucleotide_transformer.config import (
    ComputeConfig,
    DataConfig,
    EvaluationConfig,
    MaskingConfig,
    ModelConfig,
    PretrainConfig,
)
from nucleotide_transformer.configfile import (
    config_from_dict,
    config_to_dict,
    load_config,
    read_config,
)
from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning.config import LoraConfig


@pytest.mark.parametrize(
    ("vocabulary", "k", "expected"), [("v1", 6, 4105), ("v2", 6, 4107), ("v2", 3, 75)]
)
def test_vocabulary_sizes(vocabulary, k, expected):
    assert ModelConfig(vocabulary=vocabulary, k=k).vocabulary_size == expected


def test_the_published_run_is_the_default():
    config = PretrainConfig()
    assert (config.sequences_per_update, config.total_steps) == (1_000, 300_000)


def test_only_learned_positions_limit_the_length_of_training_sequences():
    data = DataConfig(sequence_tokens=4_000)
    assert PretrainConfig(data=data, tokens_per_update=4_000).sequences_per_update == 1
    learned = ModelConfig(position="learned")
    with pytest.raises(InputError, match=r"sequence_tokens = 4000: the learned positions end at"):
        PretrainConfig(data=data, tokens_per_update=4_000, model=learned)


def replace_unchecked(config, field, value):
    """Another value, which beartype, in the tests alone, would not let in."""
    object.__setattr__(config, field, value)
    config.__post_init__()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(k=2), "k = 2: must lie between 3 and 8"),
        (lambda: ModelConfig(embed_dim=100), "embed_dim = 100: must be a multiple of num_heads"),
        (lambda: ModelConfig(embed_dim=48), "embed_dim / num_heads = 3: the width of a head must"),
        (lambda: MaskingConfig(ratio=0.0), "ratio = 0.0: must lie between 0 and 1"),
        (
            lambda: replace_unchecked(ModelConfig(), "position", "absolute"),
            "position = 'absolute': must be one of rotary, l",
        ),
        (
            lambda: replace_unchecked(ComputeConfig(), "attention", "cuddn"),
            "attention = 'cuddn': must be one of auto, ein",
        ),
        (
            lambda: replace_unchecked(LoraConfig(), "sites", ("query", "quary")),
            "sites = 'quary': must be one of query, key",
        ),
        (
            lambda: MaskingConfig(mask_probability=0.95),
            "mask_probability = 0.95: must be 0 or above, and with random_probability = 0.1 at mo",
        ),
        (lambda: MaskingConfig(random_probability=-0.5), "random_probability = -0.5: must be 0 or"),
        (lambda: DataConfig(temperature=0.5), "temperature = 0.5: must be 1 or above"),
        (lambda: DataConfig(reverse_complement=1.1), "reverse_complement = 1.1: must lie in"),
        (lambda: EvaluationConfig(sequence_tokens=1), "sequence_tokens = 1: must be 2 or above"),
        (lambda: EvaluationConfig(masking_ratio=1.0), "masking_ratio = 1.0: must lie between 0"),
        (
            lambda: PretrainConfig(evaluation=EvaluationConfig(sequence_tokens=3)),
            "evaluation.sequence_tokens = 3: with a masking ratio of 0.15 no token",
        ),
        (
            lambda: PretrainConfig(evaluation=EvaluationConfig(masking_ratio=1e-4)),
            "evaluation.masking_ratio = 0.0001: no token of a held-out sequence of 1000 would",
        ),
        (lambda: DataConfig(reverse_complement=-0.1), "reverse_complement = -0.1: must lie in"),
        (lambda: PretrainConfig(tokens_per_update=1_500), "must be a multiple of data.sequence_"),
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
        ("[model]\nnum_layers = 'x'", "model.num_layers = 'x': must be an integer"),
        ("[model]\nnum_layers = 0", ": model.num_layers = 0: must be above 0"),
        ("[optimizer]\nbeta1 = 1", ": optimizer.beta1 = 1.0: must lie in [0, 1)"),
        ("tokens_per_update = 1500", ": tokens_per_update = 1500: must be a multiple of data.seq"),
        ("output = 3", "output = 3: must be a path"),
        ("seed = true", "seed = True: must be an integer"),
        ("model = 3", "model = 3: must be a table"),
        ("output = ['a']", "output = ['a']: must be a path"),
        ("data.corpus = ['a', 'b']", "data.corpus = ['a', 'b']: must be a path"),
        ("distributed = 1", "distributed = 1: must be true or false"),
        ("total_tokens = 1e25", "total_tokens = 1e+25: must be an integer"),
        ("init_from = 3", "init_from = 3: must be a text"),
        ("output = 2020-01-01", "must be a path"),
        ("seed = ", "not TOML"),
        (f"seed = {'1' * 5_000}", "not TOML that can be read: Exceeds the limit"),
        (f"seed = {'[' * 5_000}", "not TOML that can be read: maximum recursion depth"),
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


def write(path, text):
    path.write_text(text)
    return path


def test_a_config_takes_the_fields_of_its_base_and_overrides_them(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "root.toml", "seed = 5\nlog_every_steps = 7\n[model]\nk = 3\nnum_layers = 4\n")
    write(
        tmp_path / "deep/middle.toml", 'base = "../root.toml"\nseed = 6\n[model]\nnum_layers = 2\n'
    )
    config = load_config(
        write(tmp_path / "run.toml", 'base = "deep/middle.toml"\n[data]\ntemperature = 2\n')
    )
    assert (config.seed, config.log_every_steps, config.data.temperature) == (6, 7, 2.0)
    assert (config.model.k, config.model.num_layers) == (3, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "none.toml"', r"none.toml: no such config file"),
        ('base = "run.toml"', r"run.toml: base = 'run.toml': is a base of itself"),
        ("base = 3", r"run.toml: base = 3: must be the path"),
        ('base = "bad.toml"', r"bad.toml: sed = 3: unknown field; did you mean seed\?"),
    ],
)
def test_a_base_that_is_no_config_is_named(text, message, tmp_path):
    write(tmp_path / "bad.toml", "sed = 3")
    with pytest.raises(InputError, match=message):
        load_config(write(tmp_path / "run.toml", text))


def test_the_config_of_a_corpus_has_lists(tmp_path):
    path = write(
        tmp_path / "corpus.toml",
        'inputs = ["a.fa", "b.tsv"]\nvalidation_contigs = ["chr1"]\nmax_unknown = 1\n',
    )
    assert read_config(CorpusConfig, path) == CorpusConfig(
        inputs=(Path("a.fa"), Path("b.tsv")), validation_contigs=("chr1",), max_unknown=1.0
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "inputs: must be given"),
        ('inputs = "a.fa"', "inputs = 'a.fa': must be a list"),
        ("inputs = [3]", "inputs = 3: must be a path"),
        ("inputs = []", "inputs = (): must name a FASTA file or a table"),
        ('inputs = ["a"]\ntest_contigs = [1]', "test_contigs = 1: must be a text"),
        ('inputs = ["a"]\ntest_contig = []', "test_contig = []: unknown field; did you mean test_"),
        ('inputs = ["a"]\ncompression = "gzip"', "compression = 'gzip': must be one of none, zstd"),
        ('inputs = ["a"]\nblock_length = 9', "block_length = 9: must be at least a record"),
    ],
)
def test_a_bad_config_of_a_corpus_is_one_line(tmp_path, text, message):
    path = write(tmp_path / "corpus.toml", text)
    with pytest.raises(InputError) as error:
        read_config(CorpusConfig, path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)
