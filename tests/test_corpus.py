"""Corpora: no nucleotide lost or in two splits, the same bytes each time, and nothing by halves."""

import dataclasses
import gzip
import hashlib
import json
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_line_errors import assert_one_line

from nucleotide_transformer.data import fasta
from nucleotide_transformer.data.chunking import SPLITS, Segment, cut_chunks
from nucleotide_transformer.data.corpus import (
    CorpusConfig,
    Manifest,
    build_corpus,
    describe,
    load_manifest,
    open_split,
)
from nucleotide_transformer.data.fasta import Contig
from nucleotide_transformer.data.manifest import load_contigs
from nucleotide_transformer.data.shards import ContigCutter

SMALL = CorpusConfig(
    inputs=(Path("none"),),
    chunk_length=60,
    overlap=7,
    block_length=600,
    short_contigs="pad",
    max_unknown_tokens=1.0,
)
"""Everything a hundredth of its size; `inputs` and `output` come from the test."""


def make_sequence(length: int, seed: int, num_unknown: int = 0) -> bytes:
    """Random nucleotides with one run of N from the 200th on."""
    letters = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(seed).integers(0, 4, length)]
    sequence = letters.tobytes()
    return (sequence[:200] + b"N" * num_unknown + sequence[200 + num_unknown :])[:length]


GENOMES = {
    "zebra": {"chr1": make_sequence(40_000, 1), "chr2": make_sequence(5_001, 2, 700)},
    "ant": {"chr1": make_sequence(30_000, 3, 90), "tiny": b"ACGTN", "bare": b"N" * 300},
    "moss": {"chr1": make_sequence(20_123, 4)},
}


@pytest.fixture
def genomes(tmp_path: Path) -> Path:
    """Three FASTA files of different kinds and a table of them."""
    folder = tmp_path / "genomes"
    folder.mkdir()
    lines = ["file\tlength\tspecies\tassembly\tgroup"]
    for number, (species, contigs) in enumerate(GENOMES.items()):
        text = b"".join(b">%s x\n%s\n" % (name.encode(), s) for name, s in contigs.items())
        path = folder / f"{species}.fa"
        path.write_bytes(gzip.compress(text, mtime=0) if number == 1 else text)
        lines.append(f"{species}.fa\t9\t{species} spec.\tv1\tkingdom {number}")
    pysam.tabix_compress(str(folder / "moss.fa"), str(folder / "moss.gz"))
    (folder / "moss.gz").replace(folder / "moss.fa")
    (folder / "table.tsv").write_text("\n".join(lines) + "\n")
    return folder


def make_config(genomes: Path, **changes: object) -> CorpusConfig:
    inputs, output = (genomes / "table.tsv",), genomes.parent / "corpus"
    values = {"inputs": inputs, "output": output, "workers": 1, **changes}
    return dataclasses.replace(SMALL, **values)  # type: ignore[arg-type]


def hash_files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def locate_all(manifest: Manifest) -> Iterator[tuple[str, str, str, int, int, bytes]]:
    """Split, species, contig, start, end and bytes of every record."""
    for split in SPLITS:
        if manifest.num_records(split):
            reader = open_split(manifest, split)
            for index, record in enumerate(reader.read(np.arange(len(reader)))):
                place = reader.locate(index)
                yield split, place.species, place.contig, place.start, place.end, record


def test_every_nucleotide_is_in_one_split(genomes: Path) -> None:
    manifest = build_corpus(make_config(genomes, max_unknown=1.0))
    splits = {
        (f"{species} spec.", contig): np.zeros((3, len(sequence)), bool)
        for species, contigs in GENOMES.items()
        for contig, sequence in contigs.items()
    }
    for split, species, contig, start, end, record in locate_all(manifest):
        assert record == GENOMES[species.split()[0]][contig][start:end]
        splits[species, contig][SPLITS.index(split), start:end] = True
    for owners in splits.values():
        np.testing.assert_array_equal(owners.sum(0), 1)
    for split in SPLITS:
        num_nucleotides = sum(int(owners[SPLITS.index(split)].sum()) for owners in splits.values())
        assert manifest.num_nucleotides(split) == num_nucleotides > 0


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 3_000), min_size=1, max_size=6),
    chunk_length=st.integers(1, 90),
    overlap=st.integers(0, 40),
    blocks=st.integers(1, 9),
    fraction=st.sampled_from([0.0, 0.05, 0.2, 0.49]),
    seed=st.integers(0, 9),
)
def test_any_cut_covers_every_contig_once(
    lengths: list[int], chunk_length: int, overlap: int, blocks: int, fraction: float, seed: int
) -> None:
    record_length = chunk_length + 2 * overlap
    config = dataclasses.replace(
        SMALL,
        chunk_length=chunk_length,
        overlap=overlap,
        block_length=record_length * blocks,
        validation_fraction=fraction,
        seed=seed,
    )
    cutter = ContigCutter("species", "assembly", config)
    for number, length in enumerate(lengths):
        covered = np.zeros((3, length), bool)
        segments = cutter.cut(Contig(str(number), 1, bytearray(b"A" * length)))
        for segment in segments:
            chunks = cut_chunks(segment.start, segment.end, chunk_length, overlap)
            for start, end in chunks:
                covered[SPLITS.index(segment.split), start:end] = True
                assert end - start == min(record_length, segment.end - segment.start)
            steps = np.diff([start for start, _ in chunks])
            assert all(steps[:-1] == chunk_length)
            assert all((steps[-1:] > 0) & (steps[-1:] <= chunk_length))
        np.testing.assert_array_equal(covered.sum(0), 1)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.2])
def test_every_large_genome_has_its_share(fraction: float) -> None:
    """Within a block and a half, 900 nucleotides, if just two blocks over the least."""
    config = dataclasses.replace(SMALL, validation_fraction=fraction, test_fraction=fraction)
    for species in map(str, range(20)):
        cutter = ContigCutter(species, "assembly", config)
        length = int(600 / fraction) + 2 * 600
        segments = cutter.cut(Contig("chr1", 1, bytearray(b"A" * length)))
        for split in ("validation", "test"):
            held_out = sum(s.end - s.start for s in segments if s.split == split)
            assert abs(held_out - fraction * length) <= 900
            assert held_out > 0


@pytest.mark.parametrize("where", ["first half", "last half", "every other 1,000 nt"])
def test_unknown_nucleotides_are_owed_to_no_split(where: str) -> None:
    """Each split has its share of the letters that are known, to a block and a half."""
    length = 200_000
    sequence = bytearray(b"A" * length)
    runs = {
        "first half": [(0, length // 2)],
        "last half": [(length // 2, length)],
        "every other 1,000 nt": [(start, start + 1_000) for start in range(0, length, 2_000)],
    }
    for start, end in runs[where]:
        sequence[start:end] = b"N" * (end - start)
    for species in map(str, range(10)):
        segments = ContigCutter(species, "assembly", SMALL).cut(Contig("chr1", 1, sequence))
        for split in ("validation", "test"):
            known = sum(sequence.count(b"A", s.start, s.end) for s in segments if s.split == split)
            assert abs(known - 0.05 * length / 2) <= 900


def test_held_out_places_follow_the_seed_and_the_names() -> None:
    contig = Contig("chr1", 1, bytearray(b"A" * 100_000))

    def cut(species: str, assembly: str, seed: int) -> list[Segment]:
        return ContigCutter(species, assembly, dataclasses.replace(SMALL, seed=seed)).cut(contig)

    places = cut("ant", "v1", 0)
    assert cut("ant", "v1", 0) == places
    for other in (cut("ant", "v1", 1), cut("moss", "v1", 0), cut("ant", "v2", 0)):
        assert other != places


def test_mostly_unknown_chunks_are_left_out_and_counted(genomes: Path) -> None:
    manifest = build_corpus(make_config(genomes))
    kept = dict.fromkeys(GENOMES, 0)
    for _, species, contig, start, end, record in locate_all(manifest):
        kept[species.split()[0]] += 1
        assert record.count(b"N") <= len(record) / 2
        assert record == GENOMES[species.split()[0]][contig][start:end]
    for genome in manifest.genomes:
        contigs = GENOMES[genome.species.split()[0]]
        assert genome.num_nucleotides == sum(map(len, contigs.values()))
        assert genome.num_unknown == sum(s.count(b"N") for s in contigs.values())
        assert sum(shard.num_records for shard in genome.shards) == kept[genome.species.split()[0]]
        parts = [s.num_nucleotides + s.num_left_out_nucleotides for s in genome.shards]
        assert sum(parts) == genome.num_nucleotides
    zebra = manifest.genomes[2]
    # 700 N hold 8 chunks of 74 that start every 60 and are N for more than half, at least.
    assert sum(shard.num_left_out_records for shard in zebra.shards) >= 8
    assert 500 <= sum(shard.num_left_out_nucleotides for shard in zebra.shards) <= 700 + 2 * 37


def test_same_bytes_in_any_processes_and_order(genomes: Path) -> None:
    one = tuple(genomes / f"{species}.fa" for species in GENOMES)
    hashes: list[dict[str, str]] = []
    for workers, inputs in ((1, one), (1, one[::-1]), (2, one)):
        output = genomes.parent / f"corpus{len(hashes)}"
        config = make_config(genomes, inputs=inputs, output=output, workers=workers)
        build_corpus(config, progress=True)
        hashes.append(hash_files(output))
    assert len(hashes[0]) == 2 + 3 * (3 + 3)  # the marker and the manifest
    assert hashes[0] == hashes[1] == hashes[2]


def test_compression_changes_the_files_only(genomes: Path) -> None:
    plain = build_corpus(make_config(genomes))
    compressed = build_corpus(make_config(genomes, output=genomes / "zstd", compression="zstd"))
    assert list(locate_all(plain)) == list(locate_all(compressed))


def test_reading_in_any_order(genomes: Path) -> None:
    manifest = build_corpus(make_config(genomes))
    reader = open_split(manifest, "train")
    everything = reader.read(np.arange(len(reader)))
    indices = np.random.default_rng(0).integers(0, len(reader), 500)
    assert reader.read(indices) == [everything[index] for index in indices]
    assert pickle.loads(pickle.dumps(reader)).read([5, 5, 3]) == [everything[i] for i in (5, 5, 3)]
    assert reader.read([]) == []
    for index in (-1, len(reader)):
        with pytest.raises(IndexError) as error:
            reader.read([0, index])
        assert_one_line(error, index, len(reader))


def test_species_follow_one_another(genomes: Path) -> None:
    reader = open_split(build_corpus(make_config(genomes)), "train")
    assert reader.species_names == ("ant spec.", "moss spec.", "zebra spec.")
    assert reader.species_offsets[0] == 0
    assert reader.species_offsets[-1] == len(reader)
    for number, species in enumerate(reader.species_names):
        first, end = reader.species_offsets[number : number + 2]
        assert {reader.locate(index).species for index in range(first, end)} == {species}


def test_named_contigs_are_held_out_whole(genomes: Path) -> None:
    config = make_config(
        genomes, validation_contigs=("zebra spec.:chr1", "tiny"), test_contigs=("moss spec.:*",)
    )
    held_out = {"zebra chr1": "validation", "ant tiny": "validation", "moss chr1": "test"}
    found = {
        (f"{species.split()[0]} {contig}", split)
        for split, species, contig, *_ in locate_all(build_corpus(config))
    }
    assert found == {*held_out.items(), ("zebra chr2", "train"), ("ant chr1", "train")}
    with pytest.raises(ValueError, match="chr9") as error:
        build_corpus(make_config(genomes, output=genomes / "new", test_contigs=("chr9",)))
    assert_one_line(error, "test_contigs", "in no genome")
    assert not (genomes / "new" / "manifest.json").exists()


def test_memory_holds_one_contig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 contigs of 400,000 nt in one file; and blocks of text as they are decompressed."""
    monkeypatch.setattr(fasta, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(fasta, "igzip", None)  # which has 0.6 MB of its own, whatever it reads
    path = tmp_path / "genome.fa.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for number in range(30):
            file.write(b">%d\n%s\n" % (number, make_sequence(400_000, number)))
    tracemalloc.start()
    build_corpus(CorpusConfig(inputs=(path,), output=tmp_path / "corpus"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 400_000  # a growing bytearray is up to 1.125 times its length


def test_real_genome(tmp_path: Path) -> None:
    folder = Path(__file__).parent.parent / "nucleotide_transformer" / "data" / "genomes"
    config = CorpusConfig(
        inputs=(folder / "hpylori_g27.fa.gz",), output=tmp_path / "corpus", compression="zstd"
    )
    manifest = build_corpus(config)
    (genome,) = manifest.genomes
    assert (genome.species, genome.num_nucleotides) == ("hpylori_g27", 1_652_982)
    assert min(manifest.num_nucleotides(split) for split in SPLITS) >= 59_000
    assert sum(manifest.num_nucleotides(split) for split in SPLITS) == 1_652_982
    num_bytes = sum(shard.num_bytes for shard in genome.shards)
    assert num_bytes < 0.31 * 1_652_982 + 3 * 131_072  # and the last blocks of three files
    (contig,) = load_contigs(manifest.folder, genome.name)
    assert [s.start for s in contig.segments[1:]] == [s.end for s in contig.segments[:-1]]


def test_digest_is_that_of_the_content(genomes: Path) -> None:
    """The same at another path, from files of other names, in other processes and groups."""
    manifest = build_corpus(make_config(genomes))
    assert len(manifest.digest) == 64
    assert load_manifest(manifest.folder).digest == manifest.digest
    moved = manifest.folder.rename(genomes.parent / "moved")
    assert load_manifest(moved).digest == manifest.digest
    (genomes / "moss.fa").rename(genomes / "renamed.fa")
    table = (genomes / "table.tsv").read_text().replace("moss.fa", "renamed.fa")
    (genomes / "table.tsv").write_text(table.replace("kingdom 1", "kingdom 2"))
    for changes in ({"workers": 2}, {"compression": "zstd"}):
        other = build_corpus(make_config(genomes, output=genomes / str(changes), **changes))
        assert [g.group for g in other.genomes] != [g.group for g in manifest.genomes]
        assert other.digest == manifest.digest


def test_digest_of_another_content_is_another(genomes: Path) -> None:
    manifest = build_corpus(make_config(genomes))
    digests = {manifest.digest}
    changes: list[dict[str, object]] = [
        *({"chunk_length": 61}, {"overlap": 8}, {"max_unknown": 1.0}, {"seed": 1}),
        *({"validation_fraction": 0.1}, {"test_fraction": 0.0}, {"block_length": 601}),
        *({"validation_contigs": ("chr1",)}, {"test_contigs": ("chr2",)}),
    ]
    for number, change in enumerate(changes):
        output = genomes / str(number)
        digests.add(build_corpus(make_config(genomes, output=output, **change)).digest)
    assert len(digests) == 1 + len(changes)
    first, *others = manifest.genomes
    shard = dataclasses.replace(first.shards[0], num_records=first.shards[0].num_records + 1)
    for other in (
        dataclasses.replace(first, species="fly"),
        dataclasses.replace(first, assembly="v2"),
        dataclasses.replace(first, sha256="0" * 64),
        dataclasses.replace(first, shards=(shard, *first.shards[1:])),
    ):
        digests.add(dataclasses.replace(manifest, genomes=(other, *others)).digest)
    for some in (others, (*others, first)):
        digests.add(dataclasses.replace(manifest, genomes=tuple(some)).digest)
    assert len(digests) == 1 + len(changes) + 4 + 2


def test_digest_stays_what_it_was(genomes: Path) -> None:
    """Runs and baselines hold it: another version of the package must find the same."""
    (genomes / "fly.fa").write_bytes(b">chr1\n" + b"GATTACA" * 1_000)
    manifest = build_corpus(make_config(genomes, inputs=(genomes / "fly.fa",)))
    assert manifest.digest == ("09ca4175db2e2c1ae886c349753f24af0645c5ee8e689a50d1d01391175af03f")
    whole = dataclasses.replace(manifest, config={**manifest.config, "max_unknown": 1})
    same = dataclasses.replace(manifest, config={**manifest.config, "max_unknown": 1.0})
    assert whole.digest == same.digest != manifest.digest


def test_table_of_the_corpus(genomes: Path) -> None:
    rows = describe(build_corpus(make_config(genomes)))
    assert [row["species"] for row in rows] == ["ant spec.", "moss spec.", "zebra spec.", "total"]
    assert rows[0]["group"] == "kingdom 1"
    for column in ("contigs", "nucleotides", "unknown", "train", "validation", "test", "left out"):
        assert rows[-1][column] == sum(row[column] for row in rows[:-1])  # type: ignore[misc]
    assert json.dumps(rows)
