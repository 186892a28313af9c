"""`nt verify`: a model that computes what it should is ok, and any other is not."""

import dataclasses
import tracemalloc
import zipfile

import numpy as np
import pytest
from packaged_models import package_model
from small_models import MODELS, V2, save_model

from nucleotide_transformer import cli, verification
from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.pretrained import Model, load_pretrained
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.verification import (
    TOLERANCES,
    Verification,
    VerifyConfig,
    find_known,
    load_reference,
    make_tokens,
    save_reference,
    verify_model,
)
from nucleotide_transformer.weights import folders
from nucleotide_transformer.weights.hub import PACKAGED


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The packaged model, with its logits."""
    monkeypatch.setattr(folders, "PACKAGED_FOLDER", tmp_path)
    package_model(tmp_path)
    return tmp_path / PACKAGED


def run(capfd, words):
    code = cli.main(["verify", *words.split()])
    out, err = capfd.readouterr()
    return code, out, err


def test_the_packaged_model_has_the_logits_that_came_with_it(capfd, folder):
    code, out, err = run(capfd, "")
    assert (code, err) == (0, "")
    assert f"reference   {folder / 'reference.npz'}, computed in float32 on a CPU" in out
    assert out.endswith("\nok\n")
    result = verify_model(VerifyConfig())
    # Both are float32: a hundredth of what is allowed.
    assert 0 <= result.largest < 1e-2 * result.tolerance


def test_a_model_with_other_numbers_is_not_ok(capfd, folder):
    """One matrix of 13 is 2 % larger."""
    model = load_pretrained(folder)
    name = "esm_transformer/attention_layer_1/~/fc2"
    params = model.params | {name: {"w": model.params[name]["w"] * 1.02}}
    reference = (folder / "reference.npz").read_bytes()
    dataclasses.replace(model, params=params).save_pretrained(folder, overwrite=True)
    (folder / "reference.npz").write_bytes(reference)
    folders.write_sums(folder)
    code, out, _ = run(capfd, "")
    assert code == 1
    assert out.endswith("\nnot ok\n")


def test_a_logit_that_is_no_number_is_not_ok(folder):
    result = verify_model(VerifyConfig())
    assert result.is_ok
    assert not result._replace(largest=float("nan")).is_ok


@pytest.mark.parametrize("name", ["v1", "v2 with biases"])
def test_another_model_has_its_logits_computed_in_the_plain_form(tmp_path, name):
    save_model(tmp_path / "model", MODELS[name], "jax")
    result = verify_model(VerifyConfig(model=str(tmp_path / "model")))
    assert result.origin.startswith("computed now: float32, plain products, block after block")
    assert result.is_ok
    tokens = make_tokens(result.model)
    logits = np.asarray(load_pretrained(tmp_path / "model")(tokens).logits)
    kept = tokens != 1
    assert result.scale == pytest.approx(np.sqrt((logits[kept] ** 2).mean()), rel=1e-5)


def test_rounding_has_a_tolerance_of_its_own(folder):
    compute = ComputeConfig(compute_dtype="bfloat16")
    result = verify_model(VerifyConfig(compute=compute))
    assert result.is_ok
    assert result.tolerance == result.scale * TOLERANCES["bfloat16"]
    assert result.largest > result.scale * TOLERANCES["float32"]  # which tells them apart


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_logits_of_16_bits_have_the_tolerance_of_these(dtype, folder):
    result = verify_model(VerifyConfig(compute=ComputeConfig(output_dtype=dtype)))
    assert result.is_ok
    assert result.tolerance == result.scale * TOLERANCES[dtype]


def test_the_sequences_are_always_the_same_and_hold_every_kind_of_token():
    model = make_model(ModelConfig(num_layers=1, embed_dim=16, num_heads=2, ffn_dim=8))
    tokens = make_tokens(model)
    assert (tokens != model.config.pad_token_id).sum(axis=1).tolist() == [12, 33, 128]
    assert (tokens == model.config.mask_token_id).sum(axis=1).tolist() == [1, 1, 1]
    assert tokens[:, 1:4].tolist() == [[1450, 2342, 4106], [1560, 2650, 4106], [279, 3666, 4106]]
    known = find_known(tokens, model, at_most=4)
    assert np.bincount(known.rows).tolist() == [4, 4, 4]
    assert known.columns.reshape(3, 4)[:, [0, -1]].tolist() == [[0, 11], [0, 32], [0, 127]]
    # With 4,107 logits of float32 each: 197 KB beside weights of 20 MB.
    assert len(known.rows) * model.config.vocabulary_size * 4 < 200_000


def make_model(config):
    return Model(params={}, config=config, tokenizer=KmerTokenizer(config.vocabulary, config.k))


def write_arrays(file, compress=zipfile.ZIP_DEFLATED, **change):
    """The file of logits with other arrays in it."""
    with np.load(file) as arrays:
        content = dict(arrays) | change
    with zipfile.ZipFile(file, "w", compress) as archive:
        for name, array in content.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": np.array([{}])},
        {"rows": np.full(12, 3)},
        {"columns": np.full(12, -129)},
        {"columns": np.zeros(12)},
        {"tokens": np.full((3, 128), "A")},
        {"rows": np.zeros(0, int), "columns": np.zeros(0, int), "logits": np.zeros((0, 75), "f4")},
        {"logits": np.full((12, 75), np.nan, "f4")},
        {"logits": np.full((12, 75), 1 + 2j)},
        {"extra": np.zeros(1 << 20, "f4")},
        {"compress": zipfile.ZIP_LZMA},
    ],
)
def test_a_file_of_logits_that_says_anything_is_one_line(folder, change):
    model = load_pretrained(folder)
    write_arrays(folder / "reference.npz")
    load_reference(folder / "reference.npz", model)
    write_arrays(folder / "reference.npz", **change)
    with pytest.raises(InputError, match=r"reference.npz: (damaged \(|of another model)[^\n]*$"):
        load_reference(folder / "reference.npz", model)


def test_logits_of_zeros_are_not_decompressed(folder):
    """100 MB in 100 kB."""
    model = load_pretrained(folder)
    write_arrays(folder / "reference.npz", logits=np.zeros((12, 1 << 21), "f4"))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"damaged \(\d{9} bytes, and the logits of this model"):
        load_reference(folder / "reference.npz", model)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("damage", ["cut", "bits", "other"])
def test_a_damaged_file_of_logits_is_one_line(folder, tmp_path, damage):
    (folder / "SHA256SUMS").unlink()  # which would tell it first
    file = folder / "reference.npz"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-30])
    elif damage == "bits":
        content[1_000] ^= 255
        file.write_bytes(content)
    else:
        other = dataclasses.replace(V2, k=4)
        save_model(tmp_path / "other", other, "huggingface")
        save_reference(tmp_path / "other")
        file.write_bytes((tmp_path / "other" / "reference.npz").read_bytes())
    with pytest.raises(InputError, match=r"reference.npz: (damaged|of another model)"):
        load_reference(file, load_pretrained(folder))


def test_a_folder_of_a_released_name_has_no_say(folder, tmp_path, monkeypatch):
    """Of what a name stands for; a folder that was loaded has."""
    folder.rename(tmp_path / "codon_nt")
    model = load_pretrained(tmp_path / "codon_nt")
    named = dataclasses.replace(model, source="codon_nt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "PACKAGED_FOLDER", tmp_path / "packaged")
    monkeypatch.setattr(verification, "make_reference", lambda _, reference: reference)
    monkeypatch.setattr(
        verification, "compare", lambda *parts: Verification(model, "", parts[2], 0.0, 1.0, 1.0)
    )
    for found, origin in ((model, str(tmp_path)), (named, "computed now")):
        monkeypatch.setattr(verification, "load_pretrained", lambda *_, found=found, **__: found)
        assert verify_model(VerifyConfig(model="codon_nt")).origin.startswith(origin)


def test_a_model_that_is_not_there_is_one_line(capfd, tmp_path):
    code, _, err = run(capfd, f"--model {tmp_path / 'none'}")
    assert (code, err) == (2, f"error: {tmp_path / 'none'}: no such folder\n")
