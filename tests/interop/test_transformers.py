"""Exports in transformers, and its files here; needs both it and torch: `make test-interop`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from others import torch, transformers
from small_models import AGRO, V1, V2, assert_same_params, random_params

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.pretrained import Model, load_pretrained
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.types import Params

SEQUENCES = ["ATTCCGATTCCGATT<mask>CCGACGTNACGT", "ATTTCTCTCTCTCTCTGAG", "ATG"]
TOLERANCE = 1e-4
"""Absolute, on logits of order 1, in float32; the largest difference seen is 4.2e-7."""


def make_model(config: ModelConfig, seed: int = 0) -> Model:
    tokenizer = KmerTokenizer(vocabulary=config.vocabulary, k=config.k)
    return Model(params=random_params(config, seed), config=config, tokenizer=tokenizer)


def call_transformers(folder: Path, tokens: np.ndarray) -> Any:
    network = transformers.EsmForMaskedLM.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    ids = torch.tensor(tokens, dtype=torch.long)
    with torch.no_grad():
        return network(
            ids, attention_mask=ids != 1, output_hidden_states=True, output_attentions=True
        )


@pytest.mark.parametrize("config", [V1, AGRO], ids=["v1", "agro"])
def test_an_exported_model_gives_the_same_logits(config: ModelConfig, tmp_path: Path) -> None:
    model = make_model(config)
    model.save_pretrained(tmp_path / "m")
    tokens = model.tokenizer.encode_batch(SEQUENCES)
    keep = tokens != 1
    assert not keep.all()
    theirs = call_transformers(tmp_path / "m", tokens)
    ours = model(tokens, layers=(0, 1, 2), attention=(1, 2))
    assert np.std(ours.logits) > 0.1
    largest = np.abs(ours.logits - theirs.logits.numpy())[keep].max()
    print(f"largest difference of logits: {largest:.1e} of {np.std(ours.logits):.2f}")  # noqa: T201
    assert largest < TOLERANCE
    for layer, hidden in enumerate(theirs.hidden_states):
        assert np.abs(ours.embeddings[layer] - hidden.numpy())[keep].max() < TOLERANCE
    pairs = (keep[:, :, None] & keep[:, None, :])[:, None]
    for layer, maps in enumerate(theirs.attentions, 1):
        assert np.abs((ours.attention[layer] - maps.numpy()) * pairs).max() < TOLERANCE


def test_golden_weights_exported_give_the_golden_logits(shared: Path, tmp_path: Path) -> None:
    for case in ("jax_v1_small", "hf_v1_small"):
        expected = np.load(shared / "golden" / case / "expected.npz")
        load_pretrained(shared / "golden" / case).save_pretrained(tmp_path / case)
        theirs = call_transformers(tmp_path / case, expected["tokens"])
        difference = theirs.logits.numpy() - expected["logits"]
        assert np.abs(difference)[expected["tokens"] != 1].max() < TOLERANCE


@pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])
def test_the_exported_tokenizer_gives_the_same_ids(config: ModelConfig, tmp_path: Path) -> None:
    model = make_model(config)
    model.save_pretrained(tmp_path / "m")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    assert type(tokenizer).__name__ == "EsmTokenizer"
    assert len(tokenizer) == config.vocabulary_size
    assert tokenizer.model_max_length == config.max_positions
    found = tokenizer(SEQUENCES, padding="longest")["input_ids"]
    np.testing.assert_array_equal(found, model.tokenizer.encode_batch(SEQUENCES))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_shards", [1, 2])
def test_models_that_transformers_saved(num_shards: int, dtype: str, tmp_path: Path) -> None:
    make_model(V1).save_pretrained(tmp_path / "m")
    network = transformers.EsmForMaskedLM.from_pretrained(
        tmp_path / "m", dtype=getattr(torch, dtype)
    )
    size = "50KB" if num_shards == 1 else "10KB"
    network.save_pretrained(tmp_path / "theirs", max_shard_size=size)
    shards = len(list((tmp_path / "theirs").glob("*.safetensors")))
    assert (shards > 1) == (num_shards > 1)
    found = load_pretrained(tmp_path / "theirs", compute=ComputeConfig(param_dtype="float32"))
    check_rounded(found.params, make_model(V1).params, dtype)
    assert found.config == V1


def check_rounded(found: Params, expected: Params, dtype: str) -> None:
    """The same bits, or the same numbers with the 8 bits that bfloat16 keeps."""
    if dtype == "float32":
        assert_same_params(found, expected)
    for module, leaves in expected.items():
        for name, leaf in leaves.items():
            np.testing.assert_allclose(found[module][name], leaf, rtol=2**-8)


@pytest.mark.parametrize("num_files", [1, 2])
def test_pytorch_weights_are_read_with_torchs_allow_list(num_files: int, tmp_path: Path) -> None:
    model = make_model(V1)
    model.save_pretrained(tmp_path / "m")
    network = transformers.EsmForMaskedLM.from_pretrained(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    state = list(network.state_dict().items())
    state.append(("esm.embeddings.position_ids", torch.arange(66)[None]))
    if num_files == 1:
        torch.save(dict(state), tmp_path / "m" / "pytorch_model.bin")
    else:
        names = [f"pytorch_model-{i:05d}-of-00002.bin" for i in (1, 2)]
        for name, part in zip(names, (state[::2], state[1::2]), strict=True):
            torch.save(dict(part), tmp_path / "m" / name)
        weight_map = {key: names[i % 2] for i, (key, _) in enumerate(state)}
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (tmp_path / "m" / "pytorch_model.bin.index.json").write_text(index)
    assert_same_params(load_pretrained(tmp_path / "m").params, model.params)


def test_hostile_pytorch_weights_do_not_run(tmp_path: Path) -> None:
    from hostile_pickles import Reduced, write_marker

    make_model(V1).save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    marker = tmp_path / "it_ran"
    torch.save({"w": Reduced(write_marker, str(marker))}, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"^[^\n]*pytorch_model\.bin: refused or damaged: [^\n]*$"):
        load_pretrained(tmp_path / "m")
    assert not marker.exists()


def save_state(folder: Path, change: Any, **options: Any) -> Model:
    """Saves a model as PyTorch weights, each tensor changed."""
    model = make_model(V1)
    model.save_pretrained(folder)
    state = transformers.EsmForMaskedLM.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    changed = {name: change(tensor) for name, tensor in state.items()}
    torch.save(changed, folder / "pytorch_model.bin", **options)
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_and_other_strides_are_read(dtype: str, tmp_path: Path) -> None:
    """As `torch.save(dict(model.named_parameters()))` gives them, and released files have them."""

    def change(tensor: Any) -> Any:
        turned = tensor.t().contiguous().t() if tensor.ndim == 2 else tensor
        return torch.nn.Parameter(turned.to(getattr(torch, dtype)))

    model = save_state(tmp_path / "m", change)
    check_rounded(load_pretrained(tmp_path / "m").params, model.params, dtype)


@pytest.mark.parametrize(
    ("change", "options", "rule"),
    [
        (
            lambda x: x.to_sparse(),
            {},
            r"[^\n]*: type torch\.float32, torch\.sparse_coo can't be read",
        ),
        (
            lambda x: x.to(torch.float8_e4m3fn),
            {},
            r"[^\n]*: type torch\.float8_e4m3fn, [^\n]* read",
        ),
        (
            lambda x: x,
            {"_use_new_zipfile_serialization": False},
            r"no zip archive: half-written, or ",
        ),
    ],
)
def test_tensors_that_can_not_be_read(change: Any, options: Any, rule: str, tmp_path: Path) -> None:
    save_state(tmp_path / "m", change, **options)
    with pytest.raises(ValueError, match=rf"^[^\n]*pytorch_model\.bin: {rule}[^\n]*$"):
        load_pretrained(tmp_path / "m")
