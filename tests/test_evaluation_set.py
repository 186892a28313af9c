"""Held-out sequences: fixed, usable, and spread over a split."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from test_dataset import (
    CHUNK,
    NUM_TOKENS,
    OVERLAP,
    TOKENIZER,
    build,
    locate,
    make_updates,
    manifest,
    read_all,
)

from nucleotide_transformer.data import dataset as dataset_module
from nucleotide_transformer.data.corpus import Manifest, SplitReader, open_split
from nucleotide_transformer.data.dataset import EvaluationSet, make_evaluation_set

__all__ = ["manifest"]


def evaluate(manifest: Manifest, split: str = "validation", **changes: int) -> EvaluationSet:
    arguments = {"sequence_tokens": NUM_TOKENS, "num_sequences": 4} | changes
    return make_evaluation_set(manifest, split, tokenizer=TOKENIZER, **arguments)


def test_evaluation_set_is_fixed_and_without_unknown_nucleotides(manifest: Manifest) -> None:
    records = read_all(manifest, "validation")
    end = OVERLAP + CHUNK
    usable = [r for r in records if len(r) >= end and b"N" not in r[OVERLAP:end]]
    assert len(usable) == 22
    assert {619, 620} < {len(r) for r in records}
    everything, genomes, absent = evaluate(manifest, num_sequences=10_000)
    assert absent == ("patchy",)
    assert (everything.dtype, everything.shape) == (np.int32, (len(usable), NUM_TOKENS))
    assert (everything > TOKENIZER.cls_token_id).sum() == len(usable) * (NUM_TOKENS - 1)
    for row, record in zip(everything, usable, strict=True):
        assert TOKENIZER.decode(row) == record[OVERLAP:end].decode()
    reader = open_split(manifest, "validation")
    species = [manifest.genomes[genome].species for genome in genomes]
    numbers = [records.index(record) for record in usable]
    assert species == [reader.locate(number).species for number in numbers]
    assert len(set(species)) > 1
    few = evaluate(manifest, num_sequences=5).tokens
    np.testing.assert_array_equal(few, evaluate(manifest, num_sequences=5).tokens)
    places = [usable.index(records[locate(row, records)[0]]) for row in few]
    assert places == sorted(set(places))
    assert max(np.diff([-1, *places, len(usable)])) <= 2 * len(usable) / 5  # evenly spread
    assert len(evaluate(manifest, num_sequences=len(usable)).tokens) == len(usable)


def test_a_species_is_absent_if_no_sequence_of_any_of_its_files_was_chosen(
    manifest: Manifest,
) -> None:
    """Of two files of one species one has no usable record; one sequence is of one species."""
    large, last, patchy, short = manifest.genomes
    patchy = dataclasses.replace(patchy, species="last")
    manifest = dataclasses.replace(manifest, genomes=(large, last, patchy, short))
    assert evaluate(manifest, num_sequences=10_000).absent == ()
    assert evaluate(manifest, num_sequences=1).absent == ("last",)


@pytest.mark.parametrize(
    ("split", "changes", "message"),
    [
        ("test", {}, ".*split 'test' has no record"),
        ("validation", {"sequence_tokens": 200}, "sequence_tokens = 200: needs 1194 nt"),
        ("validation", {"num_sequences": 0}, "num_sequences = 0: must be above 0"),
    ],
)
def test_bad_input_is_one_line(
    manifest: Manifest, split: str, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as error:
        evaluate(manifest, split, **changes)
    assert "\n" not in str(error.value)


def test_a_split_without_a_usable_record_is_an_error(tmp_path: Path) -> None:
    genomes = {"one": {"only": "ACGTN" * 200}}
    corpus = build(tmp_path, genomes, validation_contigs=("only",))
    with pytest.raises(ValueError, match="records of split 'validation' = 2: needs at least one"):
        evaluate(corpus)
    with pytest.raises(ValueError, match="split 'train' has no record"):
        make_updates(corpus)


def test_any_number_of_held_out_sequences_takes_some_records_at_a_time(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(manifest, num_sequences=12)
    sizes, read = [], SplitReader.read

    def spy(reader: SplitReader, indices: np.ndarray) -> list[bytes]:
        sizes.append(len(indices))
        return read(reader, indices)

    monkeypatch.setattr(SplitReader, "read", spy)
    monkeypatch.setattr(dataset_module, "_MOST_RECORDS", 5)
    found = evaluate(manifest, num_sequences=12)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    everything = evaluate(manifest, num_sequences=10**12)
    assert len(everything.tokens) >= len(found.tokens)
    assert max(sizes) == 5
