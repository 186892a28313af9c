"""Checkpoints: state, input position and config, saved together and atomically with orbax."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from nucleotide_transformer.config import ModelConfig, PretrainConfig
from nucleotide_transformer.configfile import config_from_dict, config_to_dict
from nucleotide_transformer.training.step import TrainState
from nucleotide_transformer.types import Params

FOLDER = "checkpoints"
FREE_FIELDS = (
    "output",
    "num_devices",
    "distributed",
    "sequences_per_device",
    "total_tokens",
    "shard_optimizer",
    "log_every_steps",
    "checkpoint",
    "evaluation.every_steps",
)
"""Config fields that may change when a run goes on: they leave every update as it was."""


class Restored(NamedTuple):
    """A checkpoint read back."""

    state: TrainState
    position: dict[str, Any]
    """State of the input iterator."""


class Checkpointer:
    """The checkpoints of one run: the latest `keep`, and the one with the lowest held-out loss."""

    def __init__(self, run: Path, *, keep: int):
        """Opens or creates `run`/checkpoints. Folders of interrupted saves are removed."""
        lowest_loss = BestN(
            get_metric_fn=lambda metrics: metrics["cross_entropy"],
            reverse=True,  # orbax keeps the last of the sorted
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep), lowest_loss]),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(Path(run).absolute() / FOLDER, options=options)

    @property
    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the lowest held-out cross-entropy."""
        infos = [(step, self._manager.metrics(step)) for step in self._manager.all_steps()]
        scored = [(metrics["cross_entropy"], step) for step, metrics in infos if metrics]
        return min(scored)[1] if scored else None

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of `step`."""
        return Path(self._manager.directory) / str(step)

    def save(
        self,
        state: TrainState,
        position: dict[str, Any],
        config: PretrainConfig,
        *,
        metrics: dict[str, int | float] | None = None,
    ) -> None:
        """Saves in the background; what is saved is copied first, so training may go on."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(np.asarray, jax.device_get(state))),
            position=ocp.args.JsonSave(position),
            config=ocp.args.JsonSave(config_to_dict(config)),
        )
        self._manager.save(step, args=arguments, metrics=metrics)

    def restore(self, like: TrainState, config: PretrainConfig) -> Restored:
        """The newest checkpoint.

        Args:
            like: a state (or its shapes) of the structure to restore.
            config: the run that goes on; it must agree with the one saved.

        Raises:
            ValueError: if the checkpoint is of a run with another config.
        """
        step = self.latest_step
        assert step is not None
        saved = self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))
        check_same_run(config, saved["config"], self.path(step))
        shapes = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(shapes), position=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=arguments)
        return Restored(restored["state"], restored["position"])

    def wait(self) -> None:
        """Blocks until every save has finished."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves and frees the manager's threads."""
        self._manager.close()


def check_same_run(config: PretrainConfig, saved: dict[str, Any], path: Path) -> None:
    """Raises a `ValueError` that lists the fields in which a checkpoint's run differs."""
    fields, saved_fields = flatten(config_to_dict(config)), flatten(saved)
    differing = [
        f"{field} = {saved_fields.get(field)!r} there, {value!r} here"
        for field, value in fields.items()
        if saved_fields.get(field) != value
        and not any(field == free or field.startswith(free + ".") for free in FREE_FIELDS)
    ]
    if differing:
        rule = "a run goes on with the config that it began with; give another output folder"
        raise ValueError(f"{path}: {'; '.join(differing)}: {rule}")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, or is one of its checkpoints."""
    return (folder / FOLDER).is_dir() or (folder / "_CHECKPOINT_METADATA").is_file()


def load_params(folder: Path) -> tuple[Params, ModelConfig]:
    """Parameters and architecture of a run (its best checkpoint, else its latest) or a checkpoint.

    Args:
        folder: the output folder of `nt pretrain`, or one checkpoint in its checkpoints/.

    Raises:
        FileNotFoundError: if there is no finished checkpoint.
    """
    folder = Path(folder).absolute()
    if (folder / FOLDER).is_dir():
        checkpointer = Checkpointer(folder, keep=1_000_000)
        step = checkpointer.best_step or checkpointer.latest_step
        checkpointer.close()
        if step is None:
            raise FileNotFoundError(f"{folder / FOLDER}: no finished checkpoint")
        folder = folder / FOLDER / str(step)
    config_path = folder / "config" / "metadata"
    if not config_path.is_file():
        raise FileNotFoundError(f"{folder}: not a checkpoint of `nt pretrain`: no config in it")
    run = config_from_dict(PretrainConfig, json.loads(config_path.read_text()), str(config_path))
    with ocp.PyTreeCheckpointer() as reader:
        # Adam's moments, two thirds of the file, are not read.
        params = reader.restore(folder / "state", args=read_params_only(folder / "state"))
    return params["params"], run.model


def read_params_only(state: Path) -> ocp.args.PyTreeRestore:
    """Restore arguments for the parameters of a saved `TrainState`, as NumPy arrays."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(state).item_metadata.tree
    wanted = {"params": jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree["params"])}
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    return ocp.args.PyTreeRestore(item=wanted, restore_args=kinds, partial_restore=True)
