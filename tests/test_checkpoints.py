"""Checkpoints: the best one is known to every process, readers only read, old runs open."""

import contextlib
import functools
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.model import init_params
from nucleotide_transformer.model.stacking import arrange_params
from nucleotide_transformer.training.checkpoints import Checkpointer, restore
from nucleotide_transformer.training.state import init_state
from nucleotide_transformer.weights.assembly import digest_params
from nucleotide_transformer.weights.runs import (
    FORMAT_VERSION,
    find_checkpoint,
    load_run,
    read_record,
)

ROOT = Path(__file__).parent.parent
MODEL = ModelConfig(k=3, num_layers=3, embed_dim=8, num_heads=2, ffn_dim=8)
CONFIG = {"model": {"k": 3, "num_layers": 3, "embed_dim": 8, "num_heads": 2, "ffn_dim": 8}}
OPTIMIZER = optax.adam(1e-3)


@functools.cache
def make_shapes(stack):
    return jax.eval_shape(
        lambda: init_state(arrange_params(init_params(jax.random.key(0), MODEL), stack), OPTIMIZER)
    )


def make_state(step, stack="scan"):
    """A state whose every number tells its step."""
    shapes = make_shapes(stack)
    state = jax.tree.map(lambda leaf: np.full(leaf.shape, step, leaf.dtype), shapes)
    return state._replace(step=np.int32(step))


def save(checkpointer, step, loss=None, stack="scan"):
    metrics = {} if loss is None else {"score": loss, "cross_entropy": loss}
    state = make_state(step, stack)
    checkpointer.save(state, {"next_index": step}, CONFIG, {"corpus": "abc"}, metrics)
    checkpointer.wait()


def steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def open_elsewhere(folder, keep, *losses):
    """Saves further checkpoints from another process; returns what it says is the best."""
    program = (
        "import sys, pathlib; sys.path.insert(0, 'tests')\n"
        "from test_checkpoints import *\n"
        f"folder, losses = pathlib.Path({str(folder)!r}), {losses!r}\n"
        f"checkpointer = Checkpointer(folder, keep={keep})\n"
        "[save(checkpointer, step, loss) for step, loss in losses]\n"
        "checkpointer.close(); print(find_checkpoint(folder).name)\n"
    )
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout.strip().splitlines()[-1]


def test_the_best_is_known_to_another_process_and_survives_it(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=1)
    for step, loss in ((1, 8.0), (2, 7.0), (3, 7.5)):
        save(checkpointer, step, loss)
    assert find_checkpoint(tmp_path).name == "2"
    checkpointer.close()
    assert steps(tmp_path) == [2, 3]
    assert load_run(tmp_path)[0]["esm_transformer/~/embed"]["embeddings"].max() == 2
    assert open_elsewhere(tmp_path, 1, (4, 7.6), (5, None), (6, 9.0)) == "2"
    assert steps(tmp_path) == [2, 6]
    assert find_checkpoint(tmp_path).name == "2"
    with contextlib.closing(Checkpointer(tmp_path, keep=1)) as checkpointer:
        save(checkpointer, 7, 6.5)
        assert find_checkpoint(tmp_path).name == "7"
    assert steps(tmp_path) == [7]


def test_a_run_without_scores_gives_its_latest(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (1, 2, 3):
        save(checkpointer, step)
    checkpointer.close()
    assert steps(tmp_path) == [2, 3]
    assert find_checkpoint(tmp_path).name == "3"


def test_a_score_that_comes_later_counts_from_then_on(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=1)
    save(checkpointer, 1, 8.0)
    save(checkpointer, 2)
    assert find_checkpoint(tmp_path).name == "1"
    checkpointer.add_metrics(2, {"score": 7.0})
    assert find_checkpoint(tmp_path).name == "2"
    checkpointer.add_metrics(2, {"score": 9.0})  # what was measured first stays
    assert find_checkpoint(tmp_path).name == "2"
    save(checkpointer, 3, 7.5)
    checkpointer.close()
    assert steps(tmp_path) == [2, 3]


def test_a_reader_leaves_the_save_of_a_live_run_alone(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=1)
    save(checkpointer, 1, 8.0)
    under_way = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    under_way.mkdir()
    (under_way / "state").write_text("half")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    _, model = load_run(tmp_path)
    assert model == MODEL
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    checkpointer.close()
    resumed = Checkpointer(tmp_path, keep=1)
    save(resumed, 3)
    resumed.close()
    assert not under_way.exists()  # the run itself removes what an interrupted save left


@pytest.mark.parametrize(("stack", "other"), [("scan", "loop"), ("loop", "scan")])
def test_what_is_saved_does_not_depend_on_the_stack(stack, other, tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=1)
    save(checkpointer, 5, stack=stack)
    checkpointer.close()
    like = make_shapes(other)
    state, position = restore(find_checkpoint(tmp_path), like)
    assert jax.tree.structure(state) == jax.tree.structure(like)
    assert position == {"next_index": 5}
    for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(like), strict=True):
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
        assert (leaf == 5).all()


def test_a_checkpoint_is_found_from_the_folder_that_one_stands_in(tmp_path, monkeypatch):
    """As `output = "runs/quickstart"` names it."""
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(Checkpointer(Path("run"), keep=1)) as checkpointer:
        save(checkpointer, 1)
    state, _ = restore(Path("run/checkpoints/1"), make_shapes("scan"))
    assert int(state.step) == 1
    params, _ = load_run(Path("run/checkpoints/1"))
    assert params


def test_frozen_parameters_are_not_saved(tmp_path):
    params = {"base": {"w": jnp.ones(3)}, "lora": {"down": jnp.full(3, 2.0)}}
    state = init_state(params, optax.sgd(0.1, momentum=0.9), lambda path: path.startswith("lora"))
    checkpointer = Checkpointer(tmp_path, keep=1)
    host = jax.tree.map(np.asarray, state)._replace(step=np.int32(1))
    checkpointer.save(host, {"next_index": 1}, {}, {}, {})
    checkpointer.close()
    other = jax.tree.map(jnp.zeros_like, state)
    restored, _ = restore(find_checkpoint(tmp_path), other)
    np.testing.assert_array_equal(restored.trainable["lora"]["down"], np.full(3, 2.0))
    np.testing.assert_array_equal(restored.frozen["base"]["w"], np.zeros(3))
    assert restored.trainable["base"]["w"] is None


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(MissingInputError, match="checkpoints: no finished checkpoint"):
        load_run(tmp_path)


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=1)
    save(checkpointer, 1)
    checkpointer.close()
    checkpoint = find_checkpoint(tmp_path)
    assert read_record(checkpoint) == {"format_version": FORMAT_VERSION, "corpus": "abc"}
    record = checkpoint / "record" / "metadata"
    record.write_text(json.dumps({"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(InputError, match=rf"format_version = {FORMAT_VERSION + 1}: this package"):
        load_run(tmp_path)


@pytest.mark.parametrize("version", [0, 1])
def test_golden_runs_of_every_version_open(version, tmp_path):
    """tests/golden/run_vN was written by `make_run.py` with the package of its time.

    The digests of versions 0 and 1 were taken from their files with tensorstore alone.
    """
    folder = shutil.copytree(ROOT / "tests" / "golden" / f"run_v{version}", tmp_path / "run")
    expected = json.loads((folder / "expected.json").read_text())
    checkpoint = find_checkpoint(folder)
    assert read_record(checkpoint)["format_version"] == version
    params, model = load_run(folder)
    assert model == ModelConfig(k=3, num_layers=3, embed_dim=16, num_heads=2, ffn_dim=24)
    assert {name: sorted(leaves) for name, leaves in params.items()} == expected["names"]
    assert digest_params(params) == expected["digest"]


def test_runs_in_threads_save_side_by_side(tmp_path):
    """orbax numbers saves by a counter of the process, which two at once would confuse."""
    states = [make_state(step) for step in range(1, 4)]

    def run(number):
        checkpointer = Checkpointer(tmp_path / str(number), keep=2)
        for state in states:
            record = {"corpus": str(number)}
            checkpointer.save(state, {"next_index": number}, CONFIG, record, {})
        checkpointer.close()
        return steps(tmp_path / str(number))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, range(2))) == [[2, 3]] * 2
    for number in range(2):
        saved = tmp_path / str(number) / "checkpoints" / "3"
        assert read_record(saved)["corpus"] == str(number)
        assert float(jax.tree.leaves(load_run(saved)[0])[0].ravel()[0]) == 3
