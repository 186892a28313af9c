"""Embeds the sequences of a file into a file; a run that was stopped resumes."""

import collections
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from nucleotide_transformer.bars import make_bar
from nucleotide_transformer.data.sequences import (
    SequenceRecord,
    SequenceTotals,
    cut_tiles,
    measure_sequences,
    read_sequences,
)
from nucleotide_transformer.errors import InputError, require, require_choices
from nucleotide_transformer.files import check_new, write_whole
from nucleotide_transformer.inference.batching import BatchConfig, resolve_windows
from nucleotide_transformer.inference.blocks import (
    PART_BYTES,
    PART_SECONDS,
    Blocks,
    describe_model,
)
from nucleotide_transformer.inference.embedding import Embedding, Pooling, embed, resolve_layers
from nucleotide_transformer.inference.embedding_tables import (
    EmbeddingTable,
    Settings,
    get_kind,
    get_writer,
)
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.weights.folders import find_config
from nucleotide_transformer.weights.hub import LoadConfig

MAX_ROW_BYTES = 1 << 32
"""Embeddings of the tokens of one sequence."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig(LoadConfig):
    """Embeddings of the sequences of a file, with names and coordinates."""

    input: Path
    """Sequences: .fa, .fasta, .fna, .csv or .tsv (also with .gz), or .parquet."""
    output: Path
    """File to write: .parquet, .npz, .h5 or .hdf5. Until it is complete, its parts are in
    <output>.parts."""
    bed: Path | None = None
    """Intervals of the FASTA file to embed, instead of its contigs."""
    stranded: bool = False
    """Reverse-complement the intervals with "-" in column 6 of the BED."""
    window: int | None = None
    """Nucleotides of a tile: sequences are cut into tiles, and each has a row of its own, named
    "name:start-end". By default a sequence has one row, however long."""
    step: int | None = None
    """Nucleotides from the start of one tile to that of the next; as many as a tile by default."""
    sequence_column: str = "sequence"
    """Column of a table with the sequences."""
    name_column: str = "name"
    """Column of a table with the names; rows are numbered without it."""
    pooling: Pooling = "mean"
    """Mean or maximum over the tokens of known nucleotides, the <cls> token, or every token."""
    layers: tuple[int, ...] = ()
    """Layers, 0 to the number of blocks; the last one by default."""
    batching: BatchConfig = BatchConfig()
    """Size of windows and batches, devices."""

    def __post_init__(self) -> None:
        require_choices(self)
        get_kind(self.output)
        for field in ("window", "step"):
            value = getattr(self, field)
            require(value is None or value >= 1, field, value, "must be 1 or above")
        require(self.step is None or self.window is not None, "step", self.step, "needs a window")
        rule = "tiles count from the start of a contig: not with stranded"
        require(not (self.stranded and self.window), "window", self.window, rule)
        has_strands = self.bed is not None or not self.stranded
        require(has_strands, "stranded", self.stranded, "needs a BED")


def check_files(config: EmbedConfig) -> SequenceTotals:
    """Checks output and input of a run, of which it reads all; no model is needed.

    Layers and windows are checked here if the model's architecture is known without loading it.

    Raises:
        InputError: as `embed_file` does.
    """
    output = Path(config.output)
    get_writer(output)
    check_new(output)
    architecture = find_config(config.model)
    if architecture is not None:
        resolve_layers(architecture, config.layers)
        resolve_windows(architecture, config.batching)
    return measure_sequences(_read(config))


def embed_file(
    model: Model,
    config: EmbedConfig,
    *,
    totals: SequenceTotals | None = None,
    progress: bool = False,
) -> Path:
    """Embeds all sequences of a file, in its order; `embedding_tables.py` describes the result.

    The input is read and checked whole before the first sequence is embedded. Finished sequences
    are kept in parts in the folder `<output>.parts`; called again with the same arguments, the
    function resumes after them. The output appears when it is complete, and the folder is removed.

    Args:
        model: what `load_pretrained(config.model, ...)` returns.
        config: files and options.
        totals: what `check_files` returned, if it was called before the model was loaded.
        progress: show a bar with rate and time left.

    Returns:
        The path of the output.

    Raises:
        OutputExistsError: if the output is there already.
        MissingInputError, NotAFolderError, InputError: in one line, for what is wrong with the
            input, the arguments or the output's folder, or if the folder of parts is that of a
            run with other arguments, or another process writes there.
    """
    output = Path(config.output)
    write_output = get_writer(output)
    resolve_layers(model.config, config.layers)
    resolve_windows(model.config, config.batching)
    totals = check_files(config) if totals is None else totals
    _check_memory(model, config, totals)
    settings = _make_settings(model, config, totals)
    with Parts(output) as parts:
        parts.keep_settings(settings)
        with show_bar(progress, totals, output) as bar:
            _add_embeddings(model, config, parts, bar)
        parts.finish(totals.num_sequences)
        with write_whole(output) as partial:
            write_output(partial, parts.paths, settings)
    return output


def _add_embeddings(model: Model, config: EmbedConfig, parts: "Parts", bar: Progress) -> None:
    """Embeds the sequences that are in no part yet."""
    records = _read(config)
    advance = skip_finished(records, parts, bar)
    for record, embedding in _embed_records(model, config, records, advance):
        parts.add_row(record, embedding)


def _check_memory(model: Model, config: EmbedConfig, totals: SequenceTotals) -> None:
    """Raises an `InputError` if the tokens of one sequence need more memory than a row may."""
    if config.pooling != "tokens":
        return
    layers = resolve_layers(model.config, config.layers)
    num_bytes = totals.most_nucleotides // model.config.k * 4 * model.config.embed_dim * len(layers)
    rule = f"of {totals.most_nucleotides:,} nucleotides has {num_bytes / 1e9:.0f} GB of embeddings"
    fits = num_bytes <= MAX_ROW_BYTES
    require(fits, "pooling", config.pooling, f"a sequence {rule}: cut it with a window")


def _embed_records(
    model: Model,
    config: EmbedConfig,
    records: Iterator[SequenceRecord],
    advance: Callable[[float], object],
) -> Iterator[tuple[SequenceRecord, Embedding]]:
    """Yields every record with its embedding; advances by nucleotides as windows are finished."""
    waiting, sequences = queue_records(records)
    embeddings = embed(
        model,
        sequences,
        pooling=config.pooling,
        layers=config.layers,
        batching=config.batching,
        report=lambda share: advance(share * len(waiting[0].sequence)),
    )
    for embedding in embeddings:
        yield waiting.popleft(), embedding


def queue_records(
    records: Iterator[SequenceRecord],
) -> tuple[collections.deque[SequenceRecord], Iterator[str]]:
    """The records that were read and wait for their results, and the sequences, which read them."""
    waiting: collections.deque[SequenceRecord] = collections.deque()

    def take_sequences() -> Iterator[str]:
        for record in records:
            waiting.append(record)
            yield record.sequence

    return waiting, take_sequences()


def _read(config: EmbedConfig) -> Iterator[SequenceRecord]:
    """The sequences that a config names, in tiles if it says so."""
    records = read_sequences(
        config.input,
        bed=config.bed,
        stranded=config.stranded,
        sequence_column=config.sequence_column,
        name_column=config.name_column,
    )
    return cut_tiles(records, config.window, config.step)


def _make_settings(model: Model, config: EmbedConfig, totals: SequenceTotals) -> Settings:
    """What the result depends on, in types that JSON has."""
    layers = resolve_layers(model.config, config.layers)
    return {
        **describe_model(model, config.model),
        "pooling": config.pooling,
        "layers": list(layers),
        **resolve_windows(model.config, config.batching)._asdict(),
        "input": Path(config.input).name,
        "bed": Path(config.bed).name if config.bed else None,
        "num_sequences": totals.num_sequences,
        "sequences": totals.digest,
    }


class Parts(Blocks):
    """Blocks of embeddings, which keep what is finished at a stop too."""

    def __init__(self, output: Path) -> None:
        super().__init__(output)
        self._rows: list[tuple[SequenceRecord, Embedding]] = []
        self._num_bytes, self._time = 0, time.monotonic()

    def add_row(self, record: SequenceRecord, embedding: Embedding) -> None:
        """Takes the embedding of the next sequence."""
        self._rows.append((record._replace(sequence=""), embedding))
        self._num_bytes += sum(array.nbytes for array in embedding.values())
        is_late = time.monotonic() - self._time > PART_SECONDS
        if is_late or self._num_bytes >= PART_BYTES:
            self._write()

    def _write(self) -> None:
        """Writes what was taken since the last block."""
        if self._rows:
            self.add(**_make_table(self._rows).to_arrays())
            self._rows, self._num_bytes, self._time = [], 0, time.monotonic()

    def count_rows(self) -> int:
        """The sequences in the blocks."""
        return sum(len(self.load(index, "start")["start"]) for index in range(len(self.paths)))

    def finish(self, num_sequences: int) -> None:
        """Writes the last block; an `InputError` unless there are as many sequences in all."""
        self._write()
        count = self.count_rows()
        if count != num_sequences:
            rule = "another process wrote there, or the input has changed: delete the folder"
            raise InputError(f"{self.folder}: {count:,} sequences, not {num_sequences:,}: {rule}")

    def __exit__(self, *error: Any) -> None:
        try:
            self._write()
        finally:
            super().__exit__(*error)


def skip_finished(
    records: Iterator[SequenceRecord], parts: Parts, bar: Progress
) -> Callable[[float], object]:
    """Takes the sequences that are in parts off the front; returns what moves the bar further."""
    finished = itertools.islice(records, parts.count_rows())
    bar.reset(bar.task_ids[0], completed=sum(len(record.sequence) for record in finished))
    return functools.partial(bar.advance, bar.task_ids[0])


def _make_table(rows: list[tuple[SequenceRecord, Embedding]]) -> EmbeddingTable:
    """The rows of a part as a table."""
    records, embeddings = zip(*rows, strict=True)
    first = next(iter(embeddings[0].values()))
    per_token = first.ndim == 2
    join: Any = np.concatenate if per_token else np.stack
    layers = {layer: join([e[layer] for e in embeddings]) for layer in embeddings[0]}
    sizes = [len(next(iter(e.values()))) for e in embeddings]
    return EmbeddingTable(
        name=[record.name for record in records],
        contig=[record.contig for record in records],
        start=np.array([record.start for record in records], np.int64),
        end=np.array([record.end for record in records], np.int64),
        layers=layers,
        num_tokens=np.array(sizes, np.int64) if per_token else None,
    )


def show_bar(progress: bool, totals: SequenceTotals, output: Path) -> Progress:
    """A bar for all nucleotides of the input."""
    bar = make_bar("nt", is_shown=progress)
    title = f"{totals.num_sequences:,} sequences to {output.name}"
    bar.add_task(title, total=totals.num_nucleotides)
    return bar
