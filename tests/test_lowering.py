"""What the GPU is given: the training computation, lowered for CUDA on a CPU, and read.

Real widths, few layers, shapes alone: nothing is computed, and no GPU is needed. The text is
StableHLO, before XLA's own optimisations: what is in it has to be done, what is not can't happen.
"""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.model import init_params, make_forward
from nucleotide_transformer.model.stacking import stack_params
from nucleotide_transformer.pretraining.objective import masked_cross_entropy

NUM_LAYERS = 4
NUM_SCANNED = NUM_LAYERS - 1
SEQUENCES, TOKENS, MASKED = 25, 1_000, 150
NUM_TOKENS = SEQUENCES * TOKENS
MODEL = ModelConfig(num_layers=NUM_LAYERS)
BYTES = {"f32": 4, "bf16": 2, "i32": 4, "i1": 1}
TENSOR = re.compile(r"tensor<((?:\d+x)*)(f32|bf16|i32|i1)>")


@functools.cache
def lower(remat="dots", stack="scan", dtype="bfloat16"):
    """Value and gradient of the masked-LM loss, for CUDA."""
    compute = ComputeConfig(compute_dtype=dtype, attention="cudnn", remat=remat, stack=stack)
    forward = make_forward(MODEL, compute)

    def loss(params, tokens, positions):
        logits = forward.apply(params, tokens, positions).logits
        return masked_cross_entropy(logits, positions, positions > 0)[0]

    def init(key):
        params = init_params(key, MODEL, compute)
        return stack_params(params) if stack == "scan" else params

    params = jax.eval_shape(init, jax.random.key(0))
    tokens, positions = (
        jax.ShapeDtypeStruct((SEQUENCES, size), jnp.int32) for size in (TOKENS, MASKED)
    )
    step = jax.jit(jax.value_and_grad(loss))
    with pytest.MonkeyPatch.context() as patch:  # which asks the GPU that is not there
        patch.setattr(cudnn, "check_cudnn_version", lambda: 91_000)
        return step.trace(params, tokens, positions).lower(lowering_platforms=("cuda",)).as_text()


def find_shapes(text):
    """(sizes, type) of every array named in a text."""
    return [
        (tuple(int(size) for size in sizes.split("x") if size), dtype)
        for sizes, dtype in TENSOR.findall(text)
    ]


def find_kept(text):
    """Arrays that the scan stacks in the forward pass and the backward pass reads: (sizes, type).

    The backward scan is the last loop. Those that have an axis of tokens are activations.
    """
    header = [line for line in text.splitlines() if "stablehlo.while" in line][-1]
    stacked = [shape for shape in find_shapes(header) if shape[0][:1] == (NUM_SCANNED,)]
    return [shape for shape in stacked if math.prod(shape[0]) % (NUM_SCANNED * NUM_TOKENS) == 0]


def count_kept(text):
    """Number of kept arrays, and their bytes for a token and layer."""
    kept = find_kept(text)
    total = sum(math.prod(sizes) * BYTES[dtype] for sizes, dtype in kept)
    return len(kept), total // (NUM_SCANNED * NUM_TOKENS)


def find_products(text):
    """(left, right, result) of every matrix product: sizes and types."""
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    return [tuple(find_shapes(line.rpartition(" : ")[2])) for line in lines]


def count_attention(text):
    """Calls of cuDNN's attention, forwards and backwards; a loop's body counts once."""
    names = collections.Counter(re.findall(r"custom_call @__cudnn\$(\w+)", text))
    return names["fmhaSoftmax"], names["fmhaSoftmaxBackward"]


@pytest.mark.parametrize(("remat", "forward"), [("dots", 2), ("none", 2), ("block", 4)])
def test_attention_is_computed_again_with_whole_blocks_alone(remat, forward):
    """Once for the scan's body, once for the last block; each has one backward kernel."""
    assert count_attention(lower(remat)) == (forward, 2)


@pytest.mark.parametrize("remat", ["dots", "none", "block"])
def test_no_array_has_two_axes_of_tokens(remat):
    sizes = [sizes for sizes, _ in find_shapes(lower(remat))]
    assert max(math.prod(size) for size in sizes) >= NUM_TOKENS * 4_096  # the hidden layer
    assert not [size for size in sizes if size.count(TOKENS) > 1]


@pytest.mark.parametrize("remat", ["dots", "none", "block"])
def test_nothing_is_summed_in_16_bits(remat):
    """Neither biases' gradients over tokens, nor anything else."""
    lines = [line for line in lower(remat).splitlines() if "stablehlo.reduce(" in line]
    sums = [line for line in lines if "applies stablehlo.add" in line]
    assert len(sums) > 20
    assert not [line for line in sums if "bf16" in line]


@pytest.mark.parametrize("remat", ["dots", "none", "block"])
def test_gradients_of_weights_leave_their_products_in_float32(remat):
    """Products that sum over tokens are those of the weights' gradients."""
    products = find_products(lower(remat))
    of_weights = [result for (left, right, result) in products if left[0][0] == right[0][0] > 3_000]
    # In the scan one product for queries, keys and values, one for the attention's output, two for
    # the feed-forward network; in the last block queries are by themselves; two of the head.
    assert len(of_weights) == 4 + 5 + 2
    assert ((512, 3 * 512), "f32") in of_weights
    assert {dtype for _, dtype in of_weights} == {"f32"}


def test_all_other_products_give_16_bits_but_for_the_logits():
    """A float32 result would go through memory at twice the size."""
    others = [
        result
        for (left, right, result) in find_products(lower())
        if left[0][0] != right[0][0] or left[0][0] <= 3_000
    ]
    wide = [result for result in others if result[1] == "f32"]
    assert wide == [((SEQUENCES * MASKED, MODEL.vocabulary_size), "f32")]


def test_products_take_16_bits():
    for left, right, _ in find_products(lower()):
        assert (left[1], right[1]) == ("bf16", "bf16")


@pytest.mark.parametrize(
    ("remat", "number", "num_bytes"),
    [
        # x, queries, keys, values, results of the attention and a number a head and row, x between
        # the two halves: 512 each in 16 bits; the hidden layer of 4,096.
        ("dots", 8, 6 * 512 * 2 + 16 * 4 + 4_096 * 2),
        ("block", 1, 512 * 2),
    ],
)
def test_what_the_scan_keeps_for_the_backward_pass(remat, number, num_bytes):
    assert count_kept(lower(remat)) == (number, num_bytes)


def test_without_recomputation_the_scan_keeps_what_the_rules_need():
    """Beside what "dots" keeps: both norms' results and two numbers each, the gate's results, and
    the attention's a second time, as the next product takes them."""
    more = 2 * (512 * 2 + 2 * 4) + 2_048 * 2 + 512 * 2
    assert count_kept(lower("none")) == (16, 6 * 512 * 2 + 16 * 4 + 4_096 * 2 + more)


def test_gradients_of_tables_are_summed_in_float32():
    """Into the rows of tokens, of which <mask> alone gets 12 % of all."""
    text = lower()
    scatters = re.findall(
        r'"stablehlo.scatter".*?\}\) : \(.*?\) -> (tensor<[^>]*>)', text, re.DOTALL
    )
    found = [find_shapes(scatter)[0] for scatter in scatters]
    assert ((MODEL.vocabulary_size, MODEL.embed_dim), "f32") in found
    # All others put, at each token, one number where there was none: 16 bits are exact.
    assert {sizes for sizes, dtype in found if dtype != "f32"} <= {(SEQUENCES, TOKENS, 512)}
    unique = re.findall(r"unique_indices = (true|false)", text)
    assert unique.count("true") == len([found for found in found if found[1] != "f32"])


def test_weights_are_cast_once_a_pass():
    """By the scan's body: four of the attention and two of the feed-forward network, forwards and
    backwards; the last block and the head, likewise."""
    casts = re.findall(r"stablehlo.convert .*\(tensor<([\dx]+)xf32>\) -> tensor<\1xbf16>", lower())
    weights = [cast for cast in casts if re.fullmatch(r"(512|2048)x\d+", cast)]
    assert len(weights) == 2 * (2 * 6 + 2)
