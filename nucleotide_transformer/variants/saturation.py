"""Every single-nucleotide change of a region: a table, a track, a heat map and a logo."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nucleotide_transformer.bars import make_bar
from nucleotide_transformer.data.tracks import open_track
from nucleotide_transformer.errors import import_extra
from nucleotide_transformer.files import check_new, write_whole
from nucleotide_transformer.inference.blocks import Arrays, Blocks, run_jobs
from nucleotide_transformer.inference.nucleotides import NUCLEOTIDES
from nucleotide_transformer.plots import MAX_LOGO_NUCLEOTIDES, plot_nucleotide_logo, save_figure
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Float
from nucleotide_transformer.variants.calibration import find_calibration, make_run_settings
from nucleotide_transformer.variants.changes import Change
from nucleotide_transformer.variants.config import WindowConfig, check_scores
from nucleotide_transformer.variants.evidence import average
from nucleotide_transformer.variants.reference import EXTRA, Reference, open_reference
from nucleotide_transformer.variants.regions import Region, find_region
from nucleotide_transformer.variants.scoring import Scorer
from nucleotide_transformer.weights.hub import LoadConfig

BLOCK = 1_000
"""Nucleotides whose changes are scored together."""
MAX_MAP_NUCLEOTIDES = 4_000
_PER_LINE = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaturateConfig(WindowConfig, LoadConfig):
    """Every single-nucleotide change of a region, next to the reference."""

    region: str
    """contig:first-last, from 1, both ends included; or a contig."""
    fasta: Path
    """The genome: FASTA, plain, bgzip or gzip."""
    output: Path
    """Folder to make: saturation.parquet, a .bedgraph for each score (the mean over the three
    changes of a place), and pictures of the first score, heat_map.png and logo.png, where the
    region is short enough (4,000 and 400 nucleotides). What is unfinished lies in
    <output>.parts."""
    scores: tuple[str, ...] = ("llr",)
    """As of `nt score-variants`."""
    calibration: Path | None = None
    """As of `nt score-variants`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scores(self.scores, self.calibration)


@dataclasses.dataclass(frozen=True)
class Saturation:
    """Scores of every change of a region."""

    region: Region
    sequence: str
    """What the reference has."""
    scores: dict[str, Float[np.ndarray, "W 4"]]
    """By name: A, C, G, T in place of each nucleotide; NaN for the nucleotide itself, and N."""
    probabilities: Float[np.ndarray, "W 4"]
    """P of A, C, G, T at each place, k-mers hidden; 0.25 at N."""


def saturate(
    scorer: Scorer, region: Region, *, blocks: Blocks | None = None, progress: bool = False
) -> Saturation:
    """Scores every change of a region.

    Args:
        scorer: model, reference, scores.
        region: what `find_region` returns.
        blocks: of a run that was stopped; what is finished is kept there. By default nowhere.
        progress: show a bar with rate and time left.
    """
    sequence = scorer.reference.fetch(*region).decode()
    found: list[Arrays] = []
    with make_bar("nt", is_shown=progress) as bar:
        task = bar.add_task(region.text, total=len(sequence))
        jobs = range(0, len(sequence), BLOCK)
        for _, arrays in run_jobs(
            jobs, lambda i: _score_block(scorer, region, sequence, i), blocks
        ):
            found.append(arrays)
            bar.advance(task, len(arrays["values"]))
    values = np.concatenate([arrays["values"] for arrays in found])
    by_name = {name: values[..., i] for i, name in enumerate(scorer.scores)}
    probabilities = np.concatenate([arrays["probabilities"] for arrays in found])
    return Saturation(region, sequence, by_name, probabilities)


def _score_block(scorer: Scorer, region: Region, sequence: str, first: int) -> Arrays:
    """Scores and probabilities of the nucleotides of a block."""
    size = min(BLOCK, len(sequence) - first)
    values = np.full((size, 4, len(scorer.scores)), np.nan)
    probabilities = np.full((size, 4), 0.25)
    places = [
        (i, letter)
        for i in range(size)
        for letter in NUCLEOTIDES
        if sequence[first + i] not in (letter, "N")
    ]
    if places:
        changes = [_make_change(region, sequence, first + i, letter) for i, letter in places]
        evidence = scorer.find_evidence(changes, "masked")
        rows = [i for i, _ in places]
        columns = [NUCLEOTIDES.index(letter) for _, letter in places]
        values[rows, columns] = scorer.compute(evidence)
        p = average(evidence.masked)
        known = ~np.isnan(p[:, 0])
        kept = np.array(rows)[known]
        probabilities[kept] = p[known] / p[known].sum(axis=1, keepdims=True)
    return {"values": values, "probabilities": probabilities}


def _make_change(region: Region, sequence: str, index: int, letter: str) -> Change:
    place = region.start + index
    return Change(region.contig, place, place + 1, sequence[index].encode(), letter.encode())


def check_region(config: SaturateConfig) -> tuple[Reference, Region]:
    """Opens the reference and finds the region; no model is needed.

    Raises:
        OutputExistsError, NotAFolderError, UnwritableOutputError, MissingInputError, InputError:
            in one line.
    """
    check_new(config.output)
    import_extra("pyarrow", EXTRA, f"{config.output}: to write Parquet")
    reference = open_reference(config.fasta)
    region = find_region(config.region, reference)
    if region.end - region.start <= MAX_LOGO_NUCLEOTIDES:
        import_extra("logomaker", "plots", f"{config.output}: to plot a logo")
    return reference, region


def saturate_region(
    model: Model,
    config: SaturateConfig,
    found: tuple[Reference, Region] | None = None,
    *,
    progress: bool = False,
) -> list[Path]:
    """What `nt saturate` does; returns the files of the folder, which appears whole or not at all.

    Finished blocks are kept in the folder `<output>.parts`; called again with the same arguments,
    the function resumes after them.

    Args:
        model: what `load_pretrained(config.model, ...)` returns.
        config: region, files and options.
        found: what `check_region` returned, if it was called before the model was loaded.
        progress: show a bar.

    Raises:
        InputError: as `check_region`, for a window, layer or table that does not fit the model, or
            if the folder of parts is that of a run with other arguments, or other letters in
            reach of the region, or another process writes there.
    """
    reference, region = check_region(config) if found is None else found
    calibration = find_calibration(config, model)
    scorer = Scorer(model, reference, config.scores, around=config, calibration=calibration)
    settings = make_run_settings(model, config, reference)
    settings |= {"scores": list(config.scores), "region": region.text}
    settings |= {"calibration": calibration.digest if calibration else None}
    settings["fasta_letters"] = scorer.digest_letters([Change(*region, b"", b"")])
    with Blocks(config.output) as blocks:
        blocks.keep_settings(settings)
        result = saturate(scorer, region, blocks=blocks, progress=progress)
        config.output.absolute().parent.mkdir(parents=True, exist_ok=True)
        with write_whole(config.output) as folder:
            folder.mkdir()
            names = [path.name for path in _write_files(folder, result)]
    return [config.output / name for name in names]


def _write_files(folder: Path, result: Saturation) -> list[Path]:
    """All files of a region."""
    paths = [folder / "saturation.parquet"]
    _write_table(paths[0], result)
    first = next(iter(result.scores))
    for name, values in result.scores.items():
        paths.append(folder / f"{name}.bedgraph")
        means = mean_of_changes(values)
        known = np.flatnonzero(~np.isnan(means))
        starts = result.region.start + known
        with open_track(paths[-1], paths[-1], name, {}, 0) as add:
            add(result.region.contig, starts, starts + 1, means[known])
    size = len(result.sequence)
    if size <= MAX_MAP_NUCLEOTIDES:
        figure = plot_heat_map(result, first)
        paths.append(save_figure(figure, folder / "heat_map.png"))
    if size <= MAX_LOGO_NUCLEOTIDES:
        figure = plot_nucleotide_logo(
            result.probabilities,
            sequence=result.sequence,
            start=result.region.start + 1,
            title=f"{result.region.text}: expected nucleotides",
        )
        paths.append(save_figure(figure, folder / "logo.png"))
    return paths


def mean_of_changes(values: Float[np.ndarray, "W 4"]) -> Float[np.ndarray, " W"]:
    """The mean over the changes of each place; NaN where there is none."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    return np.where(known, values, 0).sum(axis=1) / np.where(count, count, np.nan)


def _write_table(path: Path, result: Saturation) -> None:
    """A row for every change."""
    arrow = import_extra("pyarrow", EXTRA, f"{path}: to write Parquet")
    parquet = import_extra("pyarrow.parquet", EXTRA, f"{path}: to write Parquet")
    rows, columns = np.nonzero(
        (np.array(list(result.sequence))[:, None] != np.array(list(NUCLEOTIDES)))
        & (np.array(list(result.sequence)) != "N")[:, None]
    )
    letters = np.array(list(NUCLEOTIDES))
    table = {
        "contig": [result.region.contig] * len(rows),
        "position": arrow.array(result.region.start + 1 + rows, arrow.int64()),
        "ref": [result.sequence[i] for i in rows],
        "alt": letters[columns].tolist(),
        "probability": arrow.array(result.probabilities[rows, columns].astype(np.float32)),
    }
    for name, values in result.scores.items():
        column = values[rows, columns].astype(np.float32)
        table[name] = arrow.array(column, mask=np.isnan(column))
    parquet.write_table(arrow.table(table), path)


def plot_heat_map(result: Saturation, name: str) -> Figure:
    """A score of every change, 100 nucleotides to a line, what the reference has as a dot.

    Colours are symmetric around zero where a score has both signs, and end where one value in two
    hundred is beyond them.

    Args:
        result: what `saturate` returns.
        name: of the score.
    """
    values, size = result.scores[name], len(result.sequence)
    lines = range(0, size, _PER_LINE)
    width = min(size, _PER_LINE)
    figure = Figure(
        figsize=(max(4.0, 0.12 * width + 1.6), 0.85 * len(lines) + 0.9), layout="constrained"
    )
    low, high = _find_limits(values)
    panels = figure.subplots(len(lines), squeeze=False)[:, 0]
    for axes, first in zip(panels, lines, strict=True):
        piece = values[first : first + width].T
        start = result.region.start + 1 + first
        extent = (start - 0.5, start + piece.shape[1] - 0.5, 3.5, -0.5)
        colors = "RdBu" if low < 0 < high else "viridis"
        axes.imshow(
            piece,
            cmap=colors,
            vmin=low,
            vmax=high,
            extent=extent,
            aspect="auto",
            interpolation="nearest",
        )
        axes.set_yticks(range(4), list(NUCLEOTIDES), fontsize=7)
        axes.set_xlim(start - 0.5, start + width - 0.5)
        letters = result.sequence[first : first + width]
        known = [(start + i, NUCLEOTIDES.index(x)) for i, x in enumerate(letters) if x != "N"]
        if known:
            axes.scatter(*np.array(known).T, s=3, color="0.3", linewidths=0)
        axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    panels[-1].set_xlabel(f"position on {result.region.contig}")
    figure.colorbar(panels[0].images[0], ax=list(panels), label=name, shrink=0.9, pad=0.01)
    figure.suptitle(f"{result.region.text}: {name} of every change")
    return figure


def _find_limits(values: Float[np.ndarray, "W 4"]) -> Sequence[float]:
    """The ends of the colours."""
    known = values[~np.isnan(values)]
    if not known.size:
        return -1.0, 1.0
    low, high = (float(x) for x in np.quantile(known, (0.005, 0.995)))
    if low < 0 < high:
        return -max(-low, high), max(-low, high)
    return low, max(high, low + 1e-6)
