"""Two processes never write the parts of one output, and what is written is all of it."""

import csv
import dataclasses
import errno
import fcntl
import io
import sys
import types

import numpy as np
import pytest
from small_models import (
    V2,
    random_model,  # noqa: F401
    random_params,
)
from variant_files import make_config, make_rows, write_fasta, write_vcf
from variant_runs import (
    TEXT,
    make_blocks_small,
    run_calibrate,
    run_likelihood,
    run_predict,
    run_saturate,
    run_score,
    two_contigs,  # noqa: F401
)

from nucleotide_transformer import __version__
from nucleotide_transformer.errors import InputError, OutputExistsError
from nucleotide_transformer.files import LOCK_FILE
from nucleotide_transformer.inference import embedding_files
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.inference.blocks import Blocks
from nucleotide_transformer.inference.embedding_files import EmbedConfig, embed_file
from nucleotide_transformer.inference.embedding_tables import read_embeddings
from nucleotide_transformer.variants.config import STDIN
from nucleotide_transformer.variants.run import check_variants, score_variants
from nucleotide_transformer.variants.writing import Table, write_scores

BUSY = r"\.parts: another process writes there: wait for it, or end it"


@pytest.fixture
def embed_config(tmp_path):
    with (tmp_path / "a.csv").open("w") as file:
        rows = [(f"s{i}", TEXT[i : i + 9]) for i in range(6)]
        csv.writer(file).writerows([("name", "sequence"), *rows])
    one = BatchConfig(num_devices=1, batch_tokens=64)
    return EmbedConfig(model="m", input=tmp_path / "a.csv", output=tmp_path / "x.npz", batching=one)


@pytest.mark.parametrize(
    "run", [run_likelihood, run_predict, run_saturate, run_calibrate, run_score]
)
def test_a_command_under_way_is_not_started_again(model, tmp_path, fasta, monkeypatch, run):
    """With other settings neither: those of the first would be gone."""
    make_blocks_small(monkeypatch)
    whole, again = tmp_path / "whole", tmp_path / "again"
    for folder in (whole, again):
        folder.mkdir()
    wanted = [path.read_bytes() for path in run(model, fasta, whole)]
    other = dataclasses.replace(model, params=random_params(V2, seed=1))
    add, refused = Blocks.add, []

    def start_others(self, **arrays):
        if len(refused) < 2:
            refused.append(len(self.paths))
            for another in (model, other):
                with pytest.raises(InputError, match=BUSY) as raised:
                    run(another, fasta, again)
                assert "\n" not in str(raised.value)
        add(self, **arrays)

    monkeypatch.setattr(Blocks, "add", start_others)
    assert [path.read_bytes() for path in run(model, fasta, again)] == wanted
    assert refused == [0, 1]
    assert not list(again.glob("*.parts"))


def test_embeddings_under_way_are_not_started_again(model, embed_config, monkeypatch):
    """From before the first part until the output is there."""
    refused, add = [], Blocks.add

    def start_another(self, **arrays):
        if len(refused) < 3:
            refused.append(len(self.paths))
            with pytest.raises(InputError, match=BUSY):
                embed_file(model, embed_config)
        add(self, **arrays)

    monkeypatch.setattr(embedding_files, "PART_BYTES", 1)
    monkeypatch.setattr(Blocks, "add", start_another)
    table = read_embeddings(embed_file(model, embed_config))
    assert table.name == [f"s{i}" for i in range(6)]
    assert refused == [0, 1, 2]
    assert not list(embed_config.output.parent.glob("*.parts"))


def test_one_that_comes_when_the_first_has_just_ended_is_told(model, embed_config):
    totals = embedding_files.check_files(embed_config)
    embed_file(model, embed_config, totals=totals)
    with pytest.raises(OutputExistsError, match=r"x\.npz: exists already"):
        embed_file(model, embed_config, totals=totals)
    assert not list(embed_config.output.parent.glob("*.parts"))


def test_the_lock_of_a_killed_or_refused_run_holds_nothing_up(model, embed_config):
    blocks = Blocks(embed_config.output)
    blocks.folder.mkdir()
    blocks.keep_settings({"version": __version__, "model": "other"})
    blocks.add(start=np.arange(2))
    (blocks.folder / "block-00000001.npz.partial").touch()
    (blocks.folder / LOCK_FILE).touch()
    for _ in range(2):
        with pytest.raises(InputError, match="unfinished run with model = 'other', not 'm'"):
            embed_file(model, embed_config)
    blocks.paths[0].unlink()
    (blocks.folder / "notes.txt").write_text("mine")
    embed_file(model, embed_config)
    assert [path.name for path in blocks.folder.iterdir()] == ["notes.txt"]


def test_a_file_system_without_locks_embeds(model, embed_config, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", fail)
    embed_file(model, embed_config)
    assert not list(embed_config.output.parent.glob("*.parts"))


def test_fewer_embeddings_than_sequences_are_no_output(model, embed_config, monkeypatch):
    embed = embedding_files.embed

    def skip_last(*arguments, **options):
        return list(embed(*arguments, **options))[:-1]

    monkeypatch.setattr(embedding_files, "embed", skip_last)
    with pytest.raises(InputError, match=r"x\.npz\.parts: 5 sequences, not 6: another process"):
        embed_file(model, embed_config)
    assert not embed_config.output.exists()


def test_a_copy_of_standard_input_is_held_until_it_is_scored(model, tmp_path, monkeypatch):
    fasta = write_fasta(tmp_path / "big.fa")
    data = write_vcf(tmp_path / "in.vcf", make_rows()).read_bytes()

    def check():
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
        return check_variants(config)

    config = make_config(tmp_path, fasta, STDIN, "x.vcf", scores=("llr",))
    variants = check()
    with pytest.raises(InputError, match=BUSY):
        check()
    del variants  # as a process that ends
    variants = check()
    assert score_variants(model, config, variants=variants).num_scored == 6
    assert not list(tmp_path.glob("*.parts"))


def test_fewer_scores_than_variants_are_no_output(model, tmp_path):
    fasta = write_fasta(tmp_path / "big.fa")
    source = write_vcf(tmp_path / "in.vcf", make_rows())
    config = make_config(tmp_path, fasta, source, "x.vcf", scores=("llr",))
    variants = check_variants(config)
    for count in (variants.num_alleles + 1, variants.num_alleles - 1):
        output = tmp_path / f"{count}.vcf"
        with pytest.raises(InputError, match=r"in\.vcf: 14 variants, not 1[35] as when they were"):
            score_variants(
                model,
                dataclasses.replace(config, output=output),
                variants=variants._replace(num_alleles=count),
            )
        assert not output.exists()
    table = Table(source, ("llr",), variants.contigs, True, {})
    for count, line in ((3, "line 7: "), (15, "")):
        with pytest.raises(InputError, match=rf"in\.vcf: {line}has changed since its variants"):
            write_scores(config.output, table, [([0.5], "")] * count)
    assert not config.output.exists()
