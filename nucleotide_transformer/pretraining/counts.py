"""What baselines are fitted to: counts of the training split, made once and kept in the corpus.

    count_corpus(BaselinesConfig(folder=Path("runs/corpus")))   # what `nt corpus baselines` does
    load_counts(manifest, k=6)                                  # what a run reads

The file holds counts and no probabilities, so that smoothing, strands and mixtures may change
without another count. It is a zip archive of NumPy arrays, as `np.load` reads it: `words` and
`tokens`, the counts; `held_back`, records whose words were not counted, a line each;
`num_nucleotides` and `num_records`, how much was read; `k`, of the tokens; `corpus`, the digest of
the corpus; `format_version`. NumPy only.
"""

import dataclasses
import functools
import itertools
import zipfile
import zlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nucleotide_transformer.config import require_positive
from nucleotide_transformer.data.manifest import Manifest, load_manifest
from nucleotide_transformer.data.parallel import Report, count_workers, run_tasks, show_progress
from nucleotide_transformer.data.reader import open_split
from nucleotide_transformer.errors import InputError, require
from nucleotide_transformer.files import check_place, write_whole
from nucleotide_transformer.pretraining.markov import MAX_ORDER, WordCounter
from nucleotide_transformer.tokenizers import KmerTokenizer, encode_letters
from nucleotide_transformer.types import Bool, Int, UInt

COUNTS_FILE = "baselines.npz"
FORMAT_VERSION = 2
"""Version of the file; another one can't be read."""
HELD_BACK_AT_ONCE = 8
"""Neighbouring records that are held back together. The first and the last of them, which share
letters with records that are counted, are not used at all."""
HELD_BACK_AT_MOST = 1_024
"""Records that are held back, about; and no more than 1 in 50."""
_NUCLEOTIDES_OF_A_TASK = 1_000_000_000
"""At most: see `WordCounter` for the reason."""
_RECORDS_AT_ONCE = 500
_DAMAGED = (
    *(AssertionError, EOFError, KeyError, NotImplementedError, TypeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What reading a damaged archive raises."""


@runtime_checkable
class RecordReader(Protocol):
    """Numbered records of nucleotides, such as `data.reader.SplitReader`."""

    def __len__(self) -> int:
        """Number of records."""

    def read(self, indices: Int[np.ndarray, " B"]) -> list[bytes]:
        """The records of these numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselinesConfig:
    """What the baselines of a corpus are fitted to."""

    folder: Path
    """Folder that `nt corpus build` made; the counts become a file in it."""
    nucleotides: int = 1_000_000_000
    """Most nucleotides of the training split to count, in records spread evenly over it."""
    k: int = 6
    """Nucleotides of a token of the model."""
    workers: int | None = None
    """Processes. By default one per core, but no more than the size of the corpus is worth."""

    def __post_init__(self) -> None:
        require_positive(self, "nucleotides", "k")
        rule = "must be above 0, or none"
        require(self.workers is None or self.workers > 0, "workers", self.workers, rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """What was counted in records; letters that two of them share count twice."""

    tokens: Int[np.ndarray, " _"]
    """[4**k + 4]: of the tokens that spell known nucleotides, in the order of their ids."""
    words: Int[np.ndarray, " C"] | UInt[np.ndarray, " C"]
    """[4**length]: of all words of one length without an unknown letter, on one strand; see
    `markov`. Those of records that are held back are not among them."""
    held_back: tuple[bytes, ...]
    """Records to fit the weights of a mixture of chains to."""
    num_nucleotides: int
    """Letters of the records, N included."""
    num_records: int
    """Records."""


def count_corpus(config: BaselinesConfig, *, progress: bool = False) -> tuple[Path, bool]:
    """Counts the training split of a corpus and writes the counts to its folder, whole or not.

    Counts that are there already stay if they are those of this corpus and config.

    Args:
        config: what to count.
        progress: show a bar with nucleotides/s and the time left.

    Returns:
        Path of the file, and whether it was written now.

    Raises:
        InputError: if the corpus is damaged, its training split empty, or nobody may write there.
    """
    manifest = load_manifest(config.folder)
    tokenizer = KmerTokenizer(k=config.k)
    reader = open_split(manifest, "train")
    path = manifest.folder / COUNTS_FILE
    num_records, _ = choose_records(reader, config.nucleotides)
    if _is_finished(manifest, config.k, num_records):
        return path, False
    check_place(path)
    counts = count_split(
        reader, tokenizer, config.nucleotides, workers=config.workers, progress=progress
    )
    save_counts(manifest, counts, config.k)
    return path, True


def count_split(
    reader: RecordReader,
    tokenizer: KmerTokenizer,
    max_nucleotides: int,
    max_order: int = MAX_ORDER,
    *,
    workers: int | None = 1,
    progress: bool = False,
) -> Counts:
    """Counts tokens, and words of `max_order` + 1 nucleotides.

    Where the split is larger than `max_nucleotides`, records spread evenly over it are read.

    Args:
        reader: the split; it can be pickled if there are several workers.
        tokenizer: of the model.
        max_nucleotides: nucleotides to read, at most (but at least one record).
        max_order: highest order of the chains to fit, up to 12.
        workers: processes, or None for as many as are worth it.
        progress: show a bar.

    Raises:
        InputError: if a limit is not above 0, or the order is too high.
    """
    require(max_nucleotides > 0, "max_nucleotides", max_nucleotides, "must be above 0")
    require(1 <= max_order <= MAX_ORDER, "max_order", max_order, f"must be 1 to {MAX_ORDER}")
    num_records, num_nucleotides = choose_records(reader, max_nucleotides)
    num_workers = count_workers(workers, num_nucleotides)
    num_tasks = max(num_workers, -(-num_nucleotides // _NUCLEOTIDES_OF_A_TASK))
    edges = [num_records * task // num_tasks for task in range(num_tasks + 1)]
    tasks = {
        f"records {first} to {end - 1}": functools.partial(
            _count_records, reader, tokenizer, max_order + 1, num_records, first, end
        )
        for first, end in itertools.pairwise(edges)
    }
    tokens = np.zeros(tokenizer.num_nucleotide_tokens, np.int64)
    kind = np.uint32 if num_nucleotides < 2**31 else np.uint64
    words = np.zeros(4 ** (max_order + 1), kind)
    num_read = 0
    held_back: dict[str, tuple[bytes, ...]] = {}

    def collect(name: str, part: Counts) -> None:
        nonlocal num_read, tokens, words
        tokens += part.tokens
        words += part.words
        num_read += part.num_nucleotides
        held_back[name] = part.held_back

    with show_progress("baselines", num_nucleotides, visible=progress) as report:
        run_tasks(tasks, num_workers, report, collect)
    return Counts(
        tokens=tokens,
        words=words,
        held_back=tuple(record for name in tasks for record in held_back[name]),
        num_nucleotides=num_read,
        num_records=num_records,
    )


def choose_records(reader: RecordReader, max_nucleotides: int) -> tuple[int, int]:
    """How many records to count, and about how many nucleotides they have."""
    sample = np.arange(min(len(reader), 1_000)) * len(reader) // min(len(reader), 1_000)
    mean_length = sum(map(len, reader.read(sample))) / len(sample)
    num_records = min(len(reader), max(1, int(max_nucleotides / mean_length)))
    return num_records, int(num_records * mean_length)


def choose_held_back(
    places: Int[np.ndarray, " B"], num_records: int
) -> tuple[Bool[np.ndarray, " B"], Bool[np.ndarray, " B"]]:
    """Which records' words are left out, and which of these are held back.

    Stretches spread evenly. Of fewer than 400 records none is left out.

    Args:
        places: of records, among those that are read.
        num_records: that are read.
    """
    if num_records < 50 * HELD_BACK_AT_ONCE:
        return np.zeros(len(places), bool), np.zeros(len(places), bool)
    period = HELD_BACK_AT_ONCE * max(50, num_records // HELD_BACK_AT_MOST)
    place = places % period - period // 2
    inside = (place > 0) & (place < HELD_BACK_AT_ONCE - 1)
    return (place >= 0) & (place < HELD_BACK_AT_ONCE), inside


def save_counts(manifest: Manifest, counts: Counts, k: int) -> None:
    """Writes counts to the folder of their corpus; what was there before is replaced.

    A small corpus takes 0.6 bytes a nucleotide (24 MB for 38 million), a larger one less (56 MB for
    275 million).
    """
    arrays = {
        "format_version": np.array(FORMAT_VERSION),
        "corpus": np.array(manifest.digest),
        "k": np.array(k),
        "num_nucleotides": np.array(counts.num_nucleotides),
        "num_records": np.array(counts.num_records),
        "tokens": counts.tokens,
        "words": counts.words.astype(np.min_scalar_type(counts.words.max())),
        "held_back": np.frombuffer(b"\n".join(counts.held_back), np.uint8),
    }
    # np.savez_compressed takes six times as long, for a file smaller by a quarter.
    deflate: dict[str, Any] = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 1}
    with (
        write_whole(manifest.folder / COUNTS_FILE) as partial,
        zipfile.ZipFile(partial, "w", **deflate) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def load_counts(manifest: Manifest, k: int) -> Counts | None:
    """The counts in the folder of a corpus, or None if there are none.

    Raises:
        InputError: if they are those of another corpus or of other tokens, damaged, or of another
            version.
    """
    path = manifest.folder / COUNTS_FILE
    if not path.is_file():
        return None
    rule = f"{_name_command(manifest, k)} makes it again"
    try:
        values = _read_arrays(path)
        version, corpus = int(values["format_version"]), str(values["corpus"])
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path}: format_version = {version}: must be {FORMAT_VERSION}: {rule}"
            )
        if corpus != manifest.digest:
            raise InputError(f"{path}: counted in another corpus, or before this one grew: {rule}")
        if int(values["k"]) != k:
            raise InputError(f"{path}: k = {values['k']}: must be {k}, as in the model: {rule}")
        counts = Counts(
            tokens=values["tokens"],
            words=values["words"],
            held_back=tuple(values["held_back"].tobytes().split()),
            num_nucleotides=int(values["num_nucleotides"]),
            num_records=int(values["num_records"]),
        )
        assert len(counts.tokens) == 4**k + 4, "tokens"
        assert counts.words.dtype.kind == "u", "words"
        assert values["held_back"].dtype == np.uint8, "held_back"
        assert len(counts.words) in [4 ** (order + 1) for order in range(1, MAX_ORDER + 1)], "words"
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(f"{path}: damaged ({error!r}): {rule}") from None
    return counts


def _name_command(manifest: Manifest, k: int) -> str:
    """The command that counts a corpus in tokens of k nucleotides."""
    option = "" if k == BaselinesConfig.k else f" --k {k}"
    return f"`nt corpus baselines {manifest.folder}{option}`"


def find_counts(
    manifest: Manifest, k: int, *, trained_on: str | None = None, optional: bool = True
) -> tuple[Counts | None, tuple[str, ...]]:
    """What the baselines of a model are fitted to, and notes on it.

    Args:
        manifest: of the corpus that was counted.
        k: of the model.
        trained_on: digest of the corpus that the model was trained on, if that is known.
        optional: counts that are of no use are noted, and no error.

    Raises:
        InputError: as `load_counts`, unless they are `optional`.
    """
    try:
        counts = load_counts(manifest, k)
    except (InputError, OSError) as error:
        if not optional:
            raise
        return None, (f"no baselines: {error}",)
    if counts is None and manifest.num_records("train") == 0:
        return None, ("no baselines: the corpus has no training split; --baselines names another",)
    if counts is None:
        return None, (f"no baselines: {_name_command(manifest, k)} counts them once",)
    if trained_on not in (None, manifest.digest):
        return counts, (f"the model was not trained on {manifest.folder}, unlike its baselines",)
    return counts, ()


def _is_finished(manifest: Manifest, k: int, num_records: int) -> bool:
    """Whether the counts that are wanted are there."""
    try:
        counts = load_counts(manifest, k)
    except InputError:
        return False
    if counts is None:
        return False
    return counts.num_records == num_records and len(counts.words) == 4 ** (MAX_ORDER + 1)


def _count_records(
    reader: RecordReader,
    tokenizer: KmerTokenizer,
    word_length: int,
    num_chosen: int,
    first: int,
    end: int,
    report: Report,
) -> Counts:
    """Counts records `first` to `end` - 1 of the `num_chosen` that are spread over a reader."""
    tokens = np.zeros(tokenizer.vocabulary_size, np.int64)
    words = WordCounter(word_length)
    num_nucleotides = 0
    held_back: list[bytes] = []
    for start in range(first, end, _RECORDS_AT_ONCE):
        places = np.arange(start, min(start + _RECORDS_AT_ONCE, end))
        texts = reader.read(places * len(reader) // num_chosen)
        tokens += np.bincount(tokenizer.encode_batch(texts).ravel(), minlength=len(tokens))
        left_out, kept = choose_held_back(places, num_chosen)
        held_back += [texts[place] for place in np.flatnonzero(kept)]
        counted = [texts[place] for place in np.flatnonzero(~left_out)]
        words.add(encode_letters(b"N".join(counted)))
        num_new = sum(map(len, texts))
        num_nucleotides += num_new
        report(num_new, num_new)
    return Counts(
        tokens=tokens[tokenizer.first_kmer_id :][: tokenizer.num_nucleotide_tokens],
        words=words.counts.view(np.uint32),
        held_back=tuple(held_back),
        num_nucleotides=num_nucleotides,
        num_records=end - first,
    )


def _read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a file that `save_counts` wrote, by name."""
    with zipfile.ZipFile(path) as archive:
        arrays = {}
        for name in archive.namelist():
            with archive.open(name) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
                file.read()  # to the end, where the checksum is looked at
                arrays[name.removesuffix(".npy")] = array
    return arrays
