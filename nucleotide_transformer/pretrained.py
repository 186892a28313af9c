"""Trained models: loaded from any source, called, and saved in the layouts that others read.

Example:
    >>> model = load_pretrained()  # comes with the package; or "100M_multi_species_v2"
    >>> tokens = model.tokenizer.encode_batch(["ATTCCGATTCCG", "ATTCCG<mask>"])
    >>> model(tokens, layers=(4,)).embeddings[4].shape
    (2, 3, 320)
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.compat import get_pretrained_model as get_pretrained_model
from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError, MissingInputError, require_choices
from nucleotide_transformer.files import read_path
from nucleotide_transformer.model import Outputs, exact_products, init_params, make_forward
from nucleotide_transformer.model.encoder import GivenTokens, check_layers, check_tokens
from nucleotide_transformer.model.platform import find_default_device, resolve_compute
from nucleotide_transformer.model.stacking import AnyParams, arrange_for_inference
from nucleotide_transformer.model.token_tables import fold_tables
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights import exports
from nucleotide_transformer.weights.adapter_files import (
    FOLDER,
    TrainedHead,
    check_base,
    check_shapes,
    find_adapter,
    load_adapter,
    save_peft,
)
from nucleotide_transformer.weights.assembly import ParamsBuilder
from nucleotide_transformer.weights.folders import (
    Layout,
    find_folder,
    find_layout,
    load_folder,
)
from nucleotide_transformer.weights.hub import PACKAGED, describe_origin, find_named

__all__ = ["Model", "export_model", "get_pretrained_model", "load_pretrained"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A trained model: parameters, and all that is needed to use them."""

    params: Params = dataclasses.field(repr=False)
    """Haiku's parameters, on the default device."""
    config: ModelConfig
    """Architecture."""
    compute: ComputeConfig = ComputeConfig()
    """Precision and form of the computation."""
    tokenizer: KmerTokenizer
    """Text to token ids."""
    origin: str = "unknown"
    """What the parameters were made from, for the model card of an export."""
    license: str | None = None
    """Licence of the parameters by its short name on the hub, where it is known."""
    source: str | None = None
    """What `load_pretrained` finds it by on this machine: a name, or the path of its folder."""
    head: TrainedHead | None = None
    """What fine-tuning put onto it, for `predict`; its parameters are not among the model's."""

    def __post_init__(self) -> None:
        """Decides what "auto" is on this machine."""
        compute = resolve_compute(self.compute, self.config, find_default_device())
        object.__setattr__(self, "compute", compute)

    def __call__(
        self,
        tokens: GivenTokens,
        layers: Sequence[int] = (),
        attention: Sequence[int] = (),
        *,
        logits: bool = True,
    ) -> Outputs:
        """Runs the model; compiled once for every shape of tokens and choice of outputs.

        In float32 the products are exact on every platform: GPUs and TPUs would otherwise round
        their operands.

        Args:
            tokens: ids [B, T] as `tokenizer.encode_batch` gives them, `<pad>` at the end.
            layers: layers whose embeddings [B, T, D] to return, 0 (the input of the first block)
                to num_layers.
            attention: layers whose attention maps [B, H, T, T] to return, 1 to num_layers.
            logits: False where they are not needed: they take 16 KB a token with 6-mers.

        Returns:
            `logits` [B, T, V] (not zeroed at padding) or None, `embeddings` and `attention` by
            layer.

        Raises:
            InputError: for tokens of another shape or type, more than the model has learned
                positions, ids outside the vocabulary or after `<pad>`, or a layer that does not
                exist.
        """
        chosen = {"layers": _sort_layers(layers), "attention": _sort_layers(attention)}
        check_layers(self.config, chosen["layers"], chosen["attention"])
        ids = check_tokens(tokens, self.config)
        with exact_products(self.compute):
            return self._apply(self.arrange(), ids, **chosen, logits=logits)

    def arrange(self, sharding: jax.sharding.Sharding | None = None) -> AnyParams:
        """The parameters in the form that computes fastest, made once and kept.

        With `compute.stack` = "scan" it is a second copy of the blocks; "loop" needs none, and
        compiles longer.

        Args:
            sharding: devices to put them on; the copy for the latest is kept, too.
        """
        kept = self._arranged
        if None not in kept:
            kept[None] = arrange_for_inference(self.params, self.compute)
        if sharding not in kept:
            first = kept[None]
            kept.clear()
            kept |= {None: first, sharding: jax.device_put(first, sharding)}
        return kept[sharding]

    @functools.cached_property
    def _arranged(self) -> dict[jax.sharding.Sharding | None, AnyParams]:
        return {}

    @functools.cached_property
    def _apply(self) -> Callable[..., Outputs]:
        apply = make_forward(self.config, self.compute).apply
        return jax.jit(apply, static_argnames=("layers", "attention", "logits"))

    def save_pretrained(
        self, folder: str | Path, layout: Layout = "huggingface", *, overwrite: bool = False
    ) -> None:
        """Writes a complete folder: weights, config, tokenizer files and model card.

        The folder appears whole or not at all.

        Args:
            folder: where to; made if it is not there.
            layout: "huggingface" (`config.json`, `model.safetensors`), which transformers reads, or
                "jax" (`hyperparams.json`, `pytree_ckpt.joblib`), which the published code reads.
            overwrite: replace an export that is there already.

        Raises:
            OutputExistsError: if the folder is not empty, or its card was edited.
            NotAFolderError, UnwritableOutputError: if it is a link or a file, or can't be written.
            InputError: for an architecture that the layout has no words for.
        """
        exports.save_folder(
            read_path("folder", folder),
            self.params,
            self.config,
            layout=layout,
            origin=self.origin,
            license=self.license,
            overwrite=overwrite,
        )


def load_pretrained(
    source: str | Path = PACKAGED,
    *,
    layout: Layout | None = None,
    compute: ComputeConfig = ComputeConfig(),
    revision: str | None = None,
    cache: str | Path | None = None,
    base: "str | Path | Model | None" = None,
) -> Model:
    """Loads a model, finding out by itself how it is stored.

    Without an argument it is the model that comes with this package, which needs no network. For
    others without a network: run `hf download REPOSITORY --local-dir FOLDER` where there is one,
    copy the folder, and give its path.

    Args:
        source: the name of a released model or of the packaged one, a local folder (of either
            layout, a run of `nt pretrain` or one of its checkpoints, or an adapter or a run of
            `nt finetune`), or a repository of the Hugging Face hub. A folder that is called like a
            released model is given as a `Path`, or with `./` before its name.
        layout: which one to read where both are there; the JAX one by default.
        compute: precision; parameters are cast to its `param_dtype`.
        revision: of a repository; by default the one that is pinned in the table of released
            models, or else its main branch.
        cache: folder of the hub's cache; huggingface_hub's own by default.
        base: of an adapter: the model that it was trained on, or where that is; by default it is
            found by what the adapter says. The adapter is folded into its weights.

    Raises:
        MissingInputError: if there is no such folder or no model in it, neither network nor cache
            has the model, or none was packaged.
        InputError: for an unknown name (the nearest is suggested), a file that is damaged or asks
            for more than arrays, a packaged file that is not as it was, or tensors that don't fit
            the model: one line lists them all; for a download that breaks off, a revision of a
            folder, or an adapter of another base.
    """
    place = None if cache is None else read_path("cache", cache)
    folder = find_folder(source, layout, revision=revision, cache=place)
    if layout is None and (found_adapter := find_adapter(folder)):
        return _load_adapted(found_adapter, compute, base, cache)
    if base is not None:
        raise InputError(f"{source}: base = {str(base)!r}: is for adapters, and this is none")
    released = find_named(source)
    if layout is None and find_layout(folder) is None and (run := _load_run(folder, compute)):
        params, config = run
    else:
        params, config = load_folder(folder, compute, layout, released)
    origin, license = describe_origin(source)
    is_local = released is None and folder == read_path("model", source)
    return Model(
        params=params,
        config=config,
        compute=compute,
        tokenizer=KmerTokenizer(vocabulary=config.vocabulary, k=config.k),
        origin=folder.resolve().name if is_local else origin,
        license=license or exports.read_license(folder),
        source=str(folder.resolve() if is_local else source),
    )


def _load_adapted(
    folder: Path,
    compute: ComputeConfig,
    base: "str | Path | Model | None",
    cache: str | Path | None,
    above: tuple[Path, ...] = (),
) -> Model:
    """Loads an adapter, and its base in float32, and folds the one into the other.

    Above are the adapters whose base this is: none of them may be the base of this one.
    """
    adapter = load_adapter(folder)
    if not isinstance(base, Model):
        whole = dataclasses.replace(compute, param_dtype="float32")
        place: str | Path = adapter.base if base is None else base
        below = None if find_named(place) else find_adapter(read_path("base", place))
        above = (*above, folder.resolve())
        if below and below.resolve() in above:
            rule = "is this adapter, holds it, or is made from it: give another place of the base"
            raise InputError(f"{folder}: base = {str(place)!r}: {rule}")
        try:
            if below:
                base = _load_adapted(below, whole, None, cache, above)
            else:
                base = load_pretrained(place, compute=whole, cache=cache)
        except MissingInputError as error:
            hint = f"{folder}: the adapter's base model: {error}"
            raise MissingInputError(f"{hint}; give another place of it as the base") from error
    name = base.source or base.origin
    if adapter.random_seed is not None:
        base = randomise(base, adapter.random_seed)
    check_base(adapter, base.params, folder, name)
    check_shapes(adapter, base.params, base.config, folder)
    merged = adapter.merge(base.params)
    return dataclasses.replace(
        base,
        params=jax.tree.map(lambda leaf: jnp.asarray(leaf, compute.param_dtype), merged),
        compute=compute,
        origin=describe_adapted(base.origin, folder),
        source=str(folder.resolve()),
        head=adapter.head,
    )


def describe_adapted(origin: str, folder: Path) -> str:
    """What a model with an adapter merged into it was made from, for its card."""
    folder = folder.resolve()
    name = folder.parent.name if folder.name == FOLDER else folder.name
    return f"{origin}, with the adapter {name} merged into it (without its head)"


def randomise(model: Model, seed: int) -> Model:
    """The same network with random weights: the control of every result with trained ones.

    Args:
        model: whose architecture, precision and tokenizer are kept.
        seed: of the weights.
    """
    params = init_params(jax.random.key(seed), model.config, model.compute)
    return dataclasses.replace(
        model, params=params, origin=f"{model.origin}, with random weights", head=None
    )


def _load_run(folder: Path, compute: ComputeConfig) -> tuple[Params, ModelConfig] | None:
    """Loads the checkpoint of a training run, its token tables folded; None if it is not one."""
    from nucleotide_transformer.weights import runs  # orbax takes seconds to import

    if not runs.is_run(folder):
        return None
    tree, config = fold_tables(*runs.load_run(folder))
    builder = ParamsBuilder(config, compute, folder)
    for module, leaves in tree.items():
        for name in list(leaves):
            builder.add(module, name, np.asarray(leaves.pop(name)), f"{module}/{name}")
    return builder.finish(), config


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A run, an adapter or released weights, converted into a folder that others can load."""

    source: str = PACKAGED
    """Name of a model, hub repository, or folder: what `load_pretrained` takes. By default the
    model that comes with the package."""
    folder: Path
    """Where to; a new or empty folder."""
    layout: Literal["huggingface", "jax", "peft"] = "huggingface"
    """Whose files to write: those of transformers, or of the published JAX code; or, for the method
    lora, of peft: the adapter without its base."""
    merge: bool = False
    """Of an adapter: fold it into its base, and write the whole model. Its head is not written."""
    base: str | None = None
    """Of an adapter: the model that it was trained on; found by what it says by default."""
    overwrite: bool = False
    """Replace an export that is there already."""

    def __post_init__(self) -> None:
        require_choices(self)


def export_model(
    source: str | Path,
    folder: str | Path,
    *,
    layout: Literal["huggingface", "jax", "peft"] = "huggingface",
    merge: bool = False,
    base: "str | Path | Model | None" = None,
    overwrite: bool = False,
    compute: ComputeConfig = ComputeConfig(),
) -> Model:
    """Loads a model from any source and saves it in a layout; what `nt export` does.

    Args:
        source: see `load_pretrained`.
        folder: where to.
        layout: "huggingface" or "jax"; "peft" for an adapter of the method lora.
        merge: fold an adapter into its base, and write the whole model.
        base: of an adapter; see `load_pretrained`.
        overwrite: replace an export that is there already.
        compute: its `param_dtype` is the type of the numbers that are written.

    Raises:
        OutputExistsError: if the folder is not empty; before anything is loaded.
        InputError: for an adapter without `merge` or "peft", or either for what is no adapter.
        MissingInputError, NotAFolderError, InputError: see `load_pretrained`.
    """
    exports.check_target(read_path("folder", folder), overwrite)
    model = load_pretrained(source, compute=compute, base=base)
    is_adapter = model.head is not None
    if not is_adapter and (merge or layout == "peft"):
        raise InputError(
            f"{source}: is no adapter: without merge, in the layout huggingface or jax"
        )
    if is_adapter and merge == (layout == "peft"):
        rule = "give either merge, for the whole model, or the layout peft"
        raise InputError(f"{source}: is an adapter: {rule}")
    if layout == "peft":
        assert model.source is not None
        with exports.open_draft(read_path("folder", folder), overwrite) as draft:
            save_peft(draft, load_adapter(Path(model.source)))
    else:
        model.save_pretrained(folder, layout, overwrite=overwrite)
    return model


def _sort_layers(asked: Sequence[int]) -> tuple[int, ...]:
    """Layers in one order, so that equal choices are compiled once."""
    return tuple(sorted({operator.index(layer) for layer in asked}))
