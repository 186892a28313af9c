"""Adapters in the blocks: their mathematics, their names and numbers, and what freezing saves."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import MODELS, V1, V2, assert_same_params, random_params

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model import count_parameters, make_forward
from nucleotide_transformer.model.adapters import (
    SITES,
    Ia3,
    Lora,
    choose_adapter,
    keep_plain,
    merge_adapter,
)
from nucleotide_transformer.model.encoder import Encoder
from nucleotide_transformer.model.forward import init_adapter
from nucleotide_transformer.model.stacking import arrange_params
from nucleotide_transformer.model.task_network import TaskNetwork
from nucleotide_transformer.training.state import merge, partition
from nucleotide_transformer.types import Array

TOKENS = jnp.array([[3, 9, 2, 40, 12, 7], [3, 2, 30, 8, 1, 1]], jnp.int32)
EXACT = ComputeConfig(attention="einsum")
LORA = functools.partial(Lora, rank=3, alpha=5.0)
EVERYWHERE = functools.partial(
    Lora, rank=2, alpha=5.0, sites=[site for site in SITES if site != "hidden"]
)
ADAPTERS = {"ia3": Ia3, "lora": LORA, "lora everywhere": EVERYWHERE}


def adapt(config, adapter, seed=1):
    """A model's random parameters, and those of an adapter, as if both were trained."""
    random = np.random.default_rng(seed)
    added = init_adapter(adapter, config, EXACT, jax.random.key(0))
    added = jax.tree.map(
        lambda leaf: leaf + 0.3 * random.standard_normal(leaf.shape, np.float32), added
    )
    return random_params(config) | added


def run(config, params, adapter=None, **fields):
    compute = ComputeConfig(**{"attention": "einsum"} | fields)
    return make_forward(config, compute, adapter=adapter).apply(params, TOKENS, layers=(1, 2))


def test_the_published_number_of_parameters():
    """Of 100M: 22 x (512 + 512 + 2,048), 0.070 % of all; LoRA, 22 x 4 x 8 x (512 + 512)."""
    config = ModelConfig()

    def count(adapter):
        init = functools.partial(init_adapter, adapter, config, EXACT)
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))))

    assert count(Ia3) == 67_584
    assert round(100 * count(Ia3) / count_parameters(config), 3) == 0.070
    assert count(Lora) == 22 * 4 * 8 * 1_024


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_changes_nothing_at_first(name):
    plain = make_forward(V2, EXACT).init(jax.random.key(0))
    adapted = make_forward(V2, EXACT, adapter=ADAPTERS[name]).init(jax.random.key(0))
    added = adapted.keys() - plain.keys()
    assert added
    assert all("/ia3/" in module or "/lora/" in module for module in added)
    assert_same_params({module: adapted[module] for module in plain}, plain)
    one, other = run(V2, adapted, ADAPTERS[name]), run(V2, plain)
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-6)


def test_no_part_is_drawn_from_the_key_of_another(monkeypatch):
    """With one seed for a model of random weights and what is put onto it, as `nt finetune` does:
    low ranks would start as copies of the weights."""
    keys = []

    def note(_, key):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return {}

    for part in ("_init_ends", "_init_block", "_init_block_adapter"):
        monkeypatch.setattr(Encoder, part, note)
    make_forward(V2, EXACT, adapter=LORA).init(jax.random.key(0))
    network = TaskNetwork(config=V2, compute=EXACT, num_outputs=2, adapter=LORA)
    network.init(jax.random.key(0))
    assert len(keys) == 1 + 2 + 2 + 2
    encoder = set(keys[:3])
    assert len(encoder) == 3
    assert encoder.isdisjoint(keys[3:])


def test_equal_choices_are_one_adapter_and_no_rank_is_none():
    """It is a key of what is compiled."""
    choose = functools.partial(choose_adapter, "lora", rank=2, alpha=3.0)
    assert choose(sites=["key"]) is choose(sites=("key",)) is not choose(sites=("value",))
    init = hk.transform(lambda: Lora(V2, EXACT, rank=0)).init
    with pytest.raises(InputError, match="rank = 0: must be above 0"):
        init(None)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("model", ["v1", "v2"])
def test_a_merged_model_is_the_adapted_one(name, model):
    """In float32, and for both forms of the parameters; logits are of order 1."""
    config, adapter = MODELS[model], ADAPTERS[name]
    params = adapt(config, adapter)
    merged = merge_adapter(params, alpha=5.0)
    assert merged.keys() == random_params(config).keys()
    expected = run(config, merged)
    assert np.abs(expected.logits - run(config, random_params(config)).logits).max() > 0.1
    for stack in ("loop", "scan"):
        found = run(config, params, adapter, stack=stack)
        np.testing.assert_allclose(found.logits, expected.logits, atol=2e-5)
        for layer in (1, 2):
            np.testing.assert_allclose(
                found.embeddings[layer], expected.embeddings[layer], atol=2e-5
            )


@pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])
def test_factors_and_low_ranks_written_out(config):
    """Products of the two modules with what they are given, in NumPy."""
    random = np.random.default_rng(0)
    x, y = (jnp.float32(random.standard_normal((2, 3, n))) for n in (4, 5))
    for module, expect in (
        (Ia3, lambda leaves: y * leaves["scale"]),
        (LORA, lambda leaves: y + 5 / 3 * (x @ leaves["down"] @ leaves["up"])),
    ):
        call = lambda x, y, module=module: module(config, EXACT)("value", x, y)  # noqa: E731
        function = hk.without_apply_rng(hk.transform(call))
        params = function.init(jax.random.key(0), x, y)
        params = jax.tree.map(lambda leaf: leaf + 0.5, params)
        (leaves,) = params.values()
        np.testing.assert_allclose(function.apply(params, x, y), expect(leaves), atol=1e-5)


class Shift(hk.Module):
    """A stranger's adapter: learned offsets on what the attention gives."""

    def __init__(self, config, compute, name="shift"):  # noqa: ARG002
        super().__init__(name=name)

    def __call__(self, site, x: Array, y: Array) -> Array:  # noqa: ARG002
        if site != "attention_output":
            return y
        return y + hk.get_parameter("offset", y.shape[-1:], init=jnp.zeros)


@pytest.mark.parametrize("stack", ["scan", "loop"])
def test_a_new_adapter_is_one_class_and_one_line(stack):
    forward = make_forward(V2, ComputeConfig(stack=stack), adapter=Shift)
    params = arrange_params(forward.init(jax.random.key(0)), stack)
    trainable, frozen = partition(params, lambda path: "/shift/" in path)
    assert sorted(leaf.shape[-1] for leaf in jax.tree.leaves(trainable)) == [16, 16]

    def loss(trainable):
        logits = forward.apply(merge(trainable, frozen), TOKENS).logits
        return -jax.nn.log_softmax(logits)[:, 1:, 9].sum()

    learn, losses = jax.jit(jax.value_and_grad(loss)), []
    for _ in range(5):
        value, gradient = learn(trainable)
        losses.append(float(value))
        trainable = jax.tree.map(lambda leaf, slope: leaf - 1e-3 * slope, trainable, gradient)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_a_block_without_an_adapter_computes_what_it_did():
    """The identity at each site adds no step to the program."""
    params = random_params(V2)

    def trace(adapter):
        forward = make_forward(V2, EXACT, adapter=adapter)
        return str(jax.make_jaxpr(forward.apply)(params, TOKENS))

    assert trace(None) == trace(lambda config, compute: keep_plain)  # noqa: ARG005


WIDE = ModelConfig(k=3, num_layers=4, embed_dim=128, num_heads=2, ffn_dim=512)


@functools.cache
def compile_step(kind, stack):
    """The compiled gradient of a fine-tuning loss, of what is trainable alone."""
    adapter = {"ia3": Ia3, "lora": Lora}.get(kind)
    forward = make_forward(WIDE, ComputeConfig(stack=stack, attention="einsum"), adapter=adapter)
    params = jax.eval_shape(lambda key: arrange_params(forward.init(key), stack), jax.random.key(0))
    trainable, frozen = partition(params, lambda path: kind == "full" or f"/{kind}/" in path)

    def loss(trainable, frozen, tokens):
        embeddings = forward.apply(merge(trainable, frozen), tokens, layers=(4,), logits=False)
        return embeddings.embeddings[4].sum()

    tokens = jax.ShapeDtypeStruct((4, 128), jnp.int32)
    return jax.jit(jax.grad(loss)).lower(trainable, frozen, tokens).compile()


@pytest.mark.parametrize("stack", ["scan", "loop"])
@pytest.mark.parametrize("kind", ["ia3", "lora"])
def test_frozen_weights_have_no_gradients(kind, stack):
    """Neither their memory nor their products, which are a third of all; LoRA's come on top."""
    full, part = compile_step("full", stack), compile_step(kind, stack)
    num_bytes = full.memory_analysis().output_size_in_bytes
    assert part.memory_analysis().output_size_in_bytes < num_bytes / 10
    assert part.cost_analysis()["flops"] < 0.8 * full.cost_analysis()["flops"]
    if stack == "scan":  # in a loop XLA makes all keys again before it needs the first
        held, most = part.memory_analysis(), full.memory_analysis()
        # 1.05 was seen of IA3, and 1.12 where keys and values were kept twice.
        assert held.temp_size_in_bytes < 1.08 * most.temp_size_in_bytes
        # With the gradients, which an update holds as well: 0.87.
        assert held.temp_size_in_bytes < 0.9 * (most.temp_size_in_bytes + num_bytes)
