"""The published package in the same environment, whose import name is the same, is noticed."""

import sys
import warnings
from pathlib import Path

import pytest

from nucleotide_transformer import cli
from nucleotide_transformer.namesake import warn_of_namesake


def test_no_word_where_it_is_not_installed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_namesake()


def test_a_warning_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "nucleotide_transformer-0.0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: nucleotide_transformer\nVersion: 0.0.1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for call in (warn_of_namesake, lambda: cli.main(["--help"])):
        with pytest.warns(UserWarning, match=r"^nucleotide_transformer 0\.0\.1 of InstaDeep is"):
            call()
    assert "embed" in capsys.readouterr().out
