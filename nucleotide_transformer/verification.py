"""Whether a model computes here what it should: three sequences, and logits that are known.

    result = verify_model(VerifyConfig(model="100M_multi_species_v2"))
    result.largest, result.is_ok

The logits of the packaged model were computed when it was packaged, in float32 on a CPU, and lie
beside its weights. Those of any other model are computed now, in the plainest form that there is:
float32 on the CPU, block after block, with attention as two products.
"""

import dataclasses
import hashlib
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Shaped

from nucleotide_transformer.config import ComputeConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model import exact_products, make_forward
from nucleotide_transformer.model.platform import describe, find_default_device
from nucleotide_transformer.pretrained import Model, load_pretrained
from nucleotide_transformer.types import Float, Int
from nucleotide_transformer.weights import folders
from nucleotide_transformer.weights.hub import LoadConfig

PLAIN = ComputeConfig(attention="einsum", stack="loop", remat="none")
"""Float32, and no form that is tuned for a platform."""
TOLERANCES = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 2e-1}
"""Largest difference of a logit that rounding may make, in root mean squares of the logits. On CPUs
a model of 2 layers has 4e-6, 8e-3 and 4e-2: deeper models and other processors have more, and a
fault much more."""
LONGEST = 128
"""Tokens of the longest sequence; fewer where the model has a shorter window."""
_PLACES = 4
"""Tokens of each sequence whose logits are stored: all would be 6 MB."""
_HEADERS = 1 << 16
"""Bytes that what describes the arrays may have."""
_BOUNDED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""Of which `zipfile` makes no more than it is asked for; NumPy writes the second."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyConfig(LoadConfig):
    """Runs three sequences through a model and compares its logits with known ones.

    Those of the packaged model come with it: they were computed in float32 on a CPU. Those of any
    other model are computed now, in float32 on the CPU, by plain products and block after block.
    Prints the largest difference and "ok", or "not ok" with exit code 1.
    """


class Reference(NamedTuple):
    """Sequences, and N of their tokens whose logits are known."""

    tokens: Int[np.ndarray, "B T"]
    """`<pad>` at the end of the shorter ones."""
    rows: Int[np.ndarray, " N"]
    columns: Int[np.ndarray, " N"]
    logits: Float[np.ndarray, "N V"]
    """float32."""


class Verification(NamedTuple):
    """How far a model is from its reference."""

    model: Model
    device: str
    """That the model ran on."""
    origin: str
    """Where the reference is from."""
    largest: float
    """Largest difference of a logit."""
    scale: float
    """Root mean square of the reference's logits."""
    tolerance: float
    """Largest difference that rounding may make."""

    @property
    def is_ok(self) -> bool:
        """False also where a logit is no number."""
        return self.largest <= self.tolerance


def verify_model(config: VerifyConfig) -> Verification:
    """Compares a model with its reference: see the top of the module.

    Raises:
        MissingInputError, InputError: as `load_pretrained`; and for a damaged file of logits.
    """
    model = load_pretrained(config.model, compute=config.compute)
    assert model.source is not None
    # The path of a folder is whole: only a name is looked for among those that are packaged.
    file = folders.PACKAGED_FOLDER / model.source / folders.REFERENCE
    if file.is_file():
        reference, origin = load_reference(file, model), f"{file}, computed in float32 on a CPU"
    else:
        device = find_plain_device()
        reference = make_reference(model, find_known(make_tokens(model), model))
        origin = f"computed now: float32, plain products, block after block, on {device.platform}"
    return compare(model, reference, origin)


def compare(model: Model, reference: Reference, origin: str) -> Verification:
    """Runs a model, and finds the largest difference of a logit."""
    logits = np.asarray(model(reference.tokens).logits, np.float64)
    found, known = logits[reference.rows, reference.columns], reference.logits.astype(np.float64)
    scale = float(np.sqrt((known**2).mean()))
    tolerance = scale * TOLERANCES[_find_coarsest(model.compute)]
    largest = float(np.abs(found - known).max())
    return Verification(model, describe(find_default_device()), origin, largest, scale, tolerance)


def make_tokens(model: Model) -> Int[np.ndarray, "B T"]:
    """The three sequences: a few tokens with N and `<mask>`, then 33 tokens, then a window."""
    k, limit = model.config.k, min(LONGEST, model.config.position_limit or LONGEST)
    lengths = [min(length, limit) for length in (12, 33, LONGEST)]
    texts = [
        f"{make_letters(2 * k, number)}N<mask>{make_letters(k * max(length - 5, 1), 10 + number)}"
        for number, length in enumerate(lengths)
    ]
    return model.tokenizer.encode_batch(texts, length=max(lengths), truncate=True)


def make_letters(length: int, number: int) -> str:
    """Nucleotides that look random and are the same on every machine, for ever."""
    letters = ""
    while len(letters) < length:
        digest = hashlib.sha256(f"{number} {len(letters)}".encode()).digest()
        letters += "".join("ACGT"[byte % 4] for byte in digest)
    return letters[:length]


def find_known(
    tokens: Int[np.ndarray, "B T"], model: Model, *, at_most: int | None = None
) -> Reference:
    """The tokens that are no padding, or some of each sequence, still without logits."""
    kept = tokens != model.config.pad_token_id
    if at_most is not None:
        for row in kept:
            (places,) = np.nonzero(row)
            chosen = np.linspace(0, len(places) - 1, at_most).round().astype(int)
            row[:] = False
            row[places[chosen]] = True
    rows, columns = np.nonzero(kept)
    return Reference(tokens, rows, columns, np.zeros((0, model.config.vocabulary_size), np.float32))


def make_reference(model: Model, reference: Reference) -> Reference:
    """Computes the logits of a reference, in the plain form."""
    device = find_plain_device()
    with jax.default_device(device), exact_products(PLAIN):
        params = jax.device_put(model.params, device)
        params = jax.tree.map(lambda leaf: leaf.astype("float32"), params)
        apply = jax.jit(make_forward(model.config, PLAIN).apply)
        logits = np.asarray(apply(params, reference.tokens).logits)
    return reference._replace(logits=logits[reference.rows, reference.columns])


def find_plain_device() -> jax.Device:
    """A CPU, or where JAX may use none, what there is."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def save_reference(folder: Path) -> None:
    """Writes the file of logits of a model into its folder, from what loading the folder gives."""
    model = load_pretrained(folder)
    places = find_known(make_tokens(model), model, at_most=_PLACES)
    np.savez_compressed(folder / folders.REFERENCE, **make_reference(model, places)._asdict())


def load_reference(file: Path, model: Model) -> Reference:
    """Reads a file of logits, whose folder may be anyone's.

    Raises:
        InputError: if it is damaged, or of another model.
    """
    tokens, width = make_tokens(model), model.config.vocabulary_size
    found = Reference(**_read_arrays(file, tokens.size * (4 * width + 3 * 8) + _HEADERS))
    size = found.rows.size
    is_right = (
        all(array.dtype.kind == "i" for array in (found.tokens, found.rows, found.columns))
        and np.array_equal(found.tokens, tokens)
        and found.rows.shape == found.columns.shape == (size,) != (0,)
        and found.rows.min() >= 0 <= found.columns.min()
        and found.rows.max() < tokens.shape[0]
        and found.columns.max() < tokens.shape[1]
        and found.logits.dtype == np.float32
        and found.logits.shape == (size, width)
        and bool(np.isfinite(found.logits).all())
    )
    if not is_right:
        rule = "of another model, or of another version of this package, or damaged"
        raise InputError(f"{file}: {rule}")
    return found


def _read_arrays(file: Path, most: int) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of a file, which may have so many bytes, also where they are compressed."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = max(file.stat().st_size, sum(member.file_size for member in members))
            if size > most:
                rule = f"the logits of this model have at most {most}"
                raise zipfile.BadZipFile(f"{size} bytes, and {rule}")
            if {member.compress_type for member in members} - _BOUNDED:
                raise zipfile.BadZipFile("compressed in another way than by zlib")
            arrays = {}
            for name in Reference._fields:
                with archive.open(f"{name}.npy") as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
            return arrays
    except Exception as error:  # whatever zip, zlib and NumPy raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file}: damaged ({reason:.100})") from None


def _find_coarsest(compute: ComputeConfig) -> str:
    """The type of the parameters, the activations or the logits, whichever rounds most."""
    kinds = (compute.param_dtype, compute.compute_dtype, compute.output_dtype)
    return max(kinds, key=lambda kind: TOLERANCES[kind])
