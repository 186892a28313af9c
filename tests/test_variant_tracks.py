"""Regions of a genome: every change in one, the background of changes, likelihoods as tracks."""

import dataclasses
import json
import shutil
import sys
import types

import numpy as np
import pyarrow.parquet
import pytest
from real_command import run_in_pipe
from small_models import (
    V2,
    random_model,  # noqa: F401
    save_model,
)
from small_variants import (
    AROUND,
    OPTIONS,
    K,
    list_changes,
    make_reference,
    make_scorer,
    make_text,
)
from variant_runs import ONE, TEXT, two_contigs  # noqa: F401

from nucleotide_transformer import cli
from nucleotide_transformer.errors import UnwritableOutputError
from nucleotide_transformer.inference import (
    nucleotide_probabilities,
    score_sequences,
    token_log_likelihoods,
)
from nucleotide_transformer.tokenizers import reverse_words
from nucleotide_transformer.variants import pieces, saturation
from nucleotide_transformer.variants.background import (
    CalibrateConfig,
    calibrate,
    draw_pieces,
)
from nucleotide_transformer.variants.calibration import load_calibration
from nucleotide_transformer.variants.pieces import check_sequences
from nucleotide_transformer.variants.reference import open_reference
from nucleotide_transformer.variants.regions import Region, find_region
from nucleotide_transformer.variants.saturation import (
    SaturateConfig,
    check_region,
    mean_of_changes,
    saturate,
    saturate_region,
)
from nucleotide_transformer.variants.scoring import Scorer
from nucleotide_transformer.variants.tracks import (
    LikelihoodConfig,
    PredictConfig,
    write_likelihoods,
    write_probabilities,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("chr1:1-90", ("chr1", 0, 90)),
        ("1:2-2", ("chr1", 1, 2)),
        ("chr1", ("chr1", 0, 90)),
        ("two:1-9", ("two:1-9", 0, 1200)),
        ("two:1-9:1,000-1,200", ("two:1-9", 999, 1200)),
    ],
)
def test_regions(text, region):
    reference = make_reference(**{"chr1": "A" * 90, "two:1-9": "C" * 1200})
    assert find_region(text, reference) == Region(*region)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("chr1:0-5", "must have 1 <= first <= last <= 90, where chr1 ends"),
        ("chr1:6-5", "must have 1 <= first"),
        ("chr1:1-91", "must have 1 <= first"),
        ("chr2:1-9", "memory has chr1"),
        ("chr1:5", "must be contig:first-last"),
        ("", "must be contig:first-last"),
        pytest.param("chr1:1-" + 5_000 * "9", "must be contig:first-last", id="digits"),
    ],
)
def test_regions_that_are_none(text, rule):
    with pytest.raises(ValueError, match=rule):
        find_region(text, make_reference(chr1="A" * 90))


def test_saturation_is_every_change(model, monkeypatch):
    monkeypatch.setattr(saturation, "BLOCK", 7)
    text = TEXT[:50] + "N" + TEXT[51:]
    scorer = make_scorer(model, ("llr", "wt_llr"), c=text)
    result = saturate(scorer, Region("c", 40, 60))
    assert result.sequence == text[40:60]
    places = [i for i in range(40, 60) if i != 50]
    alleles = list_changes(text, *places)
    wanted = scorer.score(alleles).values
    for row, allele in zip(wanted, alleles, strict=True):
        at = (allele.start - 40, "ACGT".index(allele.alt))
        assert (result.scores["llr"][at], result.scores["wt_llr"][at]) == tuple(row)
    assert np.isnan(result.scores["llr"]).sum() == 20 + 3
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, rtol=1e-6)
    assert (result.probabilities[10] == 0.25).all()
    p = result.probabilities[0]
    values = result.scores["llr"][0]
    own = "ACGT".index(text[40])
    np.testing.assert_allclose(np.delete(values, own), np.delete(np.log(p / p[own]), own), **CLOSE)


def test_saturate_writes_a_folder(model, tmp_path, fasta):
    config = SaturateConfig(
        region="1:11-30",
        fasta=fasta,
        output=tmp_path / "out" / "one",
        scores=("llr", "entropy"),
        **OPTIONS,
    )
    paths = saturate_region(model, config)
    names = ["saturation.parquet", "llr.bedgraph", "entropy.bedgraph", "heat_map.png", "logo.png"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in config.output.iterdir()) == sorted(names)
    table = pyarrow.parquet.read_table(paths[0]).to_pydict()
    assert table["position"] == sorted([*range(11, 31)] * 3)
    assert all(ref != alt for ref, alt in zip(table["ref"], table["alt"], strict=True))
    lines = paths[1].read_text().splitlines()
    assert lines[0] == 'track type=bedGraph name="llr"'
    assert lines[1].startswith("chr1\t10\t11\t")
    means = np.array(table["llr"]).reshape(20, 3).mean(axis=1)
    found = [float(line.split("\t")[3]) for line in lines[1:]]
    np.testing.assert_allclose(found, means, rtol=1e-4)
    with pytest.raises(ValueError, match="one: exists already"):
        saturate_region(model, config)


def test_places_without_a_change_have_no_mean():
    values = np.array([[1.0, np.nan, 2.0, 3.0], [np.nan] * 4])
    np.testing.assert_array_equal(mean_of_changes(values), [2.0, np.nan])


def test_a_calibrated_background_is_zero_on_average(model, tmp_path):
    """Of the only piece of a genome of 60: every context's changes, both strands together."""
    path = tmp_path / "g.fa"
    path.write_text(f">c\n{TEXT[:60]}\n")
    config = CalibrateConfig(fasta=path, output=tmp_path / "t.json", num_places=60, **OPTIONS)
    table = calibrate(model, config)
    assert table.counts.sum() == 2 * 3 * 56
    table.save(config.output)
    reference = make_reference(c=TEXT[:60])
    names = ("llr_calibrated", "llr")
    settings = table.settings
    again = load_calibration(config.output, "m", settings)
    np.testing.assert_array_equal(again.means, table.means)
    scorer = Scorer(model, reference, names, around=AROUND, calibration=again)
    alleles = list_changes(TEXT[:60], *range(2, 58))
    values = scorer.score(alleles).values
    assert np.isfinite(values).all()
    assert abs(values[:, 0].mean()) < 1e-9 < abs(values[:, 1].mean())
    assert scorer.score(list_changes(TEXT, 1)).reasons == ["unknown"] * 3

    contexts = np.arange(1024)
    other = reverse_words(contexts, 5)
    assert sorted(other) == contexts.tolist()
    np.testing.assert_array_equal(reverse_words(other, 5), contexts)
    np.testing.assert_allclose(table.means[other][:, ::-1], table.means)
    assert np.isnan(table.means).sum() == 1024


def test_contexts_are_reversed_by_letters():
    def number(text):
        return int("".join(str("ACGT".index(x)) for x in text), 4)

    found = reverse_words(np.array([number("AACGT"), number("TTTTC")]), 5)
    assert found.tolist() == [number("ACGTT"), number("GAAAA")]


def test_pieces_are_of_known_letters_and_the_seed():
    text = "N" * 30 + make_text(100) + "N" * 30
    reference = make_reference(short=TEXT[:59], c=text)
    pieces = list(draw_pieces(reference, 20, seed=1))
    assert {change.contig for piece in pieces for change in piece} == {"c"}
    assert {len(piece) for piece in pieces} == {180}
    assert pieces == list(draw_pieces(reference, 20, seed=1)) != list(draw_pieces(reference, 20, 2))
    for contigs in ({"c": TEXT[:59]}, {"c": "N" * 80}):
        with pytest.raises(ValueError, match="no 60 nucleotides in a row without N"):
            next(draw_pieces(make_reference(**contigs), 1, seed=0))


def test_tables_of_others_are_refused(model, tmp_path):
    path = tmp_path / "llr_calibration.json"
    settings = {"parameters": "p", "window_tokens": 8, "frames": 3}
    with pytest.raises(FileNotFoundError, match="no such file: make the table of llr_calibrated"):
        load_calibration(None, tmp_path, settings)
    for text in ("", "[]", '{"means": [1], "counts": [1]}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"llr_calibration\.json: damaged"):
            load_calibration(None, tmp_path, settings)
    four = [[0.0] * 4] * 1024
    content = {"means": four, "counts": [[1] * 4] * 1024, **settings}
    path.write_text(json.dumps(content))
    assert load_calibration(None, tmp_path, settings).means.shape == (1024, 4)
    with pytest.raises(ValueError, match="made with window_tokens = 8, not 9"):
        load_calibration(None, tmp_path, settings | {"window_tokens": 9})


def test_likelihoods_of_sequences_and_their_track(model, tmp_path, fasta):
    config = LikelihoodConfig(
        input=fasta, output=tmp_path / "l.tsv", track=tmp_path / "l.bedgraph", batching=ONE
    )
    paths = write_likelihoods(model, config)
    assert paths == [config.output, config.track]
    header, *rows = (line.split("\t") for line in config.output.read_text().splitlines())
    wanted = score_sequences(model, [TEXT, TEXT[:20]], masked=True, batching=ONE)
    logs = token_log_likelihoods(model, [TEXT, TEXT[:20]], masked=True, batching=ONE)
    sums = [np.nansum(values, dtype=np.float64) for values in logs]
    for row, total, exact, size in zip(rows, wanted.log_likelihood, sums, (90, 20), strict=True):
        found = dict(zip(header, row, strict=True))
        np.testing.assert_allclose(float(found["log_likelihood"]), exact, rtol=1e-9)
        bits = -total / np.log(2) / size
        np.testing.assert_allclose(float(found["bits_per_nucleotide"]), bits, rtol=1e-4)
        assert int(found["nucleotides"]) == size
    track = [line.split("\t") for line in config.track.read_text().splitlines()[1:]]
    of_first = [row for row in track if row[0] == "chr1"]
    assert [(int(a), int(b)) for _, a, b, _ in of_first] == [(i, i + K) for i in range(0, 90, K)]
    mean = np.mean([float(value) for *_, value in of_first])
    np.testing.assert_allclose(mean, float(rows[0][-1]), rtol=1e-4)


def test_likelihood_of_a_region_with_margins(model, tmp_path, fasta, monkeypatch, capsys):
    """The genome is opened once, and what was done to it is said before the model is looked for."""
    words = f"--region 1:31-60 --output {tmp_path / 'x.tsv'} --model {tmp_path / 'no_model'}"
    assert cli.main(["likelihood", "--input", str(fasta), *words.split()]) == 2
    assert "made its index genome.fa.fai\n" in capsys.readouterr().err
    opened = []
    monkeypatch.setattr(pieces, "open_reference", lambda x: opened.append(x) or open_reference(x))
    config = LikelihoodConfig(
        input=fasta, output=tmp_path / "l.tsv", region="chr1:31-60", margin=15, batching=ONE
    )
    write_likelihoods(model, config)
    assert opened == [fasta]
    row = config.output.read_text().splitlines()[1].split("\t")
    assert row[:6] == ["chr1:30-60", "chr1", "30", "60", "30", "10"]
    (logs,) = token_log_likelihoods(model, [TEXT[15:75]], masked=True, batching=ONE)
    np.testing.assert_allclose(float(row[6]), logs[6:16].sum(), rtol=1e-4)


@pytest.mark.parametrize("suffix", [".tsv", ".bedgraph", ".bw"])
def test_probabilities_as_a_table_and_as_tracks(model, tmp_path, fasta, suffix):
    config = PredictConfig(
        input=fasta, output=tmp_path / f"p{suffix}", region="chr1:31-60", margin=9, batching=ONE
    )
    if suffix == ".bw":
        big = pytest.importorskip("pyBigWig")
    write_probabilities(model, config)
    p = nucleotide_probabilities(model, TEXT[21:69], batching=ONE)[9:39]
    of_ref = [row["ACGT".index(letter)] for row, letter in zip(p, TEXT[30:60], strict=True)]
    if suffix == ".bw":
        with big.open(str(config.output)) as track:
            np.testing.assert_allclose(track.values("chr1", 30, 60), of_ref, rtol=1e-5)
            assert np.isnan(track.values("chr1", 0, 30)).all()
            assert track.chroms() == {"chr1": 90}
        return
    rows = [line.split("\t") for line in config.output.read_text().splitlines()[1:]]
    if suffix == ".tsv":
        assert [(int(row[1]), row[2]) for row in rows] == list(enumerate(TEXT[30:60], start=31))
        np.testing.assert_allclose([[float(x) for x in row[3:]] for row in rows], p, rtol=1e-4)
        return
    assert [row[:3] for row in rows] == [["chr1", str(i), str(i + 1)] for i in range(30, 60)]
    np.testing.assert_allclose([float(row[3]) for row in rows], of_ref, rtol=1e-4)


def test_room_is_looked_for_first_and_for_what_is_written(model, tmp_path, fasta, monkeypatch):
    """For 36 or 38 tokens and not for 110 nucleotides; for as many probabilities."""
    pytest.importorskip("pyBigWig")
    free = types.SimpleNamespace(free=4_700)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    config = LikelihoodConfig(
        input=fasta, output=tmp_path / "l.tsv", track=tmp_path / "l.bw", batching=ONE
    )
    with pytest.raises(UnwritableOutputError, match=r"4\.7 kB: 4\.8 kB may be needed for l\.bw"):
        write_likelihoods(model, config)
    assert not list(tmp_path.glob("l.*"))
    free.free = 5_000
    write_likelihoods(model, config)
    other = PredictConfig(input=fasta, output=tmp_path / "p.bw", batching=ONE)
    with pytest.raises(UnwritableOutputError, match=r"5\.0 kB: 5\.7 kB may be needed for p\.bw"):
        write_probabilities(model, other)
    assert not list(tmp_path.glob("p.*"))


def test_what_a_track_may_be_called(tmp_path, fasta):
    options = {"input": fasta, "output": tmp_path / "x.tsv"}
    with pytest.raises(ValueError, match=r"output = .*x\.csv': must be a file \.tsv"):
        LikelihoodConfig(input=fasta, output=tmp_path / "x.csv")
    with pytest.raises(ValueError, match=r"track = .*x\.txt': must be a file \.bedgraph"):
        LikelihoodConfig(**options, track=tmp_path / "x.txt")
    with pytest.raises(ValueError, match="margin = 5: needs a region"):
        PredictConfig(**options, margin=5)
    with pytest.raises(ValueError, match="show = 'A': needs a track"):
        PredictConfig(**options, show="A")
    (tmp_path / "x.tsv").write_text("")
    with pytest.raises(ValueError, match=r"x\.tsv: exists already"):
        check_sequences(PredictConfig(**options))


def test_names_that_would_break_a_line_are_refused(tmp_path):
    source = tmp_path / "in.csv"
    source.write_text(f'name,sequence\ngood,{TEXT}\n"a\tb",{TEXT}\n')
    for config in (PredictConfig, LikelihoodConfig):
        with pytest.raises(ValueError, match=r"in\.csv: name 'a\\tb': must have no tab"):
            check_sequences(config(input=source, output=tmp_path / "x.tsv"))


def test_a_contig_that_comes_back_is_no_bigwig(tmp_path):
    """It is told before anything is computed; a bedGraph may have it."""
    pytest.importorskip("pyBigWig")
    rows = [("A", 0), ("B", 0), ("A", 50)]
    lines = [f"{i},{contig},{at},{at + 20},{TEXT[:20]}" for i, (contig, at) in enumerate(rows)]
    source = tmp_path / "in.csv"
    source.write_text("\n".join(["name,contig,start,end,sequence", *lines, ""]))
    message = r"x\.bw: BigWig needs contigs in one piece: A comes back after B"
    for config in (
        PredictConfig(input=source, output=tmp_path / "x.bw"),
        LikelihoodConfig(input=source, output=tmp_path / "x.tsv", track=tmp_path / "x.bw"),
    ):
        with pytest.raises(ValueError, match=message):
            check_sequences(config)
    config = PredictConfig(input=source, output=tmp_path / "x.bedgraph")
    assert check_sequences(config).ends == {"A": 70, "B": 20}


@pytest.mark.parametrize("module", ["pyarrow", "logomaker"])
def test_what_saturate_needs_is_looked_for_first(tmp_path, fasta, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    config = SaturateConfig(region="chr1:1-9", fasta=fasta, output=tmp_path / "s")
    with pytest.raises(ValueError, match=f"{module} is needed: pip install"):
        check_region(config)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"window": 0}, "window = 0: must be 1 or above"),
        ({"flank": -1}, "flank = -1: must be 0 or above"),
        ({"num_devices": 0}, "num_devices = 0: must be 1 or above"),
        ({"window": 2}, "window = 2: must be 3 or above: a token of the model"),
        ({"flank": 1}, "flank = 1: must be 2 or above: a token that holds the change"),
        ({"frames": 0}, "frames = 0: must be 1 or above"),
        ({"frames": 4}, "frames = 4: must be 3 or below"),
        ({"layer": 3}, "layer = 3: must lie between 0 and 2"),
    ],
)
def test_windows_that_there_are_not(model, options, rule):
    with pytest.raises(ValueError, match=f"^{rule}"):
        dataclasses.replace(AROUND, **options).resolve(model)


def test_learned_positions_end(model):
    learned = dataclasses.replace(V2, position="learned", max_positions=20)
    wide = dataclasses.replace(model, config=learned)
    assert dataclasses.replace(AROUND, window=None).resolve(wide).num_kmers == 19
    with pytest.raises(ValueError, match="window = 60: tokens = 21: the model's learned positions"):
        dataclasses.replace(AROUND, window=60).resolve(wide)


def test_the_commands(tmp_path, fasta, capsys):
    """`nt score-variants` as a user runs it, and `nt saturate`."""
    folder = tmp_path / "model"
    save_model(folder, V2, "huggingface")
    other = "ACGT".replace(TEXT[9], "")[0]
    source = tmp_path / "in.tsv"
    source.write_text(f"chrom\tpos\tref\talt\n1\t10\t{TEXT[9]}\t{other}\n1\t10\t{TEXT[9]}\t*\n")
    options = ("--model", folder, "--fasta", fasta, "--window", 24)
    output = tmp_path / "x.vcf.gz"
    done = run_in_pipe("score-variants", "--vcf", source, "--output", output, *options)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "1 scored, 1 without a score or with some alone",
        "        1  star: allele * (deleted by another record)",
        f"wrote {output}",
        f"wrote {output}.tbi",
    ]
    assert "contigs are named differently in" in done.err
    words = ("saturate", "--region", "1:5-9", "--output", tmp_path / "s", *options)
    assert cli.main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == f"wrote {tmp_path / 's' / 'saturation.parquet'}"
