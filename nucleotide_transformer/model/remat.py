"""What the backward pass keeps of the forward pass, and what it computes again."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name

from nucleotide_transformer.config import Remat

KEPT = "kept"
KEYS = "keys"
"""Keys and values as attention takes them."""
CUDNN_ATTENTION = "dot_product_attention_fwd"
"""JAX's name of cuDNN's kernel, whose results have no other."""

Arrays = TypeVar("Arrays")
Result = TypeVar("Result")


def keep_for_backward(results: Arrays, name: str = KEPT) -> Arrays:
    """Marks results of matrix products that "dots" keeps for the backward pass."""
    return checkpoint_name(results, name)


def recompute(
    function: Callable[..., Result], remat: Remat, *, inside_scan: bool, keep_keys: bool = True
) -> Callable[..., Result]:
    """The function, with a backward pass that computes again what `ComputeConfig.remat` says.

    Outside a scan the compiler must be kept from merging the recomputation with the forward pass.
    Without `keep_keys`, "dots" makes keys and values again from what an adapter kept of them.
    """
    if remat == "none":
        return function
    policies = jax.checkpoint_policies
    names = (KEPT, KEYS) if keep_keys else (KEPT,)
    marked = policies.save_from_both_policies(policies.save_only_these_names(*names), is_cudnn)
    policy = {"block": None, "dots": marked}[remat]
    return jax.checkpoint(function, policy=policy, prevent_cse=not inside_scan)


def is_cudnn(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether a step of the forward pass is cuDNN's attention kernel."""
    return CUDNN_ATTENTION in primitive.name
