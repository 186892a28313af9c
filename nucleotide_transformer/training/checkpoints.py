"""Checkpoints of a run, written: state, input position, config and score, atomically with orbax."""

import math
import os
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from nucleotide_transformer.console import note
from nucleotide_transformer.errors import InputError, UnwritableOutputError, describe_error
from nucleotide_transformer.files import write_json
from nucleotide_transformer.model.stacking import arrange_like, name_params
from nucleotide_transformer.training.state import TrainState
from nucleotide_transformer.weights.runs import (
    FORMAT_VERSION,
    REASON_LENGTH,
    act_alone,
    get_score,
    name_damage,
    open_manager,
    read_json,
    read_record,
)

Json = dict[str, Any]

_ONE_SAVE = threading.Lock()
"""orbax numbers saves by a counter of the process: two at once would take each other's signals."""


class Restored(NamedTuple):
    """A checkpoint read back."""

    state: TrainState
    position: Json
    """State of the input iterator."""


class Checkpointer:
    """The checkpoints of one run: the latest `keep`, and the one with the lowest score.

    One process writes, for all. What is saved depends neither on the devices nor on how the
    parameters are stacked: they go by their released names.

    A checkpoint that can't be written, as on a full disk, is told of and left out: the next may
    find room. Only where it is the last one, `close` raises.
    """

    def __init__(self, run: Path, *, keep: int):
        """Opens or creates `run`/checkpoints. Folders of interrupted saves are removed."""
        self._run, self._keep = run, keep
        self._manager = open_manager(run, keep=keep)
        self._newest = -1  # step of the last that was begun
        self._failure: UnwritableOutputError | None = None

    @property
    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint."""
        return self._manager.latest_step()

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of `step`; waits for it if it is being written."""
        if step in self._manager.all_steps():
            self.wait()
        return step in self._manager.all_steps()

    def find_before(self, step: int) -> int | None:
        """The newest checkpoint of fewer updates than `step`; None if there is none.

        Waits for one that is being written.
        """
        self.wait()
        return max((saved for saved in self._manager.all_steps() if saved < step), default=None)

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of `step`."""
        return Path(self._manager.directory) / str(step)

    def save(
        self, state: TrainState, position: Json, config: Json, record: Json, metrics: Json
    ) -> None:
        """Saves in the background a state that is in this process's memory (`fetch_state`).

        Frozen parameters are not saved. In another thread than the main one, beside which others
        may save, it waits until the checkpoint is written.

        Args:
            state: NumPy arrays.
            position: of the input.
            config: of the run.
            record: what else makes the run the same run; `format_version` is added.
            metrics: held-out, with the `score`; empty if they were not measured.
        """
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(name_state(state)),
            position=ocp.args.JsonSave(position),
            config=ocp.args.JsonSave(config),
            record=ocp.args.JsonSave({**record, "format_version": FORMAT_VERSION}),
        )
        self.wait()
        self._newest = int(state.step)
        with _ONE_SAVE:
            try:
                self._manager.save(self._newest, args=arguments, metrics={"score": None, **metrics})
            except Exception as error:
                self._leave_out(error)
            if threading.current_thread() is not threading.main_thread():
                self.wait()

    def add_metrics(self, step: int, metrics: Json) -> None:
        """Gives a checkpoint that was saved without its held-out metrics what was measured later.

        Its file of metrics is replaced as a whole.
        """
        self.wait()
        if not metrics or get_score(self._manager.metrics(step)) < math.inf:
            return
        path = self.path(step) / "metrics" / "metrics"
        path.parent.mkdir(exist_ok=True)  # checkpoints of version 0 have none
        write_json(path, metrics, indent=None)
        self._manager.reload()

    def wait(self) -> None:
        """Blocks until the save under way, if there is one, has ended."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._leave_out(error)

    def _leave_out(self, error: Exception) -> None:
        """Tells why the newest checkpoint was not written, and removes what was."""
        place = self.path(self._newest)
        self._failure = UnwritableOutputError(f"{place}: can't be written: {_find_reason(error)}")
        self._failure.__cause__ = error
        note(str(self._failure))
        with suppress(Exception):  # the same once more
            self._manager.close()
        with suppress(InputError):  # of a disk that is gone: the next save finds it again, or fails
            self._manager = open_manager(self._run, keep=self._keep)

    def close(self) -> None:
        """Waits for saves and frees the manager's threads.

        Raises:
            UnwritableOutputError: if the last one failed.
        """
        self.wait()
        self._manager.close()
        if self._failure and not self.has(self._newest):
            raise self._failure


def _find_reason(error: Exception) -> str:
    """What the system says, which tensorstore gives as a number at the end of a long text."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return describe_error(error)[:REASON_LENGTH]


def name_state(state: TrainState) -> Json:
    """What is saved of a state, with parameters and moments by their released names."""
    return {
        "params": name_params(state.trainable),
        "opt_state": name_params(state.opt_state),
        "step": state.step,
    }


def restore(checkpoint: Path, like: TrainState) -> Restored:
    """Reads a checkpoint back; every process does so by itself.

    Args:
        checkpoint: its folder.
        like: shapes of the state to restore (`jax.eval_shape`), in the structure it gets.
            Its frozen parameters, which are arrays, stay.

    Raises:
        InputError: if files of it are damaged or gone, or it is of a newer version.
    """
    read_record(checkpoint)
    shapes = name_state(jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like))
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=act_alone())
    with (
        name_damage(checkpoint),
        ocp.Checkpointer(handler, multiprocessing_options=act_alone()) as reader,
    ):
        folder = checkpoint.absolute() / "state"  # as orbax wants it
        saved = reader.restore(folder, args=ocp.args.StandardRestore(shapes))
    position = read_json(checkpoint, "position")
    state = like._replace(
        trainable=arrange_like(like.trainable, saved["params"]),
        opt_state=arrange_like(like.opt_state, saved["opt_state"]),
        step=saved["step"],
    )
    return Restored(state, position)
