"""Predicts the labels of the sequences of a file into a table; a run that was stopped resumes."""

import csv
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import Progress

from nucleotide_transformer.config import ComputeConfig
from nucleotide_transformer.data.sequences import (
    TABLE_SUFFIXES,
    SequenceRecord,
    SequenceTotals,
    cut_tiles,
    measure_sequences,
    read_sequences,
)
from nucleotide_transformer.data.tracks import BIGWIG, TRACKS, import_bigwig, open_track
from nucleotide_transformer.errors import InputError, import_extra, require
from nucleotide_transformer.files import check_new, get_suffix, write_whole
from nucleotide_transformer.finetuning.labels import PLAIN
from nucleotide_transformer.finetuning.predict import choose_pieces, find_head, predict
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.inference.blocks import describe_model
from nucleotide_transformer.inference.embedding_files import (
    Parts,
    queue_records,
    show_bar,
    skip_finished,
)
from nucleotide_transformer.inference.embedding_tables import read_part
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Float, Int

Places = Int[np.ndarray, " N"]
_DIGITS = 4
"""Of the probabilities in a track."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictLabelsConfig:
    """Labels of the sequences of a file, by a fine-tuned model."""

    model: str
    """Folder of an adapter, or of a run of `nt finetune`."""
    base: str | None = None
    """The model that the adapter was trained on; by default it is found by what the adapter says
    of it."""
    input: Path
    """Sequences: .fa, .fasta, .fna, .csv or .tsv (also with .gz), or .parquet."""
    output: Path
    """Table to write: .csv, .tsv or .parquet; of a segmentation .bedgraph, with a track for each
    class, or .bw or .bigwig, with one. Until it is complete, its parts are in <output>.parts."""
    bed: Path | None = None
    """Intervals of the FASTA file to predict, instead of its contigs; + or - alike."""
    track: str | None = None
    """Class of a segmentation whose track is written, alone."""
    window: int | None = None
    """Nucleotides of the tiles that sequences are cut into; whole sequences by default."""
    sequence_column: str = "sequence"
    """Column of a table with the sequences."""
    name_column: str = "name"
    """Column of a table with the names; rows are numbered without it."""
    batching: BatchConfig = BatchConfig()
    """Size of batches, devices."""
    compute: ComputeConfig = ComputeConfig()
    """Precision."""

    def __post_init__(self) -> None:
        suffixes = (*TABLE_SUFFIXES, *TRACKS)
        rule = f"must be .{', .'.join(suffixes)}"
        suffix = self.output.suffix.lstrip(".")
        require(suffix in suffixes, "output", str(self.output), rule)
        fits = self.track is None or suffix in TRACKS
        require(fits, "track", self.track, f"is for an output .{', .'.join(TRACKS)}")
        require(self.window is None or self.window > 0, "window", self.window, "must be above 0")
        self.batching.refuse_windows()


def check_files(config: PredictLabelsConfig) -> SequenceTotals:
    """Checks output and input, of which it reads all; no model is needed.

    Raises:
        InputError: as `predict_file` does.
    """
    check_new(config.output)
    if get_suffix(config.output) == "parquet":
        import_extra("pyarrow.parquet", "io", f"{config.output}: to write Parquet")
    if get_suffix(config.output) in BIGWIG:
        import_bigwig(config.output)
    return measure_sequences(_read(config))


def predict_file(
    model: Model,
    config: PredictLabelsConfig,
    *,
    totals: SequenceTotals | None = None,
    progress: bool = False,
) -> Path:
    """Predicts the labels of all sequences of a file, in its order.

    The table has the columns `name`, for classification `prediction` (the likeliest class), and for
    each class `probability_<class>` or for each target `value_<target>`. Of a segmentation it is a
    bedGraph file with a track for each class, of the probability at each nucleotide, or a BigWig
    file of one class; both by contig and place, whatever the order of the intervals, and with
    nothing at N. Finished sequences are kept in parts in the folder `<output>.parts`; called again
    with the same arguments, the function resumes after them.

    Args:
        model: what `load_pretrained(config.model, ...)` returns.
        config: files and options.
        totals: what `check_files` returned, if it was called before the model was loaded.
        progress: show a bar with rate and time left.

    Returns:
        The path of the output.

    Raises:
        OutputExistsError: if the output is there already.
        MissingInputError, InputError: in one line, for what is wrong with the input, a sequence
            that is too long, a model that was not fine-tuned, or parts of another run.
    """
    is_track = get_suffix(config.output) in TRACKS
    fits = is_track == (find_head(model).kind == "segmentation")
    rule = f"a segmentation is written as .{', .'.join(TRACKS)}, and nothing else is"
    require(fits, "output", str(config.output), rule)
    shown = choose_tracks(find_head(model).classes, config) if is_track else []
    check_lengths(model, config)
    totals = check_files(config) if totals is None else totals
    with Parts(config.output) as parts:
        parts.keep_settings(_make_settings(model, config, totals))
        with show_bar(progress, totals, config.output) as bar:
            _add_predictions(model, config, parts, bar)
        parts.finish(totals.num_sequences)
        with write_whole(config.output) as partial:
            if is_track:
                _write_tracks(config, partial, shown, parts.paths)
            else:
                _write(partial, get_suffix(config.output), model, parts.paths)
    return config.output


def _add_predictions(
    model: Model, config: PredictLabelsConfig, parts: Parts, bar: Progress
) -> None:
    """Predicts the sequences that are in no part yet."""
    records = _read(config)
    advance = skip_finished(records, parts, bar)
    for record, values in _predict_records(model, config, records, advance):
        parts.add_row(record, {0: values})


def choose_tracks(classes: Sequence[str], config: PredictLabelsConfig) -> list[tuple[int, str]]:
    """The number and the name of each class whose track is written.

    Raises:
        InputError: for a class that is none, several for a BigWig, or intervals that overlap.
    """
    rule = f"must be one of {', '.join(classes)}"
    require(config.track is None or config.track in classes, "track", config.track, rule)
    chosen = [(i, name) for i, name in enumerate(classes) if config.track in (None, name)]
    rule = f"a BigWig holds one class: {rule}"
    fits = len(chosen) == 1 or get_suffix(config.output) not in BIGWIG
    require(fits, "track", config.track, rule)
    places = sorted((record.contig, record.start, record.end) for record in _read(config))
    for (contig, start, end), (other, first, _) in itertools.pairwise(places):
        if contig == other and first < end:
            place = f"{config.bed or config.input}: {contig}:{start}-{end}"
            raise InputError(f"{place}: another begins at {first}: a track has one value a place")
    return chosen


def check_lengths(model: Model, config: PredictLabelsConfig) -> None:
    """Raises an `InputError` for the first sequence of a file that is too long for a model."""
    most = find_head(model).max_tokens
    for record in _read(config):
        text = record.sequence.upper().translate(PLAIN)
        pieces = choose_pieces(model, text)
        num_tokens = max((model.tokenizer.encode(text[each]).size for each in pieces), default=0)
        if num_tokens > most:
            place = f"{config.input}: sequence {record.name!r}"
            size = f"{len(record.sequence)} nt are {num_tokens} tokens"
            raise InputError(f"{place}: {size}: the model takes {most}")


def _predict_records(
    model: Model,
    config: PredictLabelsConfig,
    records: Iterator[SequenceRecord],
    advance: Callable[[float], object],
) -> Iterator[tuple[SequenceRecord, Float[np.ndarray, " C"]]]:
    """Yields every record with its predictions; advances by nucleotides."""
    waiting, sequences = queue_records(records)
    for values in predict(model, sequences, batching=config.batching):
        record = waiting.popleft()
        advance(len(record.sequence))
        yield record, values


def _read(config: PredictLabelsConfig) -> Iterator[SequenceRecord]:
    return cut_tiles(_read_input(config, config.bed), config.window)


def _read_input(config: PredictLabelsConfig, bed: Path | None = None) -> Iterator[SequenceRecord]:
    """The sequences, with their places where the output says them: in a track or a tile's name."""
    return read_sequences(
        config.input,
        sequence_column=config.sequence_column,
        name_column=config.name_column,
        bed=bed,
        with_places=config.window is not None or get_suffix(config.output) in TRACKS,
    )


def _make_settings(
    model: Model, config: PredictLabelsConfig, totals: SequenceTotals
) -> dict[str, Any]:
    """What the result depends on, in types that JSON has."""
    head = find_head(model)
    fields = {each.name: getattr(head, each.name) for each in dataclasses.fields(head)}
    weights = fields.pop("params")
    return {
        **describe_model(model, config.model, model.params | weights),
        "input": Path(config.input).name,
        "window": config.window,
        "num_sequences": totals.num_sequences,
        "sequences": totals.digest,
        **{name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()},
    }


def _write(path: Path, suffix: str, model: Model, parts: Sequence[Path]) -> None:
    """Writes the table that the parts make up."""
    head = find_head(model)
    is_regression = head.kind == "regression"
    prefix = "value" if is_regression else "probability"
    names = [f"{prefix}_{name}" for name in head.classes]
    chosen = ["prediction"] if head.kind == "classification" else []
    columns = ["name", *chosen, *names]

    def read_rows() -> Iterator[list[Any]]:
        for part in parts:
            table = read_part(part)
            for name, row in zip(table.name, table.layers[0], strict=True):
                best = [head.classes[int(row.argmax())]] if chosen else []
                yield [name, *best, *(float(value) for value in row)]

    if suffix == "parquet":
        arrow = import_extra("pyarrow", "io", f"{path}: to write Parquet")
        parquet = import_extra("pyarrow.parquet", "io", f"{path}: to write Parquet")
        rows = list(read_rows())
        table = dict(zip(columns, zip(*rows, strict=True), strict=True))
        parquet.write_table(arrow.table({name: list(v) for name, v in table.items()}), path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="," if suffix == "csv" else "\t", lineterminator="\n")
        writer.writerow(columns)
        for row in read_rows():
            writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in row])


def _write_tracks(
    config: PredictLabelsConfig, partial: Path, shown: list[tuple[int, str]], parts: Sequence[Path]
) -> None:
    """Writes the tracks of classes as bedGraph, or the only one as BigWig."""
    sizes: dict[str, int] = {}
    for record in _read_input(config):
        sizes[record.contig] = max(sizes.get(record.contig, 0), record.end)
    tiles = _list_tiles(parts, list(sizes))
    is_bigwig = get_suffix(config.output) in BIGWIG
    for column, name in shown:
        num_entries = _count_entries(parts, column) if is_bigwig else 0
        with open_track(config.output, partial, name, sizes, num_entries) as add:
            for entries in _read_track(parts, tiles, column):
                add(*entries)


def _count_entries(parts: Sequence[Path], column: int) -> int:
    """The entries of the track of a class."""
    columns = (_read_column(part, column)[1] for part in parts)
    return sum(len(_join_equal(values)[0]) for tiles in columns for values in tiles)


class _Tile(NamedTuple):
    """Where the predictions of a tile are; tiles sort by contig and place."""

    contig: int
    """Number of the contig."""
    start: int
    part: int
    """Number of the part."""
    row: int
    """Number of the tile in the part."""


def _list_tiles(parts: Sequence[Path], contigs: Sequence[str]) -> list[_Tile]:
    """All tiles, sorted; their predictions are not read."""
    order = {contig: number for number, contig in enumerate(contigs)}
    tiles = []
    for number, part in enumerate(parts):
        with np.load(part, allow_pickle=False) as arrays:
            places = zip(arrays["contig"].tolist(), arrays["start"].tolist(), strict=True)
        for row, (contig, start) in enumerate(places):
            tiles.append(_Tile(order[contig], start, number, row))
    return sorted(tiles)


def _read_track(
    parts: Sequence[Path], tiles: Sequence[_Tile], column: int
) -> Iterator[tuple[str, Places, Places, Float[np.ndarray, " N"]]]:
    """Contig, starts, ends and values of each tile, in their order; equal neighbours joined.

    No more than one part is in memory. Where neighbours are of different parts, as those of
    intervals in any order may be, a part is read again.

    Args:
        parts: of the predictions.
        tiles: what `_list_tiles` returns.
        column: number of the class.
    """
    for number, group in itertools.groupby(tiles, key=lambda tile: tile.part):
        contigs, values = _read_column(parts[number], column)
        for tile in group:
            firsts, lasts, joined = _join_equal(values[tile.row])
            yield contigs[tile.row], tile.start + firsts, tile.start + lasts, joined


def _read_column(part: Path, column: int) -> tuple[list[str], list[Float[np.ndarray, " L"]]]:
    """Contig and rounded values of each tile of a part; a copy: the other classes can go."""
    table = read_part(part)
    assert table.num_tokens is not None
    values = table.layers[0][:, column].round(_DIGITS)
    return table.contig, np.split(values, np.cumsum(table.num_tokens)[:-1])


def _join_equal(values: Float[np.ndarray, " L"]) -> tuple[Places, Places, Float[np.ndarray, " N"]]:
    """Runs of equal values: their first places, one past the last ones, and the values; no NaN."""
    borders = np.flatnonzero(np.diff(values)) + 1
    firsts, lasts = np.append(0, borders), np.append(borders, len(values))
    known = ~np.isnan(values[firsts])
    return firsts[known], lasts[known], values[firsts[known]]
