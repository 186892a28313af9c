"""Predictions of a fine-tuned model: probabilities of classes, or values of targets."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from nucleotide_transformer.data.fasta import turn
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning.evaluation import score_labelled
from nucleotide_transformer.finetuning.labels import PLAIN, LabelledSequences
from nucleotide_transformer.finetuning.objective import make_predictions
from nucleotide_transformer.finetuning.segments import (
    SegmentedSequences,
    find_known,
    find_pieces,
    pick_nucleotides,
)
from nucleotide_transformer.inference.batching import BatchConfig, Row, encode_sequences, run_groups
from nucleotide_transformer.model.stacking import AnyParams
from nucleotide_transformer.model.task_network import TaskNetwork
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Array, Float, Int
from nucleotide_transformer.weights.adapter_files import TrainedHead

_Turned = tuple[Int[np.ndarray, " T"], bool]
"""The tokens of a piece, and whether they are of its reverse complement."""


@dataclasses.dataclass(frozen=True)
class PredictTask:
    """Predictions of the rows of a batch."""

    network: TaskNetwork
    kind: str

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B E"]
    ) -> Float[Array, "..."]:
        """Probabilities, or values; per nucleotide [B, T, k, C]."""
        del numbers
        return make_predictions(self.kind, self.network.apply(params, tokens))


def predict(
    model: Model,
    sequences: Iterable[str],
    *,
    batching: BatchConfig = BatchConfig(),
    report: Callable[[float], object] = lambda _: None,
) -> Iterator[Float[np.ndarray, "*lead C"]]:
    """Yields the predictions of every sequence, in their order and as they come.

    Classification and multi-label: the probability of each class of `model.head.classes`.
    Regression: the value of each target. Segmentation: the probabilities of each nucleotide,
    [L, C], NaN at N; a sequence with so many N that it does not fit is predicted in pieces. Those
    of both strands are averaged if the model was trained so.

    Args:
        model: what `load_pretrained` returns for an adapter, or `finetune`.
        sequences: nucleotides, in upper or lower case.
        batching: size of batches, devices.
        report: called with 1 as each sequence is finished.

    Raises:
        InputError: for a model that was not fine-tuned; while iterating for a sequence that is
            empty, too long, or has an illegal character.
    """
    head = find_head(model)
    whole = dataclasses.replace(model, params=model.params | head.params)
    network = TaskNetwork(
        config=model.config,
        compute=model.compute,
        num_outputs=len(head.classes),
        pooling=head.pooling,
        layers=head.layers,
        per_nucleotide=head.kind == "segmentation",
    )
    return _predict(whole, PredictTask(network, head.kind), head, sequences, batching, report)


def predict_array(
    model: Model, sequences: Iterable[str], *, batching: BatchConfig = BatchConfig()
) -> Float[np.ndarray, "S *lead C"]:
    """One float32 row a sequence, [S, C], or [S, L, C] of a segmentation; see `predict`.

    Example:
        >>> model = load_pretrained("runs/finetune")
        >>> predict_array(model, ["ATTCCG" * 9]).shape
        (1, 2)

    Raises:
        InputError: as `predict` does, and for a segmentation of sequences of several lengths.
    """
    rows: list[Float[np.ndarray, "*lead C"]] = []
    for row in predict(model, sequences, batching=batching):
        if rows and row.shape != rows[0].shape:
            rule = "nucleotides of sequences of several lengths are no array: iterate over predict"
            raise InputError(f"sequence {len(rows)}: {len(row)} nt, not {len(rows[0])}: {rule}")
        rows.append(row)
    return np.stack(rows) if rows else np.zeros((0, len(find_head(model).classes)), np.float32)


def score_model(
    model: Model, data: LabelledSequences, *, batching: BatchConfig = BatchConfig()
) -> dict[str, float]:
    """The metrics of a fine-tuned model on labelled sequences; see `score_predictions`."""
    if not isinstance(data, SegmentedSequences):
        return score_labelled(data, predict_array(model, data.sequences, batching=batching))
    predictions = np.zeros(data.labels.shape, np.float32)
    for index, found in enumerate(predict(model, data.sequences, batching=batching)):
        predictions[index, : len(found)] = found
    return score_labelled(data, predictions)


def find_head(model: Model) -> TrainedHead:
    """The head of a fine-tuned model.

    Raises:
        InputError: if it has none.
    """
    if model.head is None:
        raise InputError(
            f"model = {model.source or model.origin!r}: was not fine-tuned: must be an adapter, or"
            " a run of `nt finetune`"
        )
    return model.head


def _predict(
    model: Model,
    task: PredictTask,
    head: TrainedHead,
    sequences: Iterable[str],
    batching: BatchConfig,
    report: Callable[[float], object],
) -> Iterator[Float[np.ndarray, "*lead C"]]:
    """The generator behind `predict`."""
    strands = (False, True)[: 1 + (head.strand == "both")]
    texts, copies = itertools.tee(text.upper().translate(PLAIN) for text in sequences)

    def cut(index: int, text: str, pieces: list[slice]) -> Iterator[tuple[_Turned, Row]]:
        for piece, is_reversed in itertools.product(pieces, strands):
            own = text[piece]
            tokens = model.tokenizer.encode(turn(own) if is_reversed else own)
            if tokens.size > head.max_tokens:
                rule = f"the model takes {head.max_tokens}"
                raise InputError(f"sequence {index}: {tokens.size} tokens with <cls>: {rule}")
            yield (tokens, is_reversed), Row(tokens)

    def plan_all() -> Iterator[tuple[tuple[str, list[slice]], Iterator[tuple[_Turned, Row]]]]:
        encoded = encode_sequences(model.tokenizer, texts)
        for index, (_, text) in enumerate(zip(encoded, copies, strict=True)):
            pieces = choose_pieces(model, text)
            yield (text, pieces), cut(index, text, pieces)

    def read(turned: _Turned, result: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        if head.kind != "segmentation":
            return result
        tokens, is_reversed = turned
        outputs = result[: tokens.size]
        return pick_nucleotides(outputs, tokens, model.tokenizer, is_reversed=is_reversed)

    for (text, pieces), found in run_groups(model, task, plan_all(), batching, read):
        report(1)
        size = len(strands)
        means = [np.mean(found[i : i + size], axis=0) for i in range(0, len(found), size)]
        yield np.asarray(_join_pieces(head, text, pieces, means), np.float32)


def choose_pieces(model: Model, text: str) -> list[slice]:
    """What of a sequence goes through a model: all, or of nucleotides what `find_pieces` says."""
    head = find_head(model)
    if head.kind != "segmentation":
        return [slice(0, len(text))]
    return find_pieces(text, model.tokenizer, head.max_tokens)


def _join_pieces(
    head: TrainedHead, text: str, pieces: list[slice], found: list[Float[np.ndarray, "..."]]
) -> Float[np.ndarray, "..."]:
    """The prediction of a sequence from those of its pieces; of nucleotides it is NaN at N."""
    if head.kind != "segmentation":
        return found[0]
    joined = np.full((len(text), len(head.classes)), np.nan, np.float32)
    for piece, values in zip(pieces, found, strict=True):
        joined[piece] = values
    joined[~find_known(text)] = np.nan
    return joined
