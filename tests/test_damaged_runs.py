"""A run whose files are damaged or gone: one line that names the place, for resume and for load."""

import dataclasses
import json
import shutil

import pytest

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.pretraining.run import pretrain
from nucleotide_transformer.training.metrics import read_metrics
from nucleotide_transformer.weights.runs import read_held_out


@pytest.fixture(scope="module")
def whole(small_corpus, tmp_path_factory):
    """A run of one update, and its config."""
    from nucleotide_transformer import config

    run = config.PretrainConfig(
        output=tmp_path_factory.mktemp("whole") / "run",
        model=config.ModelConfig(k=3, num_layers=2, embed_dim=8, num_heads=2, ffn_dim=8),
        data=config.DataConfig(corpus=small_corpus, sequence_tokens=32),
        tokens_per_update=64,
        total_tokens=64,
        num_devices=1,
        log_every_steps=1,
        evaluation=config.EvaluationConfig(num_sequences=2),
    )
    pretrain(run, show=False)
    return run


@pytest.fixture
def config(whole, tmp_path):
    """A copy of the run, to damage."""
    return dataclasses.replace(whole, output=shutil.copytree(whole.output, tmp_path / "run"))


def cut(path):
    path.write_bytes(path.read_bytes()[:20])


def hold(item, content, name="metadata"):
    """Writes other content, valid JSON, into an item of a checkpoint."""
    return lambda checkpoint: (checkpoint / item / name).write_text(json.dumps(content))


def cut_largest(checkpoint):
    files = [path for path in (checkpoint / "state").rglob("*") if path.is_file()]
    cut(max(files, key=lambda path: path.stat().st_size))


DAMAGES = {
    "arrays cut": (cut_largest, "damaged, or not whole"),
    "no index": (lambda c: (c / "state" / "manifest.ocdbt").unlink(), "damaged, or not whole"),
    "no state": (lambda c: shutil.rmtree(c / "state"), "damaged, or not whole"),
    "config cut": (lambda c: cut(c / "config" / "metadata"), "config.*: damaged"),
    "no config": (lambda c: shutil.rmtree(c / "config"), "not a checkpoint of .*: no config in it"),
    "record cut": (lambda c: cut(c / "record" / "metadata"), "record.*: damaged"),
    "config of nothing": (hold("config", {}), "1.* model"),
    "config of a text": (hold("config", {"model": ["V2"]}), r"model = \['V2'\]: must be a table"),
    "config a list": (hold("config", []), "config.*: should be a JSON object.*: damaged"),
    "record null": (hold("record", None), "record.*: should be a JSON object.*: damaged"),
    "empty": (lambda c: (shutil.rmtree(c), c.mkdir()), "no config in it"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_named_in_one_line(config, name):
    damage, message = DAMAGES[name]
    damage(config.output / "checkpoints" / "1")
    for use in (lambda: load_pretrained(config.output), lambda: pretrain(config, show=False)):
        with pytest.raises(InputError, match=rf"run/checkpoints.*{message}") as caught:
            use()
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ['{"score": "low"}', "[1.0]", "", '{"score": 5.'], ids=repr)
def test_a_score_that_is_damaged_or_no_number_is_none(text, config):
    (config.output / "checkpoints" / "1" / "metrics" / "metrics").write_text(text)
    assert load_pretrained(config.output).config == config.model
    summary = pretrain(config, show=False)
    assert read_held_out(config.output / "checkpoints" / "1")["score"] == (
        summary.held_out.cross_entropy
    )


def test_a_checkpoint_without_its_place_in_the_input_cannot_resume(config):
    shutil.rmtree(config.output / "checkpoints" / "1" / "position")
    assert load_pretrained(config.output).config == config.model
    with pytest.raises(InputError, match=r"checkpoints/1: .* no position in it"):
        pretrain(config, show=False)


@pytest.mark.parametrize("line", ['{"kind": "tr', "{}", "3", '{"kind": "train", "step": 2}'])
def test_a_line_of_metrics_that_cannot_be_read_is_named(config, line):
    path = config.output / "metrics.jsonl"
    path.write_text(path.read_text() + f"{line}\n" + path.read_text())
    with pytest.raises(InputError, match=r"metrics.jsonl: line 3: "):
        pretrain(config, show=False)


def test_a_run_without_metrics_resumes(config):
    (config.output / "metrics.jsonl").unlink()
    longer = dataclasses.replace(config, total_tokens=128)
    assert pretrain(longer, show=False).step == 2
    assert [line["step"] for line in read_metrics(config.output)] == [2, 2]
