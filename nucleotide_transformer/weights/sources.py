"""From what a user writes to a folder: a local one, a model's name, a hub repository."""

import re
from pathlib import Path

from nucleotide_transformer.errors import InputError, MissingInputError, NotAFolderError
from nucleotide_transformer.weights.folders import (
    PATTERNS,
    PYTORCH_PATTERNS,
    Layout,
    find_layout,
)
from nucleotide_transformer.weights.hub import (
    check_files,
    download,
    find_named,
    find_released,
)
from nucleotide_transformer.weights.packaged import find_packaged

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


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
        return find_packaged(str(source))
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
