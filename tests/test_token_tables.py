"""Token tables with shared vectors: they fold into the published form, and into no other model."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import V2, V2_BIASED, assert_same_params, random_params

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model import init_params, make_forward
from nucleotide_transformer.model.token_tables import count_shared, fold_tables, unfold_tables
from nucleotide_transformer.pretrained import Model, load_pretrained
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.weights.configs import make_huggingface_config, make_hyperparams

TOKENS = jnp.array([[3, 9, 2, 40, 12, 7, 75], [3, 2, 30, 8, 71, 1, 1]], jnp.int32)
LOGITS = 2e-5
"""Relative to the largest logit: sums in another order, in float32."""

EMBED, SHARED = "esm_transformer/~/embed", "esm_transformer/~/shared"
HEAD = "esm_transformer/~/esm_roberta_lm_head/~"


def with_tables(kind, config=V2):
    return dataclasses.replace(config, token_tables=kind)


KINDS = pytest.mark.parametrize("kind", ["letters", "pairs"])


@KINDS
@pytest.mark.parametrize("config", [V2, V2_BIASED], ids=["k = 3", "k = 4"])
def test_a_row_is_the_exact_sum_of_its_own_and_of_what_it_spells(kind, config):
    """The sum by `math.fsum`, which is exact, rounded once; letters read from the token's text."""
    config = with_tables(kind, config)
    params = random_params(config)
    folded, _ = fold_tables(params, config)
    tokenizer = KmerTokenizer(config.vocabulary, config.k)
    own, shared = params[EMBED]["embeddings"], np.asarray(params[SHARED]["embeddings"])
    weights, columns = params[f"{HEAD}/lm_final_fc"], params[f"{HEAD}/shared"]
    for token in range(config.vocabulary_size):
        text = tokenizer.id_to_token(token)
        used = []
        if len(text) == config.k and set(text) <= set("ATCG"):
            letters = ["ATCG".index(letter) for letter in text]
            used = [4 * place + letter for place, letter in enumerate(letters)]
            if kind == "pairs":
                start = 4 * config.k
                for place, (left, right) in enumerate(itertools.pairwise(letters)):
                    used.append(start + 16 * place + 4 * left + right)
        for column in range(config.embed_dim):
            exact = math.fsum([own[token, column], *shared[used, column]])
            assert folded[EMBED]["embeddings"][token, column] == np.float32(exact)
        exact = math.fsum([weights["w"][5, token], *np.asarray(columns["w"])[5, used]])
        assert folded[f"{HEAD}/lm_final_fc"]["w"][5, token] == np.float32(exact)
        exact = math.fsum([weights["b"][token], *np.asarray(columns["b"])[used]])
        assert folded[f"{HEAD}/lm_final_fc"]["b"][token] == np.float32(exact)


@KINDS
@pytest.mark.parametrize("stack", ["scan", "loop"])
def test_the_folded_model_gives_the_same_logits(kind, stack):
    config = with_tables(kind)
    params = random_params(config)
    folded, plain = fold_tables(params, config)
    assert plain == V2
    assert {name: set(leaves) for name, leaves in folded.items()} == {
        name: set(leaves) for name, leaves in random_params(V2).items()
    }
    compute = ComputeConfig(stack=stack)
    found = make_forward(config, compute).apply(params, TOKENS, layers=(0, 2))
    right = make_forward(plain, compute).apply(folded, TOKENS, layers=(0, 2))
    scale = float(jnp.abs(right.logits).max())
    np.testing.assert_allclose(found.logits, right.logits, rtol=0, atol=LOGITS * scale)
    for layer in (0, 2):
        difference = jnp.abs(found.embeddings[layer] - right.embeddings[layer]).max()
        assert difference < LOGITS * float(jnp.abs(right.embeddings[layer]).max())
    without = {**folded, EMBED: params[EMBED]}
    apart = make_forward(plain, compute).apply(without, TOKENS).logits
    assert float(jnp.abs(apart - right.logits).max()) > 0.1 * scale


def test_what_is_shared_is_added_up_before_it_is_rounded():
    """To the same bits where parameters are rounded once, and not at every call."""
    config, compute = with_tables("pairs"), ComputeConfig(compute_dtype="bfloat16")
    params, tokens = random_params(config), TOKENS[:, :6]
    tokenizer = KmerTokenizer(k=config.k)
    model = Model(params=params, config=config, compute=compute, tokenizer=tokenizer)
    expected = jax.jit(make_forward(config, compute).apply)(params, tokens).logits
    np.testing.assert_array_equal(model(tokens).logits, expected)


@KINDS
def test_shared_vectors_learn_from_all_tokens_that_spell_them(kind):
    config = with_tables(kind)
    params = random_params(config)
    forward = make_forward(config)
    gradient = jax.grad(lambda params: (forward.apply(params, TOKENS).logits ** 2).sum())(params)
    rows = gradient[EMBED]["embeddings"]
    seen = np.zeros((count_shared(config), config.embed_dim))
    tokenizer = KmerTokenizer(config.vocabulary, config.k)
    for token in range(config.vocabulary_size):
        text = tokenizer.id_to_token(token)
        if len(text) == config.k and set(text) <= set("ATCG"):
            for place, letter in enumerate(text):
                seen[4 * place + "ATCG".index(letter)] += rows[token]
    letters = 4 * config.k
    found = gradient[SHARED]["embeddings"][:letters]
    np.testing.assert_allclose(found, seen[:letters], rtol=1e-4, atol=1e-4)
    assert np.abs(seen[:letters]).max() > 1


@KINDS
def test_rows_start_with_the_variance_of_free_ones(kind):
    """With six letters; the first sum is of a row of its own and of letters, no pairs."""
    config = ModelConfig(
        num_layers=1, embed_dim=64, num_heads=2, ffn_dim=8, init="truncated_normal"
    )
    free = init_params(jax.random.key(0), config)[EMBED]["embeddings"]
    config = with_tables(kind, config)
    params = init_params(jax.random.key(0), config)
    folded = fold_tables(params, config)[0]
    kmers = slice(config.first_kmer_id, config.first_kmer_id + 4**6)
    ratio = folded[EMBED]["embeddings"][kmers].std() / free[kmers].std()
    assert 0.95 < ratio < 1.05
    assert not np.any(params[f"{HEAD}/shared"]["w"])
    assert not np.any(params[SHARED]["embeddings"][24:])


@pytest.mark.parametrize("layout", ["huggingface", "jax"])
def test_every_layout_holds_the_sums(tmp_path, layout):
    config = with_tables("pairs")
    params = random_params(config)
    model = Model(params=params, config=config, tokenizer=KmerTokenizer(k=config.k))
    model.save_pretrained(tmp_path / "export", layout)
    loaded = load_pretrained(tmp_path / "export")
    folded, plain = fold_tables(params, config)
    assert dataclasses.replace(loaded.config, init=plain.init) == dataclasses.replace(
        plain, max_positions=loaded.config.max_positions
    )
    assert_same_params(loaded.params, folded)


@pytest.mark.parametrize("make", [make_huggingface_config, make_hyperparams])
def test_a_layout_has_no_words_for_shared_vectors(make):
    with pytest.raises(InputError, match=r"token_tables = 'letters': fold them "):
        make(with_tables("letters"))


@KINDS
def test_free_tables_unfold_to_the_same_function(kind):
    config = with_tables(kind)
    params = random_params(V2)
    unfolded = unfold_tables(params, config)
    found = make_forward(config).apply(unfolded, TOKENS).logits
    np.testing.assert_array_equal(found, make_forward(V2).apply(params, TOKENS).logits)
    assert_same_params(fold_tables(unfolded, config)[0], params)


@pytest.mark.parametrize(
    ("module", "count"), [(SHARED, None), (f"{HEAD}/shared", None), (SHARED, 5)]
)
def test_vectors_that_are_missing_or_too_few_are_named(module, count):
    config = with_tables("letters")
    params = random_params(config)
    leaves = params.pop(module)
    if count:
        params[module] = {name: leaf[:count] for name, leaf in leaves.items()}
    with pytest.raises(InputError, match=f"vectors in {module}/.* = {count}: must be 12, as "):
        fold_tables(params, config)
