"""Options of the command line: read as tyro documents them, and refused in one line."""

import contextlib
import io
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import tyro

from nucleotide_transformer.benchmark.config import BenchmarkConfig
from nucleotide_transformer.config import (
    ComputeConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
)
from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.inference.embedding_files import EmbedConfig
from nucleotide_transformer.inference.likelihoods import FillMaskConfig
from nucleotide_transformer.options import Option, list_options, parse
from nucleotide_transformer.pretrained import ExportConfig
from nucleotide_transformer.pretraining.evaluate import EvaluateConfig

REQUIRED = {
    CorpusConfig: "--inputs a.fa b.tsv",
    PretrainConfig: "",
    BenchmarkConfig: "",
    ExportConfig: "--source 100M --folder out",
    EmbedConfig: "--model 100M --input a.fa --output a.npz",
    FillMaskConfig: "--model 100M --sequence ACGTAC<mask>",
    EvaluateConfig: "--corpus here",
}
"""Each config that a command reads, with the options that it can't do without."""


def read(kind, words, **others):
    return parse(kind, words.split(), "nt it [--config FILE]", **others)


def read_with_tyro(kind, words):
    """What tyro makes of the words; None if it refuses them."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(kind, args=words.split())
    except SystemExit:
        return None


def read_or_none(kind, words):
    try:
        return read(kind, words)
    except InputError:
        return None


def try_values(option: Option) -> list[str]:
    """Ways to write an option, with values that are no default of any config."""
    if option.kind is bool:
        return list(option.flags)
    values = {int: "3", float: "0.0625", Path: "some/where.npz", str: "AC<mask>"}
    literal = get_origin(option.kind) is Literal
    items = get_args(option.kind) if literal else (values[option.kind],)
    words = [f"{option.name} {item}" for item in items] + [f"{option.name}={items[0]}"]
    words += [words[0].replace("-", "_").replace("__", "--", 1)]
    words += [f"{option.name} None"] if option.may_be_none else []
    words += [f"{option.name} {items[0]} {items[-1]}", option.name] if option.is_tuple else []
    return words


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_every_option_is_read_as_tyro_reads_it(kind):
    num_accepted = 0
    for option in list_options(kind):
        for words in try_values(option):
            given = f"{REQUIRED[kind]} {words}"
            expected = read_with_tyro(kind, given)
            assert read_or_none(kind, given) == expected, given
            num_accepted += expected is not None
    assert num_accepted >= len(list(list_options(kind)))


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_help_lists_the_options_that_are_read(kind, capsys):
    with pytest.raises(SystemExit) as stop:
        read(kind, "--help")
    assert not stop.value.code
    listed = set(re.findall(r"(?:^[│ ]+|, )(--\w[\w.-]*)", capsys.readouterr().out, re.MULTILINE))
    expected = {flag for option in list_options(kind) for flag in option.flags}
    assert listed - {"--help"} == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sed 3", "--sed: unknown option; did you mean --seed?"),
        ("--num-layers 3", "--num-layers: unknown option; did you mean --model.num-layers?"),
        ("--frobnicate", "--frobnicate: unknown option; --help lists them"),
        ("-s 3", "-s: unknown option; --help lists them"),
        ("3", "'3': belongs to no option"),
        ("--seed 3 4", "'4': belongs to no option"),
        ("--seed", "--seed: needs a value"),
        ("--seed --distributed", "--seed: needs a value"),
        ("--seed x", "--seed = 'x': must be an integer"),
        ("--seed=", "--seed = '': must be an integer"),
        ("--optimizer.beta1 x", "--optimizer.beta1 = 'x': must be a number"),
        (
            "--distributed=yes",
            "--distributed = 'yes': takes no value: write --distributed or --no-",
        ),
        ("--model.position to", "--model.position = 'to': must be one of rotary, learned"),
        ("--model.num-layers 0", "--model.num-layers = 0: must be above 0"),
        ("--model.num_layers=-1", "--model.num_layers = -1: must be above 0"),
        ("--masking.ratio 2", "--masking.ratio = 2.0: must lie between 0 and 1"),
        # The field that breaks the rule was not given; its value is the default's.
        ("--model.num-heads 3", "model.embed_dim = 512: must be a multiple of num_heads = 3"),
        (
            "--data.sequence-tokens 300",
            "tokens_per_update = 1000000: must be a multiple of data.sequence_tokens = 300",
        ),
    ],
)
def test_a_refusal_names_the_option_as_typed_its_value_and_the_rule(words, message):
    with pytest.raises(InputError) as error:
        read(PretrainConfig, words)
    assert str(error.value).startswith(f"nt it: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (EmbedConfig, "--model m", "--input, --output: must be given"),
        (BenchmarkConfig, "--sequence-tokens 8 x", "--sequence-tokens = 'x': must be an integer"),
        (BenchmarkConfig, "--sequence-tokens 8 1", "--sequence-tokens = (8, 1): at least 2 each"),
        (BenchmarkConfig, "--tasks train eat", "--tasks = 'eat': must be one of train, embed, log"),
        (BenchmarkConfig, "--models 100m", "models: '100m' is none: did you mean 100M?"),
        (
            FillMaskConfig,
            "--model m --sequence ACGT",
            "--sequence = 'ACGT': must hold at least one",
        ),
        (FillMaskConfig, "--model m --sequence A<mask>J", "sequence 0, position 7: character 'J'"),
    ],
)
def test_a_refusal_by_another_config(kind, words, message):
    with pytest.raises(InputError) as error:
        read(kind, words)
    assert str(error.value).startswith(f"nt it: {message}")


def test_options_change_the_config_of_a_file_and_nothing_else_in_it():
    default = PretrainConfig(
        seed=3,
        model=ModelConfig(num_layers=5, ffn_bias=True),
        compute=ComputeConfig(compute_dtype="bfloat16"),
    )
    words = "--model.num-layers 7 --optimizer.clip-norm 1 --output here"
    assert read(PretrainConfig, words, default=default) == PretrainConfig(
        output=Path("here"),
        seed=3,
        model=ModelConfig(num_layers=7, ffn_bias=True),
        compute=ComputeConfig(compute_dtype="bfloat16"),
        optimizer=OptimizerConfig(clip_norm=1.0),
    )
    assert read(PretrainConfig, "", default=default) == default


def test_the_last_of_two_options_wins():
    words = "--seed 1 --num-devices 2 --distributed --seed 3 --num-devices none --no-distributed"
    assert read(PretrainConfig, words) == PretrainConfig(seed=3)


def test_a_function_has_options_by_place_and_by_name():
    def describe(folder: tyro.conf.Positional[Path], /, *, depth: int = 1) -> tuple[Path, int]:
        return folder, depth

    assert read(describe, "a=b --depth 3") == (Path("a=b"), 3)
    assert read(describe, "c") == (Path("c"), 1)
    with pytest.raises(InputError, match="nt it: folder: must be given"):
        read(describe, "--depth 3")
