"""The peer of the benchmark: as many multiplications as our model, and steps that really train."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from nucleotide_transformer.benchmark import run
from nucleotide_transformer.benchmark.config import BenchmarkConfig, list_cases
from nucleotide_transformer.benchmark.machine import Peak
from nucleotide_transformer.benchmark.torch_peer import TorchPeer
from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.model import init_params

MODEL = ModelConfig(k=3, num_layers=2, embed_dim=16, num_heads=2, ffn_dim=32, max_positions=64)
CONFIG = BenchmarkConfig(
    tasks=("train", "embed", "probe", "logits"),
    models=("custom",),
    model=MODEL,
    sequence_tokens=(20,),
    sequences_per_device=(2,),
    accumulation=2,
    num_devices=(1,),
    rounds=2,
    round_steps=1,
)


@pytest.fixture(scope="module", autouse=True)
def torch():
    """Not at the top: each process of the tests reads this file, and few run it."""
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


def make_cases(config=CONFIG):
    return list_cases(config, num_local_devices=1, platform="cpu")


def test_it_multiplies_by_as_many_numbers():
    peer = TorchPeer(make_cases()[0], CONFIG, "cpu")
    theirs = {
        name: param.numel()
        for name, param in peer._model.named_parameters()
        if param.ndim == 2 and "embeddings" not in name and "contact" not in name
    }
    params = init_params(jax.random.key(0), MODEL)
    ours = sum(
        leaf.size
        for module, leaves in params.items()
        for leaf in leaves.values()
        if leaf.ndim == 2 and not module.endswith("embed")
    )
    assert sum(theirs.values()) == ours


def test_an_update_changes_the_parameters(torch):
    peer = TorchPeer(make_cases()[0], CONFIG, "cpu")
    before = {name: param.detach().clone() for name, param in peer._model.named_parameters()}
    losses = [float(peer.start()) for _ in range(3)]
    # An untrained model of 75 tokens: ln 75 = 4.3.
    assert all(abs(loss - np.log(MODEL.vocabulary_size)) < 0.5 for loss in losses)
    params = dict(peer._model.named_parameters())
    same = [name for name in before if torch.equal(before[name], params[name])]
    # What takes no part in the loss: the contact head, and positions that rotary does without.
    assert all("contact" in name or "position" in name for name in same), same


def test_inference_gives_what_its_task_says():
    embed, probe, logits = (TorchPeer(case, CONFIG, "cpu") for case in make_cases()[1:])
    assert embed.start().shape == (2, MODEL.embed_dim)
    layers = probe.start()
    assert len(layers) == MODEL.num_layers + 1
    assert {layer.shape for layer in layers} == {(2, MODEL.embed_dim)}
    assert logits.start().shape == (2, 20, MODEL.vocabulary_size)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_case_has_the_peers_figures_and_a_ratio(dtype, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "find_peak", lambda *_: Peak(None, 1e12))
    compute = dataclasses.replace(CONFIG.compute, compute_dtype=dtype)
    config = dataclasses.replace(CONFIG, compute=compute, tasks=("train",), output=tmp_path)
    (result,) = json.loads(run.run_benchmark(config).json_file.read_text())["results"]
    peer = result["peer"]
    assert result["no_peer"] is None
    assert result["mfu"] is None  # no data sheet
    assert peer["name"].startswith("transformers ")
    tokens = 2 * 2 * 20
    rate = tokens / peer["step_seconds"]["median"]
    np.testing.assert_allclose(peer["tokens_per_second"], rate)
    assert peer["ratio"]["minimum"] > 0
