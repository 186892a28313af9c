"""The commands of `nt`: each is a config dataclass and a function of it.

What a command computes with is imported when it runs, so that help and errors are quick.
"""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tyro

from nucleotide_transformer import fetching, probing
from nucleotide_transformer.console import LOG_WIDTH, PlainConsole, check_place

if TYPE_CHECKING:
    from nucleotide_transformer.benchmark.config import BenchmarkConfig
    from nucleotide_transformer.config import PretrainConfig
    from nucleotide_transformer.data.corpus_config import CorpusConfig
    from nucleotide_transformer.environment import EnvironmentConfig
    from nucleotide_transformer.inference.embedding_files import EmbedConfig
    from nucleotide_transformer.inference.likelihoods import FillMaskConfig
    from nucleotide_transformer.pretrained import ExportConfig
    from nucleotide_transformer.pretraining.counts import BaselinesConfig
    from nucleotide_transformer.pretraining.evaluate import EvaluateConfig
    from nucleotide_transformer.verification import VerifyConfig

FAILED = 1
"""Exit code of a run that failed; Python's own after a traceback, too."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
LEFT_OUT_IF_NARROW = ("assembly", "group", "contigs", "unknown", "N50", "left out")
"""Columns of a corpus that a narrow terminal has no room for."""
_PACKAGE = __name__.partition(".")[0]


class Command(NamedTuple):
    """One command."""

    summary: str
    run: Callable[[Any], int]
    """Its function: takes the config, returns the exit code."""
    config: str
    """The module and the class of the config."""
    takes_file: bool = False
    """Whether `--config FILE` reads the config."""
    is_positional: bool = False
    """Whether what the config requires is given without a name."""

    def find_config(self) -> Any:
        """The class of the config, imported now, as `options.parse` takes it."""
        module, _, name = self.config.rpartition(".")
        kind = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)
        marker: Any = tyro.conf.PositionalRequiredArgs
        return marker[kind] if self.is_positional else kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Lists the genomes of a corpus and the size of its splits."""

    folder: Path
    """Folder that `nt corpus build` made."""


def build_corpus(config: "CorpusConfig") -> int:
    """`nt corpus build`."""
    from nucleotide_transformer.data import corpus

    corpus.build_corpus(config, progress=True)
    return print_corpus(config.output)


def describe_corpus(config: InfoConfig) -> int:
    """`nt corpus info`."""
    return print_corpus(config.folder)


def print_corpus(folder: Path) -> int:
    """Prints the genomes of a corpus, and which split is empty."""
    from rich.box import HEAVY_HEAD, SIMPLE
    from rich.table import Table

    from nucleotide_transformer.data.description import describe, list_notes
    from nucleotide_transformer.data.manifest import load_manifest

    manifest = load_manifest(folder)
    rows = describe(manifest)
    console = PlainConsole()
    narrow = console.width < LOG_WIDTH
    columns = [name for name in rows[0] if not (narrow and name in LEFT_OUT_IF_NARROW)]
    table = Table(title=str(folder), title_justify="left", box=SIMPLE if narrow else HEAVY_HEAD)
    for name in columns:
        is_number = not isinstance(rows[0][name], str)
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number)
    for row in rows:
        values = (row[name] for name in columns)
        table.add_row(*(v if isinstance(v, str) else f"{v:,}" for v in values))
    console.print(table)
    for note in list_notes(manifest):
        console.print(f"note: {note}")
    return 0


def count_baselines(config: "BaselinesConfig") -> int:
    """`nt corpus baselines`."""
    from nucleotide_transformer.pretraining.counts import count_corpus

    path, is_new = count_corpus(config, progress=True)
    state = "wrote" if is_new else "counted before, and still right:"
    PlainConsole().print(f"{state} {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def pretrain(config: "PretrainConfig") -> int:
    """`nt pretrain`."""
    from nucleotide_transformer.pretraining import run
    from nucleotide_transformer.pretraining.report import print_summary

    summary = run.pretrain(config)
    console = PlainConsole()
    if summary.evaluation is None:
        console.print(f"stopped after update {summary.step:,}; the same command resumes there")
        return INTERRUPTED
    print_summary(console, config.output, summary.evaluation)
    return 0


def evaluate(config: "EvaluateConfig") -> int:
    """`nt evaluate`."""
    check_place(config.output)

    from nucleotide_transformer.pretraining.evaluate import evaluate_model
    from nucleotide_transformer.pretraining.report import print_tables

    result = evaluate_model(config, progress=True)
    console = PlainConsole()
    print_tables(console, result.evaluation, f"{config.split} of {config.corpus}")
    for note in result.notes:
        console.print(f"note: {note}")
    console.print(f"wrote {config.output}")
    return 0


def export(config: "ExportConfig") -> int:
    """`nt export`."""
    check_place(config.folder)

    from nucleotide_transformer.pretrained import export_model

    fields = {name: value for name, value in vars(config).items() if name != "source"}
    export_model(config.source, **fields)
    PlainConsole().print(f"wrote {config.folder} in the {config.layout} layout")
    return 0


def embed(config: "EmbedConfig") -> int:
    """`nt embed`."""
    from nucleotide_transformer.inference.embedding_files import check_files, embed_file
    from nucleotide_transformer.pretrained import load_pretrained
    from nucleotide_transformer.training.devices import find_devices

    totals = check_files(config)  # before the model: a typo should not cost a download
    find_devices(None)
    model = load_pretrained(config.model, compute=config.compute)
    written = embed_file(model, config, totals=totals, progress=True)
    PlainConsole().print(f"wrote {written}")
    return 0


def fill_mask(config: "FillMaskConfig") -> int:
    """`nt fill-mask`."""
    from nucleotide_transformer.inference import likelihoods
    from nucleotide_transformer.pretrained import load_pretrained
    from nucleotide_transformer.training.devices import find_devices

    find_devices(None)
    model = load_pretrained(config.model, compute=config.compute)
    masks = likelihoods.fill_mask(model, config.sequence, top_k=config.top_k)
    console = PlainConsole()
    for number, tokens in enumerate(masks, start=1):
        console.print(f"<mask> {number}")
        for token, probability in tokens:
            console.print(f"  {token:10} {probability:.4f}")
    return 0


def benchmark(config: "BenchmarkConfig") -> int:
    """`nt benchmark`."""
    from nucleotide_transformer.benchmark.run import run_benchmark
    from nucleotide_transformer.benchmark.tables import print_report

    print_report(run_benchmark(config, progress=True), PlainConsole())
    return 0


def describe_environment(config: "EnvironmentConfig") -> int:
    """`nt env`."""
    from nucleotide_transformer import environment

    console = PlainConsole()
    for name, text in environment.describe_environment(config):
        console.print(f"{name:14} {text}")
    for missing in environment.find_missing():
        console.print(f"missing        {missing.what}: {missing.remedy}")
    return 0


def verify(config: "VerifyConfig") -> int:
    """`nt verify`."""
    from nucleotide_transformer.verification import verify_model

    result = verify_model(config)
    compute, console = result.model.compute, PlainConsole()
    console.print(f"model       {config.model}")
    console.print(
        f"computed    on {result.device}, {compute.compute_dtype}, attention {compute.attention}"
    )
    console.print(f"reference   {result.origin}")
    console.print(
        f"difference  {result.largest:.2g} at most, of logits with a root mean square of"
        f" {result.scale:.2g}; may be {result.tolerance:.2g}"
    )
    console.print("ok" if result.is_ok else "not ok")
    return 0 if result.is_ok else FAILED


def find_later(path: str) -> Callable[[Any], int]:
    """The function of a command, whose module is imported when it runs: "room.module.name"."""

    def run(config: Any) -> int:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)(config)

    return run


COMMANDS: dict[str, Command] = {
    "corpus build": Command(
        "FASTA files to a corpus of shuffled-access chunks",
        build_corpus,
        "data.corpus_config.CorpusConfig",
        takes_file=True,
    ),
    "corpus info": Command(
        "the genomes and splits of a corpus",
        describe_corpus,
        "commands.InfoConfig",
        is_positional=True,
    ),
    "corpus list": Command(
        "a table of assemblies of NCBI, the hub or the web",
        fetching.list_assemblies,
        "data.assemblies.ListConfig",
    ),
    "corpus download": Command(
        "fetch the assemblies of a table",
        fetching.download_assemblies,
        "data.download.DownloadConfig",
        is_positional=True,
    ),
    "corpus unpack": Command(
        "the published chunks on the hub, back to FASTA files",
        fetching.unpack_chunks,
        "data.hub_chunks.ChunksConfig",
    ),
    "corpus baselines": Command(
        "count what baselines are fitted to, once",
        count_baselines,
        "pretraining.counts.BaselinesConfig",
        is_positional=True,
    ),
    "pretrain": Command(
        "pre-train a model on a corpus, or resume a run",
        pretrain,
        "config.PretrainConfig",
        takes_file=True,
    ),
    "evaluate": Command(
        "a model on a split of any corpus, beside the baselines",
        evaluate,
        "pretraining.evaluate.EvaluateConfig",
    ),
    "finetune": Command(
        "adapt a model to labelled sequences, or resume a run",
        find_later("finetuning.commands.finetune"),
        "finetuning.config.FinetuneConfig",
        takes_file=True,
    ),
    "predict": Command(
        "the labels of sequences by a fine-tuned model",
        find_later("finetuning.commands.predict"),
        "finetuning.prediction_files.PredictConfig",
    ),
    "export": Command(
        "a run or released weights to a folder that others can load",
        export,
        "pretrained.ExportConfig",
    ),
    "embed": Command(
        "embeddings of the sequences of a file",
        embed,
        "inference.embedding_files.EmbedConfig",
    ),
    "fill-mask": Command(
        "the likeliest tokens at each <mask> of a sequence",
        fill_mask,
        "inference.likelihoods.FillMaskConfig",
    ),
    "likelihood": Command(
        "how likely sequences are, in bits per nucleotide",
        find_later("variants.commands.measure_likelihood"),
        "variants.tracks.LikelihoodConfig",
    ),
    "predict-nucleotides": Command(
        "the probabilities of A, C, G and T at every nucleotide",
        find_later("variants.commands.predict_nucleotides"),
        "variants.tracks.PredictConfig",
    ),
    "score-variants": Command(
        "how much a model expects the variants of a file",
        find_later("variants.commands.score_variants"),
        "variants.config.ScoreVariantsConfig",
    ),
    "saturate": Command(
        "every change of a region: table, track, heat map and logo",
        find_later("variants.commands.saturate"),
        "variants.saturation.SaturateConfig",
    ),
    "calibrate": Command(
        "what a change scores on average, by the nucleotides around it",
        find_later("variants.commands.calibrate"),
        "variants.background.CalibrateConfig",
    ),
    "probe": Command(
        "what the layers of a frozen model know of labelled sequences",
        probing.probe,
        "finetuning.probe.ProbeConfig",
    ),
    "tasks run": Command(
        "many tasks and methods, with their controls, in one table",
        probing.run_tasks,
        "finetuning.tasks.TasksConfig",
    ),
    "benchmark": Command(
        "speed and memory of training and inference on this machine",
        benchmark,
        "benchmark.config.BenchmarkConfig",
    ),
    "env": Command(
        "what JAX finds on this machine, what is missing and how to install it",
        describe_environment,
        "environment.EnvironmentConfig",
    ),
    "verify": Command(
        "whether a model computes here what it should",
        verify,
        "verification.VerifyConfig",
    ),
    "completion": Command(
        "a script that completes commands and options in bash or zsh",
        find_later("completion.print_completion"),
        "completion.CompletionConfig",
        is_positional=True,
    ),
}
