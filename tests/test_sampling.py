"""Order of the records: permutations, quotas, random access."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucleotide_transformer.data.sampling import (
    RecordOrder,
    compute_quotas,
    draw_starts,
    draw_strands,
    shuffle_indices,
)

sizes_of_species = st.lists(st.integers(1, 400), min_size=1, max_size=8)
temperatures = st.sampled_from([1.0, 1.5, 2.0, 5.0, 1e6])


def make_order(sizes: list[int], temperature: float = 1.0, seed: int = 0) -> RecordOrder:
    return RecordOrder(np.cumsum([0, *sizes]), temperature, seed)


def shuffle_all(size: int, key: int) -> list[int]:
    sizes = np.full(size, size)
    return shuffle_indices(np.arange(size), sizes, np.full(size, key, np.uint64)).tolist()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3_000), st.integers(0, 2**64 - 1))
def test_a_shuffle_is_a_permutation(size: int, key: int) -> None:
    assert sorted(shuffle_all(size, key)) == list(range(size))


def test_shuffles_of_different_sizes_in_one_call_are_those_of_each() -> None:
    together = shuffle_indices(
        np.concatenate([np.arange(7), np.arange(90)]),
        np.repeat([7, 90], [7, 90]),
        np.repeat(np.array([5, 6], np.uint64), [7, 90]),
    )
    assert together.tolist() == shuffle_all(7, 5) + shuffle_all(90, 6)


def test_all_permutations_of_three_are_equally_likely() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 12_000, np.uint64)
    columns = [shuffle_indices(np.full(12_000, i), np.full(12_000, 3), keys) for i in range(3)]
    _, counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
    assert counts.size == 6
    assert abs(counts - 2_000).max() < 5 * np.sqrt(2_000)  # five standard deviations


def test_neighbours_are_shuffled_apart() -> None:
    distances = np.diff(shuffle_all(100_003, key=1)) % 100_003
    counts = np.bincount(distances * 50 // 100_003, minlength=50)
    assert abs(counts - 2_000).max() < 5 * np.sqrt(2_000)  # of 50 equal bins
    assert np.unique(distances, return_counts=True)[1].max() < 12  # Poisson of mean 1


@given(sizes_of_species)
def test_quotas_at_temperature_1_are_the_sizes(sizes: list[int]) -> None:
    assert compute_quotas(np.array(sizes), 1.0).tolist() == sizes


@given(sizes_of_species, temperatures)
def test_quotas_are_in_proportion_and_sum_up(sizes: list[int], temperature: float) -> None:
    quotas = compute_quotas(np.array(sizes), temperature)
    weights = np.array([size ** (1 / temperature) for size in sizes])
    assert quotas.sum() == sum(sizes)
    assert abs(quotas - sum(sizes) * weights / weights.sum()).max() < 1 + 1e-9
    assert quotas[np.argmin(sizes)] >= min(sizes)


def test_a_quota_by_hand() -> None:
    # Roots 30, 20, 10 of 1,400 draws: 700, 466.67, 233.33.
    assert compute_quotas(np.array([900, 400, 100]), 2.0).tolist() == [700, 467, 233]


@settings(max_examples=50, deadline=None)
@given(sizes_of_species, st.integers(-(2**40), 2**70), st.integers(0, 2**20))
def test_an_epoch_holds_each_record_once(sizes: list[int], seed: int, epoch: int) -> None:
    total = sum(sizes)
    drawn = make_order(sizes, seed=seed).draw(np.arange(total) + epoch * total)
    assert drawn.dtype == np.int64
    assert sorted(drawn.tolist()) == list(range(total))


def test_epochs_and_seeds_have_their_own_order() -> None:
    rows = np.arange(1_000)
    orders = [make_order([600, 400], seed=seed).draw(rows) for seed in (0, 1)]
    orders.append(make_order([600, 400]).draw(rows + 1_000))
    for i, order in enumerate(orders):
        for other in [rows, *orders[:i]]:
            assert (order == other).sum() < 15  # of 1,000; 1 expected by chance
            assert ((order < 600) == (other < 600)).sum() < 600  # 520: 0.6 ** 2 + 0.4 ** 2


def test_species_of_one_size_are_shuffled_each_in_its_own_way() -> None:
    # 201 draws of each species an epoch: of the larger ones, two thirds of a pass.
    drawn = make_order([300, 300, 3], temperature=1e9).draw(np.arange(603))
    first, second = set(drawn[drawn < 300]), set(drawn[(drawn >= 300) & (drawn < 600)] - 300)
    assert len(first) == len(second) == 201
    assert len(first & second) < 160  # 134.7 by chance, standard deviation 3.9


def test_species_are_mixed_over_the_epoch() -> None:
    is_first = make_order([500, 1_500]).draw(np.arange(2_000)) < 500
    tenths = is_first.reshape(10, 200).sum(axis=1)
    assert abs(tenths - 50).max() < 5 * np.sqrt(200 * 0.25 * 0.75)  # five standard deviations


@settings(max_examples=50, deadline=None)
@given(sizes_of_species, temperatures, st.integers(1, 7))
def test_epochs_go_on_where_the_last_one_stopped(
    sizes: list[int], temperature: float, num_epochs: int
) -> None:
    order, quotas = make_order(sizes, temperature), compute_quotas(np.array(sizes), temperature)
    total, ends = sum(sizes), np.cumsum(sizes)
    counts = np.zeros(total, int)
    for epoch in range(num_epochs):
        drawn = order.draw(np.arange(total) + epoch * total)
        species = np.searchsorted(ends, drawn, side="right")
        assert np.bincount(species, minlength=len(sizes)).tolist() == quotas.tolist()
        counts += np.bincount(drawn, minlength=total)
    for used in np.split(counts, ends[:-1]):
        assert used.max() - used.min() <= 1


def test_each_pass_is_shuffled_anew() -> None:
    # 200 draws of each species an epoch: epochs 0 and 3 both begin a pass of the larger one.
    order = make_order([300, 100], temperature=1e9)
    first, later = (
        set(order.draw(np.arange(400) + epoch * 400)) - {*range(300, 400)} for epoch in (0, 3)
    )
    assert len(first) == len(later) == 200
    assert len(first & later) < 160  # 133 by chance, standard deviation 4


@settings(max_examples=50, deadline=None)
@given(sizes_of_species, temperatures, st.lists(st.integers(0, 2**50), max_size=20))
def test_a_row_is_drawn_alone_as_among_others(
    sizes: list[int], temperature: float, rows: list[int]
) -> None:
    order = make_order(sizes, temperature)
    together = order.draw(np.array(rows, np.int64)).tolist()
    assert together == [order.draw(np.array([row]))[0] for row in rows]
    assert all(0 <= record < sum(sizes) for record in together)


@pytest.mark.parametrize("largest", [0, 1, 5, 200])
def test_starts_are_uniform_up_to_the_largest(largest: int) -> None:
    num_rows = 1_000 * (largest + 1)
    starts = draw_starts(np.arange(num_rows), np.full(num_rows, largest), seed=3)
    counts = np.bincount(starts, minlength=largest + 1)
    assert counts.size == largest + 1
    assert abs(counts - 1_000).max() < 5 * np.sqrt(1_000)  # five standard deviations


def test_starts_depend_on_the_row_and_the_seed_only() -> None:
    rows, largest = np.arange(500), np.full(500, 200)
    starts = draw_starts(rows, largest, seed=0)
    np.testing.assert_array_equal(draw_starts(rows[::-1], largest, seed=0), starts[::-1])
    assert (draw_starts(rows, largest, seed=1) == starts).sum() < 15  # 2.5 expected by chance


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_strands_have_their_share(share: float) -> None:
    turned = draw_strands(np.arange(10_000), share, seed=3)
    assert abs(turned.sum() - 10_000 * share) <= 5 * np.sqrt(10_000 * share * (1 - share))
    assert not (turned & ~draw_strands(np.arange(10_000), min(1.0, share + 0.2), seed=3)).any()


def test_strands_depend_on_the_row_and_the_seed_and_not_on_the_start() -> None:
    rows = np.arange(10_000)
    strands = draw_strands(rows, 0.5, seed=0)
    np.testing.assert_array_equal(draw_strands(rows[::-1], 0.5, seed=0), strands[::-1])
    odd_starts = draw_starts(rows, np.full(10_000, 199), seed=0) % 2 == 1
    for other in (odd_starts, draw_strands(rows, 0.5, seed=1), np.roll(strands, 1)):
        assert abs((strands == other).sum() - 5_000) < 5 * 50  # standard deviations
