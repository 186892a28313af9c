"""Labelled sequences: tables of sequences with a class, several classes, or numbers each."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from nucleotide_transformer.data.sequences import SequenceRecord, read_table
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.types import Float, Int

Kind = Literal["classification", "multilabel", "regression"]
Labels = Int[np.ndarray, "S"] | Int[np.ndarray, "S C"] | Float[np.ndarray, "S C"]

PLAIN = str.maketrans("URYSWKMBDHV", "TNNNNNNNNNN")
_INTEGER = re.compile(r"[+-]?\d+")
_DECIMAL = re.compile(r"[+-]?\d+\.\d*")
_LARGEST = float(np.finfo(np.float32).max)
"""Of a target."""
_MISSING = ("", "nan", "NaN")
"""What a text file has where there is no label; pandas writes the last two."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledSequences:
    """Sequences with their labels; equal sequences may be there several times."""

    names: list[str]
    sequences: list[str]
    """In upper case: A, C, G, T, and N for every other nucleotide code."""
    labels: Labels
    """Classification: [S], the index in `classes`. Multi-label: [S, C] of 0 and 1. Regression:
    [S, C] in float32."""
    kind: Kind
    classes: tuple[str, ...]
    """Names of the classes, or of the C targets of a regression."""
    source: str
    """Where they come from, for messages."""

    def __len__(self) -> int:
        return len(self.sequences)

    def take(self, indices: Int[np.ndarray, " N"] | Sequence[int]) -> "LabelledSequences":
        """Those at the given places, in that order."""
        places = np.asarray(indices, np.int64)
        return dataclasses.replace(
            self,
            names=[self.names[i] for i in places],
            sequences=[self.sequences[i] for i in places],
            labels=self.labels[places],
        )


def read_labelled(
    path: str | Path,
    *,
    kind: Kind = "classification",
    sequence_column: str = "sequence",
    label_column: str | Sequence[str] = "label",
    name_column: str = "name",
    separator: str = ";",
    classes: Sequence[str] | None = None,
) -> LabelledSequences:
    """Reads a table (.csv, .tsv, also with .gz; .parquet) of sequences and labels.

    - "classification": one column, of text or integers. Classes are sorted: integers by value,
      else by text.
    - "multilabel": one column with any number of classes in each row, between separators; or
      several columns of 0 and 1, whose names are the classes.
    - "regression": a column of numbers for each target.

    Args:
        path: the table.
        kind: what the labels are.
        sequence_column: column with the sequences.
        label_column: column, or columns, with the labels.
        name_column: column with the names; without it, rows are numbered from 0.
        separator: between the classes of a multi-label row.
        classes: those of the training set, for a test set: their order is kept, and another label
            is an error. Without them there must be two classes, or numbers that differ.

    Raises:
        MissingInputError, InputError: in one line: no such file or column; a row without a label,
            with one of another type or of another class; labels that are all the same.
    """
    require(kind in get_args(Kind), "kind", kind, f"must be one of {', '.join(get_args(Kind))}")
    columns = (label_column,) if isinstance(label_column, str) else tuple(label_column)
    rule = "must be one column: several are for multilabel and regression"
    require(bool(columns), "label_column", columns, "must name a column")
    require(bool(separator), "separator", separator, "must not be empty")
    require(kind != "classification" or len(columns) == 1, "label_column", columns, rule)
    rows = read_table(
        Path(path),
        value_columns=columns,
        sequence_column=sequence_column,
        name_column=name_column,
    )
    records: list[SequenceRecord] = []
    read = _choose_reader(kind, columns, separator)

    def read_values() -> Iterator[Any]:
        for index, (record, values) in enumerate(rows):
            records.append(record)
            yield read(f"{path}: row {index + 1}", values)

    named = columns if kind == "regression" or len(columns) > 1 else None
    labels, found = _MAKERS[kind](str(path), list(read_values()), named, classes)
    return LabelledSequences(
        names=[record.name for record in records],
        sequences=[record.sequence.upper().translate(PLAIN) for record in records],
        labels=labels,
        kind=kind,
        classes=found,
        source=str(path),
    )


def _choose_reader(
    kind: Kind, columns: tuple[str, ...], separator: str
) -> Callable[[str, tuple[Any, ...]], Any]:
    """A function (place, values of a row) -> its label: a class, a set of classes or numbers."""

    def read_class(place: str, values: tuple[Any, ...]) -> str:
        return _read_class(f"{place}: {columns[0]}", values[0])

    def read_list(place: str, values: tuple[Any, ...]) -> frozenset[str]:
        text = values[0]
        if not isinstance(text, str):
            raise InputError(f"{place}: {columns[0]} = {text!r}: must be classes, as text")
        if text.strip():  # without any it has none of the classes
            _read_text(f"{place}: {columns[0]}", text)
        return frozenset(part.strip() for part in text.split(separator) if part.strip())

    def read_flags(place: str, values: tuple[Any, ...]) -> frozenset[str]:
        pairs = zip(columns, values, strict=True)
        return frozenset(name for name, value in pairs if _read_flag(f"{place}: {name}", value))

    def read_numbers(place: str, values: tuple[Any, ...]) -> list[float]:
        pairs = zip(columns, values, strict=True)
        return [_read_number(f"{place}: {name}", value) for name, value in pairs]

    if kind == "classification":
        return read_class
    if kind == "regression":
        return read_numbers
    return read_flags if len(columns) > 1 else read_list


def _read_class(place: str, value: Any) -> str:
    """The name of a class; integers that a table keeps as 1.0 are 1. "1_1" and "1E2" are text."""
    text = _read_text(place, value)
    if _INTEGER.fullmatch(text):
        return str(int(text))
    if not isinstance(value, float) and not _DECIMAL.fullmatch(text):
        return text
    number = float(text)
    rule = "must be a class: text or an integer; fractions are a regression"
    require(number.is_integer(), place, text, rule)
    return str(int(number))


def _read_flag(place: str, value: Any) -> bool:
    """Whether a row has a class that has a column of its own."""
    text = _read_text(place, value)
    flags = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True}
    require(text in flags, place, text, "must be 0 or 1: there is a column for each class")
    return flags[text]


def _read_number(place: str, value: Any) -> float:
    text = _read_text(place, value)
    number = _to_float(text)
    if number is None or not abs(number) <= _LARGEST:  # which NaN is not, either
        rule = f"must be a number, and finite in float32: {_LARGEST:.3g} at most"
        raise InputError(f"{place} = {text!r}: {rule}")
    return number


def _read_text(place: str, value: Any) -> str:
    """A label as text; an `InputError` where there is none."""
    text = "" if value is None else str(value).strip()
    if text in _MISSING:
        raise InputError(f"{place}: no label: every sequence must have one")
    return text


def _to_float(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # which Python takes for a digit group
    except ValueError:
        return None


def _make_indices(
    source: str, values: list[str], named: Sequence[str] | None, classes: Sequence[str] | None
) -> tuple[Int[np.ndarray, " S"], tuple[str, ...]]:
    """Indices of the classes."""
    del named  # one column
    found = _sort_classes(set(values)) if classes is None else tuple(classes)
    rule = "there must be two classes or more"
    require(len(found) > 1, f"{source}: classes", ", ".join(found), rule)
    places = {name: i for i, name in enumerate(found)}
    for row, value in enumerate(values, start=1):
        _check_known(f"{source}: row {row}", value, places)
    return np.array([places[value] for value in values], np.int64), found


def _make_sets(
    source: str,
    values: list[frozenset[str]],
    named: Sequence[str] | None,
    classes: Sequence[str] | None,
) -> tuple[Int[np.ndarray, "S C"], tuple[str, ...]]:
    """A column of 0 and 1 for each class."""
    every = _sort_classes(frozenset[str]().union(*values)) if named is None else tuple(named)
    found = every if classes is None else tuple(classes)
    require(bool(found), f"{source}: classes", "", "no row has a label")
    places = {name: i for i, name in enumerate(found)}
    for name in every if named else ():
        _check_known(f"{source}: column", name, places)
    labels = np.zeros((len(values), len(found)), np.int64)
    for row, value in enumerate(values):
        for name in sorted(value):
            _check_known(f"{source}: row {row + 1}", name, places)
            labels[row, places[name]] = 1
    if classes is None:
        for name, column in zip(found, labels.T, strict=True):
            rule = "must have rows with it and rows without it"
            require(0 < int(column.sum()) < len(column), f"{source}: class", name, rule)
    return labels, found


def _make_numbers(
    source: str,
    values: list[list[float]],
    named: Sequence[str] | None,
    classes: Sequence[str] | None,
) -> tuple[Float[np.ndarray, "S C"], tuple[str, ...]]:
    """A column for each target."""
    found = tuple(named or ())
    rule = f"the training set has {tuple(classes or ())}"
    require(classes is None or tuple(classes) == found, f"{source}: targets", found, rule)
    labels = np.array(values, np.float32)
    if classes is None:
        for name, column in zip(found, labels.T, strict=True):
            rule = f"every row has {column[0]:g}: there must be different numbers"
            require(len(np.unique(column)) > 1, f"{source}: column", name, rule)
    return labels, found


def _check_known(place: str, value: str, places: dict[str, int]) -> None:
    rule = f"the training set has no such label: its classes are {', '.join(list(places)[:8])}"
    require(value in places, f"{place}: label", value, rule)


def _sort_classes(names: set[str] | frozenset[str]) -> tuple[str, ...]:
    """Integers by value, anything else by text."""
    if all(_INTEGER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


_MAKERS: dict[Kind, Callable[..., tuple[Labels, tuple[str, ...]]]] = {
    "classification": _make_indices,
    "multilabel": _make_sets,
    "regression": _make_numbers,
}
