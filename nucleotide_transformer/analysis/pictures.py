"""The JSON of a study as pictures.

Every function takes what `run_study` returns, or what was read from its JSON, and returns a figure.
Where held-out blocks were measured apart, they have a colour of their own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nucleotide_transformer.analysis.probe import BY_COUNTS
from nucleotide_transformer.analysis.regions import KINDS
from nucleotide_transformer.analysis.sampling import HELD_OUT, WHOLE
from nucleotide_transformer.analysis.sites import SHUFFLED
from nucleotide_transformer.analysis.study import TRAINED, UNTRAINED
from nucleotide_transformer.inference.nucleotides import NUCLEOTIDES
from nucleotide_transformer.plots import clear_frame, save_figure

PART_COLORS = {WHOLE: "tab:blue", HELD_OUT: "tab:orange"}
PART_NAMES = {WHOLE: "whole genome", HELD_OUT: "held-out blocks"}
LETTER_COLORS = dict(
    zip(NUCLEOTIDES, ("tab:green", "tab:blue", "tab:orange", "tab:red"), strict=True)
)
SITE_TITLES = {
    "start": "Start codon",
    "stop": "Stop codon",
    "donor": "Splice donor",
    "acceptor": "Splice acceptor",
}
SITE_ZEROS = {
    "start": "first letter of the codon",
    "stop": "first letter of the codon",
    "donor": "first letter of the intron",
    "acceptor": "first letter of the exon",
}
FEWEST_SITES = 30
"""Sites of a part below which it is not drawn: its band would hide the others."""
GREY = "0.55"


def draw_pictures(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws all pictures into a folder; those of nothing that was measured are left out."""
    figures: dict[str, Figure] = {}
    for name, genome in result["genomes"].items():
        if genome["sites_and_codons"]["sites"]["kinds"][SHUFFLED]["parts"]:
            figures[f"sites_{name}.png"] = plot_sites(name, genome)
            figures[f"letters_{name}.png"] = plot_letters(name, genome)
        if "by_split" in genome["probe"]:
            figures[f"probe_{name}.png"] = plot_probe(name, genome)
    figures["kinds.png"] = plot_kinds(result["genomes"], result["model"]["config"]["k"])
    figures["codons.png"] = plot_codons(result["genomes"])
    return [save_figure(figure, folder / name) for name, figure in figures.items()]


def plot_sites(name: str, genome: Mapping[str, Any]) -> Figure:
    """The probability of the true letter by position, around each kind of site."""
    section = genome["sites_and_codons"]["sites"]
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    shuffled = section["kinds"][SHUFFLED]["parts"]
    for axes, (kind, title) in zip(panels.flat, SITE_TITLES.items(), strict=True):
        parts = section["kinds"][kind]["parts"]
        label = f"random places ({shuffled[WHOLE]['count']})"
        _plot_band(axes, section["positions"], shuffled[WHOLE], GREY, label)
        if parts:
            style: dict[str, Any] = {"color": "0.2", "linewidth": 0.9}
            for where, dash in (("elsewhere", "--"), ("beside", ":")):
                same = section["kinds"][kind][f"same_letters_{where}"]
                label = f"the same letters {where}"
                axes.plot(section["positions"], same, dash, label=label, **style)
        for part, color in PART_COLORS.items():
            if part in parts and (part == WHOLE or parts[part]["count"] >= FEWEST_SITES):
                label = f"{PART_NAMES[part]} ({parts[part]['count']})"
                _plot_band(axes, section["positions"], parts[part], color, label)
        axes.set(title=title, xlabel=f"Position (nt); 0 is the {SITE_ZEROS[kind]}")
        axes.axvline(-0.5, color="0.3", linewidth=0.8, linestyle=":")
        axes.legend(frameon=False, fontsize="small")
        clear_frame(axes)
    for axes in panels[:, 0]:
        axes.set_ylabel("Probability of the true letter")
    figure.suptitle(f"{name}: hidden letters around sites (mean ± standard error)")
    return figure


def _plot_band(
    axes: Axes, positions: Sequence[int], numbers: Mapping[str, Any], color: str, label: str
) -> None:
    """A mean as a line, and one standard error on each side as a band."""
    of_truth = numbers["probability_of_truth"]
    mean = np.array(of_truth["mean"], float)
    error = np.array(of_truth["standard_error"], float)
    axes.plot(positions, mean, color=color, linewidth=1.4, label=label)
    axes.fill_between(positions, mean - error, mean + error, color=color, alpha=0.25, linewidth=0)


def plot_letters(name: str, genome: Mapping[str, Any]) -> Figure:
    """The mean probability of each letter by position, and how often it occurs there."""
    section = genome["sites_and_codons"]["sites"]
    figure = Figure(figsize=(11, 10), layout="constrained")
    panels = figure.subplots(4, 2, sharex=True, sharey="col")
    positions = np.array(section["positions"])
    for row, (kind, title) in zip(panels, SITE_TITLES.items(), strict=True):
        numbers = section["kinds"][kind]["parts"].get(WHOLE)
        for axes, key, what in zip(
            row,
            ("observed", "probability"),
            ("in the genome", "expected by the model"),
            strict=True,
        ):
            if numbers:
                means = np.array(numbers[key]["mean"], float)
                for letter, values in zip(NUCLEOTIDES, means.T, strict=True):
                    color = LETTER_COLORS[letter]
                    axes.plot(positions, values, color=color, linewidth=1.2, label=letter)
            axes.axvline(-0.5, color="0.3", linewidth=0.8, linestyle=":")
            axes.set_title(f"{title}: {what}", fontsize="medium")
            clear_frame(axes)
        row[0].set_ylabel("Share of sites")
        row[1].set_ylabel("Mean probability")
    for axes in panels[-1]:
        axes.set_xlabel("Position (nt)")
    handles = panels[0, 0].lines[:4]
    figure.legend(handles, list(NUCLEOTIDES), loc="outside upper right", ncols=4, frameon=False)
    figure.suptitle(f"{name}: letters around sites")
    return figure


def plot_kinds(genomes: Mapping[str, Any], k: int) -> Figure:
    """Cross-entropy and accuracy of masked k-mers, by kind of sequence; a row for each genome."""
    heights = [len(genome["kinds"]) + 1 for genome in genomes.values()]
    figure = Figure(figsize=(10, 1.2 + 0.42 * sum(heights)), layout="constrained")
    panels = figure.subplots(
        len(genomes), 2, sharex="col", sharey="row", squeeze=False, height_ratios=heights
    )
    for row, (name, genome) in zip(panels, genomes.items(), strict=True):
        kinds = [kind for kind in KINDS if kind in genome["kinds"]]
        for axes, key, factor in zip(row, ("cross_entropy", "accuracy"), (1, 100), strict=True):
            for place, kind in enumerate(kinds):
                _plot_kind(axes, genome["kinds"][kind]["parts"], key, place, factor)
            clear_frame(axes)
        row[0].set_yticks(range(len(kinds)), kinds)
        row[0].set_ylim(len(kinds) - 0.5, -0.5)
        row[0].set_title(name, loc="left", fontsize="medium")
    panels[-1, 0].set_xlabel(f"Cross-entropy of masked {k}-mers (nats; ± standard error)")
    panels[-1, 1].set_xlabel(f"Masked {k}-mers predicted exactly (%; ± standard error)")
    first = panels[0, 0]
    for part, color in PART_COLORS.items():
        if any(
            part in kind["parts"] for each in genomes.values() for kind in each["kinds"].values()
        ):
            first.plot([], [], "o", color=color, label=f"model, {PART_NAMES[part]}")
    style: dict[str, Any] = {"color": "0.2", "markersize": 11}
    label = f"frequencies of the genome's {k}-mers, on the tokens of the same colour"
    first.plot([], [], "|", label=label, **style)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _plot_kind(axes: Axes, parts: Mapping[str, Any], key: str, place: int, factor: int) -> None:
    """One line of a panel: in each part the model's number, and that of frequencies."""
    shift = 0.14 if HELD_OUT in parts else 0.0
    for offset, part in ((-shift, WHOLE), (shift, HELD_OUT)):
        if part in parts:
            color, frequency = PART_COLORS[part], parts[part][f"frequency_{key}"]["mean"]
            if frequency is not None:
                axes.plot(factor * frequency, place + offset, "|", color=color, markersize=13)
            _plot_point(axes, parts[part][key], place + offset, color, factor)


def _plot_point(
    axes: Axes, numbers: Mapping[str, Any], place: float, color: str, factor: int
) -> None:
    """A mean with its standard error."""
    error = factor * (numbers["standard_error"] or 0.0)
    axes.errorbar(factor * numbers["mean"], place, xerr=error, fmt="o", color=color, markersize=5)


def plot_codons(genomes: Mapping[str, Any]) -> Figure:
    """Cross-entropy of single letters, by position in the codon."""
    figure = Figure(figsize=(5.2 * len(genomes), 4.2), layout="constrained")
    panels = figure.subplots(1, len(genomes), sharey=True, squeeze=False)[0]
    for axes, (name, genome) in zip(panels, genomes.items(), strict=True):
        section = genome["sites_and_codons"]["codons"]
        places = np.array(section["codon_positions"])
        entropy = section["entropy_of_letters_by_position"]
        axes.plot(
            places, entropy, "_", color="0.2", markersize=26, label="entropy of the letters there"
        )
        series = [(section["shuffled"], WHOLE, GREY, "every third letter of random places")]
        for part, color in PART_COLORS.items():
            series.append((section["coding"], part, color, f"codons, {PART_NAMES[part]}"))
        for shift, (parts, part, color, label) in zip((-0.08, 0.0, 0.08), series, strict=True):
            if part in parts:
                numbers = parts[part]["cross_entropy"]
                error = np.array(numbers["standard_error"], float)
                style: dict[str, Any] = {"fmt": "o-", "linewidth": 1, "capsize": 2}
                axes.errorbar(
                    places + shift, numbers["mean"], error, color=color, label=label, **style
                )
        axes.set(title=name, xlabel="Position in the codon", xticks=places, xlim=(0.6, 3.4))
        clear_frame(axes)
    panels[0].set_ylabel("Cross-entropy of hidden letters (nats; ± standard error)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def plot_probe(name: str, genome: Mapping[str, Any]) -> Figure:
    """Accuracy of the linear probes by layer, beside counts of 6-mers and an untrained network."""
    section = genome["probe"]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"chromosome": "split by chromosome", "family": "split by family of sequences"}
    for axes, (split, title) in zip(panels, titles.items(), strict=True):
        numbers = section["by_split"][split]
        counts = numbers[BY_COUNTS]["accuracy"]
        axes.axhline(100 * counts["mean"], color="0.2", linestyle="--", label="counts of 6-mers")
        axes.axhspan(*(100 * np.array(counts["interval_95"])), color="0.2", alpha=0.1, linewidth=0)
        for network, color in ((UNTRAINED, GREY), (TRAINED, "tab:blue")):
            layers = [int(layer) for layer in numbers[network]]
            accuracies = [each["accuracy"] for each in numbers[network].values()]
            means = np.array([each["mean"] for each in accuracies])
            ends = np.array([each["interval_95"] for each in accuracies]).T
            errors = 100 * np.abs(ends - means)
            style: dict[str, Any] = {"fmt": "o-", "linewidth": 1.2, "capsize": 2}
            label = f"{network} network"
            axes.errorbar(layers, 100 * means, errors, color=color, label=label, **style)
        chance = 100 / len(section["kinds"])
        axes.axhline(chance, color="0.6", linestyle=":", label="chance")
        axes.set(title=title, xlabel="Layer (0: the input of the first block)", xticks=layers)
        clear_frame(axes)
    panels[0].set_ylabel("Windows told apart (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    kinds = ", ".join(section["kinds"])
    size = f"{section['windows']:,} windows of {section['nucleotides']} nt"
    figure.suptitle(f"{name}: {kinds}; {size}; 95 % intervals over groups", fontsize="medium")
    return figure
