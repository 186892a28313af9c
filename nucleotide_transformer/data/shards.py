"""The shards of one genome: from a FASTA file to one ArrayRecord file for each split.

A genome is written to a folder of a passing name, which gets its own name when all of it is on
disk: a folder with its own name is a finished genome.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from array_record.python import array_record_module

from nucleotide_transformer.data.chunking import (
    SPLITS,
    BlockAssigner,
    Packer,
    Segment,
    cut_blocks,
    cut_chunks,
    merge_blocks,
)
from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.data.fasta import Contig, FastaReader
from nucleotide_transformer.data.folder import remove_genome
from nucleotide_transformer.data.manifest import (
    ContigEntry,
    Genome,
    Shard,
    digest_ends,
    save_genome,
)
from nucleotide_transformer.data.named_contigs import make_contig_names
from nucleotide_transformer.data.parallel import Report
from nucleotide_transformer.data.quality import ChunkRules, find_n50
from nucleotide_transformer.data.sources import Source, check_stated
from nucleotide_transformer.data.strands import sample_strands
from nucleotide_transformer.errors import OutputExistsError
from nucleotide_transformer.files import write_whole
from nucleotide_transformer.types import Split

_WRITER_OPTIONS = {
    "none": "group_size:1,max_parallelism:1,uncompressed",
    "zstd": "group_size:1,max_parallelism:1,zstd:1",
}
"""One record a group, as random access wants; one thread a file, which is also the fastest."""


def build_genome(
    source: Source,
    config: CorpusConfig,
    report: Report,
    *,
    by_names: bool = False,
    replaces: Genome | None = None,
) -> Genome:
    """Builds one genome in the folder `genomes` of the corpus, all of it or nothing.

    Args:
        source: what to build.
        config: of the corpus.
        report: is told nucleotides and bytes of the FASTA file.
        by_names: the config names a contig of this genome: its splits are whole contigs.
        replaces: what the corpus says of this genome, if it had it and lost it.

    Raises:
        MissingInputError, InputError: for bad input, in one line (see `FastaReader`).
        OutputExistsError: if what was built is not what was lost.
    """
    final = config.output / "genomes" / source.name
    cutter = ContigCutter(source.species, source.assembly, config, by_names=by_names)
    with write_whole(final) as partial:
        partial.mkdir()
        genome = _GenomeWriter(source, config, cutter, partial).write(report)
        check_stated(source, sha256=genome.sha256, num_nucleotides=genome.num_nucleotides)
        if replaces and _list_content(genome) != _list_content(replaces):
            rule = "another version built it: choose another output"
            raise OutputExistsError(f"{final}: was lost, and built again it differs: {rule}")
        if final.exists():
            remove_genome(final)
    return genome


def _list_content(genome: Genome) -> list[tuple[str, int, int]]:
    """What tells the records of two genomes apart, whatever wrote their files."""
    return [(shard.split, shard.num_records, shard.num_nucleotides) for shard in genome.shards]


class ContigCutter:
    """Cuts the contigs of one genome, in their order, into the segments of the splits.

    Args:
        species: of the genome.
        assembly: of the genome.
        config: of the corpus.
        by_names: the config names a contig of this genome: its splits are whole contigs.
    """

    def __init__(
        self, species: str, assembly: str, config: CorpusConfig, *, by_names: bool = False
    ) -> None:
        self._species = species
        self._config = config
        self._by_names = by_names
        self._assigner = BlockAssigner(
            block_length=config.block_length,
            fractions={
                "validation": config.validation_fraction,
                "test": config.test_fraction,
            },
            key=f"{config.seed}\0{species}\0{assembly}",
        )

    def cut(self, contig: Contig) -> list[Segment]:
        """The segments of a contig, by blocks, or one segment if contigs are named."""
        config, length = self._config, len(contig.sequence)
        if self._by_names:
            names = make_contig_names(self._species, contig.name)
            if not names.isdisjoint(config.validation_contigs):
                return [Segment(0, length, "validation")]
            is_test = not names.isdisjoint(config.test_contigs)
            return [Segment(0, length, "test" if is_test else "train")]
        blocks = cut_blocks(length, config.block_length)
        num_known = [end - start - contig.sequence.count(b"N", start, end) for start, end in blocks]
        return merge_blocks(blocks, [self._assigner.assign(known) for known in num_known])


class _GenomeWriter:
    """Writes the shards and the description of one genome to a folder."""

    def __init__(
        self, source: Source, config: CorpusConfig, cutter: ContigCutter, folder: Path
    ) -> None:
        self._source = source
        self._config = config
        self._folder = folder
        self._writers: dict[Split, _ShardWriter] = {}
        self._cutter = cutter

    def write(self, report: Report) -> Genome:
        """Writes everything, contig by contig."""
        reader = FastaReader(self._source.file)
        entries = []
        num_unknown = 0
        for contig in reader.read(report):
            entries.append(self._write_contig(contig))
            num_unknown += contig.sequence.count(b"N")
            del contig
        genome = Genome(
            species=self._source.species,
            assembly=self._source.assembly,
            group=self._source.group,
            name=self._source.name,
            source=self._source.file.name,
            sha256=reader.sha256,
            num_contigs=len(entries),
            num_nucleotides=sum(entry.length for entry in entries),
            num_unknown=num_unknown,
            shards=tuple(self._writers[s].close() for s in SPLITS if s in self._writers),
            n50=find_n50([entry.length for entry in entries]),
        )
        save_genome(self._folder, self._config.make_recipe(), genome, entries)
        return genome

    def _write_contig(self, contig: Contig) -> ContigEntry:
        """Writes the records of a contig."""
        segments = self._cutter.cut(contig)
        left_out = []
        for segment in segments:
            if segment.split not in self._writers:
                self._writers[segment.split] = _ShardWriter(
                    self._folder, segment.split, self._source.name, self._config
                )
            left_out.append(self._writers[segment.split].write(contig.sequence, segment))
        return ContigEntry(
            name=contig.name,
            length=len(contig.sequence),
            segments=tuple(segments),
            left_out=tuple(left_out),
            sample=sample_strands(contig.sequence),
        )


class _ShardWriter:
    """Writes and counts the records of one split of one genome."""

    def __init__(self, folder: Path, split: Split, genome: str, config: CorpusConfig) -> None:
        self._path = folder / f"{split}.array_record"
        self._file = f"genomes/{genome}/{self._path.name}"
        self._split = split
        self._config = config
        self._rules = ChunkRules(config)
        options = _WRITER_OPTIONS[config.compression]
        self._writer: Any = array_record_module.ArrayRecordWriter(str(self._path), options)
        self._packer = Packer(config.chunk_length, config.overlap)
        self._packed = bytearray()
        self._first = self._last = b""
        self._num_records = self._num_nucleotides = 0
        self._num_letters = self._num_unknown = 0
        self._num_left_out_records = self._num_left_out_nucleotides = 0

    def write(self, sequence: bytearray, segment: Segment) -> tuple[int, ...]:
        """Writes the chunks of a segment; returns the numbers of those left out."""
        left_out = []
        num_covered, covered_to = 0, segment.start
        chunk_length, overlap = self._config.chunk_length, self._config.overlap
        chunks = cut_chunks(segment.start, segment.end, chunk_length, overlap)
        is_long = segment.end - segment.start >= self._config.min_length
        for number, (start, end) in enumerate(chunks):
            record = bytes(memoryview(sequence)[start:end])
            if not self._rules.keep(record, is_long=is_long):
                left_out.append(number)
                continue
            if self._rules.is_packed(record):
                self._pack(record)
            else:
                self._write(record)
            num_covered += end - max(start, covered_to)
            covered_to = end
        self._num_nucleotides += num_covered
        self._num_left_out_records += len(left_out)
        self._num_left_out_nucleotides += segment.end - segment.start - num_covered
        return tuple(left_out)

    def close(self) -> Shard:
        """Finishes the file and says what it holds."""
        self._write_packed(self._packer.finish())
        self._call(self._writer.close)
        return Shard(
            split=self._split,
            file=self._file,
            num_records=self._num_records,
            num_nucleotides=self._num_nucleotides,
            num_left_out_records=self._num_left_out_records,
            num_left_out_nucleotides=self._num_left_out_nucleotides,
            num_bytes=self._path.stat().st_size,
            num_letters=self._num_letters,
            num_unknown=self._num_unknown,
            is_plain=self._rules.changed == 0,
            ends_sha256=digest_ends([self._first, self._last]) if self._num_records else None,
        )

    def _pack(self, piece: bytes) -> None:
        """Adds a piece to the text that is cut into full records, and writes what is full."""
        _, chunks = self._packer.add(len(piece))
        self._packed += b"N" + piece if self._packed else piece
        self._write_packed(chunks)

    def _write_packed(self, chunks: list[tuple[int, int]]) -> None:
        """Writes chunks of the text of packed pieces, of which only the end is in memory."""
        before = self._packer.end - len(self._packed)
        for start, end in chunks:
            self._write(bytes(self._packed[start - before : end - before]))
        del self._packed[: max(0, self._packer.needed_from - before)]

    def _write(self, record: bytes) -> None:
        self._call(self._writer.write, record)
        self._first, self._last = self._first or record, record
        self._num_records += 1
        self._num_letters += len(record)
        self._num_unknown += record.count(b"N")

    def _call(self, method: Callable[..., None], *arguments: bytes) -> None:
        """Calls the writer, whose errors are those of the disk."""
        try:
            method(*arguments)
        except RuntimeError as error:
            raise OSError(f"{self._path}: can't be written: {error}") from None
