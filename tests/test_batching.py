"""Windows and batches of variable-length sequences: few shapes, little padding; no model."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from jax import numpy as jnp

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.inference import batching
from nucleotide_transformer.inference.windows import WindowSize, find_windows, place_windows
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Array, Int, Params


@pytest.mark.parametrize(("sizes", "count", "slack"), [
    (batching.SIZES_ON_CPU, 24, 1 / 8), (batching.SIZES_ELSEWHERE, 12, 1 / 4),
])  # fmt: skip
def test_lengths_of_batches_are_few_and_close(
    sizes: batching.BatchSizes, count: int, slack: float
) -> None:
    lengths = [sizes.round_length(n, 2048) for n in range(1, 2049)]
    assert len(set(lengths)) == count
    for n, length in enumerate(lengths, start=1):
        assert n <= length < n + max(sizes.shortest_step, n * slack)
    assert sizes.round_length(990, 1000) == 1000
    for n, length in enumerate(lengths, start=1):
        assert n <= sizes.fit_length(n, length, 2048) <= length
    rows = {sizes.round_rows(n, 16) for n in range(1, 17)}
    assert rows == ({1, 4, 8, 12, 16} if sizes.shares == 4 else {1, 16})


def describe_batch(params: Params, tokens: Int[Array, "B T"], numbers: Int[Array, "B E"]) -> Any:
    """A task that says to each row: rows and tokens of its batch, rows that are no padding, and
    the place in the input that the row came with."""
    shape = jnp.broadcast_to(jnp.array(tokens.shape), (len(tokens), 2))
    num_real = jnp.full(len(tokens), (numbers[:, 1] > 0).sum())
    return jnp.column_stack([shape, num_real, numbers[:, 0]])


def run_described(lengths: np.ndarray) -> tuple[float, int]:
    """Rows of some lengths through one device; the share that padding adds, and the programs."""
    rows = [batching.Row(np.zeros(size, np.int32), (i, 1)) for i, size in enumerate(lengths)]
    model = Model(params={}, config=ModelConfig(), tokenizer=KmerTokenizer())
    one = batching.BatchConfig(num_devices=1)
    found = np.array(list(batching.run_rows(model, describe_batch, rows, one)))
    num_rows, num_tokens, num_real, places = found.T
    assert places.tolist() == list(range(len(lengths)))
    assert (num_tokens >= lengths).all()
    # Each row of a batch bears its share of the batch's tokens.
    added = (num_rows * num_tokens / num_real).sum() / lengths.sum() - 1
    return float(added), len({*zip(num_rows, num_tokens, strict=True)})


@pytest.mark.parametrize(("sizes", "most_added", "most_programs"), [
    (batching.SIZES_ON_CPU, 0.10, 26), (batching.SIZES_ELSEWHERE, 0.15, 8),
])  # fmt: skip
def test_little_is_padding_and_few_programs_are_compiled(
    sizes: batching.BatchSizes,
    most_added: float,
    most_programs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """2,000 sequences of 50 to 6,000 nt, in the order of the input whatever their lengths."""
    monkeypatch.setattr(batching, "SIZES_ON_CPU", sizes)
    monkeypatch.setattr(batching, "SIZES_ELSEWHERE", sizes)
    added, programs = run_described(np.random.default_rng(0).integers(50, 6001, 2_000) // 6 + 1)
    assert added < most_added
    assert programs <= most_programs


@pytest.mark.parametrize("num_nucleotides", [200, 300, 400, 500, 600, 1_000])
def test_sequences_of_one_length_are_hardly_padded_on_a_cpu(num_nucleotides: int) -> None:
    """As tables of tasks have them; the N of some make them a few tokens longer."""
    plain = num_nucleotides // 6 + num_nucleotides % 6 + 1
    added, programs = run_described(np.array([plain] * 395 + [plain + 3] * 5))
    assert added < 0.14
    assert programs <= 2


@pytest.mark.parametrize(("num_tokens", "window", "overlap"), [
    (2, 2, 0), (9, 9, 7), (10, 9, 7), (17, 9, 0), (18, 9, 0), (100, 17, 5), (1001, 64, 8),
    (50, 3, 1),
])  # fmt: skip
def test_every_token_belongs_to_one_window(num_tokens: int, window: int, overlap: int) -> None:
    windows = place_windows(num_tokens, window, overlap)
    own = [i for w in windows for i in range(w.own_start, w.own_stop)]
    assert own == list(range(1, num_tokens))
    if num_tokens <= window:
        assert len(windows) == 1
        return
    assert {w.stop - w.start for w in windows} == {window - 1}
    shared = [left.stop - right.start for left, right in itertools.pairwise(windows)]
    assert min(shared) >= overlap
    fewest = -(-(num_tokens - 1 - overlap) // (window - 1 - overlap))
    assert len(windows) == fewest
    for left, right in itertools.pairwise(windows):  # farther from an edge than in the other one
        for i in range(right.start, left.stop):
            farther_left = left.stop - 1 - i >= i - right.start + 1
            assert (i < left.own_stop) == farther_left


@pytest.mark.parametrize("num_tokens", [20, 200, 10**12])
def test_only_windows_that_own_a_token_are_placed(num_tokens: int) -> None:
    wanted = np.array([1, 2, 15, num_tokens // 2, num_tokens - 1])
    found = list(find_windows(wanted, num_tokens, WindowSize(24, 7)))
    np.testing.assert_array_equal(np.concatenate([mine for _, mine in found]), wanted)
    for window, mine in found:
        assert mine.size
        assert window.own_start <= mine[0] <= mine[-1] < window.own_stop
    if num_tokens < 10**12:
        assert {window for window, _ in found} <= set(place_windows(num_tokens, 24, 7))


@pytest.mark.parametrize(("bad", "place"), [("", "sequence 2 = ''"), ("ACGX", "sequence 2, pos")])
def test_a_list_is_checked_before_its_first_sequence_is_computed(bad: str, place: str) -> None:
    """Of what is read as it is needed, what comes before the mistake is given first."""
    rows = ["ACG", "ACGTA", bad]
    with pytest.raises(InputError, match=place):
        next(batching.encode_sequences(KmerTokenizer(), rows))
    stream = batching.encode_sequences(KmerTokenizer(), iter(rows))
    assert [tokens.size for tokens in itertools.islice(stream, 2)] == [4, 6]
    with pytest.raises(InputError, match=place):
        next(stream)


def test_a_result_is_given_before_the_next_sequence_is_read() -> None:
    """Where no two rows may be held, also of sequences of several rows or of none."""
    model = Model(params={}, config=ModelConfig(), tokenizer=KmerTokenizer())
    config, order = batching.BatchConfig(num_devices=1, batch_tokens=1), list[str]()

    def make_groups() -> Iterator[tuple[int, Iterator[tuple[int, batching.Row]]]]:
        for number, count in enumerate([1, 0, 3, 2, 0]):
            order.append(f"read {number}")
            rows = (batching.Row(np.zeros(40, np.int32), (place, 1)) for place in range(count))
            yield number, enumerate(rows)
        raise InputError("no more")

    def read(place: int, result: np.ndarray) -> int:
        assert result[-1] == place
        return place

    found = batching.run_groups(model, describe_batch, make_groups(), config, read)
    given = (order.append(f"gave {number}: {places}") for number, places in found)
    with pytest.raises(InputError, match="no more"):
        list(given)
    steps = ["read 0", "gave 0: [0]", "read 1", "read 2", "gave 1: []", "gave 2: [0, 1, 2]"]
    assert order == [*steps, "read 3", "gave 3: [0, 1]", "read 4"]
