"""What 16 bits cost: measured on real DNA, against logits computed in one piece."""

import gzip

import jax
import numpy as np
import pytest
from small_models import V2, random_params

from nucleotide_transformer.data.sources import SHIPPED_GENOMES
from nucleotide_transformer.packaging.rounding import make_probe, measure_roundings
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer

TOKENIZER = KmerTokenizer(k=3)


def widen(params, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype).astype("float32"), params)


def predict(params, probe):
    """Log-probabilities and logits of all sequences at once, float64."""
    masked = np.where(probe.masked, V2.mask_token_id, probe.tokens)
    outputs = Model(params=params, config=V2, tokenizer=TOKENIZER)(masked)
    logits = np.asarray(outputs.logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), logits


def test_numbers_that_16_bits_hold_cost_nothing():
    """Of 8 significant bits, and within the range of both types."""
    params = widen(random_params(V2), "bfloat16")
    params = jax.tree.map(lambda leaf: leaf * (abs(leaf) > 1e-3), params)
    for cost in measure_roundings(params, V2, make_probe(TOKENIZER, 33)):
        assert (cost.largest, cost.typical, cost.nats) == (0, 0, 0)


def test_costs_are_those_of_the_logits():
    probe = make_probe(TOKENIZER, 33)
    params = random_params(V2)
    exact_logs, exact = predict(params, probe)
    costs = measure_roundings(params, V2, probe)
    assert [cost.dtype for cost in costs] == ["float16", "bfloat16"]
    for cost in costs:
        logs, logits = predict(widen(params, cost.dtype), probe)
        difference = np.abs(logits - exact)
        # One sequence at a time or all at once: float32 sums in another order.
        assert cost.largest == pytest.approx(difference.max(), rel=0.02)
        assert cost.typical == pytest.approx(np.sqrt((difference**2).mean()), rel=0.02)
        right = [
            np.take_along_axis(each, probe.tokens[..., None], -1)[..., 0][probe.masked].mean()
            for each in (exact_logs, logs)
        ]
        assert cost.nats == pytest.approx(right[0] - right[1], abs=1e-5)
    # 11 bits of a number against 8.
    assert costs[1].typical == pytest.approx(8 * costs[0].typical, rel=0.5)


def test_the_probe_is_real_dna_partly_masked():
    tokenizer = KmerTokenizer()
    probe = make_probe(tokenizer, 65)
    assert probe.tokens.shape == probe.masked.shape == (20, 65)
    assert not probe.masked[:, 0].any()
    assert probe.masked[:, 1:].mean() == pytest.approx(0.15, abs=0.04)  # of 1,280: 4 deviations
    again = make_probe(tokenizer, 65)
    np.testing.assert_array_equal(again.tokens, probe.tokens)
    np.testing.assert_array_equal(again.masked, probe.masked)
    text = "".join(tokenizer.tokens[i] for i in probe.tokens[0, 1:])
    found = 0
    for file in SHIPPED_GENOMES.parent.glob("*.fa.gz"):
        with gzip.open(file, "rt") as stream:
            found += text in stream.read().replace("\n", "")
    assert found == 1
