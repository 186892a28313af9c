"""What the backward pass keeps of the forward pass, and what it computes again."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name

from nucleotide_transformer.config import Remat
from nucleotide_transformer.types import Array, Params

KEPT = "kept"
CUDNN_ATTENTION = "dot_product_attention_fwd"
"""JAX's name of cuDNN's kernel, whose results have no other."""

Arrays = TypeVar("Arrays")
ApplyBlock = Callable[[Array, Params], tuple[Array, None]]


def keep_for_backward(results: Arrays) -> Arrays:
    """Marks results of matrix products that "dots" keeps for the backward pass."""
    return checkpoint_name(results, KEPT)


def checkpoint_block(apply_block: ApplyBlock, remat: Remat, *, inside_scan: bool) -> ApplyBlock:
    """Wraps a block so that its backward pass recomputes what `ComputeConfig.remat` says.

    Outside a scan the compiler must be kept from merging the recomputation with the forward pass.
    """
    if remat == "none":
        return apply_block
    policies = jax.checkpoint_policies
    marked = policies.save_from_both_policies(policies.save_only_these_names(KEPT), is_cudnn)
    policy = {"block": None, "dots": marked}[remat]
    return jax.checkpoint(apply_block, policy=policy, prevent_cse=not inside_scan)


def is_cudnn(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether a step of the forward pass is cuDNN's attention kernel."""
    return CUDNN_ATTENTION in primitive.name
