"""What scores of variants are judged by: classes that were measured, and sites of genes."""

import gzip

import numpy as np
import pytest
from experiment_scripts import load_script
from small_genomes import reverse_complement
from small_models import make_model
from small_variants import (
    list_changes,
    make_reference,
    make_scorer,
    make_text,
)

from nucleotide_transformer.analysis import variant_classes
from nucleotide_transformer.analysis.annotation import Annotation, Site, Transcript
from nucleotide_transformer.analysis.variant_classes import judge, read_measured
from nucleotide_transformer.analysis.variant_sites import (
    FARTHEST,
    NEAREST,
    OFFSETS,
    compare_sites,
    find_pairs,
    read_triplet,
)
from nucleotide_transformer.variants.config import WindowConfig
from nucleotide_transformer.variants.scores import SCORES
from nucleotide_transformer.variants.scoring import Scorer

TEXT = make_text(300, seed=11)
CLASSES = ("LOF", "FUNC", "INT")


def write_table(path, size=60):
    """Variants of every class, three at a place, the text's first letter at position 101."""
    rows = ["pos_hg38\tref\talt\tconsequence\tfunc_class\tphylop\tcadd"]
    for i in range(size):
        place = 100 + i // 3
        alt = [letter for letter in "ACGT" if letter != TEXT[place]][i % 3]
        kind = ("Missense", "Splice region")[i % 2]
        row = (place + 101, TEXT[place], alt, kind, CLASSES[i % 5 % 3], i / 10, -i)
        rows.append("\t".join(map(str, row)))
    with gzip.open(path, "wt") as file:
        file.write("\n".join(rows) + "\n")
    return path


@pytest.fixture
def measured(tmp_path, monkeypatch):
    monkeypatch.setattr(variant_classes, "NUM_RESAMPLES", 20)
    return read_measured(write_table(tmp_path / "m.tsv.gz"), make_reference(c=TEXT), 101)


def test_measured_variants_are_those_of_the_reference(measured, tmp_path):
    assert len(measured.alleles) == 60
    assert all(TEXT[allele.start] == allele.ref for allele in measured.alleles)
    near = TEXT[50:151]
    share = (near.count("G") + near.count("C")) / 101
    assert measured.predictors["gc_101"][0] == share
    wanted = ["CG" in TEXT[a.start - 1 : a.start + 2] for a in measured.alleles]
    assert measured.predictors["cpg"].tolist() == wanted
    with pytest.raises(ValueError, match=r"m\.tsv\.gz: line 2: .: is not what memory has"):
        read_measured(tmp_path / "m.tsv.gz", make_reference(c=TEXT[::-1]), 101)


def test_a_perfect_score_and_one_that_knows_nothing(measured):
    is_lof = measured.classes == "LOF"
    rows = list(judge(measured, is_lof.astype(float)))
    assert {row["subset"] for row in rows} == {"all", "missense", "splice"}
    for row in rows:
        assert row["auroc"] == row["auprc"] == {"value": 1.0, "interval": [1.0, 1.0]}
    (first, *_) = judge(measured, np.zeros(60))
    assert (first["contrast"], first["subset"]) == ("LOF against FUNC", "all")
    assert first["auroc"]["value"] == 0.5
    assert first["auprc"]["value"] == round(first["lof"] / (first["lof"] + first["others"]), 5)
    counts = [int((measured.classes == name).sum()) for name in CLASSES]
    assert (first["lof"], first["others"]) == (counts[0], counts[1])
    wide = next(row for row in rows if row["contrast"] == "LOF against FUNC and INT")
    assert (wide["lof"], wide["others"]) == (counts[0], counts[1] + counts[2])


def test_every_score_is_judged_with_every_window(tmp_path, monkeypatch):
    script = load_script("evaluate_variants")
    monkeypatch.setattr(script, "BRCA1_FIRST", 101)
    monkeypatch.setattr(variant_classes, "NUM_RESAMPLES", 2)
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "brca1_region_grch38.fa.gz").write_bytes(
        gzip.compress(f">c\n{TEXT}\n".encode())
    )
    table = write_table(tmp_path / "variants" / "brca1_sge.tsv.gz", 30)
    settings = {"windows": (24, 48), "frames": 1, "flank": 3, "background": 40}
    config = script.EvaluateVariantsConfig(shared=tmp_path, **settings)
    model, reference = make_model(), make_reference(c=TEXT)
    rows = script.score_brca1(model, config)
    ours = [row for row in rows if row["window"] and row["subset"] == "all"]
    wanted = [(name, window) for window in (24, 48) for name in SCORES]
    assert sorted({(row["predictor"], row["window"]) for row in ours}) == sorted(wanted)
    measured = read_measured(table, reference, 101)
    for name, window, frames in (("llr", 24, None), ("llr", 48, None), ("pll", 48, 1)):
        around = WindowConfig(window=window, flank=3, frames=frames)
        scores = Scorer(model, reference, (name,), around=around).score(measured.alleles).values
        expected = list(judge(measured, -np.array(scores)[:, 0]))
        found = [row for row in rows if (row["predictor"], row["window"]) == (name, window)]
        assert [{**row, "predictor": name, "window": window} for row in expected] == found


def test_variants_without_a_score_are_counted(measured):
    values = np.arange(60.0)
    values[:3] = np.nan
    (first, *_) = judge(measured, values)
    assert first["missing"] == (np.isin(measured.classes[:3], ("LOF", "FUNC"))).sum() > 0
    low, high = first["auroc"]["interval"]
    assert low < first["auroc"]["value"] < high


@pytest.mark.parametrize("strand", ["+", "-"])
def test_controls_are_the_middle_of_the_same_three_letters(strand):
    reference = make_reference(c=TEXT)
    site = Site("c", 150, strand)
    pairs = list(find_pairs(reference, site, OFFSETS["start"], np.random.default_rng(0)))
    assert len(pairs) >= 2
    for pair in pairs:
        own = read_triplet(reference, site, pair.place)
        letters = TEXT[pair.place - 1 : pair.place + 2]
        assert own.decode() == (letters if strand == "+" else reverse_complement(letters))
        assert 1 <= len(pair.controls) <= 3
        for place in pair.controls:
            assert read_triplet(reference, site, place) == own
            assert NEAREST <= abs(place - 150) <= FARTHEST
    step = 1 if strand == "+" else -1
    assert {pair.place for pair in pairs} <= {150, 150 + step, 150 + 2 * step}


def test_sites_are_compared_with_what_is_beside_them(tmp_path):
    model = make_model()
    scorer = make_scorer(model, ("llr", "entropy"), c=TEXT)
    starts = [Transcript("c", "+", ((p, p + 90),), (), ((p, p + 90),), True) for p in (100, 170)]
    annotation = Annotation(tmp_path, (), tuple(starts))
    found = compare_sites(scorer, annotation, num_sites=5)
    assert found["start"]["sites"] == 2
    assert found["donor"]["sites"] == 0
    random = np.random.default_rng(0)
    order = random.permutation(2)
    values = []
    for i in order:
        site = Site("c", (100, 170)[i], "+")
        parts = []
        for pair in find_pairs(scorer.reference, site, OFFSETS["start"], random):
            own, *others = (mean_llr(scorer, place) for place in (pair.place, *pair.controls))
            parts.append(own - np.mean(others))
        values.append(np.mean(parts))
    np.testing.assert_allclose(found["start"]["llr"]["mean"], np.mean(values), atol=1e-5)
    error = np.std(values, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(found["start"]["llr"]["standard_error"], error, atol=1e-5)


def mean_llr(scorer, place):
    return scorer.score(list_changes(TEXT, place)).values[:, 0].mean()
