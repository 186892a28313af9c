"""Options of the command line: read as tyro documents them, and refused in one line."""

import collections
import contextlib
import dataclasses
import functools
import io
import itertools
import re
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import tyro

from nucleotide_transformer.benchmark.config import BenchmarkConfig
from nucleotide_transformer.config import (
    ComputeConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
)
from nucleotide_transformer.configfile import config_from_dict, config_to_dict, load_config
from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.environment import EnvironmentConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.fields import Field, list_fields
from nucleotide_transformer.inference.embedding_files import EmbedConfig
from nucleotide_transformer.inference.likelihoods import FillMaskConfig
from nucleotide_transformer.option_help import read_texts
from nucleotide_transformer.options import list_flags, name_option, parse
from nucleotide_transformer.pretrained import ExportConfig
from nucleotide_transformer.pretraining.evaluate import EvaluateConfig
from nucleotide_transformer.verification import VerifyConfig

REQUIRED = {
    CorpusConfig: "--inputs a.fa b.tsv",
    PretrainConfig: "",
    BenchmarkConfig: "",
    ExportConfig: "--source 100M --folder out",
    EmbedConfig: "--model 100M --input a.fa --output a.npz",
    FillMaskConfig: "--model 100M --sequence ACGTAC<mask>",
    EvaluateConfig: "--corpus here",
    EnvironmentConfig: "",
    VerifyConfig: "",
}
"""Each config that a command reads, with the options that it can't do without."""


def read(kind, words, **others):
    return parse(kind, words.split(), "nt it", **others)


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


def try_values(option: Field) -> list[str]:
    """Ways to write an option, with values that are no default of any config."""
    if option.kind is bool:
        return list(list_flags(option))
    values = {int: "3", float: "0.0625", Path: "some/where.npz", str: "AC<mask>"}
    literal = get_origin(option.kind) is Literal
    items = get_args(option.kind) if literal else (values[option.kind],)
    words = [f"{name_option(option)} {item}" for item in items] + [
        f"{name_option(option)}={items[0]}"
    ]
    words += [words[0].replace("-", "_").replace("__", "--", 1)]
    words += [f"{name_option(option)} None"] if option.may_be_none else []
    words += (
        [f"{name_option(option)} {items[0]} {items[-1]}", name_option(option)]
        if option.is_tuple
        else []
    )
    return words


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_every_option_is_read_as_tyro_reads_it(kind):
    """What is refused alone; what is read in lines of all options, one for each way to write them.

    An option that breaks a rule beside the others has a line of its own.
    """
    lines, alone, num_accepted = collections.defaultdict(lambda: REQUIRED[kind]), [], 0
    for option in list_fields(kind):
        for number, words in enumerate(try_values(option)):
            given, together = f"{REQUIRED[kind]} {words}", f"{lines[number]} {words}"
            is_read = read_or_none(kind, given) is not None
            num_accepted += is_read
            if is_read and read_or_none(kind, together) is not None:
                lines[number] = together
            else:
                alone.append(given)
    for given in (*lines.values(), *alone):
        assert read_or_none(kind, given) == read_with_tyro(kind, given), given
    assert num_accepted >= len(list(list_fields(kind)))


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_help_lists_the_options_that_are_read(kind, capsys):
    with pytest.raises(SystemExit) as stop:
        read(kind, "--help")
    assert not stop.value.code
    listed = set(re.findall(r"(?:^[│ ]+|, )(--\w[\w.-]*)", capsys.readouterr().out, re.MULTILINE))
    expected = {flag for option in list_fields(kind) for flag in list_flags(option)}
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
        ("--seed none", "--seed = 'none': must be an integer"),
        (f"--seed {10**30}", f"--seed = {10**30}: must have fewer than 64 bits"),
        ("--seed 4294967296", "--seed = 4294967296: must lie in [0, 2**32)"),
        ("--optimizer.peak-learning-rate inf", "--optimizer.peak-learning-rate = inf: must be a f"),
        ("--masking.ratio nan", "--masking.ratio = nan: must be a finite number"),
        ("--output=", "--output = '': must not be empty"),
        (
            "--total-tokens 3000000000000000",
            "--total-tokens = 3000000000000000: must be fewer than 2**31 updates",
        ),
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
        (BenchmarkConfig, "--seed -1", "--seed = -1: must lie in [0, 2**32)"),
        (BenchmarkConfig, "--sequence-tokens 8 x", "--sequence-tokens = 'x': must be an integer"),
        (BenchmarkConfig, "--sequence-tokens 8 1", "--sequence-tokens = (8, 1): at least 2 each"),
        (
            BenchmarkConfig,
            "--tasks train eat",
            "--tasks = 'eat': must be one of train, finetune, embed, probe, logits",
        ),
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


def write(path, text):
    path.write_text(text)
    return path


FILE = "--config {file}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--config", "nt it: --config: needs a value"),
        ("--config= --seed 3", "nt it: --config: needs a value"),
        ("--config --seed 3", "nt it: --config: needs a value"),
        ("--config -h", "nt it: --config: needs a value"),
        (f"{FILE} {FILE}", "nt it: --config: must be given once: a file has another below it by"),
        ("--config none.toml", "none.toml: no such config file"),
        (f"{FILE} --seed x", "nt it: --seed = 'x': must be an integer"),
    ],
)
def test_a_config_file_is_named_once(tmp_path, words, message):
    file = write(tmp_path / "run.toml", "seed = 3\n")
    with pytest.raises(InputError) as error:
        read(PretrainConfig, words.format(file=file), takes_file=True)
    assert str(error.value).startswith(message)


def test_options_override_the_file_wherever_it_stands(tmp_path):
    file = write(tmp_path / "run.toml", "seed = 3\nlog_every_steps = 7\n")
    expected = PretrainConfig(seed=4, log_every_steps=7)
    for words in (f"--config {file} --seed 4", f"--seed 4 --config={file}"):
        assert read(PretrainConfig, words, takes_file=True) == expected


def test_help_has_the_config_file_and_its_values(tmp_path, capsys):
    file = write(tmp_path / "run.toml", "log_every_steps = 777\n")
    with pytest.raises(SystemExit):
        read(PretrainConfig, f"--help --config {file}", takes_file=True)
    out = capsys.readouterr().out
    assert "--config FILE" in out
    assert "(default: 777)" in out


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_help_has_each_text_and_a_default(kind, capsys, monkeypatch):
    """Whatever the line breaks of our source are. (default: ) would say nothing."""
    monkeypatch.setenv("COLUMNS", "100")  # one column of frames
    with pytest.raises(SystemExit):
        read(kind, "--help")
    out = capsys.readouterr().out
    assert "(default: )" not in out
    out = re.sub(r"[\s│|]+", " ", out)
    texts = [text for each in list_classes(kind) for text in read_texts(each).values()]
    assert len(texts) >= len(list(list_fields(kind)))
    assert [text for text in texts if text not in out or text != " ".join(text.split())] == []


def test_help_is_wrapped_at_the_width_of_the_terminal_alone(capsys, monkeypatch):
    """No line of a text ends before its next word would not fit any more."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        read(PretrainConfig, "--help")
    lines = re.sub("[│|]", " ", capsys.readouterr().out).splitlines()
    texts = [(a, b) for a, b in itertools.pairwise(lines) if is_text(a) and is_text(b)]
    assert len(texts) > 50
    for line, below in texts:
        assert len(line.rstrip()) + 1 + len(below.split()[0]) > 78, line


def is_text(line):
    return line[:8].isspace() and not line.isspace()


def list_classes(kind):
    hints = [hint for hint in get_type_hints(kind).values() if dataclasses.is_dataclass(hint)]
    return [kind, *(each for hint in hints for each in list_classes(hint))]


@pytest.mark.parametrize(
    ("field", "value", "word", "rule"),
    [
        ("seed", "1.5", "1.5", "must be an integer"),
        ("seed", "'x'", "x", "must be an integer"),
        ("seed", str(2**64), str(2**64), "must have fewer than 64 bits"),
        ("seed", "-1", "-1", "must lie in [0, 2**32)"),
        ("optimizer.clip_norm", "'x'", "x", "must be a number"),
        ("optimizer.clip_norm", "inf", "inf", "must be a finite number"),
        ("optimizer.clip_norm", "0", "0", "must be above 0, or none"),
        ("model.position", "'to'", "to", "must be one of rotary, learned"),
        ("output", "''", "", "must not be empty"),
        ("evaluation.sequence_tokens", "1", "1", "must be 2 or above, or none"),
    ],
)
def test_files_and_options_break_the_same_rules(tmp_path, field, value, word, rule):
    file = write(tmp_path / "run.toml", f"{field} = {value}\n")
    flag = f"--{field.replace('_', '-')}"
    with pytest.raises(InputError) as of_option:
        read(PretrainConfig, f"{flag}={word}")
    with pytest.raises(InputError) as of_file:
        load_config(file)
    shown = str(of_file.value).removeprefix(f"{file}: {field} = ")
    assert shown.endswith(f": {rule}"), shown
    assert str(of_option.value).startswith(f"nt it: {flag} = ")
    assert str(of_option.value).endswith(f": {rule}")


def test_a_tilde_is_the_home_folder_wherever_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "run.toml", 'base = "~/below.toml"\n')
    write(tmp_path / "below.toml", 'output = "~/run"\n')
    words = "--config=~/run.toml --data.corpus=~/corpus"
    config = read(PretrainConfig, words, takes_file=True)
    assert (config.output, config.data.corpus) == (tmp_path / "run", tmp_path / "corpus")
    for text in ("./~no-user/x", "./~root/x", "./~"):
        config = read(PretrainConfig, f"--output {text}")
        assert config.output == Path(text)
        assert config_from_dict(PretrainConfig, config_to_dict(config), "it").output == Path(text)
    with pytest.raises(InputError, match=r"^nt it: --output = '~no-user/x': there is no such home"):
        read(PretrainConfig, "--output ~no-user/x")


def test_files_and_options_empty_a_field_alike(tmp_path):
    file = write(tmp_path / "run.toml", "num_devices = 'none'\ninit_from = 'None'\n")
    default = PretrainConfig(num_devices=3, init_from="100M")
    words = "--num-devices none --init-from None"
    assert read(PretrainConfig, words, default=default) == load_config(file) == PretrainConfig()


STRANGE = ("", "-1", "nan", "1e400", str(10**30), "a\nb", "[red]", "none")


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_no_value_of_any_option_is_more_than_one_line(kind):
    """Read, or refused as bad input; a traceback would be a bug."""
    refused = []
    for option, text in itertools.product(list_fields(kind), STRANGE):
        value = [text] if option.is_tuple else text
        words = [*REQUIRED[kind].split(), *(f"{flag}={text}" for flag in list_flags(option))]
        *outer, name = option.path.split(".")
        fields = functools.reduce(lambda inner, each: {each: inner}, outer[::-1], {name: value})
        for read_it in (
            lambda words=words: parse(kind, words, "nt it"),
            lambda fields=fields: config_from_dict(kind, fields, "a.toml"),
        ):
            try:
                read_it()
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 4
    assert [message for message in refused if "\n" in message] == []
