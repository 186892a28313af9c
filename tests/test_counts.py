"""Counts of a corpus: right, made once by any number of processes, and of this corpus only."""

import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from nucleotide_transformer import cli, files
from nucleotide_transformer.data.corpus import Manifest, load_manifest, open_split
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.pretraining import counts as counts_module
from nucleotide_transformer.pretraining.baselines import fit_baselines, load_baselines
from nucleotide_transformer.pretraining.counts import (
    COUNTS_FILE,
    BaselinesConfig,
    Counts,
    count_corpus,
    count_split,
    load_counts,
    save_counts,
)
from nucleotide_transformer.tokenizers import KmerTokenizer

TOKENIZER = KmerTokenizer()


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
    assert (first.num_nucleotides, first.num_records) == (
        second.num_nucleotides,
        second.num_records,
    )


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
    words = Counter(r[i : i + 12] for r in records for i in range(len(r) - 11))
    assert counts.words.sum() == words.total()
    for word, count in words.most_common(300):
        number = int("".join(str(b"ATCG".index(letter)) for letter in word), base=4)
        assert counts.words[number] == count
    tokens = Counter(i for record in records for i in TOKENIZER.encode(record)[1:].tolist())
    first = TOKENIZER.first_kmer_id
    assert counts.tokens.tolist() == [tokens[first + i] for i in range(4**6 + 4)]


@pytest.mark.parametrize("vocabulary", ["v1", "v2"])
def test_a_run_reads_what_it_would_count(manifest: Manifest, vocabulary: str) -> None:
    tokenizer = KmerTokenizer(vocabulary)
    assert load_baselines(manifest, tokenizer) is None
    count_corpus(BaselinesConfig(folder=manifest.folder))
    loaded = load_baselines(manifest, tokenizer)
    assert loaded
    assert loaded.tokenizer == tokenizer
    for split, is_same in (("train", True), ("validation", False)):
        fitted = fit_baselines(open_split(manifest, split), tokenizer, 10**9)
        assert (fitted.num_nucleotides == loaded.num_nucleotides) == is_same
        assert np.array_equal(fitted.log_frequencies, loaded.log_frequencies) == is_same
        for one, other in zip(fitted.chains.log_probs, loaded.chains.log_probs, strict=True):
            assert np.array_equal(one, other) == is_same


@pytest.mark.parametrize(("workers", "size"), [(1, 10_000), (2, 10**9), (2, 10_000)])
def test_any_number_of_processes_and_tasks(
    workers: int, size: int, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of a large corpus, and of several processes, add up."""
    reader = open_split(manifest, "train")
    for most in (10**9, 30_000):
        expected = count_split(reader, TOKENIZER, most, max_order=5)
        monkeypatch.setattr(counts_module, "_NUCLEOTIDES_OF_A_TASK", size)
        parts = count_split(reader, TOKENIZER, most, max_order=5, workers=workers)
        monkeypatch.undo()
        assert_equal(parts, expected)
        assert 0.99 < expected.num_nucleotides / min(most, 52_000) < 1.2


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
    assert list_names(manifest.folder) == {"manifest.json", "genomes", COUNTS_FILE}


@pytest.mark.parametrize("largest", [0, 255, 256, 65_536, 2**32 - 1, 2**40])
def test_counts_of_any_size_are_kept(largest: int, manifest: Manifest) -> None:
    words = np.arange(4**4)
    words[77] = largest
    counts = Counts(
        tokens=np.arange(4**3 + 4), words=words, num_nucleotides=2**41, num_records=2**33
    )
    save_counts(manifest, counts, k=3)
    assert_equal(load_counts(manifest, k=3), counts)


def test_counts_of_another_corpus_or_tokenizer(manifest: Manifest) -> None:
    count_corpus(BaselinesConfig(folder=manifest.folder))
    path = manifest.folder / COUNTS_FILE
    grown = dataclasses.replace(manifest, genomes=manifest.genomes[:1])
    command = f"`nt corpus baselines {manifest.folder}"
    with pytest.raises(InputError, match="another corpus, or before this one grew") as other:
        load_baselines(grown, TOKENIZER)
    assert str(path) in str(other.value)
    assert f"{command}`" in str(other.value)
    with pytest.raises(InputError, match="k = 6: must be 5, as in the model") as tokens:
        load_baselines(manifest, KmerTokenizer(k=5))
    assert str(path) in str(tokens.value)
    assert f"{command} --k 5`" in str(tokens.value)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def leave_words_out(path: Path) -> None:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive if name != "words"}
    np.savez(path, **arrays)


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
    [truncate, flip_a_bit, leave_words_out, leave_tokens_out, put_in_an_object, write_text],
)
def test_damaged_counts(damage: Callable[[Path], None], manifest: Manifest) -> None:
    count_corpus(BaselinesConfig(folder=manifest.folder))
    path = manifest.folder / COUNTS_FILE
    damage(path)
    message = f"{re.escape(str(path))}: damaged .*: `nt corpus baselines {manifest.folder}` makes"
    with pytest.raises(InputError, match=message) as error:
        load_baselines(manifest, TOKENIZER)
    assert "\n" not in str(error.value)


def test_counts_of_another_version(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts_module, "FORMAT_VERSION", 2)
    count_corpus(BaselinesConfig(folder=manifest.folder))
    monkeypatch.undo()
    with pytest.raises(InputError, match="format_version = 2: must be 1: `nt corpus baselines"):
        load_baselines(manifest, TOKENIZER)


@pytest.mark.parametrize("place", ["counting", "writing"])
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
        assert list_names(manifest.folder) == {"manifest.json", "genomes", COUNTS_FILE}
        assert (manifest.folder / COUNTS_FILE).read_bytes() == before


def test_counts_are_written_whole(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On disk under another name first: what has the name is never half of a file."""
    path = manifest.folder / COUNTS_FILE
    there = []
    sync = files._sync
    monkeypatch.setattr(files, "_sync", lambda part: (there.append(path.exists()), sync(part)))
    count_corpus(BaselinesConfig(folder=manifest.folder))
    assert there == [False, True]


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


def test_corpus_without_training_split(manifest: Manifest) -> None:
    path = manifest.folder / "manifest.json"
    values = json.loads(path.read_text())
    for genome in values["genomes"]:
        genome["shards"] = [s for s in genome["shards"] if s["split"] != "train"]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="split 'train' has no record"):
        count_corpus(BaselinesConfig(folder=manifest.folder))
    assert not (manifest.folder / COUNTS_FILE).exists()
