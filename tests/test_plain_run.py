"""The whole run against a plain one: every setting off its default, thirty updates, one resume.

`plain_run` shares neither model nor training with the package; its numbers are float64. The run is
the command's, stopped by SIGTERM, and resumed with other devices, micro-batches and forms of
computation.
"""

import contextlib
import dataclasses
import io
import os
import shutil
import signal

import jax
import matplotlib.figure
import numpy as np
import plain_run
import pytest
from plain_cases import LEARNED, ROTARY, build, make_config, write_toml

from nucleotide_transformer import cli
from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.configfile import config_to_dict, load_config
from nucleotide_transformer.data.manifest import load_manifest
from nucleotide_transformer.data.reader import open_split
from nucleotide_transformer.model import init_params
from nucleotide_transformer.pretraining import evaluation, report, run
from nucleotide_transformer.pretraining.baselines import (
    MARKOV,
    evaluate_baselines,
    fit_baselines,
)
from nucleotide_transformer.pretraining.counts import count_split, save_counts
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.training.curves import plot_curves
from nucleotide_transformer.training.identity import flatten
from nucleotide_transformer.training.metrics import MetricWriter, read_metrics
from nucleotide_transformer.weights.runs import load_run

RELATIVE = 1e-5
"""Of metrics: the run's float32 against float64; 6e-7 was measured."""
ABSOLUTE = 1e-5
"""Of parameters, which move by 0.03 and more. 3e-6 was measured in the table of positions (where
<mask> is zeroed, a position alone goes through a norm), 7e-7 in all others. Epsilon, 1e-3, is far
above the rounding of gradients, so that Adam makes nothing of those that should be zero."""

STOP_AT = 16
"""The update whose line of metrics SIGTERM follows. It is saved, and the next one ends the run."""
STOPPED = 17
MAX_ORDER = 6
"""Of the baselines' chains: 12, as `nt corpus baselines` has it, takes seconds."""
RESUMED = ["--num-devices", "2", "--sequences-per-device", "4", "--compute.stack", "scan"]
RESUMED += ["--compute.remat", "none", "--compute.attention", "einsum"]


on_three = pytest.mark.devices(3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build(tmp_path_factory.mktemp("plain"))


@dataclasses.dataclass
class Case:
    """A run, and what it must equal."""

    config: PretrainConfig
    updates: list
    """Of the plain run."""
    held_out: plain_run.HeldOut
    starts: tuple[int, ...]
    """Updates applied when a process began."""
    printed: str = ""
    """By the last command."""
    figures: tuple = ()
    """That the last command saved."""
    has_baselines: bool = False
    precisions: tuple = ()
    """Of products, whenever the network was traced."""

    def params(self, step):
        return self.updates[step - 1].params

    def read(self, kind):
        return [line for line in read_metrics(self.config.output) if line["kind"] == kind]


def make_case(config, starts):
    params = init_params(jax.random.key(config.seed), config.model)
    updates = plain_run.run_plainly(config, params)
    return Case(config, updates, plain_run.HeldOut(config), starts)


@contextlib.contextmanager
def watched(case):
    """Keeps what a run prints and draws, and in which precision its network is traced."""
    figures, precisions, printed = [], [], io.StringIO()
    savefig, make_forward = matplotlib.figure.Figure.savefig, run.make_forward

    def save(figure, *arguments, **options):
        figures.append(figure)
        savefig(figure, *arguments, **options)

    def make_watched(*arguments, **options):
        forward = make_forward(*arguments, **options)

        def apply(*arguments, **options):
            precisions.append(jax.config.jax_default_matmul_precision)
            return forward.apply(*arguments, **options)

        return forward._replace(apply=apply)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(matplotlib.figure.Figure, "savefig", save)
        for module in (run, evaluation):
            patch.setattr(module, "make_forward", make_watched)
        patch.setattr(report, "plot_curves", plot_curves)
        yield patch
    case.figures, case.precisions = figures, case.precisions + tuple(precisions)
    case.printed = printed.getvalue()


@pytest.fixture(scope="module")
def learned(corpus, tmp_path_factory):
    """The run that is stopped and resumed, on a corpus with baselines."""
    folder = tmp_path_factory.mktemp("learned")
    corpus, k = shutil.copytree(corpus, folder / "corpus"), LEARNED["model"]["k"]
    manifest = load_manifest(corpus)
    counts = count_split(open_split(manifest, "train"), KmerTokenizer(k=k), 10**9, MAX_ORDER)
    save_counts(manifest, counts, k)
    case = make_case(make_config(LEARNED, corpus, folder / "run"), (0, STOPPED))
    file = write_toml(folder / "run.toml", config_to_dict(case.config))
    assert load_config(file) == case.config
    command = ["pretrain", "--config", str(file)]
    write = MetricWriter.write

    def write_and_stop(self, kind, step, values):
        write(self, kind, step, values)
        if (kind, step) == ("train", STOP_AT):
            assert signal.getsignal(signal.SIGTERM) is not before, "SIGTERM would kill the tests"
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with watched(case) as patch:
        patch.setattr(MetricWriter, "write", write_and_stop)
        assert cli.main(command) == 130
    assert f"stopped after update {STOPPED};" in case.printed
    with watched(case):
        assert cli.main([*command, *RESUMED]) == 0
    case.has_baselines = True
    return case


@pytest.fixture(scope="module")
def rotary(corpus, tmp_path_factory):
    """The run without an interruption."""
    folder = tmp_path_factory.mktemp("rotary")
    case = make_case(make_config(ROTARY, corpus, folder / "run"), (0,))
    with watched(case):
        run.pretrain(case.config)
    return case


@pytest.fixture(params=[pytest.param("learned", marks=on_three), "rotary"])
def case(request):
    return request.getfixturevalue(request.param)


def is_due(step, every, total):
    return step % every == 0 or step == total


def test_training_lines_are_those_of_the_plain_run(case):
    """Means over an interval's masked tokens; an interval ends, too, where a run is stopped."""
    config, updates = case.config, case.updates
    expected, begin = [], 0
    for step in range(1, 31):
        if not is_due(step, config.log_every_steps, 30) and step not in case.starts:
            continue
        interval = updates[begin:step]
        weights = [update.num_masked for update in interval]
        accuracy = sum(update.num_correct for update in interval) / sum(weights)
        expected.append({
            "step": step,
            "tokens": step * config.tokens_per_update,
            "loss": np.average([update.loss for update in interval], weights=weights),
            "accuracy": accuracy,
            "gradient_norm": updates[step - 1].gradient_norm,
            "learning_rate": updates[step - 1].rate,
        })  # fmt: skip
        begin = step
    found = case.read("train")
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for line, other in zip(found, expected, strict=True):
        assert {name: line[name] for name in other} == pytest.approx(other, rel=RELATIVE)


def list_evaluations(case):
    steps = [n for n in range(1, 31) if is_due(n, case.config.evaluation.every_steps, 30)]
    return {step: case.held_out.evaluate(case.params(step)) for step in steps}


def test_validation_lines_are_those_of_the_plain_run(case):
    expected = list_evaluations(case)
    found = case.read("validation")
    assert [line["step"] for line in found] == list(expected)
    for line in found:
        other = expected[line["step"]]
        other |= {"tokens": line["step"] * case.config.tokens_per_update}
        assert {name: line[name] for name in other} == pytest.approx(other, rel=RELATIVE)
        assert line.keys() == {"kind", "step", *other}


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for module, leaves in expected.items():
        assert found[module].keys() == leaves.keys()
        for name, leaf in leaves.items():
            place = f"{module} {name}"
            np.testing.assert_allclose(
                found[module][name], leaf, rtol=0, atol=ABSOLUTE, err_msg=place
            )


def test_parameters_are_those_of_the_plain_run(case):
    params, model = load_run(case.config.output / "checkpoints" / "30")
    assert model == case.config.model
    assert_close(params, case.params(30))


def test_checkpoints_are_the_latest_and_the_best(case):
    """The learned run's held-out loss rises, so that the best one is not among the latest."""
    config = case.config
    saved = {n for n in range(1, 31) if is_due(n, config.checkpoint.every_steps, 30)}
    saved = sorted(saved | set(case.starts) - {0})
    losses = {step: row["cross_entropy"] for step, row in list_evaluations(case).items()}
    best = min((step for step in saved if step in losses), key=losses.__getitem__)
    latest = saved[-config.checkpoint.keep :]
    assert best not in latest or case.config.model.position == "rotary"
    found = {int(path.name) for path in (config.output / "checkpoints").iterdir()}
    assert found == {best, *latest}
    params, _ = load_run(config.output)
    assert_close(params, case.params(best))


def measure_baselines(case):
    """The baselines of the training split on the masked tokens of the plain run."""
    tokenizer, held_out = plain_run.Corpus(case.config).tokenizer, case.held_out
    counts = 1 + np.array(plain_run.Corpus(case.config).count_tokens())
    first, known = case.config.model.first_kmer_id, case.config.model.num_nucleotide_tokens
    counts = counts[first : first + known]
    rows, total = np.nonzero(held_out.selected)[0], len(held_out.tokens)
    nats = -np.log(counts / counts.sum())[held_out.targets - first]
    num_correct = (held_out.targets == first + counts.argmax()).sum()
    frequency = held_out.describe(np.bincount(rows, nats, total), num_correct)
    places = [np.flatnonzero(row) for row in held_out.selected]
    valid = np.arange(max(map(len, places))) < np.array([[len(row)] for row in places])
    positions = np.zeros(valid.shape, int)
    positions[valid] = np.concatenate(places)
    train = open_split(load_manifest(case.config.data.corpus), "train")
    fitted = fit_baselines(
        count_split(train, tokenizer, 10**9, MAX_ORDER), tokenizer, num_tokens=24, share=0.3
    )
    markov = evaluate_baselines(fitted, held_out.tokens, positions, valid)[MARKOV]
    return {
        "frequency": frequency,
        MARKOV: held_out.describe(markov.nats, markov.num_correct.sum()),
    }


@on_three
def test_the_final_table_is_that_of_the_plain_run(learned):
    """The model beside the token frequencies and Markov chains of the training split."""
    expected = {"this model": list_evaluations(learned)[30], **measure_baselines(learned)}
    lines = [line.strip("│").split("│") for line in learned.printed.splitlines()]
    found = {cells[0].strip(): cells[1:] for cells in lines if len(cells) == 6}
    assert found.keys() == expected.keys()
    model = expected["this model"]
    for name, row in expected.items():
        numbers = [cell.replace("%", "").split("±") for cell in found[name]]
        loss, error = map(float, numbers[0])
        assert loss == pytest.approx(row["cross_entropy"], abs=1e-4)
        assert error == pytest.approx(row["standard_error"], abs=1e-4)
        assert float(numbers[1][0]) == pytest.approx(row["perplexity"], abs=0.1)
        assert float(numbers[2][0]) == pytest.approx(100 * row["accuracy"], abs=0.01)
        assert float(numbers[3][0]) == pytest.approx(row["bits_per_nucleotide"], abs=1e-4)
        if name != "this model":
            ahead = model["cross_entropy"] - row["cross_entropy"]
            assert float(numbers[4][0]) == pytest.approx(ahead, abs=1e-4)


def test_the_curves_are_those_of_the_plain_run(case):
    """Training, held-out and baselines over the tokens seen, before and after a resume."""
    baselines = measure_baselines(case) if case.has_baselines else {}
    names = (("loss", "cross_entropy"), ("accuracy", "accuracy"))
    for axes, (train, validation) in zip(case.figures[-1].axes, names, strict=False):
        assert len(axes.lines) == 2 + len(baselines)
        for curve, kind, name in zip(
            axes.lines, ("train", "validation"), (train, validation), strict=False
        ):
            lines = case.read(kind)
            np.testing.assert_array_equal(curve.get_xdata(), [row["tokens"] for row in lines])
            np.testing.assert_array_equal(curve.get_ydata(), [row[name] for row in lines])
        heights = [curve.get_ydata()[0] for curve in axes.lines[2:]]
        assert heights == pytest.approx([row[validation] for row in baselines.values()], rel=1e-5)


def test_products_are_exact_in_training_and_evaluation(case):
    """On GPUs and TPUs too, which would round their factors in float32 runs."""
    assert set(case.precisions) == {"highest"}
    assert len(case.precisions) >= 2 * len(case.starts)


@on_three
def test_another_seed_gives_other_parameters(learned):
    config = learned.config
    one, other = (init_params(jax.random.key(seed), config.model) for seed in (11, 12))
    for module, leaves in one.items():
        for name, leaf in leaves.items():
            drawn = name in ("w", "embeddings") and not module.endswith("lm_head/~/shared")
            assert bool((leaf != other[module][name]).any()) == drawn, (module, name)


def test_the_runs_meet_every_kind_of_input(case):
    """Padding, single letters, all three fates of a masked token, gradients above and below."""
    model, updates = case.config.model, case.updates
    tokens = np.concatenate([update.tokens for update in updates])
    inputs = np.concatenate([update.inputs for update in updates])
    letters = (tokens >= model.first_kmer_id + 4**model.k) & (tokens < model.vocabulary_size - 1)
    assert (tokens == model.pad_token_id).sum() > 20
    assert letters.sum() > 20
    changed = inputs != tokens
    assert (changed & (inputs == model.mask_token_id)).sum() > 500
    assert (changed & (inputs != model.mask_token_id)).sum() > 200
    assert changed.sum() + 100 < sum(update.num_masked for update in updates)
    clipped = [update.gradient_norm > case.config.optimizer.clip_norm for update in updates]
    assert 5 < sum(clipped) < 25
    assert 0.3 < updates[-1].num_correct / updates[-1].num_masked < 0.9


DEFAULTS = {
    *("init_from", "distributed", "optimizer.momentum", "model.token_tables"),
    *("compute.param_dtype", "compute.compute_dtype", "compute.output_dtype"),
}
"""Settings that have their default: what other runs start from, several processes, Muon's, the
precision, which float64 is compared with, and the token tables, which the other run shares: with
them the held-out loss would not rise."""


@on_three
def test_every_setting_is_off_its_default(learned):
    defaults = flatten(config_to_dict(PretrainConfig()))
    found = flatten(config_to_dict(learned.config))
    assert {name for name in found if found[name] == defaults[name]} == DEFAULTS
