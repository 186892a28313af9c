"""Every command on variants and regions, as a function of a model, a genome and a folder."""

import dataclasses

import pytest
from small_variants import OPTIONS, make_text

from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.variants import background, pieces, saturation
from nucleotide_transformer.variants import run as run_module
from nucleotide_transformer.variants.background import CalibrateConfig, calibrate_to_file
from nucleotide_transformer.variants.config import ScoreVariantsConfig
from nucleotide_transformer.variants.run import score_variants
from nucleotide_transformer.variants.saturation import SaturateConfig, saturate_region
from nucleotide_transformer.variants.tracks import (
    LikelihoodConfig,
    PredictConfig,
    write_likelihoods,
    write_probabilities,
)

TEXT = make_text(90, seed=5)
ONE = BatchConfig(num_devices=1, batch_tokens=64)
SHORT = dataclasses.replace(ONE, window_tokens=16)


@pytest.fixture(name="fasta")
def two_contigs(tmp_path):
    """A genome of two contigs; the second is the start of the first."""
    path = tmp_path / "genome.fa"
    path.write_text(f">chr1\n{TEXT}\n>two:1-9\n{TEXT[:20]}\n")
    return path


def run_likelihood(model, fasta, folder):
    config = LikelihoodConfig(
        input=fasta, output=folder / "l.tsv", track=folder / "l.bedgraph", batching=SHORT
    )
    return write_likelihoods(model, config)


def run_predict(model, fasta, folder):
    config = PredictConfig(input=fasta, output=folder / "p.tsv", masked=False, batching=SHORT)
    return write_probabilities(model, config)


def run_saturate(model, fasta, folder):
    config = SaturateConfig(region="1:1-90", fasta=fasta, output=folder / "s", **OPTIONS)
    return saturate_region(model, config)


def run_calibrate(model, fasta, folder):
    config = CalibrateConfig(fasta=fasta, output=folder / "t.json", num_places=240, **OPTIONS)
    return [calibrate_to_file(model, config)]


def run_score(model, fasta, folder):
    source = folder / "in.tsv"
    rows = [f"1\t{i + 1}\t{TEXT[i]}\t{'ACGT'['CGTA'.index(TEXT[i])]}" for i in range(70, 78)]
    source.write_text("\n".join(["contig\tposition\tref\talt", *rows, ""]))
    config = ScoreVariantsConfig(vcf=source, fasta=fasta, output=folder / "v.tsv", **OPTIONS)
    return score_variants(model, config).paths


def make_blocks_small(monkeypatch):
    monkeypatch.setattr(pieces, "BLOCK_ON_CPU", 40)
    monkeypatch.setattr(pieces, "BLOCK_SEEN", 40)
    monkeypatch.setattr(saturation, "BLOCK", 40)
    monkeypatch.setattr(saturation, "MAX_MAP_NUCLEOTIDES", 0)  # pictures take long
    monkeypatch.setattr(saturation, "MAX_LOGO_NUCLEOTIDES", 0)
    monkeypatch.setattr(background, "_PIECES_AT_ONCE", 2)
    monkeypatch.setattr(run_module, "BLOCK_ON_CPU", 4)
