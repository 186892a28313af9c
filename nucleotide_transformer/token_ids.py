"""Where the tokens of a vocabulary are in its table: shared by the tokenizer and the model."""

from typing import Any

from nucleotide_transformer.types import Vocabulary

SPECIAL_TOKENS: dict[Vocabulary, tuple[str, ...]] = {
    "v1": ("<unk>", "<pad>", "<mask>", "<cls>"),
    "v2": ("<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>"),
}
"""In the order of their ids; k-mers and single letters follow."""


class TokenIds:
    """Ids of a vocabulary: special tokens, 4**k k-mers, and A, T, C, G and N alone."""

    vocabulary: Vocabulary
    k: int

    @property
    def vocabulary_size(self) -> int:
        """Special tokens, 4**k k-mers, and the five single letters A, T, C, G, N."""
        return self.first_letter_id + 5

    @property
    def first_kmer_id(self) -> int:
        """Id of the k-mer AA...A; the other k-mers and A, T, C, G, N follow it."""
        return len(SPECIAL_TOKENS[self.vocabulary])

    @property
    def first_letter_id(self) -> int:
        """Id of A alone; T, C, G and N follow it."""
        return self.first_kmer_id + 4**self.k

    @property
    def num_nucleotide_tokens(self) -> int:
        """Tokens that spell known nucleotides: 4**k k-mers and A, T, C, G, but not N."""
        return 4**self.k + 4

    def is_kmer(self, tokens: Any) -> Any:
        """Which tokens (NumPy or JAX) are k-mers."""
        return (tokens >= self.first_kmer_id) & (tokens < self.first_letter_id)

    def is_known(self, tokens: Any) -> Any:
        """Which tokens (NumPy or JAX) spell known nucleotides: k-mers and A, C, G, T."""
        end = self.first_kmer_id + self.num_nucleotide_tokens
        return (tokens >= self.first_kmer_id) & (tokens < end)

    @property
    def unk_token_id(self) -> int:
        """Id of `<unk>`, which is in no sequence unless its text says so."""
        return 0

    @property
    def pad_token_id(self) -> int:
        """Id of `<pad>`."""
        return 1

    @property
    def mask_token_id(self) -> int:
        """Id of `<mask>`."""
        return 2

    @property
    def cls_token_id(self) -> int:
        """Id of `<cls>`."""
        return 3
