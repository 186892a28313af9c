"""What the backward pass computes again."""

import jax
import jax.numpy as jnp
import pytest

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.model import init_params, make_forward, remat
from nucleotide_transformer.model.adapters import Ia3
from nucleotide_transformer.model.stacking import arrange_params
from nucleotide_transformer.training.state import merge, partition

MODEL = ModelConfig(k=3, num_layers=3, embed_dim=32, num_heads=2, ffn_dim=48)


def count_operations(compute, name):
    """Operations of a name in the gradient of a loss, those inside loops and calls once each."""
    params = init_params(jax.random.key(0), MODEL)
    tokens = jnp.arange(24).reshape(2, 12) + MODEL.first_kmer_id
    forward = make_forward(MODEL, compute)
    gradient = jax.grad(lambda params: forward.apply(params, tokens).logits.sum())

    def count(program):
        own = sum(equation.primitive.name == name for equation in program.eqns)
        options = jax.tree.leaves([equation.params for equation in program.eqns])
        inner = [getattr(option, "jaxpr", option) for option in options]
        return own + sum(count(option) for option in inner if hasattr(option, "eqns"))

    return count(jax.make_jaxpr(gradient)(params).jaxpr)


@pytest.mark.parametrize("attention", ["per_head", "einsum"])
@pytest.mark.parametrize(("stack", "num_blocks"), [("loop", 3), ("scan", 2)])
def test_dots_computes_no_matrix_product_again(stack, num_blocks, attention):
    """But for the scores of forms that would have to keep them whole: one product a block."""

    def count(remat, name):
        compute = ComputeConfig(remat=remat, stack=stack, attention=attention)
        return count_operations(compute, name)

    again = 0 if attention == "per_head" else num_blocks
    assert count("dots", "dot_general") == count("none", "dot_general") + again
    assert count("block", "dot_general") > count("none", "dot_general") + again
    assert count("dots", "logistic") > count("none", "logistic")


@pytest.mark.parametrize("stack", ["loop", "scan"])
def test_recomputing_saves_memory_in_the_compiled_program(stack):
    """The compiler must not undo it by merging the recomputation with the forward pass.

    Measured: 9.25 of 10.83 MB in a loop, 2.75 of 8.62 MB in a scan.
    """
    model = ModelConfig(k=3, num_layers=6, embed_dim=16, num_heads=2, ffn_dim=256)
    tokens = jax.ShapeDtypeStruct((4, 64), jnp.int32)

    def measure(remat):
        compute = ComputeConfig(stack=stack, remat=remat, attention="einsum")
        forward = make_forward(model, compute, head=None)
        params = jax.eval_shape(forward.init, jax.random.key(0))

        def loss(params, tokens):
            return forward.apply(params, tokens, layers=(6,)).embeddings[6].sum()

        program = jax.jit(jax.grad(loss)).lower(params, tokens).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert measure("block") < 0.92 * measure("none")


def count_kept(adapter, attention):
    """Numbers that a scan over the blocks keeps for the gradient of an adapter, or of all."""
    compute = ComputeConfig(attention=attention)
    forward = make_forward(MODEL, compute, head=None, adapter=adapter)
    params = arrange_params(forward.init(jax.random.key(0)), "scan")
    trained, frozen = partition(params, lambda path: adapter is None or "/ia3/" in path)
    tokens = jnp.arange(24).reshape(2, 12) + MODEL.first_kmer_id

    def loss(trained):
        outputs = forward.apply(merge(trained, frozen), tokens, layers=(3,), logits=False)
        return outputs.embeddings[3].sum()

    steps = jax.make_jaxpr(jax.grad(loss))(trained).jaxpr.eqns
    scan = next(step for step in steps if step.primitive.name == "scan")
    kept = [leaf.aval for leaf in scan.outvars[scan.params["num_carry"] :]]
    return sum(leaf.size for leaf in kept if leaf.size >= tokens.size * MODEL.embed_dim)


@pytest.mark.parametrize("attention", ["per_head", "einsum"])
def test_ia3_keeps_keys_and_values_once(attention):
    """Before their factors, not behind them too: no more than training all weights keeps."""
    assert 0 < count_kept(Ia3, attention) <= count_kept(None, attention)


def test_cudnn_attention_is_kept():
    """Its kernel runs on GPUs alone; what is seen here is that its name is still the one known."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    assert remat.is_cudnn(cudnn._dot_product_attention_fwd_p_wrapper)
    assert not remat.is_cudnn(cudnn._dot_product_attention_bwd_p_wrapper)
