"""Rows of tokens through the model: batched by length, on all devices, results in input order.

Rows of similar length wait together until they fill a batch, so that little of it is padding. The
lengths of batches come from a short list, and nearly all batches are full: few programs are
compiled. On a CPU a batch whose rows are all shorter than its length, as those of a file of equal
sequences are, is cut to fit. Two batches are on the devices while the next one is tokenized. What
is read but not yet given back is bounded, whatever the order of the lengths: where that needs it, a
batch is filled up with shorter rows.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.inference.windows import WindowSize
from nucleotide_transformer.model import exact_products
from nucleotide_transformer.model.encoder import check_length, find_late
from nucleotide_transformer.model.stacking import AnyParams
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.tokenizers import KmerTokenizer, Nucleotides
from nucleotide_transformer.types import Array, Int

BATCHES_IN_FLIGHT = 2
Group = TypeVar("Group")
Note = TypeVar("Note")
Part = TypeVar("Part")


class BatchSizes(NamedTuple):
    """The shapes of batches: many and close-fitting, or few where compiling costs more."""

    batch_tokens: int
    """Tokens of a full batch on one device, padding included."""
    shortest_step: int
    """Rows wait for each other by lengths that are multiples of this number of tokens, or of more
    where they are long."""
    closest_step: int
    """Where all rows of a batch are shorter, its length is a multiple of this, likewise."""
    steps: int
    """Lengths from one power of two to the next."""
    shares: int
    """A last, partial batch is padded to one row or to a multiple of 1/`shares` of a full batch."""
    batches_held: int
    """Rows that wait for others, or for their turn to be given back, at most, in full batches."""

    def round_length(self, num_tokens: int, limit: int | None) -> int:
        """The length under which a row waits for others; none is beyond the model's positions."""
        step = max(self.shortest_step, 2 ** (num_tokens - 1).bit_length() // (2 * self.steps))
        rounded = -(-num_tokens // step) * step
        return rounded if limit is None else min(rounded, max(limit, num_tokens))

    def fit_length(self, num_tokens: int, length: int, limit: int | None) -> int:
        """The length of a batch that waited under `length`, given the tokens of its longest row.

        It is cut if that saves an eighth: rows that differ make no more programs than they must.
        """
        closest = self._replace(shortest_step=self.closest_step).round_length(num_tokens, limit)
        return closest if 8 * closest <= 7 * length else length

    def round_rows(self, num_rows: int, most: int) -> int:
        """The number of rows of a batch, given those that there are and those of a full one."""
        share = -(-most // self.shares)
        return 1 if num_rows == 1 else min(-(-num_rows // share) * share, most)


# A CPU compiles a program in a second, and computes a batch of the 100M model in two. Of 2,000
# sequences of 50 to 6,000 nt, padding adds 7 % on a CPU (24 programs), and 14 % elsewhere (8).
SIZES_ON_CPU = BatchSizes(2_048, 64, closest_step=8, steps=8, shares=4, batches_held=32)
SIZES_ELSEWHERE = BatchSizes(16_384, 128, closest_step=128, steps=4, shares=1, batches_held=32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How sequences are cut and batched. Results depend on the first two fields alone."""

    window_tokens: int | None = None
    """Longest sequence that goes through the model in one piece, <cls> included; longer ones are
    cut into windows of this size. The model's max_positions by default; more for rotary models
    only. Not for fine-tuned models, which take a sequence in one piece or not at all."""
    overlap_tokens: int | None = None
    """Fewest tokens that neighbouring windows share; an eighth of a window by default."""
    batch_tokens: int | None = None
    """Tokens of a batch on one device, padding included; 2,048 on CPU and 16,384 elsewhere."""
    num_devices: int | None = None
    """Devices of this process to use; all by default."""

    def __post_init__(self) -> None:
        fewest = {"window_tokens": 2, "overlap_tokens": 0, "batch_tokens": 1, "num_devices": 1}
        for field, lowest in fewest.items():
            value = getattr(self, field)
            require(value is None or value >= lowest, field, value, f"must be {lowest} or above")

    def refuse_windows(self) -> None:
        """Raises an `InputError` for windows of a config that has no use for them."""
        rule = "is for embeddings: each sequence is predicted in one piece"
        for field in ("window_tokens", "overlap_tokens"):
            value = getattr(self, field)
            require(value is None, f"batching.{field}", value, rule)


def resolve_windows(config: ModelConfig, batching: BatchConfig) -> WindowSize:
    """Fills in the defaults of a model; raises an `InputError` for windows that don't fit it."""
    size = config.max_positions if batching.window_tokens is None else batching.window_tokens
    check_length(size, config, "window_tokens")
    overlap = size // 8 if batching.overlap_tokens is None else batching.overlap_tokens
    rule = f"must lie between 0 and window_tokens - 2 = {size - 2}"
    require(0 <= overlap <= size - 2, "overlap_tokens", overlap, rule)
    return WindowSize(size, overlap)


def encode_sequences(
    tokenizer: KmerTokenizer, sequences: Iterable[Nucleotides]
) -> Iterator[Int[np.ndarray, " T"]]:
    """Token ids of each sequence, `<cls>` first. A list is read whole before the first is given.

    Raises:
        InputError: naming the sequence (from 0) that is empty, has `<pad>` before other tokens or,
            with the position (from 0), an illegal character.
    """
    if isinstance(sequences, (str, bytes)):
        raise InputError("sequences: one text: must be a list of texts, or another iterable")
    tokens = _encode_each(tokenizer, sequences)
    yield from list(tokens) if isinstance(sequences, (list, tuple)) else tokens


def _encode_each(
    tokenizer: KmerTokenizer, sequences: Iterable[Nucleotides]
) -> Iterator[Int[np.ndarray, " T"]]:
    for index, sequence in enumerate(sequences):
        try:
            tokens = tokenizer.encode(sequence)
        except InputError as error:
            raise InputError(f"sequence {index}, {error}") from None
        require(tokens.size > 1, f"sequence {index}", "", "must have at least one nucleotide")
        if find_late(tokens, tokenizer.pad_token_id).any():
            raise InputError(f"sequence {index}: has other tokens after <pad>, which ends it")
        yield tokens


def encode_whole(model: Model, sequence: Nucleotides) -> Int[np.ndarray, " T"]:
    """Tokens of a sequence that must go through the model in one piece."""
    (tokens,) = encode_sequences(model.tokenizer, [sequence])
    check_length(tokens.size, model.config, "sequence")
    return tokens


class Row(NamedTuple):
    """One row of a batch."""

    tokens: Int[np.ndarray, " T"]
    """Token ids, `<cls>` first, no padding."""
    numbers: tuple[int, ...] = ()
    """What else the task needs to know of this row; as many for every row of a run."""


class Task(Hashable, Protocol):
    """A pure function of one batch, run on every device; equal tasks share compiled programs."""

    def __call__(
        self, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B E"]
    ) -> Any:
        """Returns a tree of arrays, a row each."""


@dataclasses.dataclass(frozen=True)
class ModelTask:
    """What tasks know: the model that they run, whose parameters they are given."""

    config: ModelConfig
    compute: ComputeConfig


@functools.partial(jax.jit, static_argnames=("task", "mesh"))
def _run_task(
    task: Any, mesh: Mesh, params: AnyParams, tokens: Int[Array, "B T"], numbers: Int[Array, "B E"]
) -> Any:
    """The task on every device of the mesh, each with its share of the rows."""
    rows, whole = P("device"), P()
    split = jax.shard_map(
        task, mesh=mesh, in_specs=(whole, rows, rows), out_specs=rows, check_vma=False
    )
    return split(params, tokens, numbers)


class PlacedModel:
    """A model on some devices of this process."""

    def __init__(self, model: Model, num_devices: int | None = None) -> None:
        """Puts the parameters on the devices: all by default.

        Raises:
            InputError: for more devices than there are.
        """
        devices = jax.local_devices()
        asked = num_devices or len(devices)
        require(asked <= len(devices), "num_devices", asked, f"this process has {len(devices)}")
        self.num_devices, self.is_cpu = asked, devices[0].platform == "cpu"
        self._compute = model.compute
        self._mesh = Mesh(np.array(devices[:asked]), ("device",))
        self._params = model.arrange(NamedSharding(self._mesh, P()))

    def start(self, task: Any, tokens: Int[np.ndarray, "B T"], numbers: np.ndarray) -> Any:
        """Dispatches a batch; the devices share its rows equally."""
        placed = jax.device_put((tokens, numbers), NamedSharding(self._mesh, P("device")))
        with exact_products(self._compute):
            return _run_task(task, self._mesh, self._params, *placed)


class _Batch(NamedTuple):
    indices: list[int]
    rows: list[Row]
    results: Any


class _Runner:
    """Puts batches on the devices and takes results off them."""

    def __init__(self, model: Model, task: Any, batching: BatchConfig) -> None:
        self._placed = PlacedModel(model, batching.num_devices)
        self._task, self._pad = task, model.config.pad_token_id
        self._sizes = SIZES_ON_CPU if self._placed.is_cpu else SIZES_ELSEWHERE
        self._batch_tokens = batching.batch_tokens or self._sizes.batch_tokens
        self._limit = model.config.position_limit

    def round_length(self, num_tokens: int) -> int:
        """The length under which a row waits for others."""
        return self._sizes.round_length(num_tokens, self._limit)

    def num_rows(self, length: int) -> int:
        """Rows of a full batch."""
        return self._placed.num_devices * max(1, self._batch_tokens // length)

    @property
    def most_tokens(self) -> int:
        """Tokens of the rows that may be held."""
        return self._sizes.batches_held * self._batch_tokens * self._placed.num_devices

    def start(self, length: int, indices: list[int], rows: list[Row]) -> _Batch:
        """Dispatches a batch with empty rows at its end, so that few sizes occur."""
        num_devices = self._placed.num_devices
        most = self.num_rows(length) // num_devices
        size = num_devices * self._sizes.round_rows(-(-len(rows) // num_devices), most)
        longest = max(row.tokens.size for row in rows)
        length = self._sizes.fit_length(longest, length, self._limit)
        tokens = np.full((size, length), self._pad, np.int32)
        numbers = np.zeros((size, len(rows[0].numbers)), np.int32)
        for i, row in enumerate(rows):
            tokens[i, : row.tokens.size] = row.tokens
            numbers[i] = row.numbers
        return _Batch(indices, rows, self._placed.start(self._task, tokens, numbers))


def run_rows(model: Model, task: Any, rows: Iterable[Row], batching: BatchConfig) -> Iterator[Any]:
    """Yields the task's result for every row, as NumPy arrays, in the order of the rows.

    Args:
        model: parameters and architecture.
        task: a `Task`.
        rows: read as they are needed.
        batching: size of the batches, devices.
    """
    return _run_queue(_Queue(_Runner(model, task, batching)), rows)


def run_groups(
    model: Model,
    task: Any,
    groups: Iterable[tuple[Group, Iterable[tuple[Note, Row]]]],
    batching: BatchConfig,
    read: Callable[[Note, Any], Part],
) -> Iterator[tuple[Group, list[Part]]]:
    """Yields each group with what was read of its rows, as soon as all of these are finished.

    A group is what becomes one result, as the windows of a sequence do; it may be without rows.

    Args:
        model: parameters and architecture.
        task: a `Task`.
        groups: each with its rows, and with every row a note for `read`; read as they are needed.
        batching: size of the batches, devices.
        read: takes what is wanted of a row, given its note and the task's result, as it comes.
    """
    begun: collections.deque[Group] = collections.deque()
    notes: collections.deque[list[Note]] = collections.deque()  # of a row; [] ends a group

    def make_rows() -> Iterator[Row]:
        for group, rows in groups:
            begun.append(group)
            last: Row | None = None
            for note, row in rows:
                if last is not None:
                    yield last
                notes.append([note])
                last = row
            notes.append([])  # before its last row goes off, whose result then is all that it needs
            if last is not None:
                yield last

    results = run_rows(model, task, make_rows(), batching)
    ahead: list[Any] = []
    parts: list[Part] = []
    while True:
        if not notes:  # the next result comes with its note, and with groups that have no rows
            ahead += itertools.islice(results, 1)
        if not notes:
            return
        if note := notes.popleft():
            parts.append(read(note[0], ahead.pop() if ahead else next(results)))
        else:
            yield begun.popleft(), parts
            parts = []


def _run_queue(queue: "_Queue", rows: Iterable[Row]) -> Iterator[Any]:
    """Puts all rows in, and yields the results as their turn comes."""
    for index, row in enumerate(rows):
        queue.add(index, row)
        yield from queue.take_finished()
    while queue.is_busy:
        queue.move_on()
        yield from queue.take_finished()


class _Queue:
    """Rows that wait for a batch, batches on the devices, and results that wait for their turn."""

    def __init__(self, runner: Any) -> None:
        self._runner: _Runner = runner
        self._waiting: dict[int, dict[int, Row]] = {}
        self._running: collections.deque[_Batch] = collections.deque()
        self._finished: dict[int, tuple[Row, Any]] = {}
        self._next = 0
        self._held_tokens = 0

    def add(self, index: int, row: Row) -> None:
        """Takes a row in; starts the batch that it fills."""
        length = self._runner.round_length(row.tokens.size)
        self._waiting.setdefault(length, {})[index] = row
        self._held_tokens += row.tokens.size
        if len(self._waiting[length]) == self._runner.num_rows(length):
            self._start(length)
        while len(self._running) > BATCHES_IN_FLIGHT:
            self._fetch()
        while self._held_tokens > self._runner.most_tokens and self._next not in self._finished:
            self.release()

    @property
    def is_busy(self) -> bool:
        """Whether there are rows without a result."""
        return bool(self._waiting or self._running)

    def release(self) -> None:
        """Sends off the row that all later ones wait for, or awaits its result."""
        for length, rows in self._waiting.items():
            if self._next in rows:
                self._start(length)
                return
        self._fetch()

    def move_on(self) -> None:
        """At the end of the rows: starts the longest that wait, or awaits a result."""
        if self._waiting and len(self._running) < BATCHES_IN_FLIGHT:
            self._start(max(self._waiting))
        else:
            self._fetch()

    def take_finished(self) -> Iterator[Any]:
        """Yields the results whose turn it is."""
        while self._next in self._finished:
            row, result = self._finished.pop(self._next)
            self._next += 1
            self._held_tokens -= row.tokens.size
            yield result

    def _start(self, length: int) -> None:
        """Starts a batch of the rows of a length, filled up with the next shorter ones."""
        rows, size = self._waiting.pop(length), self._runner.num_rows(length)
        for shorter in sorted(self._waiting, reverse=True):
            waiting = self._waiting[shorter] if shorter < length else {}
            for index in list(waiting)[: size - len(rows)]:
                rows[index] = waiting.pop(index)
        self._waiting = {length: rows for length, rows in self._waiting.items() if rows}
        self._running.append(self._runner.start(length, list(rows), list(rows.values())))

    def _fetch(self) -> None:
        batch = self._running.popleft()
        results = jax.device_get(batch.results)
        for i, (index, row) in enumerate(zip(batch.indices, batch.rows, strict=True)):
            self._finished[index] = (row, jax.tree.map(lambda leaf, i=i: leaf[i], results))
