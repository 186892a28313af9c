"""From a corpus to batches of tokens: shuffle, random start, strand, tokenize, pad.

    dataset = make_dataset(manifest, "train", tokenizer=KmerTokenizer(), data=DataConfig(),
                           sequences_per_update=1_000, seed=0)
    dataset[7]                                      # the sequences of update 7
    iterator = make_iterator(dataset)
    next(iterator)                                  # those of update 0, read ahead by threads

Update n is a pure function of (corpus, config, seed, n). Its number is the whole state of the
input: a run resumes by asking for the next one.
"""

import math
from typing import NamedTuple

import grain
import numpy as np

from nucleotide_transformer.config import DataConfig
from nucleotide_transformer.data.fasta import reverse_complement
from nucleotide_transformer.data.manifest import Manifest
from nucleotide_transformer.data.reader import SplitReader, open_split
from nucleotide_transformer.data.sampling import RecordOrder, draw_starts, draw_strands
from nucleotide_transformer.errors import require
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Int, Split

_NUM_UPDATES = 2**40  # stands for endless; rows of the run stay far below 2**63
_LEAST_FILL = 0.9
_MOST_RECORDS = 1_000
"""Records in memory while some are chosen."""
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class Batch(NamedTuple):
    """Sequences of one update: all of them, or the share of one process."""

    tokens: Int[np.ndarray, "B T"]
    """int32: `<cls>` first, `<pad>` at the end where a record is short."""
    rows: Int[np.ndarray, " B"]
    """int32: the place of each sequence in the update, over all processes."""


class EvaluationSet(NamedTuple):
    """Fixed sequences of a split."""

    tokens: Int[np.ndarray, "S T"]
    """int32: `<cls>` first."""
    genomes: Int[np.ndarray, " S"]
    """Place of each sequence's genome in `Manifest.genomes`."""
    absent: tuple[str, ...]
    """Species that have records in the split, and no sequence here."""


def make_dataset(
    manifest: Manifest,
    split: Split,
    *,
    tokenizer: KmerTokenizer,
    data: DataConfig,
    sequences_per_update: int,
    seed: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> grain.MapDataset[Batch]:
    """Makes the endless data set whose element n is the `Batch` of update n.

    Records come in an order shuffled over the whole split (see `sampling.RecordOrder`; its
    temperature is `data.temperature`). A sequence has `data.sequence_tokens` tokens and starts at a
    random nucleotide of its record: as long as a chunk, to one k-mer, within the two overlaps, and
    else anywhere, so that in time all of the record is read. It starts early enough to be full; but
    up to k - 1 nucleotides may always be skipped, for all reading frames to come up. The share
    `data.reverse_complement` of the sequences is read from the other strand: they start and end as
    if the corpus held the reverse complement of their record.

    The update's sequences and their order are the same for every number of processes P: the slices
    of processes 0 to P - 1 follow one another. Where P does not divide the update, the first
    processes have one sequence more.

    Args:
        manifest: of the corpus.
        split: "train", usually.
        tokenizer: makes the tokens.
        data: tokens of a sequence, temperature, share of the other strand, and how many records
            are read at a time; `data.corpus` is not looked at.
        sequences_per_update: sequences of an update, over all processes.
        seed: of the order, the starts and the strands.
        process_index: 0 to num_processes - 1.
        num_processes: processes that share each update.

    Raises:
        InputError: if the split is empty, if a chunk is too short for the tokens asked for, or if
            there are more processes than sequences.
    """
    rule = f"must be at least num_processes = {num_processes}: each needs a sequence"
    enough = sequences_per_update >= num_processes
    require(enough, "sequences_per_update", sequences_per_update, rule)
    rule = f"must lie between 0 and num_processes - 1 = {num_processes - 1}"
    require(0 <= process_index < num_processes, "process_index", process_index, rule)
    loader = UpdateLoader(
        reader=open_split(manifest, split, num_readers=data.num_readers),
        tokenizer=tokenizer,
        data=data,
        sequences_per_update=sequences_per_update,
        seed=seed,
    )
    first, end = (
        process * (sequences_per_update // num_processes)
        + min(process, sequences_per_update % num_processes)
        for process in (process_index, process_index + 1)
    )
    rows = np.arange(first, end)
    return grain.MapDataset.range(_NUM_UPDATES).map(lambda update: loader.load(update, rows))


def make_iterator(
    dataset: grain.MapDataset[Batch],
    *,
    num_threads: int = 2,
    num_buffered: int = 4,
) -> grain.DatasetIterator[Batch]:
    """Returns an iterator over the updates from 0 on, which threads read ahead.

    Its state (`get_state`, `set_state`, and what orbax saves of it) is the number of the next
    update, whatever the threads have read.

    Args:
        dataset: what `make_dataset` made.
        num_threads: threads that read and tokenize.
        num_buffered: updates read ahead, at most.
    """
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_buffered)
    return iter(dataset.to_iter_dataset(options))


class UpdateLoader:
    """Reads, cuts and tokenizes the sequences of one update; several threads may call it."""

    def __init__(
        self,
        *,
        reader: SplitReader,
        tokenizer: KmerTokenizer,
        data: DataConfig,
        sequences_per_update: int,
        seed: int,
    ) -> None:
        self._reader, self._tokenizer, self._seed = reader, tokenizer, seed
        self._sequences_per_update = sequences_per_update
        self._num_tokens = data.sequence_tokens
        self._reverse_share = data.reverse_complement
        self._needed = count_needed(reader.manifest, tokenizer, data.sequence_tokens)
        chunk, overlap = reader.manifest.chunk_length, reader.manifest.overlap
        self._window = min(self._needed, chunk)
        fills = self._needed >= chunk - tokenizer.k
        self._most_skipped = max(2 * overlap + (0 if fills else chunk), tokenizer.k - 1)
        self._order = RecordOrder(reader.species_offsets, data.temperature, seed)

    def load(self, update: int, rows: Int[np.ndarray, " B"]) -> Batch:
        """Returns some rows of an update."""
        global_rows = update * self._sequences_per_update + rows.astype(np.int64)
        records = self._reader.read(self._order.draw(global_rows))
        starts = draw_starts(global_rows, self._largest_starts(records), self._seed).tolist()
        strands = draw_strands(global_rows, self._reverse_share, self._seed).tolist()
        windows = [
            _cut(record, start, self._needed, is_reversed=is_reversed)
            for record, start, is_reversed in zip(records, starts, strands, strict=True)
        ]
        tokens = self._tokenizer.encode_batch(windows, length=self._num_tokens, truncate=True)
        return Batch(tokens, rows.astype(np.int32))

    def _largest_starts(self, records: list[bytes]) -> Int[np.ndarray, " B"]:
        """Returns how many nucleotides of each record may be skipped.

        What its sequence doesn't need, but of a full one no more than both overlaps if the sequence
        fills a chunk. At least k - 1, so that the reading frame varies.
        """
        lengths = np.fromiter(map(len, records), np.int64, len(records))
        spare = np.maximum(lengths - self._window, self._tokenizer.k - 1)
        return np.minimum(np.minimum(spare, self._most_skipped), lengths - 1)


def make_evaluation_set(
    manifest: Manifest,
    split: Split,
    *,
    tokenizer: KmerTokenizer,
    sequence_tokens: int,
    num_sequences: int,
) -> EvaluationSet:
    """Returns fixed sequences spread over a split, in the order of the genome.

    They start right after the overlap, hold no N, and are never padded because of a short record;
    the same arguments give the same sequences. Where the split holds fewer such records than asked
    for, all of them are returned. They lie evenly in a split of more records than about the square
    of `num_sequences`; in a smaller one some gaps may be many times the mean.

    Args:
        manifest: of the corpus.
        split: "validation" or "test", usually.
        tokenizer: makes the tokens.
        sequence_tokens: tokens of a sequence, `<cls>` included.
        num_sequences: sequences wanted.

    Raises:
        InputError: if there is none, or if a chunk is too short for the tokens asked for.
    """
    require(num_sequences > 0, "num_sequences", num_sequences, "must be above 0")
    needed = count_needed(manifest, tokenizer, sequence_tokens)
    least = min(needed, manifest.chunk_length)
    reader = open_split(manifest, split)
    found: dict[int, bytes] = {}
    longest = 0
    at_once = min(num_sequences, _MOST_RECORDS)
    for first in range(0, len(reader), at_once):
        last = min(first + at_once, len(reader))
        indices = _spread(first, last, len(reader))
        for index, record in zip(indices.tolist(), reader.read(indices), strict=True):
            window = record[manifest.overlap : manifest.overlap + needed]
            longest = max(longest, len(window.partition(b"N")[0]))
            if len(window) >= least and b"N" not in window:
                found[index] = window
        if len(found) >= num_sequences:
            break
    rule = (
        f"needs at least one with {least} nt after the overlap and no N for an evaluation; the"
        f" longest has {longest}: lower evaluation.sequence_tokens, of `nt evaluate`"
        f" --sequence-tokens, to {longest // tokenizer.k + 1}"
    )
    require(bool(found), f"{manifest.folder}: records of split {split!r}", len(reader), rule)
    chosen = sorted(list(found)[:num_sequences])
    windows = [found[index] for index in chosen]
    tokens = tokenizer.encode_batch(windows, length=sequence_tokens, truncate=True)
    per_species, _ = np.histogram(chosen, bins=reader.species_offsets)
    absent = tuple(reader.species_names[place] for place in np.flatnonzero(per_species == 0))
    return EvaluationSet(tokens, reader.find_genomes(chosen), absent)


def count_needed(manifest: Manifest, tokenizer: KmerTokenizer, sequence_tokens: int) -> int:
    """Returns the nucleotides that fill a sequence: k for each token but `<cls>`.

    Raises:
        InputError: if a chunk fills less than 90 % of a sequence. (The published 2,048 tokens of
            12,000 nt are filled to 98 %.)
    """
    needed = (sequence_tokens - 1) * tokenizer.k
    chunk = manifest.chunk_length
    at_most = int(chunk / (_LEAST_FILL * tokenizer.k)) + 1
    rule = (
        f"needs {needed} nt and the chunks of {manifest.folder} have {chunk}, which must fill"
        f" {_LEAST_FILL:.0%} of a sequence: {at_most} tokens at most, or build longer chunks"
    )
    require(chunk >= _LEAST_FILL * needed, "sequence_tokens", sequence_tokens, rule)
    return needed


def _cut(record: bytes, start: int, length: int, *, is_reversed: bool) -> bytes:
    """Returns `length` nucleotides of a record, or of its reverse complement, or what it has."""
    if not is_reversed:
        return record[start : start + length]
    end = len(record) - start
    return reverse_complement(record[max(0, end - length) : end])


def _spread(first: int, last: int, size: int) -> Int[np.ndarray, " B"]:
    """Returns places `first` to `last` - 1 of a permutation of [0, size).

    It walks in steps of the golden ratio, rounded to a number that has no divisor in common with
    `size`. So a beginning of it is spread evenly if its square is below about `size`.
    """
    step = round(size * _GOLDEN_RATIO)
    while math.gcd(step, size) != 1:
        step += 1
    return np.arange(first, last) * step % size
