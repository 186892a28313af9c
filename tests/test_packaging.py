"""From a run to a packaged model: what is stored, what its card says, what is refused."""

import dataclasses
import functools
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from packaged_models import FILES, ROOT, write_evaluation, write_genomes
from safetensors.numpy import load_file
from small_runs import build_small_corpus, make_run_config

from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.data.manifest import load_manifest
from nucleotide_transformer.errors import InputError, MissingInputError, OutputExistsError
from nucleotide_transformer.packaging import package as packaging
from nucleotide_transformer.packaging.package import PackageConfig, package_run
from nucleotide_transformer.packaging.rounding import make_probe
from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.pretraining.run import pretrain
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.training.identity import flatten
from nucleotide_transformer.verification import VerifyConfig, verify_model
from nucleotide_transformer.weights import folders, runs
from nucleotide_transformer.weights.assembly import digest_params
from nucleotide_transformer.weights.huggingface import tensor_places

SCRIPT = ROOT / "experiments" / "model" / "package.py"
_PROBE = functools.cache(make_probe)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of a tiny model that shares vectors, in a folder with its table."""
    folder = tmp_path_factory.mktemp("made")
    lines = write_genomes(folder).read_text().splitlines()
    table = folder / "inputs.tsv"  # without the digests, of which one is another file's
    table.write_text("".join(line.rpartition("\t")[0] + "\n" for line in lines))
    run = make_run_config(build_small_corpus((table,), folder / "corpus"), folder)
    run = dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, token_tables="pairs", init="truncated_normal"),
        log_every_steps=3,
        optimizer=dataclasses.replace(run.optimizer, peak_learning_rate=3e-2),
        checkpoint=dataclasses.replace(run.checkpoint, every_steps=4),
    )
    pretrain(run, show=False)
    (folder / "run" / "evaluation.json").unlink(missing_ok=True)
    return folder, run


@pytest.fixture(autouse=True)
def read_genomes_once(monkeypatch):
    """The DNA for the rounding is always the same; tests/test_rounding.py looks at it."""
    monkeypatch.setattr(packaging, "make_probe", _PROBE)


@pytest.fixture
def job(made, tmp_path):
    folder, run = made
    return PackageConfig(
        run=run.output,
        folder=tmp_path / "there" / "tiny",
        genomes=folder / "genomes.tsv",
        unseen=None,
        recipe=None,
    )


def round_to_bfloat16(array):
    """To the nearest, of two the even one: done in integers."""
    bits = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(ml_dtypes.bfloat16)


ROUND = {"float16": lambda array: array.astype(np.float16), "bfloat16": round_to_bfloat16}


def add_up_rows(own, vectors, tokens):
    """Each token's own row and the vectors of what it spells, in float64: letters, then pairs."""
    rows = own.astype(np.float64)
    for token, text in enumerate(tokens):
        if len(text) != 3 or not set(text) <= set("ATCG"):
            continue
        letters = ["ATCG".index(letter) for letter in text]
        spelled = [4 * place + letter for place, letter in enumerate(letters)]
        spelled += [12 + 16 * i + 4 * letters[i] + letters[i + 1] for i in range(2)]
        for place in sorted(spelled):
            rows[token] += vectors[place]
    return rows.astype(np.float32)


def fold_plainly(params, tokens):
    """The published parameters of a run, float32, with the token tables added up."""
    encoder, head = "esm_transformer", "esm_transformer/~/esm_roberta_lm_head/~"
    folded = {module: dict(leaves) for module, leaves in params.items()}
    rows = folded.pop(f"{encoder}/~/shared")["embeddings"]
    columns = folded.pop(f"{head}/shared")
    table, output = folded[f"{encoder}/~/embed"], folded[f"{head}/lm_final_fc"]
    table["embeddings"] = add_up_rows(table["embeddings"], rows, tokens)
    output["w"] = add_up_rows(output["w"].T, columns["w"].T, tokens).T
    output["b"] = add_up_rows(output["b"], columns["b"], tokens)
    return folded


@pytest.mark.parametrize("dtype", ROUND)
def test_parameters_are_folded_and_then_rounded_once(dtype, made, job):
    package = package_run(dataclasses.replace(job, dtype=dtype))
    params = runs.read_params(made[1].output / "checkpoints" / str(package.step) / "state")
    expected = fold_plainly(params, KmerTokenizer(k=3).tokens)
    found = load_file(job.folder / "model.safetensors")
    places = tensor_places(dataclasses.replace(made[1].model, token_tables="free"))
    assert found.keys() == places.keys()
    for name, place in places.items():
        leaf = expected[place.module][place.name]
        right = ROUND[dtype](np.ascontiguousarray(leaf.T if place.is_transposed else leaf))
        assert found[name].dtype == right.dtype
        assert found[name].tobytes() == right.tobytes(), name


def test_what_is_packaged_is_the_model_of_the_run(made, job):
    package = package_run(job)
    assert {path.name for path in job.folder.iterdir()} == FILES
    assert package.num_bytes == sum(path.stat().st_size for path in job.folder.iterdir())
    assert package.genomes_checked
    folders.check_sums(job.folder)
    verified = verify_model(VerifyConfig(model=str(job.folder)))
    assert verified.origin == f"{job.folder / 'reference.npz'}, computed in float32 on a CPU"
    assert verified.is_ok
    model, exact = load_pretrained(job.folder), load_pretrained(made[1].output)
    assert model.config == dataclasses.replace(exact.config, max_positions=64, init="he_uniform")
    tokens = model.tokenizer.encode_batch(["ACGTTGACCA" * 5, "TT<mask>GAC"])
    difference = np.abs(np.asarray(model(tokens).logits) - np.asarray(exact(tokens).logits)).max()
    # Half a unit in the last of 11 bits of every factor, over 2 layers of width 16.
    assert 0 < difference < 0.01


def test_packaging_again_gives_the_same_bytes(job):
    package_run(job)
    before = {path.name: path.read_bytes() for path in job.folder.iterdir()}
    package_run(job)
    assert {path.name: path.read_bytes() for path in job.folder.iterdir()} == before


def test_the_best_checkpoint_or_the_last(made, job, monkeypatch):
    monkeypatch.setattr(runs, "find_best_step", lambda _: 4)
    assert package_run(job).step == 4
    assert package_run(dataclasses.replace(job, checkpoint="last")).step == 8


@pytest.mark.parametrize("step", ["write_sums", "measure"])
def test_an_error_leaves_what_was_there(step, job, monkeypatch):
    package_run(job)
    before = {path: path.read_bytes() for path in job.folder.parent.rglob("*") if path.is_file()}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    if step == "write_sums":
        monkeypatch.setattr(packaging, "write_sums", fail)
        with pytest.raises(OSError, match="disk full"):
            package_run(job)
    else:
        monkeypatch.setattr(packaging, "MAX_BYTES", 10_000)
        with pytest.raises(InputError, match=r"tiny: .* bytes: a packaged model may have 10,000$"):
            package_run(job)
    after = {path: path.read_bytes() for path in job.folder.parent.rglob("*") if path.is_file()}
    assert after == before


def test_a_folder_with_other_files_is_not_replaced(job):
    job.folder.mkdir(parents=True)
    (job.folder / "thesis.txt").touch()
    with pytest.raises(OutputExistsError, match=r"holds thesis\.txt, which no export wrote"):
        package_run(job)


def test_hours_are_those_of_the_timed_updates(made, job, tmp_path):
    """Of 8 updates of 512 tokens the first 3 are not timed, then 3 at 128 and 2 at 256 tokens/s.

    The last interval goes on beyond the checkpoint.
    """
    run = tmp_path / "run"
    shutil.copytree(made[1].output, run)
    rates = ((3, None), (6, 128.0), (10, 256.0), (12, 1.0))
    lines = [
        {"kind": "train", "step": step, "tokens": 512 * step}
        | ({"tokens_per_second": rate} if rate else {})
        for step, rate in rates
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    package_run(dataclasses.replace(job, run=run))
    card = (job.folder / "README.md").read_text()
    hours = (3 * 512 / 128 + 2 * 512 / 256) / 3600
    assert f"\n| 1 | 8 | 4,096 | {hours:.3g} |\n" in card
    assert "without compiling, evaluating and saving; 3 updates" in card
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(MissingInputError, match=r"metrics\.jsonl: no line of training"):
        package_run(dataclasses.replace(job, run=run))


def test_a_run_that_went_on_from_another(made, job, tmp_path, monkeypatch, capsys):
    """As the script packages it. Its card adds up both; of the first only the metrics are left,
    under another name."""
    _, first = made
    second = dataclasses.replace(
        first, output=tmp_path / "second", init_from=str(first.output), total_tokens=512 * 5
    )
    pretrain(second, show=False)
    write_evaluation(second.output / "evaluation.json", 7.6, step=5)
    metrics = tmp_path / "first.jsonl"
    lines = [
        {"kind": "train", "step": 3, "tokens": 512 * 3},
        {"kind": "validation", "step": 4, "tokens": 512 * 4},
        {"kind": "train", "step": 8, "tokens": 512 * 8, "tokens_per_second": 0.5},
    ]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipes = tmp_path / "first.toml", tmp_path / "second.toml"
    fields = flatten(config_to_dict(first)).items()
    recipes[0].write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in fields if v is not None))
    recipes[1].write_text(
        f"base = 'first.toml'\noutput = '{second.output}'\ninit_from = '{first.output}'\n"
        f"total_tokens = {second.total_tokens}\n"
    )
    words = ["--run", second.output, "--checkpoint", "last", "--folder", job.folder]
    words += ["--genomes", job.genomes, "--unseen", "none", "--earlier", metrics]
    words += ["--recipe", recipes[1], "--earlier-recipes", recipes[0]]
    code, out, err = run_script(monkeypatch, capsys, words)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith(f"wrote {job.folder} after update 5: ")
    card = (job.folder / "README.md").read_text()
    hours = 5 * 512 / 0.5 / 3600
    assert f"| 1 | 8 | 4,096 | {hours:.3g} |" in card
    assert "| 2 | 5 | 2,560 | " in card
    assert "| all | 13 | 6,656 | " in card
    assert "saving; 3 updates were not timed." in card  # those of the first line
    assert re.search(r"`\S*/first\.toml`,\nthen `\S*/second\.toml` have all of them\. ", card)
    assert f"`{digest_params(load_pretrained(first.output).params)}`" in card


def test_the_evaluation_of_the_run_is_taken_by_itself(made, job, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made[1].output, run)
    write_evaluation(run / "evaluation.json", 7.6, step=8)
    package_run(dataclasses.replace(job, run=run))
    assert "| all | 1,234 | 7.6000 ± 0.0100 |" in (job.folder / "README.md").read_text()
    write_evaluation(run / "evaluation.json", 7.6, step=4)
    with pytest.raises(
        InputError, match=r"evaluation\.json: step = 4, not 8: evaluate the checkpoint"
    ):
        package_run(dataclasses.replace(job, run=run))


def test_evaluations_are_those_of_the_run_and_not_swapped(made, job, tmp_path):
    corpus = load_manifest(made[1].data.corpus).digest
    head = {
        "parameters": digest_params(load_pretrained(made[1].output).params),
        "baselines": corpus,
    }
    own, unseen = (
        write_evaluation(tmp_path / f"{digest}.json", 7.6, step=8, corpus=digest, **head)
        for digest in (corpus, "other")
    )
    package_run(dataclasses.replace(job, results=own, unseen_results=unseen))
    other = write_evaluation(tmp_path / "x.json", 7.6, step=8, parameters="of another run")
    for results, message in (
        ({"results": unseen}, r"other\.json: corpus = 'other', not '"),
        ({"unseen_results": own}, r"\.json: corpus = .*: must be another one than"),
        ({"results": other}, r"x\.json: parameters = 'of another run', not '"),
    ):
        with pytest.raises(InputError, match=message):
            package_run(dataclasses.replace(job, **results))


def copy_half(run, folder, **fields):
    """A run as if its first half had been all of it, with other fields in its config."""
    shutil.copytree(run.output, folder)
    shutil.rmtree(folder / "checkpoints" / "8")
    path = folder / "checkpoints" / "4" / "config" / "metadata"
    config = json.loads(path.read_text())
    assert config.keys() >= {"total_tokens", *fields}
    path.write_text(json.dumps(config | {"total_tokens": 512 * 4} | fields))
    return folder


@pytest.fixture
def seed_runs(made, tmp_path):
    """Two shorter runs of the same recipe, of seeds 5 and 2, that finished."""
    folders = []
    for seed in (5, 2):
        folders.append(copy_half(made[1], tmp_path / f"seed{seed}", seed=seed))
        write_evaluation(folders[-1] / "evaluation.json", 6.0 + seed, step=4)
    return tuple(folders)


def test_the_card_says_how_far_seeds_are_apart(seed_runs, job):
    package_run(dataclasses.replace(job, seed_runs=seed_runs))
    card = (job.folder / "README.md").read_text()
    assert "2 runs of this recipe, each of 2,048 tokens." in card
    assert "|  | tokens | seed 2 | seed 5 | apart |" in card
    assert "| all | 1,234 | 8.0000 | 11.0000 | 3.0000 |" in card


def test_seed_runs_that_differ_in_more_or_less_than_their_seeds(made, seed_runs, job, tmp_path):
    _, run = made
    for some, message in (
        (seed_runs[:1], "seed_runs = [5]: must have several seeds"),
        ((seed_runs[0],) * 2, "seed_runs = [5, 5]: must have several seeds"),
        ((seed_runs[0], run.output), "run: total_tokens = 4096: must be as in "),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            package_run(dataclasses.replace(job, seed_runs=some))
    other = copy_half(run, tmp_path / "other", seed=2, masking={"ratio": 0.3})
    message = "other: masking.ratio = 0.3 there, 0.15 here: only the seed may differ"
    with pytest.raises(InputError, match=re.escape(message)):
        package_run(dataclasses.replace(job, seed_runs=(seed_runs[0], other)))
    assert not job.folder.exists()


def test_a_table_of_other_genomes(job, tmp_path):
    rows = job.genomes.read_text()
    table = tmp_path / "genomes.tsv"
    table.write_text(rows.replace("Ursus minor", "Ursus major"))
    pattern = r"genomes\.tsv: Ursus major v0: not in \S*corpus: [^\n]*$"
    with pytest.raises(InputError, match=pattern):
        package_run(dataclasses.replace(job, genomes=table))
    table.write_text("\n".join(rows.split("\n")[:2]) + "\n")
    with pytest.raises(InputError, match=r"Lupus \| major v1: the corpus has it: "):
        package_run(dataclasses.replace(job, genomes=table))


def test_without_the_corpus_the_table_is_believed(made, job, tmp_path, monkeypatch):
    elsewhere = made[0] / "moved"
    (made[0] / "corpus").rename(elsewhere)
    try:
        assert not package_run(job).genomes_checked
    finally:
        elsewhere.rename(made[0] / "corpus")


def test_no_run_is_there(job, tmp_path):
    with pytest.raises(MissingInputError, match="no run of `nt pretrain` is here"):
        package_run(dataclasses.replace(job, run=tmp_path))


def test_a_number_that_float16_does_not_reach(made, job, monkeypatch):
    read = runs.read_params

    def read_large(state: Path):
        params = read(state)
        params["esm_transformer/~/embed"]["embeddings"][7, 3] = 1e5
        return params

    monkeypatch.setattr(runs, "read_params", read_large)
    with pytest.raises(InputError, match=r"too large for float16[^\n]*$"):
        package_run(job)
    assert not job.folder.exists()


def run_script(monkeypatch, capsys, words):
    """Runs the script in this process: its exit status, and what it prints."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code, *capsys.readouterr()


def test_a_mistake_is_one_line_of_the_script(job, monkeypatch, capsys):
    recipe = SCRIPT.parent / "pretrain.toml"  # it is not the run of this
    words = ("--run", job.run, "--genomes", job.genomes, "--unseen", "none", "--recipe", recipe)
    code, out, err = run_script(monkeypatch, capsys, (*words, "--folder", job.folder))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.match(r"error: \S*pretrain\.toml: ", err)
    assert not job.folder.exists()


def test_a_type_of_32_bits_is_not_packaged():
    with pytest.raises(InputError, match="dtype = 'float32': must be one of float16, bfloat16"):
        PackageConfig(dtype="float32")
    config = PackageConfig()
    object.__setattr__(config, "checkpoint", "bset")
    with pytest.raises(InputError, match="checkpoint = 'bset': must be one of best, last"):
        config.__post_init__()
