"""The steps that are measured: a whole update, and the forward passes of inference."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nucleotide_transformer.benchmark.config import BenchmarkConfig, Case, find_model
from nucleotide_transformer.config import DataConfig, ModelConfig, PretrainConfig
from nucleotide_transformer.inference.embedding import PoolTask
from nucleotide_transformer.model import exact_products, init_params, make_forward
from nucleotide_transformer.model.flops import count_forward_flops
from nucleotide_transformer.model.stacking import arrange_for_inference, arrange_params
from nucleotide_transformer.pretraining.objective import Sequences, make_blank, make_loss
from nucleotide_transformer.pretraining.run import count_run_flops
from nucleotide_transformer.training.devices import AXIS, lay_out, plan_layout
from nucleotide_transformer.training.optimizer import make_optimizer, make_schedule
from nucleotide_transformer.training.state import init_state
from nucleotide_transformer.training.step import (
    StepMetrics,
    TrainStep,
    make_train_step,
    place_state,
)
from nucleotide_transformer.types import Int

NUM_BATCHES = 2
"""Different inputs that the steps take in turn."""


def make_workload(
    case: Case, config: BenchmarkConfig, devices: list[jax.Device]
) -> "TrainWorkload | InferenceWorkload":
    """The steps of a case on its devices, with random parameters."""
    kind = TrainWorkload if case.task == "train" else InferenceWorkload
    return kind(case, config, devices)


def draw_tokens(
    num_sequences: int, num_tokens: int, model: ModelConfig, seed: int
) -> Int[np.ndarray, "B T"]:
    """Sequences of random k-mers after `<cls>`, without padding."""
    random = np.random.default_rng(seed)
    first, last = model.first_kmer_id, model.first_kmer_id + 4**model.k
    tokens = random.integers(first, last, (num_sequences, num_tokens), dtype=np.int32)
    tokens[:, 0] = model.cls_token_id
    return tokens


def make_pretrain_config(case: Case, config: BenchmarkConfig) -> PretrainConfig:
    """The run whose updates a case measures."""
    return PretrainConfig(
        seed=config.seed,
        num_devices=case.num_devices,
        tokens_per_update=case.tokens_per_step,
        total_tokens=300_000 * case.tokens_per_step,  # as many updates as the published run
        sequences_per_device=case.sequences_per_device,
        model=find_model(case.model, config.model),
        compute=config.compute,
        data=DataConfig(sequence_tokens=case.sequence_tokens),
    )


class TrainWorkload:
    """Updates of pre-training: masks, forward, backward, all-reduce, Adam."""

    def __init__(self, case: Case, config: BenchmarkConfig, devices: list[jax.Device]):
        run = make_pretrain_config(case, config)
        self._config, self._devices = run, devices
        self.overlaps = devices[0].platform != "cpu"
        self.flops_per_step = count_run_flops(run)
        self._batches = [self._make_batch(case, config.seed + i) for i in range(NUM_BATCHES)]
        self._stops = np.zeros(len(devices), bool)
        self._optimizer = make_optimizer(run.optimizer, run.total_steps)
        params = init_params(jax.random.key(run.seed), run.model, run.compute)
        arranged = arrange_params(params, run.compute.stack)
        self._state = place_state(init_state(arranged, self._optimizer), devices)
        self._step: TrainStep | None = None
        self._num_started = 0
        self.metrics: StepMetrics | None = None

    def _make_batch(self, case: Case, seed: int) -> Sequences:
        size = (case.sequences_per_step, case.sequence_tokens)
        tokens = draw_tokens(*size, self._config.model, seed)
        layout = plan_layout(
            len(tokens),
            at_most=case.sequences_per_device,
            num_local=case.num_devices,
            num_processes=1,
        )
        blank = make_blank(self._config.model, case.sequence_tokens)
        return lay_out(Sequences(tokens, np.arange(size[0], dtype=np.int32)), blank, layout)

    def lower(self) -> Any:
        """Traces a new step, which `start` then runs."""
        run = self._config
        forward = make_forward(run.model, run.compute)
        self._step = make_train_step(
            make_loss(forward, run.masking, run.model),
            self._optimizer,
            make_schedule(run.optimizer, run.total_steps),
            self._devices,
            seed=run.seed,
            context=functools.partial(exact_products, run.compute),
        )
        lower = self._step.lower  # type: ignore[attr-defined]
        return lower(self._state, self._batches[0], self._stops)

    def start(self) -> StepMetrics:
        """Starts an update."""
        assert self._step is not None
        batch = self._batches[self._num_started % NUM_BATCHES]
        self._state, metrics = self._step(self._state, batch, self._stops)
        self._num_started += 1
        return metrics

    def wait(self, started: StepMetrics) -> None:
        """Fetches the metrics of an update."""
        self.metrics = jax.device_get(started)

    def describe(self) -> dict[str, int | float]:
        """Updates applied, and the loss of the last one in nats: what was run was training."""
        assert self.metrics is not None
        return {"updates": int(self._state.step), "loss": float(self.metrics.loss)}


def compute_logits(forward: Any, params: Any, tokens: Any, numbers: Any) -> Any:
    """Logits of every token; has the arguments of a task of inference.batching."""
    del numbers
    return forward.apply(params, tokens).logits


class InferenceWorkload:
    """Forward passes of batches of equal length, each device with its share."""

    def __init__(self, case: Case, config: BenchmarkConfig, devices: list[jax.Device]):
        model, self._compute = find_model(case.model, config.model), config.compute
        self.overlaps = devices[0].platform != "cpu"
        self.flops_per_step = case.sequences_per_step * count_forward_flops(
            model,
            num_tokens=case.sequence_tokens,
            num_head_tokens=case.sequence_tokens if case.task == "logits" else 0,
        )
        mesh = Mesh(np.array(devices), (AXIS,))
        self._mesh, self._split = mesh, NamedSharding(mesh, P(AXIS))
        params = init_params(jax.random.key(config.seed), model, config.compute)
        arranged = arrange_for_inference(params, config.compute)
        self._params = jax.device_put(arranged, NamedSharding(mesh, P()))
        size = (case.sequences_per_step, case.sequence_tokens)
        seeds = range(config.seed, config.seed + NUM_BATCHES)
        self._batches = [draw_tokens(*size, model, seed) for seed in seeds]
        self._spans = np.tile(np.array([[0, case.sequence_tokens]], np.int32), (size[0], 1))
        self._task: Callable[..., Any] = functools.partial(
            compute_logits, make_forward(model, config.compute)
        )
        if case.task in ("embed", "probe"):
            first = model.num_layers if case.task == "embed" else 0
            layers = tuple(range(first, model.num_layers + 1))
            self._task = PoolTask(model, config.compute, layers, "mean")
        self._run: Any = None
        self._num_started = 0
        self._last: Any = None

    def lower(self) -> Any:
        """Traces a new forward pass, which `start` then runs."""
        rows, whole = P(AXIS), P()
        task = functools.partial(self._task)  # a new function: nothing of it is compiled yet
        split = jax.shard_map(
            task,
            mesh=self._mesh,
            in_specs=(whole, rows, rows),
            out_specs=rows,
            check_vma=False,
        )
        self._run = jax.jit(split)
        with exact_products(self._compute):
            return self._run.lower(self._params, *self._place(self._batches[0]))

    def _place(self, tokens: Int[np.ndarray, "B T"]) -> Any:
        return jax.device_put((tokens, self._spans), self._split)

    def start(self) -> Any:
        """Puts a batch on the devices and starts it."""
        batch = self._place(self._batches[self._num_started % NUM_BATCHES])
        self._num_started += 1
        with exact_products(self._compute):
            return self._run(self._params, *batch)

    def wait(self, started: Any) -> None:
        """Waits for the results, which stay on the devices."""
        self._last = jax.block_until_ready(started)

    def describe(self) -> dict[str, int | float]:
        """Batches run, and the mean of the last results: what was run gave numbers."""
        mean = np.mean([np.mean(leaf) for leaf in jax.tree.leaves(self._last)])
        return {"batches": self._num_started, "mean_result": float(mean)}
