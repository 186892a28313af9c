"""Nucleotides to tokens and back: the vocabularies of the released models, vectorised.

A text is read from left to right. Inside a run of A, C, G and T every k letters are one token; what
is left at the end of the run is one token a letter. N is always alone, and so is a special token
such as `<mask>` in the text: both end the run.

How it is made fast: all texts of a batch are joined into one, every byte becomes a code, and the
codes above `_LAST_LETTER` (N, special tokens, the separator that stands for `<cls>`) cut it into
segments: one such code and the run after it. The widths of a segment's tokens are then known, and
with them where each token starts.
"""

import dataclasses
import functools
import itertools
import operator
import re
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
from jaxtyping import Integer, Shaped

from nucleotide_transformer.errors import InputError, RuleError, require
from nucleotide_transformer.token_ids import SPECIAL_TOKENS, TokenIds
from nucleotide_transformer.types import Int, UInt8, Vocabulary

Nucleotides = str | bytes | Shaped[np.ndarray, "..."]
"""Text, or its ASCII bytes, or those as an array of uint8 with one axis."""
ManyNucleotides = Sequence[Nucleotides] | UInt8[np.ndarray, "B _"]
"""Several of them; an array has one in each row."""

UNKNOWN = 4
"""Code of every byte that is not A, T, C or G, which are 0 to 3."""
_LETTERS = "ATCG"
_LETTER_CODES = bytes(b"ATCG".find(letter) % (UNKNOWN + 1) for letter in range(256))
"""`find` gives -1 for what is not found, which is 4 modulo 5."""
_AMBIGUOUS = "NRYSWKMBDHV"

# Codes of a byte: 0 to 3 are the letters, and what follows is a token by itself.
_LAST_LETTER, _N, _SEPARATOR, _FIRST_SPECIAL, _INVALID = 3, 4, 5, 6, 255
_ESCAPE = 0x80  # special token i is this byte + i, once the text is known to be ASCII
_ROWS_AT_ONCE = 64  # of about 6,000 nt: their arrays stay in the cache of a core


def _make_codes() -> bytes:
    """The code of each of the 256 bytes, as `bytes.translate` takes it."""
    codes = bytearray([_INVALID] * 256)
    spellings = {letter: code for code, letter in enumerate(_LETTERS)}
    spellings |= {"U": spellings["T"]} | dict.fromkeys(_AMBIGUOUS, _N)
    for letter, code in spellings.items():
        codes[ord(letter)] = codes[ord(letter.lower())] = code
    codes[ord("\n")] = _SEPARATOR
    for i in range(len(SPECIAL_TOKENS["v2"])):
        codes[_ESCAPE + i] = _FIRST_SPECIAL + i
    return bytes(codes)


_CODES = _make_codes()


@dataclasses.dataclass(frozen=True)
class KmerTokenizer(TokenIds):
    """Tokens of k nucleotides, in the vocabulary of the released models.

    Ids: the special tokens (four in `v1`, six in `v2`), the 4**k k-mers in the order of the letters
    A, T, C, G with the first letter most significant, then A, T, C, G and N alone.

    In what is encoded, lower case counts as upper case, U as T, and the other IUPAC codes
    (RYSWKMBDHV) as N. Special tokens are recognised in lower case only. Any other character is an
    error: also white space, gaps and X.

    Example:
        >>> tokenizer = KmerTokenizer(vocabulary="v2", k=6)
        >>> tokenizer.encode("ATTCCGA<mask>").tolist()
        [3, 369, 4102, 2]
        >>> tokenizer.decode([3, 369, 4102, 2, 1, 1])
        'ATTCCGA<mask>'

    Attributes:
        vocabulary: "v1" (4,105 ids for k = 6) or "v2" (4,107).
        k: nucleotides in a k-mer token, 3 to 8.
    """

    vocabulary: Vocabulary = "v2"
    k: int = 6

    def __post_init__(self) -> None:
        rule = f"must be one of {', '.join(SPECIAL_TOKENS)}"
        require(self.vocabulary in SPECIAL_TOKENS, "vocabulary", self.vocabulary, rule)
        require(3 <= self.k <= 8, "k", self.k, "must lie between 3 and 8")

    def encode(self, sequence: Nucleotides) -> Int[np.ndarray, " T"]:
        """Returns the int32 ids of one sequence, `<cls>` first; `<cls>` alone if it is empty.

        Raises:
            InputError: with the position, from 0, of the first character that is no nucleotide.
        """
        ids, _, is_valid = self._encode_texts([_to_ascii(sequence)])
        if not is_valid:
            raise InputError(self._describe_invalid(sequence))
        return ids

    def encode_batch(
        self, sequences: ManyNucleotides, length: int | None = None, truncate: bool = False
    ) -> Int[np.ndarray, "B T"]:
        """Returns the int32 ids of several sequences, `<cls>` first, filled up with `<pad>`.

        Args:
            sequences: one row each; may be empty.
            length: tokens of every row, `<cls>` included; those of the longest by default.
            truncate: drop the tokens after `length` instead of raising. What is dropped must be
                valid all the same.

        Raises:
            InputError: where a character is no nucleotide (the sequence, the position), or where a
                sequence has more than `length` tokens (the sequence, by how much).
        """
        require(length is None or length >= 1, "length", length, "must be 1 or above")
        is_text = isinstance(sequences, str | bytes)
        require(not is_text, "sequences", sequences[:20], "must be several: encode() takes one")
        ids, sizes = self._encode_blocks(sequences)
        width = int(sizes.max(initial=0)) if length is None else length
        if not truncate:
            _require_fit(sizes, width)
        batch = np.full((len(sequences), width), self.pad_token_id, np.int32)
        ends = np.cumsum(sizes)
        for row, start, end in zip(batch, (ends - sizes).tolist(), ends.tolist(), strict=True):
            row[: end - start] = ids[start : min(end, start + width)]
        return batch

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " T"]) -> str:
        """Returns the text of one sequence of ids: the inverse of `encode`.

        One leading `<cls>` and the `<pad>`s at the end are dropped, which `encode` and
        `encode_batch` put there; all other special tokens are spelled out. So
        `encode(decode(ids))` gives `ids` back for everything that `encode` returns, unless the
        text itself ended in `<pad>`.

        Raises:
            InputError: for the first id outside the vocabulary, with its position.
        """
        array = np.asarray(ids)
        require(array.ndim == 1, "ids", array.shape, "must have one axis: decode row by row")
        outside = np.flatnonzero((array < 0) | (array >= self.vocabulary_size))
        for position in outside[:1]:
            rule = f"must lie between 0 and {self.vocabulary_size - 1}"
            raise RuleError(f"ids[{position}]", int(array[position]), rule)
        start = int(array[:1].tolist() == [self.cls_token_id])
        kept = np.flatnonzero(array != self.pad_token_id)
        stop = kept[-1] + 1 if kept.size else 0
        return "".join(self.tokens[i] for i in array[start:stop].tolist())

    @functools.cached_property
    def tokens(self) -> tuple[str, ...]:
        """Every token, in the order of the ids; what a `vocab.txt` lists."""
        kmers = map("".join, itertools.product(_LETTERS, repeat=self.k))
        return (*SPECIAL_TOKENS[self.vocabulary], *kmers, *_LETTERS, "N")

    @functools.cached_property
    def _ids_by_token(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    def id_to_token(self, token_id: SupportsIndex) -> str:
        """Returns the spelling of an id, or raises an `InputError` if there is none."""
        index = operator.index(token_id)
        rule = f"must lie between 0 and {self.vocabulary_size - 1}"
        require(0 <= index < self.vocabulary_size, "token_id", index, rule)
        return self.tokens[index]

    def token_to_id(self, token: str) -> int:
        """Returns the id of a token, spelled as in `tokens`; an `InputError` if it is none."""
        rule = f"is no token of vocabulary {self.vocabulary} with k = {self.k}"
        require(token in self._ids_by_token, "token", token, rule)
        return self._ids_by_token[token]

    @functools.cached_property
    def _ids_by_code(self) -> Int[np.ndarray, " C"]:
        """Ids of the tokens that are one code long, in the order of the codes."""
        letters = self.first_letter_id + np.arange(5)
        special = np.arange(self.first_kmer_id)
        return np.concatenate([letters, [self.cls_token_id], special]).astype(np.int32)

    def _encode_blocks(
        self, sequences: ManyNucleotides
    ) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " B"]]:
        """Returns the ids of all sequences in a row, and how many each has."""
        all_ids, all_sizes = [np.zeros(0, np.int32)], [np.zeros(0, np.intp)]
        for first in range(0, len(sequences), _ROWS_AT_ONCE):
            block = sequences[first : first + _ROWS_AT_ONCE]
            ids, sizes, is_valid = self._encode_texts([_to_ascii(text) for text in block])
            if not is_valid:
                found = (self._describe_invalid(text) for text in block)
                i, problem = next((i, problem) for i, problem in enumerate(found) if problem)
                raise InputError(f"sequence {first + i}, {problem}")
            all_ids.append(ids)
            all_sizes.append(sizes)
        return np.concatenate(all_ids), np.concatenate(all_sizes)

    def _encode_texts(
        self, texts: list[bytes]
    ) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " B"], bool]:
        """Returns the ids of all texts in a row, how many each has, and whether all are valid.

        If they are not, the rest means nothing.
        """
        # k separators at the end: one ends the last run, and a k-mer can be read anywhere before.
        text = b"\n".join([b"", *texts, b"\n" * (self.k - 1)])
        is_valid = text.isascii()
        if b"<" in text:
            for i, token in enumerate(SPECIAL_TOKENS[self.vocabulary]):
                text = text.replace(token.encode(), bytes([_ESCAPE + i]))
        codes = np.frombuffer(text.translate(_CODES), np.uint8)
        breaks = np.flatnonzero(codes > _LAST_LETTER)
        rows = np.flatnonzero(codes[breaks] == _SEPARATOR)
        if not is_valid or codes.max() == _INVALID or rows.size != len(texts) + self.k:
            return np.zeros(0, np.int32), np.zeros(0, np.intp), False

        num_segments = breaks.size - self.k
        runs = breaks[1 : num_segments + 1] - breaks[:num_segments] - 1
        counts = np.ones((num_segments, 3), np.intp)  # the break, k-mers, single letters
        np.divmod(runs, self.k, out=(counts[:, 1], counts[:, 2]))
        widths = np.array([[1, self.k, 1]], np.uint8).repeat(num_segments, axis=0)
        widths = widths.ravel().repeat(counts.ravel())
        starts = np.add.accumulate(widths, dtype=np.intp)
        starts -= widths

        ids = roll_words(codes, self.k, np.uint16)[starts].astype(np.int32)
        ids += self.first_kmer_id
        alone = np.flatnonzero(widths == 1)
        ids[alone] = self._ids_by_code[codes[starts[alone]]]
        return ids, np.add.reduceat(counts.sum(axis=1), rows[: len(texts)]), True

    def _describe_invalid(self, sequence: Nucleotides) -> str | None:
        """Returns what is wrong with a sequence, in one line, or None if it is valid."""
        text = sequence if isinstance(sequence, str) else _to_ascii(sequence).decode("latin-1")
        letters = f"{_LETTERS}U{_AMBIGUOUS}"
        special = SPECIAL_TOKENS[self.vocabulary]
        # Possessive, or `re` would remember every place that it could go back to.
        valid = re.match(f"(?:[{letters}{letters.lower()}]++|{'|'.join(special)})*+", text)
        position = valid.end() if valid else 0
        if position == len(text):
            return None
        rule = f"must be a nucleotide (IUPAC: {letters}) or one of {' '.join(special)}"
        return f"position {position}: character {text[position]!r} {rule}"


def _to_ascii(sequence: Nucleotides) -> bytes:
    """Returns the bytes of a sequence, with `?`, which is invalid, for what ASCII lacks."""
    if isinstance(sequence, str):
        return sequence.encode("ascii", "replace")
    if isinstance(sequence, np.ndarray):
        form = (sequence.dtype.name, sequence.ndim)
        require(form == ("uint8", 1), "sequence", form, "an array must be uint8 with one axis")
    return bytes(sequence)


def roll_words(
    codes: UInt8[np.ndarray, " N"], length: int, dtype: type[np.integer]
) -> Integer[np.ndarray, " W"]:
    """Returns the number that `length` letters from each place on spell, 2 bits a letter.

    Words of 1 letter become words of 2, 4, and so on: two that overlap agree in the letters that
    they share, so that an `or` joins them. Where one of the codes is no letter, the number means
    nothing.
    """
    words: Integer[np.ndarray, " W"] = codes.astype(dtype)
    num_letters = 1
    while num_letters < length:
        step = min(num_letters, length - num_letters)
        following = words[step:]
        words = words[:-step] << 2 * step
        words |= following
        num_letters += step
    return words


def encode_letters(text: bytes) -> UInt8[np.ndarray, " N"]:
    """Returns the codes of A, T, C, G in upper case, 0 to 3; all other bytes are `UNKNOWN`."""
    return np.frombuffer(text.translate(_LETTER_CODES), np.uint8)


def number_kmers(codes: UInt8[np.ndarray, " N"], k: int) -> Int[np.ndarray, " W"]:
    """Returns the number of the k-mer that starts at each place, -1 if a letter is unknown (4)."""
    unknown = np.concatenate([[0], np.cumsum(codes > _LAST_LETTER)])
    return np.where(unknown[k:] > unknown[:-k], -1, roll_words(codes, k, np.int64))


def reverse_words(
    words: Int[np.ndarray, " N"], length: int, *, flip: int = 3
) -> Int[np.ndarray, " N"]:
    """Returns the numbers of the reverse complements; a letter `^ flip` is its complement."""
    reverse = np.zeros_like(words)
    for _ in range(length):
        reverse = reverse << 2 | words & 3 ^ flip
        words = words >> 2
    return reverse


def _require_fit(sizes: Int[np.ndarray, " B"], length: int) -> None:
    """Raises an `InputError` for the first sequence that has more than `length` tokens."""
    for i in np.flatnonzero(sizes > length)[:1]:
        raise InputError(
            f"sequence {i}: {sizes[i]} tokens with <cls> are {sizes[i] - length} more than"
            f" length = {length}: shorten it, or pass truncate=True"
        )
