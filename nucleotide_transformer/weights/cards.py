"""What an export has besides the weights: vocabulary, tokenizer files and a model card."""

import hashlib
import json
from pathlib import Path

import huggingface_hub

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.weights.configs import TORCH_MODULE, is_plain_esm
from nucleotide_transformer.weights.hub import PACKAGED, PACKAGED_LICENSE, RELEASED_LICENSE

VOCABULARY = "vocab.txt"
TOKENIZER_FILES = (VOCABULARY, "tokenizer_config.json", "special_tokens_map.json")
CARD = "README.md"

_LATE_SPECIALS = ("<eos>", "<bos>")
"""The released first generation lists these after its 4,105 tokens, without ids in the model."""

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


def write_torch_module(folder: Path, config: ModelConfig) -> None:
    """Writes the PyTorch module that transformers needs, if it has none of its own."""
    if not is_plain_esm(config):
        source = Path(__file__).with_name(f"{TORCH_MODULE}.py").read_text(encoding="utf-8")
        (folder / f"{TORCH_MODULE}.py").write_text(source, encoding="utf-8")


def write_tokenizer_files(folder: Path, config: ModelConfig) -> None:
    """Writes what transformers' `EsmTokenizer` reads, as the released models have it."""
    tokens = KmerTokenizer(vocabulary=config.vocabulary, k=config.k).tokens
    (folder / VOCABULARY).write_text("\n".join(tokens), encoding="ascii")
    own = {"AutoTokenizer": [f"{TORCH_MODULE}.NucleotideTransformerTokenizer", None]}
    contents = {
        "tokenizer_config.json": {
            **({} if is_plain_esm(config) else {"auto_map": own}),
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
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_vocabulary(file: Path, config: ModelConfig) -> None:
    """Raises an `InputError` if a `vocab.txt` lists other tokens than the model has."""
    expected = KmerTokenizer(vocabulary=config.vocabulary, k=config.k).tokens
    size, most = file.stat().st_size, (config.k + 2) * len(expected) + 1_024
    if size > most:
        raise InputError(f"{file}: {size} bytes: the vocabulary of this model has at most {most}")
    found = tuple(file.read_text(encoding="utf-8", errors="replace").split("\n"))
    found = found[: len(found) - (found[-1] == "")]
    if found in (expected, (*expected, *_LATE_SPECIALS)):
        return
    for line, (token, right) in enumerate(zip(found, expected, strict=False), 1):
        if token != right:
            raise InputError(f"{file}: line {line}: {token!r:.60} should be {right!r}")
    raise InputError(f"{file}: {len(found)} tokens: the model has {len(expected)}")


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
    library = {"huggingface": "transformers", "jax": "nucleotide-transformer"}[layout]
    data = huggingface_hub.ModelCardData(
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


def is_untouched(card: Path) -> bool:
    """Whether a model card is as `write_card` wrote it."""
    text, _, seal = card.read_text(encoding="utf-8", errors="replace").rpartition("\n<!-- ")
    return f"<!-- {seal}".rstrip("\n") == _seal(text)


def _seal(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"<!-- as it was written: {digest} -->"
