"""Joblib and pickle files: the arrays that joblib gives, and nothing that a file says is run."""

import bz2
import collections
import contextlib
import copyreg
import gzip
import itertools
import lzma
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import ml_dtypes
import numpy as np
import pytest
from hostile_pickles import EXTENSIONS, HOSTILE

from nucleotide_transformer.weights.unpickle import RefusedPickleError, load_joblib

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}


@pytest.fixture(autouse=True)
def extension_codes() -> Iterator[None]:
    """Numbers under which copyreg knows functions that write the marker."""
    for name, code in EXTENSIONS.items():
        copyreg.add_extension("hostile_pickles", name, code)
    yield
    for name, code in EXTENSIONS.items():
        copyreg.remove_extension("hostile_pickles", name, code)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize(("kind", "compression"), [
    *itertools.product(HOSTILE, ["plain", "zlib"]),
    *itertools.product(["os.system"], ["gzip", "bz2", "xz", "lzma"]),
])  # fmt: skip
def test_a_hostile_file_is_refused_by_name_before_it_runs(
    kind: str, compression: str, tmp_path: Path
) -> None:
    """As it is and as joblib compresses it; other compressions end in the same bytes."""
    marker, file = tmp_path / "it_ran", tmp_path / "pytree_ckpt.joblib"
    data = HOSTILE[kind].build(marker)
    file.write_bytes(COMPRESSIONS[compression](data))
    with pytest.raises(RefusedPickleError) as caught:
        load_joblib(file)
    message = str(caught.value)
    assert HOSTILE[kind].refused in message
    assert message.startswith(f"{file}: refused ")
    assert "\n" not in message
    assert not marker.exists()


@pytest.mark.parametrize("kind", [kind for kind, hostile in HOSTILE.items() if hostile.is_live])
def test_the_hostile_files_are_armed(kind: str, tmp_path: Path) -> None:
    """Read with pickle, each of them writes the marker: the test above can fail."""
    marker = tmp_path / "it_ran"
    with contextlib.suppress(Exception):  # what comes after the call may fail
        pickle.loads(HOSTILE[kind].build(marker))
    assert marker.exists()


def make_tree(random: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Arrays of every type and order, one of them larger than a read."""
    modules: dict[str, dict[str, Any]] = {
        f"m/{dtype}": {"w": random.standard_normal((3, 5)).astype(dtype)}
        for dtype in ("f2", "f4", "f8", ">f4", "i4", "u1", "?", ml_dtypes.bfloat16)
    }
    fortran = np.asfortranarray(random.standard_normal((4, 3, 2)))
    modules["m/rest"] = {"f": fortran, "empty": np.zeros((0, 3), "f4"), "scalar": np.array(2.5)}
    modules["m/large"] = {"w": random.standard_normal((300, 1000), np.float32)}
    return modules


def assert_same_trees(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for module, leaves in expected.items():
        assert found[module].keys() == leaves.keys()
        for leaf, array in leaves.items():
            assert found[module][leaf].dtype == array.dtype.newbyteorder("=")
            np.testing.assert_array_equal(found[module][leaf], array)


@pytest.mark.parametrize(
    ("compress", "protocol"),
    [
        (0, 2),
        (0, 3),
        (0, 4),
        (0, 5),
        *((name, 4) for name in ("zlib", "gzip", "bz2", "lzma", "xz")),
    ],
)
def test_same_arrays_as_joblib(compress: Any, protocol: int, tmp_path: Path) -> None:
    tree, file = make_tree(np.random.default_rng(0)), tmp_path / "tree.joblib"
    joblib.dump(tree, file, compress=(compress, 1) if compress else 0, protocol=protocol)
    found = load_joblib(file)
    assert found.half_written is None
    assert_same_trees(found.tree, tree)
    assert_same_trees(found.tree, joblib.load(file))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_arrays_and_containers(protocol: int, tmp_path: Path) -> None:
    plain = {"list": [1, -2.5, None, True, "ü", b"x", 2**70], "tuple": ((), (1,), (1, 2, 3, 4))}
    tree = {"m/n": {"w": np.arange(6, dtype="f4").reshape(2, 3), "s": np.float64(3)}} | plain
    file = tmp_path / "tree.pkl"
    file.write_bytes(pickle.dumps(collections.OrderedDict(tree), protocol))
    found = load_joblib(file).tree
    assert {key: found[key] for key in plain} == plain
    np.testing.assert_array_equal(found["m/n"]["w"], tree["m/n"]["w"])
    assert found["m/n"]["s"] == 3


@pytest.mark.parametrize("compress", [0, ("zlib", 1), ("xz", 0)])
def test_a_half_written_file_names_the_array_where_it_ends(compress: Any, tmp_path: Path) -> None:
    random, file = np.random.default_rng(0), tmp_path / "tree.joblib"
    tree = {f"m/{i}": {"w": random.standard_normal(9999), "b": np.ones(7)} for i in range(3)}
    joblib.dump(tree, file, compress=compress)
    data = file.read_bytes()
    places = {}
    for cut in range(0, len(data), len(data) // 60):
        file.write_bytes(data[:cut])
        tree_found, places[cut] = load_joblib(file)
        for module, leaves in tree_found.items():  # what came through is whole
            for leaf, array in leaves.items():
                np.testing.assert_array_equal(array, tree[module][leaf])
    assert places[0] == "its beginning"
    assert {"m/0/w", "m/1/w", "m/2/w"} <= set(places.values())
    assert None not in places.values()


@pytest.mark.parametrize("size", [2**31, 2**62])
def test_a_text_of_a_false_length_takes_no_memory(size: int, tmp_path: Path) -> None:
    file = tmp_path / "false.pkl"
    file.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", size) + b"short")
    assert load_joblib(file).half_written == "its beginning"


def test_an_array_of_a_false_length_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "false.joblib"
    joblib.dump({"m/n": {"w": np.zeros((3, 5), "f4")}}, file)
    shape, false = b"K\x03K\x05\x86", b"J\xff\xff\xff\x7fJ\xff\xff\x00\x00\x86"
    data = file.read_bytes()
    assert data.count(shape) == 1
    file.write_bytes(data.replace(shape, false))
    assert load_joblib(file).half_written == "m/n/w"
    file.write_bytes(zlib.compress(data.replace(shape, false)))
    with pytest.raises(RefusedPickleError, match="larger than the memory"):
        load_joblib(file)


def test_deep_nesting_does_not_end_the_process(tmp_path: Path) -> None:
    file = tmp_path / "deep.pkl"
    file.write_bytes(b"\x80\x04N" + b"\x85" * 20_000 + b".")
    assert isinstance(load_joblib(file).tree, tuple)
    file.write_bytes(b"\x80\x04}N" + b"\x85" * 20_000 + b"Ns.")
    with pytest.raises(RefusedPickleError, match="an item"):
        load_joblib(file)


@pytest.mark.parametrize("data", [b"", b"\x80\x04", b"\x80\x04}", b"x\x9cno"])
def test_what_ends_before_it_began_is_half_written(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "no.pkl"
    file.write_bytes(data)
    assert load_joblib(file).half_written == "its beginning"


@pytest.mark.parametrize(
    "data", [b"hello\n..", b"\x80\x04b..", b"t..", b"\x80\x04h\x05..", b"}](..."]
)
def test_what_is_no_pickle_is_said_to_be_none(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "no.pkl"
    file.write_bytes(data)
    with pytest.raises(RefusedPickleError, match=r"^[^\n]*what is no valid pickle[^\n]*$"):
        load_joblib(file)


def test_old_and_absent_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_joblib(tmp_path / "absent")
    file = tmp_path / "old.joblib"
    file.write_bytes(b"ZF" + b"0" * 30)
    with pytest.raises(ValueError, match=r"joblib below 0\.10"):
        load_joblib(file)
    file.write_bytes(b"\x04\x22\x4d\x18" + b"0" * 30)
    with pytest.raises(ValueError, match=r"lz4|compressed"):
        load_joblib(file)
