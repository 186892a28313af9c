"""Which record each row of a run reads, where, and which strand: pure functions of (seed, row).

The rows of a run are numbered from 0 over all updates. Every N rows, N the number of records, are
an epoch, in which each species has a fixed number of draws, its quota. Nothing is carried from row
to row: any row can be found at once, and a resumed run needs to know its number only.
"""

import numpy as np
from jaxtyping import UInt64

from nucleotide_transformer.types import Bool, Int

_ROUNDS = 24  # two rows stay at their distance with probability 2**-24
_EPOCH, _PASS, _START, _STRAND = range(4)  # streams of random numbers of one seed


def compute_quotas(sizes: Int[np.ndarray, " S"], temperature: float) -> Int[np.ndarray, " S"]:
    """Returns how many of an epoch's draws each species gets: whole numbers, N together.

    They are in proportion to size ** (1 / temperature), rounded by largest remainder. With
    temperature 1 they are the sizes themselves.

    Args:
        sizes: records of each species, above 0, with N as their sum.
        temperature: 1 for draws in proportion to size, larger for flatter ones.
    """
    total = int(sizes.sum())
    weights = (sizes / sizes.max()) ** (1 / temperature)
    shares = total * weights / weights.sum()
    quotas = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(quotas - shares, kind="stable")
    quotas[by_remainder[: total - int(quotas.sum())]] += 1
    return quotas


class RecordOrder:
    """The order in which a run goes through the records of its split.

    With temperature 1 every epoch holds each record once, shuffled over all species. In general a
    species goes through its own records pass by pass, each pass shuffled anew, and an epoch
    continues where the one before left off; so its records are used equally often.

    Args:
        species_offsets: [species + 1]: records of species i are offsets[i] to offsets[i + 1] - 1.
        temperature: as in `compute_quotas`.
        seed: of the order.
    """

    def __init__(
        self, species_offsets: Int[np.ndarray, " _"], temperature: float, seed: int
    ) -> None:
        self._first = species_offsets[:-1].astype(np.int64)
        self._sizes = np.diff(species_offsets).astype(np.int64)
        self._quotas = compute_quotas(self._sizes, temperature)
        self._quota_ends = np.cumsum(self._quotas)
        self._seed = seed

    def draw(self, rows: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """Returns the index of the record that each row of the run reads, int64."""
        num_records = int(self._quota_ends[-1])
        epoch, slot = np.divmod(rows, num_records)
        sizes = np.full_like(slot, num_records)
        place = shuffle_indices(slot, sizes, _hash(self._seed, _EPOCH, epoch))
        species = np.searchsorted(self._quota_ends, place, side="right")
        quota, size = self._quotas[species], self._sizes[species]
        draw = epoch * quota + place - (self._quota_ends[species] - quota)
        number, position = np.divmod(draw, size)
        record = shuffle_indices(position, size, _hash(self._seed, _PASS, species, number))
        return self._first[species] + record


def draw_starts(
    rows: Int[np.ndarray, " B"], largest: Int[np.ndarray, " B"], seed: int
) -> Int[np.ndarray, " B"]:
    """Returns where each row starts in its record: uniform over 0 to `largest`, both included."""
    bounds = largest.astype(np.uint64) + np.uint64(1)
    return (_hash(seed, _START, rows) % bounds).astype(np.int64)


def draw_strands(rows: Int[np.ndarray, " B"], share: float, seed: int) -> Bool[np.ndarray, " B"]:
    """Returns which rows read the reverse complement: each with probability `share`."""
    uniform = (_hash(seed, _STRAND, rows) >> np.uint64(11)) * 2.0**-53  # exact, below 1
    return uniform < share


def shuffle_indices(
    indices: Int[np.ndarray, " B"], sizes: Int[np.ndarray, " B"], keys: UInt64[np.ndarray, " B"]
) -> Int[np.ndarray, " B"]:
    """Returns where each index lies in the permutation of [0, size) that its key stands for.

    The swap-or-not shuffle (Hoang, Morris and Rogaway 2012): in each round a pivot pairs every
    index with another one, and a random bit of the pair says whether the two change places. It
    takes as long for any size; grain's `index_shuffle` needs milliseconds for sizes below 100.

    Args:
        indices: each from 0 to its size - 1.
        sizes: of the permutations, 1 or above.
        keys: random bits, one number for each permutation.
    """
    moduli, places = sizes.astype(np.uint64), indices.astype(np.uint64)
    for i in range(_ROUNDS):
        round_keys = _mix(keys + np.uint64(i))
        partners = (round_keys % moduli + moduli - places) % moduli
        bits = _mix(round_keys ^ np.maximum(places, partners)) & np.uint64(1)
        places = np.where(bits == 1, partners, places)
    return places.astype(np.int64)


def _hash(seed: int, stream: int, *parts: Int[np.ndarray, " B"]) -> UInt64[np.ndarray, " B"]:
    """Returns 64 random bits for each column of numbers; depends on their order."""
    mixed = _mix(np.array([seed % 2**64], np.uint64))
    for part in (np.array([stream]), *parts):
        mixed = _mix(mixed ^ part.astype(np.uint64))
    return mixed


def _mix(bits: UInt64[np.ndarray, " B"]) -> UInt64[np.ndarray, " B"]:
    """Returns the bits one step of SplitMix64 later (Steele, Lea and Flood 2014): a bijection."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
