"""Embeddings kept on disk, probes of layers, and how one of them is chosen."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_genomes import reverse_complement
from small_models import V2, save_model
from task_folders import draw, make_model, write_rows, write_task

from nucleotide_transformer import cli
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning import embedding_store
from nucleotide_transformer.finetuning.embedding_store import EmbeddingStore
from nucleotide_transformer.finetuning.labels import LabelledSequences, read_labelled
from nucleotide_transformer.finetuning.probe import (
    ProbeConfig,
    fit_probe,
    predict_layer,
    read_tables,
    run_probe,
)
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.inference.embedding import embed_array
from nucleotide_transformer.pretrained import Model, randomise
from nucleotide_transformer.weights.adapter_files import Strand

ONE = BatchConfig(num_devices=1)
TEXTS = ["ACGTTGCAAG", "GGGCATTTTTTA", "ACGTTGCAAG", "TTTACC"]


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


def test_a_store_holds_what_embed_gives(tmp_path: Path, model: Model) -> None:
    store = EmbeddingStore(tmp_path, model, batching=ONE)
    assert store.layers == (0, 1, 2)
    store.add(TEXTS, "both")
    for layer in store.layers:
        one = embed_array(model, TEXTS, layer=layer, batching=ONE)
        other = embed_array(
            model, [reverse_complement(text) for text in TEXTS], layer=layer, batching=ONE
        )
        found = store.load(TEXTS, "both", layer)
        assert (found.dtype, found.shape) == (np.float32, (4, V2.embed_dim))
        np.testing.assert_allclose(found, (one + other) / 2, rtol=1e-5, atol=1e-5)
    store.add(TEXTS[:1], "one")
    single = embed_array(model, TEXTS[:1], batching=ONE)
    np.testing.assert_allclose(store.load(TEXTS[:1], "one", 2), single, rtol=1e-5, atol=1e-5)


def test_each_sequence_is_computed_once(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    real = embedding_store.embed

    def count(model: Model, sequences: Any, **options: Any) -> Iterator[Any]:
        def listen() -> Iterator[str]:
            for text in sequences:
                computed.append(text)
                yield text

        return real(model, listen(), **options)

    monkeypatch.setattr(embedding_store, "embed", count)
    EmbeddingStore(tmp_path, model, batching=ONE).add(TEXTS, "one")
    assert computed == [TEXTS[0], TEXTS[1], TEXTS[3]]
    again = EmbeddingStore(tmp_path, model, batching=ONE)
    assert again.count_missing([*TEXTS, "AAAA"], "one") == 1
    again.add([*TEXTS, "AAAA"], "one")
    assert computed[3:] == ["AAAA"]
    assert again.load(["AAAA", TEXTS[3]], "one", 1).shape == (2, V2.embed_dim)


def test_a_stop_keeps_what_is_finished(tmp_path: Path, model: Model) -> None:
    done: list[int] = []

    def stop_after_two() -> None:
        done.append(1)
        if len(done) == 2:
            raise KeyboardInterrupt

    store = EmbeddingStore(tmp_path, model, batching=ONE)
    with pytest.raises(KeyboardInterrupt):
        store.add(TEXTS, "one", advance=stop_after_two)
    again = EmbeddingStore(tmp_path, model, batching=ONE)
    assert again.count_missing(TEXTS, "one") == 1
    again.add(TEXTS, "one")
    whole = EmbeddingStore(tmp_path / "other", model, batching=ONE)
    whole.add(TEXTS, "one")
    found, expected = (store.load(TEXTS, "one", 2) for store in (again, whole))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_missing_part_is_computed_again_and_no_other_is_replaced(
    tmp_path: Path, model: Model
) -> None:
    texts = ["ACGTTGCAAG", "GGGCATTTTTTA", "TTTACC"]
    store = EmbeddingStore(tmp_path, model, batching=ONE)
    for text in texts:  # a part each
        store.add([text], "one")
    expected = store.load(texts, "one", 2)
    (tmp_path / "part-000001.npz").unlink()
    again = EmbeddingStore(tmp_path, model, batching=ONE)
    assert again.count_missing(texts, "one") == 1
    again.add(texts, "one")
    np.testing.assert_allclose(again.load(texts, "one", 2), expected, rtol=1e-5, atol=1e-5)
    reopened = EmbeddingStore(tmp_path, model, batching=ONE)
    assert reopened.count_missing(texts, "one") == 0
    damaged = tmp_path / "part-000000.npz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    said = r"part-000000\.npz: damaged: delete it, and its embeddings are computed again"
    with pytest.raises(InputError, match=said):
        reopened.load(texts, "one", 2)
    with pytest.raises(InputError, match=said):
        EmbeddingStore(tmp_path, model, batching=ONE)


def test_unknown_sequences_are_zero(tmp_path: Path, model: Model) -> None:
    store = EmbeddingStore(tmp_path, model, layers=(1,), batching=ONE)
    store.add(["NNNNNN"], "both")
    assert not store.load(["NNNNNN"], "both", 1).any()


def test_a_store_belongs_to_one_network(tmp_path: Path, model: Model) -> None:
    EmbeddingStore(tmp_path, model, layers=(1,))
    with pytest.raises(InputError, match=r"holds embeddings with parameters = '\w+', not '\w+'"):
        EmbeddingStore(tmp_path, randomise(model, 0), layers=(1,))
    with pytest.raises(InputError, match=re.escape("layers = [1], not [0, 1, 2]")):
        EmbeddingStore(tmp_path, model)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings\.json: damaged: delete the folder"):
        EmbeddingStore(tmp_path, model, layers=(1,))


class Planted(EmbeddingStore):
    """Layer 1 tells the classes apart in the training set alone, layer 2 more in the test set."""

    def __init__(self, train: LabelledSequences, test: LabelledSequences) -> None:
        self.layers = (1, 2)
        random = np.random.default_rng(0)
        self._planted = {}
        for data, shifts in ((train, {1: 3.0, 2: 1.0}), (test, {1: 0.0, 2: 6.0})):
            for layer, shift in shifts.items():
                x = random.standard_normal((len(data), 4)).astype(np.float32)
                x[:, 0] += shift * data.labels
                self._planted[data.sequences[0], layer] = x

    def load(self, sequences: Sequence[str], _: Strand, layer: int) -> np.ndarray:
        return self._planted[sequences[0], layer]


def test_the_layer_is_chosen_within_the_training_set(tmp_path: Path) -> None:
    """The test set would choose layer 2."""
    write_task(tmp_path, "a")
    train, test = (read_labelled(tmp_path / "a" / f"{part}.csv") for part in ("train", "test"))
    store = Planted(train, test)
    fitted_probe = fit_probe(store, train, strand="one")
    assert fitted_probe.chosen == 1
    scores = {layer: fitted.score for layer, fitted in fitted_probe.layers.items()}
    assert scores[1] > scores[2] + 0.2
    right = {}
    for layer in store.layers:
        said = predict_layer(store, fitted_probe, test.sequences, "one", layer).argmax(axis=1)
        right[layer] = np.mean(said == test.labels)
    assert right[2] > right[1] + 0.2


def make_config(folder: Path, **changes: Any) -> ProbeConfig:
    files = {part: folder / "a" / f"{part}.csv" for part in ("train", "test")}
    return ProbeConfig(output=folder / "out", batching=ONE, **(files | changes))


def probe(model: Model, config: ProbeConfig, **options: Any) -> dict[str, Any]:
    return run_probe(model, *read_tables(config), config, **options)


def test_a_probe_beside_its_random_twin(tmp_path: Path, model: Model) -> None:
    write_task(tmp_path, "a")
    steps: list[tuple[str, int]] = []

    def note(title: str, total: int) -> Any:
        steps.append((title, total))
        return lambda: None

    result = probe(model, make_config(tmp_path), steps=note)
    assert [total for _, total in steps] == [60, 3, 60, 3]
    assert json.loads((tmp_path / "out" / "probe.json").read_text()) == result
    assert (tmp_path / "out" / "probe.png").stat().st_size > 5_000
    assert (result["num_train"], result["num_test"]) == (40, 20)
    for network in result["networks"].values():
        assert list(network["layers"]) == ["0", "1", "2"]
        scores = {k: row["cross_validation"]["mcc"] for k, row in network["layers"].items()}
        assert scores[str(network["chosen_layer"])] == max(scores.values())
        assert max(scores.values()) > 0.5
    steps.clear()
    write_rows(tmp_path / "turned.csv", [(n, s, str(1 - int(y))) for n, s, y in draw(20, 1)])
    turned = probe(model, make_config(tmp_path, test=tmp_path / "turned.csv"), steps=note)
    assert [total for _, total in steps] == [0, 3, 0, 3]  # nothing is computed again
    for name, network in turned["networks"].items():
        before = result["networks"][name]
        assert network["chosen_layer"] == before["chosen_layer"]
        layer = str(before["chosen_layer"])
        flipped = -before["layers"][layer]["test"]["mcc"]
        assert network["layers"][layer]["test"]["mcc"] == pytest.approx(flipped, abs=1e-4)


def test_options_of_a_probe(tmp_path: Path, model: Model) -> None:
    """No control, one layer, a network on it, and leaks dropped."""
    write_task(tmp_path, "a")
    rows = draw(40, 0)
    write_rows(tmp_path / "a" / "test.csv", [*draw(18, 1), rows[0], rows[1]])
    config = make_config(
        tmp_path, layers=(2,), control=False, estimator="mlp", drop_leaks=True, strand="one"
    )
    result = probe(model, config)
    assert list(result["networks"]) == ["pretrained"]
    assert list(result["networks"]["pretrained"]["layers"]) == ["2"]
    assert result["leaks"] == {"identical": 2, "reverse_complement": 0, "near": 0, "train": 2}
    assert result["num_train"] == 38


def test_a_label_of_the_test_set_alone_is_one_line(tmp_path: Path, model: Model) -> None:
    write_task(tmp_path, "a")
    write_rows(tmp_path / "a" / "test.csv", [("x", "ACGT", "2")])
    with pytest.raises(InputError, match="row 1: label = '2': the training set has no such label"):
        probe(model, make_config(tmp_path))
    assert not (tmp_path / "out").exists()
    config = make_config(tmp_path)
    with pytest.raises(InputError, match="seed = -1"):
        dataclasses.replace(config, seed=-1)


def test_the_command_prints_scores_by_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(tmp_path, "a")
    save_model(tmp_path / "model", V2, "huggingface")
    words = [f"--{part}={tmp_path / 'a' / f'{part}.csv'}" for part in ("train", "test")]
    words += [f"--model={tmp_path / 'model'}", f"--output={tmp_path / 'out'}", "--no-control"]
    assert cli.main(["probe", *words, "--layers", "1", "2", "--batching.num-devices", "1"]) == 0
    out = capsys.readouterr().out
    assert "of 20 test sequences, the training set has 0 too" in out
    rows = re.findall(r"^ +([12])([* ])", out, re.MULTILINE)
    assert [layer for layer, _ in rows] == ["1", "2"]
    assert sorted(mark for _, mark in rows) == [" ", "*"]
