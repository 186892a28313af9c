"""Bars of long commands: a title is shown as it is, whatever the name of a file in it."""

import pytest

from nucleotide_transformer.bars import make_bar, show_steps

TITLE = "3 sequences to e[red]x[/nt] :smile: {}.npz"


def test_a_title_is_no_markup(capfd: pytest.CaptureFixture[str]) -> None:
    with make_bar("nt", is_shown=True) as bar:
        bar.add_task(TITLE, total=1)
    assert capfd.readouterr().err.strip().startswith(f"{TITLE}   0 %")
    with show_steps(visible=True) as steps:
        steps(TITLE, 2)()
    out, err = capfd.readouterr()
    assert err.strip().startswith(TITLE)
    assert "1/2" in err
    assert out == ""


def test_a_bar_that_is_not_shown_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with make_bar("nt", is_shown=False) as bar, show_steps(visible=False) as steps:
        bar.add_task(TITLE, total=1)
        steps(TITLE, 2)()
    assert capfd.readouterr() == ("", "")
