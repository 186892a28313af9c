"""Corpora that were built stay as they are: the same records, the same tokens at each update.

Runs resume on them. The numbers are those of the corpora that the recipes of `experiments/` made
before records could be packed.
"""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.configfile import load_config, read_config
from nucleotide_transformer.data.corpus import CorpusConfig, Manifest, build_corpus
from nucleotide_transformer.data.dataset import make_dataset
from nucleotide_transformer.data.sources import SHIPPED_GENOMES
from nucleotide_transformer.tokenizers import KmerTokenizer

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
UPDATES = (0, 1, 77)


def hash_tokens(manifest: Manifest, config: PretrainConfig) -> str:
    """sha256 of the tokens of some updates, in hex."""
    dataset = make_dataset(
        manifest,
        "train",
        tokenizer=KmerTokenizer(config.model.vocabulary, config.model.k),
        data=config.data,
        sequences_per_update=config.sequences_per_update,
        seed=config.seed,
    )
    return hashlib.sha256(b"".join(dataset[n].tokens.tobytes() for n in UPDATES)).hexdigest()


def test_the_quickstart_reads_the_same_tokens(tmp_path: Path) -> None:
    manifest = build_corpus(
        CorpusConfig(inputs=(SHIPPED_GENOMES,), output=tmp_path / "corpus", chunk_length=1530)
    )
    assert manifest.digest == "b230ea9e8359246b7f0e360a32102b77a06108a0f720a7a6c9fb3a28203a5baf"
    tokens = hash_tokens(manifest, load_config(EXPERIMENTS / "quickstart.toml"))
    assert tokens == "a76afc540bf7335a83e8fa6ebf520edb8ee44bc83c86696d84dcd6dd91d1d924"


def test_the_packaged_model_reads_the_same_tokens(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the three genomes that are smallest, and with one that has many short contigs."""
    monkeypatch.chdir(EXPERIMENTS.parent)
    config = read_config(CorpusConfig, EXPERIMENTS / "model" / "corpus.toml")
    genomes = shared / "data" / "genomes"
    names = ("encode_elephant", "encode_zebrafish", "mlacus_al21")
    config = dataclasses.replace(
        config,
        inputs=tuple(genomes / f"{name}.fa.gz" for name in names),
        output=tmp_path / "corpus",
        chunk_length=1530,
        validation_contigs=("elephant.ENm002.0", "zebrafish.ENm002.0"),
    )
    manifest = build_corpus(config)
    assert manifest.digest == "6665729efc123f27f1d5cd8fcfd6eecc760d9c4e5b48929ba4bbeb2d381f7ea4"
    tokens = hash_tokens(manifest, load_config(EXPERIMENTS / "model" / "pretrain.toml"))
    assert tokens == "d2f482fc27f9f7a909a835721a3d4c63c0759b609e57fa447db6542c681a9b74"
