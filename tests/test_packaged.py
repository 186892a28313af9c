"""The model that comes with the package: found without a network, checked, and the default."""

import dataclasses
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from packaged_models import FILES, PACKAGE, ROOT, copy_package, package_model
from real_command import COMMAND, make_environment
from small_models import V2, assert_same_params

from nucleotide_transformer import cli
from nucleotide_transformer.benchmark.config import find_model
from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.configfile import load_config
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.inference.embedding import embed
from nucleotide_transformer.inference.embedding_tables import read_embeddings
from nucleotide_transformer.inference.likelihoods import fill_mask
from nucleotide_transformer.pretrained import export_model, get_pretrained_model, load_pretrained
from nucleotide_transformer.weights import folders
from nucleotide_transformer.weights.assembly import expected_shapes
from nucleotide_transformer.weights.hub import PACKAGED, RELEASED

REPAIR = "`git checkout -- nucleotide_transformer/packaged`"
MASKED = "ACGTTA<mask>CCG<mask>"
REAL = folders.PACKAGED_FOLDER / PACKAGED


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The packaged model is a random one, and fetching anything is an error of the test."""

    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    package_model(tmp_path / "packaged")
    monkeypatch.setattr(folders, "PACKAGED_FOLDER", tmp_path / "packaged")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    return tmp_path / "packaged" / PACKAGED


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_package(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def real():
    """The folder that ships; tests of it are skipped where nothing was packaged yet."""
    if not REAL.is_dir():
        pytest.skip(f"no packaged model: {REAL}")
    return REAL


def widen(params):
    return jax.tree.map(lambda leaf: leaf.astype("float32"), params)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("words", [(), (PACKAGED,)])
def test_what_was_stored_is_what_is_loaded(dtype, words, folder):
    stored = package_model(folder.parent, dtype=dtype)
    assert {path.name for path in folder.iterdir()} == FILES
    model = load_pretrained(*words)
    assert model.config == V2
    assert_same_params(model.params, widen(stored))  # to the bit: float32 holds them all
    exact = load_pretrained(*words, compute=ComputeConfig(param_dtype=dtype))
    assert_same_params(exact.params, stored)


def test_the_published_interface_loads_it_too(folder):
    package_model(folder.parent, dataclasses.replace(V2, k=6))  # its family has 6-mers
    params, _, _, config = get_pretrained_model(PACKAGED)
    assert_same_params(params, load_pretrained().params)
    assert (config.num_layers, config.embed_dim) == (V2.num_layers, V2.embed_dim)


@pytest.mark.parametrize("layout", ["huggingface", "jax"])
def test_the_card_of_an_export_has_its_name_and_licence(layout, folder, tmp_path):
    model = export_model(PACKAGED, tmp_path / "export", layout=layout)
    assert (model.origin, model.license) == (PACKAGED, "apache-2.0")
    again = export_model(tmp_path / "export", tmp_path / "again", layout=layout)
    for name, origin in (("export", PACKAGED), ("again", "export")):
        card = (tmp_path / name / "README.md").read_text()
        assert "\nlicense: apache-2.0\n" in card
        assert f"Made from: {origin}." in card
        assert "CC BY-NC" not in card
    assert_same_params(again.params, model.params)
    (tmp_path / "again" / "README.md").write_text(card.replace("apache-2.0", "mit"))
    assert load_pretrained(tmp_path / "again").license is None  # for whoever edited it to state


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off])
@pytest.mark.parametrize("name", sorted(FILES - {"README.md", "SHA256SUMS"}))
def test_a_changed_or_truncated_file(name, damage, folder):
    damage(folder / name)
    with pytest.raises(InputError) as caught:
        load_pretrained()
    message = str(caught.value)
    assert message.startswith(f"{folder / name}: truncated or changed: SHA-256 ")
    assert message.endswith(REPAIR)
    assert "\n" not in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt", "reference.npz"])
def test_a_change_in_a_copy(name, folder, tmp_path):
    """Unless whoever changed it deletes the digests; what is not read may change, or be gone."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "special_tokens_map.json").unlink()
    (copy / "SHA256SUMS").open("a").write("a line of another program\n")
    assert_same_params(load_pretrained(copy).params, load_pretrained().params)
    with (copy / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(InputError) as caught:
        load_pretrained(copy)
    message = str(caught.value)
    assert message.startswith(f"{copy / name}: truncated or changed: SHA-256 ")
    assert message.endswith("copy it again, or if this is meant, delete SHA256SUMS")
    (copy / "SHA256SUMS").unlink()
    if name in ("config.json", "vocab.txt"):  # a line end more in text
        load_pretrained(copy)


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_a_missing_file(name, folder):
    (folder / name).unlink()
    with pytest.raises(MissingInputError) as caught:
        load_pretrained()
    assert str(caught.value).startswith(f"{folder / name}: no such file")
    assert str(caught.value).endswith(REPAIR)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-12], r"line 7: '[0-9a-f]{64}': must be 64 hexadecimal digits"),
        (lambda text: text.upper(), "line 1: '.*': must be 64 hexadecimal digits"),
        (lambda text: text.replace("  ", "  ../"), "line 1: '.*': must be 64 hexadecimal digits"),
        (lambda text: "".join(text.splitlines(True)[:1]), "no line for model.safetensors"),
        (lambda text: text[:0], "no line for config.json"),
    ],
)
def test_a_damaged_list_of_digests(change, message, folder):
    sums = folder / "SHA256SUMS"
    sums.write_text(change(sums.read_text()))
    with pytest.raises(InputError, match=rf"SHA256SUMS: {message}[^\n]*$"):
        load_pretrained()


def test_the_card_may_be_edited(folder):
    (folder / "README.md").write_text("Better words.\n")
    load_pretrained()


def test_sha256sum_reads_the_list(folder):
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b": OK\n") == len(FILES) - 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokens: tokens[:-1], r"vocab\.txt: 74 tokens: the model has 75"),
        (lambda tokens: tokens[::-1], r"vocab\.txt: line 1: 'N' should be '<unk>'"),
        (
            lambda tokens: [token.replace("A", "U") for token in tokens],
            r"vocab\.txt: line 7: 'UUU' should be 'AAA'",
        ),
    ],
)
def test_letters_that_are_not_the_models(change, message, folder):
    """Packaged so: the digests are right, and the files still don't belong together."""
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(change(vocabulary.read_text().split("\n"))))
    folders.write_sums(folder)
    with pytest.raises(InputError, match=f"{message}$"):
        load_pretrained()


def test_a_config_of_another_vocabulary(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 4**4 + 11}))
    folders.write_sums(folder)
    with pytest.raises(InputError, match=r"word_embeddings\.weight \[75, 16\], not \[267, 16\]"):
        load_pretrained()


def test_nothing_is_packaged(folder, monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(folders, "PACKAGED_FOLDER", tmp_path / "nothing")
    with pytest.raises(MissingInputError, match=r"no model is packaged here: [^\n]*`make model`"):
        load_pretrained()
    assert cli.main(["fill-mask", "--sequence", MASKED]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"error: {tmp_path / 'nothing' / PACKAGED}: no model is packaged here")
    assert err.count("\n") == 1


def test_a_folder_of_that_name_does_not_shadow_it(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / PACKAGED).mkdir()
    assert load_pretrained().config == V2
    with pytest.raises(MissingInputError, match="should hold"):
        load_pretrained(f"./{PACKAGED}")


def test_the_table_has_one_packaged_model_that_benchmarks_know_by_its_size():
    (name,) = (name for name, model in RELEASED.items() if model.repository is None)
    assert name == PACKAGED
    assert find_model("10M", ModelConfig()) == RELEASED[PACKAGED].config


def test_the_table_has_the_architecture_that_is_trained():
    run = load_config(ROOT / "experiments" / "model" / "pretrain.toml")
    published = dataclasses.replace(
        run.model,
        token_tables="free",
        init="he_uniform",
        max_positions=run.data.sequence_tokens,
    )
    assert RELEASED[PACKAGED].config == published
    shapes = jax.tree.leaves(
        expected_shapes(published), is_leaf=lambda leaf: isinstance(leaf, tuple)
    )
    assert sum(int(np.prod(shape)) for shape in shapes) == pytest.approx(10e6, rel=0.1)


def run_there(checkout, *words):
    """Runs `nt WORDS` of a checkout, and returns its output."""
    environment = make_environment(PYTHONPATH=str(checkout), HF_HUB_OFFLINE="1")
    command = [*COMMAND, *map(str, words)]
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def load_there(checkout):
    return load_pretrained(checkout / PACKAGE / "packaged" / PACKAGED)


def test_fill_mask_takes_it_by_default(checkout):
    out = run_there(checkout, "fill-mask", "--sequence", MASKED)
    for tokens in fill_mask(load_there(checkout), MASKED):
        for token, _ in tokens:
            assert f"  {token:10} " in out


def test_embed_takes_it_by_default(checkout, tmp_path):
    (tmp_path / "reads.fa").write_text(">one\nACGTTGCAAGGT\n")
    output = tmp_path / "out.npz"
    run_there(checkout, "embed", "--input", tmp_path / "reads.fa", "--output", output)
    (expected,) = embed(load_there(checkout), ["ACGTTGCAAGGT"])
    # Another process may compile to other instructions: float32 with weights near 0.3.
    found = read_embeddings(output).layers[V2.num_layers]
    np.testing.assert_allclose(found, [expected[V2.num_layers]], rtol=1e-4, atol=1e-4)


def test_export_takes_it_by_default(checkout, tmp_path):
    run_there(checkout, "export", "--folder", tmp_path / "export")
    exported = load_pretrained(tmp_path / "export")
    assert_same_params(exported.params, load_there(checkout).params)
    assert f"Made from: {PACKAGED}." in (tmp_path / "export" / "README.md").read_text()


@pytest.mark.parametrize("command", ["embed", "export", "fill-mask"])
def test_help_names_the_default(command, capfd):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    words = capfd.readouterr().out.replace("│", " ").split()  # out of the frame of the help
    assert f"(default: {PACKAGED})" in " ".join(words)


def test_it_is_in_the_wheel_and_in_the_source_distribution(checkout, tmp_path):
    """What `build_py` copies is what a wheel holds."""
    pytest.importorskip("setuptools")
    info, dist, build = (tmp_path / name for name in ("info", "dist", "build"))
    for folder in (info, dist, build):
        folder.mkdir()
    words = ["egg_info", "--egg-base", info, "sdist", "--formats", "gztar", "--dist-dir", dist]
    words += ["build_py", "--build-lib", build]
    command = [sys.executable, "setup.py", "--quiet", *map(str, words)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    copied = build / PACKAGE / "packaged" / PACKAGED
    assert {path.name for path in copied.iterdir()} == FILES
    folders.check_sums(copied)
    (archive,) = dist.iterdir()
    with tarfile.open(archive) as tar:
        names = {Path(name).name for name in tar.getnames() if f"packaged/{PACKAGED}/" in name}
    assert names == FILES


def test_the_one_that_ships_is_what_it_should_be(real):
    assert {path.name for path in real.iterdir()} == FILES
    assert sum(path.stat().st_size for path in real.iterdir()) <= 25_000_000
    model = load_pretrained()
    assert model.config == RELEASED[PACKAGED].config
    dtype = json.loads((real / "config.json").read_text())["torch_dtype"]
    stored = load_pretrained(compute=ComputeConfig(param_dtype=dtype))
    assert_same_params(model.params, widen(stored.params))
    card = (real / "README.md").read_text(encoding="utf-8")
    rows = (ROOT / "experiments" / "model" / "genomes.tsv").read_text().splitlines()[1:]
    for row in rows:
        species, assembly = row.split("\t")[1:3]
        assert f"| *{species}* | {assembly} |" in card
    for heading in ("Data", "Recipe", "Compute", "Results", "Limits", "Licence"):
        assert f"\n## {heading}\n" in card


def test_the_one_that_ships_knows_dna(real):
    """Real DNA is likelier to it than the same letters shuffled."""
    from nucleotide_transformer.inference.likelihoods import pseudo_log_likelihoods
    from nucleotide_transformer.packaging.rounding import make_probe

    model = load_pretrained()
    probe = make_probe(model.tokenizer, 33)
    rows = probe.tokens[:8].tolist()
    texts = ["".join(model.tokenizer.tokens[i] for i in row[1:]) for row in rows]
    generator = np.random.default_rng(0)
    shuffled = ["".join(generator.permutation(list(text))) for text in texts]
    ahead = np.subtract(*(pseudo_log_likelihoods(model, each) for each in (texts, shuffled)))
    assert ahead.mean() > 2 * ahead.std() / len(ahead) ** 0.5
