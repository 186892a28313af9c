"""Two processes of one device each are one process of two devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nucleotide_transformer.training.metrics import read_metrics

PROGRAM = """
import json, sys
from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.configfile import config_from_dict
from nucleotide_transformer.training.loop import pretrain
pretrain(config_from_dict(PretrainConfig, json.loads(sys.argv[1]), "here"), show=False)
"""


def start(config, num_devices, environment):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    flags += " --xla_backend_optimization_level=0"
    variables = {**os.environ, "XLA_FLAGS": flags, **environment}
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", PROGRAM, json.dumps(config)]
    return subprocess.Popen(command, env=variables, cwd=root, stderr=subprocess.PIPE, text=True)


def wait(*processes):
    errors = [process.communicate(timeout=240)[1] for process in processes]
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0, error[-3000:]


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_equal_one_with_two_devices(sharded, small_corpus, tmp_path):
    config = {
        "model": {"k": 3, "num_layers": 3, "embed_dim": 16, "num_heads": 2, "ffn_dim": 24},
        "data": {"corpus": str(small_corpus), "sequence_tokens": 32},
        "tokens_per_update": 256,
        "sequences_per_device": 4,
        "total_tokens": 256 * 3,
        "shard_optimizer": sharded,
        "log_every_steps": 1,
        "evaluation": {"num_sequences": 3},
    }
    alone, together = tmp_path / "alone", tmp_path / "together"
    wait(start(config | {"output": str(alone)}, 2, {}))

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    config |= {"output": str(together), "distributed": True}
    wait(*[start(config, 1, shared | {"JAX_PROCESS_ID": str(rank)}) for rank in range(2)])

    expected, found = read_metrics(alone), read_metrics(together)
    assert [line["step"] for line in found] == [1, 2, 3, 3]
    for one, other in zip(expected, found, strict=True):
        name = "loss" if one["kind"] == "train" else "cross_entropy"
        np.testing.assert_allclose(one[name], other[name], atol=1e-5)
    assert (together / "checkpoints" / "3").is_dir()
