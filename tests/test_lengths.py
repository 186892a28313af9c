"""How long a sequence may be: learned positions end, rotary ones do not; one rule everywhere."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from small_models import V1, V2, random_params

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.inference import (
    attention_maps,
    embed,
    fill_mask,
    hidden_states,
    token_log_likelihoods,
)
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer

LIMIT = 20
ONE = BatchConfig(num_devices=1, batch_tokens=64)
TOLERANCE = 2e-5
"""Of numbers near 1, from the same sums in another order."""


def make_model(config: Any) -> Model:
    config = dataclasses.replace(config, max_positions=LIMIT)
    tokenizer = KmerTokenizer(vocabulary=config.vocabulary, k=config.k)
    return Model(params=random_params(config), config=config, tokenizer=tokenizer)


def draw_sequence(num_tokens: int) -> str:
    return "".join(np.random.default_rng(0).choice(list("ACGT"), 3 * (num_tokens - 1)))


CALLS = {
    "call": lambda model, text: model(model.tokenizer.encode(text)[None]),
    "hidden states": hidden_states,
    "attention": attention_maps,
    "fill mask": lambda model, text: fill_mask(model, text[:-3] + "<mask>"),
    "window": lambda model, text: list(
        embed(model, [text], batching=dataclasses.replace(ONE, window_tokens=LIMIT + 1))
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_learned_positions_are_a_hard_limit(name: str) -> None:
    model = make_model(V1)
    message = rf"^(tokens|sequence|window_tokens) = {LIMIT + 1}: the model's learned positions end"
    with pytest.raises(InputError, match=message) as caught:
        CALLS[name](model, draw_sequence(LIMIT + 1))
    assert "\n" not in str(caught.value)
    assert not hasattr(caught.value, "__notes__")  # raised before anything is traced


@pytest.mark.parametrize("name", CALLS)
def test_rotary_models_take_longer_sequences(name: str) -> None:
    CALLS[name](make_model(V2), draw_sequence(LIMIT + 1))


def test_a_longer_sequence_is_computed_as_by_a_model_with_room_for_it() -> None:
    model, text = make_model(V2), draw_sequence(LIMIT + 5)
    roomy = dataclasses.replace(model, config=dataclasses.replace(V2, max_positions=64))
    states = hidden_states(roomy, text)
    np.testing.assert_allclose(hidden_states(model, text)[2], states[2], atol=TOLERANCE)
    windows = dataclasses.replace(ONE, window_tokens=LIMIT + 5)
    (found,) = embed(model, [text], pooling="tokens", batching=windows)
    np.testing.assert_allclose(found[2], states[2], atol=TOLERANCE)


@pytest.mark.parametrize("config", [V1, V2])
def test_by_default_longer_sequences_are_cut(config: Any) -> None:
    model, text = make_model(config), draw_sequence(LIMIT + 5)
    (found,) = embed(model, [text], pooling="tokens", batching=ONE)
    assert found[2].shape == (LIMIT + 5, 16)
    start = next(iter(token_log_likelihoods(model, [text], masked=False, batching=ONE)))[1:4]
    whole = token_log_likelihoods(model, [text[: 3 * (LIMIT - 1)]], masked=False, batching=ONE)
    alone = next(iter(whole))[1:4]
    np.testing.assert_allclose(start, alone, atol=TOLERANCE)
