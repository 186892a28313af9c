"""Input pipeline: what a row holds, the order of the run, and its state."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_runs import read_all

from nucleotide_transformer.config import DataConfig
from nucleotide_transformer.data.corpus import (
    CorpusConfig,
    Manifest,
    build_corpus,
    open_split,
)
from nucleotide_transformer.data.dataset import (
    Batch,
    count_needed,
    make_dataset,
    make_iterator,
)
from nucleotide_transformer.tokenizers import KmerTokenizer

TOKENIZER = KmerTokenizer()
CHUNK, OVERLAP, NUM_TOKENS = 600, 20, 101  # 100 k-mers and <cls> are a chunk
SHORT = 300
DATA_FIELDS = ("temperature", "reverse_complement")
PARTNERS = dict(zip(b"ACGTN", b"TGCAN", strict=True))


def build(folder: Path, genomes: dict[str, dict[str, str]], **changes: object) -> Manifest:
    """A corpus of genomes of contigs, without blocks that are held out."""
    for name, contigs in genomes.items():
        text = "".join(f">{contig}\n{sequence}\n" for contig, sequence in contigs.items())
        (folder / f"{name}.fa").write_text(text)
    lengths = {"chunk_length": CHUNK, "overlap": OVERLAP, "block_length": 1_000}
    shares = {"validation_fraction": 0.0, "test_fraction": 0.0, "max_unknown_tokens": 1.0}
    fields = lengths | shares | {"short_contigs": "pad"} | changes
    inputs = tuple(folder / f"{name}.fa" for name in genomes)
    return build_corpus(CorpusConfig(inputs=inputs, output=folder / "corpus", workers=1, **fields))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A large species, a small one with 1 % N, and one of short contigs. Of the contigs
    held out, one ends a nucleotide too early for an evaluation and one just where it should."""
    folder, generator = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)

    def draw(length: int, unknown: float = 0.0) -> str:
        shares = [(1 - unknown) / 4] * 4 + [unknown]
        return "".join(generator.choice(list("ACGTN"), length, p=shares))

    genomes = {
        "large": {"c1": draw(60_000), "held1": draw(12_640), "held2": draw(619)},
        "patchy": {"c2": draw(12_000, unknown=0.01), "held3": draw(3_000, unknown=0.05)},
        "last": {"held4": draw(620)},
        "short": {f"s{i}": draw(SHORT) for i in range(15)},
    }
    return build(folder, genomes, validation_contigs=("held1", "held2", "held3", "held4"))


def make_updates(manifest: Manifest, num_tokens: int = NUM_TOKENS, **changes: object):
    fields = {name: changes.pop(name) for name in DATA_FIELDS if name in changes}
    arguments = {"tokenizer": TOKENIZER, "sequences_per_update": 12, "seed": 0} | changes
    data = DataConfig(sequence_tokens=num_tokens, **fields)
    return make_dataset(manifest, "train", data=data, **arguments)


def assert_equal(first: Batch, second: Batch) -> None:
    np.testing.assert_array_equal(first.tokens, second.tokens)
    np.testing.assert_array_equal(first.rows, second.rows)


def locate(tokens: np.ndarray, records: list[bytes]) -> tuple[int, int, int]:
    """The record that a row was cut from, where it starts in it, and how long it is."""
    text = TOKENIZER.decode(tokens).encode()
    found = [(i, start) for i, r in enumerate(records) if (start := r.find(text)) >= 0]
    assert len(found) == 1
    return (*found[0], len(text))


def read_epoch(manifest: Manifest, epoch: int, **changes: object) -> list[tuple[int, int, int]]:
    """Where the rows of an epoch come from."""
    records, dataset = read_all(manifest), make_updates(manifest, **changes)
    first, last = epoch * len(records), (epoch + 1) * len(records)
    updates = range(first // 12, -(-last // 12))
    rows = np.concatenate([dataset[n].tokens for n in updates])[first % 12 :][: len(records)]
    return [locate(row, records) for row in rows]


def test_a_row_is_cls_then_tokens_then_padding(manifest: Manifest) -> None:
    dataset = make_updates(manifest)
    for update in range(12):
        tokens, rows = dataset[update]
        assert (tokens.dtype, tokens.shape) == (np.int32, (12, NUM_TOKENS))
        assert (rows.dtype, rows.tolist()) == (np.int32, list(range(12)))
        assert (tokens[:, 0] == TOKENIZER.cls_token_id).all()
        assert (tokens[:, 1:] > TOKENIZER.cls_token_id).any(axis=1).all()
        is_pad = tokens == TOKENIZER.pad_token_id
        assert (is_pad[:, 1:] >= is_pad[:, :-1]).all()


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_reads_each_record_once(manifest: Manifest, epoch: int) -> None:
    places = [record for record, _, _ in read_epoch(manifest, epoch)]
    assert sorted(places) == list(range(len(read_all(manifest))))
    assert places != sorted(places)


def test_starts_lie_within_the_overlap_and_vary(manifest: Manifest) -> None:
    records = read_all(manifest)
    starts = []
    for record, start, length in [row for e in range(4) for row in read_epoch(manifest, e)]:
        if len(records[record]) == CHUNK + 2 * OVERLAP:
            starts.append(start)
            assert length == 600 or b"N" in records[record]
    assert set(starts) == set(range(2 * OVERLAP + 1))  # of about 480 rows
    frames = np.bincount(np.array(starts) % 6)
    assert frames.size == 6
    assert frames.min() > len(starts) / 6 - 5 * np.sqrt(len(starts) / 6)  # standard deviations


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("num_tokens", [100, 101])
def test_the_reading_frame_varies_without_an_overlap(
    overlap: int, num_tokens: int, tmp_path: Path
) -> None:
    """Up to 5 nucleotides are skipped at either end; no sequence is padded for it."""
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 6_000))
    manifest = build(tmp_path, {"one": {"c": letters}}, overlap=overlap)
    records, dataset = read_all(manifest), make_updates(manifest, num_tokens)
    tokens = np.concatenate([dataset[n].tokens for n in range(10)])
    assert (tokens != TOKENIZER.pad_token_id).all()
    assert {start for _, start, _ in (locate(row, records) for row in tokens)} == set(range(6))


def test_full_records_are_not_padded_and_short_ones_are_read_to_the_end(
    manifest: Manifest,
) -> None:
    records = read_all(manifest)
    tokens = np.concatenate([make_updates(manifest)[n].tokens for n in range(20)])
    short_starts = set()
    for row in tokens:
        record, start, length = locate(row, records)
        if len(records[record]) > SHORT:
            assert (row != TOKENIZER.pad_token_id).all()
        else:
            assert start + length == SHORT
            assert (row == TOKENIZER.pad_token_id).sum() >= 100 - SHORT // 6 - 5
            short_starts.add(start)
    assert short_starts == set(range(6))  # so that the reading frame varies, and no more


def test_sequences_shorter_than_a_chunk_read_all_of_a_record(manifest: Manifest) -> None:
    """Of 240 nt: 10 of them in each record of 640 nt leave out 11 %, at its ends."""
    records, dataset = read_all(manifest), make_updates(manifest, num_tokens=41)
    unread = [set(range(len(record))) for record in records]
    short = set()
    for row in np.concatenate([dataset[n].tokens for n in range(10 * len(records) // 12)]):
        assert (row != TOKENIZER.pad_token_id).all()
        record, start, length = locate(row, records)
        unread[record] -= set(range(start, start + length))
        short |= {start} if len(records[record]) == SHORT else set()
    assert sum(map(len, unread)) < 0.13 * sum(map(len, records))
    assert len(short) > 50
    assert max(short) <= SHORT - 240


@pytest.mark.parametrize(
    ("num_tokens", "digest"), [(100, "3724d49106f557a9"), (101, "316d0bf0e4e1966b")]
)
def test_sequences_that_fill_a_chunk_stay_as_they_were(
    manifest: Manifest, num_tokens: int, digest: str
) -> None:
    """Or a chunk but for one k-mer, as the published 1,000 tokens. Runs resume on them."""
    dataset = make_updates(manifest, num_tokens, reverse_complement=0.5)
    found = hashlib.sha256(b"".join(dataset[n].tokens.tobytes() for n in (0, 1, 77)))
    assert found.hexdigest().startswith(digest)


def test_sequences_a_little_longer_than_a_chunk_start_anywhere_in_the_overlap(
    manifest: Manifest,
) -> None:
    records, dataset = read_all(manifest), make_updates(manifest, num_tokens=106)
    tokens = np.concatenate([dataset[n].tokens for n in range(40)])
    starts = set()
    for row in tokens:
        record, start, length = locate(row, records)
        if len(records[record]) == CHUNK + 2 * OVERLAP and b"N" not in records[record]:
            starts.add(start)
            kmers, letters = divmod(min(630, 640 - start), 6)
            assert length == 6 * kmers + min(letters, 105 - kmers)
    assert starts == set(range(2 * OVERLAP + 1))


def test_the_other_strand_is_read_as_if_the_corpus_held_it(manifest: Manifest) -> None:
    """The same records and starts, in records whose every letter was turned round by hand."""
    records, other = read_all(manifest), make_updates(manifest, reverse_complement=1.0)
    turned = [bytes(PARTNERS[letter] for letter in reversed(record)) for record in records]
    forward = make_updates(manifest)
    short_starts = set()
    for update in range(20):
        pairs = zip(forward[update].tokens, other[update].tokens, strict=True)
        for one, row in pairs:
            place, reverse = locate(one, records), locate(row, turned)
            assert reverse[:2] == place[:2]
            if b"N" not in records[place[0]]:
                assert reverse == place
            if len(records[place[0]]) == SHORT:
                short_starts.add(reverse[1])
    assert short_starts == set(range(6))  # so the frame varies from this end, too


def test_a_share_of_the_rows_is_of_the_other_strand_and_the_rest_as_before(
    manifest: Manifest,
) -> None:
    some, none, every = (
        np.concatenate([make_updates(manifest, reverse_complement=s)[n].tokens for n in range(50)])
        for s in (0.3, 0.0, 1.0)
    )
    is_forward = (some == none).all(axis=1)
    np.testing.assert_array_equal(some[~is_forward], every[~is_forward])
    assert abs((~is_forward).sum() - 180) < 5 * np.sqrt(600 * 0.3 * 0.7)  # standard deviations


def test_epochs_differ_and_seeds_differ(manifest: Manifest) -> None:
    first = read_epoch(manifest, 0)
    for other in (read_epoch(manifest, 1), read_epoch(manifest, 0, seed=1)):
        same = sum(a == b for a, b in zip(first, other, strict=True))
        assert same < 6  # 1 in len(records) * 41 is expected by chance


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5, 7, 12])
def test_processes_share_each_update_in_order(manifest: Manifest, num_processes: int) -> None:
    whole = make_updates(manifest)
    parts = [
        make_updates(manifest, process_index=i, num_processes=num_processes)
        for i in range(num_processes)
    ]
    for update in (0, 7, 10**6):
        batches = [part[update] for part in parts]
        together = Batch(*(np.concatenate(column) for column in zip(*batches, strict=True)))
        sizes = [len(batch.rows) for batch in batches]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[-1] == (0 if 12 % num_processes == 0 else 1)
        assert_equal(together, whole[update])


def test_temperature_flattens_the_species(manifest: Manifest) -> None:
    offsets = open_split(manifest, "train").species_offsets

    def count(temperature: float) -> list[int]:
        places = [record for record, _, _ in read_epoch(manifest, 0, temperature=temperature)]
        return np.histogram(places, bins=offsets)[0].tolist()

    assert count(1.0) == np.diff(offsets).tolist() == [100, 20, 15]
    assert count(2.0) == [74, 33, 28]  # 135 draws shared out as 10 : 4.47 : 3.87, by hand
    assert count(1e9) == [45, 45, 45]


def test_update_is_a_function_of_its_number(manifest: Manifest) -> None:
    dataset = make_updates(manifest)
    forward = [dataset[n] for n in range(30)]
    for n in reversed(range(30)):
        assert_equal(make_updates(manifest)[n] if n % 10 == 0 else dataset[n], forward[n])


@pytest.mark.parametrize("num_threads", [1, 4])
def test_iterator_gives_the_updates_in_order(manifest: Manifest, num_threads: int) -> None:
    dataset = make_updates(manifest)
    iterator = make_iterator(dataset, num_threads=num_threads)
    for n in range(25):
        assert_equal(next(iterator), dataset[n])


def test_state_restores_the_position_exactly(manifest: Manifest) -> None:
    dataset = make_updates(manifest)
    iterator = make_iterator(dataset)
    for _ in range(9):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))  # as a checkpoint keeps it
    expected = [next(iterator) for _ in range(12)]
    iterator.set_state(state)
    for fresh in (iterator, make_iterator(make_updates(manifest))):
        fresh.set_state(state)
        for n, batch in enumerate(expected):
            assert_equal(next(fresh), batch)
            assert_equal(batch, dataset[9 + n])


def test_published_lengths_fit_their_chunks(manifest: Manifest) -> None:
    def make_manifest(chunk_length: int) -> Manifest:
        config = {**manifest.config, "chunk_length": chunk_length, "overlap": 100}
        return Manifest(folder=manifest.folder, config=config, genomes=manifest.genomes)

    assert count_needed(make_manifest(6_000), TOKENIZER, 1_000) == 5_994
    assert count_needed(make_manifest(12_000), TOKENIZER, 2_048) == 12_282
    rule = "sequence_tokens = 2048: needs 12282 nt and the chunks of .* have 6000, .*: 1112 tokens"
    with pytest.raises(ValueError, match=rule):
        count_needed(make_manifest(6_000), TOKENIZER, 2_048)
    assert count_needed(make_manifest(6_000), TOKENIZER, 1_112) == 6_666
    with pytest.raises(ValueError, match="1112 tokens at most"):
        count_needed(make_manifest(6_000), TOKENIZER, 1_113)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: make_updates(m, num_tokens=200), "sequence_tokens = 200: needs 1194 nt and the"),
        (lambda m: make_updates(m, num_processes=13), "sequences_per_update = 12: must be at le"),
        (lambda m: make_updates(m, sequences_per_update=0), "sequences_per_update = 0: must be a"),
        (lambda m: make_updates(m, process_index=1), "process_index = 1: must lie between 0 and"),
    ],
)
def test_bad_input_is_one_line(
    manifest: Manifest, call: Callable[[Manifest], object], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as error:
        call(manifest)
    assert "\n" not in str(error.value)
