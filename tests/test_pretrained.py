"""Models from any source: names, the hub's cache, folders, runs; calls; what is refused."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from small_models import (
    V2,
    assert_same_params,
    save_model,
    saved_model,  # noqa: F401
)

from nucleotide_transformer import pretrained
from nucleotide_transformer.config import ComputeConfig, PretrainConfig, Stack
from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.inference.embedding import embed_array
from nucleotide_transformer.inference.likelihoods import fill_mask
from nucleotide_transformer.model import init_params, make_forward
from nucleotide_transformer.pretrained import (
    Model,
    export_model,
    get_pretrained_model,
    load_pretrained,
)
from nucleotide_transformer.tokenizers import KmerTokenizer

REPOSITORY = "InstaDeepAI/nucleotide-transformer-v2-50m-3mer-multi-species"


def test_outputs_have_their_shapes_and_types(model: Model) -> None:
    tokens = model.tokenizer.encode_batch(["ATTCCGATTCCG", "ATTCCG<mask>"])
    outputs = model(tokens, layers=(2, 0, 2), attention=[1])
    assert model.tokenizer == KmerTokenizer(vocabulary="v2", k=3)
    assert outputs.logits.shape == (2, 5, 75)
    assert {layer: x.shape for layer, x in outputs.embeddings.items()} == {
        0: (2, 5, 16),
        2: (2, 5, 16),
    }
    assert outputs.attention[1].shape == (2, 4, 5, 5)
    assert outputs.logits.dtype == jnp.float32
    np.testing.assert_array_equal(model(jnp.asarray(tokens)).logits, model(tokens.tolist()).logits)


def test_equal_calls_are_compiled_once(model: Model) -> None:
    tokens = model.tokenizer.encode_batch(["ATTCCGATTCCG"])
    model(tokens, layers=(1, 2))
    with jax.no_tracing():
        for layers in ((1, 2), [2, 1], (1, 1, 2)):
            model(tokens, layers=layers)
        with pytest.raises(RuntimeError, match="tracing"):
            model(tokens)


def test_gradients_pass_through_a_call(model: Model) -> None:
    tokens = jnp.asarray(model.tokenizer.encode_batch(["ATTCCGATTCCG"]))

    def loss(params: Any) -> Any:
        return dataclasses.replace(model, params=params)(tokens).logits.sum()

    norms = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(jax.grad(loss)(model.params))]
    assert all(np.isfinite(norms))
    assert max(norms) > 0


@pytest.mark.parametrize(
    ("tokens", "rule"),
    [
        ([[3, 75]], r"tokens\[0, 1\] = 75: must lie between 0 and 74"),
        ([[3, 4], [-1, 3]], r"tokens\[1, 0\] = -1: must lie"),
        ([[3, 4, 1], [3, 1, 9]], r"tokens\[1, 2\] = 9: follows <pad>, which must be at the end"),
        (np.arange(3), r"tokens: shape \[3\]: must be \[sequences, tokens\]"),
        (np.zeros((0, 3), int), r"tokens: shape \[0, 3\]"),
        (np.zeros((1, 3)), "tokens: float64: must be integers"),
    ],
)
def test_tokens_that_do_not_fit(tokens: Any, rule: str, model: Model) -> None:
    with pytest.raises(ValueError, match=rf"^{rule}[^\n]*$"):
        model(tokens)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": (3,)}, "layers: there is no layer 3; the model's are numbered 0 to 2"),
        ({"layers": (-1,)}, "layers: there is no layer -1; the model's are numbered 0 to 2"),
        ({"attention": (0,)}, "attention: there is no layer 0; the model's are numbered 1 to 2"),
    ],
)
def test_layers_that_do_not_exist(asked: Any, message: str, model: Model) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        model([[3, 4]], **asked)


def test_a_run_of_ours_loads_with_its_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import optax

    from nucleotide_transformer.training.checkpoints import Checkpointer
    from nucleotide_transformer.training.state import init_state

    data = dataclasses.replace(PretrainConfig().data, sequence_tokens=10)
    sizes = {"tokens_per_update": 100, "sequences_per_device": 1, "total_tokens": 1_000}
    config = PretrainConfig(model=V2, data=data, **sizes)
    params = init_params(jax.random.key(config.seed), V2)
    state = jax.tree.map(np.asarray, init_state(params, optax.adam(1e-3)))
    checkpointer = Checkpointer(tmp_path / "run", keep=1)
    checkpointer.save(state, {"next": 0}, config_to_dict(config), {"corpus": "abc"}, {})
    checkpointer.wait()
    for source in (tmp_path / "run", checkpointer.path(0)):
        model = load_pretrained(source)
        assert model.config == V2
        assert_same_params(model.params, state.params)
    checkpointer.close()
    export_model(tmp_path / "run", tmp_path / "exported")
    assert_same_params(load_pretrained(tmp_path / "exported").params, state.params)
    assert not caplog.records  # orbax has remarks on what is as it should be


def test_two_models_of_different_precision_do_not_change_each_other(model: Model) -> None:
    half = dataclasses.replace(model, compute=ComputeConfig(compute_dtype="bfloat16"))
    tokens = model.tokenizer.encode_batch(["ATTCCGATTCCG"])
    before = np.asarray(model(tokens).logits)
    assert not np.array_equal(half(tokens).logits, before)
    np.testing.assert_array_equal(model(tokens).logits, before)


def test_inference_works_without_what_trains_or_fetches(tmp_path: Path) -> None:
    """None of these can be imported there; a model of this layout needs none."""
    save_model(tmp_path / "m", V2, "jax")
    code = (
        "import sys;"
        "names = 'orbax optax grain array_record tensorboardX tyro torch joblib safetensors';"
        "names += ' huggingface_hub matplotlib pandas pyarrow sklearn pysam';"
        "sys.modules.update(dict.fromkeys(names.split()));"
        "from nucleotide_transformer import embed_array, fill_mask, load_pretrained;"
        "from nucleotide_transformer import nucleotide_probabilities, pseudo_log_likelihoods;"
        f"print(embed_array(load_pretrained({str(tmp_path / 'm')!r}), ['ACGTACGTA']).shape)"
    )
    root = Path(pretrained.__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert (run.stdout, run.stderr) == (f"(1, {V2.embed_dim})\n", "")


DEEP = dataclasses.replace(V2, num_layers=6, embed_dim=64, ffn_dim=128)
"""Its blocks have far more numbers than what is computed for a few tokens."""


def count_temporary(function: Any, *arguments: Any) -> int:
    """Bytes that a compiled program needs beside its arguments and results."""
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def test_a_call_makes_no_copy_of_the_parameters(tmp_path: Path) -> None:
    """Half of their bytes is room for a block or two and the activations, not for a copy."""
    params = save_model(tmp_path / "m", DEEP, "jax")
    most = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) // 2
    model, tokens = load_pretrained(tmp_path / "m"), jnp.full((1, 3), 9)
    program = model._apply.lower(model.arrange(), tokens, layers=(), attention=(), logits=True)
    assert program.compile().memory_analysis().temp_size_in_bytes < most
    parameters, forward_fn, _, _ = get_pretrained_model("codon_nt", folder=tmp_path / "m")
    apply = hk.transform(forward_fn).apply
    assert count_temporary(apply, parameters, jax.random.key(0), tokens) < most


def test_parameters_are_arranged_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    arrange = pretrained.arrange_for_inference

    def count(*arguments: Any) -> Any:
        calls.append(arguments)
        return arrange(*arguments)

    monkeypatch.setattr(pretrained, "arrange_for_inference", count)
    for _ in range(2):
        embed_array(model, ["ACGTAC", "TTT"])
        fill_mask(model, "ACG<mask>")
        model(model.tokenizer.encode_batch(["ACGTAC"]))
    assert len(calls) == 1
    placed = model.arrange(NamedSharding(Mesh(np.array(jax.devices()[:2]), ("d",)), P()))
    again = model.arrange(NamedSharding(Mesh(np.array(jax.devices()[:2]), ("d",)), P()))
    assert jax.tree.all(jax.tree.map(lambda one, two: one is two, placed, again))


@pytest.mark.parametrize("stack", ["scan", "loop"])
def test_matrices_are_rounded_once_and_not_at_every_call(tmp_path: Path, stack: Stack) -> None:
    save_model(tmp_path / "m", V2, "jax")
    compute = ComputeConfig(compute_dtype="bfloat16", stack=stack)
    model = load_pretrained(tmp_path / "m", compute=compute)
    tokens = jnp.arange(9, 29).reshape(2, 10)
    arranged = model.arrange()
    for path, leaf in jax.tree_util.tree_leaves_with_path(arranged):
        assert leaf.dtype == ("bfloat16" if path[-1].key == "w" else "float32"), path
    apply = make_forward(V2, compute).apply
    given = model(tokens, layers=(1,))
    expected = jax.jit(apply, static_argnames="layers")(model.params, tokens, layers=(1,))
    np.testing.assert_array_equal(given.logits, expected.logits)
    np.testing.assert_array_equal(given.embeddings[1], expected.embeddings[1])
    conversion = "bf16[16,48] = convert_element_type"  # of the first feed-forward matrix
    assert conversion in str(jax.make_jaxpr(apply)(model.params, tokens))
    assert conversion not in str(jax.make_jaxpr(apply)(arranged, tokens))
