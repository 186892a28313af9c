"""Markov chains as their formulas are written, and texts to fit them to."""

import itertools
import math
from collections import Counter

import numpy as np
from small_genomes import reverse_complement

LETTERS = "ATCG"


class Records:
    """A reader of records in memory."""

    def __init__(self, *records: bytes) -> None:
        self._records = records
        self.read_indices: list[int] = []

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: np.ndarray) -> list[bytes]:
        self.read_indices += np.asarray(indices).tolist()
        return [self._records[index] for index in indices]


def make_text(length: int, seed: int) -> str:
    """Letters of which each depends on the one before, so that the orders differ."""
    steps = np.random.default_rng(seed).choice(4, length, p=[0.6, 0.2, 0.15, 0.05])
    return "".join(LETTERS[i] for i in np.cumsum(steps) % 4)


class PlainChain:
    """The smoothed chain of up to 4 letters, of both strands."""

    def __init__(self, records: list[str], prior_count: float) -> None:
        self.counts = Counter[str]()
        self.prior_count = prior_count
        for record in [*records, *map(reverse_complement, records)]:
            words = [record[end - 5 : end] for end in range(5, len(record) + 1)]
            for word in words:
                if "N" not in word:
                    # Of longer words alone, the first letter of each left out.
                    self.counts.update(word[5 - length :] for length in range(6))

    def probability(self, context: str, letter: str) -> float:
        lower = self.probability(context[1:], letter) if context else 0.25
        total = sum(self.counts[context + other] for other in LETTERS)
        joint = self.counts[context + letter] + self.prior_count * lower
        return joint / (total + self.prior_count)

    def predict(self, before: str, after: str, length: int, order: int) -> dict[str, float]:
        """Probability of each word of a length between two known texts."""
        joint = {}
        for letters in itertools.product(LETTERS, repeat=length):
            text = before + "".join(letters) + after
            joint["".join(letters)] = math.prod(
                self.probability(text[max(0, i - order) : i], text[i])
                for i in range(len(before), min(len(text), len(before) + length + order))
            )
        return {word: p / sum(joint.values()) for word, p in joint.items()}
