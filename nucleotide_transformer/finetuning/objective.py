"""The losses of fine-tuning, as sums with their counts, and what logits mean."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nucleotide_transformer.finetuning.labels import LabelledSequences
from nucleotide_transformer.finetuning.segments import SegmentedSequences
from nucleotide_transformer.model.stacking import AnyParams
from nucleotide_transformer.model.task_network import TaskNetwork
from nucleotide_transformer.training.step import WEIGHT, Counts, LossFn
from nucleotide_transformer.types import Array, Float, Int, Params, PRNGKey


class Examples(NamedTuple):
    """A batch of fine-tuning: whole, of a process, or laid out by device and micro-batch."""

    tokens: Int[Array | np.ndarray, "*lead T"]
    labels: Array | np.ndarray
    """Classification: index of the class, [*lead]. Multi-label: 0 and 1, regression: standardised
    values, [*lead, C] in float32. Segmentation: 0, 1, or -1 where there is no nucleotide,
    [*lead, T, k, C]."""
    weights: Float[Array | np.ndarray, "*lead"]
    """Of each sequence in the loss: 1, or that of its class, 1 on average over the training set; 0
    for a row that fills up a batch."""


class Standard(NamedTuple):
    """Mean and standard deviation of each target, in float64; 0 and 1 where labels are classes."""

    mean: Float[np.ndarray, " C"]
    deviation: Float[np.ndarray, " C"]

    def apply(self, labels: Float[np.ndarray, "S C"]) -> Float[np.ndarray, "S C"]:
        """Targets with mean 0 and deviation 1 in training, which one learning rate does for."""
        return ((labels - self.mean) / self.deviation).astype(np.float32)

    def restore(self, values: Float[np.ndarray, "S C"]) -> Float[np.ndarray, "S C"]:
        """The reverse of `apply`; probabilities stay as they are."""
        return values * self.deviation + self.mean

    def fold_into(self, head: Params) -> Params:
        """The head that gives values of the targets, in place of standardised ones."""
        if not self.mean.any() and (self.deviation == 1).all():
            return head
        mean, deviation = jnp.float32(self.mean), jnp.float32(self.deviation)
        return {
            module: {"w": leaves["w"] * deviation, "b": leaves["b"] * deviation + mean}
            for module, leaves in head.items()
        }


def measure_labels(data: LabelledSequences) -> Standard:
    """Mean and deviation of the training set's targets, whose squares float64 holds."""
    num_outputs = len(data.classes)
    if data.kind != "regression":
        return Standard(np.zeros(num_outputs), np.ones(num_outputs))
    labels = np.asarray(data.labels, np.float64)
    deviation = np.where(np.ptp(labels, axis=0) > 0, labels.std(axis=0), 1.0)
    return Standard(labels.mean(axis=0), deviation)


def encode_labels(data: LabelledSequences, standard: Standard) -> np.ndarray:
    """Labels in the form that the loss takes; see `Examples`."""
    if isinstance(data, SegmentedSequences):
        return np.asarray(data.labels, np.int8)
    if data.kind == "classification":
        return np.asarray(data.labels, np.int32)
    return standard.apply(np.asarray(data.labels, np.float32))


def make_loss(network: TaskNetwork, kind: str) -> LossFn:
    """The loss of a task: the sum of `score_examples` times the weights, and the counts.

    It is divided by the number of sequences and not by their weights: of a batch these say how many
    of a rare class it happens to have, and dividing by them would undo what they are for.

    Args:
        network: encoder, adapter and head.
        kind: what the labels are.
    """

    def weighted_loss(
        params: AnyParams, micro: Examples, key: PRNGKey
    ) -> tuple[Float[Array, ""], Counts]:
        del key
        outputs = network.apply(params, jnp.asarray(micro.tokens))
        weights = jnp.asarray(micro.weights)
        if kind == "segmentation":
            return _score_nucleotides(outputs, jnp.asarray(micro.labels), weights)
        is_there = weights > 0
        counts: Counts = {WEIGHT: is_there.sum(dtype=jnp.float32)}
        if kind == "classification":
            is_right = jnp.argmax(outputs, axis=-1) == micro.labels
            counts["accuracy"] = (is_there & is_right).sum(dtype=jnp.float32)
        return jnp.sum(weights * score_examples(kind, outputs, jnp.asarray(micro.labels))), counts

    return weighted_loss


def _score_nucleotides(
    logits: Float[Array, "B T K C"], labels: Int[Array, "B T K C"], weights: Float[Array, " B"]
) -> tuple[Float[Array, ""], Counts]:
    """Over the nucleotides, the mean over the classes of the binary cross-entropy, summed."""
    known = (labels[..., 0] >= 0) * weights[:, None, None]
    nats = optax.sigmoid_binary_cross_entropy(logits, jnp.maximum(labels, 0)).mean(axis=-1)
    return jnp.sum(known * nats), {WEIGHT: known.sum()}


def score_examples(kind: str, outputs: Float[Array, "B C"], labels: Array) -> Float[Array, " B"]:
    """The loss of each sequence, in float32.

    Classification: cross-entropy in nats. Multi-label: the mean over the classes of the binary
    cross-entropy. Regression: the mean over the targets of the squared error.
    """
    if kind == "classification":
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    if kind == "multilabel":
        return optax.sigmoid_binary_cross_entropy(outputs, labels).mean(axis=-1)
    return jnp.square(outputs - labels).mean(axis=-1)


def make_predictions(kind: str, outputs: Float[Array, "*lead C"]) -> Float[Array, "*lead C"]:
    """Probabilities of the classes, or values of the targets, from what the head gives."""
    if kind == "classification":
        return jax.nn.softmax(outputs, axis=-1)
    return outputs if kind == "regression" else jax.nn.sigmoid(outputs)


def weigh_classes(data: LabelledSequences, *, balanced: bool) -> Float[np.ndarray, " S"]:
    """The weight of each sequence in the loss: 1, or S / (classes * sequences of its class)."""
    if not balanced:
        return np.ones(len(data), np.float32)
    labels = np.asarray(data.labels)
    counts = np.bincount(labels, minlength=len(data.classes))
    present = np.count_nonzero(counts)
    return (len(data) / (present * np.maximum(counts, 1)))[labels].astype(np.float32)
