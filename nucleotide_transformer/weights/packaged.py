"""The model that comes with this package: where its files are, and whether they are whole.

`nucleotide_transformer/packaged/<name>` holds a model in the Hugging Face layout, and a file
`SHA256SUMS` in the form that `sha256sum --check` reads. Every load by name checks what is read
against it. `packaging` writes such a folder.
"""

import hashlib
import re
from pathlib import Path

from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.weights import cards, huggingface

FOLDER = Path(__file__).parent.parent / "packaged"
"""With a folder for each packaged model."""
SUMS = "SHA256SUMS"
REFERENCE = "reference.npz"
"""Logits that the model should give, for `nt verify`; see `verification`."""
READ = (huggingface.CONFIG, huggingface.SAFETENSORS, cards.VOCABULARY)
"""What loading reads, and the sums must therefore list."""

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\]+)")
_REPAIR = (
    "install the package again, or in a checkout run"
    " `git checkout -- nucleotide_transformer/packaged`"
)
_SHOWN = 12
"""Hexadecimal digits of a digest that a message shows."""


def find_packaged(name: str) -> Path:
    """Returns the folder of a packaged model, whose files are as they were packaged.

    Raises:
        MissingInputError: if nothing was packaged under this name, or a file is gone.
        InputError: for a file that was truncated or changed; in one line that says how to repair
            it.
    """
    folder = FOLDER / name
    if not folder.is_dir():
        raise MissingInputError(
            f"{folder}: no model is packaged here: in a checkout `make model` trains and packages"
            " it; or name another model, or a folder"
        )
    check_sums(folder)
    return folder


def write_sums(folder: Path) -> None:
    """Writes the digests of the files of a folder, all but the card, which may be edited."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in (SUMS, cards.CARD))
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
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            raise MissingInputError(f"{file}: no such file, and {SUMS} lists it: {_REPAIR}")
        found = digest_file(file)
        if found != expected:
            rule = f"should be {expected[:_SHOWN]}... by {SUMS}"
            raise InputError(
                f"{file}: truncated or changed: SHA-256 {found[:_SHOWN]}... {rule}: {_REPAIR}"
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


def digest_file(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
