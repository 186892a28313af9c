"""Whether this device computes what it should, in every precision and form of the computation.

    python experiments/check_device.py
    python experiments/check_device.py --layers 22 --forms auto

Attention: each form, forwards and backwards, against the einsum form in exact float32, with a
sequence that is partly padding, of an even and an odd number of tokens. Model: loss and gradient in
bfloat16, with each form, and with each kind of recomputation, against float32. Errors are relative
to the root mean square of what is right. Exits with 1 if one is above its tolerance, or if a form
fails that the device should have; one that it can't have is only reported.
"""

import argparse
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.benchmark.workloads import draw_tokens
from nucleotide_transformer.config import (
    ComputeConfig,
    Implementation,
    MaskingConfig,
    ModelConfig,
)
from nucleotide_transformer.model import init_params, make_forward
from nucleotide_transformer.model.attention import attend
from nucleotide_transformer.model.platform import choose_attention, has_cudnn_attention
from nucleotide_transformer.pretraining.masking import mask_tokens
from nucleotide_transformer.pretraining.objective import masked_cross_entropy

FORMS = get_args(Implementation)
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}
"""Relative error of attention: float32 has 2^-24 a rounding, bfloat16 2^-9 and some in a row."""
LOSS_TOLERANCES = {"float32": 1e-5, "bfloat16": 1e-2}
GRADIENT_TOLERANCES = {"float32": 1e-4, "bfloat16": 1e-1}
"""Of the whole gradient, through all layers: 22 of them, bfloat16, gave 2e-2 on a CPU."""


class Check(NamedTuple):
    """One number that must be small."""

    name: str
    error: float
    tolerance: float

    @property
    def passes(self) -> bool:
        """Whether it is; NaN is not."""
        return self.error <= self.tolerance


def measure_error(found: Any, expected: Any) -> float:
    """Root mean square of the difference over that of what is expected, over all leaves."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    arrays = [(np.asarray(one, np.float64), np.asarray(other, np.float64)) for one, other in pairs]
    difference = sum(float(np.square(one - other).sum()) for one, other in arrays)
    return math.sqrt(difference / sum(float(np.square(other).sum()) for _, other in arrays))


def run_attention(form: Implementation, dtype: str, num_tokens: int, model: ModelConfig) -> Any:
    """Output and gradients [query, key, value] of random inputs; a third of one row is padding."""
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (2, num_tokens, model.num_heads, model.key_dim)
    *inputs, weight = (jax.random.normal(key, shape, jnp.float32) for key in keys)
    keep = jnp.arange(num_tokens) < jnp.array([[num_tokens], [2 * num_tokens // 3]])
    weight = weight * keep[:, :, None, None]  # what padding attends to is nobody's business

    def total(*inputs: Any) -> tuple[Any, Any]:
        cast = [x.astype(dtype) for x in inputs]
        mixed = attend(*cast, keep, form).astype(jnp.float32)
        return (mixed * weight).sum(), mixed * keep[:, :, None, None]

    step = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
    precision = "highest" if dtype == "float32" else "default"
    with jax.default_matmul_precision(precision):
        gradients, mixed = step(*inputs)
    return jax.device_get((mixed, gradients))


def check_attention(
    forms: Sequence[Implementation], num_tokens: int, model: ModelConfig
) -> Iterator[Check | str]:
    """Every form in every precision."""
    expected = run_attention("einsum", "float32", num_tokens, model)
    for dtype, tolerance in TOLERANCES.items():
        for form in forms:
            name = f"attention {form}, {dtype}, {num_tokens} tokens"
            run = functools.partial(run_attention, form, dtype, num_tokens, model)
            found = run_form(name, run, absent=is_absent(form, dtype))
            if isinstance(found, Check | str):
                yield found
                continue
            yield Check(f"{name}, output", measure_error(found[0], expected[0]), tolerance)
            yield Check(f"{name}, gradient", measure_error(found[1], expected[1]), tolerance)


def is_absent(form: str, dtype: str) -> bool:
    """Whether this device can't have a form."""
    return form == "cudnn" and (dtype == "float32" or not has_cudnn_attention(jax.devices()[0]))


def run_form(name: str, run: Callable[[], Any], *, absent: bool) -> Any:
    """The result; or a line for a form that can't be here; or, if it should be, a failed check."""
    try:
        return run()
    except (NotImplementedError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        if absent:
            return f"{name}: not on this device ({reason})"
        return Check(f"{name}: {reason}", math.inf, 0.0)


def run_model(compute: ComputeConfig, num_tokens: int, model: ModelConfig) -> Any:
    """Loss in nats, and its gradient, of random sequences of which one is partly padding."""
    tokens = draw_tokens(2, num_tokens, model, seed=0)
    tokens[1, 2 * num_tokens // 3 :] = model.pad_token_id
    rows = jnp.arange(2, dtype=jnp.int32)
    masked = mask_tokens(jnp.asarray(tokens), rows, jax.random.key(1), MaskingConfig(), model)
    forward = make_forward(model, compute)

    def loss(params: Any) -> Any:
        logits = forward.apply(params, masked.inputs, masked.positions).logits
        nats, counts = masked_cross_entropy(logits, masked.targets, masked.valid)
        return nats / counts.masked

    params = init_params(jax.random.key(0), model, compute)
    precision = "highest" if compute.compute_dtype == "float32" else "default"
    with jax.default_matmul_precision(precision):
        return jax.device_get(jax.jit(jax.value_and_grad(loss))(params))


def check_model(
    forms: Sequence[Implementation], num_tokens: int, model: ModelConfig
) -> Iterator[Check | str]:
    """Every form, recomputation and stack in every precision, against float32 without any."""
    plain = ComputeConfig(attention="einsum", remat="none")
    expected = run_model(plain, num_tokens, model)
    choices: list[tuple[str, str]] = [("attention", form) for form in forms]
    choices += [("remat", "block"), ("remat", "dots"), ("stack", "loop")]
    for dtype in LOSS_TOLERANCES:
        for field, value in choices:
            name = f"model {field}={value}, {dtype}"
            compute = dataclasses.replace(plain, compute_dtype=dtype, **{field: value})
            run = functools.partial(run_model, compute, num_tokens, model)
            found = run_form(name, run, absent=is_absent(value, dtype))
            if isinstance(found, Check | str):
                yield found
                continue
            loss, gradient = (measure_error(*pair) for pair in zip(found, expected, strict=True))
            yield Check(f"{name}, loss", loss, LOSS_TOLERANCES[dtype])
            yield Check(f"{name}, gradient", gradient, GRADIENT_TOLERANCES[dtype])


def list_checks(
    forms: Sequence[Implementation], num_tokens: int, model: ModelConfig
) -> Iterator[Check | str]:
    """All of them, attention also of an odd number of tokens."""
    yield from check_attention(forms, num_tokens, model)
    yield from check_attention(forms, num_tokens - 1 + num_tokens % 2, model)
    yield from check_model(forms, num_tokens, model)


def main() -> int:
    """Prints a line for each check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1_000, help="of a sequence")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS, help="of attention")
    arguments = parser.parse_args()
    width, layers = arguments.width, arguments.layers
    model = ModelConfig(num_layers=layers, embed_dim=width, ffn_dim=4 * width)
    device = jax.devices()[0]
    fastest = {dtype: choose_attention(device, dtype, model.key_dim) for dtype in TOLERANCES}
    print(f"{device.device_kind}, jax {jax.__version__}; auto is {fastest}")
    failed = 0
    for check in list_checks(arguments.forms, arguments.tokens, model):
        if isinstance(check, str):
            print(f"-     {check}", flush=True)
            continue
        failed += not check.passes
        word = "ok   " if check.passes else "WRONG"
        bound = f"{check.error:.1e} (at most {check.tolerance:.0e})"
        print(f"{word} {check.name}: {bound}", flush=True)
    print(f"{failed} wrong")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
