"""The folder of a corpus: whose it is, who writes to it, and what may be removed from it."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from nucleotide_transformer.data.chunking import SPLITS
from nucleotide_transformer.data.manifest import (
    CONTIGS_FILE,
    GENOME_FILE,
    MANIFEST_FILE,
    SAMPLES_FILE,
)
from nucleotide_transformer.errors import NotAFolderError, OutputExistsError
from nucleotide_transformer.files import PARTIAL_PREFIX, hold_folder, refuse_unwritable

MARKER_FILE = ".corpus"
"""Says that `nt corpus build` made the folder. Corpora of earlier versions have none: their own
files tell."""
_MARKER_TEXT = "`nt corpus build` made this folder, and removes from it what it did not finish.\n"
_FILES_OF_A_GENOME = {
    *(GENOME_FILE, CONTIGS_FILE, SAMPLES_FILE),
    *(f"{split}.array_record" for split in SPLITS),
}
_PARTIAL_GENOME = re.compile(re.escape(PARTIAL_PREFIX) + r"[0-9a-f]+-.*-[0-9a-f]{8}")
_PARTIAL_MANIFEST = re.compile(re.escape(PARTIAL_PREFIX) + r"[0-9a-f]+-" + re.escape(MANIFEST_FILE))


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Makes the folder of a corpus and keeps other builders out of it.

    What an earlier build had not finished is removed. After an error so is the folder, if it was
    new and has no genome. Nothing is removed that a build did not write.

    Raises:
        NotAFolderError, OutputExistsError: if the folder is a file, or holds anything but a corpus.
        InputError: if another process builds there, or the system refuses.
    """
    _check_own(folder)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    with refuse_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    rule = "another process is building this corpus: wait for it, or end it"
    try:
        with hold_folder(folder, rule):
            try:
                (folder / MARKER_FILE).write_text(_MARKER_TEXT, encoding="utf-8")
                (folder / "genomes").mkdir(exist_ok=True)
                _remove_partial(folder)
                yield
            except BaseException:
                _remove_partial(folder)
                _remove_marker(folder)
                raise
    finally:  # without the lock, which is a file in it: by now another process may build there
        for path in new:
            with contextlib.suppress(OSError):  # holds files
                path.rmdir()


def remove_genome(path: Path) -> None:
    """Removes the folder of a genome: damaged, or not finished.

    Raises:
        OutputExistsError: if it holds a file that a build did not write; nothing is removed.
    """
    for file in path.iterdir():
        if file.name not in _FILES_OF_A_GENOME or not file.is_file():
            rule = "is no file of the corpus, and its folder must be built again: move it away"
            raise OutputExistsError(f"{file}: {rule}")
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def _check_own(folder: Path) -> None:
    """Raises an `InputError` unless the folder is new, empty or a corpus."""
    if folder.exists() and not folder.is_dir():
        raise NotAFolderError(f"{folder}: is a file: the output must be a folder")
    if not folder.is_dir() or not any(folder.iterdir()) or (folder / MARKER_FILE).is_file():
        return
    genomes = (folder / "genomes").glob(f"*/{GENOME_FILE}")
    if not any(map(_is_ours, (folder / MANIFEST_FILE, *genomes))):
        rule = "the output must be an empty or new folder, or a corpus"
        raise OutputExistsError(f"{folder}: holds other files: {rule}")


def _is_ours(path: Path) -> bool:
    """Whether a file is one of a corpus, of any version."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and {"format_version", "config"} <= values.keys()


def _remove_partial(folder: Path) -> None:
    """Removes what a build that was stopped had not finished, told by its name and its files."""
    for path in (folder / "genomes").glob(f"{PARTIAL_PREFIX}*"):
        if _PARTIAL_GENOME.fullmatch(path.name) and path.is_dir():
            with contextlib.suppress(OutputExistsError):
                remove_genome(path)
    for path in folder.glob(f"{PARTIAL_PREFIX}*"):
        if _PARTIAL_MANIFEST.fullmatch(path.name) and path.is_file():
            path.unlink()


def _remove_marker(folder: Path) -> None:
    """Removes what a build made before its first genome, if there is none."""
    genomes = folder / "genomes"
    with contextlib.suppress(OSError):  # is not there, or holds something
        genomes.rmdir()
    if not (genomes.exists() or (folder / MANIFEST_FILE).exists()):
        (folder / MARKER_FILE).unlink(missing_ok=True)
