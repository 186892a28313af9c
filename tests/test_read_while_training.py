"""A run that is read by one process while another trains it."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nucleotide_transformer.config import CheckpointConfig, EvaluationConfig
from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.weights.runs import find_checkpoint, load_run

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.devices(7)


def test_a_run_can_be_loaded_while_it_trains(run_config):
    """A reader beside a run that saves after every update: neither disturbs the other."""
    saving = CheckpointConfig(every_steps=1, keep=1)
    evaluation = EvaluationConfig(num_sequences=5, every_steps=1_000_000)
    config = dataclasses.replace(
        run_config, checkpoint=saving, evaluation=evaluation, total_tokens=512 * 1_000_000
    )
    program = (
        "import json, sys\n"
        "from nucleotide_transformer.config import PretrainConfig\n"
        "from nucleotide_transformer.configfile import config_from_dict\n"
        "from nucleotide_transformer.pretraining.run import pretrain\n"
        "from nucleotide_transformer.training import peaks\n"
        "peaks.SIZES['cpu'] = (128,)\n"
        "pretrain(config_from_dict(PretrainConfig, json.loads(sys.argv[1]), 'here'), show=False)\n"
    )
    fields = {name: value for name, value in config_to_dict(config).items() if value is not None}
    fields["optimizer"].pop("clip_norm")
    command = [sys.executable, "-c", program, json.dumps(fields)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as trainer:
        try:
            loaded = load_what_is_saved(config.output, trainer)
        finally:
            trainer.kill()  # nothing, where it has ended
        assert trainer.returncode == 0, trainer.stderr.read()[-3000:]
    assert len(loaded) >= 4
    (last,) = (config.output / "checkpoints").iterdir()
    found = load_embeddings(last)
    assert all(np.array_equal(found, each) == (step == last.name) for step, each in loaded.items())


def load_what_is_saved(folder, trainer):
    """Loads a run as a process trains it, which is stopped after four: step -> embeddings.

    They are the same at every load.
    """
    checkpoints, loaded = folder / "checkpoints", {}
    while trainer.poll() is None:
        before = {path.name for path in checkpoints.glob("*") if path.name.isdigit()}
        if not before:
            time.sleep(0.02)
            continue
        try:
            checkpoint = find_checkpoint(folder)
            embeddings = load_embeddings(checkpoint)
        except (FileNotFoundError, ValueError):
            # A checkpoint is removed when the next is there, and not before.
            after = {path.name for path in checkpoints.glob("*") if path.name.isdigit()}
            if len(before | after) == 1:
                raise
            continue
        for step, known in loaded.items():
            assert np.array_equal(known, embeddings) == (step == checkpoint.name)
        is_new, loaded[checkpoint.name] = checkpoint.name not in loaded, embeddings
        if is_new and len(loaded) == 4:
            trainer.send_signal(signal.SIGINT)
        time.sleep(0.02)
    return loaded


def load_embeddings(checkpoint):
    return load_run(checkpoint)[0]["esm_transformer/~/embed"]["embeddings"]
