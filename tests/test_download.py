"""Downloads from a real server on this machine that stalls, truncates, refuses and forgets."""

import gzip
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from loopback_ftp import serve_ftp
from loopback_server import LoopbackServer, serve

pytest.importorskip("requests")

from nucleotide_transformer.data.assemblies import Assembly, save_assemblies
from nucleotide_transformer.data.corpus import CorpusConfig, build_corpus
from nucleotide_transformer.data.download import DownloadConfig, Downloaded, download
from nucleotide_transformer.data.web import find_server
from nucleotide_transformer.errors import InputError

NAME = "ant.fa.gz"
PARTIAL = f".partial-download-{NAME}"


def make_body(seed: int = 0, length: int = 400_000) -> bytes:
    letters = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(seed).integers(0, 4, length)]
    return gzip.compress(b">chr1\n" + letters.tobytes() + b"\n", mtime=0)


BODY = make_body()


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with serve() as server:
        server.files[f"/{NAME}"] = BODY
        yield server


def md5(body: bytes) -> str:
    return f"md5:{hashlib.md5(body).hexdigest()}"


def make_assembly(
    server: LoopbackServer,
    name: str = NAME,
    num_bytes: int | None = len(BODY),
    checksum: str | None = None,
) -> Assembly:
    checksum = md5(server.files.get(f"/{name}", BODY)) if checksum is None else checksum
    return Assembly(name, name, "v1", "", f"{server.address}/{name}", num_bytes, checksum)


def run(folder: Path, *assemblies: Assembly, **options: object) -> Downloaded:
    table = folder / "genomes.tsv"
    save_assemblies(table, assemblies)
    values = {"timeout": 0.5, "first_wait": 0.001, "num_retries": 3} | options
    return download(DownloadConfig(table=table, **values))  # type: ignore[arg-type]


def list_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["stall"],
        ["truncate", "truncate", "truncate", "truncate", "truncate"],
        [429, 503],
        [(429, 0.01), (503, 0)],
        [500, "truncate", 502, 504, "stall"],
        ["truncate", "no ranges"],
        ["truncate", "other part"],
    ],
)
@pytest.mark.parametrize("knows", [True, False])
def test_a_file_is_whole_whatever_the_server_does(
    faults: list[object], knows: bool, server: LoopbackServer, tmp_path: Path
) -> None:
    """With what the table says of it, and without. What came is not asked for again."""
    server.faults[f"/{NAME}"] = faults
    known = {} if knows else {"num_bytes": None, "checksum": ""}
    done = run(tmp_path, make_assembly(server, **known))  # type: ignore[arg-type]
    assert done == Downloaded((NAME,), (), {})
    assert (tmp_path / NAME).read_bytes() == BODY
    assert list_names(tmp_path) == {NAME, "genomes.tsv"}
    assert not server.faults[f"/{NAME}"]


def test_what_came_is_not_asked_for_again(server: LoopbackServer, tmp_path: Path) -> None:
    server.faults[f"/{NAME}"] = ["truncate", "stall"]
    run(tmp_path, make_assembly(server))
    half, quarter = len(BODY) // 2, (len(BODY) - len(BODY) // 2) // 2
    assert [wanted for _, wanted in server.asked] == [
        "",
        f"bytes={half}-",
        f"bytes={half + quarter}-",
    ]


@pytest.mark.parametrize(
    ("faults", "reason", "num_asked"),
    [
        ([404], "404 Not Found", 1),
        ([403], "403 Forbidden", 1),
        ([503] * 9, "503 Service Unavailable, after 4 attempts in a row", 4),
        ([(429, 0)] * 9, "429 Too Many Requests, after 4 attempts in a row", 4),
    ],
)
def test_what_can_not_be_had_is_reported_and_the_rest_is_fetched(
    faults: list[object], reason: str, num_asked: int, server: LoopbackServer, tmp_path: Path
) -> None:
    server.files["/moss.fa.gz"] = BODY
    server.faults[f"/{NAME}"] = faults
    done = run(tmp_path, make_assembly(server), make_assembly(server, "moss.fa.gz"))
    assert done == Downloaded(("moss.fa.gz",), (), {NAME: reason})
    assert len([path for path, _ in server.asked if path == f"/{NAME}"]) == num_asked
    assert NAME not in list_names(tmp_path)


@pytest.mark.parametrize("knows", [True, False])
def test_an_empty_answer_is_asked_for_once_more(
    knows: bool, server: LoopbackServer, tmp_path: Path
) -> None:
    known = {} if knows else {"num_bytes": None, "checksum": ""}
    assemblies = [make_assembly(server, name, **known) for name in (NAME, "moss.fa.gz")]  # type: ignore[arg-type]
    server.files |= {f"/{NAME}": b"", "/moss.fa.gz": BODY}
    done = run(tmp_path, *assemblies)
    assert done == Downloaded(("moss.fa.gz",), (), {NAME: "came empty"})
    assert [path for path, _ in server.asked].count(f"/{NAME}") == 2
    assert list_names(tmp_path) == {"moss.fa.gz", "genomes.tsv"}


def test_no_server(tmp_path: Path, server: LoopbackServer) -> None:
    assembly = make_assembly(server)._replace(address="http://127.0.0.1:9/x.fa.gz")
    done = run(tmp_path, assembly, num_retries=1)
    assert done.failed == {NAME: "connection refused, after 2 attempts in a row"}


def test_a_wrong_digest_is_asked_for_once_more(server: LoopbackServer, tmp_path: Path) -> None:
    done = run(tmp_path, make_assembly(server, checksum=md5(b"other")))
    assert list(done.failed) == [NAME]
    assert done.failed[NAME].startswith(f"md5 {hashlib.md5(BODY).hexdigest()[:12]}..., must be")
    assert len(server.asked) == 2
    assert NAME not in list_names(tmp_path)


def test_a_run_that_was_stopped_is_resumed(server: LoopbackServer, tmp_path: Path) -> None:
    (tmp_path / PARTIAL).write_bytes(BODY[:1_000])
    done = run(tmp_path, make_assembly(server))
    assert (done.fetched, server.asked) == ((NAME,), [(f"/{NAME}", "bytes=1000-")])
    assert run(tmp_path, make_assembly(server)).kept == (NAME,)
    assert len(server.asked) == 1


@pytest.mark.parametrize("checksum", [None, ""])
def test_the_beginning_of_another_file_is_thrown_away(
    checksum: str | None, server: LoopbackServer, tmp_path: Path
) -> None:
    """Found by the digest; where there is none, nothing is added to an earlier run's file."""
    (tmp_path / PARTIAL).write_bytes(b"x" * 1_000)
    assert run(tmp_path, make_assembly(server, checksum=checksum)).fetched == (NAME,)
    assert (tmp_path / NAME).read_bytes() == BODY


def test_a_file_of_the_user_is_left_alone(server: LoopbackServer, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    done = run(tmp_path, make_assembly(server))
    assert done.failed[NAME].endswith("is there, and differs: move it away")
    assert (tmp_path / NAME).read_bytes() == b"mine"
    assert server.asked == []


def test_several_at_a_time(server: LoopbackServer, tmp_path: Path) -> None:
    names = [f"{number}.fa.gz" for number in range(6)]
    for name in names:
        server.files[f"/{name}"] = BODY
        server.faults[f"/{name}"] = ["stall"]
    done = run(tmp_path, *(make_assembly(server, name) for name in names), num_downloads=3)
    assert sorted(done.fetched) == names
    assert server.most >= 3


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_what_came_stays(
    kind: signal.Signals, server: LoopbackServer, tmp_path: Path
) -> None:
    server.faults[f"/{NAME}"] = ["stall"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), kind))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make_assembly(server), timeout=1.0)
    signal.signal(signal.SIGINT, before)
    assert (tmp_path / PARTIAL).stat().st_size == len(BODY) // 2
    assert run(tmp_path, make_assembly(server)).fetched == (NAME,)


def test_a_disk_without_room_is_refused_first(server: LoopbackServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has room for .* .B: 1\.0 PB of what the"):
        run(tmp_path, make_assembly(server, num_bytes=10**15))
    assert server.asked == []


@pytest.mark.parametrize("checksum", [None, ""])
def test_room_is_needed_for_what_is_missing_alone(
    checksum: str | None,
    server: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What an earlier run fetched is resumed, or, without a digest, removed before its file comes:
    either way its bytes are room for that file."""
    (tmp_path / PARTIAL).write_bytes(BODY[:1_000])
    missing = len(BODY) - 1_000
    assembly = make_assembly(server, checksum=checksum)
    room = [missing - 1, missing]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room[0]))
    with pytest.raises(InputError, match="of what the table lists are not there yet"):
        run(tmp_path, assembly)
    del room[0]
    assert run(tmp_path, assembly).fetched == (NAME,)
    (tmp_path / NAME).rename(tmp_path / PARTIAL)
    with (tmp_path / PARTIAL).open("ab") as file:  # more than there is: is fetched again
        file.write(b"x" * 10**6)
    other = make_assembly(server, "moss.fa.gz", num_bytes=missing + 1)
    with pytest.raises(InputError, match="of what the table lists are not there yet"):
        run(tmp_path, assembly, other)


def test_what_was_fetched_can_be_built(server: LoopbackServer, tmp_path: Path) -> None:
    server.files["/moss.fa.gz"] = make_body(1)
    moss = make_assembly(server, "moss.fa.gz", num_bytes=None)
    run(tmp_path, make_assembly(server), moss)
    table = tmp_path / "genomes.tsv"
    manifest = build_corpus(CorpusConfig(inputs=(table,), output=tmp_path / "corpus", workers=1))
    assert [genome.species for genome in manifest.genomes] == [NAME, "moss.fa.gz"]


@pytest.mark.parametrize("knows", [True, False])
def test_by_ftp_too(knows: bool, tmp_path: Path, server: LoopbackServer) -> None:
    known = {} if knows else {"num_bytes": None, "checksum": ""}
    with serve_ftp("/pub/a b.fa.gz", BODY, num_broken=2) as ftp:
        address = ftp.address.replace(" ", "%20")
        assembly = make_assembly(server, **known)._replace(address=address)  # type: ignore[arg-type]
        assert run(tmp_path, assembly).fetched == (NAME,)
        half = len(BODY) // 2
        assert ftp.rests == [0, half, half + (len(BODY) - half) // 2]
        assert (tmp_path / NAME).read_bytes() == BODY
        gone = assembly._replace(file="gone.fa", address=f"{address}x")
        assert run(tmp_path, gone).failed == {"gone.fa": "550 no such file"}


def test_where_an_address_is_asked_for() -> None:
    """S3 by its HTTPS interface; FTP of hosts that serve the same by HTTPS."""
    for address, expected in (
        ("s3://bucket/a/b.fa.gz", "https://bucket.s3.amazonaws.com/a/b.fa.gz"),
        ("ftp://ftp.ncbi.nlm.nih.gov/a/b.fa.gz", "https://ftp.ncbi.nlm.nih.gov/a/b.fa.gz"),
        ("ftp://ftp.example.org/a/b.fa.gz", "ftp://ftp.example.org/a/b.fa.gz"),
        ("http://127.0.0.1:1/x", "http://127.0.0.1:1/x"),
    ):
        assert find_server(address) == expected
