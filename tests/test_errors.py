"""What a library says went wrong, in one line, also where it says nothing."""

import pytest

from nucleotide_transformer.data import tables
from nucleotide_transformer.errors import InputError, describe_error
from nucleotide_transformer.inference import embedding_tables


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("no such host\nsecond line"), "no such host"),
        (OSError("\n  indented  \n"), "indented"),
        (OSError(), "OSError"),
        (ValueError("\n"), "ValueError"),
    ],
)
def test_an_error_is_its_first_line_or_its_type(error, line):
    assert describe_error(error) == line


def refuse(*_):
    raise OSError


def test_files_whose_library_says_nothing(monkeypatch, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet, "ParquetFile", refuse)
    monkeypatch.setattr(embedding_tables, "read_part", refuse)
    for name in ("x.parquet", "x.npz"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"x\.parquet: not a Parquet file: OSError$"):
        next(tables.read_rows(tmp_path / "x.parquet", "parquet", list))
    with pytest.raises(InputError, match=r"x\.npz: no file of embeddings: OSError$"):
        embedding_tables.read_embeddings(tmp_path / "x.npz")
