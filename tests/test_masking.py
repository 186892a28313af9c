"""Masking: how many, which, by what, and that place alone decides."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucleotide_transformer.config import MaskingConfig, ModelConfig
from nucleotide_transformer.pretraining.masking import count_slots, mask_tokens

MODEL = ModelConfig()
N_ID = MODEL.vocabulary_size - 1
KEY = jax.random.key(7)

apply = jax.jit(mask_tokens, static_argnums=(3, 4))


def make_tokens(num_rows, num_tokens, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(MODEL.first_kmer_id, N_ID, (num_rows, num_tokens), dtype=np.int32)
    tokens[:, 0] = MODEL.cls_token_id
    return tokens


def mask(tokens, rows=None, key=KEY, config=MaskingConfig()):
    rows = np.arange(len(tokens), dtype=np.int32) if rows is None else rows
    return jax.device_get(apply(tokens, rows, key, config, MODEL))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_exactly_the_rounded_share_of_maskable_tokens_is_selected(data):
    tokens = make_tokens(4, 60, data.draw(st.integers(0, 100)))
    for row in tokens:
        row[60 - data.draw(st.integers(0, 59)) :] = MODEL.pad_token_id
        row[data.draw(st.integers(1, 59)) :: 7] = N_ID
    masked = mask(tokens)
    for b, row in enumerate(tokens):
        maskable = np.isin(row, np.arange(MODEL.first_kmer_id, N_ID))
        assert masked.valid[b].sum() == round(0.15 * maskable.sum())
        chosen = masked.positions[b][masked.valid[b]]
        assert maskable[chosen].all()
        assert len(set(chosen)) == len(chosen)
        np.testing.assert_array_equal(masked.targets[b], row[masked.positions[b]])
        untouched = np.setdiff1d(np.arange(60), chosen)
        np.testing.assert_array_equal(masked.inputs[b][untouched], row[untouched])


def test_slots_hold_what_can_be_selected_at_most():
    assert count_slots(1000, MaskingConfig()) == 150
    assert mask(make_tokens(1, 1000)).valid.sum() == 150


def test_shares_are_80_10_10_and_another_is_never_the_same():
    tokens = make_tokens(400, 1000)
    masked = mask(tokens)
    seen = np.take_along_axis(masked.inputs, masked.positions, axis=1)[masked.valid]
    targets = masked.targets[masked.valid]
    hidden, same = seen == MODEL.mask_token_id, seen == targets
    other = ~hidden & ~same
    # 60,000 draws: a standard deviation of 0.0016; 5 of them.
    assert np.mean(hidden) == pytest.approx(0.8, abs=0.008)
    assert np.mean(same) == pytest.approx(0.1, abs=0.008)
    assert np.mean(other) == pytest.approx(0.1, abs=0.008)
    assert seen[other].min() >= MODEL.first_kmer_id
    assert seen[other].max() < N_ID
    # Uniform over 4,100 tokens: the mean of 6,000 draws lies within 5 x 1,184 / sqrt(6,000).
    assert seen[other].mean() == pytest.approx(MODEL.first_kmer_id + 4099 / 2, abs=77)


def test_every_other_token_can_come():
    config = MaskingConfig(mask_probability=0.0, random_probability=1.0)
    model = ModelConfig(k=3)
    tokens = np.full((64, 200), model.first_kmer_id + 5, np.int32)
    masked = apply(tokens, np.arange(64, dtype=np.int32), KEY, config, model)
    seen = np.take_along_axis(np.asarray(masked.inputs), np.asarray(masked.positions), axis=1)
    others = set(range(model.first_kmer_id, model.first_kmer_id + 68)) - {model.first_kmer_id + 5}
    assert set(seen.ravel()) == others


def test_the_place_of_a_sequence_decides_its_mask():
    tokens = make_tokens(6, 80)
    whole = mask(tokens)
    rows = np.array([4, 1], np.int32)
    part = mask(tokens[rows], rows)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(one[rows], other)


def test_masks_change_with_step_and_row():
    tokens = np.repeat(make_tokens(1, 80), 2, axis=0)
    masked = mask(tokens)
    assert (masked.positions[0] != masked.positions[1]).any()
    later = mask(tokens, key=jax.random.fold_in(KEY, 1))
    assert (masked.positions != later.positions).any()


def test_nothing_maskable_selects_nothing():
    tokens = np.full((1, 40), MODEL.pad_token_id, np.int32)
    masked = mask(tokens)
    assert not masked.valid.any()
    np.testing.assert_array_equal(masked.inputs, tokens)
