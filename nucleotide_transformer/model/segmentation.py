"""Labels of single nucleotides: a 1-D U-Net over the tokens, with an output for each nucleotide.

As in SegmentNT (de Almeida et al. 2024): convolutions go down two levels and up again, and the last
one gives k outputs a token, one for each nucleotide that it spells.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.types import Array, Bool, Float

LEVELS = 2
"""Halvings of the number of tokens."""
KERNEL = 3
"""Tokens that a convolution sees."""


class SegmentationHead(hk.Module):
    """A U-Net of convolutions, each followed by swish.

    On the way up each level sees what the same level had on the way down. Widths are D on top, and
    twice as much for every level below.
    """

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        *,
        num_outputs: int,
        name: str = "task_head",
    ):
        super().__init__(name=name)
        self._config, self._dtype = config, jnp.dtype(compute.param_dtype)
        self._num_outputs = config.k * num_outputs

    def __call__(self, x: Float[Array, "B M D"]) -> Float[Array, "B M C"]:
        """K times as many logits as classes for each token, in float32.

        Tokens whose embedding is zero are padding: they stay zero, so that nothing depends on how
        many there are.
        """
        num_tokens, width = x.shape[1:]
        missing = -num_tokens % 2**LEVELS
        x = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, missing), (0, 0)))
        keep = jnp.any(x != 0, axis=-1, keepdims=True)
        above = []
        for level in range(LEVELS):
            x = self._convolve_twice(x, keep, width << level, f"down_{level}")
            above.append((x, keep))
            x, keep = (x[:, ::2] + x[:, 1::2]) / 2, keep[:, ::2] | keep[:, 1::2]
        x = self._convolve_twice(x, keep, width << LEVELS, "bottom")
        for level in reversed(range(LEVELS)):
            same, keep = above[level]
            x = jnp.concatenate([jnp.repeat(x, 2, axis=1), same], axis=-1)
            x = self._convolve_twice(x, keep, width << level, f"up_{level}")
        return self._convolve(x, self._num_outputs, 1, "outputs")[:, :num_tokens]

    @hk.transparent
    def _convolve_twice(
        self, x: Float[Array, "B M D"], keep: Bool[Array, "B M 1"], width: int, name: str
    ) -> Float[Array, "B M F"]:
        for number in (1, 2):
            x = jax.nn.silu(self._convolve(x, width, KERNEL, f"{name}_{number}")) * keep
        return x

    @hk.transparent
    def _convolve(
        self, x: Float[Array, "B M D"], width: int, kernel: int, name: str
    ) -> Float[Array, "B M F"]:
        return _Convolution(width, kernel, self._dtype, name)(x)


class _Convolution(hk.Module):
    """Along the tokens, with zeros outside; its parameters are called w and b as elsewhere."""

    def __init__(self, width: int, kernel: int, dtype: jnp.dtype, name: str):
        super().__init__(name=name)
        self._width, self._kernel, self._dtype = width, kernel, dtype

    def __call__(self, x: Float[Array, "B M D"]) -> Float[Array, "B M F"]:
        shape = (self._kernel, x.shape[-1], self._width)
        init = hk.initializers.TruncatedNormal((shape[0] * shape[1]) ** -0.5)
        w = jnp.asarray(hk.get_parameter("w", shape, self._dtype, init=init))
        b = jnp.asarray(hk.get_parameter("b", (self._width,), self._dtype, init=jnp.zeros))
        y = jax.lax.conv_general_dilated(
            x,
            w.astype(x.dtype),
            window_strides=(1,),
            padding="SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return y + b
