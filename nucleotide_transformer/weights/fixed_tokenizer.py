"""The tokenizer of the published package, over our own."""

from collections.abc import Sequence

from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.tokenizers import KmerTokenizer

_LATE_SPECIALS = ("<eos>", "<bos>")

Tokenized = tuple[list[str], list[int]]
"""Tokens of a sequence and their ids."""


class FixedSizeTokenizer:
    """The published tokenizer: every sequence of a batch is padded to the same, given length."""

    unk_token, pad_token, mask_token, class_token = "<unk>", "<pad>", "<mask>", "<cls>"
    eos_token, bos_token = _LATE_SPECIALS

    def __init__(self, tokenizer: KmerTokenizer, fixed_length: int):
        """Args: tokenizer does the work; fixed_length in tokens, `<cls>` included."""
        require(fixed_length >= 1, "max_positions", fixed_length, "must be 1 or above")
        self._tokenizer, self._fixed_length = tokenizer, fixed_length
        late = [] if tokenizer.vocabulary == "v2" else list(_LATE_SPECIALS)
        self._tokens = [*tokenizer.tokens, *late]
        self._ids = {token: i for i, token in enumerate(self._tokens)}

    @property
    def fixed_length(self) -> int:
        """Tokens of every sequence of a batch."""
        return self._fixed_length

    @property
    def vocabulary(self) -> list[str]:
        """All tokens, in the order of the ids; v1 models have no embedding for the last two."""
        return list(self._tokens)

    @property
    def standard_tokens(self) -> list[str]:
        """The k-mers and the single letters."""
        return list(self._tokenizer.tokens[self._tokenizer.first_kmer_id :])

    @property
    def special_tokens(self) -> list[str]:
        """The six special tokens."""
        first = [self.unk_token, self.pad_token, self.mask_token, self.class_token]
        return [*first, self.eos_token, self.bos_token]

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self._tokens)

    @property
    def unk_token_id(self) -> int:
        """Id of `<unk>`."""
        return self._ids[self.unk_token]

    @property
    def pad_token_id(self) -> int:
        """Id of `<pad>`."""
        return self._ids[self.pad_token]

    @property
    def mask_token_id(self) -> int:
        """Id of `<mask>`."""
        return self._ids[self.mask_token]

    @property
    def class_token_id(self) -> int:
        """Id of `<cls>`."""
        return self._ids[self.class_token]

    @property
    def eos_token_id(self) -> int:
        """Id of `<eos>`."""
        return self._ids[self.eos_token]

    @property
    def bos_token_id(self) -> int:
        """Id of `<bos>`."""
        return self._ids[self.bos_token]

    def id_to_token(self, token_id: int) -> str:
        """Returns the spelling of an id, or raises an `InputError` if there is none."""
        rule = f"must lie between 0 and {self.vocabulary_size - 1}"
        require(0 <= token_id < self.vocabulary_size, "token_id", token_id, rule)
        return self._tokens[token_id]

    def token_to_id(self, token: str) -> int:
        """Returns the id of a token; an `InputError` if it is none."""
        require(token in self._ids, "token", token, "is no token of the vocabulary")
        return self._ids[token]

    def tokenize(self, sequence: str) -> Tokenized:
        """Returns the tokens of one sequence and their ids, `<cls>` first, not padded."""
        ids = self._tokenizer.encode(sequence).tolist()
        return [self._tokens[i] for i in ids], ids

    def batch_tokenize(self, sequences: Sequence[str]) -> list[Tokenized]:
        """Returns tokens and ids of each sequence, padded to the fixed length.

        Raises:
            InputError: for a sequence that is longer, or that has an illegal character.
        """
        return self.pad_tokens_batch([self.tokenize(sequence) for sequence in sequences])

    def pad_tokens_batch(self, batch: Sequence[Tokenized]) -> list[Tokenized]:
        """Returns the batch with `<pad>` after each sequence, up to the fixed length."""
        padded = []
        for i, (tokens, ids) in enumerate(batch):
            missing = self._fixed_length - len(ids)
            if missing < 0:
                raise InputError(
                    f"sequence {i}: {len(ids)} tokens with <cls>: more than max_positions ="
                    f" {self._fixed_length}"
                )
            end = [self.pad_token] * missing, [self.pad_token_id] * missing
            padded.append(([*tokens, *end[0]], [*ids, *end[1]]))
        return padded
