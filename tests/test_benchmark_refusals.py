"""What `nt benchmark` can't measure is refused before it measures anything."""

import os
import signal
from pathlib import Path

import pytest

from nucleotide_transformer import cli
from nucleotide_transformer.benchmark import run

MODEL = (
    "--models custom --model.k 3 --model.num-layers 1 --model.embed-dim 8 --model.num-heads 2"
    " --model.ffn-dim 8 --num-devices 1 --no-peer"
)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "--tasks embed train --compute.compute-dtype float16",
            "compute.compute_dtype = 'float16': float16 would need loss scaling",
        ),
        (
            "--tasks embed finetune --compute.compute-dtype float16",
            "compute.compute_dtype = 'float16': float16 would need loss scaling",
        ),
        (
            "--tasks embed finetune --compute.param-dtype bfloat16",
            "compute.param_dtype = 'bfloat16': training needs float32 parameters",
        ),
        (
            "--tasks embed train --sequence-tokens 20 4",
            "sequence_tokens = 4: train is an update of nt pretrain, with its default masks: with"
            " masking.ratio = 0.15 no token",
        ),
        (
            "--tasks embed train --model.token-dropout --model.masking-ratio 0.2",
            "train is an update of nt pretrain, with its default masks: model.token_dropout",
        ),
    ],
)
def test_an_impossible_case_is_refused_before_any_is_measured(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    args: str,
    message: str,
) -> None:
    monkeypatch.setattr(run, "find_peak", lambda *_: pytest.fail("measured"))
    words = f"{MODEL} --sequence-tokens 20 {args} --output {tmp_path / 'out'}".split()
    assert cli.main(["benchmark", *words]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--models 1000M", "did you mean 100M?"),
        ("--models v2_500m", "500M"),
        ("--num-devices 99", "num_devices = 99: this process has "),
        (
            "--models 500M_human_ref --sequence-tokens 1001",
            "sequence_tokens = 1001: the positions of model 500M_human_ref end at 1000",
        ),
        ("--sequences-per-device 0", "--sequences-per-device = (0,): at least 1 each"),
        ("--rounds 0", "rounds = 0: must be above 0"),
        ("--model.num-layers 2", "models = ('100M',): must name custom: "),
        ("--methods lora", "--methods = ('lora',): does nothing without finetune among the tasks"),
        (
            "--tasks embed --accumulation 2",
            "--accumulation = 2: does nothing without train or finetune",
        ),
        ("--profile-rows 3", "--profile-rows = 3: does nothing without profile"),
        pytest.param(
            "--scaling strong --sequences-per-device 3",
            "must be a multiple of 2 devices",
            marks=pytest.mark.devices(2),
        ),
        ("--output {tmp}/file", "a file is in its path: must be a folder"),
        ("--output {tmp}/file/below", "a file is in its path: must be a folder"),
    ],
)
def test_bad_input_is_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, args: str, message: str
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["benchmark", *args.format(tmp=tmp_path).split()]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "args",
    [
        "--tasks embed probe logits --compute.compute-dtype float16",
        "--tasks embed finetune --methods head --sequence-tokens 4",
    ],
)
def test_what_trains_nothing_is_not_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, args: str
) -> None:
    """Float16 computes, and fine-tuning has no masks."""

    def begin(*_: object) -> None:
        raise RuntimeError("measured")

    monkeypatch.setattr(run, "find_peak", begin)
    with pytest.raises(RuntimeError, match="measured"):
        cli.main(["benchmark", *MODEL.split(), *args.split(), "--output", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_benchmark_that_is_ended_leaves_no_empty_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def end(*_: object) -> None:
        assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".json"]
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run, "find_peak", end)
    words = f"{MODEL} --sequence-tokens 20 --tasks embed --output {tmp_path / 'out'}".split()
    assert cli.main(["benchmark", *words]) == 130
    assert list((tmp_path / "out").iterdir()) == []
