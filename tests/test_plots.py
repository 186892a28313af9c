"""Pictures hold the numbers that they were given."""

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from nucleotide_transformer.plots import (
    OTHER_COLOR,
    measure_information,
    plot_attention_map,
    plot_embeddings,
    plot_nucleotide_logo,
    project,
    save_figure,
)


def random_maps(num_heads: int, size: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.dirichlet(np.full(size, 0.5), (num_heads, size)).astype(np.float32)


def random_rows(count: int) -> np.ndarray:
    return np.random.default_rng(1).dirichlet(np.full(4, 0.3), count).astype(np.float32)


def test_attention_map_shows_every_head() -> None:
    maps, tokens = random_maps(5, 9), ["<cls>", *("ACGTAC" for _ in range(8))]
    figure = plot_attention_map(maps, tokens, heads=(1, 3, 4, 6, 7))
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == [f"head {i}" for i in (1, 3, 4, 6, 7)]
    lowest = max(0.01 / 9, maps.min())
    for axes, weights in zip(panels, maps, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), np.maximum(weights, lowest))
        assert axes.images[0].get_clim() == pytest.approx((lowest, maps.max()))
    assert sum(not axes.get_visible() for axes in figure.axes) == 3  # 2 rows of 4 panels


def test_attention_map_of_one_head_spells_few_tokens_and_numbers_many() -> None:
    tokens = [f"t{i}" for i in range(49)]
    few = plot_attention_map(random_maps(1, 48), tokens[:48]).axes[0]
    assert [label.get_text() for label in few.get_yticklabels()] == tokens[:48]
    assert [label.get_text() for label in few.get_xticklabels()] == tokens[:48]
    many = plot_attention_map(random_maps(1, 49), tokens).axes[0]
    assert len(many.get_yticks()) < 12
    uniform = np.full((1, 4, 4), 0.25, np.float32)
    plot_attention_map(uniform, tokens[:4]).canvas.draw()  # no division by an empty range


def test_pca_is_the_singular_value_decomposition_of_standardised_columns() -> None:
    generator = np.random.default_rng(0)
    rows = (generator.standard_normal((50, 6)) * [1, 10, 100, 1, 1, 0]).astype(np.float32)
    points, names = project(rows)
    scaled = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-12)
    left, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    wanted = left[:, :2] * sizes[:2]
    np.testing.assert_allclose(abs(points), abs(wanted), atol=1e-4)  # signs are free
    share = sizes[0] ** 2 / (sizes**2).sum()
    assert names[0] == f"PC 1 ({share:.0%} of variance)"


def test_umap_gets_a_seed_and_no_more_neighbours_than_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    class Stub:
        def __init__(self, **options: Any) -> None:
            asked.update(options)

        def fit_transform(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Stub))
    points, names = project(np.eye(5, dtype=np.float32), "umap", seed=3)
    assert points.shape == (5, 2)
    assert names == ["UMAP 1", "UMAP 2"]
    assert (asked["n_neighbors"], asked["random_state"]) == (4, 3)


def test_embeddings_have_a_point_each_in_the_colour_of_their_label() -> None:
    rows = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    labels = ["other"] * 30 + ["CDS"] * 20 + ["tRNA"] * 10
    figure = plot_embeddings(rows, labels)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["CDS (20)", "tRNA (10)", "other (30)"]
    points, _ = project(rows)
    groups = [c for c in figure.axes[0].collections if len(c.get_offsets())]
    assert [len(group.get_offsets()) for group in groups] == [30, 20, 10]
    np.testing.assert_allclose(groups[1].get_offsets(), points[30:50])
    colors = [tuple(group.get_facecolor()[0][:3]) for group in groups]
    assert colors[0] == pytest.approx((float(OTHER_COLOR),) * 3)
    assert len(set(colors)) == 3
    assert groups[2].get_zorder() > groups[1].get_zorder() > groups[0].get_zorder()


def test_twenty_labels_have_twenty_colours() -> None:
    rows = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    groups = plot_embeddings(rows, [f"{i % 20}" for i in range(40)]).axes[0].collections
    assert len({tuple(g.get_facecolor()[0]) for g in groups if len(g.get_offsets())}) == 20


def test_information_is_in_bits() -> None:
    rows = np.array([[0.25] * 4, [1, 0, 0, 0], [0.5, 0, 0, 0.5], [0.5, 0.25, 0.125, 0.125]])
    np.testing.assert_allclose(measure_information(rows), [0, 2, 1, 0.25], atol=1e-12)


@pytest.mark.parametrize(("scale", "count"), [("bits", 120), ("probability", 30)])
def test_logo_is_as_high_as_the_information(scale: Any, count: int) -> None:
    rows, sequence = random_rows(count), ("ACGTN" * 24)[:count]
    figure = plot_nucleotide_logo(rows, start=1_000, scale=scale, sequence=sequence)
    heights = measure_information(rows) if scale == "bits" else np.ones(count)
    lines = [range(100), range(100, 120)] if count > 100 else [range(count)]
    for axes, line in zip(figure.axes, lines, strict=True):
        tops: dict[int, float] = {}
        for patch in axes.patches:
            box = patch.get_path().get_extents(patch.get_patch_transform())
            place = round((box.x0 + box.x1) / 2)
            tops[place] = max(tops.get(place, 0.0), box.y1)
        found = [tops[1_000 + place] for place in line]
        np.testing.assert_allclose(found, heights[line.start : line.stop], atol=1e-6)
        assert "".join(t.get_text() for t in axes.texts) == sequence[line.start : line.stop]


def test_pictures_leave_no_window_behind() -> None:
    plot_nucleotide_logo(random_rows(5))
    plot_attention_map(random_maps(1, 3), ["a", "b", "c"])
    plot_embeddings(np.eye(4, dtype=np.float32), ["a"] * 4)
    assert plt.get_fignums() == []


def test_figure_is_saved_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = plot_nucleotide_logo(random_rows(5))
    path = tmp_path / "new" / "folder" / "logo.png"
    assert save_figure(figure, path) == path
    width, height = figure.get_size_inches() * 150
    assert matplotlib.image.imread(path).shape == (int(height), int(width), 4)
    assert [item.name for item in path.parent.iterdir()] == ["logo.png"]

    def fail(self: Figure, target: Path, **options: Any) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(ValueError, match=r"new\.png: can't be written: No space left on device"):
        save_figure(figure, tmp_path / "new.png")
    assert [item.name for item in tmp_path.iterdir()] == ["new"]
    with pytest.raises(NotADirectoryError, match=r"x\.png: a file is in its path"):
        save_figure(figure, path / "x.png")


ROWS = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: save_figure(Figure(), Path("x.gif")), "picture = 'x.gif': must be a file .png"),
    (lambda: plot_attention_map(random_maps(1, 3), ["a"]), "tokens = 1: the maps have 3"),
    (lambda: plot_attention_map(random_maps(2, 3), ["a"] * 3, heads=(1,)),
     "heads = 1: there are 2 maps"),
    (lambda: plot_embeddings(ROWS, ["a"]), "labels = 1: there must be one for each of 4"),
    (lambda: plot_embeddings(np.eye(30, dtype=np.float32), [str(i) for i in range(30)]),
     "labels = 30: there must be at most 20 kinds"),
    (lambda: project(ROWS[:2]), "embeddings = 2: there must be 3 rows or more"),
    (lambda: project(np.array([[1, 2], [3, 4], [5, np.nan]], np.float32)),
     r"embeddings, row = \[2\]: must be finite: leave it out"),
    (lambda: plot_nucleotide_logo(random_rows(401)), "nucleotides = 401: there must be 1 to 400"),
    (lambda: plot_nucleotide_logo(random_rows(3), sequence="AC"), "sequence = 2: there are 3 rows"),
])  # fmt: skip
def test_bad_input_is_one_line(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("module", "call", "extra"), [
    ("umap", lambda: project(ROWS, "umap"), "umap"),
    ("sklearn", lambda: project(ROWS), "plots"),
    ("logomaker", lambda: plot_nucleotide_logo(random_rows(3)), "plots"),
])  # fmt: skip
def test_missing_library_says_how_to_install_it(
    module: str, call: Any, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_import = importlib.import_module

    def without(name: str, *args: Any) -> Any:
        if name.split(".")[0] == module:
            raise ImportError(name)
        return true_import(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    message = rf"{module} is needed: pip install 'nucleotide-transformer-jax\[{extra}\]'"
    with pytest.raises(ValueError, match=message):
        call()
