"""What a corpus holds, and the JSON files that say so.

    manifest.json                                       all genomes; written last
    genomes/<name>/genome.json                          one genome's part of it
    genomes/<name>/contigs.json                         its contigs, and where they are cut
    genomes/<name>/samples.bin                          their lengths and samples, to read at once
    genomes/<name>/{train,validation,test}.array_record its records

They hold no time, no path of the machine and no number of processes: the same genomes cut in the
same way have the same bytes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nucleotide_transformer.data.chunking import SPLITS, Segment
from nucleotide_transformer.data.corpus_config import FIELDS_OF_NOW, require_utf8
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.files import require_local, write_whole
from nucleotide_transformer.types import Split, UInt

FORMAT_VERSION = 1
"""Version of the files of a corpus; another one can't be read."""
MANIFEST_FILE = "manifest.json"
GENOME_FILE = "genome.json"
CONTIGS_FILE = "contigs.json"
SAMPLES_FILE = "samples.bin"
"""Corpora of earlier versions have none: `contigs.json` has the same, and takes longer to read."""
BUILD_AGAIN = "`nt corpus build`, with the inputs and options of before, makes it again"
"""What to do about a genome that is lost or damaged."""
_SAMPLES = np.dtype("<u8")
_REBUILD = "delete it and build the corpus again, which keeps all that is whole"


def digest_ends(records: Sequence[bytes]) -> str:
    """The digest of the first and the last record of a shard, in hex."""
    digests = (hashlib.sha256(record).digest() for record in records)
    return hashlib.sha256(b"".join(digests)).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """The records of one split of one genome."""

    split: Split
    file: str
    """Path below the corpus folder, with '/' whatever the system."""
    num_records: int
    num_nucleotides: int
    """Nucleotides of the genome in at least one record: overlaps count once."""
    num_left_out_records: int
    """Chunks left out because they are short or hold too much N."""
    num_left_out_nucleotides: int
    """Nucleotides (N included) that are in no record because of that."""
    num_bytes: int
    """Size of the file."""
    num_letters: int | None = None
    """Letters of all records: overlaps count twice. None in corpora of earlier versions, as are
    the fields below."""
    num_unknown: int | None = None
    """Those of them that are N, between packed pieces, too."""
    is_plain: bool = True
    """Whether the records are those of earlier versions: nothing was packed, nor left out because
    of `min_length` or `max_unknown_tokens`."""
    ends_sha256: str | None = None
    """Digest of the first and the last record: tells shards of one size apart. None also for a
    shard without records."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Genome:
    """One FASTA file of the corpus."""

    species: str
    assembly: str
    group: str
    """Kingdom or any other group; may be empty."""
    name: str
    """Its folder below genomes/."""
    source: str
    """Name of the FASTA file, without its folder."""
    sha256: str
    """Digest of the FASTA file as it lay on disk."""
    num_contigs: int
    num_nucleotides: int
    num_unknown: int
    """Nucleotides that are N, after the other IUPAC codes became N."""
    shards: tuple[Shard, ...]
    """One for each split that has segments, in the order train, validation, test."""
    n50: int | None = None
    """Half of the nucleotides are in contigs of this length or a greater one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContigEntry:
    """Where one contig was cut."""

    name: str
    length: int
    segments: tuple[Segment, ...]
    left_out: tuple[tuple[int, ...], ...]
    """For each segment the chunks left out, counted from 0 within the segment."""
    sample: str | None = None
    """Of its nucleotides, on either strand: contigs with another one differ. None in corpora of
    earlier versions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished corpus. Genomes are sorted by species, then assembly."""

    folder: Path
    config: Mapping[str, Any]
    """The fields of CorpusConfig that decide the records."""
    genomes: tuple[Genome, ...]

    @property
    def chunk_length(self) -> int:
        """Nucleotides between the starts of neighbouring records."""
        return int(self.config["chunk_length"])

    @property
    def overlap(self) -> int:
        """Nucleotides added on each side of a chunk."""
        return int(self.config["overlap"])

    @property
    def record_length(self) -> int:
        """Nucleotides of a full record; records of short contigs and segments are shorter."""
        return self.chunk_length + 2 * self.overlap

    @property
    def is_packed(self) -> bool:
        """Whether what is shorter than a record was joined."""
        return self.config.get("short_contigs") == "pack"

    @property
    def digest(self) -> str:
        """sha256, in hex, of what decides the records and their order.

        These are the recipe and, for each genome in order, its species, assembly and name, the
        digest of its FASTA file and its number of records. The folder, the machine, the names of
        the FASTA files, groups and the compression of the records change nothing; nor do the
        fields that earlier versions did not have, where they changed no record.
        """
        recipe = {field: _normalise(value) for field, value in self.config.items()}
        del recipe["compression"]
        if all(shard.is_plain for genome in self.genomes for shard in genome.shards):
            recipe = {name: value for name, value in recipe.items() if name not in FIELDS_OF_NOW}
        genomes = [
            (*(genome.species, genome.assembly, genome.name, genome.sha256), count_records(genome))
            for genome in self.genomes
        ]
        text = json.dumps([recipe, genomes], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def list_shards(self, split: Split) -> list[tuple[Genome, Shard]]:
        """The shards of a split that hold records, in the order of its index."""
        pairs = [(genome, shard) for genome in self.genomes for shard in genome.shards]
        return [pair for pair in pairs if pair[1].split == split and pair[1].num_records]

    def num_records(self, split: Split) -> int:
        """Records of a split."""
        return sum(shard.num_records for _, shard in self.list_shards(split))

    def num_nucleotides(self, split: Split) -> int:
        """Nucleotides of a split, overlaps counted once."""
        return sum(shard.num_nucleotides for _, shard in self.list_shards(split))


def save_manifest(manifest: Manifest) -> None:
    """Writes `manifest.json`, whole or not at all."""
    values = {
        "format_version": FORMAT_VERSION,
        "digest": manifest.digest,
        "config": dict(manifest.config),
        "genomes": [dataclasses.asdict(genome) for genome in manifest.genomes],
    }
    with write_whole(manifest.folder / MANIFEST_FILE) as partial:
        _write(partial, _to_json(values))


def save_genome(
    folder: Path, config: Mapping[str, Any], genome: Genome, contigs: Sequence[ContigEntry]
) -> None:
    """Writes the description of one genome to its folder."""
    version = {"format_version": FORMAT_VERSION}
    values = {**version, "config": dict(config), "genome": dataclasses.asdict(genome)}
    _write(folder / GENOME_FILE, _to_json(values))
    lines = [json.dumps(dataclasses.asdict(contig), ensure_ascii=False) for contig in contigs]
    text = ",\n".join(lines)
    text = f'{{"format_version": {FORMAT_VERSION}, "contigs": [\n{text}\n]}}\n'
    _write(folder / CONTIGS_FILE, text)
    _write(folder / SAMPLES_FILE, _list_samples(contigs).tobytes())


def load_manifest(folder: Path | str) -> Manifest:
    """Loads a corpus, and checks that its shards are there and have their size.

    Raises:
        MissingInputError: if the folder, the manifest or a shard is missing.
        InputError: if the manifest is damaged or of another version, or a shard is truncated.
    """
    manifest = read_manifest(Path(folder))
    for genome in manifest.genomes:
        check_shards(manifest.folder, genome)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """As `load_manifest`, without a look at the shards."""
    require_local("corpus", folder)
    require_utf8("corpus", folder)
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        rule = "no such corpus folder: `nt corpus build` makes one"
        raise MissingInputError(f"{folder}: {rule}")
    if not path.is_file():
        rule = "no such file: the folder is no corpus, or its build did not finish"
        raise MissingInputError(f"{path}: {rule}")
    values = _load_json(path)
    try:
        config = dict(values["config"])
        genomes = tuple(_make_genome(genome) for genome in values["genomes"])
        manifest = Manifest(folder=folder, config=config, genomes=genomes)
        assert manifest.record_length > 0, "record_length"
        assert genomes, "genomes"
        digest = values.get("digest", manifest.digest)  # corpora of earlier versions have none
        assert digest == manifest.digest, "digest"
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error!r}): {_REBUILD}") from None
    return manifest


def load_genome(folder: Path, name: str) -> tuple[dict[str, Any], Genome]:
    """The config that a finished genome was built with, and its description."""
    path = folder / "genomes" / name / GENOME_FILE
    values = _load_json(path)
    try:
        return dict(values["config"]), _make_genome(values["genome"])
    except (AssertionError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error!r}): {_REBUILD}") from None


def load_contigs(folder: Path, name: str) -> tuple[ContigEntry, ...]:
    """The contigs of a genome, and where they are cut."""
    path = folder / "genomes" / name / CONTIGS_FILE
    values = _load_json(path)
    try:
        return tuple(
            ContigEntry(
                name=contig["name"],
                length=contig["length"],
                segments=tuple(Segment(*segment) for segment in contig["segments"]),
                left_out=tuple(tuple(chunks) for chunks in contig["left_out"]),
                sample=contig.get("sample"),
            )
            for contig in values["contigs"]
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error!r}): {_REBUILD}") from None


def load_samples(folder: Path, genome: Genome) -> UInt[np.ndarray, "contigs 2"]:
    """Length and sample of each contig of a genome; 0 where an earlier version took no sample."""
    path = folder / "genomes" / genome.name / SAMPLES_FILE
    samples = np.fromfile(path, _SAMPLES) if path.is_file() else np.empty(0, _SAMPLES)
    if samples.size != 2 * genome.num_contigs:
        return _list_samples(load_contigs(folder, genome.name))
    return samples.reshape(-1, 2)


def _list_samples(contigs: Sequence[ContigEntry]) -> UInt[np.ndarray, "contigs 2"]:
    rows = [(contig.length, int(contig.sample or "0", 16)) for contig in contigs]
    return np.array(rows, _SAMPLES).reshape(-1, 2)


def check_shards(folder: Path, genome: Genome) -> None:
    """Checks that the shards of a genome are there and have the size that was written.

    Raises:
        MissingInputError: if a shard is missing.
        InputError: if a shard is truncated or longer.
    """
    for shard in genome.shards:
        path = folder / shard.file
        if not path.is_file():
            rule = f"no such file: must hold {shard.num_records:,} records of {genome.species!r}"
            raise MissingInputError(f"{path}: {rule}: {BUILD_AGAIN}")
        size = path.stat().st_size
        if size != shard.num_bytes:
            state = "truncated" if size < shard.num_bytes else "overwritten"
            rule = f"must be {shard.num_bytes:,}: {state}: {BUILD_AGAIN}"
            raise InputError(f"{path}: size = {size:,} bytes: {rule}")


def is_whole(folder: Path, genome: Genome) -> bool:
    """Whether all files of a genome are there, and its shards have their size."""
    names = (GENOME_FILE, CONTIGS_FILE)
    try:
        check_shards(folder, genome)
    except InputError:
        return False
    return all((folder / "genomes" / genome.name / name).is_file() for name in names)


def _normalise(value: Any) -> Any:
    """Whole numbers in one form, so that 1.0 is 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def count_records(genome: Genome) -> dict[str, int]:
    """Split -> records."""
    return {shard.split: shard.num_records for shard in genome.shards}


def _make_genome(values: Mapping[str, Any]) -> Genome:
    """Inverse of `dataclasses.asdict`; raises TypeError or AssertionError for what is none."""
    shards = tuple(Shard(**shard) for shard in values["shards"])
    genome = Genome(**{**values, "shards": shards})
    parts: tuple[Genome | Shard, ...] = (genome, *shards)
    for part in parts:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            known = field.type not in (int, str) or type(value) is field.type
            assert known, f"{field.name} = {value!r}"
    assert all(shard.split in SPLITS for shard in shards), "split"
    return genome


def _write(path: Path, content: str | bytes) -> None:
    """Writes a file; an error of the disk names it, which that of `write` does not."""
    try:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _to_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _load_json(path: Path) -> dict[str, Any]:
    """Reads one of the files above and checks its version."""
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file: {_REBUILD}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}): {_REBUILD}") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        rule = f"must be {FORMAT_VERSION}, the version that this package reads: {_REBUILD}"
        raise InputError(f"{path}: format_version = {version!r}: {rule}")
    return dict(values)
