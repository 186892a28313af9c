"""Several processes train as one: same numbers, one word to stop, one checkpoint, and resume.

The real command runs, as a cluster would start it.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import quick_compiler
from real_command import COMMAND
from safetensors.numpy import load_file
from small_models import V2, save_model
from small_tasks import make_task

from nucleotide_transformer.training.metrics import read_metrics
from nucleotide_transformer.weights.runs import load_run

ROOT = Path(__file__).parent.parent
TIMEOUT = 120


def write_toml(path, config):
    """A config file: scalars first, then a table for each nested dictionary."""
    scalars = {name: value for name, value in config.items() if not isinstance(value, dict)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in scalars.items()]
    for table in sorted(config.keys() - scalars.keys()):
        lines += [f"[{table}]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in config[table].items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def find_address():
    """Where the first of the processes can be found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def running(config_file, *, num_processes, num_devices, last=()):
    """`nt pretrain` in each of the processes; the last one gets the options `last` besides."""
    words = ("pretrain", "--config", config_file)
    return starting(words, num_processes=num_processes, num_devices=num_devices, last=last)


@contextlib.contextmanager
def starting(words, *, num_processes, num_devices, last=(), command=COMMAND):
    """`nt WORDS` in each of the processes; those that are left at the end are killed."""
    address = find_address()
    devices = f"--xla_force_host_platform_device_count={num_devices}"
    variables = os.environ | {"XLA_FLAGS": " ".join([devices, *quick_compiler.FLAGS])}
    command = [*command, *map(str, words)]
    if num_processes > 1:
        variables |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(num_processes)}
        command += ["--distributed"]
    processes = []
    try:
        for rank in range(num_processes):
            own = variables | {"JAX_PROCESS_ID": str(rank)} if num_processes > 1 else variables
            words = [*command, *(last if rank == num_processes - 1 else ())]
            pipe = subprocess.PIPE
            processes.append(
                subprocess.Popen(words, env=own, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
            )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def finish(processes, code=0):
    """Waits for all, and returns what they printed."""
    outputs = [process.communicate(timeout=TIMEOUT) for process in processes]
    for process, (output, error) in zip(processes, outputs, strict=True):
        assert process.returncode == code, output[-1000:] + error[-3000:]
    return [output for output, _ in outputs]


def wait_for_updates(folder, number):
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if any(line["kind"] == "train" and line["step"] >= number for line in read_metrics(folder)):
            return
        time.sleep(0.02)
    raise TimeoutError(f"{folder}: no update {number}")


@pytest.fixture
def config(small_corpus):
    return {
        "model": {"k": 3, "num_layers": 1, "embed_dim": 16, "num_heads": 2, "ffn_dim": 24},
        "data": {"corpus": str(small_corpus), "sequence_tokens": 32},
        "optimizer": {"initial_learning_rate": 1e-3, "peak_learning_rate": 1e-3},
        "seed": 4,
        "tokens_per_update": 32 * 7,
        "sequences_per_device": 2,
        "total_tokens": 32 * 7 * 3,
        "log_every_steps": 1,
        "evaluation": {"num_sequences": 3, "every_steps": 1_000_000},
        "checkpoint": {"every_steps": 1_000_000},
    }


def test_two_processes_of_three_devices_equal_one_of_one(config, tmp_path):
    """Seven sequences on six devices, of which two processes have four and three."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    one = write_toml(tmp_path / "one.toml", config | {"output": str(alone)})
    two = write_toml(tmp_path / "two.toml", config | {"output": str(together)})
    with running(one, num_processes=1, num_devices=1) as processes:
        finish(processes)
    with running(two, num_processes=2, num_devices=3) as processes:
        first, second = finish(processes)
    assert "6 devices in 2 processes x 1 accumulated x 2 sequences" in first
    assert "5 of the sequences blank" in first
    assert "devices" not in second

    expected, found = read_metrics(alone), read_metrics(together)
    assert [line["step"] for line in found] == [1, 2, 3, 3]
    for line, other in zip(expected, found, strict=True):
        name = "loss" if line["kind"] == "train" else "cross_entropy"
        np.testing.assert_allclose(line[name], other[name], atol=1e-5)
    rows = [
        json.loads((folder / "evaluation.json").read_text())["all"]["predictors"]["this model"]
        for folder in (alone, together)
    ]
    one, other = (row["standard_errors"]["cross_entropy"] for row in rows)
    np.testing.assert_allclose(one, other, atol=1e-5)  # of three sequences, two and one a process
    (params, _), (others, _) = load_run(alone), load_run(together)
    for module, leaves in params.items():
        for name, leaf in leaves.items():
            np.testing.assert_allclose(leaf, others[module][name], atol=1e-5, err_msg=module)


def test_one_process_asked_to_stop_stops_both_and_both_resume(config, tmp_path):
    endless = config | {"output": str(tmp_path / "run"), "total_tokens": 32 * 7 * 1_000_000}
    folder = tmp_path / "run"
    file = write_toml(tmp_path / "run.toml", endless)
    with running(file, num_processes=2, num_devices=1) as processes:
        wait_for_updates(folder, 3)
        processes[1].send_signal(signal.SIGTERM)
        outputs = finish(processes, code=130)
    (stopped,) = {int(path.name) for path in (folder / "checkpoints").iterdir()}
    assert all(f"stopped after update {stopped:,}" in output for output in outputs)
    assert read_metrics(folder)[-1]["step"] == stopped

    total = stopped + 2
    longer = endless | {"total_tokens": 32 * 7 * total}
    with running(write_toml(file, longer), num_processes=2, num_devices=1) as processes:
        finish(processes)
    whole = longer | {"output": str(tmp_path / "whole")}
    whole_file = write_toml(tmp_path / "whole.toml", whole)
    with running(whole_file, num_processes=2, num_devices=1) as processes:
        finish(processes)
    lines, expected = read_metrics(folder), read_metrics(tmp_path / "whole")
    assert [line["step"] for line in lines] == [*range(1, total + 1), total]
    for line, other in zip(lines, expected, strict=True):
        name = "loss" if line["kind"] == "train" else "cross_entropy"
        assert line[name] == other[name]


def test_a_second_signal_ends_a_distributed_run_at_once(config, tmp_path):
    endless = config | {"output": str(tmp_path / "run"), "total_tokens": 32 * 7 * 1_000_000}
    file = write_toml(tmp_path / "run.toml", endless)
    with running(file, num_processes=2, num_devices=1) as processes:
        wait_for_updates(tmp_path / "run", 2)
        os.kill(processes[0].pid, signal.SIGSTOP)  # the update of the other can't end now
        processes[1].send_signal(signal.SIGTERM)
        time.sleep(1.0)
        assert processes[1].poll() is None
        processes[1].send_signal(signal.SIGTERM)
        assert processes[1].wait(TIMEOUT) == -signal.SIGTERM
        os.kill(processes[0].pid, signal.SIGCONT)


def test_processes_with_different_settings_do_not_start(config, tmp_path):
    """Each compiles its own step: their parameters would drift apart, and nothing would tell."""
    file = write_toml(tmp_path / "run.toml", config | {"output": str(tmp_path / "run")})
    other = ("--optimizer.peak-learning-rate", "2e-3", "--output", str(tmp_path / "elsewhere"))
    with running(file, num_processes=2, num_devices=1, last=other) as processes:
        errors = [process.communicate(timeout=TIMEOUT)[1] for process in processes]
    for rank, (process, rate) in enumerate(zip(processes, ("0.001", "0.002"), strict=True)):
        expected = f"error: optimizer.peak_learning_rate = {rate} in process {rank}: must be the"
        assert expected in errors[rank], errors[rank][-3000:]
        assert process.returncode == 2
    assert not (tmp_path / "run").exists()


STOPPED = """
import os, signal, sys
from nucleotide_transformer import cli
from nucleotide_transformer.finetuning import batches, folds

calls = 0

def stop_after(number, function):
    def call(*words, **options):
        global calls
        found = function(*words, **options)
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return found
    return call

if os.environ["JAX_PROCESS_ID"] == "1":
    {place} = stop_after({number}, {place})
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command, in which the second process gets a signal after some calls of a function."""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Options of a fine-tuning run of six updates, each of seven sequences."""
    folder = tmp_path_factory.mktemp("task")
    save_model(folder / "base", V2, "huggingface")
    for seed, (name, size) in enumerate({"train": 30, "test": 8}.items()):
        data = make_task(size, seed=seed)
        rows = zip(data.sequences, data.labels, strict=True)
        lines = ["sequence,label", *(f"{text},{data.classes[label]}" for text, label in rows)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    numbers = {"total-steps": 6, "warmup-steps": 2, "evaluate-every-steps": 3, "log-every-steps": 1}
    numbers |= {"learning-rate": 1e-2, "sequences-per-update": 7, "compute.attention": "einsum"}
    tables = ("--train", folder / "train.csv", "--test", folder / "test.csv")
    options = [word for name, value in numbers.items() for word in (f"--{name}", value)]
    return ("finetune", "--model", folder / "base", *tables, *options)


def finetune(words, output, num_processes, *, command=COMMAND, code=0):
    """What each process of a run prints."""
    words = (*words, "--output", output)
    with starting(words, num_processes=num_processes, num_devices=1, command=command) as processes:
        return finish(processes, code)


def read_tuned(run, folds=("",)):
    """The adapters of a run, and its results."""
    adapters = [load_file(run / fold / "adapter" / "adapter.safetensors") for fold in folds]
    return adapters, json.loads((run / "results.json").read_text())


@pytest.fixture(scope="module")
def tuned(task, tmp_path_factory):
    """The run of two processes, and what each of them printed."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    return run, finetune(task, run, 2)


def assert_same_tuning(found, expected, atol):
    """Adapters, steps and metrics of two runs."""
    for one, other in zip(found[0], expected[0], strict=True):
        assert one.keys() == other.keys()
        for name, leaf in other.items():
            np.testing.assert_allclose(one[name], leaf, rtol=0, atol=atol, err_msg=name)
    assert found[1] == expected[1]


def test_two_processes_fine_tune_as_one(task, tuned, tmp_path):
    """Four and three sequences of each update; the first process alone says what came of it."""
    run, (first, second) = tuned
    (alone,) = finetune(task, tmp_path / "alone", 1)
    last_lines = alone.replace(str(tmp_path / "alone"), str(run)).splitlines()[-3:]
    assert first.splitlines()[-3:] == last_lines
    assert all(line.startswith("[Gloo] ") for line in second.splitlines())
    assert_same_tuning(read_tuned(run), read_tuned(tmp_path / "alone"), atol=1e-5)


def test_a_stopped_fine_tuning_of_two_processes_resumes(task, tuned, tmp_path):
    """The second process is asked to stop at its second batch; what resumes is the same run."""
    run, program = tmp_path / "run", STOPPED.format(place="batches.Batches.__next__", number=2)
    outputs = finetune(task, run, 2, command=(sys.executable, "-c", program), code=130)
    assert all("stopped after update " in output for output in outputs)
    (step,) = {int(path.name) for path in (run / "checkpoints").iterdir()}
    assert 2 <= step < 6
    finetune(task, run, 2)
    assert_same_tuning(read_tuned(run), read_tuned(tuned[0]), atol=0)


def test_processes_stopped_between_two_folds_agree_and_resume(task, tmp_path):
    """The second process is asked to stop after the first fold: the other does not wait for it."""
    words, run = (*task, "--folds", "2"), tmp_path / "run"
    program = STOPPED.format(place="folds.score_model", number=1)
    outputs = finetune(words, run, 2, command=(sys.executable, "-c", program), code=130)
    assert all("stopped; the same command resumes there" in output for output in outputs)
    assert not (run / "fold-1").exists()
    finetune(words, run, 2)
    finetune(words, tmp_path / "alone", 1)
    found, expected = (read_tuned(at, ("fold-0", "fold-1")) for at in (run, tmp_path / "alone"))
    assert_same_tuning(found, expected, atol=1e-5)


def test_who_loads_a_model_before_joining_is_told(tmp_path):
    """JAX joins only before it has computed anything; a process of its own."""
    program = (
        "import sys\n"
        "sys.path.insert(0, 'tests')\n"
        "from small_tasks import make_config, make_model, make_task\n"
        "from pathlib import Path\n"
        "from nucleotide_transformer import InputError, finetune\n"
        "config = make_config(Path(sys.argv[1]), distributed=True)\n"
        "try:\n    finetune(make_model(), make_task(), None, config)\n"
        "except InputError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.stdout == (
        "distributed = True: JAX is in use in this process already: call"
        " nucleotide_transformer.join_processes(distributed=True) before a model is loaded\n"
    ), done.stderr[-2000:]
    assert not (tmp_path / "run").exists()


def test_a_process_that_joined_still_ends_at_a_signal():
    """JAX would take the first for its own, and a process that loads a model would go on."""
    program = (
        "import os, signal, time\n"
        "from nucleotide_transformer.training.devices import join_processes\n"
        "join_processes(distributed=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "time.sleep(10)\n"
    )
    variables = {"JAX_COORDINATOR_ADDRESS": find_address()}
    variables |= {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | variables, timeout=TIMEOUT
    )
    assert done.returncode == -signal.SIGTERM
