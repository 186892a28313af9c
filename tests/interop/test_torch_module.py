"""The PyTorch module of an exported second-generation folder, offline, against the JAX model.

The tests run on transformers 5 and 4.46, in an environment of its own for the latter.
"""

import dataclasses
import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from others import torch, transformers
from small_models import AGRO, V2, V2_BIASED, random_params, save_model

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.pretrained import Model, export_model, load_pretrained
from nucleotide_transformer.tokenizers import KmerTokenizer

SEQUENCES = ["ATTCCGATTCCGATT<mask>CCGACGTNACGT", "ATTTCTCTCTCTCTCTGAG", "ATG"]
TOLERANCE = 1e-4
"""Absolute, on values of order 1, in float32."""
CONFIGS = {
    "v2": V2,
    "with biases": V2_BIASED,
    "without gate": dataclasses.replace(V2, ffn_gated=False, ffn_activation="gelu"),
    "learned positions": dataclasses.replace(
        AGRO, ffn_gated=True, ffn_activation="swish", token_dropout=True
    ),
}

PUBLISHED = """
from transformers import AutoTokenizer, AutoModelForMaskedLM
import torch

# Import the tokenizer and the model
tokenizer = AutoTokenizer.from_pretrained("{folder}", trust_remote_code=True)
model = AutoModelForMaskedLM.from_pretrained("{folder}", trust_remote_code=True)

# Choose the length to which the input sequences are padded.
max_length = tokenizer.model_max_length

# Create a dummy dna sequence and tokenize it
sequences = ["ATTCCGATTCCGATTCCG", "ATTTCTCTCTCTCTCTGAGATCGATCGATCGAT"]
tokens_ids = tokenizer.batch_encode_plus(sequences, return_tensors="pt", padding="max_length", max_length = max_length)["input_ids"]

# Compute the embeddings
attention_mask = tokens_ids != tokenizer.pad_token_id
torch_outs = model(
    tokens_ids,
    attention_mask=attention_mask,
    encoder_attention_mask=attention_mask,
    output_hidden_states=True
)

# Compute sequences embeddings
embeddings = torch_outs['hidden_states'][-1].detach().numpy()

# Add embed dimension axis
attention_mask = torch.unsqueeze(attention_mask, dim=-1)

# Compute mean embeddings per sequence
mean_sequence_embeddings = torch.sum(attention_mask*embeddings, axis=-2)/torch.sum(attention_mask, axis=1)
"""  # noqa: E501
"""The example of the published model card."""


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and modules are copied to a folder of this test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for module in (transformers.utils.hub, transformers.dynamic_module_utils):
        monkeypatch.setattr(module, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def make_model(config: ModelConfig) -> Model:
    tokenizer = KmerTokenizer(vocabulary=config.vocabulary, k=config.k)
    return Model(params=random_params(config), config=config, tokenizer=tokenizer)


def open_folder(folder: Path, **options: Any) -> Any:
    auto = transformers.AutoModelForMaskedLM
    return auto.from_pretrained(folder, trust_remote_code=True, **options).eval()


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_the_published_example_runs_word_for_word(tmp_path: Path) -> None:
    model = make_model(V2)
    model.save_pretrained(tmp_path / "m")
    names: dict[str, Any] = {}
    exec(PUBLISHED.format(folder=tmp_path / "m"), names)
    tokens = names["tokens_ids"].numpy()
    assert tokens.shape == (2, V2.max_positions)
    np.testing.assert_array_equal(
        tokens[:, :12], model.tokenizer.encode_batch(names["sequences"], 12)
    )
    keep = tokens != 1
    ours = model(tokens, layers=(2,))
    found = names["torch_outs"]
    assert np.abs(ours.logits - found.logits.detach().numpy())[keep].max() < TOLERANCE
    assert np.abs(ours.embeddings[2] - names["embeddings"])[keep].max() < TOLERANCE
    wanted = np.sum(ours.embeddings[2] * keep[..., None], 1) / keep.sum(1)[:, None]
    assert np.abs(names["mean_sequence_embeddings"].numpy() - wanted).max() < TOLERANCE


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_module_gives_the_numbers_of_the_jax_model(kind: str, tmp_path: Path) -> None:
    model = make_model(CONFIGS[kind])
    model.save_pretrained(tmp_path / "m")
    tokens = model.tokenizer.encode_batch(SEQUENCES)
    tokens = np.vstack([tokens, *(np.full_like(tokens[:1], token) for token in (1, 2))])
    keep = tokens != 1
    assert not keep[-2].any()  # nothing but <pad>, and nothing but <mask>
    ids = torch.tensor(tokens, dtype=torch.long)
    with torch.no_grad():
        network = open_folder(tmp_path / "m")
        theirs = network(ids, output_hidden_states=True, output_attentions=True)
        fast = network(ids, attention_mask=ids != 1)
        loss = network(ids, labels=torch.where(ids == 1, -100, ids)).loss
    depth = CONFIGS[kind].num_layers
    ours = model(tokens, layers=range(depth + 1), attention=range(1, depth + 1))
    assert np.std(ours.logits) > 0.1
    for logits in (theirs.logits, fast.logits):
        assert logits.isfinite().all()
        assert np.abs(ours.logits - logits.numpy())[keep].max() < TOLERANCE
    assert len(theirs.hidden_states) == depth + 1
    for layer, hidden in enumerate(theirs.hidden_states):
        assert np.abs(ours.embeddings[layer] - hidden.numpy())[keep].max() < TOLERANCE
    pairs = (keep[:, :, None] & keep[:, None, :])[:, None]
    for layer, maps in enumerate(theirs.attentions, 1):
        assert maps.isfinite().all()
        assert np.abs((ours.attention[layer] - maps.numpy()) * pairs).max() < TOLERANCE
    shifted = np.asarray(ours.logits, np.float64)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    wanted = -np.take_along_axis(logs, tokens[..., None], -1)[..., 0][keep].mean()
    assert abs(float(loss) - wanted) < TOLERANCE


def test_another_base_of_the_rotary_angles(tmp_path: Path) -> None:
    """As in transformers' own module; our reader refuses it."""
    if not hasattr(transformers.EsmConfig(), "rope_theta"):
        pytest.skip("this transformers has one base")
    config = dataclasses.replace(CONFIGS["without gate"], ffn_bias=True)
    model = make_model(config)
    model.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    content = json.loads(file.read_text()) | {"ffn_gated": False, "add_bias_fnn": True}
    file.write_text(json.dumps(content | {"rope_theta": 50.0}))
    theirs = transformers.EsmForMaskedLM.from_pretrained(tmp_path / "m").eval()
    module = importlib.import_module(
        "nucleotide_transformer.weights.modeling_nucleotide_transformer"
    )
    ours = module.NucleotideTransformerForMaskedLM.from_pretrained(tmp_path / "m").eval()
    tokens = model.tokenizer.encode_batch(SEQUENCES[:1])
    ids = torch.tensor(tokens, dtype=torch.long)
    with torch.no_grad():
        found, expected = ours(ids).logits, theirs(ids).logits
    assert (found - expected).abs().max() < TOLERANCE
    assert np.abs(np.asarray(model(tokens).logits) - expected.numpy()).max() > 100 * TOLERANCE


def test_golden_weights_give_the_golden_values(shared: Path, tmp_path: Path) -> None:
    """Exported from the JAX files, as a released model would be."""
    folder = shared / "golden" / "jax_v2_small"
    expected = np.load(folder / "expected.npz")
    export_model(folder, tmp_path / "m")
    ids = torch.tensor(expected["tokens"], dtype=torch.long)
    with torch.no_grad():
        theirs = open_folder(tmp_path / "m")(ids, output_hidden_states=True)
    keep = expected["tokens"] != 1
    assert np.abs(theirs.logits.numpy() - expected["logits"])[keep].max() < TOLERANCE
    for layer in (1, 3):
        difference = theirs.hidden_states[layer].numpy() - expected[f"embeddings_{layer}"]
        assert np.abs(difference)[keep].max() < TOLERANCE


def test_nothing_in_the_folder_points_elsewhere(tmp_path: Path) -> None:
    make_model(V2).save_pretrained(tmp_path / "m")
    content = json.loads((tmp_path / "m" / "config.json").read_text())
    tokenizer = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    places = [*content["auto_map"].values(), tokenizer["auto_map"]["AutoTokenizer"][0]]
    module = (tmp_path / "m" / "modeling_nucleotide_transformer.py").read_text()
    assert "Apache License" in module
    for place in places:
        name, _, found = place.partition(".")
        assert name == "modeling_nucleotide_transformer"
        assert re.search(rf"^class {found}\(", module, re.MULTILINE)
    assert "InstaDeepAI" not in (tmp_path / "m" / "README.md").read_text()


def test_what_the_module_saves_is_read_here(tmp_path: Path) -> None:
    params = save_model(tmp_path / "m", V2, "huggingface")
    open_folder(tmp_path / "m").save_pretrained(tmp_path / "saved")
    found = load_pretrained(tmp_path / "saved")
    assert dataclasses.replace(found.config) == V2
    np.testing.assert_array_equal(
        found.params["esm_transformer/~/embed"]["embeddings"],
        params["esm_transformer/~/embed"]["embeddings"],
    )


def test_other_models_of_esm_stay_what_they_are(tmp_path: Path) -> None:
    """The class is registered for configs of its own."""
    make_model(V2).save_pretrained(tmp_path / "m")
    make_model(AGRO).save_pretrained(tmp_path / "plain")
    open_folder(tmp_path / "m")
    plain = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "plain")
    assert type(plain) is transformers.EsmForMaskedLM
