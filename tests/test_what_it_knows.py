"""The study of a model's knowledge as it is run: a tiny random model and a small genome."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_genomes import put, random_letters, save_genome, write_gff
from small_models import V2, save_model
from small_runs import build_small_corpus

from nucleotide_transformer.analysis import probe
from nucleotide_transformer.analysis.config import KnowledgeConfig
from nucleotide_transformer.analysis.study import find_subjects
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.weights.assembly import digest_params

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG\r\n\x1a\n"
OPTIONS = (
    *("--sites", "12", "--reach", "9", "--context-tokens", "24", "--stretches", "8"),
    *("--regions", "6", "--window-tokens", "32", "--probe-windows", "20", "--probe-tokens", "10"),
    *("--probe-layers", "1"),
)
UNIT = 700
"""Nucleotides with one gene of two exons, a tRNA and an LTR."""


def make_contig(random, name, num_units):
    """Letters and annotation: genes of one strand, then of the other, in turn."""
    text, rows = random_letters(random, num_units * UNIT), []
    for number in range(num_units):
        first, strand = number * UNIT, "+-"[number % 2]
        gene, left, right = (
            f"{name}{number}",
            (first + 100, first + 190),
            (first + 260, first + 350),
        )
        rows.append((name, "mRNA", left[0], right[1], strand, ".", f"ID={gene}"))
        for start, end in (left, right):
            rows.append((name, "exon", start, end, strand, ".", f"Parent={gene}"))
            rows.append((name, "CDS", start, end, strand, "0", f"Parent={gene}"))
        ends = {"ATG": left[0], "TAA": right[1] - 3}
        if strand == "-":
            ends = {"ATG": right[1] - 3, "TAA": left[0]}
        for codon, place in ends.items():
            text = put(text, place, codon, strand)
        rows.append((name, "tRNA", first + 420, first + 480, strand, ".", f"ID=t{gene}"))
        rows.append((name, "long_terminal_repeat", first + 520, first + 620, "+", ".", "ID=l"))
    return text, rows


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Folders of annotation, genomes, a corpus of these, and a model."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "annotation").mkdir()
    (folder / "genomes").mkdir()
    random, texts, rows = np.random.default_rng(0), {}, []
    for name in ("I", "II", "III", "IV"):
        texts[name], more = make_contig(random, name, 8)
        rows += more
    write_gff(folder / "annotation" / "yeast.gff3", rows)
    fasta = folder / "genomes" / "yeast.fa"
    fasta.write_text("".join(f">{name}\n{text}\n" for name, text in texts.items()))
    (folder / "genomes" / "other.fa").write_text(">chr9\nACGT\n")
    changes = {"block_length": 1_400, "validation_fraction": 0.2, "test_fraction": 0.2}
    build_small_corpus((fasta,), folder / "corpus", chunk_length=300, **changes)
    save_model(folder / "model", V2, "huggingface")
    return folder


def list_words(study, output, *words):
    command = ["experiments/what_it_knows.py", "--model", str(study / "model")]
    for name in ("annotation", "genomes"):
        command += [f"--{name}", str(study / name)]
    return [*command, "--output", str(output), *OPTIONS, *words]


@pytest.fixture(scope="module")
def result(study, tmp_path_factory):
    """What the script writes, run in this process: with fewer probes than it trains by itself."""
    output = tmp_path_factory.mktemp("out") / "knowledge"
    words = list_words(study, output, "--corpus", str(study / "corpus"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        patch.setattr(probe, "FOLDS", 3)
        patch.setattr(probe, "STRENGTHS", (0.1, 1.0))
        patch.chdir(ROOT)
        with pytest.raises(SystemExit, match=r"^0$"):
            runpy.run_path(words[0], run_name="__main__")
    files = sorted(path.name for path in output.iterdir())
    assert files == [
        *("codons.png", "kinds.png", "knowledge.json"),
        *("letters_yeast.png", "probe_yeast.png", "sites_yeast.png"),
    ]
    for name in files:
        is_picture = (output / name).read_bytes().startswith(PNG)
        assert is_picture == name.endswith(".png")
    return json.loads((output / "knowledge.json").read_text())


def test_the_result_says_what_was_measured_and_how(result, study):
    assert result["command"].startswith("python experiments/what_it_knows.py --model")
    digest = digest_params(load_pretrained(study / "model").params)
    assert result["model"]["parameters"] == digest
    assert result["settings"]["seed"] == 0
    assert result["machine"]["versions"]["jax"]
    (genome,) = result["genomes"].values()
    assert genome["is_in_corpus"] is True
    assert genome["transcripts"] == 32
    kinds = {"coding": 32 * 180, "intron": 32 * 70, "tRNA": 32 * 60, "LTR": 32 * 100}
    kinds["intergenic"] = 32 * UNIT - sum(kinds.values())
    assert genome["nucleotides_by_kind"] == kinds
    assert 0.2 < genome["held_out_nucleotides"] / genome["nucleotides"] < 0.6


def test_sites_are_read_right_on_both_strands(result):
    sites = result["genomes"]["yeast"]["sites_and_codons"]["sites"]
    assert sites["positions"] == list(range(-9, 10))
    assert sites["kinds"].keys() == {"start", "stop", "donor", "acceptor", "shuffled"}
    for kind, codon in (("start", "ATG"), ("stop", "TAA")):
        numbers = sites["kinds"][kind]["parts"]["all"]
        observed = np.array(numbers["observed"]["mean"])
        assert numbers["count"] == 12
        for place, letter in enumerate(codon, start=9):
            assert observed[place].tolist() == [float(letter == each) for each in "ACGT"]
        total = np.array(numbers["probability"]["mean"]).sum(axis=1)
        np.testing.assert_allclose(total, 1, atol=1e-4)


def test_held_out_blocks_have_numbers_of_their_own(result):
    genome = result["genomes"]["yeast"]
    start = genome["sites_and_codons"]["sites"]["kinds"]["start"]["parts"]
    assert list(start) == ["all", "held_out", "train"]
    assert start["held_out"]["count"] == start["train"]["count"] == 6
    for kind in ("coding", "intron", "intergenic", "tRNA", "LTR"):
        parts = genome["kinds"][kind]["parts"]
        assert list(parts) == ["all", "held_out", "train"]
        low, high = sorted(parts[part]["cross_entropy"]["mean"] for part in ("held_out", "train"))
        assert low <= parts["all"]["cross_entropy"]["mean"] <= high
    probes = genome["probe"]["by_split"]["chromosome"]
    assert probes["trained"].keys() == probes["untrained"].keys() == {"2"}
    assert probes["trained"]["2"]["held_out"]["count"] > 0


def test_a_model_of_random_numbers_knows_nothing(result):
    """Its probability of the true letter is no higher at start codons than elsewhere, and its
    probes are near chance, 25 %."""
    genome = result["genomes"]["yeast"]
    core = genome["sites_and_codons"]["sites"]["kinds"]["start"]["core"]
    one, other = (core[name]["all"]["probability_of_truth"] for name in ("sites", "shuffled"))
    error = np.hypot(one["standard_error"], other["standard_error"])
    assert abs(one["mean"] - other["mean"]) < 5 * error
    # 80 windows: a deviation of 5 %.
    probes = genome["probe"]["by_split"]["family"]["trained"]
    assert all(abs(layer["accuracy"]["mean"] - 0.25) < 0.2 for layer in probes.values())


def test_bad_input_is_one_line(study, tmp_path):
    (tmp_path / "x").mkdir()
    words = list_words(study, tmp_path / "out", "--annotation", str(tmp_path / "x"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path / 'x'}: no file .gff, .gff3, .gtf" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("genomes", [("x.fa",), ("x.fa", "x.fna")])
def test_results_have_one_place_for_each_genome(genomes, tmp_path):
    for contig, name in zip("ab", genomes, strict=False):
        save_genome(tmp_path / name, {contig: "ACGT"})
    for contig, name in (("a", "one.gff"), ("ab"[len(genomes) - 1], "two.gff")):
        write_gff(tmp_path / name, [(contig, "gene", 0, 2, "+", ".", "ID=x")])
    given = dict.fromkeys(("annotation", "genomes", "output"), tmp_path)
    with pytest.raises(
        InputError, match=r"two\.gff: a second annotation of one genome: 'x' has that of one\.gff"
    ):
        find_subjects(KnowledgeConfig(model="m", **given))


def test_a_context_too_short_for_the_sites_is_refused(tmp_path):
    given = dict.fromkeys(("annotation", "genomes", "output"), tmp_path)
    config = KnowledgeConfig(model="m", context_tokens=16, **given)
    assert KnowledgeConfig(model="m", context_tokens=17, **given).find_context(6) == 35
    with pytest.raises(InputError, match=r"context_tokens = 16: must leave 35 .*, and leaves 32"):
        config.find_context(6)
