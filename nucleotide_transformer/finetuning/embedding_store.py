"""Embeddings on disk, by what they are of: each sequence is computed once, whoever asks for it.

A store is a folder of one network's embeddings: `settings.json` says of which, and each
`part-000000.npz` holds `keys`, digests of a strand and a sequence, and rows of `layer_<number>`.
A task of which a part is there already, in this run or in one that was stopped, computes the rest.
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nucleotide_transformer.data.fasta import turn
from nucleotide_transformer.files import keep_settings, refuse_unwritable, write_whole
from nucleotide_transformer.inference.batching import BatchConfig, resolve_windows
from nucleotide_transformer.inference.blocks import PART_BYTES, PART_SECONDS, load_arrays
from nucleotide_transformer.inference.embedding import Embedding, embed, resolve_layers
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.types import Float
from nucleotide_transformer.weights.adapter_files import Strand
from nucleotide_transformer.weights.assembly import digest_params


class EmbeddingStore:
    """Mean-pooled embeddings of the chosen layers of one network."""

    def __init__(
        self,
        folder: Path,
        model: Model,
        *,
        layers: Sequence[int] = (),
        batching: BatchConfig = BatchConfig(),
    ) -> None:
        """Opens or makes a store.

        Args:
            folder: of the store.
            model: the network.
            layers: 0 (the input of the first block) to num_layers; all of them by default.
            batching: size of windows and batches, devices.

        Raises:
            InputError: for a layer that does not exist, a store of another network or with other
                settings, or a part that is damaged.
            UnwritableOutputError: if the system lets nothing be written there.
        """
        every = tuple(range(model.config.num_layers + 1))
        self.folder, self.layers = folder, resolve_layers(model.config, tuple(layers) or every)
        self._model, self._batching = model, batching
        with refuse_unwritable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._check_settings()
        self._parts = sorted(folder.glob("part-*.npz"))
        self._places: dict[int, tuple[int, int]] = {}
        for number in range(len(self._parts)):
            self._index(number)

    def _check_settings(self) -> None:
        """Writes what the embeddings depend on, or compares it with what the store says."""
        settings = {
            "parameters": digest_params(self._model.params),
            "layers": list(self.layers),
            "compute_dtype": self._model.compute.compute_dtype,
            "output_dtype": self._model.compute.output_dtype,
            **resolve_windows(self._model.config, self._batching)._asdict(),
        }
        rule = "choose another output, or delete the folder"
        keep_settings(self.folder, settings, "holds embeddings", rule)

    def _index(self, number: int) -> None:
        """Notes which embeddings a part holds."""
        for row, key in enumerate(self._read(number, "keys").tolist()):
            self._places[key] = (number, row)

    def _read(self, number: int, name: str) -> np.ndarray:
        """An array of a part; an `InputError` if it is damaged."""
        rule = "damaged: delete it, and its embeddings are computed again"
        return load_arrays(self._parts[number], rule, name)[name]

    def count_missing(self, sequences: Sequence[str], strand: Strand) -> int:
        """Distinct sequences whose embeddings are not there yet."""
        return len(self._find_missing(sequences, strand))

    def _find_missing(self, sequences: Sequence[str], strand: Strand) -> dict[int, str]:
        keyed = {_make_key(text, strand): text for text in sequences}
        return {key: text for key, text in keyed.items() if key not in self._places}

    def add(
        self,
        sequences: Sequence[str],
        strand: Strand,
        *,
        advance: Callable[[], object] = lambda: None,
    ) -> None:
        """Computes what is not there yet, all layers in one pass; a stop keeps what is finished.

        Args:
            sequences: A, C, G, T and N; longer ones than a window are cut into windows.
            strand: of what the embedding is.
            advance: called for each sequence that was computed.
        """
        missing = self._find_missing(sequences, strand)
        keys: list[int] = []
        rows: list[Embedding] = []
        since = time.monotonic()
        try:
            for key, row in zip(missing, self._compute(missing.values(), strand), strict=True):
                keys.append(key)
                rows.append(row)
                advance()
                size = sum(array.nbytes for array in row.values()) * len(rows)
                if size >= PART_BYTES or time.monotonic() - since > PART_SECONDS:
                    self._write(keys, rows)
                    keys, rows, since = [], [], time.monotonic()
        finally:
            self._write(keys, rows)

    def _compute(self, sequences: Any, strand: Strand) -> Iterator[Embedding]:
        """The embedding of each sequence; zeros where nothing of it is known."""
        both = strand == "both"

        def take() -> Iterator[str]:
            for text in sequences:
                yield text
                if both:
                    yield turn(text)

        stream = embed(self._model, take(), layers=self.layers, batching=self._batching)
        count = 2 if both else 1
        while group := list(itertools.islice(stream, count)):
            yield {
                layer: np.nan_to_num(np.mean([each[layer] for each in group], axis=0))
                for layer in self.layers
            }

    def _write(self, keys: list[int], rows: list[Embedding]) -> None:
        if not keys:
            return
        arrays = {f"layer_{layer}": np.stack([row[layer] for row in rows]) for layer in self.layers}
        # One may be missing: no part takes the name of another.
        last = max((int(part.stem.removeprefix("part-")) for part in self._parts), default=-1)
        path = self.folder / f"part-{last + 1:06d}.npz"
        with write_whole(path) as partial, partial.open("xb") as file:
            np.savez(file, keys=np.array(keys, np.uint64), **arrays)  # type: ignore[arg-type]
        self._parts.append(path)
        self._index(len(self._parts) - 1)

    def load(
        self, sequences: Sequence[str], strand: Strand, layer: int
    ) -> Float[np.ndarray, "S D"]:
        """The embeddings of sequences that were added, in their order."""
        places = np.array([self._places[_make_key(text, strand)] for text in sequences], np.int64)
        result = np.zeros((len(places), self._model.config.embed_dim), np.float32)
        for number in np.unique(places[:, 0]):
            chosen = places[:, 0] == number
            result[chosen] = self._read(int(number), f"layer_{layer}")[places[chosen, 1]]
        return result


def _make_key(sequence: str, strand: Strand) -> int:
    """64 bits of a digest: among a million sequences, two are alike with a chance of 1 in 30 M."""
    digest = hashlib.blake2b(f"{strand} {sequence}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
