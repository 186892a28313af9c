"""One genome in two files: under other headers, in another order, with other line ends or gzipped.

Held-out blocks go by name: all of one copy's would be trained on in the other. Genomes that share
some contigs only are in `test_shared_contigs.py`.
"""

import dataclasses
import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from small_genomes import reverse_complement
from test_corpus_builds import assert_one_line, list_partial, stamp_files

from nucleotide_transformer.data.corpus import CorpusConfig, build_corpus, load_manifest
from nucleotide_transformer.errors import InputError

CONTIGS = [
    "".join(np.random.default_rng(seed).choice(list("ACGT"), length))
    for seed, length in enumerate((9_000, 4_000, 7_000))
]


def write(path: Path, *contigs: str, prefix: str = "chr") -> Path:
    text = "".join(f">{prefix}{number} x\n{contig}\n" for number, contig in enumerate(contigs))
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    """A genome, and a corpus folder that is not there yet."""
    return CorpusConfig(
        inputs=(write(tmp_path / "ant.fa", *CONTIGS),),
        output=tmp_path / "runs" / "corpus",
        chunk_length=60,
        overlap=7,
        block_length=600,
        workers=1,
    )


def add(config: CorpusConfig, *paths: Path, **changes: object) -> CorpusConfig:
    return dataclasses.replace(config, inputs=(*config.inputs, *paths), **changes)  # type: ignore[arg-type]


def make_twin(folder: Path, kind: str) -> Path:
    """The same nucleotides in a file whose bytes are others."""
    if kind == "headers":
        return write(folder / "bee.fa", *CONTIGS, prefix="NC_")
    if kind == "gzip":
        return write(folder / "bee.fa.gz", *CONTIGS)
    if kind == "order":
        return write(folder / "bee.fa", *CONTIGS[::-1])
    if kind == "strand":
        return write(folder / "bee.fa", CONTIGS[1], *map(reverse_complement, CONTIGS[::2]))
    if kind == "lower case":
        return write(folder / "bee.fa", *map(str.lower, CONTIGS))
    lines = (re.sub("(.{60})", "\\1\n", contig) for contig in CONTIGS)
    return write(folder / "bee.fa", *lines)


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        *(("headers", 2), ("headers", 1), ("gzip", 1), ("order", 1)),
        *(("lower case", 1), ("lines", 1), ("strand", 1)),
    ],
)
def test_a_genome_that_is_there_twice_is_refused(
    kind: str, workers: int, config: CorpusConfig, tmp_path: Path
) -> None:
    twin = make_twin(tmp_path, kind)
    with pytest.raises(InputError, match="holds the same sequences as") as error:
        build_corpus(add(config, twin, workers=workers))
    assert_one_line(error, f"inputs: {twin}", config.inputs[0], "'ant'", "leave one out")
    assert not (config.output / "manifest.json").exists()
    assert not list_partial(config.output)
    stamps = stamp_files(config.output)
    (left,) = (config.output / "genomes").iterdir()
    assert left.name.startswith("ant-")
    assert [genome.species for genome in build_corpus(config).genomes] == ["ant"]
    assert stamp_files(config.output) == stamps


def test_a_twin_that_is_mended_is_built(config: CorpusConfig, tmp_path: Path) -> None:
    """And the one that a finished corpus has is never the one to leave out."""
    build_corpus(config)
    twin = write(tmp_path / "aa.fa", *CONTIGS[::-1])
    with pytest.raises(InputError, match="holds the same sequences as") as error:
        build_corpus(add(config, twin))
    assert_one_line(error, f"inputs: {twin}", config.inputs[0], "'ant'")
    write(twin, *(contig.replace("A", "C") for contig in CONTIGS))
    assert [genome.species for genome in build_corpus(add(config, twin)).genomes] == ["aa", "ant"]


def test_what_was_built_before_is_compared_too(config: CorpusConfig, tmp_path: Path) -> None:
    """In an unfinished corpus, and in a finished one that would grow, which stays as it is."""
    manifest = build_corpus(config)
    twin = make_twin(tmp_path, "headers")
    for _ in range(2):
        with pytest.raises(InputError, match="holds the same sequences as"):
            build_corpus(add(config, twin))
    assert load_manifest(config.output) == manifest
    (config.output / "manifest.json").unlink()
    with pytest.raises(InputError, match="holds the same sequences as"):
        build_corpus(add(config, twin))


def test_genomes_whose_contigs_differ_by_a_letter_are_built(
    config: CorpusConfig, tmp_path: Path
) -> None:
    changed = [contig[:-1] + ("A" if contig[-1] != "A" else "C") for contig in CONTIGS]
    _, middle, last = CONTIGS
    for number, contigs in enumerate(
        (
            changed,
            [changed[0], middle + last[0], last[1:]],
            ["".join(CONTIGS)],
            [*changed, "N"],
        )
    ):
        other = write(tmp_path / f"bee{number}.fa", *contigs)
        manifest = build_corpus(add(config, other, output=tmp_path / str(number)))
        assert len(manifest.genomes) == 2


def test_a_twin_is_refused_where_nothing_is_held_out(config: CorpusConfig, tmp_path: Path) -> None:
    twin = make_twin(tmp_path, "headers")
    with pytest.raises(InputError, match="holds the same sequences as"):
        build_corpus(add(config, twin, validation_fraction=0.0, test_fraction=0.0))
