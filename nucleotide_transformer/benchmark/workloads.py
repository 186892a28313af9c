"""The steps that are measured: a whole update, and the forward passes of inference."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nucleotide_transformer.benchmark.config import BenchmarkConfig, Case, find_model
from nucleotide_transformer.config import (
    ComputeConfig,
    DataConfig,
    ModelConfig,
    PretrainConfig,
    check_trainable,
)
from nucleotide_transformer.errors import RuleError
from nucleotide_transformer.finetuning.config import FinetuneConfig
from nucleotide_transformer.finetuning.objective import Examples
from nucleotide_transformer.finetuning.objective import make_loss as make_task_loss
from nucleotide_transformer.finetuning.run import PASSES
from nucleotide_transformer.inference.embedding import PoolTask
from nucleotide_transformer.model import exact_products, init_params, make_forward
from nucleotide_transformer.model.adapters import choose_adapter
from nucleotide_transformer.model.flops import count_forward_flops
from nucleotide_transformer.model.stacking import arrange_for_inference, arrange_params
from nucleotide_transformer.model.task_network import TaskNetwork, is_trained
from nucleotide_transformer.optimizer_config import OptimizerConfig
from nucleotide_transformer.pretraining.objective import Sequences, make_blank, make_loss
from nucleotide_transformer.pretraining.run import count_run_flops
from nucleotide_transformer.training.devices import Layout, lay_out, plan_layout
from nucleotide_transformer.training.optimizer import make_optimizer, make_schedule
from nucleotide_transformer.training.state import init_state
from nucleotide_transformer.training.step import (
    LossFn,
    StepMetrics,
    TrainStep,
    make_train_step,
    place_state,
)
from nucleotide_transformer.types import Int, Params

NUM_BATCHES = 2
"""Different inputs that the steps take in turn."""


def make_workload(
    case: Case, config: BenchmarkConfig, devices: list[jax.Device]
) -> "UpdateWorkload | InferenceWorkload":
    """The steps of a case on its devices, with random parameters."""
    if case.task == "train":
        return TrainWorkload(case, config, devices)
    kind = FinetuneWorkload if case.task == "finetune" else InferenceWorkload
    return kind(case, config, devices)


def draw_tokens(
    num_sequences: int, num_tokens: int, model: ModelConfig, seed: int
) -> Int[np.ndarray, "B T"]:
    """Sequences of random k-mers after `<cls>`, without padding."""
    random = np.random.default_rng(seed)
    first, last = model.first_kmer_id, model.first_letter_id
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


def check_case(case: Case, config: BenchmarkConfig) -> None:
    """Raises an `InputError`, in the options of `nt benchmark`, for updates that can't be.

    `config.compute` is resolved: see `run.resolve_config`.
    """
    if case.task in ("train", "finetune"):
        check_trainable(config.compute)
    if case.task != "train":
        return
    try:
        make_pretrain_config(case, config)
    except RuleError as error:
        field = error.field.removeprefix("data.")
        rule = f"train is an update of nt pretrain, with its default masks: {error.rule}"
        raise RuleError(field, error.value, rule) from None


class UpdateWorkload:
    """Updates: forward, backward, all-reduce, optimiser; a subclass says of what."""

    flops_per_step: int

    def __init__(
        self,
        devices: list[jax.Device],
        *,
        loss: LossFn,
        params: Params,
        choose: Callable[[str], bool],
        optimizer: tuple[OptimizerConfig, int],
        batches: list[Any],
        compute: ComputeConfig,
        seed: int,
    ):
        """Puts the state on the devices.

        Args:
            devices: of the case.
            loss: what is differentiated.
            params: before the first update.
            choose: which of them are trained; see `init_state`.
            optimizer: its options, and the updates of its run.
            batches: laid out; taken in turn.
            compute: precision.
            seed: of the loss's random numbers.
        """
        self._devices, self._loss, self._batches = devices, loss, batches
        self._optimizer, self._schedule = make_optimizer(*optimizer), make_schedule(*optimizer)
        self._compute, self._seed = compute, seed
        self.overlaps = devices[0].platform != "cpu"
        self._stops = np.zeros(len(devices), bool)
        arranged = arrange_params(params, compute.stack)
        self._state = place_state(init_state(arranged, self._optimizer, choose), devices)
        self._step: TrainStep | None = None
        self._num_started = 0
        self.metrics: StepMetrics | None = None

    def lower(self) -> Any:
        """Traces a new step, which `start` then runs."""
        self._step = make_train_step(
            self._loss,
            self._optimizer,
            self._schedule,
            self._devices,
            seed=self._seed,
            context=functools.partial(exact_products, self._compute),
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
        """Updates applied, the loss of the last one in nats, and how many parameters it trained."""
        assert self.metrics is not None
        trained = sum(leaf.size for leaf in jax.tree.leaves(self._state.trainable))
        loss = float(self.metrics.loss)
        return {"updates": int(self._state.step), "loss": loss, "trained_parameters": trained}


class TrainWorkload(UpdateWorkload):
    """Updates of pre-training, with masks."""

    def __init__(self, case: Case, config: BenchmarkConfig, devices: list[jax.Device]):
        run = make_pretrain_config(case, config)
        self.flops_per_step = count_run_flops(run)
        blank = make_blank(run.model, case.sequence_tokens)
        numbers = np.arange(case.sequences_per_step, dtype=np.int32)
        super().__init__(
            devices,
            loss=make_loss(make_forward(run.model, run.compute), run.masking, run.model),
            params=init_params(jax.random.key(run.seed), run.model, run.compute),
            choose=lambda _: True,
            optimizer=(run.optimizer, run.total_steps),
            batches=[
                lay_out(Sequences(tokens, numbers), blank, plan_case_layout(case))
                for tokens in draw_batches(case, run.model, config.seed)
            ],
            compute=run.compute,
            seed=run.seed,
        )


class FinetuneWorkload(UpdateWorkload):
    """Updates of fine-tuning: two classes, by a method."""

    def __init__(self, case: Case, config: BenchmarkConfig, devices: list[jax.Device]):
        assert case.method is not None
        run = FinetuneConfig(method=case.method, seed=config.seed, compute=config.compute)
        model = find_model(case.model, config.model)
        forward = count_forward_flops(model, num_tokens=case.sequence_tokens, num_head_tokens=0)
        self.flops_per_step = PASSES[run.method] * case.sequences_per_step * forward
        lora, key = run.lora, jax.random.key(run.seed)
        network = TaskNetwork(
            config=model,
            compute=run.compute,
            num_outputs=2,
            adapter=choose_adapter(run.method, rank=lora.rank, alpha=lora.alpha, sites=lora.sites),
        )
        params = network.take_base(init_params(key, model, run.compute)) | network.init(key)
        labels = np.arange(case.sequences_per_step, dtype=np.int32) % 2
        weights = np.ones(case.sequences_per_step, np.float32)
        batches = [Examples(t, labels, weights) for t in draw_batches(case, model, config.seed)]
        super().__init__(
            devices,
            loss=make_task_loss(network, run.kind),
            params=params,
            choose=functools.partial(is_trained, method=run.method),
            optimizer=(run.optimizer, run.total_steps),
            batches=[lay_out(batch, batch, plan_case_layout(case)) for batch in batches],
            compute=run.compute,
            seed=run.seed,
        )


def draw_batches(case: Case, model: ModelConfig, seed: int) -> list[Int[np.ndarray, "B T"]]:
    """The tokens of all sequences of a step, for each of the inputs."""
    size = (case.sequences_per_step, case.sequence_tokens)
    return [draw_tokens(*size, model, seed + i) for i in range(NUM_BATCHES)]


def plan_case_layout(case: Case) -> Layout:
    """How the sequences of a step lie on the devices."""
    return plan_layout(
        case.sequences_per_step,
        at_most=case.sequences_per_device,
        num_local=case.num_devices,
        num_processes=1,
    )


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
        mesh = Mesh(np.array(devices), ("device",))
        self._mesh, self._split = mesh, NamedSharding(mesh, P("device"))
        params = init_params(jax.random.key(config.seed), model, config.compute)
        arranged = arrange_for_inference(params, config.compute)
        self._params = jax.device_put(arranged, NamedSharding(mesh, P()))
        self._batches = draw_batches(case, model, config.seed)
        span = np.array([[0, case.sequence_tokens]], np.int32)
        self._spans = np.tile(span, (case.sequences_per_step, 1))
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
        rows, whole = P("device"), P()
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
