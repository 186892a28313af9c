"""What a record is worth: short contigs joined, what is mostly N left out, and both counted."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import read_all

from nucleotide_transformer.config import DataConfig, EvaluationConfig, PretrainConfig
from nucleotide_transformer.data.chunking import Packer, cut_chunks
from nucleotide_transformer.data.corpus import (
    CorpusConfig,
    Manifest,
    build_corpus,
    load_manifest,
    open_split,
)
from nucleotide_transformer.data.dataset import make_dataset
from nucleotide_transformer.data.description import describe, list_notes
from nucleotide_transformer.data.quality import find_n50
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.pretraining.evaluation import HeldOut, read_held_out
from nucleotide_transformer.tokenizers import KmerTokenizer

CHUNK, OVERLAP = 600, 20
RECORD = CHUNK + 2 * OVERLAP


def draw(rng: np.random.Generator, length: int) -> str:
    return "".join(rng.choice(list("ACGT"), length))


def write_fasta(path: Path, contigs: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{text}\n" for name, text in contigs.items()))
    return path


@pytest.fixture(scope="module")
def contigs() -> dict[str, str]:
    """A draft assembly: scraps of 30 to 300 nt, and two contigs of more than a record."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(30, 300, 600).tolist()
    lengths[100] = lengths[400] = 2_000
    return {f"c{number}": draw(rng, length) for number, length in enumerate(lengths)}


@pytest.fixture
def config(contigs: dict[str, str], tmp_path: Path) -> CorpusConfig:
    return CorpusConfig(
        inputs=(write_fasta(tmp_path / "draft.fa", contigs),),
        output=tmp_path / "corpus",
        chunk_length=CHUNK,
        overlap=OVERLAP,
        block_length=2_000,
        workers=1,
    )


def count_padding(manifest: Manifest) -> float:
    """Share of the tokens of some updates that are padding."""
    data = DataConfig(sequence_tokens=101)
    dataset = make_dataset(
        manifest, "train", tokenizer=KmerTokenizer(), data=data, sequences_per_update=50, seed=0
    )
    return float(np.mean([dataset[n].tokens == KmerTokenizer().pad_token_id for n in range(4)]))


@pytest.mark.parametrize("seed", range(5))
def test_joined_pieces_are_cut_as_one_text(seed: int) -> None:
    rng = np.random.default_rng(seed)
    packer, chunks = Packer(60, 7), []
    for length in rng.integers(1, 74, rng.integers(1, 60)).tolist():
        start, complete = packer.add(length)
        assert start + length == packer.end
        chunks += complete
        assert all(first >= packer.needed_from for first, _ in packer.finish())
    chunks += packer.finish()
    assert chunks == cut_chunks(0, packer.end, 60, 7)
    assert Packer(60, 7).finish() == []


def test_a_draft_assembly_is_trained_on_and_not_its_padding(config: CorpusConfig) -> None:
    packed = build_corpus(config)
    padded = build_corpus(
        dataclasses.replace(config, output=config.output.with_name("padded"), short_contigs="pad")
    )
    assert count_padding(padded) > 0.6
    assert count_padding(packed) < 0.02
    for split in ("train", "validation", "test"):
        assert packed.num_nucleotides(split) == padded.num_nucleotides(split) > 0
        records = read_all(packed, split)
        assert {len(record) for record in records} == {RECORD}
    assert packed.digest != padded.digest


def test_what_a_draft_assembly_lacks_for_an_evaluation_is_said(config: CorpusConfig) -> None:
    """Its packed records have an N at each join, and a genome beside it has none."""
    rng = np.random.default_rng(3)
    drafts = {f"c{number}": draw(rng, 250 + number) for number in range(150)}
    files = [
        write_fasta(config.output.with_name(f"{name}.fa"), contigs)
        for name, contigs in (("scraps", drafts), ("whole", {"chr1": draw(rng, 30_000)}))
    ]
    config = dataclasses.replace(config, validation_fraction=0.3)
    alone, both = (
        build_corpus(dataclasses.replace(config, inputs=inputs, output=config.output / name))
        for name, inputs in (("alone", tuple(files[:1])), ("both", tuple(files)))
    )

    def find(manifest: Manifest, sequence_tokens: int, num_sequences: int = 8) -> HeldOut:
        evaluation = EvaluationConfig(sequence_tokens=sequence_tokens, num_sequences=num_sequences)
        run = PretrainConfig(evaluation=evaluation)
        return read_held_out(run, manifest, KmerTokenizer())

    with pytest.raises(InputError, match=r"lower evaluation.sequence_tokens.* to \d+$") as error:
        find(alone, 101)
    fits = int(str(error.value).rpartition(" ")[2])
    assert find(alone, fits).notes == ()
    with pytest.raises(InputError, match=f" to {fits}$"):
        find(alone, fits + 1)
    for num_sequences in (8, 10_000):
        (note,) = find(both, 101, num_sequences).notes
        assert note.startswith("no held-out sequence of scraps: records were not chosen, or are ")


def test_every_record_is_what_its_places_say(config: CorpusConfig, contigs: dict[str, str]) -> None:
    manifest = build_corpus(config)
    seen = {name: np.zeros((3, len(text)), bool) for name, text in contigs.items()}
    for number, split in enumerate(("train", "validation", "test")):
        reader = open_split(manifest, split)  # type: ignore[arg-type]
        for index, record in enumerate(read_all(manifest, split)):
            places = reader.locate_pieces(index)
            pieces = [contigs[place.contig][place.start : place.end] for place in places]
            assert record.decode().strip("N") == "N".join(pieces)
            assert reader.locate(index) == places[0]
            for place in places:
                seen[place.contig][number, place.start : place.end] = True
    for owners in seen.values():
        np.testing.assert_array_equal(owners.sum(0), 1)


def test_a_corpus_that_is_there_stays_as_it_is(
    config: CorpusConfig, contigs: dict[str, str]
) -> None:
    """The same command as before, of a version that padded: it says so by having no field."""
    build_corpus(dataclasses.replace(config, short_contigs="pad", max_unknown_tokens=1.0))
    paths = [config.output / "manifest.json", *config.output.glob("genomes/*/genome.json")]
    for path in paths:
        values = json.loads(path.read_text())
        for field in ("short_contigs", "max_unknown_tokens", "min_length"):
            del values["config"][field]
        values.pop("digest", None)
        for genome in values.get("genomes", [values.get("genome")]):
            genome.pop("n50")
            for shard in genome["shards"]:
                del shard["num_letters"], shard["num_unknown"], shard["is_plain"]
        path.write_text(json.dumps(values))
    old = load_manifest(config.output)
    records = read_all(old)
    other = write_fasta(config.output.with_name("other.fa"), {"c1": contigs["c100"][::-1] * 3})
    grown = build_corpus(dataclasses.replace(config, inputs=(*config.inputs, other)))
    assert grown.genomes[0] == old.genomes[0]
    assert read_all(grown)[: len(records)] == records
    assert (grown.config["short_contigs"], grown.config["max_unknown_tokens"]) == ("pad", 1.0)
    with pytest.raises(FileExistsError, match="built with short_contigs = 'pad', not 'pack'"):
        build_corpus(dataclasses.replace(config, short_contigs="pack"))


def test_options_that_change_nothing_leave_the_fingerprint(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = write_fasta(tmp_path / "ant.fa", {"chr1": draw(rng, 30_000)})
    config = CorpusConfig(inputs=(path,), chunk_length=CHUNK, overlap=OVERLAP, block_length=2_000)
    changes = ({}, {"short_contigs": "pad"}, {"max_unknown_tokens": 1.0}, {"min_length": 700})
    digests = {
        build_corpus(dataclasses.replace(config, output=tmp_path / str(n), **change)).digest  # type: ignore[arg-type]
        for n, change in enumerate(changes)
    }
    assert len(digests) == 1
    short = dataclasses.replace(config, output=tmp_path / "short", min_length=3_000)
    assert build_corpus(short).digest not in digests


def test_chunks_whose_tokens_are_mostly_n_are_left_out(tmp_path: Path) -> None:
    """One N is one token: with a fifth of N, more than half of the tokens are."""
    rng = np.random.default_rng(2)
    letters = np.array(list(draw(rng, 30_000)))
    letters[15_000:][rng.random(15_000) < 0.2] = "N"
    path = write_fasta(tmp_path / "gaps.fa", {"chr1": "".join(letters)})
    config = CorpusConfig(
        inputs=(path,), output=tmp_path / "by_tokens", chunk_length=CHUNK, overlap=OVERLAP
    )
    config = dataclasses.replace(config, block_length=2_000, test_fraction=0.1)
    by_tokens = build_corpus(config)
    by_letters = build_corpus(
        dataclasses.replace(config, output=tmp_path / "by_letters", max_unknown_tokens=1.0)
    )
    row, other = describe(by_tokens)[-1], describe(by_letters)[-1]
    assert other["left out"] == 0
    assert 23 <= int(row["left out"]) <= 27  # half of 51, but for the ends of segments
    shares = [float(str(each["N tokens"]).rstrip("%")) for each in (row, other)]
    assert shares[0] < 3  # of the chunk that is half within the gaps
    assert 35 < shares[1] < 45
    (note,) = list_notes(by_letters)
    assert note.startswith(f"{shares[1]:.0f}% of the tokens are N: a lower `--max-unknown-tokens`")
    assert list_notes(by_tokens) == []


def test_contigs_below_the_least_length_are_left_out_and_counted(
    config: CorpusConfig, contigs: dict[str, str]
) -> None:
    """As the published corpus: contigs of a record at least, nothing is padded."""
    manifest = build_corpus(dataclasses.replace(config, min_length=RECORD, short_contigs="pad"))
    assert {len(record) for record in read_all(manifest)} == {RECORD}
    shards = manifest.genomes[0].shards
    short = [len(text) for text in contigs.values() if len(text) < RECORD]
    assert sum(shard.num_left_out_records for shard in shards) == len(short)
    assert sum(shard.num_left_out_nucleotides for shard in shards) == sum(short)


def test_a_corpus_says_how_full_its_records_are(
    config: CorpusConfig, contigs: dict[str, str]
) -> None:
    padded = build_corpus(dataclasses.replace(config, short_contigs="pad"))
    lengths = [
        len(record)
        for split in ("train", "validation", "test")
        for record in read_all(padded, split)
    ]
    row, total = describe(padded)
    assert row["fill"] == total["fill"] == f"{np.mean(lengths) / RECORD:.0%}"
    assert row["N50"] == find_n50([len(text) for text in contigs.values()])
    (note,) = list_notes(padded)
    assert note.startswith(f"{1 - np.mean(lengths) / RECORD:.0%} of a sequence would be padding")
    assert "`--short-contigs pack`" in note


def test_n50() -> None:
    assert find_n50([2, 2, 2, 3, 3, 4, 8, 8]) == 8
    assert find_n50([1, 2, 3, 4]) == 3
    assert find_n50([]) == 0
