"""A folder with a model: which layout it holds, loading it, and writing one whole or not at all."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from nucleotide_transformer.config import (
    ComputeConfig,
    ModelConfig,
)
from nucleotide_transformer.errors import (
    MissingInputError,
    NotAFolderError,
    OutputExistsError,
    require,
)
from nucleotide_transformer.model.token_tables import fold_tables
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights import cards, huggingface, packaged, released_jax

Layout = Literal["huggingface", "jax"]

_BELOW = "jax_model"
_WRITTEN = re.compile(
    "|".join(
        [re.escape(name) for name in (*huggingface.WEIGHT_FILES, *cards.TOKENIZER_FILES)]
        + [
            re.escape(name)
            for name in (huggingface.CONFIG, cards.CARD, packaged.SUMS, packaged.REFERENCE)
        ]
        + [re.escape(name) for name in (released_jax.HYPERPARAMS, released_jax.CHECKPOINT)]
        + [r"model-\d+-of-\d+\.safetensors"]
    )
)
"""Names of files that an export writes."""

PATTERNS: dict[Layout, tuple[str, ...]] = {
    "jax": tuple(
        f"{prefix}{name}"
        for prefix in ("", f"{_BELOW}/")
        for name in (released_jax.HYPERPARAMS, released_jax.CHECKPOINT)
    ),
    "huggingface": (
        *(huggingface.CONFIG, cards.VOCABULARY, huggingface.SAFETENSORS),
        *(huggingface.SAFETENSORS_INDEX, "model-*.safetensors"),
    ),
}
"""Files of each layout in a repository, those that torch must read left out."""
PYTORCH_PATTERNS = (
    *(huggingface.CONFIG, cards.VOCABULARY, huggingface.PYTORCH),
    *(huggingface.PYTORCH_INDEX, "pytorch_model-*.bin"),
)


def find_layout(folder: Path, wanted: Layout | None = None) -> tuple[Layout, Path] | None:
    """Returns the layout of a folder and where its files are, or None if it has none.

    Where both are there the JAX one is taken: the released models were trained in JAX, with the
    layer-norm epsilon that this layout means.
    """
    found: dict[Layout, Path] = {}
    for place in (folder / _BELOW, folder):
        if (place / released_jax.CHECKPOINT).is_file():
            found["jax"] = place
    if any((folder / name).is_file() for name in huggingface.WEIGHT_FILES):
        found["huggingface"] = folder
    order: tuple[Layout, ...] = ("jax", "huggingface") if wanted is None else (wanted,)
    return next(((layout, found[layout]) for layout in order if layout in found), None)


def load_folder(
    folder: Path, compute: ComputeConfig, wanted: Layout | None = None
) -> tuple[Params, ModelConfig]:
    """Loads the parameters and the architecture that a folder holds.

    Raises:
        MissingInputError: if it holds neither layout (or not the one wanted).
        InputError: see `load_huggingface` and `load_released_jax`.
    """
    found = find_layout(folder, wanted)
    if found is None:
        jax_files = f"{released_jax.HYPERPARAMS} and {released_jax.CHECKPOINT}"
        rules = {
            "jax": f"{jax_files} (in it or in {_BELOW}/)",
            "huggingface": f"{huggingface.CONFIG} and {huggingface.SAFETENSORS}",
        }
        needed = " or ".join(rules.values()) if wanted is None else rules[wanted]
        raise MissingInputError(f"{folder}: no model: should hold {needed}")
    layout, place = found
    load = {"jax": released_jax.load_released_jax, "huggingface": huggingface.load_huggingface}
    params, config = load[layout](place, compute)
    vocabulary = place / cards.VOCABULARY
    if vocabulary.is_file():
        cards.check_vocabulary(vocabulary, config)
    return params, config


def save_folder(
    folder: Path,
    params: Params,
    config: ModelConfig,
    *,
    layout: Layout,
    origin: str,
    license: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a complete folder: weights, config, tokenizer files and model card.

    Args:
        folder: where to; made if it is not there.
        params: parameters. What rows of the token tables share is folded into the rows.
        config: architecture.
        layout: of the weights and the config.
        origin: what the weights were made from, for the card.
        license: its short name on the hub, where it is known.
        overwrite: replace an export that is there already. A folder with anything else in it is
            never replaced.

    Raises:
        OutputExistsError: if the folder is not empty.
        NotAFolderError, PermissionError: if it can't be written.
        InputError: for an unknown layout, or an architecture that it has no words for.
    """
    require(layout in get_args(Layout), "layout", layout, f"must be one of {get_args(Layout)}")
    card = cards.make_card(config, layout=layout, origin=origin, license=license)
    with open_draft(folder, overwrite) as draft:
        write_files(draft, params, config, layout=layout, card=card)


def write_files(
    folder: Path, params: Params, config: ModelConfig, *, layout: Layout, card: str
) -> None:
    """Writes weights, config, tokenizer files and a given model card into an empty folder.

    Raises:
        InputError: for an architecture that the layout has no words for.
    """
    save = {"jax": released_jax.save_released_jax, "huggingface": huggingface.save_huggingface}
    params, config = fold_tables(params, config)
    save[layout](folder, params, config)
    cards.write_tokenizer_files(folder, config)
    cards.write_card(folder, card)


@contextlib.contextmanager
def open_draft(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Gives an empty folder beside the target, and puts it in its place when all went well.

    Raises:
        OutputExistsError, NotAFolderError, PermissionError: see `save_folder`.
    """
    folder = folder.absolute()
    check_target(folder, overwrite)
    draft, old = (
        folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("new", "old")
    )
    try:
        draft.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotAFolderError(f"{folder}: can't be written: {error.strerror}") from error
    except OSError as error:
        raise type(error)(f"{folder}: can't be written: {error.strerror}") from error
    try:
        yield draft
        if folder.is_dir():
            folder.rename(old)
        draft.rename(folder)
    except BaseException:
        if old.is_dir() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)


def check_target(folder: Path, overwrite: bool) -> None:
    """Raises if an export may not be written there: see `save_folder`."""
    if folder.exists() and not folder.is_dir():
        raise NotAFolderError(f"{folder}: is a file; an export is a folder")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if names and not overwrite:
        raise OutputExistsError(f"{folder}: is not empty: give another folder, or overwrite it")
    foreign = [name for name in names if not _WRITTEN.fullmatch(name)]
    if foreign:
        rule = "which no export wrote: give another folder"
        raise OutputExistsError(f"{folder}: holds {foreign[0]}, {rule}")
