"""Exports: a folder with weights, config, tokenizer files and a model card, whole or not at all."""

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.errors import NotAFolderError, OutputExistsError, require
from nucleotide_transformer.files import (
    LOCK_FILE,
    PARTIAL_PREFIX,
    catch_termination,
    open_output,
    refuse_unwritable,
    require_local,
    sync,
    write_json,
    write_whole,
)
from nucleotide_transformer.model.token_tables import fold_tables
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights import adapter_files, huggingface, released_jax
from nucleotide_transformer.weights.configs import TORCH_MODULE, is_plain_esm
from nucleotide_transformer.weights.folders import CARD, REFERENCE, SUMS, VOCABULARY, Layout
from nucleotide_transformer.weights.hub import PACKAGED, PACKAGED_LICENSE, RELEASED_LICENSE

TOKENIZER_FILES = (VOCABULARY, "tokenizer_config.json", "special_tokens_map.json")
_FILES = (
    *(*huggingface.WEIGHT_FILES, huggingface.CONFIG, f"{TORCH_MODULE}.py"),
    *(released_jax.HYPERPARAMS, released_jax.CHECKPOINT),
    *(adapter_files.PEFT_CONFIG, adapter_files.PEFT_TENSORS),
    *(*TOKENIZER_FILES, CARD, SUMS, REFERENCE),
)
_WRITTEN = re.compile(
    rf"{'|'.join(map(re.escape, _FILES))}|model-\d+-of-\d+\.safetensors"
    rf"|{re.escape(PARTIAL_PREFIX)}.*|{re.escape(LOCK_FILE)}"
)
"""Names of files that an export writes, and of what one that was killed leaves."""
_MAX_CARD_BYTES = 1 << 20
_CONFIGS = (huggingface.CONFIG, released_jax.HYPERPARAMS, adapter_files.PEFT_CONFIG)
"""Files without which a folder is no model."""

_PLAIN = """\
```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForMaskedLM.from_pretrained("FOLDER")
```

No part of transformers' `EsmForMaskedLM` is missing here but its contact head, which this model
never had; transformers says that it makes one up.
"""

_GATED = f"""\
The feed-forward networks of this architecture are gated (SwiGLU) and have no biases. The
`EsmForMaskedLM` of transformers has no such thing. `{TORCH_MODULE}.py` in this folder has, a
PyTorch module under Apache-2.0, which transformers (4.46 or later) runs if it is allowed to:

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForMaskedLM.from_pretrained("FOLDER", trust_remote_code=True)
```
"""

_JAX = """\
`hyperparams.json` and `pytree_ckpt.joblib` are laid out as in the `jax_model` folders of the
released models. A joblib file can run code when it is read: read it with the package above, which
does not let it, or from a source that you trust.
"""

_CARD = """\
A Nucleotide Transformer: {architecture}.
Made from: {origin}.

## Use

```python
from nucleotide_transformer import load_pretrained

model = load_pretrained("FOLDER")
tokens = model.tokenizer.encode_batch(["ATTCCGATTCCGATTCCG"])
logits = model(tokens).logits
```

{layout}
## Licence

The licence of weights is that of what they were made from. {terms}
"""

_TERMS = {
    RELEASED_LICENSE: (
        "These were made from released weights of the Nucleotide Transformer, which are under"
        " CC BY-NC-SA 4.0: not for commercial use, with attribution, and shared alike."
    ),
    PACKAGED_LICENSE: (
        f"These were made from {PACKAGED}, the model that comes with the package above, which is"
        " under Apache-2.0. Its card lists the genomes that it was trained on and their terms."
    ),
    None: (
        "Weights that were trained from scratch are their maker's, who should state the terms here."
        " Weights made from released ones stay under the licence of those (CC BY-NC-SA 4.0)."
    ),
}
"""What a card says of the licence of its weights."""


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
        NotAFolderError, UnwritableOutputError: if it is a link or a file, or can't be written.
        InputError: for an unknown layout, an architecture that it has no words for, the address of
            an object store, or if another process writes there.
    """
    require(layout in get_args(Layout), "layout", layout, f"must be one of {get_args(Layout)}")
    card = make_card(config, layout=layout, origin=origin, license=license)
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
    has_module = layout == "huggingface" and not is_plain_esm(config)
    write_tokenizer_files(folder, config, has_module=has_module)
    if has_module:
        write_torch_module(folder)
    write_card(folder, card)


@contextlib.contextmanager
def open_draft(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Gives an empty folder to write to, and puts it, or its files, in place when all went well.

    By then they are on disk. A folder that is there stays the same folder, with its owner and its
    mode, also where it is the working directory or a mount point: its old files go, the config
    first, and the new ones come, the config last. Other processes are kept out of it meanwhile.

    Raises:
        InputError, OutputExistsError, NotAFolderError, UnwritableOutputError: see `save_folder`.
    """
    require_local("folder", folder)
    folder = folder.absolute()
    check_target(folder, overwrite)
    with refuse_unwritable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        with write_whole(folder) as draft:
            with refuse_unwritable(folder):
                draft.mkdir()
            yield draft
        return
    with catch_termination(), open_output(folder):
        check_target(folder, overwrite)  # again: another process may just have left
        with refuse_unwritable(folder):
            draft = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=folder))
        try:
            yield draft
            for file in draft.iterdir():
                sync(file)
            _replace_files(folder, draft)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _replace_files(folder: Path, draft: Path) -> None:
    """Puts the files of a draft into its folder, in place of all there, which an error brings back.

    A folder without its config is no model: it goes first and comes last.
    """
    names = [path.name for path in draft.iterdir()]
    old = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=folder))
    try:
        for path in sorted(folder.iterdir(), key=lambda path: path.name not in _CONFIGS):
            if path not in (draft, old, folder / LOCK_FILE):
                path.replace(old / path.name)
        _move_files(draft, folder)
        sync(folder)
    except BaseException:
        for name in names:
            if not (draft / name).exists():  # it is in the folder
                (folder / name).replace(draft / name)
        _move_files(old, folder)
        old.rmdir()
        raise
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
    if set(names) - {LOCK_FILE} and not overwrite:
        raise OutputExistsError(f"{folder}: is not empty: give another folder, or overwrite it")
    drafts = [name for name in names if name.startswith(PARTIAL_PREFIX)]
    foreign = [
        name
        for name in names
        if not _WRITTEN.fullmatch(name) or (name not in drafts and (folder / name).is_dir())
    ]
    if foreign:
        rule = "which no export wrote: give another folder"
        raise OutputExistsError(f"{folder}: holds {foreign[0]}, {rule}")
    card = folder / CARD
    if card.exists() and not is_untouched(card):
        rule = "was edited since it was exported: move it away, or give another folder"
        raise OutputExistsError(f"{card}: {rule}")


def write_torch_module(folder: Path) -> None:
    """Writes the PyTorch module that transformers needs where it has none of its own."""
    source = Path(__file__).with_name(f"{TORCH_MODULE}.py").read_text(encoding="utf-8")
    (folder / f"{TORCH_MODULE}.py").write_text(source, encoding="utf-8")


def write_tokenizer_files(folder: Path, config: ModelConfig, *, has_module: bool) -> None:
    """Writes what transformers' `EsmTokenizer` reads, as the released models have it.

    Args:
        folder: where to.
        config: architecture.
        has_module: whether the PyTorch module is there, too; the tokenizer then has its class.
    """
    tokens = KmerTokenizer(vocabulary=config.vocabulary, k=config.k).tokens
    (folder / VOCABULARY).write_text("\n".join(tokens), encoding="ascii")
    own = {"AutoTokenizer": [f"{TORCH_MODULE}.NucleotideTransformerTokenizer", None]}
    contents = {
        "tokenizer_config.json": {
            **({"auto_map": own} if has_module else {}),
            "clean_up_tokenization_spaces": True,
            "eos_token": None,
            "model_max_length": config.max_positions,
            "tokenizer_class": "EsmTokenizer",
        },
        "special_tokens_map.json": {
            f"{name}_token": f"<{name}>" for name in ("cls", "mask", "pad", "unk")
        },
    }
    for name, content in contents.items():
        write_json(folder / name, content, indent=2)


def make_card(config: ModelConfig, *, layout: str, origin: str, license: str | None) -> str:
    """The model card of an export, as Markdown.

    Args:
        config: architecture.
        layout: "huggingface" or "jax".
        origin: what the weights were made from.
        license: short name of their licence on the hub, where it is known.
    """
    return make_head(Path(origin).name, layout, license) + _CARD.format(
        architecture=describe_architecture(config),
        origin=origin,
        layout=describe_layout(config, layout),
        terms=_TERMS.get(license, f"It is {license}."),
    )


def make_head(title: str, layout: str, license: str | None) -> str:
    """What a card begins with: the hub's fields, and the title."""
    from huggingface_hub import ModelCardData  # only here: reading does without

    library = {"huggingface": "transformers", "jax": "nucleotide-transformer"}[layout]
    data = ModelCardData(
        license=license,
        library_name=library,
        pipeline_tag="fill-mask",
        tags=["DNA", "biology", "genomics"],
    )
    return f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n"


def describe_architecture(config: ModelConfig) -> str:
    """The architecture in a few words, on two lines."""
    gate = "gated " if config.ffn_gated else ""
    return (
        f"{config.num_layers} layers, width {config.embed_dim}, {config.num_heads} heads,"
        f" feed-forward networks of {config.ffn_dim} ({gate}{config.ffn_activation}),\n"
        f"{config.position} positions up to {config.max_positions} tokens, {config.k}-mers,"
        f" vocabulary {config.vocabulary} ({config.vocabulary_size} ids)"
    )


def describe_layout(config: ModelConfig, layout: str) -> str:
    """How others load files of a layout, as Markdown."""
    plain = _PLAIN if is_plain_esm(config) else _GATED
    return {"huggingface": plain, "jax": _JAX}[layout]


def write_card(folder: Path, text: str) -> None:
    """Writes a model card, and at its end the digest by which an edit is noticed."""
    text = text.rstrip("\n")
    (folder / CARD).write_text(f"{text}\n{_seal(text)}\n", encoding="utf-8")


def read_license(folder: Path) -> str | None:
    """The licence that the card of an export names; None without one, or if it was edited."""
    card = folder / CARD
    if not card.is_file() or card.stat().st_size > _MAX_CARD_BYTES or not is_untouched(card):
        return None
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---\n")[0]
    found = re.search(r"^license: (\S+)$", head, re.MULTILINE)
    return found[1] if found else None


def is_untouched(card: Path) -> bool:
    """Whether a model card is as `write_card` wrote it."""
    text, _, seal = card.read_text(encoding="utf-8", errors="replace").rpartition("\n<!-- ")
    return f"<!-- {seal}".rstrip("\n") == _seal(text)


def _seal(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"<!-- as it was written: {digest} -->"
