"""Products of float32 models are exact where accelerators would round: at every entry point.

GPUs would round the factors to 11 bits (TF32), TPUs to 8. A CPU multiplies exactly whatever is
asked for, so that what is asked for is read from the traced programs. The training step has the
same test in test_step.py.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import haiku as hk
import jax
import numpy as np
import pytest
from small_models import V2, random_params

from nucleotide_transformer.compat import _make_forward_fn as make_published
from nucleotide_transformer.config import ComputeConfig
from nucleotide_transformer.inference import embed, log_likelihoods
from nucleotide_transformer.inference.batching import BatchConfig, Row, run_rows
from nucleotide_transformer.inference.embedding import PoolTask
from nucleotide_transformer.model import exact_products
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
HIGH = (jax.lax.Precision.HIGH,) * 2
ONE = BatchConfig(num_devices=1, batch_tokens=64)
TOKENS = np.full((1, 8), 9, np.int32)


def find_precisions(program: Any) -> Iterator[Any]:
    """What each product of a program asks for, those inside loops and calls included."""
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for option in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(option, "jaxpr", option)
            yield from find_precisions(inner) if hasattr(inner, "eqns") else ()


def trace(function: Any, *arguments: Any) -> set[Any]:
    found = list(find_precisions(jax.make_jaxpr(function)(*arguments).jaxpr))
    assert len(found) >= 10  # in each of two blocks 6; 4 in the last where queries are few
    return set(found)


def make_model(dtype: Any = "float32") -> Model:
    compute = ComputeConfig(compute_dtype=dtype, attention="einsum")
    return Model(params=random_params(V2), config=V2, compute=compute, tokenizer=KmerTokenizer(k=3))


def trace_call(model: Model) -> set[Any]:
    return trace(lambda tokens: model(tokens, layers=(2,)), TOKENS)


@dataclasses.dataclass(frozen=True, eq=False)
class Spy:
    """A task that notes the products of another one as it is traced; equal to none, traced anew."""

    task: PoolTask
    found: set[Any]

    def __call__(self, *arguments: Any) -> Any:
        self.found.update(trace(self.task, *arguments))
        return self.task(*arguments)


def trace_batches(model: Model) -> set[Any]:
    spy = Spy(PoolTask(model.config, model.compute, (2,), "mean"), set())
    assert len(list(run_rows(model, spy, [Row(TOKENS[0], (0, 8))], ONE))) == 1
    return spy.found


def trace_published(model: Model) -> set[Any]:
    apply = hk.transform(make_published(model.config, model.compute, (2,), ())).apply
    return trace(lambda tokens: apply(model.params, None, tokens), TOKENS)


ENTRIES = pytest.mark.parametrize("trace_entry", [trace_call, trace_batches, trace_published])


@ENTRIES
@pytest.mark.parametrize(("dtype", "expected"), [("float32", HIGHEST), ("bfloat16", None)])
def test_products_of_float32_are_exact(trace_entry: Any, dtype: str, expected: Any) -> None:
    assert trace_entry(make_model(dtype)) == {expected}


@ENTRIES
def test_what_the_user_sets_decides(trace_entry: Any) -> None:
    """What JAX_DEFAULT_MATMUL_PRECISION sets for a process, this sets for a thread."""
    with jax.default_matmul_precision("tensorfloat32"):
        assert trace_entry(make_model()) == {HIGH}
    assert trace_entry(make_model()) == {HIGHEST}


def test_embeddings_and_likelihoods_go_through_the_batches(monkeypatch: Any) -> None:
    """The two entries above are those of all of inference: each asks for exact products once.

    `get_pretrained_model` has the third.
    """
    asked = []

    def note(compute: ComputeConfig) -> Any:
        asked.append(compute)
        return exact_products(compute)

    monkeypatch.setattr("nucleotide_transformer.inference.batching.exact_products", note)
    model = make_model()
    for call in (embed, log_likelihoods):
        asked.clear()
        list(call(model, ["ACGTTC"], batching=ONE))
        assert asked == [model.compute]
