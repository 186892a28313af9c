"""Two genomes that share contigs, but not all: an assembly with its plasmid and without.

What is held out of a contig in one would be trained on in the other.
"""

import dataclasses
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from small_genomes import random_letters, reverse_complement
from test_corpus_builds import assert_one_line, list_partial, stamp_files

from nucleotide_transformer.data import twins
from nucleotide_transformer.data.corpus import (
    BadInputsError,
    CorpusConfig,
    build_corpus,
    load_manifest,
    open_split,
)
from nucleotide_transformer.data.strands import digest_strands, sample_strands
from nucleotide_transformer.errors import InputError

BLOCK = 600
SHARE = 20
"""A twentieth of the smaller genome, or as many blocks, may be shared."""


def make(seed: int, length: int) -> str:
    return random_letters(np.random.default_rng(seed), length)


CHROMOSOME, PLASMID = make(1, 30_000), make(2, 1_300)


def write(path: Path, **contigs: str) -> Path:
    path.write_text("".join(f">{name} x\n{contig}\n" for name, contig in contigs.items()))
    return path


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    """GCF_1, a chromosome and a plasmid, and a corpus folder that is not there yet."""
    return CorpusConfig(
        inputs=(write(tmp_path / "GCF_1.fa", NC_1=CHROMOSOME, NC_2=PLASMID),),
        output=tmp_path / "runs" / "corpus",
        chunk_length=60,
        overlap=7,
        block_length=BLOCK,
        workers=1,
    )


def add(config: CorpusConfig, *paths: Path, **changes: object) -> CorpusConfig:
    return dataclasses.replace(config, inputs=(*config.inputs, *paths), **changes)  # type: ignore[arg-type]


def refuse(config: CorpusConfig) -> pytest.ExceptionInfo[InputError]:
    with pytest.raises(InputError, match="would be trained on in the other: leave one") as error:
        build_corpus(config)
    return error


@pytest.mark.parametrize(
    ("change", "name", "workers"),
    [
        *itertools.product((str, str.lower, reverse_complement), ("GCA_1", "GCF_2"), (1,)),
        (reverse_complement, "GCF_2", 2),
    ],
)
def test_an_assembly_without_its_plasmid_is_refused(
    change: object, name: str, workers: int, config: CorpusConfig, tmp_path: Path
) -> None:
    other = write(tmp_path / f"{name}.fa", CP_1=change(CHROMOSOME))  # type: ignore[operator]
    error = refuse(add(config, other, workers=workers))
    first, second = sorted((other, config.inputs[0]))
    contigs = {other: "CP_1", config.inputs[0]: "NC_1"}
    assert_one_line(
        error,
        f"inputs: {second}: contig {contigs[second]!r} has the sequence of {contigs[first]!r}",
        f" in {first} ({first.stem!r})",
    )
    assert not (config.output / "manifest.json").exists()
    assert not list_partial(config.output)
    (left,) = (config.output / "genomes").iterdir()
    assert left.name.startswith(f"{first.stem}-")


def test_what_was_held_out_was_trained_on(config: CorpusConfig, tmp_path: Path) -> None:
    """Why it is refused: of two corpora, one a genome, the validation lies in the training."""
    other = write(tmp_path / "GCA_1.fa", CP_1=CHROMOSOME)
    mine = build_corpus(config)
    inputs = (other,)
    theirs = build_corpus(dataclasses.replace(config, inputs=inputs, output=tmp_path / "other"))
    trained, held = open_split(theirs, "train"), open_split(mine, "validation")
    text = b"|".join(trained.read(list(range(len(trained)))))
    records = [bytes(record)[20:-20] for record in held.read(list(range(len(held))))]
    assert np.mean([record in text for record in records]) > 0.5


def test_drafts_that_share_most_contigs_are_refused(config: CorpusConfig, tmp_path: Path) -> None:
    """Each contig is shorter than a block, and a few are shorter than a record."""
    lengths = [40, 70, *range(100, 500, 8)]
    contigs = {f"c{number}": make(number + 9, size) for number, size in enumerate(lengths)}
    names = list(contigs)
    random.Random(0).shuffle(names)
    first = write(tmp_path / "GCA_1.fa", **{f"x{name}": contigs[name] for name in names[5:]})
    second = write(tmp_path / "GCF_1.fa", **contigs)
    error = refuse(dataclasses.replace(config, inputs=(first, second)))
    assert_one_line(error, f"{second}: contig 'c", f"{first} ('GCA_1'), and 46 more are shared")


def test_a_contig_of_twenty_blocks_is_too_much_in_any_genome(
    config: CorpusConfig, tmp_path: Path
) -> None:
    """As is one chromosome that two releases of a large genome share."""
    shared = {"shared": make(3, SHARE * BLOCK)}
    contigs = ({**shared, "rest": make(seed, 30 * SHARE * BLOCK)} for seed in (4, 5))
    first, second = (
        write(tmp_path / f"{name}.fa", **each)
        for name, each in zip(("ant", "bee"), contigs, strict=True)
    )
    config = dataclasses.replace(config, inputs=(first, second))
    assert_one_line(refuse(config), f"{second}: contig 'shared'", "'ant'")
    write(second, shared=shared["shared"][1:], rest=make(5, 30 * SHARE * BLOCK))
    assert len(build_corpus(config).genomes) == 2


def test_a_small_plasmid_may_be_in_many_genomes(config: CorpusConfig, tmp_path: Path) -> None:
    """Up to a twentieth, and it is held out in one: 1,300 of 30,300 are less, of 25,000 more."""
    config = dataclasses.replace(config, validation_contigs=("NC_2",))
    others = [
        write(tmp_path / f"bee{seed}.fa", p1=PLASMID, chromosome=make(seed, 29_000))
        for seed in range(10, 16)
    ]
    assert len(build_corpus(add(config, *others)).genomes) == 7
    small = write(tmp_path / "cat.fa", p1=PLASMID, chromosome=make(20, 23_700))
    error = refuse(add(config, *others, small))
    assert_one_line(error, f"{small}: contig 'p1' has the sequence of 'NC_2'", "'GCF_1'")


@pytest.mark.parametrize(("copies", "is_built"), [((200, 1), True), ((200, 200), False)])
def test_copies_are_shared_as_often_as_both_have_them(
    copies: tuple[int, int], is_built: bool, config: CorpusConfig, tmp_path: Path
) -> None:
    """60 letters 200 times are a quarter of a genome; of one that has them once, nearly nothing."""
    repeat = make(11, 60)
    inputs = tuple(
        write(
            tmp_path / f"v{v}.fa", **{f"r{v}.{n}": repeat for n in range(times)}, c=make(v, 40_000)
        )
        for v, times in enumerate(copies)
    )
    named = tuple(f"r0.{n}" for n in range(copies[0]))
    config = dataclasses.replace(config, inputs=inputs, validation_contigs=named)
    if is_built:
        assert len(build_corpus(config).genomes) == 2
    else:
        refuse(config)


def test_one_contig_twice_in_a_genome_is_built(config: CorpusConfig) -> None:
    """As in drafts with repeats: no other genome is to be left out."""
    write(config.inputs[0], NC_1=CHROMOSOME, NC_2=CHROMOSOME, NC_3=reverse_complement(PLASMID))
    assert len(build_corpus(config).genomes) == 1


@pytest.mark.parametrize(
    ("names", "is_built"),
    [
        ({"validation_contigs": ("NC_1", "CP_1")}, True),
        ({"test_contigs": ("NC_1", "CP_1")}, True),
        ({"validation_contigs": ("NC_2", "CP_9")}, True),
        ({"validation_contigs": ("NC_1",), "test_contigs": ("CP_1",)}, False),
        ({"validation_contigs": ("NC_1", "CP_9")}, False),
        ({"validation_contigs": ("NC_1",)}, False),
        ({"validation_fraction": 0.0, "test_fraction": 0.0}, True),
    ],
)
def test_contigs_of_one_split_may_be_shared(
    names: dict[str, object], is_built: bool, config: CorpusConfig, tmp_path: Path
) -> None:
    other = write(tmp_path / "GCA_1.fa", CP_1=CHROMOSOME, CP_9=make(9, 2_000))
    config = add(config, other, **names)
    if is_built:
        assert len(build_corpus(config).genomes) == 2
    else:
        refuse(config)


def test_they_are_named_with_the_rest(config: CorpusConfig, tmp_path: Path) -> None:
    """Each that shares with one that stays, and no other: what is refused is compared no more."""
    other, third = make(5, 20_000), make(6, 20_000)
    bee = write(tmp_path / "bee.fa", b1=CHROMOSOME, b2=other)
    cat = write(tmp_path / "cat.fa", c1=other, c2=third)
    dog = write(tmp_path / "dog.fa", d1=third)
    with pytest.raises(BadInputsError) as error:
        build_corpus(add(config, bee, cat, dog, keep_going=True))
    said, more = map(str, error.value.errors)
    assert said.startswith(f"inputs: {bee}: contig 'b1' has the sequence of 'NC_1' in ")
    assert more.startswith(f"inputs: {dog}: contig 'd1' has the sequence of 'c2' in {cat}")
    left = sorted(path.name.partition("-")[0] for path in (config.output / "genomes").iterdir())
    assert left == ["GCF_1", "cat"]
    assert not (config.output / "manifest.json").exists()


def forget_samples(folder: Path) -> None:
    """Leaves in a corpus what earlier versions wrote."""
    for path in folder.glob("genomes/*/contigs.json"):
        values = json.loads(path.read_text())
        for contig in values["contigs"]:
            del contig["sample"]
        path.write_text(json.dumps(values))
        (path.parent / "samples.bin").unlink()


@pytest.mark.parametrize("is_old", [False, True], ids=["now", "before"])
@pytest.mark.parametrize("is_finished", [False, True], ids=["unfinished", "finished"])
def test_a_corpus_that_grows_is_compared(
    is_finished: bool, is_old: bool, config: CorpusConfig, tmp_path: Path
) -> None:
    manifest = build_corpus(config)
    if is_old:
        forget_samples(config.output)
    if not is_finished:
        (config.output / "manifest.json").unlink()
    stamps = stamp_files(config.output)
    other = write(tmp_path / "zebra.fa", chr1=reverse_complement(CHROMOSOME))
    for _ in range(2):
        error = refuse(add(config, other))
        assert_one_line(error, f"inputs: {other}: contig 'chr1' has the sequence of 'NC_1'")
        assert stamp_files(config.output) == stamps
    if is_finished:
        assert load_manifest(config.output) == manifest
    write(other, chr1=make(7, len(CHROMOSOME)))
    assert len(build_corpus(add(config, other)).genomes) == 2


def test_the_new_one_is_left_out_of_a_finished_corpus(config: CorpusConfig, tmp_path: Path) -> None:
    build_corpus(config)
    other = write(tmp_path / "A.fa", chr1=CHROMOSOME)
    assert_one_line(refuse(add(config, other)), f"inputs: {other}: contig 'chr1'", "'GCF_1'")


def test_what_is_not_shared_is_not_read_again(
    config: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contigs of one length are not enough, nor are shared ones that are let be; where an earlier
    version built a genome, its lengths are all that is known."""
    read: list[str] = []
    digest = twins.digest_contigs

    def count(file: Path, *arguments: object) -> dict[str, str]:
        read.append(file.name)
        return digest(file, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(twins, "digest_contigs", count)
    other = write(tmp_path / "bee.fa", chr1=make(5, len(CHROMOSOME)), plasmid=PLASMID)
    build_corpus(add(config, other))
    forget_samples(config.output)
    third = write(tmp_path / "cat.fa", chr1=make(6, 29_000))
    build_corpus(add(config, other, third))
    assert read == []
    last = write(tmp_path / "dog.fa", chr1=make(7, 29_000), chr2=make(8, len(CHROMOSOME)))
    build_corpus(add(config, other, third, last))
    assert sorted(read) == ["GCF_1.fa", "bee.fa", "dog.fa"]


def test_contigs_that_were_compared_before_are_not_listed_again(
    config: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the file of their samples is cut off: then `contigs.json` has them still."""
    config = add(config, write(tmp_path / "bee.fa", chr1=make(5, 29_000), plasmid=PLASMID))
    build_corpus(config)
    listed: list[str] = []
    load = twins.load_contigs

    def count(folder: Path, name: str) -> object:
        listed.append(name.partition("-")[0])
        return load(folder, name)

    for module in ("manifest", "twins"):
        monkeypatch.setattr(f"nucleotide_transformer.data.{module}.load_contigs", count)
    config = add(config, write(tmp_path / "cat.fa", chr1=make(6, 29_000)))
    build_corpus(config)
    assert listed == []
    (samples,) = config.output.glob("genomes/bee-*/samples.bin")
    samples.write_bytes(samples.read_bytes()[:-1])
    refuse(add(config, write(tmp_path / "dog.fa", chr1=make(5, 29_000))))
    assert set(listed) == {"bee", "dog"}


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 100, 257, 4_001])
def test_a_sample_is_that_of_the_other_strand(length: int) -> None:
    contig = make(length, length)
    other = reverse_complement(contig).encode()
    assert sample_strands(contig.encode()) == sample_strands(other)
    assert digest_strands(contig.encode()) == digest_strands(other)


def test_a_digest_is_that_of_every_letter_and_a_sample_of_both_ends() -> None:
    contig = make(0, 3_000).encode()
    for place in range(0, 3_000, 7):
        changed = bytearray(contig)
        changed[place] = ord("N")
        assert digest_strands(bytes(changed)) != digest_strands(contig)
        if place < 32 or place >= 2_968:
            assert sample_strands(bytes(changed)) != sample_strands(contig)
    assert sample_strands(contig[:-1]) != sample_strands(contig)
    assert len(sample_strands(contig)) == 16


def test_long_contigs_are_hashed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    contig = make(0, 3_000).encode()
    expected = digest_strands(contig)
    for size in (1, 7, 1_000, 2_999, 3_000):
        monkeypatch.setattr("nucleotide_transformer.data.strands._PIECE", size)
        assert digest_strands(contig) == expected
