"""`nt evaluate`: any model on any split, with the numbers that a run writes of itself."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from packaged_models import package_model
from printed_tables import read_table
from small_models import V2, save_model

from nucleotide_transformer import cli
from nucleotide_transformer import config as configs
from nucleotide_transformer.data.corpus import build_corpus
from nucleotide_transformer.data.corpus_config import CorpusConfig
from nucleotide_transformer.data.dataset import make_evaluation_set
from nucleotide_transformer.data.manifest import load_manifest
from nucleotide_transformer.data.reader import open_split
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.packaging.card import compare
from nucleotide_transformer.packaging.records import read_evaluation
from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.pretraining import counts as counts_module
from nucleotide_transformer.pretraining import evaluate
from nucleotide_transformer.pretraining.counts import (
    count_split,
    find_counts,
    load_counts,
    save_counts,
)
from nucleotide_transformer.pretraining.evaluate import EvaluateConfig, evaluate_model
from nucleotide_transformer.pretraining.evaluation import mask_evaluation_set
from nucleotide_transformer.pretraining.run import pretrain
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.weights import folders
from nucleotide_transformer.weights.assembly import digest_params

SHAPE = {"k": 3, "num_layers": 2, "embed_dim": 16, "num_heads": 2, "ffn_dim": 24}


@pytest.fixture(scope="module")
def run(small_corpus, tmp_path_factory):
    """A finished run of four updates, with baselines; its corpus has two groups of species."""
    folder = tmp_path_factory.mktemp("evaluate")
    corpus = folder / "corpus"
    rows = ["file\tspecies\tassembly\tgroup"]
    for species, group in (("rich", "GC"), ("poor", "AT")):
        rows.append(f"{small_corpus.parent / species}.fa\t{species}\tv1\t{group}")
    (folder / "genomes.tsv").write_text("\n".join(rows) + "\n")
    build(folder / "genomes.tsv", corpus)
    shutil.copytree(corpus, folder / "uncounted")
    # Of words of 7 letters, not 13 as `nt corpus baselines`: a second and not ten.
    manifest = load_manifest(corpus)
    reader = open_split(manifest, "train")
    save_counts(manifest, count_split(reader, KmerTokenizer(k=3), 10**9, max_order=6), 3)
    config = configs.PretrainConfig(
        output=folder / "run",
        model=configs.ModelConfig(**SHAPE),
        data=configs.DataConfig(corpus=corpus, sequence_tokens=64),
        tokens_per_update=512,
        sequences_per_device=4,
        total_tokens=512 * 4,
        num_devices=1,
        evaluation=configs.EvaluationConfig(num_sequences=9, every_steps=4, masking_ratio=0.2),
    )
    pretrain(config, show=False)
    return config


@pytest.fixture
def job(run, tmp_path):
    """Without the baselines, which take a second or two: those tests that are of them name them."""
    return EvaluateConfig(
        model=str(run.output),
        corpus=run.data.corpus.with_name("uncounted"),
        output=tmp_path / "evaluation.json",
        sequences_per_device=4,
        num_devices=1,
    )


def build(table: Path, output: Path, **options: object) -> None:
    shares = {"validation_fraction": 0.1, "test_fraction": 0.1}
    lengths = {"chunk_length": 200, "overlap": 20, "block_length": 1_000}
    fields = {**shares, **lengths, **options}
    build_corpus(CorpusConfig(inputs=(table,), output=output, workers=1, **fields))


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """A corpus of one species, all of it validation."""
    folder = tmp_path_factory.mktemp("unseen")
    letters = "".join(np.random.default_rng(5).choice(list("ACGT"), 9_000, p=(0.3, 0.2, 0.2, 0.3)))
    (folder / "strange.fa").write_text(f">c\n{letters}\n")
    build(folder / "strange.fa", folder / "corpus", validation_contigs=("strange:*",))
    return folder / "corpus"


def read(path):
    return json.loads(path.read_text())


def test_a_run_on_its_own_validation_split_is_its_own_evaluation(run, job):
    """To the last bit: the same sequences, masks, precision and baselines."""
    evaluate_model(dataclasses.replace(job, corpus=run.data.corpus, split="validation"))
    own, found = read(run.output / "evaluation.json"), read(job.output)
    assert own.items() <= found.items()
    assert sorted(own["groups"]) == ["AT", "GC"]
    assert found["step"] == 4
    digest = load_manifest(run.data.corpus).digest
    assert (found["corpus"], found["baselines"]) == (digest, digest)
    assert found["parameters"] == digest_params(load_pretrained(run.output).params)
    assert (found["sequence_tokens"], found["masking_ratio"]) == (64, 0.2)


def test_the_test_split_is_read_and_scored(run, job):
    """The model's row, from logits of whole sequences; every option off its default."""
    compute = configs.ComputeConfig(attention="einsum", stack="loop")
    config = dataclasses.replace(
        job,
        split="test",
        species=("poor",),
        num_sequences=7,
        sequence_tokens=40,
        masking_ratio=0.3,
        num_devices=2,
        sequences_per_device=2,
        compute=compute,
    )
    result = evaluate_model(config)
    model = load_pretrained(run.output)
    manifest = evaluate.choose_species(load_manifest(run.data.corpus), ("poor",))
    found = make_evaluation_set(
        manifest, "test", tokenizer=model.tokenizer, sequence_tokens=40, num_sequences=7
    )
    held_out = make_evaluation_set(
        manifest, "validation", tokenizer=model.tokenizer, sequence_tokens=40, num_sequences=99
    )
    assert not {row.tobytes() for row in found.tokens} & {row.tobytes() for row in held_out.tokens}
    masked = mask_evaluation_set(found.tokens, 0.3, model.config)
    logits = np.asarray(model(masked.inputs).logits, np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows = np.arange(len(found.tokens))[:, None]
    nats = -log_probs[rows, masked.positions, masked.targets][masked.valid]
    overall = result.evaluation.overall
    assert (overall.num_sequences, overall.num_masked) == (7, len(nats)) == (7, 7 * 12)
    assert overall.rows["this model"].metrics.cross_entropy == pytest.approx(nats.mean(), rel=1e-6)
    assert list(result.evaluation.groups) == ["AT"]
    expected = {"split": "test", "species": ["poor"], "sequence_tokens": 40, "masking_ratio": 0.3}
    assert expected.items() <= read(job.output).items()


def test_an_unseen_corpus_takes_the_counts_of_another_one(run, job, unseen):
    """What packaging reads as the results of species that the model never saw."""
    config = dataclasses.replace(job, corpus=unseen, split="validation")
    alone = evaluate_model(config)
    assert list(alone.evaluation.overall.rows) == ["this model"]
    (note,) = alone.notes
    assert note == "no baselines: the corpus has no training split; --baselines names another"

    config = dataclasses.replace(config, overwrite=True, baselines=run.data.corpus)
    result = evaluate_model(config)
    assert result.notes == ()
    rows = result.evaluation.overall.rows
    assert list(rows) == ["this model", "frequency", "markov_mixture"]
    # By hand: the frequency of each token in the training split, each counted once more.
    model = load_pretrained(run.output)
    found = make_evaluation_set(
        load_manifest(unseen),
        "validation",
        tokenizer=model.tokenizer,
        sequence_tokens=64,
        num_sequences=9,
    )
    masked = mask_evaluation_set(found.tokens, 0.2, model.config)
    targets = masked.targets[masked.valid] - model.config.first_kmer_id
    counts = load_counts(load_manifest(run.data.corpus), 3).tokens + 1
    expected = -np.log(counts / counts.sum())[targets].mean()
    assert rows["frequency"].metrics.cross_entropy == pytest.approx(expected, rel=1e-9)

    comparisons = read_evaluation(job.output, {"step": 4})
    assert list(comparisons) == ["no group", "all"]
    assert "markov_mixture, bits" in compare(comparisons)  # a table of the card
    with pytest.raises(InputError, match="step = 4, not 5: evaluate the checkpoint"):
        read_evaluation(job.output, {"step": 5})


def test_baselines_of_another_corpus_than_the_model_s_are_noted(
    run, job, unseen, tmp_path, monkeypatch
):
    build(unseen.parent / "strange.fa", tmp_path / "other")
    other = load_manifest(tmp_path / "other")
    _, trained = evaluate.find_trained(job.model)
    note = f"no baselines: `nt corpus baselines {other.folder} --k 3` counts them once"
    assert find_counts(other, 3, trained_on=trained.corpus) == (None, (note,))
    counts = load_counts(load_manifest(run.data.corpus), 3)
    monkeypatch.setattr(counts_module, "load_counts", lambda *_: counts)
    note = f"the model was not trained on {other.folder}, unlike its baselines"
    assert find_counts(other, 3, trained_on=trained.corpus) == (counts, (note,))
    own = load_manifest(job.corpus)
    assert find_counts(own, 3, trained_on=trained.corpus) == (counts, ())

    def fail(*_):
        raise PermissionError(13, "Permission denied", "baselines.npz")

    monkeypatch.setattr(counts_module, "load_counts", fail)
    note = "no baselines: [Errno 13] Permission denied: 'baselines.npz'"
    assert find_counts(own, 3) == (None, (note,))
    with pytest.raises(PermissionError):
        find_counts(own, 3, optional=False)


def test_without_a_name_it_is_the_packaged_model(capfd, job, tmp_path, monkeypatch):
    """Through the command; as long as the model and the chunks allow, and masked as published."""
    monkeypatch.setattr(folders, "PACKAGED_FOLDER", tmp_path / "packaged")
    package_model(tmp_path / "packaged")
    output = tmp_path / "there" / "results.json"
    words = f"evaluate --corpus {job.corpus} --num-devices 1 --output {output}"
    assert cli.main(words.split()) == 0
    out, _ = capfd.readouterr()
    found = read(output)
    assert (found["step"], found["split"]) == (None, "test")
    assert found["sequence_tokens"] == min(V2.max_positions, 200 // 3 + 1) == 64
    assert found["masking_ratio"] == 0.15
    first, second = out.split("By group")
    assert f"masked tokens of test of {job.corpus}" in first
    row, part = read_table(first)["this model"], found["all"]["predictors"]["this model"]
    errors = part["standard_errors"]
    assert row["cross-entropy (nats)"] == (
        f"{part['cross_entropy']:.4f} ± {errors['cross_entropy']:.4f}"
    )
    assert sorted(read_table(second)) == ["AT", "GC"]
    assert f"note: no baselines: `nt corpus baselines {job.corpus} --k 3` counts them once" in out
    assert f"wrote {output}" in out


def test_an_export_is_the_same_as_its_run(job, tmp_path):
    model = load_pretrained(job.model)
    model.save_pretrained(tmp_path / "export", "jax")
    of_run = evaluate_model(job)
    config = dataclasses.replace(
        job,
        model=str(tmp_path / "export"),
        output=tmp_path / "other.json",
        num_sequences=9,
        sequence_tokens=64,
        masking_ratio=0.2,
    )
    assert evaluate_model(config).evaluation == of_run.evaluation


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--corpus {tmp}/none", "none: no such corpus folder"),
        ("--corpus {corpus} --split dev", "--split = 'dev': must be one of train, validation, tes"),
        ("--corpus {corpus} --species por", "species = 'por': not in {corpus}; did you mean poor?"),
        ("--corpus {corpus} --output {tmp}", "{tmp}: is a folder: give the name of a file"),
        ("--corpus {corpus} --output {tmp}/taken", "taken: exists already: give another name"),
        ("--corpus {corpus} --output {tmp}/taken/x", "taken is a file: must be a folder"),
        ("--corpus {corpus} --baselines {tmp}/none", "none: no such corpus folder"),
        ("--corpus {corpus} --baselines {unseen}", "not counted: `nt corpus baselines {unseen}`"),
        ("--corpus {corpus} --masking-ratio 1", "--masking-ratio = 1.0: must lie between 0 and 1"),
        ("--corpus {corpus} --num-devices 99", "num_devices = 99: this process has"),
    ],
)
def test_bad_input_is_told_before_a_model_is_loaded(
    capfd, monkeypatch, run, unseen, tmp_path, words, message
):
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(evaluate, "load_pretrained", load)
    (tmp_path / "taken").touch()
    places = {"tmp": tmp_path, "corpus": run.data.corpus, "unseen": unseen}
    if "--output" not in words:
        words += " --output {tmp}/new.json"
    code = cli.main(["evaluate", *words.format(**places).split()])
    out, err = capfd.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message.format(**places) in err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": Path("gs://b/x")}, "output = 'gs://b/x': must be a path of this machine"),
        ({"sequence_tokens": 80}, "sequence_tokens = 80: needs 237 nt and the chunks of"),
        ({"sequence_tokens": 3}, "with a masking ratio of 0.15 no token of a sequence would be"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_and_nothing_written(
    job, tmp_path, changes, message
):
    save_model(tmp_path / "model", V2, "jax")
    config = dataclasses.replace(job, model=str(tmp_path / "model"), **changes)
    with pytest.raises(InputError, match=message):
        evaluate_model(config)
    assert not job.output.exists()
