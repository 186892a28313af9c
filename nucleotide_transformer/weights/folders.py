"""A folder with a model: found by what a user writes, and loaded.

The model that comes with this package is in `packaged/<name>`, in the Hugging Face layout, with a
file `SHA256SUMS` in the form that `sha256sum --check` reads. Every load by name checks all files
against it, a load of a copy as a folder those that are read. `packaging` writes such a folder.
"""

import re
from pathlib import Path
from typing import Literal

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError, MissingInputError, NotAFolderError
from nucleotide_transformer.files import digest_file, read_path, show_digest
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights import huggingface, released_jax
from nucleotide_transformer.weights.configs import read_huggingface_config, read_hyperparams
from nucleotide_transformer.weights.hub import (
    ReleasedModel,
    check_config,
    check_files,
    download,
    find_named,
    find_released,
)

Layout = Literal["huggingface", "jax"]

VOCABULARY, CARD = "vocab.txt", "README.md"
LATE_SPECIALS = ("<eos>", "<bos>")
"""The released first generation lists these after its 4,105 tokens, without ids in the model."""
_BELOW = "jax_model"
PACKAGED_FOLDER = Path(__file__).parent.parent / "packaged"
"""With a folder for each packaged model."""
SUMS = "SHA256SUMS"
REFERENCE = "reference.npz"
"""Logits that the model should give, for `nt verify`; see `verification`."""
READ = (huggingface.CONFIG, huggingface.SAFETENSORS, VOCABULARY)
"""What loading reads, and the sums must therefore list."""

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\]+)")
_REPAIR = (
    "install the package again, or in a checkout run"
    " `git checkout -- nucleotide_transformer/packaged`"
)
PATTERNS: dict[Layout, tuple[str, ...]] = {
    "jax": tuple(
        f"{prefix}{name}"
        for prefix in ("", f"{_BELOW}/")
        for name in (released_jax.HYPERPARAMS, released_jax.CHECKPOINT)
    ),
    "huggingface": (
        *(huggingface.CONFIG, VOCABULARY, huggingface.SAFETENSORS),
        *(huggingface.SAFETENSORS_INDEX, "model-*.safetensors"),
    ),
}
"""Files of each layout in a repository, those that torch must read left out."""
PYTORCH_PATTERNS = (
    *(huggingface.CONFIG, VOCABULARY, huggingface.PYTORCH),
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
        if released_jax.find_checkpoint(place):
            found["jax"] = place
    if any((folder / name).is_file() for name in huggingface.WEIGHT_FILES):
        found["huggingface"] = folder
    order: tuple[Layout, ...] = ("jax", "huggingface") if wanted is None else (wanted,)
    return next(((layout, found[layout]) for layout in order if layout in found), None)


def load_folder(
    folder: Path,
    compute: ComputeConfig,
    wanted: Layout | None = None,
    released: ReleasedModel | None = None,
) -> tuple[Params, ModelConfig]:
    """Loads the parameters and the architecture that a folder holds.

    Args:
        folder: of the model.
        compute: precision.
        wanted: layout to read where both are there.
        released: the model that it should be, if it has a name.

    Raises:
        MissingInputError: if it holds neither layout (or not the one wanted).
        InputError: see `load_huggingface`, `load_released_jax` and `check_config`.
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
    vocabulary = place / VOCABULARY
    if vocabulary.is_file():
        check_vocabulary(vocabulary, config)
    if released is not None and released.repository is not None:
        check_config(folder, config, released, jax=layout == "jax")
    return params, config


def find_config(source: str | Path) -> ModelConfig | None:
    """The architecture of a model, by its name or by a small file of its folder.

    Of the Hugging Face layout without what the tensors alone say: whether feed-forward networks are
    gated. None for what must be loaded or fetched first: runs, adapters, other repositories.

    Raises:
        InputError: if the file is no config that this package can compute.
    """
    released = find_named(source)
    if released is not None:
        return released.config
    found = find_layout(read_path("model", source))
    if found is None:
        return None
    layout, place = found
    if layout == "jax":
        return read_hyperparams(place / released_jax.HYPERPARAMS)
    return read_huggingface_config(place / huggingface.CONFIG, fc1_shape=None)


def check_vocabulary(file: Path, config: ModelConfig) -> None:
    """Raises an `InputError` if a `vocab.txt` lists other tokens than the model has."""
    expected = KmerTokenizer(vocabulary=config.vocabulary, k=config.k).tokens
    size, most = file.stat().st_size, (config.k + 2) * len(expected) + 1_024
    if size > most:
        raise InputError(f"{file}: {size} bytes: the vocabulary of this model has at most {most}")
    found = tuple(file.read_text(encoding="utf-8", errors="replace").split("\n"))
    found = found[: len(found) - (found[-1] == "")]
    if found in (expected, (*expected, *LATE_SPECIALS)):
        return
    for line, (token, right) in enumerate(zip(found, expected, strict=False), 1):
        if token != right:
            raise InputError(f"{file}: line {line}: {token!r:.60} should be {right!r}")
    raise InputError(f"{file}: {len(found)} tokens: the model has {len(expected)}")


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
            hub does not have, files that are not those that were released or packaged, or a
            revision of a folder.
    """
    released = find_named(source)
    if released is not None and released.repository is not None:
        return fetch(released.repository, layout, revision=revision, cache=cache)
    path = read_path("model", source)
    if revision is not None and (released is not None or path.is_dir()):
        rule = "is for repositories of the hub, and this is none"
        raise InputError(f"{source}: revision = {revision!r}: {rule}")
    if released is not None:
        return find_packaged(str(source))
    if path.is_dir():
        check_copy(path)
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
    revision, unless another is asked for, and what is known of its files is checked: of
    JAX files always the size. Once the hub can't be reached, it is the first that the cache has.

    Raises:
        MissingInputError, InputError: see `download`, `check_files` and `check_size`; and if no
            layout is there.
    """
    released = find_named(repository)
    if released is not None and revision is None:
        revision = released.revision
    wanted: tuple[Layout, ...] = ("jax", "huggingface") if layout is None else (layout,)
    choices = [(name, PATTERNS[name]) for name in wanted]
    choices += [("huggingface", PYTORCH_PATTERNS)] if "huggingface" in wanted else []
    missing: MissingInputError | None = None
    for name, patterns in choices:
        try:
            folder = download(
                repository, patterns, revision=revision, cache=cache, only_cached=bool(missing)
            )
        except MissingInputError as error:
            missing = missing or error
            continue
        found = find_layout(folder, name)
        if found is None:
            continue
        if released is not None and revision == released.revision:
            check_files(folder, released)
            checkpoint = released_jax.find_checkpoint(found[1])
            if name == "jax" and checkpoint:
                released_jax.check_size(checkpoint, released.config)
        return folder
    if missing:
        raise missing
    files = ", ".join(dict.fromkeys(file for _, patterns in choices for file in patterns))
    raise MissingInputError(f"{repository}: no model in the hub or the cache: none of {files}")


def find_packaged(name: str) -> Path:
    """Returns the folder of a packaged model, whose files are as they were packaged.

    Raises:
        MissingInputError: if nothing was packaged under this name, or a file is gone.
        InputError: for a file that was truncated or changed; in one line that says how to repair
            it.
    """
    folder = PACKAGED_FOLDER / name
    if not folder.is_dir():
        raise MissingInputError(
            f"{folder}: no model is packaged here: in a checkout `make model` trains and packages"
            " it; or name another model, or a folder"
        )
    check_sums(folder)
    return folder


def write_sums(folder: Path) -> None:
    """Writes the digests of the files of a folder, all but the card, which may be edited."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in (SUMS, CARD))
    lines = (f"{digest_file(folder / name)}  {name}\n" for name in names)
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def check_sums(folder: Path) -> None:
    """Compares the files of a folder with their digests.

    Raises:
        MissingInputError: if a file, or the list of digests, is not there.
        InputError: for a file that is not as it was, or a list that does not have what is read.
    """
    sums = read_sums(folder / SUMS)
    for name in READ:
        if name not in sums:
            raise InputError(f"{folder / SUMS}: no line for {name}, which is read: {_REPAIR}")
    for name in sums:
        file = folder / name
        if not file.is_file():
            raise MissingInputError(f"{file}: no such file, and {SUMS} lists it: {_REPAIR}")
    _compare_digests(folder, sums, _REPAIR)


def check_copy(folder: Path) -> None:
    """Compares the files of a folder that loading reads with their digests, where it has any.

    Raises:
        InputError: for a file that is not as the list of the folder says.
    """
    if (folder / SUMS).is_file():
        lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
        sums = {found[2]: found[1] for found in map(_LINE.fullmatch, lines) if found}
        there = [name for name in (*READ, REFERENCE) if (folder / name).is_file()]
        listed = {name: sums[name] for name in there if name in sums}
        _compare_digests(folder, listed, f"copy it again, or if this is meant, delete {SUMS}")


def _compare_digests(folder: Path, sums: dict[str, str], repair: str) -> None:
    """Raises an `InputError` for a file that has another SHA-256 than it should."""
    for name, expected in sums.items():
        found = digest_file(folder / name)
        if found != expected:
            rule = f"should be {show_digest(expected)} by {SUMS}: {repair}"
            raise InputError(
                f"{folder / name}: truncated or changed: SHA-256 {show_digest(found)} {rule}"
            )


def read_sums(file: Path) -> dict[str, str]:
    """The SHA-256 of each file of a list, in hexadecimal.

    Raises:
        MissingInputError: if there is no such list.
        InputError: for a line that is none of `sha256sum`.
    """
    if not file.is_file():
        raise MissingInputError(f"{file}: no such file: {_REPAIR}")
    sums = {}
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            rule = "must be 64 hexadecimal digits, two spaces and a file name"
            raise InputError(f"{file}: line {number}: {line[:80]!r}: {rule}: {_REPAIR}")
        sums[found[2]] = found[1]
    return sums
