"""Scores of variants against what variants do: numbers as JSON and Markdown, and a picture.

    python experiments/evaluate_variants.py --shared ../shared/data

BRCA1: 3,893 measured variants (Findlay et al. 2018), for each score and window, beside phyloP, CADD
and the content of G and C. Yeast: changes in start codons and splice sites against those beside
them. What each number is: `nucleotide_transformer/analysis/variant_classes.py`, `variant_sites.py`.
`--help` lists the options.
"""

import dataclasses
import itertools
import json
import logging
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from nucleotide_transformer.analysis.annotation import load_annotation
from nucleotide_transformer.analysis.variant_classes import SIGNS, judge, read_measured
from nucleotide_transformer.analysis.variant_sites import compare_sites
from nucleotide_transformer.bars import make_bar
from nucleotide_transformer.benchmark.machine import describe_machine
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.options import parse
from nucleotide_transformer.plots import save_figure
from nucleotide_transformer.pretrained import Model, load_pretrained
from nucleotide_transformer.variants.background import CalibrateConfig, calibrate
from nucleotide_transformer.variants.config import WindowConfig
from nucleotide_transformer.variants.reference import open_reference
from nucleotide_transformer.variants.scores import SCORES
from nucleotide_transformer.variants.scoring import Scorer
from nucleotide_transformer.weights.assembly import digest_params
from nucleotide_transformer.weights.hub import PACKAGED

BRCA1_FIRST = 43_000_000
"""Position on chromosome 17 (GRCh38, from 1) of the first nucleotide of the region's FASTA."""
SITES = ("llr", "llr_kmer", "entropy", "wt_llr")
"""Scores of yeast's sites."""
SHARED = (*SITES, "llr_calibrated")
"""Scores whose passes neighbouring variants share."""
BLOCK = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateVariantsConfig:
    """Scores of variants against what variants do."""

    shared: Path
    """Folder with variants/, genomes/ and annotation/."""
    output: Path = Path("runs/variants")
    """Folder for variants.json, variants.md and variants.png."""
    model: str = PACKAGED
    """What `load_pretrained` takes."""
    windows: tuple[int, ...] = (192, 384, 1024)
    """Windows, in nucleotides, for BRCA1: every score with each."""
    frames: int | None = None
    """Reading frames for the scores that need passes of their own for each variant; all by
    default."""
    flank: int = 6
    """Of the score pll."""
    background: int = 12_000
    """Nucleotides of the region that llr_calibrated is calibrated on."""
    window: int = 384
    """Window for yeast."""
    num_sites: int = 200
    """Yeast's sites of each kind."""


def score_brca1(model: Model, config: EvaluateVariantsConfig) -> list[dict[str, Any]]:
    """A row for each predictor, window, contrast and subset."""
    folder = config.shared / "variants"
    fasta = folder / "brca1_region_grch38.fa.gz"
    reference = open_reference(fasta)
    measured = read_measured(folder / "brca1_sge.tsv.gz", reference, BRCA1_FIRST)
    rows = []
    for name, values in measured.predictors.items():
        rows += [{"predictor": name, "window": None} | row for row in judge(measured, values)]
    own = tuple(name for name in SCORES if name not in SHARED)
    for window, (names, frames) in itertools.product(
        config.windows, ((SHARED, None), (own, config.frames))
    ):
        table = None
        if "llr_calibrated" in names:
            background = CalibrateConfig(
                fasta=fasta,
                output=Path("x.json"),
                num_places=config.background,
                window=window,
                frames=frames,
            )
            table = calibrate(model, background, progress=True)
        around = WindowConfig(window=window, flank=config.flank, frames=frames)
        scorer = Scorer(model, reference, names, around=around, calibration=table)
        parts = []
        with make_bar("variants", is_shown=True) as bar:
            title, total = f"window {window}, {len(names)} scores", len(measured.alleles)
            task = bar.add_task(title, total=total)
            for first in range(0, total, BLOCK):
                parts += list(scorer.score(measured.alleles[first : first + BLOCK]).values)
                bar.update(task, completed=len(parts))
        for i, name in enumerate(names):
            values = SIGNS[name] * np.array([row[i] for row in parts])
            rows += [{"predictor": name, "window": window} | row for row in judge(measured, values)]
    return rows


def score_yeast(model: Model, config: EvaluateVariantsConfig) -> dict[str, Any]:
    """What `compare_sites` returns."""
    annotation = load_annotation(config.shared / "annotation" / "scerevisiae_r64.gff.gz")
    reference = open_reference(config.shared / "genomes" / "scerevisiae_r64.fa.gz")
    scorer = Scorer(model, reference, SITES, around=WindowConfig(window=config.window))
    return compare_sites(scorer, annotation, config.num_sites)


def write_tables(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# Scores of variants against what variants do",
        "",
        f"`{result['command']}`",
        "",
        f"Model: {result['model']}. AUROC and AUPRC with 95 % intervals, by bootstrap over places.",
        "A measure of 0.5 (AUROC) or of the share of LOF (AUPRC) is chance.",
        f"{', '.join(SHARED)}: all frames, the last calibrated on {result['background']:,} nt of",
        f"the region. The other scores: {result['frames'] or 'all'} frames, pll with flanks of"
        f" {result['flank']} nt.",
    ]
    groups = dict.fromkeys((row["contrast"], row["subset"]) for row in result["brca1"])
    for contrast, subset in groups:
        rows = [r for r in result["brca1"] if (r["contrast"], r["subset"]) == (contrast, subset)]
        sizes = f"{rows[0]['lof']} LOF, {rows[0]['others']} others"
        lines += ["", f"## BRCA1, {subset}: {contrast} ({sizes})", ""]
        lines += ["| predictor | window (nt) | AUROC | AUPRC |", "|---|---:|---:|---:|"]
        for row in sorted(rows, key=lambda row: -row["auroc"]["value"]):
            cells = [show(row[name]) for name in ("auroc", "auprc")]
            lines.append(f"| {row['predictor']} | {row['window'] or ''} | {' | '.join(cells)} |")
    lines += ["", "## Yeast: mean score at the site minus beside it", ""]
    lines += ["| site | number | " + " | ".join(SITES) + " |", "|---|---:|" + "---:|" * len(SITES)]
    for kind, values in result["yeast"].items():
        cells = [f"{values[n]['mean']:.3f} ± {values[n]['standard_error']:.3f}" for n in SITES]
        lines.append(f"| {kind} | {values['sites']} | {' | '.join(cells)} |")
    lines += ["", "± is the standard error over sites; controls match in three nucleotides.", ""]
    return "\n".join(lines)


def show(measure: dict[str, Any]) -> str:
    """A value with its interval."""
    low, high = measure["interval"]
    return f"{measure['value']:.3f} ({low:.3f} to {high:.3f})"


def draw(result: dict[str, Any]) -> Figure:
    """AUROC of every predictor, for the two groups that matter most; yeast's differences."""
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 0.7))
    for axes, subset in zip(panels, ("all", "missense"), strict=False):
        wanted = ("LOF against FUNC", subset)
        rows = [r for r in result["brca1"] if (r["contrast"], r["subset"]) == wanted]
        rows.sort(key=lambda row: row["auroc"]["value"])
        for i, row in enumerate(rows):
            low, high = row["auroc"]["interval"]
            color = "tab:blue" if row["window"] else "0.4"
            axes.plot([low, high], [i, i], color=color)
            axes.plot(row["auroc"]["value"], i, "o", color=color, markersize=4)
        names = [f"{r['predictor']} {r['window'] or ''}".strip() for r in rows]
        axes.set_yticks(range(len(rows)), names, fontsize=7)
        axes.axvline(0.5, color="0.7", linewidth=1, zorder=0)
        axes.set_xlabel("AUROC")
        axes.set_title(f"BRCA1, {subset}: LOF against FUNC", fontsize="medium")
    kinds = list(result["yeast"])
    for i, name in enumerate(("llr", "wt_llr")):
        means = [result["yeast"][kind][name]["mean"] for kind in kinds]
        errors = [2 * result["yeast"][kind][name]["standard_error"] for kind in kinds]
        places = [place + 0.4 * (i - 0.5) for place in range(len(kinds))]
        panels[2].bar(places, means, 0.4, yerr=errors, label=name)
    panels[2].set_xticks(range(len(kinds)), kinds)
    panels[2].axhline(0, color="0.7", linewidth=1)
    panels[2].set_title("Yeast: score at the site\nminus beside it, ± 2 SE", fontsize="medium")
    panels[2].legend(loc="upper left")
    return figure


def main() -> int:
    """Computes, writes, draws."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        config = parse(EvaluateVariantsConfig, sys.argv[1:], "evaluate_variants.py")
        config.output.mkdir(parents=True, exist_ok=True)
        machine = describe_machine(jax.devices())
        start = time.perf_counter()
        model = load_pretrained(config.model)
        result = {"brca1": score_brca1(model, config), "yeast": score_yeast(model, config)}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seconds = round(time.perf_counter() - start, 1)
    head = {"command": shlex.join(["python", *sys.argv]), "seconds": seconds, "machine": machine}
    about = {name: getattr(config, name) for name in ("model", "frames", "flank", "background")}
    result = head | about | {"parameters": digest_params(model.params)} | result
    (config.output / "variants.json").write_text(json.dumps(result, indent=1) + "\n")
    (config.output / "variants.md").write_text(write_tables(result))
    save_figure(draw(result), config.output / "variants.png")
    print(f"wrote {config.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
