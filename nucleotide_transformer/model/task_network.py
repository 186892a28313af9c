"""A network that predicts the labels of sequences: encoder, adapter, pooling and a linear head."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import haiku as hk
import jax
import jax.numpy as jnp

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.model.adapters import Adapter, Method
from nucleotide_transformer.model.forward import (
    init_adapter,
    init_head,
    make_forward,
    make_head,
)
from nucleotide_transformer.model.heads import Head, Pooling, TaskHead, pool_known
from nucleotide_transformer.model.segmentation import SegmentationHead
from nucleotide_transformer.model.stacking import ENCODER, AnyParams, StackedParams
from nucleotide_transformer.types import Array, Float, Int, Params, PRNGKey

HEAD = f"{ENCODER}/~/task_head"
"""Start of the names of the head's modules."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskNetwork:
    """The network as pure functions of its parameters."""

    config: ModelConfig
    compute: ComputeConfig
    num_outputs: int
    """C, classes or targets."""
    pooling: Pooling = "mean"
    layers: tuple[int, ...] = ()
    """Layers whose pooled embeddings the head reads (see `join_layers`); by default the last."""
    adapter: Adapter | None = None
    per_nucleotide: bool = False
    """Labels of single nucleotides, by a U-Net, in place of pooling and a linear layer."""

    def init(self, key: PRNGKey) -> Params:
        """What comes on top of the encoder: parameters of the adapter and of the head."""
        of_adapter, of_head = jax.random.split(key)
        added: Params = {}
        if self.adapter:
            added = init_adapter(self.adapter, self.config, self.compute, of_adapter)
        width = self.config.embed_dim * len(self._layers)
        return added | init_head(self._head, self.config, self.compute, of_head, width)

    def take_base(self, params: Params) -> Params:
        """The parameters of a model that the encoder reads: its masked-LM head is left out."""
        init = make_forward(self.config, self.compute, head=None).init
        names = jax.eval_shape(init, jax.random.key(0))
        return {name: params[name] for name in names}

    def apply(self, params: AnyParams, tokens: Int[Array, "B T"]) -> Float[Array, "..."]:
        """Logits of the classes, or values of the targets, in float32: [B, C].

        Per nucleotide [B, T, k, C]; of the k only as many count as the token spells nucleotides.

        Args:
            params: of encoder, adapter and head, in either form.
            tokens: ids, `<pad>` at the end.
        """
        forward = make_forward(self.config, self.compute, head=None, adapter=self.adapter)
        layers = self._layers
        embeddings = forward.apply(params, tokens, layers=layers, logits=False).embeddings
        others = params.rest if isinstance(params, StackedParams) else params
        if self.per_nucleotide:
            (layer,) = layers
            kept = jnp.where((tokens != self.config.pad_token_id)[..., None], embeddings[layer], 0)
            outputs = self._run_head.apply(others, kept)
            return outputs.reshape(*tokens.shape, self.config.k, self.num_outputs)
        pooled = {
            layer: pool_known(x, tokens, self.config, self.pooling)
            for layer, x in embeddings.items()
        }
        joined = join_layers(pooled, layers, self.config)
        return self._run_head.apply(others, joined[:, None])[:, 0].astype(jnp.float32)

    @property
    def _layers(self) -> tuple[int, ...]:
        return self.layers or (self.config.num_layers,)

    @functools.cached_property
    def _head(self) -> Head:
        kind = SegmentationHead if self.per_nucleotide else TaskHead
        return functools.partial(kind, num_outputs=self.num_outputs)

    @functools.cached_property
    def _run_head(self) -> hk.Transformed:
        return make_head(self._head, self.config, self.compute)


def join_layers(
    pooled: Mapping[int, Float[Array, "B D"]], layers: Sequence[int], config: ModelConfig
) -> Float[Array, "B N"]:
    """Pooled embeddings side by side: N is D times the number of layers.

    The last layer's went through the encoder's final norm. All others get a norm without
    parameters here: as they are, each block's are larger than those before, and one learning rate
    would not do for all. Of several layers each is divided by their number, so that an update of
    Adam moves what a head gives as far as with one.
    """

    def normalise(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + config.layer_norm_epsilon)

    last = config.num_layers
    parts = [pooled[layer] if layer == last else normalise(pooled[layer]) for layer in layers]
    return jnp.concatenate(parts, axis=-1) / len(layers)


def is_trained(path: str, method: Method) -> bool:
    """Whether a method trains a parameter.

    Args:
        path: its name, or that of its module, stacked or not, as `partition` gives it.
        method: of fine-tuning.
    """
    return method == "full" or "/task_head" in path or f"/{method}/" in path
