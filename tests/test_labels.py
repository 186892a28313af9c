"""Tables of labelled sequences, and what is said of those that can't be used."""

import dataclasses
import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from small_tasks import make_task

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning.labels import read_labelled
from nucleotide_transformer.finetuning.objective import encode_labels, measure_labels

ROWS = "name,sequence,label\na,ACGTRu,1\nb,ggg,0\nc,TTT,10\nd,AAA,2\n"


def write(folder: Path, text: str, name: str = "x.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_classes_are_sorted_by_value_and_sequences_are_plain(tmp_path: Path) -> None:
    data = read_labelled(write(tmp_path, ROWS, "x.csv.gz"))
    assert data.names == ["a", "b", "c", "d"]
    assert data.sequences == ["ACGTNT", "GGG", "TTT", "AAA"]
    assert data.classes == ("0", "1", "2", "10")
    assert data.labels.tolist() == [1, 0, 3, 2]
    part = data.take([2, 0])
    assert (part.names, part.labels.tolist(), part.classes) == (["c", "a"], [3, 1], data.classes)
    assert len(part) == 2


@pytest.mark.parametrize(
    "text",
    [
        "dna\tkind\nAC\tpromoter\nGG\tenhancer\n",
        "contig\tstart\tend\tdna\tkind\tnote\n1\t1\t2\tAC\tpromoter\n1\t\t\tGG\tenhancer\tx\n",
    ],
)
def test_classes_may_be_words_and_columns_may_be_called_anything(tmp_path: Path, text: str) -> None:
    """Of columns that are not read nothing is asked: not even that rows reach the last ones."""
    path = write(tmp_path, text, "x.tsv")
    data = read_labelled(path, sequence_column="dna", label_column="kind")
    assert (data.names, data.classes) == (["0", "1"], ("enhancer", "promoter"))
    assert data.labels.tolist() == [1, 0]


@pytest.mark.parametrize("values", [[1, 0, 1], [1.0, 0.0, 1.0], ["1", "0", "1"]])
def test_parquet_says_the_same_whatever_its_type(tmp_path: Path, values: list[Any]) -> None:
    table = pyarrow.table({"sequence": ["AC", "GG", "TT"], "label": values})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    data = read_labelled(tmp_path / "x.parquet")
    assert (data.classes, data.labels.tolist()) == (("0", "1"), [1, 0, 1])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["1_1", "11", "1_2"], ("11", "1_1", "1_2")),
        (["1E2", "100", "2D1"], ("100", "1E2", "2D1")),
        (["inf", "1.0", "+2"], ("1", "2", "inf")),
    ],
)
def test_names_that_only_look_like_numbers_are_names(
    tmp_path: Path, labels: list[str], classes: tuple[str, ...]
) -> None:
    rows = "".join(f"AC,{label}\n" for label in labels)
    data = read_labelled(write(tmp_path, f"sequence,label\n{rows}"))
    assert sorted(data.classes) == sorted(classes)
    assert len(set(data.labels.tolist())) == 3


def test_a_mark_at_the_start_of_a_file_is_no_letter(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffname,sequence,label\nfirst,AC,0\nsecond,GG,1\n")
    assert read_labelled(path).names == ["first", "second"]
    zipped = tmp_path / "y.csv.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert read_labelled(zipped).names == ["first", "second"]


def test_several_classes_a_row_in_one_column_or_in_several(tmp_path: Path) -> None:
    one = write(tmp_path, "sequence,label\nAC,x;y\nGG,\nTT,y\n", "one.csv")
    more = write(tmp_path, "sequence,x,y\nAC,1,1\nGG,0,0\nTT,0,1\n", "more.csv")
    first = read_labelled(one, kind="multilabel")
    second = read_labelled(more, kind="multilabel", label_column=("x", "y"))
    for data in (first, second):
        assert data.classes == ("x", "y")
        assert data.labels.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_targets_of_a_regression(tmp_path: Path) -> None:
    path = write(tmp_path, "sequence,a,b\nAC,1,-2e-1\nGG,0.5,3\n")
    data = read_labelled(path, kind="regression", label_column=("a", "b"))
    assert (data.classes, data.labels.dtype) == (("a", "b"), np.float32)
    np.testing.assert_allclose(data.labels, [[1, -0.2], [0.5, 3]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_targets_of_any_size_are_standardised_and_restored(scale: float) -> None:
    """Of the second column, which never varies, the deviation is no rounding error."""
    values = np.stack([np.arange(7) * scale, np.full(7, 0.1)], axis=1).astype(np.float32)
    data = dataclasses.replace(make_task(7, "regression"), labels=values, classes=("a", "b"))
    standard = measure_labels(data)
    found = encode_labels(data, standard)
    np.testing.assert_allclose(found[:, 0], np.arange(-3, 4) / 2, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-6)
    np.testing.assert_allclose(standard.restore(found), values, rtol=1e-6, atol=1e-6 * scale)


def test_a_test_set_has_the_classes_of_its_training_set(tmp_path: Path) -> None:
    path = write(tmp_path, "sequence,label\nAC,1\n")
    assert read_labelled(path, classes=("2", "1")).labels.tolist() == [1]
    flags = write(tmp_path, "sequence,x,y\nAC,1,0\n", "flags.csv")
    data = read_labelled(flags, kind="multilabel", label_column=("y", "x"), classes=("x", "y"))
    assert data.labels.tolist() == [[1, 0]]


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no file": ("", {}, "no such file"),
    "no column": ("sequence,kind\nAC,1\n", {}, "no column 'label'; has sequence, kind"),
    "no sequences": ("dna,label\nAC,1\n", {}, "no column 'sequence' with the sequences"),
    "no label": ("sequence,label\nAC,1\nGG,\n", {}, "row 2: label: no label"),
    "a short row": ("sequence,label\nAC,1\nGG\n", {}, "line 3: 1 values: must have 2"),
    "pandas' nan": ("sequence,label\nAC,nan\n", {}, "row 1: label: no label"),
    "nan among sets": (
        "sequence,label\nAC,x;y\nGG,nan\n",
        {"kind": "multilabel"},
        "row 2: label: no label",
    ),
    "digits in groups": (
        "sequence,label\nAC,1_000\n",
        {"kind": "regression"},
        "row 1: label = '1_000': must be a number",
    ),
    "a fraction": ("sequence,label\nAC,0.5\n", {}, "row 1: label = '0.5': must be a class"),
    "one class": ("sequence,label\nAC,1\nGG,1\n", {}, "classes = '1': there must be two"),
    "a new label": (
        "sequence,label\nAC,1\nGG,7\n",
        {"classes": ("0", "1")},
        "row 2: label = '7': the training set has no such label: its classes are 0, 1",
    ),
    "a word for a number": (
        "sequence,label\nAC,1\nGG,high\n",
        {"kind": "regression"},
        "row 2: label = 'high': must be a number",
    ),
    "an infinite number": (
        "sequence,label\nAC,inf\n",
        {"kind": "regression"},
        "row 1: label = 'inf': must be a number, and finite",
    ),
    "a number beyond float32": (
        "sequence,label\nAC,1\nGG,-1e39\n",
        {"kind": "regression"},
        r"row 2: label = '-1e39': must be a number, and finite in float32",
    ),
    "one number": (
        "sequence,label\nAC,2\nGG,2\n",
        {"kind": "regression"},
        "column = 'label': every row has 2",
    ),
    "other targets": (
        "sequence,label\nAC,2\n",
        {"kind": "regression", "classes": ("a",)},
        r"targets = \('label',\): the training set has \('a',\)",
    ),
    "a flag of 2": (
        "sequence,x,y\nAC,0,2\n",
        {"kind": "multilabel", "label_column": ("x", "y")},
        "row 1: y = '2': must be 0 or 1",
    ),
    "no separator": (
        "sequence,label\nAC,x;y\n",
        {"kind": "multilabel", "separator": ""},
        "separator = '': must not be empty",
    ),
    "a class that all rows have": (
        "sequence,label\nAC,x\nGG,x;y\n",
        {"kind": "multilabel"},
        "class = 'x': must have rows with it and rows without it",
    ),
    "two columns": (
        "sequence,x,y\nAC,0,2\n",
        {"label_column": ("x", "y")},
        r"label_column = \('x', 'y'\): must be one column",
    ),
    "no nucleotide": ("sequence,label\nA!,1\n", {}, "row 1: sequence '0': position 2: '!'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, case: str) -> None:
    text, options, message = BAD[case]
    path = write(tmp_path, text) if text else tmp_path / "absent.csv"
    with pytest.raises(InputError, match=message) as error:
        read_labelled(path, **options)
    assert "\n" not in str(error.value)


def test_a_fasta_file_has_no_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape("must be a table .csv, .tsv, .parquet")):
        read_labelled(write(tmp_path, ">a\nACGT\n", "x.fa"))
