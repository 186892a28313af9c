"""Held-out contigs by name: in their own genome alone; all other genomes have blocks held out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from nucleotide_transformer.data import corpus
from nucleotide_transformer.data.chunking import SPLITS, Segment
from nucleotide_transformer.data.corpus import (
    CorpusConfig,
    Manifest,
    build_corpus,
    load_manifest,
    open_split,
)
from nucleotide_transformer.data.manifest import load_contigs

CONTIGS = {
    ("ape", "left"): {"chr1": 30_000, "chr2": 5_000},
    ("ape", "right"): {"chr3": 20_000, "chr4": 20_000},
    ("bee", ""): {"chr1": 25_000, "chr5": 9_000},
}


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    """Two rows of one species, and one of another; a contig's name is in both species."""
    rng, lines = np.random.default_rng(0), ["file\tspecies\tassembly"]
    for species, assembly in CONTIGS:
        contigs = CONTIGS[species, assembly].items()
        text = "".join(f">{c}\n{''.join(rng.choice(list('ACGT'), n))}\n" for c, n in contigs)
        (tmp_path / f"{species}{assembly}.fa").write_text(text)
        lines.append(f"{species}{assembly}.fa\t{species}\t{assembly or 'v1'}")
    (tmp_path / "table.tsv").write_text("\n".join(lines) + "\n")
    return CorpusConfig(
        inputs=(tmp_path / "table.tsv",),
        output=tmp_path / "blocks",
        chunk_length=60,
        overlap=7,
        block_length=600,
        workers=1,
    )


def build(config: CorpusConfig, name: str, **changes: object) -> Manifest:
    output = config.output.parent / name
    return build_corpus(dataclasses.replace(config, output=output, **changes))  # type: ignore[arg-type]


def list_segments(manifest: Manifest) -> dict[tuple[str, str, str], tuple[Segment, ...]]:
    """Segments of each species, assembly and contig."""
    return {
        (genome.species, genome.assembly, contig.name): contig.segments
        for genome in manifest.genomes
        for contig in load_contigs(manifest.folder, genome.name)
    }


@pytest.mark.parametrize(
    ("validation", "test", "named"),
    [
        (("ape:chr1",), (), {("ape", "left", "chr1"): "validation"}),
        ((), ("chr4",), {("ape", "right", "chr4"): "test"}),
        (
            ("chr1",),
            ("bee:chr5",),
            {
                ("ape", "left", "chr1"): "validation",
                ("bee", "v1", "chr1"): "validation",
                ("bee", "v1", "chr5"): "test",
            },
        ),
        ((), ("bee:*",), {("bee", "v1", "chr1"): "test", ("bee", "v1", "chr5"): "test"}),
    ],
)
def test_only_a_genome_with_a_named_contig_is_not_cut_into_blocks(
    validation: tuple[str, ...],
    test: tuple[str, ...],
    named: dict[tuple[str, str, str], str],
    config: CorpusConfig,
) -> None:
    by_blocks = list_segments(build(config, "blocks"))
    manifest = build(config, "names", validation_contigs=validation, test_contigs=test)
    by_names = list_segments(manifest)
    assert by_names.keys() == by_blocks.keys()
    genomes = {key[:2] for key in named}
    for key, segments in by_names.items():
        if key[:2] not in genomes:
            assert segments == by_blocks[key]
            continue
        (whole,) = segments
        length = by_blocks[key][-1].end
        assert whole == Segment(0, length, named.get(key, "train"))  # type: ignore[arg-type]
    for genome in CONTIGS:
        cuts = [by_blocks[key] for key in by_blocks if key[:2] == (genome[0], genome[1] or "v1")]
        assert {segment.split for cut in cuts for segment in cut} == set(SPLITS)


def test_records_of_a_held_out_contig_are_in_its_split_alone(config: CorpusConfig) -> None:
    manifest = build(config, "names", validation_contigs=("ape:chr1",))
    for split in SPLITS:
        reader = open_split(manifest, split)
        places = [reader.locate(index) for index in range(len(reader))]
        contigs = {(place.species, place.contig) for place in places}
        assert (("ape", "chr1") in contigs) == (split == "validation")
        assert (("ape", "chr2") in contigs) == (split == "train")
        assert ("ape", "chr3") in contigs or ("ape", "chr4") in contigs
        assert ("bee", "chr1") in contigs


def test_a_corpus_of_the_earlier_rule_stays_as_it_is(
    config: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had no held-out blocks in any genome once a contig was named in one."""
    changes = {"validation_contigs": ("bee:chr5",)}
    with monkeypatch.context() as patch:
        find = corpus.find_named_contigs

        def find_everywhere(*args, **options):  # type: ignore[no-untyped-def]
            return dict.fromkeys(find(*args, **options), frozenset({"any"}))

        patch.setattr(corpus, "find_named_contigs", find_everywhere)
        old = build(config, "old", **changes)
    segments = list_segments(old)
    assert [s.split for cuts in segments.values() for s in cuts].count("validation") == 1
    assert load_manifest(old.folder).digest == old.digest
    assert build(config, "old", **changes) == old
    assert list_segments(old) == segments
    assert build(config, "new", **changes).digest != old.digest
