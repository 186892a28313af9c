"""What a record is worth: how much of it is sequence, neither padding nor N."""

from collections.abc import Sequence

from nucleotide_transformer.data.corpus_config import CorpusConfig

TOKEN_LENGTH = 6
"""Nucleotides of a token, where shares of tokens are given: those of the published models. An N is
a token of its own."""


class ChunkRules:
    """Which chunks become records, and which of those are packed."""

    def __init__(self, config: CorpusConfig) -> None:
        config = config.resolve(None)
        self._config = config
        self._record_length = config.chunk_length + 2 * config.overlap
        self.changed = 0
        """Chunks that earlier versions would have written as they are, and this one does not."""

    def keep(self, chunk: bytes, *, is_long: bool) -> bool:
        """Whether a chunk becomes a record, or a part of one.

        Args:
            chunk: upper-case A, C, G, T, N.
            is_long: its segment has `min_length`.
        """
        num_unknown = chunk.count(b"N")
        if num_unknown > self._config.max_unknown * len(chunk):
            return False
        most = self._config.max_unknown_tokens
        assert most is not None
        if is_long and num_unknown <= most * count_tokens(len(chunk), num_unknown):
            return True
        self.changed += 1
        return False

    def is_packed(self, chunk: bytes) -> bool:
        """Whether a chunk that is kept is joined with others."""
        is_short = self._config.short_contigs == "pack" and len(chunk) < self._record_length
        self.changed += is_short
        return is_short


def count_tokens(num_letters: int, num_unknown: int) -> float:
    """Tokens that letters make, of which some are N."""
    return num_unknown + (num_letters - num_unknown) / TOKEN_LENGTH


def find_n50(lengths: Sequence[int]) -> int:
    """The length such that contigs of this length or a greater one hold half of the nucleotides."""
    num_left = sum(lengths) / 2
    for length in sorted(lengths, reverse=True):
        num_left -= length
        if num_left <= 0:
            return length
    return 0
