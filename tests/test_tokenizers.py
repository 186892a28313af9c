"""Tokenizer: equal to the golden cases, and to a plain reference on random input."""

import dataclasses
import json
import pickle
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.tokenizers import KmerTokenizer

SPECIAL = ["<unk>", "<pad>", "<mask>", "<cls>"]
SPECIAL_V2 = ["<eos>", "<bos>"]
IUPAC = "ACGTURYSWKMBDHVN"

vocabularies = st.sampled_from(["v1", "v2"])
ks = st.integers(3, 8)


def texts(vocabulary: str) -> st.SearchStrategy[str]:
    """Runs of plain letters, long and short, with everything else that may stand between them."""
    special = SPECIAL + (SPECIAL_V2 if vocabulary == "v2" else [])
    runs = st.text("ACGT", min_size=1, max_size=40)
    others = st.sampled_from([*special, *IUPAC, *IUPAC.lower()])
    return st.lists(st.one_of(runs, others), max_size=20).map("".join)


def split_slowly(text: str, vocabulary: str, k: int) -> list[str]:
    """One token after the other, as one would do it by hand."""
    special = SPECIAL + (SPECIAL_V2 if vocabulary == "v2" else [])
    tokens, run = ["<cls>"], ""

    def end_run() -> None:
        nonlocal run
        while len(run) >= k:
            tokens.append(run[:k])
            run = run[k:]
        tokens.extend(run)
        run = ""

    while text:
        found = [token for token in special if text.startswith(token)]
        if found:
            end_run()
            tokens.append(found[0])
            text = text[len(found[0]) :]
            continue
        letter = text[0].upper().replace("U", "T")
        if letter in "ACGT":
            run += letter
        else:
            end_run()
            tokens.append("N")
        text = text[1:]
    end_run()
    return tokens


def encode_slowly(text: str, vocabulary: str, k: int) -> list[int]:
    """Ids by arithmetic, not by the table of the tokenizer."""
    special = SPECIAL + (SPECIAL_V2 if vocabulary == "v2" else [])
    ids = []
    for token in split_slowly(text, vocabulary, k):
        if token in special:
            ids.append(special.index(token))
        elif len(token) == 1:
            ids.append(len(special) + 4**k + "ATCGN".index(token))
        else:
            digits = "".join(str("ATCG".index(letter)) for letter in token)
            ids.append(len(special) + int(digits, base=4))
    return ids


def test_golden_cases(shared: Path) -> None:
    cases = json.loads((shared / "golden/tokenizer_cases.json").read_text())
    assert len(cases) == 114
    for case in cases:
        tokenizer = KmerTokenizer(case["vocabulary"], case["k"])
        ids = tokenizer.encode(case["sequence"])
        assert ids.tolist() == case["ids"]
        if case["tokens"] is not None:
            assert [tokenizer.id_to_token(i) for i in case["ids"]] == case["tokens"]


@pytest.mark.parametrize("vocabulary", ["v1", "v2"])
def test_vocabulary_of_the_released_models(shared: Path, vocabulary: str) -> None:
    released = (shared / f"golden/hf_{vocabulary}_small/vocab.txt").read_text().split()
    assert list(KmerTokenizer(vocabulary).tokens) == released


@pytest.mark.parametrize("k", range(3, 9))
@pytest.mark.parametrize("vocabulary", ["v1", "v2"])
def test_ids_agree_with_the_model_config(vocabulary: str, k: int) -> None:
    tokenizer, config = KmerTokenizer(vocabulary, k), ModelConfig(vocabulary=vocabulary, k=k)
    assert len(tokenizer.tokens) == len(set(tokenizer.tokens)) == config.vocabulary_size
    for name in ("unk", "pad", "mask", "cls"):
        assert tokenizer.token_to_id(f"<{name}>") == getattr(tokenizer, f"{name}_token_id")
    assert [tokenizer.token_to_id(token) for token in tokenizer.tokens] == list(
        range(tokenizer.vocabulary_size)
    )


@settings(max_examples=300, deadline=None)
@given(st.data(), vocabularies, ks)
def test_encode_equals_the_reference(data: st.DataObject, vocabulary: str, k: int) -> None:
    text = data.draw(texts(vocabulary))
    tokenizer = KmerTokenizer(vocabulary, k)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == encode_slowly(text, vocabulary, k)
    assert [tokenizer.id_to_token(i) for i in ids] == split_slowly(text, vocabulary, k)


@settings(max_examples=150, deadline=None)
@given(st.data(), vocabularies, ks, st.integers(1, 60))
def test_encode_batch_equals_the_reference(
    data: st.DataObject, vocabulary: str, k: int, length: int
) -> None:
    batch = data.draw(st.lists(texts(vocabulary), max_size=8))
    tokenizer = KmerTokenizer(vocabulary, k)
    rows = [encode_slowly(text, vocabulary, k) for text in batch]
    longest = max(map(len, rows), default=0)
    padded = [row + [1] * (longest - len(row)) for row in rows]

    encoded = tokenizer.encode_batch(batch)
    assert (encoded.dtype, encoded.shape) == (np.int32, (len(batch), longest))
    assert encoded.tolist() == padded
    assert tokenizer.encode_batch(batch, length=longest + 3)[:, :longest].tolist() == padded
    assert (tokenizer.encode_batch(batch, length=longest + 3)[:, longest:] == 1).all()
    cut = tokenizer.encode_batch(batch, length=length, truncate=True)
    assert cut.tolist() == [(row + [1] * length)[:length] for row in rows]


@pytest.mark.parametrize("size", [63, 64, 65, 200])
def test_a_batch_is_its_rows_at_any_size(size: int) -> None:
    generator = np.random.default_rng(size)
    lengths = generator.integers(0, 500, size)
    batch = ["".join(generator.choice(list("ACGTN"), n, p=[0.24] * 4 + [0.04])) for n in lengths]
    tokenizer = KmerTokenizer()
    for text, row in zip(batch, tokenizer.encode_batch(batch), strict=True):
        ids = tokenizer.encode(text)
        np.testing.assert_array_equal(row[: ids.size], ids)
        assert (row[ids.size :] == tokenizer.pad_token_id).all()


@settings(max_examples=100, deadline=None)
@given(st.data(), vocabularies, ks)
def test_text_bytes_and_arrays_give_the_same(data: st.DataObject, vocabulary: str, k: int) -> None:
    tokenizer, text = KmerTokenizer(vocabulary, k), data.draw(texts(vocabulary))
    array = np.frombuffer(text.encode(), np.uint8)
    expected = tokenizer.encode(text)
    np.testing.assert_array_equal(tokenizer.encode(text.encode()), expected)
    np.testing.assert_array_equal(tokenizer.encode(array), expected)
    batch = tokenizer.encode_batch([text, text.encode(), array])
    np.testing.assert_array_equal(batch, np.stack([expected] * 3))
    np.testing.assert_array_equal(tokenizer.encode_batch(np.stack([array, array])), batch[:2])


@settings(max_examples=150, deadline=None)
@given(st.data(), vocabularies, ks)
def test_decode_inverts_encode(data: st.DataObject, vocabulary: str, k: int) -> None:
    tokenizer, text = KmerTokenizer(vocabulary, k), data.draw(texts(vocabulary)) + "A"
    ids = tokenizer.encode(text)
    decoded = tokenizer.decode(ids)
    assert decoded == "".join(split_slowly(text, vocabulary, k)[1:])
    np.testing.assert_array_equal(tokenizer.encode(decoded), ids)
    padded = tokenizer.encode_batch([text], length=ids.size + 5)[0]
    assert tokenizer.decode(padded) == decoded


def test_decode_keeps_all_but_the_first_cls_and_the_last_padding() -> None:
    tokenizer = KmerTokenizer()
    assert tokenizer.decode(tokenizer.encode("<cls>A<pad>C<pad><pad>")) == "<cls>A<pad>C"
    assert tokenizer.decode([]) == tokenizer.decode([3]) == tokenizer.decode([3, 1, 1]) == ""


def test_empty_input() -> None:
    tokenizer = KmerTokenizer()
    assert tokenizer.encode("").tolist() == [3]
    assert tokenizer.encode_batch(["", ""]).tolist() == [[3], [3]]
    assert tokenizer.encode_batch([]).shape == (0, 0)
    assert tokenizer.encode_batch([], length=7).shape == (0, 7)


@settings(max_examples=200, deadline=None)
@given(st.data(), vocabularies, st.characters())
def test_any_other_character_is_an_error_at_its_position(
    data: st.DataObject, vocabulary: str, character: str
) -> None:
    if character in IUPAC + IUPAC.lower():
        character = "X"
    head, tail = data.draw(texts(vocabulary)), data.draw(texts(vocabulary))
    tokenizer, text = KmerTokenizer(vocabulary), head + character + tail
    place = f"position {len(head)}: character {character!r} must be"
    with pytest.raises(ValueError, match=f"^{re.escape(place)}"):
        tokenizer.encode(text)
    batch = [tail] * 70 + [text, "!"]
    with pytest.raises(ValueError, match=f"^sequence 70, {re.escape(place)}.*$") as error:
        tokenizer.encode_batch(batch, length=1, truncate=True)
    assert "\n" not in str(error.value)


def test_a_wrong_character_after_many_costs_no_memory() -> None:
    """Not even a byte for each that came before; the arrays take 18 of them, once."""
    text = "ACGT" * 100_000 + "X"
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^position 400000: "):
        KmerTokenizer().encode(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * len(text)


@pytest.mark.parametrize("byte", [*range(10, 14), *range(0x7F, 0x100)])
def test_bytes_with_a_meaning_inside_are_errors_outside(byte: int) -> None:
    for text in (bytes([byte]), b"ACG" + bytes([byte]), b"<mask>" + bytes([byte]) + b"A"):
        with pytest.raises(ValueError, match=f"^position {text.index(byte)}: "):
            KmerTokenizer().encode(text)


@pytest.mark.parametrize("text", ["AC<MASK>", "AC<mask", "AC<eos>", "AC<mas\nk>", "AC<>"])
def test_special_tokens_of_another_spelling_or_vocabulary_are_errors(text: str) -> None:
    with pytest.raises(ValueError, match=r"^position 2: character '<' must be"):
        KmerTokenizer("v1").encode(text)


def test_too_long_says_which_and_by_how_much() -> None:
    tokenizer = KmerTokenizer()
    with pytest.raises(ValueError, match=r"^sequence 1: 5 tokens .* are 2 more than length = 3"):
        tokenizer.encode_batch(["A" * 12, "A" * 24, "A" * 24], length=3)
    cut = tokenizer.encode_batch(["A" * 24], length=3, truncate=True)
    assert cut.tolist() == [[3, 6, 6]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KmerTokenizer(k=2), "k = 2: must lie between 3 and 8"),
        (lambda: KmerTokenizer(k=9), "k = 9: must lie between 3 and 8"),
        (lambda: KmerTokenizer().id_to_token(4107), "token_id = 4107: must lie between 0 and 4106"),
        (lambda: KmerTokenizer().id_to_token(-1), "token_id = -1: must lie between 0 and 4106"),
        (lambda: KmerTokenizer("v1").token_to_id("<eos>"), "token = '<eos>': is no token of"),
        (lambda: KmerTokenizer().decode([3, 5000]), r"ids\[1\] = 5000: must lie between"),
        (lambda: KmerTokenizer().decode([-1]), r"ids\[0\] = -1: must lie between"),
        (lambda: KmerTokenizer().encode_batch(["A"], length=0), "length = 0: must be 1 or above"),
        (lambda: KmerTokenizer().encode_batch("ACGT"), "sequences = 'ACGT': must be several"),
        (lambda: KmerTokenizer().encode(np.zeros(3)), "sequence = .*must be uint8 with one axis"),
    ],
)
def test_bad_arguments_are_one_line(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as error:
        call()
    assert "\n" not in str(error.value)


def test_a_tokenizer_is_a_value() -> None:
    tokenizer = KmerTokenizer("v1", k=4)
    assert tokenizer.encode("ACGT").size == 2
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer == KmerTokenizer("v1", 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tokenizer.k = 5
