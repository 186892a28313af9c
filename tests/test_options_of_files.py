"""A config file below the options of the command line: judged together, and once."""

from pathlib import Path
from typing import Any

import pytest

from nucleotide_transformer.config import DataConfig, PretrainConfig
from nucleotide_transformer.configfile import load_config
from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.options import parse


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.toml"


def read(kind: Any, file: Path, text: str, words: str = "") -> Any:
    file.write_text(text)
    return parse(kind, ["--config", str(file), *words.split()], "nt it", takes_file=True)


def refuse(kind: Any, file: Path, text: str, words: str = "") -> str:
    with pytest.raises(InputError) as error:
        read(kind, file, text, words)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_what_the_file_lacks_may_be_an_option(file: Path) -> None:
    expected = CorpusConfig(inputs=(Path("g.fa"),), seed=3)
    assert read(CorpusConfig, file, "seed = 3", "--inputs g.fa") == expected
    message = refuse(CorpusConfig, file, "seed = 3")
    assert message == f"nt it: --inputs: must be given, here or in {file}"


def test_an_option_mends_what_the_file_alone_would_break(file: Path) -> None:
    found = read(PretrainConfig, file, "[data]\nsequence_tokens = 300", "--tokens-per-update 3000")
    data = DataConfig(sequence_tokens=300)
    assert found == PretrainConfig(data=data, tokens_per_update=3_000)
    assert read(PretrainConfig, file, "seed = -1", "--seed 3") == PretrainConfig(seed=3)


RULE = "must be a multiple of data.sequence_tokens = 300"


@pytest.mark.parametrize(
    ("kind", "text", "words", "message"),
    [
        # The file alone is wrong, whatever else is given.
        (PretrainConfig, "seed = -1", "", "{file}: seed = -1: must lie in [0, 2**32)"),
        (PretrainConfig, "seed = -1", "--num-devices 1", "{file}: seed = -1: must lie in"),
        (
            PretrainConfig,
            "data.sequence_tokens = 300",
            "--seed 3",
            f"{{file}}: tokens_per_update = 1000000: {RULE}",
        ),
        (
            CorpusConfig,
            "block_length = 9",
            "--inputs g.fa",
            "{file}: block_length = 9: must be at least a record",
        ),
        (CorpusConfig, "inputs = []\nseed = 3", "--seed 4", "{file}: inputs = (): must name"),
        # An option is.
        (PretrainConfig, "seed = 3", "--seed -1", "nt it: --seed = -1: must lie in"),
        (
            PretrainConfig,
            "data.sequence_tokens = 300",
            "--tokens-per-update 2000",
            f"nt it: --tokens-per-update = 2000: {RULE}",
        ),
        # The two don't go together.
        (
            PretrainConfig,
            "tokens_per_update = 2000",
            "--data.sequence-tokens 300",
            f"nt it: tokens_per_update = 2000: {RULE}",
        ),
        # No option mends a field of another type, or one that there isn't.
        (PretrainConfig, "seed = 'x'", "--seed 3", "{file}: seed = 'x': must be an integer"),
        (PretrainConfig, "sed = 3", "--seed 3", "{file}: sed = 3: unknown field; did you mean"),
    ],
)
def test_who_broke_a_rule_is_named(
    kind: Any, file: Path, text: str, words: str, message: str
) -> None:
    assert refuse(kind, file, text, words).startswith(message.format(file=file))


@pytest.mark.parametrize("text", ["chunk_length = 777", "inputs = ['g.fa']\nblock_length = 9"])
def test_a_file_that_needs_options_does_not_keep_their_help(
    file: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        read(CorpusConfig, file, text, "--help")
    assert not stop.value.code
    assert "--block-length" in capsys.readouterr().out


def test_a_byte_order_mark_is_no_part_of_the_file(file: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.toml"
    base.write_bytes(b"\xef\xbb\xbflog_every_steps = 7\n")
    file.write_bytes(b'\xef\xbb\xbfbase = "base.toml"\r\nseed = 3\r\n')
    assert load_config(file) == PretrainConfig(seed=3, log_every_steps=7)
