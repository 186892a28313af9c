"""Two processes train as one: same numbers, one word to stop, one checkpoint, and resume.

The command runs as a cluster would start it. What it is compared with runs in this process.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import quick_compiler
from safetensors.numpy import load_file
from small_models import V2, save_model
from small_tasks import make_config, make_model, make_task

from nucleotide_transformer import cli
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning.run import finetune as finetune_here
from nucleotide_transformer.training.metrics import read_metrics
from nucleotide_transformer.weights.runs import load_run

ROOT = Path(__file__).parent.parent
TIMEOUT = 120


PROGRAM = """
import os, signal, sys
from nucleotide_transformer import cli
from nucleotide_transformer.training import peaks

def stop_after(number, function):
    calls = 0

    def call(*words, **options):
        nonlocal calls
        found = function(*words, **options)
        calls += 1
        if calls == number and os.environ["JAX_PROCESS_ID"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    return call

peaks.SIZES["cpu"] = (128,)
{lines}
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command `nt` after some lines more; it measures the machine's peak by a small product."""


def make_command(*lines):
    return (sys.executable, "-c", PROGRAM.format(lines="\n".join(lines)))


def stop_after(number, module, name):
    """Lines by which the second process gets a signal after some calls of a function."""
    return (
        f"import nucleotide_transformer.{module} as module",
        f"module.{name} = stop_after({number}, module.{name})",
    )


NO_CURVES = (
    "from nucleotide_transformer.pretraining import report",
    "report.plot_curves = lambda *_, **__: None",
)


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


@contextlib.contextmanager
def starting(words, *, num_devices=1, last=(), command):
    """`nt WORDS` in each of two processes, in the second with the options `last` besides.

    Those that are left at the end are killed.
    """
    devices = f"--xla_force_host_platform_device_count={num_devices}"
    variables = os.environ | {"XLA_FLAGS": " ".join([devices, *quick_compiler.FLAGS])}
    variables |= {"JAX_COORDINATOR_ADDRESS": find_address(), "JAX_NUM_PROCESSES": "2"}
    command, pipe = [*command, *map(str, words), "--distributed"], subprocess.PIPE
    processes = []
    try:
        for rank in range(2):
            own = variables | {"JAX_PROCESS_ID": str(rank)}
            words = [*command, *(map(str, last) if rank else ())]
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


@pytest.fixture(scope="module")
def config(small_corpus):
    """Six updates, each of seven sequences."""
    return {
        "model": {"k": 3, "num_layers": 1, "embed_dim": 16, "num_heads": 2, "ffn_dim": 24},
        "data": {"corpus": str(small_corpus), "sequence_tokens": 32},
        "optimizer": {"initial_learning_rate": 1e-3, "peak_learning_rate": 1e-3},
        "seed": 4,
        "tokens_per_update": 32 * 7,
        "sequences_per_device": 2,
        "total_tokens": 32 * 7 * 6,
        "log_every_steps": 1,
        "evaluation": {"num_sequences": 3, "every_steps": 1_000_000},
        "checkpoint": {"every_steps": 1_000_000},
    }


def pretraining(config, output):
    """What begins or resumes a run."""
    file = write_toml(output.with_suffix(".toml"), config | {"output": str(output)})
    return ("pretrain", "--config", str(file))


def pretrain(config, output, *lines, code=0):
    """What each of two processes of three devices prints."""
    words, command = pretraining(config, output), make_command(*NO_CURVES, *lines)
    with starting(words, num_devices=3, command=command) as processes:
        return finish(processes, code)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """A run of two processes, and what each of them printed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    return run, pretrain(config, run)


def test_two_processes_of_three_devices_equal_one_of_one(config, trained, tmp_path):
    """Seven sequences on six devices, of which two processes have four and three."""
    alone, (together, (first, second)) = tmp_path / "alone", trained
    assert cli.main([*pretraining(config, alone), "--num-devices", "1"]) == 0
    assert "6 devices in 2 processes x 1 accumulated x 2 sequences" in first
    assert "5 of the sequences blank" in first
    assert "devices" not in second

    expected, found = read_metrics(alone), read_metrics(together)
    assert [line["step"] for line in found] == [*range(1, 7), 6]
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


def test_one_process_asked_to_stop_stops_both_and_both_resume(config, trained, tmp_path):
    """The second process is asked to stop after its first update."""
    run = tmp_path / "run"
    outputs = pretrain(config, run, *stop_after(1, "training.loop", "Run._update"), code=130)
    (stopped,) = {int(path.name) for path in (run / "checkpoints").iterdir()}
    assert 2 <= stopped < 6
    assert all(f"stopped after update {stopped:,}" in output for output in outputs)
    assert read_metrics(run)[-1]["step"] == stopped

    pretrain(config, run)
    lines, expected = read_metrics(run), read_metrics(trained[0])
    assert [line["step"] for line in lines] == [*range(1, 7), 6]
    for line, other in zip(lines, expected, strict=True):
        name = "loss" if line["kind"] == "train" else "cross_entropy"
        assert line[name] == other[name]


def test_a_second_signal_ends_a_distributed_run_at_once(config, tmp_path):
    endless = pretraining(config | {"total_tokens": 32 * 7 * 1_000_000}, tmp_path / "run")
    with starting(endless, command=make_command()) as processes:
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
    words = pretraining(config, tmp_path / "run")
    other = ("--optimizer.peak-learning-rate", "2e-3", "--output", str(tmp_path / "elsewhere"))
    with starting(words, last=other, command=make_command()) as processes:
        errors = [process.communicate(timeout=TIMEOUT)[1] for process in processes]
    for rank, (process, rate) in enumerate(zip(processes, ("0.001", "0.002"), strict=True)):
        expected = f"error: optimizer.peak_learning_rate = {rate} in process {rank}: must be the"
        assert expected in errors[rank], errors[rank][-3000:]
        assert process.returncode == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("begin", "option"),
    [("config", "--data.corpus"), ("config", "--output"), ("task", "--train"), ("task", "--model")],
)
def test_a_process_that_can_not_start_ends_the_other(begin, option, request, tmp_path):
    """The host that can't says why; the other doesn't wait for it."""
    given, run, unusable = request.getfixturevalue(begin), tmp_path / "run", tmp_path / "file"
    unusable.write_text("neither a folder nor a table\n")
    words = (*given, "--output", run) if begin == "task" else pretraining(given, run)
    with starting(words, last=(option, unusable), command=make_command()) as processes:
        errors = [process.communicate(timeout=TIMEOUT)[1] for process in processes]
    expected = ("error: distributed = True: another process could not start", str(unusable))
    for process, error, words in zip(processes, errors, expected, strict=True):
        assert words in error, error[-3000:]
        assert "Traceback" not in error, error[-3000:]
        assert process.returncode == 2
    assert not run.exists()


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


def finetune(words, output, *lines, code=0):
    """What each of two processes prints."""
    words = (*words, "--output", output)
    with starting(words, command=make_command(*lines)) as processes:
        return finish(processes, code)


def finetune_alone(words, output):
    words = (*words, "--output", output, "--num-devices", 1)
    assert cli.main([*map(str, words)]) == 0


def read_tuned(run, folds=("",)):
    """The adapters of a run, and its results."""
    adapters = [load_file(run / fold / "adapter" / "adapter.safetensors") for fold in folds]
    return adapters, json.loads((run / "results.json").read_text())


def assert_same_tuning(found, expected):
    """Adapters, steps and metrics of two runs."""
    for one, other in zip(found[0], expected[0], strict=True):
        assert one.keys() == other.keys()
        for name, leaf in other.items():
            np.testing.assert_allclose(one[name], leaf, rtol=0, atol=1e-5, err_msg=name)
    assert found[1] == expected[1]


def test_two_processes_fine_tune_as_one(task, tmp_path, capfd):
    """Four and three sequences of each update; the first process alone says what came of it."""
    run, alone = tmp_path / "run", tmp_path / "alone"
    first, second = finetune(task, run)
    finetune_alone(task, alone)
    last_lines = capfd.readouterr().out.replace(str(alone), str(run)).splitlines()[-3:]
    assert first.splitlines()[-3:] == last_lines
    assert all(line.startswith("[Gloo] ") for line in second.splitlines())
    assert_same_tuning(read_tuned(run), read_tuned(alone))


def test_folds_stopped_in_one_and_between_two_resume(task, tmp_path):
    """The second process is asked to stop; the other does not wait for it."""
    words, run, alone = (*task, "--folds", "2"), tmp_path / "run", tmp_path / "alone"
    lines = stop_after(2, "finetuning.batches", "Batches.__next__")
    outputs = finetune(words, run, *lines, code=130)
    assert all("stopped; the same command resumes there" in output for output in outputs)
    (step,) = {int(path.name) for path in (run / "fold-0" / "checkpoints").iterdir()}
    assert 2 <= step < 6
    assert not (run / "fold-1").exists()

    lines = stop_after(1, "finetuning.folds", "score_model")
    outputs = finetune(words, run, *lines, code=130)
    assert all("stopped; the same command resumes there" in output for output in outputs)
    assert [path.name for path in run.glob("fold-*")] == ["fold-0"]
    assert (run / "fold-0" / "adapter").exists()

    finetune(words, run)
    finetune_alone(words, alone)
    assert_same_tuning(*(read_tuned(at, ("fold-0", "fold-1")) for at in (run, alone)))


def test_who_loads_a_model_before_joining_is_told(tmp_path):
    """JAX joins only before it has computed anything."""
    model, config = make_model(), make_config(tmp_path, distributed=True)
    rule = (
        "distributed = True: JAX is in use in this process already: call"
        " nucleotide_transformer.join_processes(distributed=True) before a model is loaded"
    )
    with pytest.raises(InputError, match=f"^{re.escape(rule)}$"):
        finetune_here(model, make_task(), None, config)
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
