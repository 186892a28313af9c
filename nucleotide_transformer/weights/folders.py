"""A folder with a model: found by what a user writes, loaded, and written whole or not at all."""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from nucleotide_transformer.config import (
    ComputeConfig,
    ModelConfig,
)
from nucleotide_transformer.errors import (
    InputError,
    MissingInputError,
    NotAFolderError,
    OutputExistsError,
    require,
)
from nucleotide_transformer.files import PARTIAL_PREFIX, sync, write_whole
from nucleotide_transformer.model.token_tables import fold_tables
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights import (
    cards,
    configs,
    huggingface,
    packaged,
    peft,
    released_jax,
)
from nucleotide_transformer.weights.hub import (
    check_files,
    download,
    find_named,
    find_released,
)

Layout = Literal["huggingface", "jax"]

_BELOW = "jax_model"
_WRITTEN = re.compile(
    "|".join(
        [re.escape(name) for name in (*huggingface.WEIGHT_FILES, *cards.TOKENIZER_FILES)]
        + [re.escape(name) for name in (huggingface.CONFIG, cards.CARD, packaged.SUMS)]
        + [re.escape(name) for name in (packaged.REFERENCE, f"{configs.TORCH_MODULE}.py")]
        + [re.escape(name) for name in (released_jax.HYPERPARAMS, released_jax.CHECKPOINT)]
        + [re.escape(name) for name in (peft.CONFIG, peft.TENSORS)]
        + [r"model-\d+-of-\d+\.safetensors", re.escape(PARTIAL_PREFIX) + ".*"]
    )
)
"""Names of files that an export writes, and of what one that was killed leaves."""
_CONFIGS = (huggingface.CONFIG, released_jax.HYPERPARAMS, peft.CONFIG)
"""Files without which a folder is no model."""

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
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


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
        OutputExistsError: if the folder is not empty, or its card was edited.
        NotAFolderError, PermissionError: if it is a link or a file, or can't be written.
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
    if layout == "huggingface":
        cards.write_torch_module(folder, config)
    cards.write_card(folder, card)


@contextlib.contextmanager
def open_draft(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Gives an empty folder to write to, and puts it, or its files, in place when all went well.

    By then they are on disk. A folder that is there stays the same folder, with its owner and its
    mode, also where it is the working directory or a mount point: its old files go, the config
    first, and the new ones come, the config last.

    Raises:
        OutputExistsError, NotAFolderError, PermissionError: see `save_folder`.
    """
    folder = folder.absolute()
    check_target(folder, overwrite)
    with _named_refusal(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        with write_whole(folder) as draft:
            with _named_refusal(folder):
                draft.mkdir()
            yield draft
        return
    with _named_refusal(folder):
        draft = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=folder))
    try:
        yield draft
        for file in draft.iterdir():
            sync(file)
        _replace_files(folder, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _named_refusal(folder: Path) -> Iterator[None]:
    """Names the folder where the system refuses to make one."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise NotAFolderError(f"{folder}: can't be written: {error.strerror}") from error
    except OSError as error:
        raise type(error)(f"{folder}: can't be written: {error.strerror}") from error


def _replace_files(folder: Path, draft: Path) -> None:
    """Puts the files of a draft into its folder, in place of all there, which an error brings back.

    A folder without its config is no model: it goes first and comes last.
    """
    old = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=folder))
    try:
        for path in sorted(folder.iterdir(), key=lambda path: path.name not in _CONFIGS):
            if path not in (draft, old):
                path.replace(old / path.name)
        try:
            _move_files(draft, folder)
        except BaseException:
            for path in folder.iterdir():
                if path not in (draft, old):
                    path.unlink()
            _move_files(old, folder)
            raise
        sync(folder)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _move_files(source: Path, target: Path) -> None:
    for path in sorted(source.iterdir(), key=lambda path: path.name in _CONFIGS):
        path.replace(target / path.name)


def check_target(folder: Path, overwrite: bool) -> None:
    """Raises if an export may not be written there: see `save_folder`."""
    if folder.is_symlink():
        raise NotAFolderError(f"{folder}: is a link: give the folder that it points to")
    if folder.exists() and not folder.is_dir():
        raise NotAFolderError(f"{folder}: is a file; an export is a folder")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if names and not overwrite:
        raise OutputExistsError(f"{folder}: is not empty: give another folder, or overwrite it")
    foreign = [name for name in names if not _WRITTEN.fullmatch(name)]
    if foreign:
        rule = "which no export wrote: give another folder"
        raise OutputExistsError(f"{folder}: holds {foreign[0]}, {rule}")
    card = folder / cards.CARD
    if card.exists() and not cards.is_untouched(card):
        rule = "was edited since it was exported: move it away, or give another folder"
        raise OutputExistsError(f"{card}: {rule}")


def expand_user(path: str | Path) -> Path:
    """A path with `~` replaced; an `InputError` for a user that does not exist."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}") from error


def find_folder(
    source: str | Path,
    layout: Layout | None = None,
    *,
    revision: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Returns the folder that a source stands for, fetched from the hub if it must be.

    Args:
        source: a released model's name or repository (first of all), a local folder, or
            `owner/name` on the hub. A folder with such a name is given as a `Path`, or with `./`.
        layout: the layout to fetch; the JAX one where there is one by default.
        revision: of a repository; by default the one that is pinned, or else its main branch.
        cache: folder of the hub's cache; huggingface_hub's own by default.

    Raises:
        MissingInputError: if there is no such folder, or neither network nor cache has it, or
            nothing was packaged.
        NotAFolderError: for a file.
        InputError: for a name that is no model's (the nearest is suggested), a repository that the
            hub does not have, or files that are not those that were released or packaged.
    """
    released = find_named(source)
    if released is not None and released.repository is not None:
        return fetch(released.repository, layout, revision=revision, cache=cache)
    if released is not None:
        return packaged.find_packaged(str(source))
    path = expand_user(source)
    if path.is_dir():
        return path
    if path.exists():
        raise NotAFolderError(f"{path}: is a file: give the folder that it is in")
    name = str(source)
    if isinstance(source, str) and _REPOSITORY.fullmatch(name):
        return fetch(name, layout, revision=revision, cache=cache)
    if isinstance(source, Path) or "/" in name or name.startswith((".", "~")):
        raise MissingInputError(f"{path}: no such folder")
    find_released(name)
    raise AssertionError(name)


def find_by_name(
    name: str,
    layout: Layout | None = None,
    *,
    revision: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Returns the folder of a model by its public name: fetched from the hub, or packaged.

    The other arguments are those of `find_folder`, and what is packaged does not need them.

    Raises:
        MissingInputError, InputError: see `find_folder`.
    """
    find_released(name)
    return find_folder(name, layout, revision=revision, cache=cache)


def fetch(
    repository: str,
    layout: Layout | None = None,
    *,
    revision: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Fetches the files of one layout of a repository, and no others, into the hub's cache.

    Tries the JAX layout first, then safetensors, then PyTorch weights: all released models have
    the first, and what torch must read is the last resort. Of a released model it is the pinned
    revision, unless another is asked for, and what is known of its files is checked.

    Raises:
        MissingInputError, InputError: see `download` and `check_files`; and if no layout is there.
    """
    released = find_named(repository)
    if released is not None and revision is None:
        revision = released.revision
    wanted: tuple[Layout, ...] = ("jax", "huggingface") if layout is None else (layout,)
    choices = [(name, PATTERNS[name]) for name in wanted]
    choices += [("huggingface", PYTORCH_PATTERNS)] if "huggingface" in wanted else []
    for name, patterns in choices:
        folder = download(repository, patterns, revision=revision, cache=cache)
        if find_layout(folder, name):
            if released is not None and revision == released.revision:
                check_files(folder, released)
            return folder
    files = ", ".join(dict.fromkeys(file for _, patterns in choices for file in patterns))
    raise MissingInputError(f"{repository}: no model in the hub or the cache: none of {files}")
