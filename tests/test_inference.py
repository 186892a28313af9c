"""Embeddings, likelihoods and probabilities, against what the bare model gives for one sequence.

TOLERANCE: a batch adds the same float32 numbers in another order than a lone sequence, padded or
not; values are of order 1, and 2e-5 is some hundred roundings of 1e-7.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.inference import (
    BatchConfig,
    attention_maps,
    embed,
    embed_array,
    fill_mask,
    hidden_states,
    log_likelihoods,
    logits,
    nucleotide_probabilities,
    pseudo_log_likelihoods,
    token_log_likelihoods,
)
from nucleotide_transformer.inference.embedding import PoolTask
from nucleotide_transformer.inference.likelihoods import TokenLogLikelihoodTask
from nucleotide_transformer.inference.windows import place_windows
from nucleotide_transformer.model import Outputs, init_params
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer

TOLERANCE = 2e-5
ONE = BatchConfig(num_devices=1, batch_tokens=64)
"""One row of 64 tokens a batch: one program to compile for each kind of result."""
CONFIG = ModelConfig(k=3, num_layers=2, embed_dim=16, num_heads=2, ffn_dim=32, max_positions=128)
FOUR = BatchConfig(num_devices=1, batch_tokens=256)
"""Four rows of 64 tokens, or two of 128."""
LENGTH = 128
"""Tokens of every reference pass: one compiled program."""


def run(model: Model, sequence: str) -> Outputs:
    """What the model says of one sequence in a pass of its own."""
    return run_tokens(model, model.tokenizer.encode(sequence))


def run_tokens(model: Model, tokens: np.ndarray) -> Outputs:
    padded = np.full((1, LENGTH), CONFIG.pad_token_id, np.int32)
    padded[0, : tokens.size] = tokens
    outputs = model(padded, layers=(0, 1, 2), attention=(1, 2))
    return jax.tree.map(lambda x: np.asarray(x)[0, ..., : tokens.size, :], outputs)


@pytest.fixture(scope="module")
def model() -> Model:
    params = init_params(jax.random.key(0), CONFIG)
    # Random biases and a sharper head, so that probabilities are far from uniform.
    noise = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.3 * noise.standard_normal(x.shape, np.float32), params)
    return Model(params=params, config=CONFIG, tokenizer=KmerTokenizer(k=3))


def random_sequences(sizes: list[int], seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return ["".join(generator.choice(list("ACGT"), size)) for size in sizes]


def log_softmax(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64) - x.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def test_pooling_is_over_known_nucleotides(model: Model) -> None:
    sequence = "ACGTTNNACGA<mask>TTGCA"
    tokens = model.tokenizer.encode(sequence)
    spelled = [model.tokenizer.tokens[i] for i in tokens]
    known = [set(token) <= set("ACGT") for token in spelled]
    assert known.count(False) == 4  # <cls>, two N, <mask>
    reference = run(model, sequence).embeddings
    wanted = {
        "mean": lambda x: x[known].mean(0),
        "max": lambda x: x[known].max(0),
        "cls": lambda x: x[0],
        "tokens": lambda x: x,
    }
    for pooling, pool in wanted.items():
        (found,) = embed(model, [sequence], pooling=pooling, layers=(0, 1, 2), batching=ONE)
        assert set(found) == {0, 1, 2}
        for layer in (0, 1, 2):
            assert found[layer].dtype == np.float32
            np.testing.assert_allclose(found[layer], pool(reference[layer]), atol=TOLERANCE)


def test_order_is_that_of_the_input_whatever_the_lengths(model: Model) -> None:
    generator = np.random.default_rng(1)
    sizes = np.concatenate([generator.integers(1, 180, 28), generator.integers(190, 360, 33)])
    sequences = random_sequences(generator.permutation(sizes).tolist())
    found = embed_array(model, iter(sequences), batching=FOUR)
    for row, sequence in zip(found, sequences, strict=True):
        tokens = model.tokenizer.encode(sequence)
        wanted = run(model, sequence).embeddings[2][1 : tokens.size].mean(0)
        np.testing.assert_allclose(row, wanted, atol=TOLERANCE)


@pytest.mark.devices(2)
def test_all_devices_agree_with_one(model: Model) -> None:
    sequences = random_sequences([40, 50, 60, 30] * 16)
    many = embed_array(model, sequences, batching=BatchConfig(batch_tokens=128))  # 2 rows a device
    one = embed_array(model, sequences, batching=FOUR)
    np.testing.assert_allclose(many, one, atol=TOLERANCE)


@pytest.mark.parametrize("first", ["ACGTAC" * 40, "ACG"])
def test_memory_is_bounded_for_endless_input(model: Model, first: str) -> None:
    """Also where one sequence is of another length than the thousands behind it."""
    # 32 batches of 256 tokens, in rows of 29 tokens, and the three that run or are about to.
    most_ahead = (32 + 3) * 256 // 29
    num_given = 0

    def endless() -> Iterator[str]:
        for num_read in itertools.count():
            assert num_read - num_given <= most_ahead
            yield first if num_read == 0 else "ACGTACA" * 12

    for _ in itertools.islice(embed(model, endless(), batching=FOUR), 1_000):
        num_given += 1


def test_a_sequence_that_fits_is_not_changed_by_windows(model: Model) -> None:
    (sequence,) = random_sequences([3 * 28])
    num_tokens = model.tokenizer.encode(sequence).size
    whole = embed_array(model, [sequence], batching=ONE)
    fits = dataclasses.replace(ONE, window_tokens=num_tokens, overlap_tokens=3)
    np.testing.assert_array_equal(embed_array(model, [sequence], batching=fits), whole)


def test_windows_are_reported_before_their_sequence_comes(model: Model) -> None:
    sequences = random_sequences([30, 300, 30])
    small = dataclasses.replace(ONE, window_tokens=32, overlap_tokens=6)
    shares: list[float] = []
    seen = [len(shares) for _ in embed(model, sequences, batching=small, report=shares.append)]
    windows = len(place_windows(model.tokenizer.encode(sequences[1]).size, 32, 6))
    assert shares == [1, *[1 / windows] * windows, 1]
    assert seen == [1, 1 + windows, 2 + windows]


def test_windows_are_merged_by_the_owner_of_each_token(model: Model) -> None:
    sequence = random_sequences([3 * 50])[0] + "N" + random_sequences([3 * 30 + 2], seed=1)[0]
    tokens = model.tokenizer.encode(sequence)
    windows = place_windows(tokens.size, 32, 6)
    assert len(windows) == 4
    runs = [run_tokens(model, window.cut(tokens)).embeddings[2] for window in windows]
    rows = np.concatenate([run[w.own_slice()] for run, w in zip(runs, windows, strict=True)])
    shares = [w.own_stop - w.own_start for w in windows]
    cls = np.average([run[0] for run in runs], axis=0, weights=shares)
    known = [model.tokenizer.tokens[i] != "N" for i in tokens[1:]]
    wanted = {
        "tokens": np.vstack([cls, rows]),
        "cls": cls,
        "mean": rows[known].mean(0),
        "max": rows[known].max(0),
    }
    small = dataclasses.replace(ONE, window_tokens=32, overlap_tokens=6)
    for pooling, value in wanted.items():
        (found,) = embed(model, [sequence], pooling=pooling, layers=(0, 1, 2), batching=small)
        assert found[2].shape == value.shape
        np.testing.assert_allclose(found[2], value, atol=TOLERANCE)
    (scores,) = logits(model, [sequence], batching=small)
    assert scores.shape == (tokens.size, CONFIG.vocabulary_size)
    last = run_tokens(model, windows[-1].cut(tokens)).logits
    np.testing.assert_allclose(scores[-10:], last[-10:], atol=TOLERANCE)


def test_nothing_known_is_nan_and_nothing_at_all_is_an_empty_array(model: Model) -> None:
    for pooling in ("mean", "max"):
        rows = ["NNNN", "ACG"]
        found, other = embed(model, rows, pooling=pooling, layers=(0, 1, 2), batching=ONE)
        assert np.isnan(found[2]).all()
        assert np.isfinite(other[2]).all()
    assert embed_array(model, [], batching=ONE).shape == (0, 16)


@pytest.mark.parametrize("task", [
    PoolTask(CONFIG, ComputeConfig(), (2,), "mean"),
    TokenLogLikelihoodTask(CONFIG, ComputeConfig()),
])  # fmt: skip
def test_embedding_does_not_compute_logits(model: Model, task: PoolTask) -> None:
    """The compiled program has no array of 75 columns: neither logits nor the head's weights."""
    tokens, numbers = jnp.ones((2, 32), jnp.int32), jnp.zeros((2, 2), jnp.int32)
    text = jax.jit(task).lower(model.params, tokens, numbers).compile().as_text()
    assert CONFIG.vocabulary_size == 75
    assert (",75]" in text) == (not isinstance(task, PoolTask))


def test_bfloat16_is_used_where_the_model_asks_for_it(model: Model) -> None:
    """Sums of 16 products of bfloat16 numbers, 8 bits each: values of order 1 are off by 1 %."""
    tokens, numbers = jnp.ones((2, 32), jnp.int32), jnp.zeros((2, 2), jnp.int32)
    half = dataclasses.replace(model, compute=ComputeConfig(compute_dtype="bfloat16"))
    for each, used in ((model, False), (half, True)):
        task = PoolTask(CONFIG, each.compute, (2,), "mean")
        text = jax.jit(task).lower(each.params, tokens, numbers).as_text()
        assert ("bf16" in text) == used
    sequences = random_sequences([60, 80])
    rough, exact = (embed_array(each, sequences, batching=ONE) for each in (half, model))
    assert rough.dtype == np.float32
    assert 1e-5 < abs(rough - exact).max() < 0.1


def test_learned_positions_are_used_to_the_last(model: Model) -> None:
    """A v1 model of 37 positions, which is no length of a batch: windows of 37 tokens fit it."""
    config = dataclasses.replace(
        CONFIG,
        vocabulary="v1",
        position="learned",
        max_positions=37,
        token_dropout=True,
        ffn_activation="gelu",
        ffn_gated=False,
    )
    params = init_params(jax.random.key(1), config)
    tokenizer = KmerTokenizer(vocabulary="v1", k=3)
    old = dataclasses.replace(model, params=params, config=config, tokenizer=tokenizer)
    fits, longer = random_sequences([3 * 36, 3 * 50])
    found, _ = embed(old, [fits, longer], pooling="tokens", batching=ONE)
    wanted = old(tokenizer.encode_batch([fits]), layers=(2,)).embeddings[2][0]
    np.testing.assert_allclose(found[2], wanted, atol=TOLERANCE)


def test_fill_mask_is_the_softmax_at_each_mask(model: Model) -> None:
    sequence = "ACCTGA<mask>TTCTG<mask>AGTC"
    found = fill_mask(model, sequence, top_k=75)
    tokens = model.tokenizer.encode(sequence)
    places = np.flatnonzero(tokens == CONFIG.mask_token_id)
    assert len(found) == len(places) == 2
    for row, place in zip(found, places, strict=True):
        wanted = np.exp(log_softmax(run(model, sequence).logits[place]))
        assert len({item.token for item in row}) == 75
        for item in row:
            token = model.tokenizer.token_to_id(item.token)
            assert item.probability == pytest.approx(wanted[token], abs=TOLERANCE)
        values = [item.probability for item in row]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)
    assert [len(row) for row in fill_mask(model, sequence)] == [5, 5]


def test_log_likelihoods_follow_their_formulas(model: Model) -> None:
    sequences = ["ACGTTCANGGATC", "TTGACA", "N"]
    plain, pseudo = [], []
    for sequence in sequences:
        tokens = model.tokenizer.encode(sequence)
        known = [
            i for i in range(tokens.size) if set(model.tokenizer.tokens[tokens[i]]) <= set("ACGT")
        ]
        seen = log_softmax(run(model, sequence).logits)
        plain.append(sum(seen[i, tokens[i]] for i in known) if known else np.nan)
        pseudo.append(0.0 if known else np.nan)
        for i in known:
            hidden = np.where(np.arange(tokens.size) == i, CONFIG.mask_token_id, tokens)
            pseudo[-1] += log_softmax(run_tokens(model, hidden).logits)[i, tokens[i]]
    assert plain[0] != pytest.approx(pseudo[0], abs=0.1)
    np.testing.assert_allclose(log_likelihoods(model, sequences, batching=ONE), plain, atol=2e-4)
    found = pseudo_log_likelihoods(model, ["N", *sequences], batching=ONE)
    np.testing.assert_allclose(found, [np.nan, *pseudo], atol=2e-4)
    (row, *_) = token_log_likelihoods(model, sequences, masked=True, batching=ONE)
    assert np.isnan(row).nonzero()[0].tolist() == [0, 4]  # <cls> and N of ACG TTC A N GGA T C


def split_frame(text: str, frame: int) -> list[tuple[int, str]]:
    """(first nucleotide, token) of a text of A, C, G, T and N, letter by letter."""
    pieces, place = [], 0
    while place < len(text):
        run = len(list(itertools.takewhile(lambda c: c != "N", text[place:])))
        if run == 0:
            pieces.append((place, "N"))
            place += 1
            continue
        end, singles = place + run, min(frame, run)
        pieces += [(i, text[i]) for i in range(place, place + singles)]
        place += singles
        while place + 3 <= end:
            pieces.append((place, text[place : place + 3]))
            place += 3
        pieces += [(i, text[i]) for i in range(place, end)]
        place = end
    return pieces


def brute_force(
    model: Model, text: str, masked: bool, window: tuple[int, int] = (LENGTH, 0)
) -> np.ndarray:
    """The definition, token by token and k-mer by k-mer."""
    kmers: list[list[np.ndarray]] = [[] for _ in text]
    singles: list[list[np.ndarray]] = [[] for _ in text]
    token_to_id = model.tokenizer.token_to_id
    for frame in range(3):
        pieces = split_frame(text, frame)
        ids = np.array([3, *(token_to_id(token) for _, token in pieces)], np.int32)
        windows = place_windows(ids.size, *window)
        for index, (start, token) in enumerate(pieces, start=1):
            (owner,) = [w for w in windows if w.own_start <= index < w.own_stop]
            inputs = ids.copy()
            if masked:
                inputs[index] = CONFIG.mask_token_id
            scores = run_tokens(model, owner.cut(inputs)).logits[index - owner.start + 1]
            if token == "N":
                continue
            words = ["".join(word) for word in itertools.product("ACGT", repeat=len(token))]
            weights = np.exp(log_softmax(scores))[[token_to_id(word) for word in words]]
            for offset in range(len(token)):
                sums = [weights[[w[offset] == b for w in words]].sum() for b in "ACGT"]
                target = kmers if len(token) == 3 else singles
                target[start + offset].append(np.array(sums) / weights.sum())
    rows = []
    for place, letter in enumerate(text):
        each = kmers[place] or singles[place]
        rows.append(np.full(4, 0.25) if letter == "N" else np.mean(each, axis=0))
    return np.array(rows)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("text", ["ACGTACGGTCA", "GATTACANNACGTCANTT", "CA", "TTGANACG"])
def test_nucleotide_probabilities_are_those_of_brute_force(
    model: Model, text: str, masked: bool
) -> None:
    found = nucleotide_probabilities(model, text, masked=masked, batching=ONE)
    assert found.shape == (len(text), 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    wanted = brute_force(model, text, masked)
    assert np.ptp(wanted) > 0.1  # far from uniform: a wrong order of letters or frames would show
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)


def test_masked_probabilities_do_not_see_the_token_they_score(model: Model) -> None:
    """In one frame of a sequence of one k-mer: the k-mer may be any."""
    first = nucleotide_probabilities(model, "ACG", batching=ONE)
    np.testing.assert_allclose(
        nucleotide_probabilities(model, "TTC", batching=ONE), first, atol=1e-6
    )
    seen = nucleotide_probabilities(model, "TTC", masked=False, batching=ONE)
    assert abs(seen - first).max() > 0.01


@pytest.mark.parametrize("masked", [True, False])
def test_probabilities_of_a_sequence_longer_than_a_window(model: Model, masked: bool) -> None:
    text = random_sequences([80])[0] + "N" + random_sequences([20], seed=1)[0]
    small = dataclasses.replace(ONE, window_tokens=17, overlap_tokens=6)
    found = nucleotide_probabilities(model, text.lower(), masked=masked, batching=small)
    wanted = brute_force(model, text, masked, window=(17, 6))
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)


def test_hidden_states_and_attention_maps_are_those_of_the_model(model: Model) -> None:
    sequence = "ACGTTCAGGATC<mask>N"
    reference = run(model, sequence)
    states = hidden_states(model, sequence)
    assert list(states) == [0, 1, 2]
    for layer, state in states.items():
        np.testing.assert_allclose(state, reference.embeddings[layer], atol=TOLERANCE)
    size = model.tokenizer.encode(sequence).size
    maps = attention_maps(model, sequence, heads=(1,))
    assert {layer: x.shape for layer, x in maps.items()} == {1: (1, size, size), 2: (1, size, size)}
    np.testing.assert_allclose(maps[2][0], reference.attention[2][1][:, :size], atol=TOLERANCE)
    np.testing.assert_allclose(maps[1].sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(("call", "message"), [
    (lambda m: list(embed(m, ["ACGT", "ACGXT"])), r"sequence 1, position 3: character 'X' must be"),
    (lambda m: list(embed(m, ["ACGT", ""])), "sequence 1 = '': must have at least one nucleotide"),
    (lambda m: list(embed(m, ["A<pad>", "C<pad>G"])), "sequence 1: has other tokens after <pad>"),
    (lambda m: list(embed(m, "ACGT")), "sequences: one text: must be a list"),
    (lambda m: embed(m, [], layers=(3,)), "layers: there is no layer 3; the model's are numbered"),
    (lambda m: embed(m, [], batching=BatchConfig(window_tokens=9, overlap_tokens=8)),
     "overlap_tokens = 8: must lie between 0 and window_tokens - 2 = 7"),
    (lambda m: list(embed(m, [], batching=BatchConfig(num_devices=999))),
     r"num_devices = 999: this process has \d+"),
    (lambda _: BatchConfig(batch_tokens=0), "batch_tokens = 0: must be 1 or above"),
    (lambda m: fill_mask(m, "ACGT"), "sequence = 'ACGT': must hold at least one <mask>"),
    (lambda m: fill_mask(m, "<mask>", top_k=0), "top_k = 0: must lie between 1 and 75"),
    (lambda m: hidden_states(m, "ACG", layers=(-1,)), "layers: there is no layer -1; the"),
    (lambda m: attention_maps(m, "ACG", layers=(0,)), "attention: there is no layer 0; the"),
    (lambda m: attention_maps(m, "ACG", heads=(2,)), "head = 2: the model's are numbered 0 to 1"),
    (lambda m: nucleotide_probabilities(m, "AC<mask>"), "sequence, position 2 = '<': must not"),
])  # fmt: skip
def test_bad_input_is_one_line(model: Model, call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)
