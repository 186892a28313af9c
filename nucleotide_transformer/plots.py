"""Pictures of what a model sees: attention, embeddings, and the nucleotides it expects.

Every function returns a matplotlib `Figure` that belongs to no window and needs no display;
notebooks show it, `save_figure` writes it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nucleotide_transformer.errors import import_extra, require
from nucleotide_transformer.files import refuse_unwritable, require_local, write_whole
from nucleotide_transformer.inference.nucleotides import NUCLEOTIDES
from nucleotide_transformer.types import Float

Projection = Literal["pca", "umap"]

MAX_NAMED_TOKENS = 48
"""Longer sequences have numbers instead of tokens along the axes of an attention map."""
MAX_LOGO_NUCLEOTIDES = 400
OTHER_COLOR = "0.75"
_DPI = 150


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure as .png, .pdf or .svg; makes the folder; all or nothing.

    Raises:
        InputError: in one line, for another suffix, or the address of an object store.
        UnwritableOutputError: if the system refuses to write there.
        NotAFolderError: if a file is where the folder should be.
    """
    path = Path(path)
    kinds = (".png", ".pdf", ".svg")
    rule = f"must be a file {', '.join(kinds)}"
    require(path.suffix.lower() in kinds, "picture", str(path), rule)
    require_local("picture", path)
    with refuse_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as partial:
            figure.savefig(partial, dpi=_DPI)
    return path


def plot_attention_map(
    maps: Float[np.ndarray, "H T T"],
    tokens: Sequence[str],
    *,
    heads: Sequence[int] = (),
    title: str = "Attention",
) -> Figure:
    """One panel a head: rows are the tokens that attend, columns the tokens attended to.

    Colours are logarithmic, and the same in all panels: most weights are small, and what stands out
    does so by factors. They end at a hundredth of a uniform share; what is less is drawn as that.

    Args:
        maps: weights of one layer, as `attention_maps` returns them; each row sums to 1.
        tokens: their spelling, for example `[tokenizer.tokens[i] for i in ids]`.
        heads: numbers of the heads, for the titles; from 0 on by default.
        title: above all panels.

    Raises:
        InputError: if there are not as many tokens as rows, or not as many heads as maps.
    """
    num_heads, size = maps.shape[:2]
    require(len(tokens) == size, "tokens", len(tokens), f"the maps have {size}")
    heads = tuple(heads) or tuple(range(num_heads))
    require(len(heads) == num_heads, "heads", len(heads), f"there are {num_heads} maps")
    columns = min(num_heads, 4)
    rows = -(-num_heads // columns)
    side = min(max(2.6, 0.16 * size), 7.0) if num_heads == 1 else 2.9
    figure = Figure(
        figsize=(columns * side + (2.0 if num_heads == 1 else 1.4), rows * (side + 0.3) + 0.4),
        layout="constrained",
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    highest = float(maps.max())
    lowest = min(max(0.01 / size, float(maps.min())), highest / 2)
    norm = LogNorm(lowest, highest)
    for axes, head, weights in zip(panels.flat, heads, maps, strict=False):
        axes.imshow(np.maximum(weights, lowest), norm=norm, cmap="magma")
        axes.set_title(f"head {head}", fontsize="medium")
        _name_tokens(axes, tokens, num_heads == 1)
    for axes in panels.flat[num_heads:]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("attending token")
    for axes in panels[-1]:
        axes.set_xlabel("attended token")
    figure.colorbar(panels[0, 0].images[0], ax=panels, label="weight", shrink=0.8)
    figure.suptitle(title)
    return figure


def _name_tokens(axes: Axes, tokens: Sequence[str], is_single: bool) -> None:
    """Spells the tokens along the axes of a single map if they are few, else numbers them."""
    if is_single and len(tokens) <= MAX_NAMED_TOKENS:
        style: dict[str, Any] = {"fontsize": 7, "family": "monospace"}
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, **style)
        axes.set_yticks(range(len(tokens)), tokens, **style)
        return
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def project(
    embeddings: Float[np.ndarray, "N D"], method: Projection = "pca", *, seed: int = 0
) -> tuple[Float[np.ndarray, "N 2"], list[str]]:
    """Two coordinates a row, and the names of the two axes.

    Args:
        embeddings: a row a sequence. Columns are standardised first: a few wide ones would hide
            the rest.
        method: "pca" (scikit-learn) or "umap" (umap-learn, extra `umap`).
        seed: of UMAP.

    Raises:
        InputError: for fewer than 3 rows, values that are not finite, or a library that is not
            installed.
    """
    require(method in get_args(Projection), "method", method, "must be pca or umap")
    require(len(embeddings) >= 3, "embeddings", len(embeddings), "there must be 3 rows or more")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    require(bad.size == 0, "embeddings, row", bad[:1].tolist(), "must be finite: leave it out")
    wide = embeddings.astype(np.float64)
    scaled = (wide - wide.mean(axis=0)) / np.maximum(wide.std(axis=0), 1e-12)
    if method == "umap":
        umap = import_extra("umap", "umap", "to plot with UMAP")
        neighbours = min(15, len(embeddings) - 1)
        reducer = umap.UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1)
        return np.asarray(reducer.fit_transform(scaled), np.float64), ["UMAP 1", "UMAP 2"]
    decomposition = import_extra("sklearn.decomposition", "plots", "to plot with PCA")
    pca = decomposition.PCA(n_components=2, svd_solver="full")
    points = np.asarray(pca.fit_transform(scaled), np.float64)
    shares = pca.explained_variance_ratio_
    return points, [f"PC {i + 1} ({share:.0%} of variance)" for i, share in enumerate(shares)]


def plot_embeddings(
    embeddings: Float[np.ndarray, "N D"],
    labels: Sequence[str],
    *,
    method: Projection = "pca",
    other: str = "other",
    seed: int = 0,
    title: str = "Embeddings",
) -> Figure:
    """A point a sequence, coloured by its label; see `project` for what the axes are.

    Args:
        embeddings: a row a sequence.
        labels: what each is, for example from `label_windows`; at most 20 kinds.
        method: "pca" or "umap".
        other: the label drawn in grey, below the others.
        seed: of UMAP.
        title: above the picture.
    """
    rule = f"there must be one for each of {len(embeddings)} embeddings"
    require(len(labels) == len(embeddings), "labels", len(labels), rule)
    kinds = sorted(set(labels) - {other}, key=lambda kind: (-list(labels).count(kind), kind))
    require(len(kinds) <= 20, "labels", len(kinds), "there must be at most 20 kinds")
    points, names = project(embeddings, method, seed=seed)
    palette = [f"C{i}" for i in range(10)] if len(kinds) <= 10 else _make_palette(len(kinds))
    colors = dict(zip(kinds, palette, strict=False)) | {other: OTHER_COLOR}
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    axes = figure.subplots()
    size = float(np.clip(12_000 / len(points), 6, 40))
    names_of_points = np.array(labels, dtype=object)
    shown = [*kinds, *([other] if other in labels else [])]
    for height, kind in enumerate([other, *kinds]):  # the rarest on top
        x, y = points[names_of_points == kind].T
        axes.scatter(x, y, s=size, c=[colors[kind]], alpha=0.8, linewidths=0, zorder=2 + height)
    for kind in shown:
        axes.scatter([], [], s=30, c=[colors[kind]], label=f"{kind} ({list(labels).count(kind):,})")
    figure.legend(loc="outside right upper", frameon=False)
    axes.set(xlabel=names[0], ylabel=names[1], title=title)
    axes.spines[["top", "right"]].set_visible(False)
    if method == "umap":
        axes.set(xticks=[], yticks=[])
    return figure


def clear_frame(axes: Axes) -> None:
    """No box around a panel, and faint lines behind what it shows."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _make_palette(count: int) -> list[Any]:
    """Twenty colours in pairs of dark and light."""
    from matplotlib import colormaps

    return [colormaps["tab20"](i) for i in range(count)]


def plot_nucleotide_logo(
    probabilities: Float[np.ndarray, "nucleotides 4"],
    *,
    sequence: str = "",
    start: int = 0,
    scale: Literal["bits", "probability"] = "bits",
    title: str = "Expected nucleotides",
) -> Figure:
    """A sequence logo, 100 nucleotides to a line.

    Args:
        probabilities: rows as `nucleotide_probabilities` returns them (A, C, G, T).
        sequence: what it really is; written below the letters if given.
        start: coordinate of the first nucleotide, for the axis.
        scale: "bits": the height of a column is its information, 2 - entropy; "probability": all
            columns have height 1.
        title: above the picture.

    Raises:
        InputError: for more than 400 nucleotides, a sequence of another length, or a library that
            is not installed.
    """
    count = len(probabilities)
    rule = f"there must be 1 to {MAX_LOGO_NUCLEOTIDES}: cut out what matters"
    require(1 <= count <= MAX_LOGO_NUCLEOTIDES, "nucleotides", count, rule)
    require(len(sequence) in (0, count), "sequence", len(sequence), f"there are {count} rows")
    logomaker = import_extra("logomaker", "plots", "to plot a logo")
    pandas = import_extra("pandas", "plots", "to plot a logo")
    heights = probabilities.astype(np.float64)
    if scale == "bits":
        heights = heights * measure_information(heights)[:, None]
    width = min(count, 100)
    lines = range(0, count, width)
    size = (max(3.5, 0.12 * width + 1.2), 1.5 * len(lines) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    top = 1.0 if scale == "probability" else max(1e-6, 1.05 * float(heights.sum(axis=1).max()))
    step = 10 if width > 50 else 5 if width > 15 else 1
    for axes, first in zip(figure.subplots(len(lines), squeeze=False).flat, lines, strict=True):
        piece = heights[first : first + width]
        frame = pandas.DataFrame(piece, columns=list(NUCLEOTIDES))
        frame.index = frame.index + start + first
        logomaker.Logo(frame, ax=axes, color_scheme="classic", show_spines=False)
        axes.set(xlim=(start + first - 0.5, start + first + width - 0.5), ylim=(0, top))
        axes.set_ylabel(scale)
        axes.spines[["left", "bottom"]].set_visible(True)
        axes.set_xticks([i for i in frame.index if i % step == 0])
        for place, letter in enumerate(sequence[first : first + width], start=start + first):
            axes.text(place, -0.04 * top, letter, ha="center", va="top", fontsize=6, color="0.4")
        if sequence:
            axes.tick_params(axis="x", length=0, pad=11)
    figure.suptitle(title)
    return figure


def measure_information(
    probabilities: Float[np.ndarray, "nucleotides 4"],
) -> Float[np.ndarray, " nucleotides"]:
    """2 - entropy of each row, in bits: 0 where all four are alike, 2 where one is certain."""
    wide = probabilities.astype(np.float64)
    logs = np.log2(wide, out=np.zeros_like(wide), where=wide > 0)
    return np.maximum(2 + (wide * logs).sum(axis=1), 0.0)
