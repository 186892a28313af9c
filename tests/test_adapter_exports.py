"""Adapters for others: merged into a whole model, or as peft has them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_models import V1, random_params, save_model
from small_tasks import make_model

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model.task_network import HEAD
from nucleotide_transformer.pretrained import export_model, load_pretrained
from nucleotide_transformer.weights.adapter_files import (
    Adapter,
    expect_params,
    load_adapter,
    save_adapter,
    save_peft,
)
from nucleotide_transformer.weights.assembly import digest_params
from nucleotide_transformer.weights.hub import PACKAGED


def make_adapter(model, method, *, base="elsewhere", seed=0):
    """An adapter of random numbers, as if it were trained."""
    adapter = Adapter(
        params={},
        method=method,
        lora_rank=4,
        lora_alpha=6.0,
        lora_sites=("query", "value", "attention_output", "fc2"),
        kind="classification",
        classes=("no", "yes"),
        pooling="mean",
        layers=(),
        strand="both",
        max_tokens=64,
        base=str(base),
        base_digest=digest_params(model.params),
        random_seed=None,
        metrics={"mcc": 0.5},
        config={},
    )
    random = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: 0.3 * random.standard_normal(leaf.shape, np.float32),
        expect_params(adapter, model.params, model.config),
    )
    return dataclasses.replace(adapter, params=params)


@pytest.fixture(scope="module")
def model():
    return dataclasses.replace(make_model(config=V1), params=random_params(V1))


@pytest.fixture(scope="module", params=["ia3", "lora", "full", "head"])
def saved(model, request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "mine"
    save_adapter(folder, make_adapter(model, request.param))
    return folder


def test_a_merged_export_is_the_adapted_model(model, saved, tmp_path):
    """Whole, without the adapter and its base; and its card says what it was made from."""
    export_model(saved, tmp_path / "merged", merge=True, base=model)
    alone, adapted = load_pretrained(tmp_path / "merged"), load_pretrained(saved, base=model)
    tokens = model.tokenizer.encode_batch(["ACGTACGTTTGA"])
    one, other = alone(tokens, layers=(2,)), adapted(tokens, layers=(2,))
    np.testing.assert_array_equal(one.embeddings[2], other.embeddings[2])
    assert alone.head is None
    assert not any(HEAD in name or "lora" in name for name in alone.params)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "with the adapter mine merged into it (without its head)" in card


def test_lora_in_the_layout_of_peft(model, tmp_path):
    """[rank, input] and [output, rank], named as the layers of transformers."""
    adapter = make_adapter(model, "lora")
    save_adapter(tmp_path / "mine", adapter)
    export_model(tmp_path / "mine", tmp_path / "peft", layout="peft", base=model)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 6.0, "LORA")
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 4 * 2
    name = "base_model.model.esm.encoder.layer.1.output.dense"
    leaves = adapter.params["esm_transformer/attention_layer_1/~/lora/fc2"]
    np.testing.assert_array_equal(tensors[f"{name}.lora_A.weight"], leaves["down"].T)
    np.testing.assert_array_equal(tensors[f"{name}.lora_B.weight"], leaves["up"].T)
    for folder in ("mine", "peft"):
        assert len({file.stat().st_mode for file in (tmp_path / folder).iterdir()}) == 1
    export_model(tmp_path / "mine", tmp_path / "peft", layout="peft", base=model, overwrite=True)


def test_peft_names_no_base_that_is_another(model, tmp_path):
    adapter = make_adapter(model, "lora")
    with pytest.raises(
        InputError, match=r"random_seed = 7: the base has random weights, .*: merge it"
    ):
        save_peft(tmp_path, dataclasses.replace(adapter, random_seed=7))
    first = tmp_path / "run" / "adapter"
    save_adapter(first, adapter)
    for base in (first, first.parent):
        with pytest.raises(InputError, match=rf"base = '{base}': .* is an adapter itself: merge"):
            save_peft(tmp_path, dataclasses.replace(adapter, base=str(base)))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("500M_human_ref", "InstaDeepAI/nucleotide-transformer-500m-human-ref"),
        ("someone/else", "someone/else"),
        (PACKAGED, None),
    ],
)
def test_peft_gets_the_name_that_the_hub_has(base, name, model, tmp_path):
    save_peft(tmp_path, make_adapter(model, "lora", base=base))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == name


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_a_number_that_float32_does_not_have(number, model, tmp_path):
    save_adapter(tmp_path, make_adapter(model, "head"))
    file = tmp_path / "adapter.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    wrong = np.full(tensors[name].shape, number)
    save_file(tensors | {name: wrong}, file)
    with pytest.raises(
        InputError, match=f"{name}: has values that are no finite numbers of float32$"
    ):
        load_adapter(tmp_path)


def test_a_metric_that_is_not_defined_is_null(model, tmp_path):
    """It was once NaN, which is no JSON."""
    save_adapter(
        tmp_path, dataclasses.replace(make_adapter(model, "head"), metrics={"mcc": np.nan})
    )
    file = tmp_path / "adapter.json"
    assert json.loads(file.read_text())["metrics"] == {"mcc": None}
    for text in ("null", "NaN"):
        file.write_text(file.read_text().replace('"mcc": null', f'"mcc": {text}'))
        assert np.isnan(load_adapter(tmp_path).metrics["mcc"])


def test_an_export_says_what_it_can_not_do(model, saved, tmp_path):
    for fields in ({}, {"merge": True, "layout": "peft"}):
        with pytest.raises(InputError, match="mine: is an adapter: give either merge, "):
            export_model(saved, tmp_path / "out", base=model, **fields)
    method = json.loads((saved / "adapter.json").read_text())["method"]
    if method != "lora":
        with pytest.raises(InputError, match=f"method = '{method}': the peft layout is for lora"):
            export_model(saved, tmp_path / "out", base=model, layout="peft")
    save_model(tmp_path / "plain", V1, "huggingface")
    with pytest.raises(InputError, match="plain: is no adapter: without merge"):
        export_model(tmp_path / "plain", tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()
