"""Counts of a corpus: right, made once by any number of processes, and of this corpus only."""

import dataclasses
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from small_runs import short_words  # noqa: F401

from nucleotide_transformer import cli, files
from nucleotide_transformer.data.corpus import Manifest, load_manifest, open_split
from nucleotide_transformer.data.folder import MARKER_FILE
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.pretraining import counts as counts_module
from nucleotide_transformer.pretraining.counts import (
    COUNTS_FILE,
    HELD_BACK_AT_MOST,
    HELD_BACK_AT_ONCE,
    BaselinesConfig,
    Counts,
    choose_held_back,
    count_corpus,
    count_split,
    load_counts,
    save_counts,
)
from nucleotide_transformer.tokenizers import KmerTokenizer

TOKENIZER = KmerTokenizer()
FILES_OF_A_CORPUS = {MARKER_FILE, "manifest.json", "genomes"}


@pytest.fixture
def manifest(small_corpus: Path, tmp_path: Path) -> Manifest:
    """A copy of the small corpus: 60,000 nt of two species, chunks of 200 nt."""
    return load_manifest(shutil.copytree(small_corpus, tmp_path / "corpus"))


def read_training(manifest: Manifest) -> list[bytes]:
    reader = open_split(manifest, "train")
    return reader.read(np.arange(len(reader)))


def assert_equal(first: Counts | None, second: Counts) -> None:
    assert first is not None
    np.testing.assert_array_equal(first.tokens, second.tokens)
    np.testing.assert_array_equal(first.words, second.words)
    for name in ("held_back", "num_nucleotides", "num_records"):
        assert getattr(first, name) == getattr(second, name)


def list_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_counts_are_those_of_the_training_split(manifest: Manifest) -> None:
    path, is_new = count_corpus(BaselinesConfig(folder=manifest.folder))
    assert (path, is_new) == (manifest.folder / COUNTS_FILE, True)
    counts = load_counts(manifest, k=6)
    assert counts
    records = read_training(manifest)
    assert counts.num_records == len(records)
    assert counts.num_nucleotides == sum(map(len, records))
    words = Counter(r[i : i + 13] for r in records for i in range(len(r) - 12))
    assert counts.words.sum() == words.total()
    for word, count in words.most_common(300):
        number = int("".join(str(b"ATCG".index(letter)) for letter in word), base=4)
        assert counts.words[number] == count
    tokens = Counter(i for record in records for i in TOKENIZER.encode(record)[1:].tolist())
    first = TOKENIZER.first_kmer_id
    assert counts.tokens.tolist() == [tokens[first + i] for i in range(4**6 + 4)]


@pytest.mark.usefixtures("short_words")
def test_a_run_reads_what_it_would_count(manifest: Manifest) -> None:
    """Whatever its vocabulary: counts are made with that of v2."""
    tokenizer = KmerTokenizer("v1")
    assert load_counts(manifest, k=6) is None
    count_corpus(BaselinesConfig(folder=manifest.folder))
    loaded = load_counts(manifest, k=6)
    assert_equal(loaded, count_split(open_split(manifest, "train"), tokenizer, 10**9, max_order=7))
    other = count_split(open_split(manifest, "validation"), tokenizer, 10**9, max_order=7)
    assert not np.array_equal(loaded.tokens, other.tokens)


class Records:
    """A split of many records, each of one word of five letters of its own, four times."""

    def __len__(self) -> int:
        return 1_000

    def read(self, indices: np.ndarray) -> list[bytes]:
        return [self.spell(index) * 4 + b"N" for index in np.asarray(indices).tolist()]

    @staticmethod
    def spell(index: int) -> bytes:
        return bytes(b"ATCG"[index >> shift & 3] for shift in (8, 6, 4, 2, 0))


@pytest.mark.parametrize("num_records", [399, 400, 1_000])
def test_records_are_held_back_from_the_words(num_records: int) -> None:
    """One stretch of 8 in 400, without its first and its last; their tokens count."""
    limit = num_records * 21
    counts = count_split(Records(), KmerTokenizer(k=5), limit, max_order=4)
    read = np.arange(num_records) * 1_000 // num_records
    first = [200, 600][: num_records // 400]
    out = np.array([place + i for place in first for i in range(HELD_BACK_AT_ONCE)], int)
    inner = [place + i for place in first for i in range(1, HELD_BACK_AT_ONCE - 1)]
    assert counts.held_back == tuple(Records().read(read[inner]))
    counted = set(range(num_records)).difference(out.tolist())
    expected = Counter(
        text[i : i + 5] for text in Records().read(read[sorted(counted)]) for i in range(16)
    )
    assert counts.words.sum() == expected.total()
    for word, count in expected.items():
        number = int("".join(str(b"ATCG".index(letter)) for letter in word), base=4)
        assert counts.words[number] == count
    assert (counts.num_records, counts.num_nucleotides) == (num_records, limit)
    assert counts.tokens[: 4**5].sum() == 4 * num_records


@pytest.mark.parametrize("num_records", [400, 10_000, 60_000, 500_000])
def test_no_more_is_left_out_than_1_in_50_and_about_1_024_records(num_records: int) -> None:
    left_out, held_back = choose_held_back(np.arange(num_records), num_records)
    assert left_out.sum() <= num_records / 50 + HELD_BACK_AT_ONCE
    assert left_out.sum() <= 1.03 * HELD_BACK_AT_MOST + HELD_BACK_AT_ONCE
    assert left_out.sum() >= min(num_records / 50, HELD_BACK_AT_MOST) - HELD_BACK_AT_ONCE
    assert held_back.sum() / left_out.sum() == pytest.approx(6 / 8)
    places = np.flatnonzero(held_back)
    assert left_out[places - 1].all()
    assert left_out[places + 1].all()
    # Chosen alike, however the records are dealt out.
    some = np.arange(num_records)[::7]
    np.testing.assert_array_equal(choose_held_back(some, num_records)[1], held_back[::7])


@pytest.mark.parametrize(
    ("workers", "size", "most"),
    [(1, 10_000, 10**9), (1, 10_000, 30_000), (2, 10**9, 30_000), (2, 10_000, 10**9)],
)
def test_any_number_of_processes_and_tasks(
    workers: int, size: int, most: int, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of a large corpus, and of several processes, add up."""
    reader = open_split(manifest, "train")
    expected = count_split(reader, TOKENIZER, most, max_order=5)
    monkeypatch.setattr(counts_module, "_NUCLEOTIDES_OF_A_TASK", size)
    parts = count_split(reader, TOKENIZER, most, max_order=5, workers=workers)
    assert_equal(parts, expected)
    assert 0.99 < expected.num_nucleotides / min(most, 52_000) < 1.2


@pytest.mark.usefixtures("short_words")
def test_counted_once(manifest: Manifest) -> None:
    config = BaselinesConfig(folder=manifest.folder)
    path = manifest.folder / COUNTS_FILE

    def count(**changes: int) -> bool:
        return count_corpus(dataclasses.replace(config, **changes))[1]

    assert count()
    stamp = (path.stat().st_ino, path.stat().st_mtime_ns)
    assert not count()
    assert not count(nucleotides=10**6)  # more than there are, too
    assert not count(workers=2)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == stamp
    assert count(nucleotides=20_000)
    assert not count(nucleotides=20_000)
    assert count(nucleotides=20_000, k=5)
    assert count()
    path.write_bytes(path.read_bytes()[:-1])
    assert count()
    assert list_names(manifest.folder) == FILES_OF_A_CORPUS | {COUNTS_FILE}


@pytest.mark.parametrize("largest", [0, 255, 256, 65_536, 2**32 - 1, 2**40])
def test_counts_of_any_size_are_kept(largest: int, manifest: Manifest) -> None:
    words = np.arange(4**4, dtype=np.uint64)
    words[77] = largest
    counts = Counts(
        tokens=np.arange(4**3 + 4),
        words=words,
        held_back=(b"ACGTN", b"N", b"TTTT"),
        num_nucleotides=2**41,
        num_records=2**33,
    )
    save_counts(manifest, counts, k=3)
    assert_equal(load_counts(manifest, k=3), counts)


@pytest.mark.usefixtures("short_words")
def test_counts_of_another_corpus_or_tokenizer(manifest: Manifest) -> None:
    count_corpus(BaselinesConfig(folder=manifest.folder))
    path = manifest.folder / COUNTS_FILE
    grown = dataclasses.replace(manifest, genomes=manifest.genomes[:1])
    command = f"`nt corpus baselines {manifest.folder}"
    with pytest.raises(InputError, match="another corpus, or before this one grew") as other:
        load_counts(grown, k=6)
    assert str(path) in str(other.value)
    assert f"{command}`" in str(other.value)
    with pytest.raises(InputError, match="k = 6: must be 5, as in the model") as tokens:
        load_counts(manifest, k=5)
    assert str(path) in str(tokens.value)
    assert f"{command} --k 5`" in str(tokens.value)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_bits(path: Path) -> None:
    """Of several bytes: one bit may say how far back to copy from, among nothing but zeros."""
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 8):
        data[place] ^= 255
    path.write_bytes(data)


def leave_words_out(path: Path) -> None:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive if name != "words"}
    np.savez(path, **arrays)


def make_words_negative(path: Path) -> None:
    with np.load(path) as archive:
        np.savez(path, **(dict(archive) | {"words": -archive["words"].astype(int)}))


def put_numbers_into_records(path: Path) -> None:
    with np.load(path) as archive:
        np.savez(path, **(dict(archive) | {"held_back": np.ones(4)}))


def leave_tokens_out(path: Path) -> None:
    with np.load(path) as archive:
        np.savez(path, **(dict(archive) | {"tokens": archive["tokens"][:-1]}))


def put_in_an_object(path: Path) -> None:
    with np.load(path) as archive:
        np.savez(path, **(dict(archive) | {"words": np.array([{}])}))


def write_text(path: Path) -> None:
    path.write_text("counts")


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_bits,
        leave_words_out,
        make_words_negative,
        put_numbers_into_records,
        leave_tokens_out,
        put_in_an_object,
        write_text,
    ],
)
@pytest.mark.usefixtures("short_words")
def test_damaged_counts(damage: Callable[[Path], None], manifest: Manifest) -> None:
    count_corpus(BaselinesConfig(folder=manifest.folder))
    path = manifest.folder / COUNTS_FILE
    damage(path)
    message = f"{re.escape(str(path))}: damaged .*: `nt corpus baselines {manifest.folder}` makes"
    with pytest.raises(InputError, match=message) as error:
        load_counts(manifest, k=6)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("short_words")
def test_counts_of_another_version(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts_module, "FORMAT_VERSION", 1)
    count_corpus(BaselinesConfig(folder=manifest.folder))
    monkeypatch.undo()
    with pytest.raises(InputError, match="format_version = 1: must be 2: `nt corpus baselines"):
        load_counts(manifest, k=6)


@pytest.mark.parametrize("place", ["counting", "writing"])
@pytest.mark.usefixtures("short_words")
def test_interrupt_leaves_what_was_there(
    place: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BaselinesConfig(folder=manifest.folder)
    count_corpus(config)
    before = (manifest.folder / COUNTS_FILE).read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if place == "counting":
        monkeypatch.setattr(counts_module.WordCounter, "add", interrupt)
    else:
        write = np.lib.format.write_array

        def write_one(file: BinaryIO, array: np.ndarray, **options: bool) -> None:
            write(file, array, **options) if array.size < 9_000 else interrupt()

        monkeypatch.setattr(np.lib.format, "write_array", write_one)
    for nucleotides in (20_000, 30_000):
        with pytest.raises(KeyboardInterrupt):
            count_corpus(dataclasses.replace(config, nucleotides=nucleotides))
        assert list_names(manifest.folder) == FILES_OF_A_CORPUS | {COUNTS_FILE}
        assert (manifest.folder / COUNTS_FILE).read_bytes() == before


def test_a_folder_of_others_is_told_before_anything_is_counted(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(*_: object, **__: object) -> None:
        raise AssertionError("the split was counted")

    monkeypatch.setattr(counts_module, "count_split", count)
    monkeypatch.setattr(os, "access", lambda path, mode: path != manifest.folder or mode != os.W_OK)
    with pytest.raises(InputError, match=rf"{COUNTS_FILE}: can't be written: no permission to wri"):
        count_corpus(BaselinesConfig(folder=manifest.folder))


@pytest.mark.usefixtures("short_words")
def test_counts_are_written_whole(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On disk under another name first: what has the name is never half of a file."""
    path = manifest.folder / COUNTS_FILE
    there = []
    sync = files.sync
    monkeypatch.setattr(files, "sync", lambda part: (there.append(path.exists()), sync(part)))
    count_corpus(BaselinesConfig(folder=manifest.folder))
    assert there == [False, True]


@pytest.mark.usefixtures("short_words")
def test_command(manifest: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(manifest.folder)
    assert cli.main(["corpus", "baselines", folder, "--nucleotides", "20000"]) == 0
    assert f"wrote {folder}/{COUNTS_FILE} (" in capsys.readouterr().out
    assert cli.main(["corpus", "baselines", folder, "--nucleotides", "20000"]) == 0
    assert "counted before" in capsys.readouterr().out
    counts = load_counts(manifest, k=6)
    assert counts
    assert 18_000 < counts.num_nucleotides <= 20_000
    assert cli.main(["corpus", "baselines", f"{folder}/genomes"]) == 2
    assert "manifest.json: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(("field", "value"), [("nucleotides", 0), ("k", -1), ("workers", 0)])
def test_bad_config(field: str, value: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{field} = {value}: must be above 0"):
        BaselinesConfig(folder=tmp_path, **{field: value})


def test_bad_limits() -> None:
    with pytest.raises(InputError, match="max_nucleotides = 0: must be above 0"):
        count_split(Records(), TOKENIZER, 0)
    with pytest.raises(InputError, match="max_order = 13: must be 1 to 12"):
        count_split(Records(), TOKENIZER, 10, max_order=13)


def test_cap_reads_records_spread_over_the_split() -> None:
    counts = [count_split(Records(), KmerTokenizer(k=5), n, max_order=2) for n in (1_050, 10**6)]
    assert [(c.num_records, c.num_nucleotides) for c in counts] == [(50, 1_050), (1_000, 21_000)]
    read = {Records.spell(index) for index in range(0, 1_000, 20)}
    tokens = KmerTokenizer(k=5).encode_batch([b"".join(sorted(read))])[0, 1:]
    expected = np.bincount(tokens - KmerTokenizer(k=5).first_kmer_id, minlength=4**5 + 4)
    np.testing.assert_array_equal(counts[0].tokens, 4 * expected)


def test_corpus_without_training_split(manifest: Manifest) -> None:
    path = manifest.folder / "manifest.json"
    values = json.loads(path.read_text())
    del values["digest"]
    for genome in values["genomes"]:
        genome["shards"] = [s for s in genome["shards"] if s["split"] != "train"]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="split 'train' has no record"):
        count_corpus(BaselinesConfig(folder=manifest.folder))
    assert not (manifest.folder / COUNTS_FILE).exists()
