"""Sequences longer than the model's positions become windows that overlap.

A sequence is tokenized as a whole, and windows are slices of its tokens: the reading frame of the
k-mers is the same in all of them. Every window gets a `<cls>` of its own. Windows are spread
evenly, so that all of them are full and neighbours share at least the overlap asked for. Of the
tokens that two windows share, the first half belongs to the left window and the second half to the
right one: a token's values come from the window in which it is farther from an edge, and every
token belongs to exactly one window.
"""

import bisect
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nucleotide_transformer.errors import require
from nucleotide_transformer.types import Int


class WindowSize(NamedTuple):
    """The two numbers that `place_windows` takes."""

    window_tokens: int
    overlap_tokens: int


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
    layout = _lay_out(num_tokens, WindowSize(window_tokens, overlap_tokens))
    return [layout.place(index) for index in range(layout.steps + 1)]


def find_windows(
    wanted: Int[np.ndarray, " W"], num_tokens: int, size: WindowSize
) -> Iterator[tuple[Window, Int[np.ndarray, " M"]]]:
    """Yields those of `place_windows` that own wanted tokens, and these; no other is looked at.

    Args:
        wanted: indices of tokens in increasing order, without `<cls>`.
        num_tokens: tokens of the sequence, `<cls>` included.
        size: of the windows.
    """
    layout, done = _lay_out(num_tokens, size), 0
    while done < wanted.size:
        inner = range(1, layout.steps + 1)
        window = layout.place(bisect.bisect_right(inner, wanted[done], key=layout.find_border))
        stop = int(np.searchsorted(wanted, window.own_stop))
        yield window, wanted[done:stop]
        done = stop


class _Layout(NamedTuple):
    """Where windows lie in a sequence."""

    body: int
    """Tokens of the sequence, without `<cls>`."""
    width: int
    """Those of a window."""
    steps: int
    """From the first window to the last."""

    def find_start(self, index: int) -> int:
        """First token of a window."""
        return 1 + index * (self.body - self.width) // max(self.steps, 1)

    def find_border(self, index: int) -> int:
        """First token that a window owns; of the one after the last, the end of the sequence."""
        if index in (0, self.steps + 1):
            return 1 + self.body * (index > 0)
        return (self.find_start(index) + self.find_start(index - 1) + self.width) // 2

    def place(self, index: int) -> Window:
        """A window, counted from 0."""
        start = self.find_start(index)
        stop = min(start + self.width, 1 + self.body)
        return Window(start, stop, self.find_border(index), self.find_border(index + 1))


def _lay_out(num_tokens: int, size: WindowSize) -> _Layout:
    """Spreads windows evenly; see `place_windows`."""
    body, width = num_tokens - 1, size.window_tokens - 1
    rule = f"must lie between 0 and window_tokens - 2 = {width - 1}"
    require(0 <= size.overlap_tokens < width, "overlap_tokens", size.overlap_tokens, rule)
    return _Layout(body, width, max(-(-(body - width) // (width - size.overlap_tokens)), 0))
