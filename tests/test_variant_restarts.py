"""Commands on regions and sequences that were stopped, and the memory that they take."""

import dataclasses
import tracemalloc
import types

import numpy as np
import pytest
from small_models import (
    V2,
    random_model,  # noqa: F401
    random_params,
)
from small_variants import OPTIONS, make_text
from variant_runs import (
    ONE,
    SHORT,
    TEXT,
    make_blocks_small,
    run_calibrate,
    run_likelihood,
    run_predict,
    run_saturate,
    run_score,
    two_contigs,  # noqa: F401
)

from nucleotide_transformer.config import ComputeConfig
from nucleotide_transformer.data.sequences import SequenceRecord
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.inference.blocks import Blocks
from nucleotide_transformer.inference.nucleotides import Frame, Frames
from nucleotide_transformer.variants import pieces, tracks
from nucleotide_transformer.variants.background import CalibrateConfig, calibrate_to_file
from nucleotide_transformer.variants.tracks import (
    LikelihoodConfig,
    PredictConfig,
    write_likelihoods,
    write_probabilities,
)


def stop_at(monkeypatch, number):
    """Ctrl-C once at a block; returns the list of blocks that were computed to the end."""
    kept, add = [], Blocks.add

    def add_or_stop(self, **arrays):
        if len(kept) == number - 1 and "stopped" not in kept:
            kept.append("stopped")
            raise KeyboardInterrupt
        add(self, **arrays)
        kept.append(len(self.paths))

    monkeypatch.setattr(Blocks, "add", add_or_stop)
    return kept


@pytest.mark.parametrize("run", [run_likelihood, run_predict, run_saturate, run_calibrate])
def test_a_stopped_command_resumes_at_its_last_block(model, tmp_path, fasta, monkeypatch, run):
    """Finished blocks are not computed again, and nothing differs at the end."""
    make_blocks_small(monkeypatch)
    whole, again = tmp_path / "whole", tmp_path / "again"
    for folder in (whole, again):
        folder.mkdir()
    wanted = [path.read_bytes() for path in run(model, fasta, whole)]
    kept = stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run(model, fasta, again)
    assert [path.suffix for path in again.iterdir()] == [".parts"]
    other = dataclasses.replace(model, params=random_params(V2, seed=1))
    with pytest.raises(ValueError, match=r"\.parts: an unfinished run with parameters = "):
        run(other, fasta, again)
    found = [path.read_bytes() for path in run(model, fasta, again)]
    assert kept[:2] == [1, "stopped"]
    assert kept[2:] == list(range(2, 2 + len(kept[2:])))
    assert found == wanted
    assert not list(again.glob("*.parts"))


@pytest.mark.parametrize(
    "run", [run_likelihood, run_predict, run_saturate, run_calibrate, run_score]
)
def test_logits_that_are_rounded_otherwise_are_of_another_run(
    model, tmp_path, fasta, monkeypatch, run
):
    make_blocks_small(monkeypatch)
    stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run(model, fasta, tmp_path)
    rounded = dataclasses.replace(model, compute=ComputeConfig(output_dtype="bfloat16"))
    message = r"\.parts: an unfinished run with output_dtype = 'float32', not 'bfloat16'"
    with pytest.raises(InputError, match=message):
        run(rounded, fasta, tmp_path)
    assert run(model, fasta, tmp_path)


@pytest.mark.parametrize("run", [run_saturate, run_calibrate, run_score])
def test_a_genome_of_other_letters_is_refused(model, tmp_path, fasta, monkeypatch, run):
    """Even if its name, and the names and lengths of its contigs, are the same."""
    make_blocks_small(monkeypatch)
    stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run(model, fasta, tmp_path)
    text = fasta.read_text()
    other = "A" if TEXT[-1] != "A" else "C"
    fasta.write_text(text.replace(TEXT, TEXT[:-1] + other))
    with pytest.raises(InputError, match=r"\.parts: an unfinished run with .*letters") as error:
        run(model, fasta, tmp_path)
    assert "\n" not in str(error.value)
    fasta.write_text(text)  # a file of another time
    run(model, fasta, tmp_path)


@pytest.mark.parametrize("run", [run_likelihood, run_predict, run_saturate, run_calibrate])
def test_an_error_before_the_first_block_leaves_no_folder(model, tmp_path, fasta, monkeypatch, run):
    """The command with its mistake mended is not that of an unfinished run."""
    stop_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        run(model, fasta, tmp_path)
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("N" * 90, {}, "no 60 nucleotides in a row without N"),
        (TEXT, {"window": 1}, "window = 1: must be 3 or above"),
    ],
)
def test_calibrate_leaves_nothing_of_bad_input(model, tmp_path, fasta, text, options, message):
    fasta.write_text(f">chr1\n{text}\n")
    config = CalibrateConfig(fasta=fasta, output=tmp_path / "t.json", **OPTIONS | options)
    with pytest.raises(InputError, match=message):
        calibrate_to_file(model, config)
    assert not list(tmp_path.glob("*.parts"))


def test_a_folder_without_a_block_is_of_no_run(tmp_path):
    """A killed command leaves one."""
    folder = tmp_path / "x.parts"
    folder.mkdir()
    (folder / "settings.json").write_text('{"seed": 0}')
    with Blocks(tmp_path / "x") as blocks:
        blocks.keep_settings({"seed": 1})
    assert not folder.exists()


def test_a_damaged_block_is_named(tmp_path):
    with Blocks(tmp_path / "x") as blocks:
        blocks.add(values=np.arange(3))
        data = blocks.paths[0].read_bytes()
        for damaged in (data[:-30], b"", b"text"):
            blocks.paths[0].write_bytes(damaged)
            message = r"block-00000000\.npz: damaged: delete the folder"
            with pytest.raises(ValueError, match=message):
                blocks.load(0)


def test_a_missing_block_is_named(tmp_path):
    """Or all that follow would be taken for those before them."""
    folder = tmp_path / "x.parts"
    folder.mkdir()
    for number in (0, 2):
        np.savez(folder / f"block-{number:08d}.npz", value=number)
    message = r"x\.parts: block-00000001\.npz is missing: delete the folder"
    with pytest.raises(InputError, match=message), Blocks(tmp_path / "x"):
        pass
    (folder / "block-00000002.npz").unlink()  # the last ones are computed again
    with Blocks(tmp_path / "x") as blocks:
        assert len(blocks.paths) == 1


@pytest.mark.parametrize("masked", [True, False])
def test_blocks_have_the_windows_of_the_whole_sequence(model, tmp_path, fasta, monkeypatch, masked):
    """Wherever they are cut, in the middle of a token too."""
    found = []
    for size in (1000, 37):
        monkeypatch.setattr(pieces, "BLOCK_ON_CPU", size)
        monkeypatch.setattr(pieces, "BLOCK_SEEN", size)
        options = {"input": fasta, "masked": masked, "batching": SHORT}
        config = LikelihoodConfig(output=tmp_path / f"{size}.tsv", **options)
        write_likelihoods(model, config)
        probabilities = PredictConfig(output=tmp_path / f"p{size}.tsv", **options)
        write_probabilities(model, probabilities)
        for output in (config.output, probabilities.output):
            rows = [line.split("\t") for line in output.read_text().splitlines()[1:]]
            found.append(np.array([[float(x) for x in row[-2:]] for row in rows]))
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4)
    np.testing.assert_allclose(found[3], found[1], rtol=1e-4)
    assert found[0].shape == (2, 2)
    assert found[1].shape == (110, 2)


def test_memory_of_likelihoods_is_flat_in_the_number_of_sequences(model, tmp_path, monkeypatch):
    """Of reading, keeping and writing; scores are taken for granted."""

    def score(model, choices, **options):
        return (np.zeros(len(choice.wanted), np.float32) for choice in choices)

    monkeypatch.setattr(tracks, "score_tokens", score)
    monkeypatch.setattr(pieces, "BLOCK_ON_CPU", 3_000)
    peaks = []
    for count in (8, 64):
        source = tmp_path / f"{count}.fa"
        source.write_text("".join(f">{i}\n{make_text(1_500, i)}\n" for i in range(count)))
        config = LikelihoodConfig(input=source, output=tmp_path / f"{count}.tsv", batching=ONE)
        tracemalloc.start()
        write_likelihoods(model, config)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 100_000


def test_a_block_is_larger_off_the_cpu_and_a_setting(model, tmp_path, fasta, monkeypatch):
    """Blocks are counted: those of another size are of another run."""
    stop_at(monkeypatch, 2)
    monkeypatch.setattr(pieces, "BLOCK_ON_CPU", 40)
    config = LikelihoodConfig(input=fasta, output=tmp_path / "l.tsv", batching=SHORT)
    with pytest.raises(KeyboardInterrupt):
        write_likelihoods(model, config)
    gpu = types.SimpleNamespace(platform="gpu")
    monkeypatch.setattr(pieces, "find_default_device", lambda: gpu)
    with pytest.raises(InputError, match="block_nucleotides = 40, not 65536"):
        write_likelihoods(model, config)


def test_planning_a_block_takes_no_more_for_a_longer_sequence():
    """Neither a look at each token, nor at each window."""
    size = 1_000_000
    starts, widths = np.arange(size) * 6 - 6, np.full(size, 6)
    starts[0] = -1
    text = make_text(10)
    record = SequenceRecord("x", text, "x", 0, 6 * size)
    part = pieces.Part(pieces.Piece(record, 0, 6 * size, 6 * size), 60_001, 60_100)
    frame = Frame(starts, starts, widths == 6)
    frames = Frames(text, [frame], np.zeros(6 * size, bool))
    tracemalloc.start()
    choice, places = tracks._choose_tokens(part, starts, starts, widths, frame.is_kmer)
    needed = frames.find_needed(frame, 60_001, 60_100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000
    assert choice.wanted.tolist() == list(range(10_002, 10_018))
    assert places[:, 0].tolist() == list(range(60_006, 60_100, 6))
    assert needed.tolist() == list(range(10_001, 10_018))
