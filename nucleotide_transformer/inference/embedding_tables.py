"""Files of embeddings: Parquet, NPZ and HDF5, one row a sequence with its name and coordinates.

All three hold the same: `name`, `contig`, `start` (from 0), `end` (excluded) and, for each layer,
`layer_<number>` in float32. Pooled embeddings are [N, D]. Those of tokens are lists in Parquet; in
NPZ and HDF5 the tokens of all sequences follow each other, and `num_tokens` says how many
belong to each. The settings of the run are kept as JSON: key "settings" of Parquet's metadata, of
the NPZ, and of HDF5's attributes.
"""

import importlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nucleotide_transformer.errors import (
    InputError,
    MissingInputError,
    describe_error,
    import_extra,
    require,
)
from nucleotide_transformer.types import Float, Int

Settings = dict[str, Any]

_PLACE = ("name", "contig", "start", "end")
_LAYER = "layer_"


class EmbeddingTable(NamedTuple):
    """Embeddings with names and coordinates."""

    name: list[str]
    contig: list[str]
    start: Int[np.ndarray, " N"]
    end: Int[np.ndarray, " N"]
    layers: dict[int, Float[np.ndarray, "S D"]]
    """By layer: a row a sequence, or the tokens of all sequences below each other."""
    num_tokens: Int[np.ndarray, " N"] | None
    """Tokens of each sequence; None if the embeddings are pooled."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Name of the column -> array, as an NPZ holds them."""
        arrays: dict[str, np.ndarray] = {
            "name": np.array(self.name, np.str_),
            "contig": np.array(self.contig, np.str_),
            "start": self.start,
            "end": self.end,
        }
        if self.num_tokens is not None:
            arrays["num_tokens"] = self.num_tokens
        return arrays | {f"{_LAYER}{layer}": rows for layer, rows in self.layers.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "EmbeddingTable":
        """The reverse of `to_arrays`."""
        numbers = sorted(int(key[len(_LAYER) :]) for key in arrays if key.startswith(_LAYER))
        layers = {number: arrays[f"{_LAYER}{number}"] for number in numbers}
        names, contigs = ([str(text) for text in arrays[key]] for key in ("name", "contig"))
        start, end = arrays["start"], arrays["end"]
        return cls(names, contigs, start, end, layers, arrays.get("num_tokens"))


def read_embeddings(path: Path) -> EmbeddingTable:
    """Reads a file that `embed_file` wrote, whole.

    Raises:
        MissingInputError: if there is no such file.
        InputError: in one line, for an unknown suffix or a file that can't be read.
    """
    path = Path(path)
    kind = get_kind(path)
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file of embeddings")
    _check_library(kind, f"{path}: to read {kind}")
    try:
        return {"parquet": _read_parquet, "npz": read_part, "hdf5": _read_hdf5}[kind](path)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: no file of embeddings: {describe_error(error)}") from None


def get_kind(path: Path) -> str:
    """The kind of a file by its name: "parquet", "npz" or "hdf5"; an `InputError` for any other."""
    kinds = {".parquet": "parquet", ".npz": "npz", ".h5": "hdf5", ".hdf5": "hdf5"}
    suffix = Path(path).suffix.lower()
    require(suffix in kinds, "output", str(path), f"must be a file {', '.join(kinds)}")
    return kinds[suffix]


def get_writer(path: Path) -> Callable[[Path, Sequence[Path], Settings], None]:
    """A function (path, parts, settings) that joins parts to a file of the kind of this one.

    Raises:
        InputError: for an unknown suffix, or if the library of the format is not installed.
    """
    kind = get_kind(path)
    _check_library(kind, f"{path}: to write {kind}")
    return {"parquet": _write_parquet, "npz": _write_npz, "hdf5": _write_hdf5}[kind]


def _check_library(kind: str, purpose: str) -> None:
    """Raises an `InputError` if the library of a format is not installed."""
    for module in {"parquet": ["pyarrow.parquet"], "hdf5": ["h5py"]}.get(kind, []):
        import_extra(module, "io", purpose)


def _write_npz(path: Path, parts: Sequence[Path], settings: Settings) -> None:
    """Column by column, so that no more than one part is in memory."""
    with zipfile.ZipFile(parts[0]) as first:
        columns = [name for name in first.namelist() if name.endswith(".npy")]
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for column in columns:
            shapes, types = zip(*(_read_header(part, column) for part in parts), strict=True)
            dtype = np.result_type(*types)
            shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
            with archive.open(column, "w", force_zip64=True) as file:
                header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
                for array in _iterate_column(parts, column):
                    file.write(np.ascontiguousarray(array, dtype).tobytes())
        with archive.open("settings.npy", "w") as file:
            np.lib.format.write_array(file, np.array(json.dumps(settings)))


def _read_header(part: Path, column: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, without its values."""
    with zipfile.ZipFile(part) as archive, archive.open(column) as file:
        version = np.lib.format.read_magic(file)
        assert version == (1, 0), f"{part}: written by NumPy, in the oldest format"
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def _iterate_column(parts: Sequence[Path], column: str) -> Iterator[np.ndarray]:
    for part in parts:
        with np.load(part, allow_pickle=False) as arrays:
            yield arrays[column.removesuffix(".npy")]


def read_part(path: Path) -> EmbeddingTable:
    """Reads a block of embeddings, or a whole NPZ."""
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("not a zip archive")
    with np.load(path, allow_pickle=False) as arrays:
        return EmbeddingTable.from_arrays({name: arrays[name] for name in arrays.files})


def _write_hdf5(path: Path, parts: Sequence[Path], settings: Settings) -> None:
    h5py = importlib.import_module("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["settings"] = json.dumps(settings)
        for part in parts:
            for name, array in read_part(part).to_arrays().items():
                is_text = array.dtype.kind == "U"
                if name not in file:
                    dtype = h5py.string_dtype() if is_text else array.dtype
                    size = {"shape": (0, *array.shape[1:]), "maxshape": (None, *array.shape[1:])}
                    file.create_dataset(name, dtype=dtype, chunks=True, **size)
                column, first = file[name], len(file[name])
                column.resize(first + len(array), axis=0)
                column[first:] = array.astype(object) if is_text else array


def _read_hdf5(path: Path) -> EmbeddingTable:
    h5py = importlib.import_module("h5py")
    with h5py.File(path, "r") as file:
        text = ("name", "contig")
        arrays = {name: file[name].asstr()[:] if name in text else file[name][:] for name in file}
    return EmbeddingTable.from_arrays(arrays)


def _write_parquet(path: Path, parts: Sequence[Path], settings: Settings) -> None:
    """A row group for each part."""
    parquet = importlib.import_module("pyarrow.parquet")
    writer = None
    try:
        for part in parts:
            table = _make_arrow(read_part(part), settings)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer:
            writer.close()


def _make_arrow(table: EmbeddingTable, settings: Settings) -> Any:
    """The table in pyarrow's types: a list of fixed size for each embedding."""
    arrow = importlib.import_module("pyarrow")
    columns: dict[str, Any] = {name: arrow.array(getattr(table, name)) for name in _PLACE}
    for layer, rows in table.layers.items():
        flat = arrow.array(np.ascontiguousarray(rows, np.float32).ravel())
        values = arrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        if table.num_tokens is not None:
            offsets = np.concatenate([[0], np.cumsum(table.num_tokens)])
            values = arrow.LargeListArray.from_arrays(arrow.array(offsets, arrow.int64()), values)
        columns[f"{_LAYER}{layer}"] = values
    return arrow.table(columns, metadata={"settings": json.dumps(settings)})


def _read_parquet(path: Path) -> EmbeddingTable:
    parquet = importlib.import_module("pyarrow.parquet")
    table = parquet.read_table(path).combine_chunks()
    arrays: dict[str, np.ndarray] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if not name.startswith(_LAYER):
            arrays[name] = column.to_numpy(zero_copy_only=False)
            continue
        if not hasattr(column.type, "list_size"):  # a list of tokens
            arrays["num_tokens"] = np.diff(column.offsets.to_numpy())
            column = column.values
        arrays[name] = column.values.to_numpy().reshape(-1, column.type.list_size)
    return EmbeddingTable.from_arrays(arrays)
