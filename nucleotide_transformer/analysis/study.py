"""A study of what a model knows: everything measured, for every annotated genome, as one JSON."""

import dataclasses
import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nucleotide_transformer.analysis import codons, kinds, probe, regions, sites
from nucleotide_transformer.analysis.annotation import SUFFIXES, Annotation, load_annotation
from nucleotide_transformer.analysis.config import KnowledgeConfig
from nucleotide_transformer.analysis.genome import (
    Genome,
    find_genome,
    find_held_out,
    list_contigs,
    load_genome,
    name_genome,
    spell,
)
from nucleotide_transformer.analysis.judging import judge_nucleotides, judge_tokens
from nucleotide_transformer.analysis.sampling import Sample
from nucleotide_transformer.bars import Steps, show_steps
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.files import digest_file, get_suffix, write_whole
from nucleotide_transformer.inference.embedding import embed
from nucleotide_transformer.pretrained import Model, load_pretrained, randomise
from nucleotide_transformer.types import Bool, Float, UInt8
from nucleotide_transformer.weights.assembly import digest_params

RESULT_FILE = "knowledge.json"
TRAINED, UNTRAINED = "trained", "untrained"


class Subject(NamedTuple):
    """One genome, with what is known of it."""

    genome: Genome
    annotation: Annotation
    kinds: UInt8[np.ndarray, " nucleotides"]
    """What kind of sequence each place is; see `paint_kinds`."""
    held_out: Bool[np.ndarray, " nucleotides"] | None
    """Places in validation or test blocks; None without a corpus, or if that lacks the genome."""


def run_study(config: KnowledgeConfig, *, progress: bool = False) -> dict[str, Any]:
    """Measures everything; the result is what the JSON holds.

    Raises:
        MissingInputError, InputError: in one line: a folder without annotation or genomes, an
            annotation that fits none of the genomes, a model that can't be loaded.
    """
    subjects = find_subjects(config)
    model = load_pretrained(config.model)
    context = config.find_context(model.config.k)
    result: dict[str, Any] = {
        "settings": {name: _to_json(v) for name, v in dataclasses.asdict(config).items()},
        "model": describe_model(model, config.model),
        "context_nucleotides": context,
        "genomes": {},
    }
    with show_steps(progress) as steps:
        for genome, annotation in subjects:
            subject = _load_subject(genome, annotation, config)
            name = subject.genome.name
            result["genomes"][name] = describe_subject(subject, config) | {
                "sites_and_codons": measure_sites(model, subject, config, steps),
                "kinds": measure_kinds(model, subject, config, steps),
                "probe": measure_probe(model, subject, config, steps),
            }
    return result


def find_subjects(config: KnowledgeConfig) -> list[tuple[Path, Annotation]]:
    """The genome and the annotation of each file in the folder of annotations."""
    folder = Path(config.annotation)
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder: must hold annotations")
    paths = sorted(path for path in folder.iterdir() if get_suffix(path) in SUFFIXES)
    if not paths:
        raise MissingInputError(f"{folder}: no file .{', .'.join(SUFFIXES)}")
    annotations = [load_annotation(path) for path in paths]
    genomes = list_contigs(Path(config.genomes))
    subjects = [(find_genome(genomes, annotation), annotation) for annotation in annotations]
    first: dict[str, Path] = {}
    for (genome, _), path in zip(subjects, paths, strict=True):
        other = first.setdefault(name_genome(genome), path)
        if other is not path:
            rule = f"{name_genome(genome)!r} has that of {other.name}: take one of them away"
            raise InputError(f"{path}: a second annotation of one genome: {rule}")
    return subjects


def _load_subject(path: Path, annotation: Annotation, config: KnowledgeConfig) -> Subject:
    genome = load_genome(path)
    held_out = None if config.corpus is None else find_held_out(genome, config.corpus)
    return Subject(genome, annotation, regions.paint_kinds(annotation, genome), held_out)


def describe_model(model: Model, source: str) -> dict[str, Any]:
    """Which model it is, by the digest of its parameters."""
    return {
        "source": source,
        "parameters": digest_params(model.params),
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        "config": dataclasses.asdict(model.config),
        "compute_dtype": model.compute.compute_dtype,
    }


def describe_subject(subject: Subject, config: KnowledgeConfig) -> dict[str, Any]:
    """Files, sizes, and what of the genome the model was trained on."""
    genome, annotation = subject.genome, subject.annotation
    counts = np.bincount(subject.kinds, minlength=regions.OTHER + 1)
    in_corpus = None if config.corpus is None else subject.held_out is not None
    held_out = None if subject.held_out is None else int(subject.held_out.sum())
    return {
        "fasta": genome.path.name,
        "sha256": genome.sha256,
        "annotation": annotation.path.name,
        "annotation_sha256": digest_file(annotation.path),
        "nucleotides": sum(genome.sizes.values()),
        "nucleotides_by_kind": dict(zip(regions.KINDS, counts.tolist(), strict=False)),
        "transcripts": len(annotation.transcripts),
        "corpus": _to_json(config.corpus),
        "is_in_corpus": in_corpus,
        "held_out_nucleotides": held_out,
    }


def measure_sites(
    model: Model, subject: Subject, config: KnowledgeConfig, steps: Steps
) -> dict[str, Any]:
    """Letters around sites and random places, and letters of codons."""
    random = np.random.default_rng([config.seed, 1])
    genome, annotation, _, held_out = subject
    view = sites.View(config.reach, config.find_context(model.config.k))
    samples = {
        kind: sites.draw_sites(genome, found, held_out, view, config.sites, random)
        for kind, found in annotation.list_sites().items()
    }
    everywhere = [sample for kind in samples.values() for sample in kind if sample.items]
    samples[sites.SHUFFLED] = sites.draw_shuffled(
        genome, everywhere, held_out, view, config.sites, random
    )
    coding = annotation.list_coding_parts()
    drawn = codons.draw_stretches(genome, coding, held_out, view, config.stretches, random)
    groups = {**samples, "codons": drawn}
    total = sum(len(sample.items) for group in groups.values() for sample in group)
    report = steps(f"{genome.name}: sites and codons", total)
    judge = functools.partial(judge_nucleotides, model)
    judged = {
        kind: sites.judge_windows(judge, group, view, report) for kind, group in groups.items()
    }
    stretches = judged.pop("codons")
    composition = codons.measure_composition(genome, coding)
    return {
        "sites": sites.describe(judged, view),
        "codons": codons.describe(stretches, judged[sites.SHUFFLED], composition),
    }


def measure_kinds(
    model: Model, subject: Subject, config: KnowledgeConfig, steps: Steps
) -> dict[str, Any]:
    """Masked k-mers by kind of sequence."""
    random = np.random.default_rng([config.seed, 2])
    k, genome = model.config.k, subject.genome
    drawn: dict[str, list[Sample[kinds.Region]]] = {
        kind: kinds.draw_regions(
            genome,
            subject.kinds,
            kind,
            subject.held_out,
            num_tokens=config.window_tokens - 1,
            k=k,
            count=config.regions,
            random=random,
        )
        for kind in regions.KINDS
    }
    total = sum(len(sample.items) for group in drawn.values() for sample in group)
    report = steps(f"{genome.name}: kinds of sequence", total)
    frequencies = kinds.make_frequencies(genome, k)
    judge = functools.partial(judge_tokens, model)
    return {
        kind: kinds.describe(
            kinds.judge_regions(judge, model.tokenizer, samples, frequencies, report)
        )
        for kind, samples in drawn.items()
        if any(sample.items for sample in samples)
    }


def measure_probe(
    model: Model, subject: Subject, config: KnowledgeConfig, steps: Steps
) -> dict[str, Any]:
    """Embeddings of elements; or why they were not measured."""
    random = np.random.default_rng([config.seed, 3])
    windows = probe.draw_windows(
        subject.genome,
        subject.kinds,
        subject.held_out,
        size=config.probe_tokens * model.config.k,
        count=config.probe_windows,
        random=random,
    )
    if isinstance(windows, str):
        return {"not_measured": windows}
    layers = probe.list_layers(model.config.num_layers, config.probe_layers)
    networks = {TRAINED: model, UNTRAINED: randomise(model, config.seed)}
    total = probe.count_probes(len(layers), len(networks))
    report = steps(f"{subject.genome.name}: probes", total)
    texts = [spell(codes) for codes in windows.codes]
    embeddings = {name: _embed(network, texts, layers) for name, network in networks.items()}
    return {
        "kinds": list(probe.PROBED),
        "windows": len(texts),
        "nucleotides": windows.codes.shape[1],
        "distinct_windows": len(set(texts)),
        "families": len(np.unique(windows.families)),
        "chromosomes": len(np.unique(windows.chromosomes)),
        "by_split": probe.probe_all(windows, embeddings, random, report),
    }


def _embed(
    model: Model, texts: list[str], layers: Sequence[int]
) -> dict[int, Float[np.ndarray, "windows D"]]:
    found = list(embed(model, texts, layers=layers))
    return {layer: np.stack([each[layer] for each in found]) for layer in layers}


def save_result(result: dict[str, Any], folder: Path) -> Path:
    """Writes the JSON, lists of numbers on one line each."""
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    numbers = r"\[\s*((?:-?[\d.e+-]+|null)(?:,\s*(?:-?[\d.e+-]+|null))*)\s*\]"
    text = re.sub(numbers, lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULT_FILE
    with write_whole(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return path


def _to_json(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
