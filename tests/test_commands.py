"""`nt export`, `nt embed` and `nt fill-mask` on a small saved model, with every option that they
pass on set to something else than its default."""

import os
import re

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from real_command import run, run_in_pipe, run_in_terminal
from small_genomes import reverse_complement
from small_models import V1, V2, assert_same_params, random_params, save_model
from test_adapter_exports import make_adapter

from nucleotide_transformer import pretrained
from nucleotide_transformer.commands import models
from nucleotide_transformer.config import ComputeConfig
from nucleotide_transformer.inference import embedding_files
from nucleotide_transformer.inference.batching import BatchConfig
from nucleotide_transformer.inference.embedding import embed, embed_array
from nucleotide_transformer.inference.embedding_tables import read_embeddings
from nucleotide_transformer.inference.likelihoods import fill_mask
from nucleotide_transformer.pretrained import export_model, load_pretrained
from nucleotide_transformer.weights.adapter_files import save_adapter

HUGGINGFACE = {"config.json", "model.safetensors"}
JAX = {"hyperparams.json", "pytree_ckpt.joblib"}
SEQUENCES = {"first": "ACGTTGCAAGGT" * 4, "second": "TTGACCA"}
MASKED = "ACGTTA<mask>CCG<mask>"
COMPUTE = ComputeConfig(compute_dtype="bfloat16", attention="einsum", stack="loop")
COMPUTE_WORDS = "--compute.compute-dtype bfloat16 --compute.attention einsum --compute.stack loop"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model so sure of itself that bfloat16 shows in four digits of a probability."""
    folder = tmp_path_factory.mktemp("commands") / "model"
    save_model(folder, V2, "huggingface", jax.tree.map(lambda leaf: 3 * leaf, random_params(V2)))
    return folder


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "reads.fa"
    path.write_text("".join(f">{name}\n{text}\n" for name, text in SEQUENCES.items()))
    return path


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model is an error of the test."""

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    for module in (pretrained, models):
        monkeypatch.setattr(module, "load_pretrained", load)


def list_names(folder):
    return {path.name for path in folder.iterdir()}


def test_export_writes_the_layout_that_is_asked_for(capfd, folder, tmp_path):
    target = tmp_path / "export"
    code, out, err = run(capfd, f"export --source {folder} --folder {target} --layout jax")
    assert (code, out, err) == (0, f"wrote {target} in the jax layout\n", "")
    assert list_names(target) >= JAX
    assert list_names(target).isdisjoint(HUGGINGFACE)
    assert_same_params(load_pretrained(target).params, load_pretrained(folder).params)


def test_export_replaces_an_export_only_if_it_may(capfd, folder, tmp_path):
    target = tmp_path / "export"
    save_model(target, V2, "jax", random_params(V2, seed=1))
    words = f"export --source {folder} --folder {target}"
    message = f"error: {target}: is not empty: give another folder, or overwrite it\n"
    assert run(capfd, words) == (2, "", message)
    assert_same_params(load_pretrained(target).params, random_params(V2, seed=1))

    expected = (0, f"wrote {target} in the huggingface layout\n", "")
    assert run(capfd, f"{words} --overwrite") == expected
    assert list_names(target) >= HUGGINGFACE
    assert list_names(target).isdisjoint(JAX)
    assert_same_params(load_pretrained(target).params, load_pretrained(folder).params)


def embed_all(folder, compute, **options):
    model = load_pretrained(folder, compute=compute)
    return list(embed(model, list(SEQUENCES.values()), **options))


def test_embed_computes_as_it_is_told(capfd, folder, fasta, tmp_path):
    output = tmp_path / "out.npz"
    options = f"--layers 0 2 --pooling max {COMPUTE_WORDS}"
    words = f"embed --model {folder} --input {fasta} --output {output} {options}"
    code, out, _ = run(capfd, words)
    assert (code, out) == (0, f"wrote {output}\n")
    table = read_embeddings(output)
    assert table.name == list(SEQUENCES)
    assert sorted(table.layers) == [0, 2]
    expected = embed_all(folder, COMPUTE, layers=(0, 2), pooling="max")
    for layer, rows in table.layers.items():
        np.testing.assert_array_equal(rows, [row[layer] for row in expected])
    exact = embed_all(folder, ComputeConfig(), layers=(2,), pooling="max")
    assert not np.array_equal(table.layers[2], [row[2] for row in exact])


def test_embed_by_itself_takes_the_mean_of_the_last_layer(folder, fasta, tmp_path):
    output = tmp_path / "out.npz"
    done = run_in_pipe("embed", "--model", folder, "--input", fasta, "--output", output)
    assert (done.code, done.out) == (0, f"wrote {output}\n"), done.err
    expected = [row[2] for row in embed_all(folder, ComputeConfig())]
    # Another process may compile to other instructions: float32 with weights near 1.
    np.testing.assert_allclose(read_embeddings(output).layers[2], expected, rtol=1e-4, atol=1e-4)


def test_embed_takes_intervals_of_both_strands_in_small_windows(capfd, folder, fasta, tmp_path):
    bed, output = tmp_path / "places.bed", tmp_path / "out.parquet"
    bed.write_text("first\t5\t45\tup\t0\t+\nfirst\t8\t40\tdown\t0\t-\nsecond\t0\t7\n")
    words = f"embed --model {folder} --input {fasta} --bed {bed} --stranded --output {output}"
    batching = "--batching.window-tokens 8 --batching.overlap-tokens 3"
    code, out, err = run(capfd, words, batching)
    assert (code, out) == (0, f"wrote {output}\n"), err
    table, first = read_embeddings(output), SEQUENCES["first"]
    assert table.name == ["up", "down", "second:0-7"]
    sequences = [first[5:45], reverse_complement(first[8:40]), SEQUENCES["second"]]
    small = BatchConfig(window_tokens=8, overlap_tokens=3)
    model = load_pretrained(folder)
    expected = embed_array(model, sequences, batching=small)
    np.testing.assert_array_equal(table.layers[2], expected)
    for others in (
        embed_array(model, sequences),
        embed_array(model, [first[5:45], first[8:40], SEQUENCES["second"]], batching=small),
    ):
        assert not np.allclose(table.layers[2], others, rtol=1e-2, atol=1e-2)


@pytest.mark.devices(2)
def test_embed_takes_tiles_of_a_table_in_small_batches(capfd, folder, tmp_path, monkeypatch):
    reads, output, told = tmp_path / "reads.csv", tmp_path / "out.npz", []
    rows = [f"{text},{name},ACGT" for name, text in SEQUENCES.items()]
    reads.write_text("\n".join(["dna,id,sequence", *rows, ""]))

    def note(*args, **options):
        told.append(options["batching"])
        return embed(*args, **options)

    monkeypatch.setattr(embedding_files, "embed", note)
    words = f"embed --model {folder} --input {reads} --output {output} --window 20 --step 16"
    columns = "--sequence-column dna --name-column id"
    batching = "--batching.batch-tokens 32 --batching.num-devices 2"
    assert run(capfd, words, columns, batching)[:2] == (0, f"wrote {output}\n")
    assert told == [BatchConfig(batch_tokens=32, num_devices=2)]
    first = SEQUENCES["first"]
    tiles = {f"first:{at}-{min(at + 20, 48)}": first[at : at + 20] for at in (0, 16, 32)}
    tiles["second:0-7"] = SEQUENCES["second"]
    table = read_embeddings(output)
    assert table.name == list(tiles)
    assert table.start.tolist() == [0, 16, 32, 0]
    expected = embed_array(load_pretrained(folder), list(tiles.values()), batching=told[0])
    np.testing.assert_array_equal(table.layers[2], expected)


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    """A LoRA of the model, which says that its base is where nothing is."""
    place = tmp_path_factory.mktemp("adapters") / "mine"
    save_adapter(place, make_adapter(load_pretrained(folder), "lora", base="/gone"))
    return place


def test_export_merges_an_adapter_into_the_base_that_is_named(capfd, folder, adapter, tmp_path):
    words = f"export --source {adapter} --folder {tmp_path / 'whole'} --merge --base {folder}"
    printed = f"wrote {tmp_path / 'whole'} in the huggingface layout\n"
    assert run(capfd, words) == (0, printed, "")
    expected = load_pretrained(adapter, base=folder)
    found = load_pretrained(tmp_path / "whole")
    assert found.head is None
    assert_same_params(found.params, expected.params)
    base = load_pretrained(folder).params
    (name,) = (name for name in base if re.search("layer_0.*/query$", name))
    assert not np.allclose(found.params[name]["w"], base[name]["w"], atol=1e-2)


def test_export_writes_an_adapter_as_peft_has_it(capfd, folder, adapter, tmp_path):
    target, expected = tmp_path / "peft", tmp_path / "expected"
    words = f"export --source {adapter} --folder {target} --layout peft"
    code, _, err = run(capfd, words)
    assert (code, err.count("\n")) == (2, 1)  # its base is not there, and none was named
    assert "/gone" in err
    assert run(capfd, f"{words} --base {folder}") == (
        *(0, f"wrote {target} in the peft layout\n", ""),
    )
    export_model(adapter, expected, layout="peft", base=folder)
    assert list_names(target) == list_names(expected) >= {"adapter_config.json"}
    for path in expected.iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes()


def render(folder, compute, top_k):
    """What `nt fill-mask` should print."""
    masks = fill_mask(load_pretrained(folder, compute=compute), MASKED, top_k=top_k)
    return [[(token, f"{share:.4f}") for token, share in tokens] for tokens in masks]


def read_printed(out):
    """The reverse: for each mask its tokens and their probabilities, as they are written."""
    _, *blocks = re.split(r"<mask> \d+\n", out)
    return [[tuple(line.split()) for line in block.splitlines()] for block in blocks]


def test_fill_mask_shows_as_many_tokens_as_asked_for_computed_as_told(capfd, folder):
    words = f"fill-mask --model {folder} --sequence {MASKED} --top-k 3 {COMPUTE_WORDS}"
    code, out, err = run(capfd, words)
    assert (code, err) == (0, "")
    expected = render(folder, COMPUTE, 3)
    assert [len(tokens) for tokens in expected] == [3, 3]
    assert read_printed(out) == expected
    assert expected != render(folder, ComputeConfig(), 3)


def test_fill_mask_in_a_terminal_shows_five_tokens(folder):
    words = ("fill-mask", "--model", folder, "--sequence", MASKED)
    code, out, _ = run_in_terminal(*words, columns=60, FORCE_COLOR="1")
    assert code == 0, out
    assert "\x1b" not in out
    found, expected = read_printed(out), render(folder, ComputeConfig(), 5)
    assert [len(tokens) for tokens in found] == [5, 5]
    for tokens, right in zip(found, expected, strict=True):
        assert [token for token, _ in tokens] == [token for token, _ in right]
        # The last of four digits may round the other way in another process.
        np.testing.assert_allclose(
            [float(share) for _, share in tokens], [float(share) for _, share in right], atol=2e-4
        )


def test_embed_refuses_damaged_settings_of_an_unfinished_run(capfd, folder, fasta, tmp_path):
    settings = tmp_path / "x.npz.parts" / "settings.json"
    settings.parent.mkdir()
    (settings.parent / "block-00000000.npz").touch()
    for damage in ("{", "3", "[]x"):
        settings.write_text(damage)
        words = f"embed --model {folder} --input {fasta} --output {tmp_path / 'x.npz'}"
        message = f"error: {settings}: damaged: delete the folder {settings.parent}\n"
        assert run(capfd, words) == (2, "", message)


def test_a_name_that_no_repository_can_have(capfd, tmp_path):
    code, _, err = run(capfd, f"export --source a--b/c --folder {tmp_path / 'x'}")
    assert (code, err) == (2, "error: 'a--b/c' is no name of a hub repository\n")


def damage_table(path):
    """A Parquet file whose end, with its schema, is whole, and whose rows are not."""
    pyarrow.parquet.write_table(pyarrow.table({"sequence": ["ACGT"] * 1_000}), path)
    path.write_bytes(b"PAR1" + b"\xff" * 60 + path.read_bytes()[64:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("embed --input {fasta}", "nt embed: --output: must be given"),
        ("embed --input {tmp}/none.fa --output {tmp}/x.npz", "none.fa: no such FASTA file"),
        ("embed --input {fasta} --output {tmp}/x.txt", "x.txt': must be a file .parquet"),
        ("embed --input {fasta} --output {fasta}/x.npz", "reads.fa is a file: must be a folder"),
        ("embed --input {fasta} --output {taken}", "taken.npz: exists already"),
        (
            "embed --input {broken} --output {tmp}/x.npz",
            "broken.fa: contig 'chr1': position 5 (line 2): '!'",
        ),
        ("embed --input {damaged} --output {tmp}/x.npz", "damaged.parquet: damaged Parquet file: "),
        (
            "embed --input {fasta} --output {tmp}/x.npz --layers 22 99",
            "layers: there is no layer 99; the model's are numbered 0 to 22",
        ),
        ("export --folder {fasta}", "reads.fa: is a file; an export is a folder"),
        ("export --folder {tmp}", "{tmp}: is not empty: give another folder, or overwrite it"),
        ("export --folder {tmp} --overwrite", "{tmp}: holds broken.fa, which no export wrote"),
        ("export --folder {fasta}/new", "reads.fa/new: {tmp}/reads.fa is a file: must be a folder"),
        ("export --folder {tmp}/new --layout x", "--layout = 'x': must be one of huggingface, jax"),
        ("fill-mask --sequence ACGT", "--sequence = 'ACGT': must hold at least one <mask>"),
        ("fill-mask --sequence ACJT<mask>", "position 2: character 'J' must be a nucleotide"),
        ("fill-mask --sequence <mask> --top-k 0", "--top-k = 0: must be above 0"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_bad_input_is_told_before_a_model_is_loaded(capfd, fasta, tmp_path, words, message):
    (tmp_path / "taken.npz").touch()
    (tmp_path / "broken.fa").write_text(">chr1\nACGT!\n")
    damage_table(tmp_path / "damaged.parquet")
    names = ("taken.npz", "broken.fa", "damaged.parquet")
    files = {name.partition(".")[0]: tmp_path / name for name in names}
    words = words.format(tmp=tmp_path, fasta=fasta, **files)
    option = "--source" if words.startswith("export") else "--model"
    code, out, err = run(capfd, f"{words} {option} 100M_multi_species_v2")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message.format(tmp=tmp_path) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("layout", ["huggingface", "jax"])
@pytest.mark.usefixtures("no_model")
def test_layers_and_windows_of_a_folder_are_looked_at_before_it_is_loaded(
    capfd, fasta, tmp_path, layout
):
    place = tmp_path / "here"
    save_model(place, V1, layout)
    words = f"embed --model {place} --input {fasta} --output {tmp_path / 'x.npz'}"
    for option, message in (
        ("--layers 3", "layers: there is no layer 3; the model's are numbered 0 to 2"),
        (
            "--batching.window-tokens 65",
            "window_tokens = 65: the model's learned positions end at 64 tokens",
        ),
        ("--batching.overlap-tokens 63", "overlap_tokens = 63: must lie between 0 and window_"),
    ):
        code, out, err = run(capfd, f"{words} {option}")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


@pytest.mark.usefixtures("no_model")
def test_layers_of_the_packaged_model_are_looked_at_before_it_is_loaded(capfd, fasta, tmp_path):
    words = f"embed --input {fasta} --output {tmp_path / 'x.npz'} --layers 7"
    message = "error: layers: there is no layer 7; the model's are numbered 0 to 6\n"
    assert run(capfd, words) == (2, "", message)


@pytest.mark.usefixtures("no_model")
def test_a_place_that_nobody_can_write_to_is_told_before_a_model_is_loaded(
    capfd, monkeypatch, tmp_path
):
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    for words in (f"export --folder {tmp_path}/x", f"evaluate --corpus c --output {tmp_path}/x"):
        message = f"error: {tmp_path}/x: can't be written: no permission to write in {tmp_path}\n"
        assert run(capfd, words) == (1, "", message)
