"""Joblib and pickle files: the arrays that joblib gives, and nothing that a file says is run."""

import collections
import contextlib
import copyreg
import gc
import pickle
import struct
import tracemalloc
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import ml_dtypes
import numpy as np
import pytest
from hostile_pickles import EXTENSIONS, HOSTILE

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.weights import unpickle
from nucleotide_transformer.weights.streams import HalfWrittenError
from nucleotide_transformer.weights.unpickle import Budget, RefusedPickleError

AMPLE = Budget(1 << 30, 1_000)


def load_joblib(file: Path, budget: Budget = AMPLE) -> Any:
    return unpickle.load_joblib(file, budget)


@pytest.fixture(autouse=True)
def extension_codes() -> Iterator[None]:
    """Numbers under which copyreg knows functions that write the marker."""
    for name, code in EXTENSIONS.items():
        copyreg.add_extension("hostile_pickles", name, code)
    yield
    for name, code in EXTENSIONS.items():
        copyreg.remove_extension("hostile_pickles", name, code)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_by_name_before_it_runs(kind: str, tmp_path: Path) -> None:
    marker, file = tmp_path / "it_ran", tmp_path / "pytree_ckpt.joblib"
    file.write_bytes(HOSTILE[kind].build(marker))
    with pytest.raises(RefusedPickleError) as caught:
        load_joblib(file)
    message = str(caught.value)
    assert HOSTILE[kind].refused in message
    assert message.startswith(f"{file}: refused ")
    assert "\n" not in message
    assert not marker.exists()


@pytest.mark.parametrize("compression", ["zlib", "gzip"])
def test_a_file_in_zlib_is_read_under_the_budget(compression: str, tmp_path: Path) -> None:
    file = tmp_path / "pytree_ckpt.joblib"
    joblib.dump({"m": {"w": np.zeros(100_000)}}, file, compress=(compression, 9))
    assert load_joblib(file)["m"]["w"].shape == (100_000,)
    with pytest.raises(InputError, match="100000 bytes or more"):
        load_joblib(file, Budget(99_999, 4))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(HalfWrittenError, match="its compressed data end early"):
        load_joblib(file)


@pytest.mark.parametrize(("share", "is_read"), [(0, True), (0.9, True), (1, False)])
def test_weights_in_zlib_are_read_unless_nearly_all_are_zeros(
    share: float, is_read: bool, tmp_path: Path
) -> None:
    """Whatever the model is said to be."""
    file, random = tmp_path / "pytree_ckpt.joblib", np.random.default_rng(0)
    weights = random.standard_normal(1 << 20, np.float32)
    weights[random.random(1 << 20) < share] = 0
    joblib.dump({"m": {"w": weights}}, file, compress=("zlib", 9))
    if is_read:
        np.testing.assert_array_equal(load_joblib(file)["m"]["w"], weights)
        return
    with pytest.raises(InputError, match=r"weights never compress to less than 1/32$"):
        load_joblib(file, Budget(1 << 50, 1_000))


@pytest.mark.parametrize("compression", ["bz2", "xz", "lzma"])
def test_a_file_compressed_in_another_way_is_refused_unread(
    compression: str, tmp_path: Path
) -> None:
    file = tmp_path / "pytree_ckpt.joblib"
    joblib.dump({"m": {"w": np.zeros(100_000)}}, file, compress=compression)
    with pytest.raises(InputError, match=r"^[^\n]*pytree_ckpt\.joblib: compressed: [^\n]*$"):
        load_joblib(file)


def test_a_file_in_zlib_is_read_as_it_is_made(tmp_path: Path) -> None:
    """At no time is there more than its arrays, and a few MB."""
    file = tmp_path / "pytree_ckpt.joblib"
    weights = np.random.default_rng(0).integers(0, 99, 1 << 22).astype(np.float32)
    joblib.dump({"m": {"w": weights}}, file, compress=1)
    tracemalloc.start()
    found = load_joblib(file)["m"]["w"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, weights)
    assert weights.nbytes < peak < weights.nbytes + (5 << 20)


def test_a_damaged_file_in_zlib(tmp_path: Path) -> None:
    """Its checksum is compared, though the numbers look right; and nothing may follow them."""
    file = tmp_path / "pytree_ckpt.joblib"
    plain = pickle.dumps({"m": {"w": np.ones(3)}})
    for data in (zlib.compress(plain)[:-1] + b"?", zlib.compress(plain + b"more")):
        file.write_bytes(data)
        with pytest.raises(HalfWrittenError, match="damaged"):
            load_joblib(file)


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_file_makes_no_more_than_twice_its_size(protocol: int, tmp_path: Path) -> None:
    """Old protocols write bytes as text, which becomes bytes and then arrays."""
    file = tmp_path / "tree.pkl"
    tree = {"m": {"w": np.full(10_000, 2**62 - 1), "v": np.zeros(10_000, ">f8")}}
    file.write_bytes(pickle.dumps(tree, protocol))
    assert_same_trees(load_joblib(file), tree)


def test_damaged_files_raise_no_other_errors(tmp_path: Path) -> None:
    """A thousand files with a byte changed, cut out or put in: read, refused or half-written."""
    random, file = np.random.default_rng(0), tmp_path / "fuzz.joblib"
    joblib.dump({"m/n": {"w": np.ones((2, 3), ">f4"), "b": np.ones(2)}}, file)
    bases = [file.read_bytes(), *(pickle.dumps({"m": {"w": np.ones(3)}}, p) for p in range(6))]
    outcomes = collections.Counter[str]()
    for _ in range(1_000):
        data = bytearray(bases[random.integers(len(bases))])
        place = random.integers(len(data))
        data[place : place + random.integers(2)] = random.bytes(random.integers(1, 3))
        file.write_bytes(data)
        try:
            load_joblib(file, Budget(1 << 20, 4))
            outcomes["read"] += 1
        except InputError as error:
            outcomes[type(error).__name__ if str(error).isprintable() else "unprintable"] += 1
    assert outcomes.keys() == {"read", "RefusedPickleError", "HalfWrittenError"}
    assert min(outcomes.values()) > 20


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


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_same_arrays_as_joblib(protocol: int, tmp_path: Path) -> None:
    tree, file = make_tree(np.random.default_rng(0)), tmp_path / "tree.joblib"
    joblib.dump(tree, file, protocol=protocol)
    found = load_joblib(file)
    assert_same_trees(found, tree)
    assert_same_trees(found, joblib.load(file))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_arrays_and_containers(protocol: int, tmp_path: Path) -> None:
    plain = {"list": [1, -2.5, None, True, "ü", b"x", 2**70], "tuple": ((), (1,), (1, 2, 3, 4))}
    tree = {"m/n": {"w": np.arange(6, dtype="f4").reshape(2, 3), "s": np.float64(3)}} | plain
    file = tmp_path / "tree.pkl"
    file.write_bytes(pickle.dumps(collections.OrderedDict(tree), protocol))
    found = load_joblib(file)
    assert {key: found[key] for key in plain} == plain
    np.testing.assert_array_equal(found["m/n"]["w"], tree["m/n"]["w"])
    assert found["m/n"]["s"] == 3


def test_nothing_holds_on_to_the_arrays(tmp_path: Path) -> None:
    """The caller drops each array when it is on the device: memory never has all of them twice."""
    file = tmp_path / "tree.joblib"
    joblib.dump({"m/n": {"w": np.ones((300, 300))}}, file)
    gc.disable()
    try:
        tree = load_joblib(file)
        array = weakref.ref(tree["m/n"]["w"])
        assert array() is not None
        del tree
        assert array() is None
    finally:
        gc.enable()


def test_a_half_written_file_says_how_much_is_missing(tmp_path: Path) -> None:
    random, file = np.random.default_rng(0), tmp_path / "tree.joblib"
    joblib.dump({f"m/{i}": {"w": random.standard_normal(9999)} for i in range(3)}, file)
    data = file.read_bytes()
    for cut in range(0, len(data), len(data) // 60):
        file.write_bytes(data[:cut])
        with pytest.raises(HalfWrittenError, match=rf"it has {cut} bytes and ends \d+ bytes too"):
            load_joblib(file)


@pytest.mark.parametrize("size", [2**31, 2**62])
def test_a_text_of_a_false_length_takes_no_memory(size: int, tmp_path: Path) -> None:
    file = tmp_path / "false.pkl"
    for opcode in (b"\x8e", b"\x8d", b"\x95", b"\x96"):
        file.write_bytes(b"\x80\x04" + opcode + struct.pack("<Q", size) + b"short")
        with pytest.raises(HalfWrittenError):
            load_joblib(file)


def test_an_array_of_a_false_length_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "false.joblib"
    joblib.dump({"m/n": {"w": np.zeros((3, 5), "f4")}}, file, protocol=3)
    shape, false = b"K\x03K\x05\x86", b"J\xff\xff\xff\x7fJ\xff\xff\x00\x00\x86"
    data = file.read_bytes()
    assert data.count(shape) == 1
    file.write_bytes(data.replace(shape, false))
    with pytest.raises(HalfWrittenError, match="too early"):
        load_joblib(file)


def test_deep_nesting_does_not_end_the_process(tmp_path: Path) -> None:
    file = tmp_path / "deep.pkl"
    file.write_bytes(b"\x80\x04N" + b"\x85" * 20_000 + b".")
    deep = Budget(1 << 20, 1_000)
    assert isinstance(load_joblib(file, deep), tuple)
    file.write_bytes(b"\x80\x04}N" + b"\x85" * 20_000 + b"Ns.")
    with pytest.raises(RefusedPickleError, match="an item"):
        load_joblib(file, deep)


@pytest.mark.parametrize("data", [b"", b"\x80\x04", b"\x80\x04}"])
def test_what_ends_before_it_began_is_half_written(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "no.pkl"
    file.write_bytes(data)
    with pytest.raises(HalfWrittenError):
        load_joblib(file)


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
