"""Held-out evaluation on fixed sequences with fixed masks."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from nucleotide_transformer.config import ComputeConfig, MaskingConfig, ModelConfig, PretrainConfig
from nucleotide_transformer.data.dataset import EvaluationSet, make_evaluation_set
from nucleotide_transformer.data.manifest import Manifest
from nucleotide_transformer.model import exact_products, make_forward
from nucleotide_transformer.pretraining.baselines import evaluate_baselines, fit_baselines
from nucleotide_transformer.pretraining.counts import Counts
from nucleotide_transformer.pretraining.masking import MaskedTokens, mask_tokens
from nucleotide_transformer.pretraining.objective import score_sequences
from nucleotide_transformer.pretraining.scores import Scores, estimate_errors, make_metrics
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.training.devices import Layout, lay_out, plan_layout
from nucleotide_transformer.training.step import make_gather_step
from nucleotide_transformer.types import Array, Float, Int

MASK_SEED = 850
"""Seed of the evaluation's masks: one for all runs, so that runs compare."""

EvaluationStep = Callable[[Any, MaskedTokens], tuple[Float[Array, "N B"], Int[Array, "N B"]]]
"""Nats and right predictions of masked sequences [N, B, ...], of the devices of all processes."""


class HeldOut(NamedTuple):
    """The sequences that a run is evaluated on."""

    tokens: Int[np.ndarray, "S T"]
    masked: MaskedTokens
    groups: tuple[str, ...]
    """Group of species of each sequence."""
    notes: tuple[str, ...] = ()
    """What a reader of the results should know."""


def read_held_out(config: PretrainConfig, manifest: Manifest, tokenizer: KmerTokenizer) -> HeldOut:
    """The validation sequences that a run is evaluated on, and their masks."""
    found = make_evaluation_set(
        manifest,
        "validation",
        tokenizer=tokenizer,
        sequence_tokens=config.held_out_tokens,
        num_sequences=config.evaluation.num_sequences,
    )
    return make_held_out(found, manifest, config.held_out_ratio, config.model)


def make_held_out(
    found: EvaluationSet, manifest: Manifest, ratio: float, model: ModelConfig
) -> HeldOut:
    """Held-out sequences with their masks, which hide a share of the tokens."""
    groups = tuple(manifest.genomes[genome].group for genome in found.genomes.tolist())
    notes: tuple[str, ...] = ()
    if found.absent:
        names, num_more = ", ".join(found.absent[:3]), len(found.absent) - 3
        more = f" and {num_more} more" if num_more > 0 else ""
        why = "records were not chosen, or are too short or hold N: more or shorter ones may help"
        notes = (f"no held-out sequence of {names}{more}: {why}",)
    return HeldOut(found.tokens, mask_evaluation_set(found.tokens, ratio, model), groups, notes)


def mask_evaluation_set(
    tokens: Int[np.ndarray, "S T"], ratio: float, model: ModelConfig
) -> MaskedTokens:
    """Masks held-out sequences once for all evaluations; NumPy arrays.

    All selected tokens become `<mask>`: with the 10 % that training leaves unchanged, a model would
    be told some of the answers and a baseline not.
    """
    hidden = MaskingConfig(ratio=ratio, mask_probability=1.0, random_probability=0.0)
    rows = np.arange(len(tokens), dtype=np.int32)
    mask = jax.jit(mask_tokens, static_argnums=(3, 4))
    return jax.device_get(mask(tokens, rows, jax.random.key(MASK_SEED), hidden, model))


def count_spelled(masked: MaskedTokens, model: ModelConfig) -> Int[np.ndarray, " S"]:
    """Nucleotides that each sequence's masked tokens spell: k in a k-mer, 1 in a single letter."""
    widths = np.where(model.is_kmer(masked.targets), model.k, 1)
    return (widths * masked.valid).sum(axis=1)


def make_scoring_step(
    config: ModelConfig, compute: ComputeConfig, devices: list[jax.Device]
) -> EvaluationStep:
    """What gives nats and right predictions of masked sequences, by a model on devices."""
    return make_gather_step(
        functools.partial(score_sequences, make_forward(config, compute)),
        devices,
        context=functools.partial(exact_products, compute),
    )


class Evaluator:
    """Held-out sequences, laid out on the devices once and evaluated many times."""

    scores: Scores | None = None
    """Of the parameters that were evaluated last."""

    def __init__(
        self, masked: MaskedTokens, model: ModelConfig, step: EvaluationStep, *, like: Layout
    ):
        """Splits the sequences into batches, of which every process evaluates its share.

        Args:
            masked: the sequences, the same in every process.
            model: says how many nucleotides a token spells.
            step: compiled, and run by all devices together.
            like: devices, and sequences that each takes at once.
        """
        self._step = step
        self._num_masked = np.asarray(masked.valid).sum(axis=1)
        self._num_nucleotides = count_spelled(masked, model)
        layout = plan_layout(
            len(masked.inputs),
            at_most=like.per_device,
            num_local=like.num_local,
            num_processes=like.num_processes,
        )
        shares = np.array_split(np.arange(len(masked.inputs)), like.num_processes)
        own = jax.tree.map(lambda leaf: leaf[shares[jax.process_index()]], masked)
        blank = jax.tree.map(lambda leaf: leaf[:1], masked)
        laid_out = lay_out(own, blank, layout)
        self._batches = [
            jax.tree.map(lambda leaf, index=index: leaf[:, index], laid_out)
            for index in range(layout.accumulation)
        ]
        places = [lay_out(share, np.array([-1]), layout) for share in shares]
        self._places = np.concatenate(places)  # [N, A, B]; -1 is a blank row

    def evaluate(self, params: Any) -> dict[str, float]:
        """Held-out metrics as the loop takes them; their sums stay in `scores`."""
        self.scores = self.score(params)
        metrics, errors = make_metrics(self.scores), estimate_errors(self.scores)
        values = {"score": metrics.cross_entropy, **metrics._asdict()}
        if errors:
            values["standard_error"] = errors.cross_entropy
        return values

    def score(self, params: Any, *, report: Callable[[], object] | None = None) -> Scores:
        """Runs the model over all held-out sequences.

        Args:
            params: of the model.
            report: is called after each batch; without it the devices are not waited for.
        """
        outputs = []
        for batch in self._batches:
            outputs.append(self._step(params, batch))
            if report:
                jax.block_until_ready(outputs[-1])
                report()
        outputs = jax.device_get(outputs)
        nats, num_correct = (np.stack(parts, axis=1) for parts in zip(*outputs, strict=True))
        return Scores(
            nats=self._sort(nats).astype(np.float64),
            num_correct=self._sort(num_correct),
            num_masked=self._num_masked,
            num_nucleotides=self._num_nucleotides,
        )

    def _sort(self, values: np.ndarray) -> np.ndarray:
        """Numbers of the rows as they lie on the devices [N, A, B], in the order of the set [S]."""
        known = self._places >= 0
        ordered = np.empty(len(self._num_masked), values.dtype)
        ordered[self._places[known]] = values[known]
        return ordered


def measure_baselines(
    counts: Counts, tokenizer: KmerTokenizer, held_out: HeldOut
) -> dict[str, Scores]:
    """The baselines of a corpus on the model's masked tokens, of which training text gets as many.

    Args:
        counts: of its training split.
        tokenizer: of the model.
        held_out: what the model is evaluated on.
    """
    positions, valid = map(np.asarray, (held_out.masked.positions, held_out.masked.valid))
    share = float(valid.sum() / tokenizer.is_known(held_out.tokens).sum())
    num_tokens = held_out.tokens.shape[1]
    fitted = fit_baselines(counts, tokenizer, num_tokens=num_tokens, share=share)
    return evaluate_baselines(fitted, held_out.tokens, positions, valid)
