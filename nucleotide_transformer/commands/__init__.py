"""The commands of `nt`: each is a config dataclass and a function of it.

This is their table; the functions are in the files beside it. What a command computes with is
imported when it runs, so that help and errors are quick.
"""

import importlib
from typing import Any, NamedTuple

import tyro

_PACKAGE = __name__.partition(".")[0]


class Command(NamedTuple):
    """One command."""

    summary: str
    function: str
    """Its module and name: takes the config, returns the exit code."""
    config: str
    """The module and the class of the config."""
    takes_file: bool = False
    """Whether `--config FILE` reads the config."""
    is_positional: bool = False
    """Whether what the config requires is given without a name."""

    def find_config(self) -> Any:
        """The class of the config, imported now, as `options.parse` takes it."""
        kind = _find(self.config)
        marker: Any = tyro.conf.PositionalRequiredArgs
        return marker[kind] if self.is_positional else kind

    def run(self, config: Any) -> int:
        """Runs its function, imported now; returns the exit code."""
        code: int = _find(self.function)(config)
        return code


def _find(place: str) -> Any:
    """What a module of the package has by a name."""
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)


COMMANDS: dict[str, Command] = {
    "corpus build": Command(
        "build a corpus from FASTA files",
        "commands.corpora.build_corpus",
        "data.corpus_config.CorpusConfig",
        takes_file=True,
    ),
    "corpus info": Command(
        "the genomes and splits of a corpus",
        "commands.corpora.describe_corpus",
        "commands.corpora.InfoConfig",
        is_positional=True,
    ),
    "corpus list": Command(
        "a table of assemblies of NCBI, the hub or the web",
        "commands.corpora.list_assemblies",
        "data.assemblies.ListConfig",
    ),
    "corpus download": Command(
        "fetch the assemblies of a table",
        "commands.corpora.download_assemblies",
        "data.download.DownloadConfig",
        is_positional=True,
    ),
    "corpus unpack": Command(
        "the published chunks on the hub, back to FASTA files",
        "commands.corpora.unpack_chunks",
        "data.hub_chunks.ChunksConfig",
    ),
    "corpus baselines": Command(
        "count k-mers of a corpus for the baselines, once",
        "commands.corpora.count_baselines",
        "pretraining.counts.BaselinesConfig",
        is_positional=True,
    ),
    "pretrain": Command(
        "pre-train a model on a corpus, or resume a run",
        "commands.pretraining.pretrain",
        "config.PretrainConfig",
        takes_file=True,
    ),
    "evaluate": Command(
        "a model on a split of any corpus, beside the baselines",
        "commands.pretraining.evaluate",
        "pretraining.evaluate.EvaluateConfig",
    ),
    "finetune": Command(
        "adapt a model to labelled sequences, or resume a run",
        "commands.finetuning.finetune",
        "finetuning.config.FinetuneConfig",
        takes_file=True,
    ),
    "predict": Command(
        "the labels of sequences by a fine-tuned model",
        "commands.finetuning.predict",
        "finetuning.prediction_files.PredictLabelsConfig",
    ),
    "export": Command(
        "a run or released weights to a folder that others can load",
        "commands.models.export",
        "pretrained.ExportConfig",
    ),
    "embed": Command(
        "embeddings of the sequences of a file",
        "commands.models.embed",
        "inference.embedding_files.EmbedConfig",
    ),
    "fill-mask": Command(
        "the likeliest tokens at each <mask> of a sequence",
        "commands.models.fill_mask",
        "inference.likelihoods.FillMaskConfig",
    ),
    "probe": Command(
        "what the layers of a frozen model know of labelled sequences",
        "commands.tasks.probe",
        "finetuning.probe.ProbeConfig",
    ),
    "tasks run": Command(
        "many tasks and methods, with their controls, in one table",
        "commands.tasks.run_tasks",
        "finetuning.tasks.TasksConfig",
    ),
    "likelihood": Command(
        "how likely sequences are, in bits per nucleotide",
        "commands.variants.measure_likelihood",
        "variants.tracks.LikelihoodConfig",
    ),
    "predict-nucleotides": Command(
        "the probabilities of A, C, G and T at every nucleotide",
        "commands.variants.predict_nucleotides",
        "variants.tracks.PredictConfig",
    ),
    "score-variants": Command(
        "how much a model expects the variants of a file",
        "commands.variants.score_variants",
        "variants.config.ScoreVariantsConfig",
    ),
    "saturate": Command(
        "every change of a region: table, track, heat map and logo",
        "commands.variants.saturate",
        "variants.saturation.SaturateConfig",
    ),
    "calibrate": Command(
        "what a change scores on average, by the nucleotides around it",
        "commands.variants.calibrate",
        "variants.background.CalibrateConfig",
    ),
    "benchmark": Command(
        "speed and memory of training and inference on this machine",
        "commands.machine.benchmark",
        "benchmark.config.BenchmarkConfig",
    ),
    "env": Command(
        "what JAX finds on this machine, what is missing and how to install it",
        "commands.machine.describe_environment",
        "environment.EnvironmentConfig",
    ),
    "verify": Command(
        "whether a model computes here what it should",
        "commands.machine.verify",
        "verification.VerifyConfig",
    ),
    "completion": Command(
        "a script that completes commands and options in bash or zsh",
        "completion.print_completion",
        "completion.CompletionConfig",
        is_positional=True,
    ),
}
