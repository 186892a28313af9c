"""The two runs that are compared with plain ones, and the corpus that they read."""

import json

import numpy as np

from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.configfile import config_from_dict
from nucleotide_transformer.data.corpus import build_corpus
from nucleotide_transformer.data.corpus_config import CorpusConfig

LEARNED = {
    "seed": 11,
    "num_devices": 3,
    "tokens_per_update": 24 * 7,
    "sequences_per_device": 2,
    "total_tokens": 24 * 7 * 29 + 1,
    "log_every_steps": 4,
    "model": {
        "vocabulary": "v1",
        "k": 4,
        "num_layers": 2,
        "embed_dim": 16,
        "num_heads": 4,
        "ffn_dim": 24,
        "ffn_activation": "gelu",
        "ffn_gated": False,
        "ffn_bias": True,
        "position": "learned",
        "max_positions": 40,
        "layer_norm_epsilon": 1e-3,
        "embed_scale": 1.5,
        "embed_layer_norm": True,
        "token_dropout": True,
        "masking_ratio": 0.3,
        "masking_probability": 0.6,
        "init": "truncated_normal",
    },
    "compute": {"attention": "einsum", "stack": "loop", "remat": "block"},
    "data": {"sequence_tokens": 24, "temperature": 2.0, "reverse_complement": 0.4}
    | {"num_threads": 1, "num_readers": 3, "num_buffered": 2},
    "masking": {"ratio": 0.3, "mask_probability": 0.6, "random_probability": 0.25},
    "optimizer": {
        "name": "adamw",
        "schedule": "cosine",
        "initial_learning_rate": 2e-3,
        "peak_learning_rate": 3e-2,
        "final_learning_rate": 1e-3,
        "warmup_steps": 5,
        "cooldown_share": 0.2,
        "beta1": 0.8,
        "beta2": 0.95,
        "epsilon": 1e-3,
        "clip_norm": 1.1,
        "weight_decay": 0.5,
        "tables": {"rate": 1.5, "decay": 0.3},
        "head": {"rate": 0.7, "decay": 2.0},
        "norms": {"rate": 0.6, "decay": 0.4},
        "matrices": {"rate": 0.8, "decay": 1.5},
    },
    "evaluation": {
        "num_sequences": 9,
        "every_steps": 3,
        "sequence_tokens": 22,
        "masking_ratio": 0.25,
    },
    "checkpoint": {"every_steps": 4, "keep": 4},
}
"""Three devices take 7 sequences as 2 micro-batches of 2, 5 of the 12 rows blank. The last two
updates are half an interval of the log. Of the evaluations only those at 12, 24 and 30 meet a
checkpoint; if that at 27 made one, it would push out the one of update 20."""

ROTARY = {
    **LEARNED,
    "seed": 5,
    "num_devices": 1,
    "tokens_per_update": 30 * 5,
    "sequences_per_device": 3,
    "total_tokens": 30 * 5 * 30,
    "model": {
        "k": 3,
        "num_layers": 2,
        "embed_dim": 16,
        "num_heads": 2,
        "ffn_dim": 24,
        "layer_norm_epsilon": 1e-4,
        "embed_scale": 0.5,
        "token_tables": "pairs",
    },
    "compute": {},
    "data": {"sequence_tokens": 30, "temperature": 1.5, "reverse_complement": 0.7},
    "evaluation": {"num_sequences": 9, "every_steps": 3},
    "optimizer": LEARNED["optimizer"] | {"schedule": "linear", "name": "adam"},
}
"""What the other leaves out: vocabulary v2, rotary attention, SwiGLU, one device."""


def write_fasta(path, contigs):
    path.write_text("".join(f">{name}\n{letters}\n" for name, letters in contigs.items()))


def build(folder):
    """Two species, one three times the other; held-out contigs of another composition.

    Short contigs give padded sequences, N breaks words into single letters, and contigs of 98
    nucleotides end in single letters in the held-out sequences too.
    """
    rng = np.random.default_rng(1)

    def draw(length, shares):
        return "".join(rng.choice(list("ACGT"), length, p=shares))

    common, rare = (0.8, 0.05, 0.05, 0.1), (0.5, 0.2, 0.1, 0.2)
    inputs = []
    for species, length in (("oak", 4_000), ("yeast", 1_300)):
        contigs = {"one": draw(length, common), "short": draw(41, common)}
        contigs["gaps"] = "".join(draw(50 + i, common) + "N" * (1 + 3 * i) for i in range(9))
        contigs |= {f"held{i}": draw(98, rare) for i in range(4)}
        contigs["held"] = draw(400, rare) + "N" + draw(400, rare)
        contigs["apart"] = draw(500, (0.1, 0.1, 0.1, 0.7))
        write_fasta(folder / f"{species}.fa", contigs)
        inputs.append(folder / f"{species}.fa")
    config = CorpusConfig(
        inputs=tuple(inputs),
        output=folder / "corpus",
        chunk_length=90,
        overlap=7,
        block_length=500,
        validation_contigs=("held", *(f"held{i}" for i in range(4))),
        test_contigs=("apart",),
        short_contigs="pad",
        max_unknown_tokens=1.0,
        workers=1,
    )
    build_corpus(config)
    return config.output


def make_config(fields, corpus, output):
    data = fields["data"] | {"corpus": str(corpus)}
    return config_from_dict(PretrainConfig, fields | {"data": data, "output": str(output)}, "test")


def write_toml(path, fields):
    """A config file, with a table for each nested dictionary."""
    lines = []

    def write(table, fields):
        scalars = {name: value for name, value in fields.items() if not isinstance(value, dict)}
        lines.extend([f"[{table}]"] if table else [])
        lines.extend(f"{name} = {json.dumps(value)}" for name, value in scalars.items())
        for name in fields.keys() - scalars.keys():
            write(f"{table}.{name}" if table else name, fields[name])

    write("", {name: value for name, value in fields.items() if value is not None})
    path.write_text("\n".join(lines) + "\n")
    return path
