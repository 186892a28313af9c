"""Devices and processes: what takes part, how an update lies on it, what a cluster says."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.training import devices
from nucleotide_transformer.training.devices import Layout, lay_out, plan_layout

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("num_devices", "at_most", "accumulation", "per_device"),
    [
        (8, 25, 5, 25),  # the published run divides
        (6, 25, 7, 24),
        (16, 25, 3, 21),
        (24, 25, 2, 21),
        (32, 25, 2, 16),
        (64, 25, 1, 16),
        (1, 1_000, 1, 1_000),
        (2_000, 25, 1, 1),
    ],
)
def test_the_published_update_fits_any_number_of_devices(
    num_devices, at_most, accumulation, per_device
):
    layout = plan_layout(1_000, at_most=at_most, num_local=num_devices, num_processes=1)
    assert (layout.accumulation, layout.per_device) == (accumulation, per_device)
    assert layout.num_devices * accumulation * per_device >= 1_000
    assert per_device <= at_most


def test_rows_keep_their_order_and_blanks_fill_the_end():
    layout = Layout(num_local=2, num_processes=1, accumulation=2, per_device=2)
    batch = {"tokens": np.arange(15).reshape(5, 3), "rows": np.arange(5)}
    blank = {"tokens": np.full((1, 3), -1), "rows": np.full(1, -1)}
    laid_out = lay_out(batch, blank, layout)
    assert laid_out["tokens"].shape == (2, 2, 2, 3)
    np.testing.assert_array_equal(laid_out["rows"].ravel(), [0, 1, 2, 3, 4, -1, -1, -1])
    np.testing.assert_array_equal(laid_out["tokens"].reshape(8, 3)[:5], batch["tokens"])
    assert (laid_out["tokens"].reshape(8, 3)[5:] == -1).all()


def test_more_devices_than_there_are_is_an_error():
    here = len(devices.find_devices(None))
    rule = rf"num_devices = {here + 1}: this process has {here} of the platform"
    with pytest.raises(InputError, match=rule):
        devices.find_devices(here + 1)


@pytest.mark.parametrize("num_devices", [None, 1])
def test_processes_with_unequal_devices_are_told_of_all(num_devices, monkeypatch):
    found = {None: ["a", "b", "c"], 0: ["a", "b", "c"], 1: ["d", "e"]}
    monkeypatch.setattr(devices.jax, "process_count", lambda: 2)
    monkeypatch.setattr(devices.jax, "local_devices", lambda process=None: found[process])
    rule = "devices: 3 in process 0, 2 in process 1: must be as many in all processes"
    with pytest.raises(InputError, match=f"^distributed = True: {rule}$"):
        devices.find_devices(num_devices)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {}),
        ({"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}, {"num_processes": 4, "process_id": 3}),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_NODES": "4"}, {"local_device_ids": []}),
        ({"SLURM_NTASKS": "32", "SLURM_STEP_NUM_NODES": "4"}, {}),
        (SLURM | {"JAX_LOCAL_DEVICE_IDS": "0,1"}, {}),
    ],
)
def test_what_the_cluster_says(variables, expected, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "JAX_NUM", "JAX_PROCESS", "JAX_COORD", "JAX_LOCAL")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert devices.read_cluster() == expected


@pytest.mark.parametrize(("tasks", "visible"), [(1, ["all"]), (2, ["0", "1"])])
def test_one_slurm_task_on_a_host_sees_all_of_its_gpus(tasks, visible):
    """JAX by itself would show it one, which is right where a host runs a task for each GPU."""
    program = (
        "import jax\n"
        "from nucleotide_transformer.training.devices import join_processes\n"
        "join_processes(distributed=True)\n"
        'print(jax.config.values["jax_cuda_visible_devices"])\n'
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | SLURM | {"JAX_COORDINATOR_ADDRESS": address}
    environment |= {"SLURM_NTASKS": str(tasks)}
    command = [sys.executable, "-c", program]
    started = [
        subprocess.Popen(
            command,
            env=environment | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(tasks)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [output.strip() for output, _ in outputs] == visible, outputs


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, r"distributed = True: .*\(set JAX_COORDINATOR_ADDRESS"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES = 'two': must be a whole number"),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "localhost:1",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "5",
            },
            "distributed = True: .*process_id=5, num_processes=2",
        ),
    ],
)
def test_processes_that_cannot_find_each_other_are_an_input_error(variables, message):
    """In a process of its own: JAX joins only before it has computed anything."""
    program = (
        "from nucleotide_transformer.errors import InputError\n"
        "from nucleotide_transformer.training.devices import join_processes\n"
        "try:\n    join_processes(distributed=True)\n"
        "except InputError as error:\n    print(error)\n"
    )
    cluster = ("SLURM_", "OMPI_", "JAX_NUM", "JAX_PROCESS", "JAX_COORD")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(cluster)}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | variables,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert re.search(message, run.stdout), run.stdout + run.stderr[-2000:]
