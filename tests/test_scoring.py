"""Likelihoods with their token counts, frames of probabilities, and windows of nothing but N."""

import jax
import numpy as np
import pytest
from small_models import V2, random_model  # noqa: F401

from nucleotide_transformer.inference import (
    BatchConfig,
    attention_maps,
    embed,
    log_likelihoods,
    nucleotide_probabilities,
    pseudo_log_likelihoods,
    score_sequences,
    token_log_likelihoods,
)
from nucleotide_transformer.inference import batching as batching_module
from nucleotide_transformer.inference import embedding as embedding_module

ONE = BatchConfig(num_devices=1, batch_tokens=64)


def test_nothing_known_has_no_likelihood(model):
    """It is NaN, not the probability 1, which would be above every real sequence."""
    sequences = ["NNNN", "ACGTN", "<mask>"]
    for score in (log_likelihoods, pseudo_log_likelihoods):
        found = score(model, sequences, batching=ONE)
        assert np.isnan(found).tolist() == [True, False, True]
        assert found[1] < 0


@pytest.mark.parametrize("masked", [False, True])
def test_likelihoods_have_the_number_of_their_tokens(masked, model):
    found = score_sequences(model, ["ACGTTCANGGATC", "N", "ACGT"], masked=masked, batching=ONE)
    assert found.num_tokens.tolist() == [6, 0, 2]  # ACG TTC A GGA T C, and ACG T
    (row,) = token_log_likelihoods(model, ["ACGT"], masked=masked, batching=ONE)
    np.testing.assert_allclose(found.log_likelihood[2], np.nansum(row), atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_wrong_windows_are_refused_at_once(masked, model):
    with pytest.raises(ValueError, match="overlap_tokens"):
        token_log_likelihoods(
            model, ["ACGT"], masked=masked, batching=BatchConfig(overlap_tokens=99)
        )


def count_rows(monkeypatch):
    """Rows that go through the model from now on."""
    counted = []
    run_rows = batching_module.run_rows

    def count(model, task, rows, batching):
        return run_rows(model, task, (counted.append(row) or row for row in rows), batching)

    monkeypatch.setattr(batching_module, "run_rows", count)
    return counted


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_windows_of_nothing_but_n_are_not_computed(pooling, model, monkeypatch):
    batching = BatchConfig(window_tokens=16, overlap_tokens=0, num_devices=1, batch_tokens=64)
    sequences = ["N" * 300, "ACG" * 15 + "N" * 300 + "TTG" * 15, "NNN", "ACGT", "N" * 40]
    rows = count_rows(monkeypatch)
    reports = []
    found = list(embed(model, sequences, pooling=pooling, batching=batching, report=reports.append))
    assert len(rows) <= 6  # 60 windows in all
    assert [bool(np.isnan(each[2]).all()) for each in found] == [True, False, True, False, True]
    assert sum(reports) == pytest.approx(5)
    (alone,) = embed(model, ["ACGT"], pooling=pooling, batching=batching)
    np.testing.assert_allclose(found[3][2], alone[2], atol=2e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_one_frame_is_the_distribution_at_the_tokens_own(masked, model):
    """Of ACG TTG AC: k-mers hold the first six letters, the last two have their own."""
    text = "ACGTTGAC"
    found = nucleotide_probabilities(model, text, masked=masked, frames=1, batching=ONE)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    tokens = model.tokenizer.encode(text)
    scores = np.asarray(model(tokens[None]).logits[0], np.float64)
    if masked:
        hidden = np.where(np.eye(5, dtype=bool), V2.mask_token_id, tokens)
        scores = np.asarray(model(hidden).logits)[np.arange(5), np.arange(5)]
    first = V2.first_kmer_id
    kmers = np.asarray(jax.nn.softmax(scores[1, first : first + 64])).reshape(4, 4, 4)
    single = np.asarray(jax.nn.softmax(scores[4, first + 64 : first + 68]))
    order = [0, 2, 3, 1]  # A, C, G, T in A, T, C, G
    np.testing.assert_allclose(found[1], kmers.sum(axis=(0, 2))[order], atol=2e-5)
    np.testing.assert_allclose(found[7], single[order], atol=2e-5)
    every = nucleotide_probabilities(model, text, masked=masked, frames=3, batching=ONE)
    default = nucleotide_probabilities(model, text.encode(), masked=masked, batching=ONE)
    np.testing.assert_array_equal(every, default)
    assert np.abs(every - found).max() > 0.01


def test_attention_maps_have_a_limit(model, monkeypatch):
    """Of 22 layers and 16 heads of 2,048 tokens they would take 5.9 GB."""
    monkeypatch.setattr(embedding_module, "MAX_MAP_BYTES", 4 * 4 * 3**2)
    assert list(attention_maps(model, "ACGACG", layers=(1,))) == [1]
    with pytest.raises(ValueError, match=r"^layers = 2: 3 tokens have .* ask for fewer layers$"):
        attention_maps(model, "ACGACG")


@pytest.mark.parametrize("frames", [0, 4])
def test_frames_that_there_are_not(frames, model):
    with pytest.raises(ValueError, match=rf"^frames = {frames}: must lie between 1 and 3$"):
        nucleotide_probabilities(model, "ACGT", frames=frames)
