"""What is written is there whole or not at all: a disk that fills up in the middle changes nothing.

The disk is full for certain: the operating system lets this process write no file beyond so many
bytes, whichever library writes it.
"""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full_disks import full_disk
from matplotlib.figure import Figure
from small_models import V2, random_params, save_model

from nucleotide_transformer.benchmark.config import BenchmarkConfig
from nucleotide_transformer.benchmark.results import write_json
from nucleotide_transformer.data.manifest import load_manifest, save_manifest
from nucleotide_transformer.finetuning.embedding_store import EmbeddingStore
from nucleotide_transformer.inference import (
    BatchConfig,
    EmbedConfig,
    embed_file,
    embedding_files,
    read_embeddings,
)
from nucleotide_transformer.inference.blocks import Blocks
from nucleotide_transformer.inference.embedding_tables import get_writer
from nucleotide_transformer.plots import save_figure
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.training.metrics import MetricWriter
from nucleotide_transformer.weights.exports import save_folder

FEW_BYTES = 50
"""Less than any of these files has."""


def read_all(folder: Path) -> dict[str, bytes]:
    """Every file by its path, but those that are said to be unfinished."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if "partial" not in name}


def write_block(folder: Path, number: int) -> None:
    blocks = Blocks(folder / "x")
    blocks.folder = folder
    blocks.add(values=np.full(3, number))


def write_picture(folder: Path, number: int) -> None:
    figure = Figure()
    figure.subplots().plot([number, 1, 2])
    save_figure(figure, folder / "picture.png")


def write_report(folder: Path, number: int) -> None:
    write_json(folder / "report.json", BenchmarkConfig(), {"number": number}, [])


@pytest.mark.parametrize("write", [write_block, write_picture, write_report])
def test_a_file_is_written_and_replaced_whole(
    write: Callable[[Path, int], None], tmp_path: Path
) -> None:
    with full_disk(FEW_BYTES), pytest.raises((OSError, ValueError), match="File too large"):
        write(tmp_path, 7)
    assert read_all(tmp_path) == {}
    write(tmp_path, 7)
    before = read_all(tmp_path)
    assert len(before) == 1
    with full_disk(FEW_BYTES), pytest.raises((OSError, ValueError), match="File too large"):
        write(tmp_path, 8)
    assert read_all(tmp_path) == before
    write(tmp_path, 8)
    assert read_all(tmp_path) != before


def test_a_manifest_is_replaced_whole(small_corpus: Path, tmp_path: Path) -> None:
    manifest = dataclasses.replace(load_manifest(small_corpus), folder=tmp_path)
    save_manifest(manifest)
    before = read_all(tmp_path)
    with full_disk(FEW_BYTES), pytest.raises(OSError, match="File too large"):
        save_manifest(manifest)
    assert read_all(tmp_path) == before


def test_metrics_that_a_run_goes_on_from_are_not_lost(tmp_path: Path) -> None:
    """Lines beyond the step of the checkpoint are dropped by writing the file anew."""
    writer = MetricWriter(tmp_path, step=0)
    for step in (1, 2, 3):
        writer.write("train", step, {"tokens": step, "loss": 1.0 / step, "accuracy": 0.5})
    writer.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with full_disk(FEW_BYTES), pytest.raises(OSError, match="File too large"):
        MetricWriter(tmp_path, step=2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["x.npz", "x.parquet", "x.h5"])
def test_embeddings_appear_when_their_file_is_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was computed is kept in parts, from which a second call writes the file."""
    (tmp_path / "a.csv").write_text("name,sequence\none,ACGTACG\ntwo,GGGTTTA\n")
    model = Model(params=random_params(V2), config=V2, tokenizer=KmerTokenizer(k=3))
    one = BatchConfig(num_devices=1, batch_tokens=64)
    output = tmp_path / name
    config = EmbedConfig(model="m", input=tmp_path / "a.csv", output=output, batching=one)

    def get_limited(path: Path) -> Callable[..., None]:
        def write(*arguments: Any) -> None:
            with full_disk(FEW_BYTES):
                get_writer(path)(*arguments)

        return write

    with monkeypatch.context() as patch:
        patch.setattr(embedding_files, "get_writer", get_limited)
        with pytest.raises(OSError, match=r"File too large|errno = 27"):
            embed_file(model, config)
    assert not output.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", f"{name}.parts"}
    monkeypatch.setattr(embedding_files, "embed", lambda *_, **__: iter(()))  # nothing is left
    assert read_embeddings(embed_file(model, config)).name == ["one", "two"]


def test_settings_of_embeddings_are_written_whole(tmp_path: Path) -> None:
    """Half of them would be taken for those of another run."""
    (tmp_path / "a.csv").write_text("name,sequence\none,ACGTACG\n")
    model = Model(params=random_params(V2), config=V2, tokenizer=KmerTokenizer(k=3))
    config = EmbedConfig(model="m", input=tmp_path / "a.csv", output=tmp_path / "x.npz")
    with full_disk(FEW_BYTES), pytest.raises((OSError, ValueError), match="File too large"):
        embed_file(model, config)
    assert not (tmp_path / "x.npz.parts" / "settings.json").exists()
    with (
        full_disk(FEW_BYTES),
        pytest.raises(ValueError, match="store: can't be written: File too large"),
    ):
        EmbeddingStore(tmp_path / "store", model)


@pytest.mark.parametrize("layout", ["huggingface", "jax"])
@pytest.mark.parametrize("num_bytes", [FEW_BYTES, 20_000])
def test_an_export_that_fails_leaves_the_old_one(
    layout: Any, num_bytes: int, tmp_path: Path
) -> None:
    """Full in the config, or in the weights, which have 33,000 bytes."""
    other, config = random_params(V2, seed=1), V2
    folder = tmp_path / "m"
    with full_disk(num_bytes), pytest.raises(OSError, match="File too large"):
        save_model(folder, config, layout)
    assert list(tmp_path.iterdir()) == []
    save_model(folder, config, layout)
    before = read_all(tmp_path)
    with full_disk(num_bytes), pytest.raises(OSError, match="File too large"):
        save_folder(folder, other, config, layout=layout, origin="other", overwrite=True)
    assert read_all(tmp_path) == before


def test_an_overwrite_that_fails_at_its_end_brings_the_old_export_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one has made room and the new one can't take its place."""
    folder = tmp_path / "m"
    save_model(folder, V2, "jax")
    before, replace, calls = read_all(tmp_path), Path.replace, itertools.count()
    num_files = len(list(folder.iterdir()))

    def fail_once(path: Path, target: Path) -> Path:
        if next(calls) == 2 * num_files - 1:  # the last of the new files
            raise OSError(5, "Input/output error")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail_once)
        with pytest.raises(OSError, match="Input/output error"):
            save_folder(folder, random_params(V2), V2, layout="jax", origin="", overwrite=True)
    assert read_all(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
