"""Checkpoints of a training run, read: which there are, which is the best, and what is in them.

Readers only read: a run may be saving itself at the same moment. What writes is
`training.checkpoints`.
"""

import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.configfile import config_from_dict
from nucleotide_transformer.errors import InputError, MissingInputError, describe_error, require
from nucleotide_transformer.types import Params
from nucleotide_transformer.weights import configs
from nucleotide_transformer.weights.assembly import (
    MAX_COMPRESSION,
    compare_shapes,
    count_bytes,
    expected_shapes,
)

Choice = Literal["best", "last"]
"""Which checkpoint of a run: the one with the lowest held-out score, or the newest. Where nothing
was evaluated they are the same."""

FOLDER = "checkpoints"
FORMAT_VERSION = 1
"""Of what a checkpoint holds; files of version 0 have no `record`.

`state` (parameters, the optimiser's state and the step, with parameters by their released names),
`position` of the input, `config` of the run, `metrics` with the held-out `score`, and `record`:
this number, the digest of the corpus, and `started_from`, that of the weights of `init_from`."""

_RULE = "without its folder, the checkpoint before it counts"
"""What to do about a checkpoint that can't be read."""
REASON_LENGTH = 200
"""Characters of what a library says of a damaged file that a message repeats."""


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, or is one of its checkpoints."""
    return (folder / FOLDER).is_dir() or (folder / "_CHECKPOINT_METADATA").is_file()


@contextmanager
def _hush() -> Iterator[None]:
    """Keeps orbax from warning of what is as it should be, such as that it only reads."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def name_damage(path: Path, rule: str = _RULE) -> Iterator[None]:
    """Turns what orbax raises for damaged files into one line that names the checkpoint.

    Nothing but reading belongs inside: a `ValueError` is taken for damage. What orbax remarks
    meanwhile is not shown.

    Raises:
        InputError: with the first line of the reason.
    """
    try:
        with _hush():
            yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        reason = describe_error(error)[:REASON_LENGTH]
        raise InputError(f"{path}: damaged, or not whole; {rule}: {reason}") from error


class _Manager(ocp.CheckpointManager):
    """The checkpoints of a run, of which one whose score can't be read has none."""

    def metrics(self, step: int) -> Any:
        """What orbax calls, too, when it lists the checkpoints."""
        try:
            found = super().metrics(step)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


def open_manager(run: Path, *, keep: int | None = None) -> ocp.CheckpointManager:
    """The checkpoints of a run, by this process alone.

    Args:
        run: the output folder of a run.
        keep: for writing: the latest checkpoints kept, besides the one with the lowest score.
            Folders of interrupted saves are removed. Without it nothing is ever changed.
    """
    shared: dict[str, Any] = {
        "best_fn": get_score,
        "best_mode": "min",
        "multiprocessing_options": act_alone(),
        "create": False,
    }
    folder = Path(run).absolute() / FOLDER
    with name_damage(folder, "its checkpoints can't be listed"):
        if keep is None:
            options = ocp.CheckpointManagerOptions(read_only=True, **shared)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            # Not by orbax, which would fail at the next save if it can't remove all of them.
            for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            lowest = BestN(
                get_metric_fn=get_score,
                reverse=True,  # orbax keeps the last of the sorted
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            options = ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(keep), lowest]),
                **shared,
            )
        return _Manager(folder, options=options)


def act_alone() -> ocp.options.MultiprocessingOptions:
    """Keeps orbax from waiting for the other processes of a run."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"{process}"
    )


def get_score(metrics: Any) -> float:
    """The held-out score that the best checkpoint has the lowest of.

    Infinite if it was not measured, or is no number: with nan nothing can be sorted.
    """
    score = metrics.get("score") if isinstance(metrics, dict) else None
    if not isinstance(score, int | float) or math.isnan(score):
        return math.inf
    return float(score)


def find_best_step(manager: ocp.CheckpointManager) -> int | None:
    """Step of the checkpoint with the lowest score, of several the latest; None if none has one.

    Of several the latest is also what `open_manager` keeps.
    """
    found = [(manager.metrics(step), step) for step in sorted(manager.all_steps())]
    scored = [(get_score(metrics), step) for metrics, step in found if metrics]
    score, step = min(reversed(scored), key=lambda pair: pair[0], default=(math.inf, None))
    return step if score < math.inf else None


def find_checkpoint(folder: Path, which: Choice = "best") -> Path:
    """The checkpoint that a folder stands for: of a run the best, else the latest, or itself.

    Raises:
        MissingInputError: if there is no finished checkpoint.
    """
    folder = Path(folder).absolute()
    if not (folder / FOLDER).is_dir():
        return folder
    with open_manager(folder) as manager:
        step = find_best_step(manager) if which == "best" else None
        step = manager.latest_step() if step is None else step
    if step is None:
        raise MissingInputError(f"{folder / FOLDER}: no finished checkpoint")
    return folder / FOLDER / str(step)


def read_json(checkpoint: Path, item: str) -> dict[str, Any]:
    """An item of a checkpoint that is JSON.

    Raises:
        MissingInputError: if it is not there.
        InputError: if it is damaged.
    """
    path = checkpoint / item / "metadata"
    if not path.is_file():
        rule = f"not a checkpoint of `nt pretrain`: no {item} in it"
        raise MissingInputError(f"{checkpoint}: {rule}")
    return _read_object(path)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return configs.read_json(path)
    except (InputError, OSError) as error:
        raise InputError(f"{error}: damaged; {_RULE}") from error


def read_held_out(checkpoint: Path) -> dict[str, float]:
    """The held-out metrics of a checkpoint, the `score` among them; none if none were measured."""
    path = checkpoint / "metrics" / "metrics"
    return _read_object(path) if path.is_file() else {}


def read_record(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: `format_version`, and since version 1 `corpus`.

    Raises:
        InputError: for a version that is newer than this package.
    """
    has_record = (checkpoint / "record").is_dir()
    record = read_json(checkpoint, "record") if has_record else {"format_version": 0}
    version = record.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        rule = f"this package reads versions up to {FORMAT_VERSION}; install a newer one"
        raise InputError(f"{checkpoint}: format_version = {version!r}: {rule}")
    return record


def load_run(folder: Path) -> tuple[Params, ModelConfig]:
    """Parameters and architecture of a run or of one of its checkpoints.

    Args:
        folder: the output folder of `nt pretrain` (its best checkpoint, else its latest), or one
            checkpoint in its checkpoints/.

    Returns:
        The parameters by their released names, as NumPy arrays, and the model's config.

    Raises:
        InputError: if there is no finished checkpoint, or it is damaged, of a newer version, or of
            a fine-tuning run, of which only the adapter can be loaded.
    """
    checkpoint = find_checkpoint(folder)
    config = read_json(checkpoint, "config")
    read_record(checkpoint)
    model = config.get("model")
    if isinstance(model, str):  # which model it began with
        rule = "the adapter of its run can be loaded; the command that began it makes or resumes it"
        raise InputError(f"{checkpoint}: a checkpoint of fine-tuning: {rule}")
    place = f"{checkpoint}/config: model"
    if not isinstance(model, dict):
        raise InputError(f"{place} = {model!r:.60}: must be a table of fields")
    architecture = config_from_dict(ModelConfig, model, place)
    check_params(checkpoint / "state", architecture)
    return read_params(checkpoint / "state"), architecture


def check_params(state: Path, config: ModelConfig) -> None:
    """Checks what reading the parameters of a saved state would take, before any is read.

    Raises:
        InputError: for parameters that are not those of the model, or whose files are far smaller.
    """
    with _open_params(state) as (_, tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        found = {_show_path(path): _find_shape(leaf) for path, leaf in leaves}
    shapes = expected_shapes(config)
    compare_shapes(
        state,
        found,
        {f"{module}/{name}": shapes[module][name] for module in shapes for name in shapes[module]},
    )
    stored = sum(file.stat().st_size for file in state.rglob("*") if file.is_file())
    most, needed = MAX_COMPRESSION * stored, count_bytes(config, 4)
    rule = f"its files, of {stored} bytes, can hold {most}"
    require(needed <= most, f"{state}: bytes of parameters", needed, rule)


def _show_path(path: tuple[Any, ...]) -> str:
    """Module and name of a parameter; a text that no parameter has, if it is nested otherwise."""
    show = jax.tree_util.keystr
    return show(path, simple=True, separator="/") if len(path) == 2 else show(path)


def _find_shape(leaf: Any) -> tuple[int, ...]:
    """The larger of an array's shape and that of its chunks, which are read whole; () of a text."""
    shape: tuple[int, ...] = getattr(leaf, "shape", None) or ()
    piece = getattr(getattr(leaf, "storage", None), "chunk_shape", None) or shape
    return tuple(map(max, shape, piece))


def read_params(state: Path) -> Params:
    """The parameters of a saved state; the optimiser's, two thirds of the file, are not read."""
    with _open_params(state) as (reader, tree):
        wanted = {"params": tree}
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=kinds, partial_restore=True)
        return reader.restore(state, args=arguments)["params"]


@contextmanager
def _open_params(state: Path) -> Iterator[tuple[ocp.Checkpointer, Any]]:
    """What reads a saved state, and the tree of its parameters, each described but not read."""
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=act_alone())
    with (
        name_damage(state.parent),
        ocp.Checkpointer(handler, multiprocessing_options=act_alone()) as reader,
    ):
        found = reader.metadata(state).item_metadata
        if found is None:
            raise KeyError("its list of arrays can't be read")
        yield reader, found.tree["params"]
