"""Which record a row of the run reads: data/sampling.py, one row at a time, for `plain_run`."""

import itertools
import math

EPOCH, PASS, START, STRAND = 0, 1, 2, 3
WORD = 2**64


def mix(bits):
    """SplitMix64."""
    bits = (bits + 0x9E3779B97F4A7C15) % WORD
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) % WORD
    return bits ^ (bits >> 31)


def hash_numbers(seed, *numbers):
    mixed = mix(seed)
    for number in numbers:
        mixed = mix(mixed ^ number)
    return mixed


def shuffle(place, size, key):
    """Where a place goes: 24 rounds of swapping, or not, with a partner (Hoang et al. 2012)."""
    for number in range(24):
        round_key = mix((key + number) % WORD)
        partner = (round_key - place) % size
        if mix(round_key ^ max(place, partner)) % 2 == 1:
            place = partner
    return place


def share_out_draws(sizes, temperature):
    """Draws of each species in an epoch: in proportion to size ** (1 / temperature)."""
    weights = [size ** (1 / temperature) for size in sizes]
    shares = [sum(sizes) * weight / sum(weights) for weight in weights]
    quotas = [math.floor(share) for share in shares]
    missing = sum(sizes) - sum(quotas)
    by_remainder = sorted(range(len(sizes)), key=lambda i: quotas[i] - shares[i])
    for species in by_remainder[:missing]:
        quotas[species] += 1
    return quotas


def choose_record(row, offsets, temperature, seed):
    """The number of the record that a row of the run reads, rows counted over all updates."""
    sizes = [end - start for start, end in itertools.pairwise(offsets)]
    quotas = share_out_draws(sizes, temperature)
    epoch, slot = divmod(row, sum(sizes))
    place = shuffle(slot, sum(sizes), hash_numbers(seed, EPOCH, epoch))
    species = 0
    while place >= quotas[species]:
        place -= quotas[species]
        species += 1
    number, position = divmod(epoch * quotas[species] + place, sizes[species])
    key = hash_numbers(seed, PASS, species, number)
    return offsets[species] + shuffle(position, sizes[species], key)
