"""The plain model of the experiments: the same network as the package's, only slower."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiment_scripts import load_script
from small_models import V1, V2, random_params

from nucleotide_transformer.benchmark.config import BenchmarkConfig, list_cases
from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.model import make_forward


@pytest.fixture(scope="module")
def plain():
    """experiments/plain_model.py, which is no package."""
    return load_script("plain_model")


def test_it_computes_the_same_from_the_same_parameters(plain):
    params = random_params(V2)
    renamed = {name.replace("/~", ""): leaves for name, leaves in params.items()}
    tokens = jax.random.randint(jax.random.key(0), (3, 30), V2.first_kmer_id, V2.vocabulary_size)
    tokens = jnp.where(jnp.arange(30) < jnp.array([[30], [20], [7]]), tokens, V2.pad_token_id)
    shapes = jax.eval_shape(plain.make_plain_forward(V2).init, jax.random.key(0), tokens)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, renamed)

    found = plain.make_plain_forward(V2).apply(renamed, tokens)
    expected = make_forward(V2).apply(params, tokens, layers=(V2.num_layers,))
    # Float32 through two layers; embeddings are near 1, logits near 10.
    embeddings = expected.embeddings[V2.num_layers]
    np.testing.assert_allclose(found["embeddings"], embeddings, atol=1e-5)
    np.testing.assert_allclose(found["logits"], expected.logits, atol=1e-4)


def test_its_updates_lower_the_loss(plain):
    config = BenchmarkConfig(
        tasks=("train",),
        models=("custom",),
        model=ModelConfig(k=3, num_layers=1, embed_dim=16, num_heads=2, ffn_dim=16),
        sequence_tokens=(40,),
        sequences_per_device=(4,),
    )
    (case,) = list_cases(config, num_local_devices=1, platform="cpu")
    workload = plain.PlainWorkload(case, config)
    losses = [float(workload.start()) for _ in range(150)]
    # The same four sequences again and again, at a learning rate of 1e-4: slow, but it learns.
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.02


def test_a_model_of_the_first_generation_is_refused(plain):
    with pytest.raises(ValueError, match=r"model\.position = 'learned'.* only 'rotary'"):
        plain.make_plain_forward(V1)
