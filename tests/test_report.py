"""What a run prints and writes at its end, read back."""

import io
import json
import math

import numpy as np
import pytest
from printed_tables import read_table
from rich.console import Console

from nucleotide_transformer.pretraining.report import (
    EVALUATION_FILE,
    print_summary,
    write_results,
)
from nucleotide_transformer.pretraining.scores import MODEL, Evaluation, Scores, make_evaluation
from nucleotide_transformer.training.metrics import MetricWriter


def make_scores(seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    counts = np.array([38, 38, 37, 38, 30])
    return Scores(rng.normal(7.5, 1, 5) * counts, rng.integers(0, 4, 5), counts, 6 * counts - 5)


ROWS = {"frequency": make_scores(1), MODEL: make_scores(2), "markov": make_scores(3)}


@pytest.fixture
def evaluation() -> Evaluation:
    return make_evaluation(ROWS, ["Fungi", "[Red] algae", "Fungi", "", "[Red] algae"])


def print_tables(evaluation: Evaluation, folder) -> tuple[str, str]:
    text = io.StringIO()
    print_summary(Console(file=text, width=200), folder, evaluation)
    first, found, second = text.getvalue().partition("By group")
    return first, found + second


def test_each_number_of_the_final_table_stands_below_its_name(evaluation, tmp_path):
    text, _ = print_tables(evaluation, tmp_path)
    assert "181 masked tokens" in text
    assert "5 sequences" in text
    expected = {}
    for name, scores in ROWS.items():
        row = evaluation.overall.rows[name]
        loss, accuracy = scores.nats.sum() / 181, scores.num_correct.sum() / 181
        assert row.metrics.cross_entropy == pytest.approx(loss)
        ahead = (ROWS[MODEL].nats - scores.nats).sum() / 181
        expected[name] = {
            "cross-entropy (nats)": f"{loss:.4f} ± {row.errors.cross_entropy:.4f}",
            "perplexity": f"{math.exp(loss):,.1f}",
            "accuracy": f"{accuracy:.2%} ± {row.errors.accuracy:.2%}",
            "bits/nucleotide": f"{row.metrics.bits_per_nucleotide:.4f}"
            f" ± {row.errors.bits_per_nucleotide:.4f}",
            "this model minus it (nats)": f"{ahead:+.4f} ± {row.difference.error:.4f}"
            if name != MODEL
            else "",
        }
    assert read_table(text) == expected


def test_groups_have_a_table_of_their_own(evaluation, tmp_path):
    _, text = print_tables(evaluation, tmp_path)
    found = read_table(text)
    assert found.keys() == {"no group", "Fungi", "[Red] algae"}
    for name, places in (("Fungi", [0, 2]), ("[Red] algae", [1, 4]), ("no group", [3])):
        row = found[name]
        assert row["sequences"] == str(len(places))
        for column, scores in ROWS.items():
            loss = scores.nats[places].sum() / scores.num_masked[places].sum()
            assert row[column].startswith(f"{loss:.4f}")
            assert ("±" in row[column]) == (len(places) > 1)
        ahead = (ROWS[MODEL].nats - ROWS["markov"].nats)[places].sum()
        mean = ahead / ROWS[MODEL].num_masked[places].sum()
        assert row["this model minus markov"].startswith(f"{mean:+.4f}")


def test_one_group_has_no_table(tmp_path):
    text, groups = print_tables(make_evaluation(ROWS, ["Fungi"] * 5), tmp_path)
    assert "markov" in text
    assert groups == ""


def test_a_model_without_baselines_is_shown_alone(tmp_path):
    alone = make_evaluation({MODEL: ROWS[MODEL]}, ["Fungi", "Algae"] * 2 + ["Fungi"])
    text, groups = print_tables(alone, tmp_path)
    assert read_table(text).keys() == {MODEL}
    assert set(read_table(groups)["Fungi"]) == {"sequences", MODEL}


def test_the_file_has_the_numbers_of_the_tables(evaluation, drawn_curves, tmp_path):
    MetricWriter(tmp_path, step=0).close()
    write_results(tmp_path, 7, evaluation)
    values = json.loads((tmp_path / EVALUATION_FILE).read_text())
    assert (values["format_version"], values["step"], values["split"]) == (1, 7, "validation")
    assert list(values["groups"]) == list(evaluation.groups)
    for part, comparison in zip(
        (values["all"], *values["groups"].values()),
        (evaluation.overall, *evaluation.groups.values()),
        strict=True,
    ):
        assert part["num_sequences"] == comparison.num_sequences
        assert part["predictors"].keys() == comparison.rows.keys()
        for name, row in comparison.rows.items():
            found = part["predictors"][name]
            assert found["cross_entropy"] == row.metrics.cross_entropy
            if row.errors:
                assert found["standard_errors"] == row.errors._asdict()
            assert found["difference"] == (row.difference and row.difference._asdict())
    assert {path.name for path in tmp_path.iterdir()} >= {EVALUATION_FILE, "curves.png"}
