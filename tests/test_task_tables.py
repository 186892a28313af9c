"""Tables of tasks: rows over seeds, what is not shown, and all forms of the table."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.finetuning.confidence import bootstrap, make_class_score, spread
from nucleotide_transformer.finetuning.metrics import METRICS, score_predictions
from nucleotide_transformer.finetuning.task_rows import (
    Row,
    make_rows,
    read_published,
    select_rows,
)
from nucleotide_transformer.finetuning.task_tables import write_tables

ROOT = Path(__file__).parent.parent
HEAD = {"model": "small", "command": "nt tasks run --tasks x"}


def make_record(task: str, method: str, weights: str, mcc: float | None, **changes: Any) -> Any:
    kind = changes.get("kind", "classification")
    scores = dict.fromkeys(METRICS[kind], mcc)
    interval = (None, None) if mcc is None else (mcc - 0.1, mcc + 0.1)
    return {
        "task": task,
        "method": method,
        "weights": weights,
        "seed": 0,
        "kind": kind,
        "num_train": 1_000,
        "num_test": 100,
        "leaks": {"identical": 1, "reverse_complement": 2, "near": 3, "train": 6},
        "drop_leaks": False,
        "scores": scores,
        "intervals": {name: list(interval) for name in scores},
        "resamples": 500,
        "details": {"layer": 1},
    } | changes


RECORDS = [
    make_record("a", "kmers4", "none", 0.5),
    make_record("a", "kmers6", "none", 0.4),
    make_record("a", "probe", "pretrained", 0.6),
    make_record("a", "probe", "random", 0.3),
    make_record("b", "kmers6", "none", 0.7),
    make_record("b", "probe", "pretrained", 0.6),
    make_record("b", "probe", "random", 0.65),
]


def test_a_table_says_whose_intervals_are_over_rows_and_whose_over_seeds(tmp_path: Path) -> None:
    seeds = [
        make_record("a", "ia3", weights, mcc, seed=seed)
        for weights, mcc in (("pretrained", 0.6), ("random", 0.3))
        for seed in (0, 1)
    ]
    rows = "95 % of 500 resamples of the test rows"
    for records, wanted in (
        (RECORDS, [f"- In parentheses: {rows}."]),
        (
            [*RECORDS[:2], *seeds],
            [
                f"- In parentheses of kmers4, kmers6: {rows}.",
                "- In parentheses of ia3: two standard deviations over 2 seeds.",
            ],
        ),
    ):
        write_tables(tmp_path, select_rows(make_rows(records))[0], [], HEAD)
        lines = (tmp_path / "table.md").read_text().splitlines()
        assert [line for line in lines if line.startswith("- In parentheses")] == wanted


def test_a_pretrained_row_without_its_random_twin_is_not_shown() -> None:
    lonely = [
        make_record("b", "ia3", "pretrained", 0.9),
        make_record("a", "ia3", "pretrained", 0.9, seed=1),
        make_record("a", "ia3", "random", 0.1, seed=0),
    ]
    shown, notes = select_rows(make_rows([*RECORDS, *lonely]))
    assert len(shown) == len(RECORDS) + 1
    assert [(row.method, row.weights) for row in shown if row.method == "ia3"] == [
        ("ia3", "random")
    ]
    assert notes == [
        "b: ia3: not shown: no result with random weights",
        "a: ia3: not shown: no result with random weights",
    ]


def test_seeds_are_one_row_with_two_deviations() -> None:
    seeds = [make_record("a", "probe", "random", mcc, seed=i) for i, mcc in enumerate((0.2, 0.4))]
    (row,) = make_rows(seeds)
    assert (row.seeds, row.scores["mcc"]) == ((0, 1), pytest.approx(0.3))
    deviation = 0.1 * np.sqrt(2)
    assert row.intervals["mcc"] == pytest.approx(
        (0.3 - 2 * deviation, 0.3 + 2 * deviation), abs=1e-4
    )
    assert row.interval_of == "two standard deviations over 2 seeds"
    (undefined,) = make_rows([seeds[0], make_record("a", "probe", "random", None, seed=1)])
    assert undefined.scores["mcc"] is None
    assert spread([0.5, 0.5]) == (0.5, 0.5)


def test_resamples_cover_the_score_of_the_rows() -> None:
    """The deviation of a share of 0.8 of 400 rows is 0.02."""
    labels = np.arange(400) % 2
    right = np.arange(400) % 10 < 8
    ones = np.where(right == (labels == 1), 0.9, 0.1)
    predictions = np.stack([1 - ones, ones], axis=1)
    low, high = bootstrap("classification", labels, predictions, num_resamples=200)["accuracy"]
    assert low == pytest.approx(0.8 - 1.96 * 0.02, abs=0.015)
    assert high == pytest.approx(0.8 + 1.96 * 0.02, abs=0.015)
    one = bootstrap("classification", labels[::2], predictions[::2], num_resamples=5)
    assert np.isnan(one["auroc"]).all()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_resamples_are_scored_as_scikit_learn_does(num_classes: int) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(num_classes, size=50)
    predictions = random.random((50, num_classes)).round(1)  # with ties
    score = make_class_score(labels, predictions)
    for size in (50, 10, 3, 1):
        for _ in range(5):
            rows = random.integers(50, size=size)
            expected = score_predictions("classification", labels[rows], predictions[rows])
            assert score(rows) == pytest.approx(expected, nan_ok=True, abs=1e-12)


def write(folder: Path, records: Any = RECORDS) -> tuple[str, list[Row]]:
    published = read_published(ROOT / "experiments" / "finetune" / "published_scores.toml")
    rows, _ = select_rows(make_rows(records))
    return write_tables(folder, rows, published, HEAD), rows


def test_all_forms_hold_the_same(tmp_path: Path) -> None:
    text, rows = write(tmp_path / "out")
    assert (tmp_path / "out" / "table.md").read_text() == text
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    table = pyarrow.parquet.read_table(tmp_path / "out" / "table.parquet").to_pylist()
    assert len(content["rows"]) == len(table) == len(rows) == 7
    for row, flat, full in zip(rows, table, content["rows"], strict=True):
        assert flat["mcc"] == full["scores"]["mcc"] == row.scores["mcc"]
        assert (flat["mcc_low"], flat["mcc_high"]) == tuple(full["intervals"]["mcc"])
        assert flat["leaks_near"] == 3
        assert flat["pearson"] is None
    assert (tmp_path / "out" / "table.png").stat().st_size > 10_000
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_the_markdown_has_controls_leaks_and_sources(tmp_path: Path) -> None:
    h3 = make_record("H3", "kmers6", "none", 0.65)
    text, _ = write(tmp_path, [*RECORDS, h3])
    heads = next(line for line in text.splitlines() if line.startswith("| task | train"))
    columns = [cell.strip() for cell in heads.strip("|").split("|")]
    assert columns[:3] == ["task", "train", "test"]
    assert columns[4:8] == ["kmers4", "kmers6", "probe", "probe, random weights"]
    assert columns[8].startswith("NT-v2-500M, fine-tuned on other training sets")
    line = next(line for line in text.splitlines() if line.startswith("| b |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:6] == ["b", "1,000", "100", "1 / 2 / 3", "", "0.700 (0.600 to 0.800)"]
    published = next(line for line in text.splitlines() if line.startswith("| H3 |"))
    assert published.rstrip("| ").endswith("0.790")
    summary = (
        "- probe: ahead of the same with random weights on 1 of 2 tasks and of the better k-mer"
        " counts on 1 of 2 tasks."
    )
    assert summary in text
    assert "95 % of 500 resamples of the test rows" in text
    assert "not checked against the papers" in text


def test_kinds_have_their_own_metrics(tmp_path: Path) -> None:
    regression = make_record("c", "kmers4", "none", 0.5, kind="regression")
    undefined = make_record("d", "kmers4", "none", None, kind="regression")
    text, _ = write(tmp_path, [*RECORDS, regression, undefined])
    assert "## MCC" in text
    assert "## pearson" in text
    assert "not defined" in text
    flat = pyarrow.parquet.read_table(tmp_path / "table.parquet").to_pylist()[-2]
    assert (flat["mcc"], flat["pearson"]) == (None, 0.5)


def test_published_scores_have_a_source(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    with pytest.raises(MissingInputError, match=r"p\.toml: no such file of published scores"):
        read_published(path)
    path.write_text("[a]\nmodel = 'x'\nmetric = 'mcc'\nscores = { H3 = 0.5 }\n")
    with pytest.raises(InputError, match=r"p\.toml: a: 'source': must have model, source, metric"):
        read_published(path)
    path.write_text(f"[a]\nmodel = ''\nsource = ''\nmetric = ''\nscores.H3 = {'1' * 400}\n")
    with pytest.raises(InputError, match=r"p\.toml: a: .* too large .*: must have model, source"):
        read_published(path)
    head, rest = "[a]\nmodel = 'x'\nsource = 'y'\nmetric = ", "\nscores.H3 = nan\n"
    path.write_text(f"{head}'MCC'{rest}")
    with pytest.raises(InputError, match=r"p\.toml: a: metric = 'MCC': must be one of accuracy, a"):
        read_published(path)
    path.write_text(f"{head}'mcc'{rest}")
    with pytest.raises(InputError, match=r"p\.toml: a: scores: H3 = nan: must be a finite number"):
        read_published(path)
    for text in ("[a\n", f"a = {'1' * 5_000}"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"p\.toml: not TOML"):
            read_published(path)
