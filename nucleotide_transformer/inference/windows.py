"""Sequences longer than the model's positions: windows of tokens that overlap, and who owns what.

A sequence is tokenized as a whole, and windows are slices of its tokens: the reading frame of the
k-mers is the same in all of them. Every window gets a `<cls>` of its own. Windows are spread
evenly, so that all of them are full and neighbours share at least the overlap asked for. Of the
tokens that two windows share, the first half belongs to the left window and the second half to the
right one: a token's values come from the window in which it is farther from an edge, and every
token belongs to exactly one window.
"""

from typing import NamedTuple

import numpy as np

from nucleotide_transformer.errors import require
from nucleotide_transformer.types import Int


class Window(NamedTuple):
    """A slice of the tokens of a sequence; indices count from its `<cls>`, which is 0."""

    start: int
    """First token, at least 1."""
    stop: int
    """One past the last token."""
    own_start: int
    """First token that belongs to this window and to no other."""
    own_stop: int
    """One past the last such token."""

    @property
    def num_own(self) -> int:
        """Tokens that belong to this window."""
        return self.own_stop - self.own_start

    def cut(self, tokens: Int[np.ndarray, " T"]) -> Int[np.ndarray, " W"]:
        """The `<cls>` of a sequence and the window's slice of it."""
        if self.start == 1 and self.stop == tokens.size:
            return tokens
        return np.concatenate([tokens[:1], tokens[self.start : self.stop]])

    def own_slice(self) -> slice:
        """Where the window's own tokens are in what `cut` returns."""
        return slice(self.own_start - self.start + 1, self.own_stop - self.start + 1)


def place_windows(num_tokens: int, window_tokens: int, overlap_tokens: int) -> list[Window]:
    """Returns the windows of a sequence: one if it fits, else as few as the overlap allows.

    Args:
        num_tokens: tokens of the sequence, `<cls>` included.
        window_tokens: tokens of a window, `<cls>` included; at least 2.
        overlap_tokens: fewest tokens that neighbours share; below window_tokens - 1.
    """
    body, width = num_tokens - 1, window_tokens - 1
    rule = f"must lie between 0 and window_tokens - 2 = {width - 1}"
    require(0 <= overlap_tokens < width, "overlap_tokens", overlap_tokens, rule)
    if body <= width:
        return [Window(1, num_tokens, 1, num_tokens)]
    steps = -(-(body - width) // (width - overlap_tokens))
    starts = [1 + i * (body - width) // steps for i in range(steps + 1)]
    pairs = zip(starts[1:], starts[:-1], strict=True)
    borders = [1, *((right + left + width) // 2 for right, left in pairs), num_tokens]
    return [Window(start, start + width, *borders[i : i + 2]) for i, start in enumerate(starts)]
