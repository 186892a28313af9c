"""Small files that ask for much memory or time, and a process that opens them under a limit.

Run as a script it prints, for each folder that it is given, what `load_pretrained` said and what
that cost: `tests/test_hostile_sizes.py` reads it.
"""

import bz2
import contextlib
import dataclasses
import importlib
import json
import pickle
import resource
import shutil
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import orbax.checkpoint as ocp
from small_models import V2, save_model

from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.weights import runs
from nucleotide_transformer.weights.assembly import expected_shapes
from nucleotide_transformer.weights.configs import make_huggingface_config, make_hyperparams

LIMIT_BYTES = 400 << 20
"""Address space beyond what the process has when everything is imported."""
LIMIT_SECONDS = 10


def make_bomb(chunk: Callable[[bytes], bytes], head: bytes, zeros: int) -> bytes:
    """A stream that decompresses to a head and so many zeros."""
    part = 1 << 24
    return chunk(head) + chunk(bytes(part)) * (zeros // part)


def write_jax(folder: Path, checkpoint: bytes, **options: Any) -> None:
    folder.mkdir()
    content = make_hyperparams(V2) | options
    (folder / "hyperparams.json").write_text(json.dumps(content))
    (folder / "pytree_ckpt.joblib").write_bytes(checkpoint)


def write_huggingface(folder: Path, name: str = "model.safetensors", **options: Any) -> Path:
    folder.mkdir()
    content = make_huggingface_config(V2) | options
    (folder / "config.json").write_text(json.dumps(content))
    (folder / name).write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder / name


LARGEST = {"num_layers": 1_000, "embed_dim": 1 << 16, "ffn_embed_dim": 1 << 18, "key_size": 1 << 14}
"""Options of a model of 550 TB, the largest that a config may describe."""


def literal_in_bz2(folder: Path) -> None:
    size = 1 << 29
    write_jax(folder, make_bomb(bz2.compress, b"\x80\x04\x8e" + struct.pack("<Q", size), size))


def literal_in_zlib(folder: Path) -> None:
    size = 1 << 28
    body = b"\x80\x04\x8e" + struct.pack("<Q", size) + bytes(size) + b"."
    write_jax(folder, zlib.compress(body), **LARGEST)


def foreign_array(folder: Path) -> None:
    """A whole model, and an array that does not belong to it."""
    params = save_model(folder, V2, "jax")
    file = folder / "pytree_ckpt.joblib"
    tree: dict[str, Any] = {module: dict(leaves) for module, leaves in params.items()}
    joblib.dump({"x/other": {"w": np.zeros(1 << 20)}} | tree, file)


def copy_text(size: int, num_copies: int) -> bytes:
    """One text, encoded again and again: each opcode of a few bytes makes a copy."""
    encode = b"X" + struct.pack("<I", 7) + b"_codecs" + b"X" + struct.pack("<I", 6) + b"encode\x93"
    text = b"X" + struct.pack("<I", size) + b"x" * size + b"\x94"
    again = encode + b"h\x00X" + struct.pack("<I", 6) + b"latin1\x86R"
    return b"\x80\x04" + text + again * num_copies + b"."


def copies_of_a_text(folder: Path) -> None:
    write_jax(folder, copy_text(100_000, 10_000))


def copies_for_the_largest_model(folder: Path) -> None:
    write_jax(folder, copy_text(100_000, 10_000), **LARGEST)


def copies_in_zlib(folder: Path) -> None:
    write_jax(folder, zlib.compress(copy_text(1_000_000, 100_000), 9), **LARGEST)


def one_dict_for_all(folder: Path) -> None:
    """Every module of thousands is the same dict of thousands."""
    names = b"".join(b"\x8c\x05%05dN" % number for number in range(5_000))
    again = b"".join(b"\x8c\x05%05dh\x00" % number for number in range(5_000))
    write_jax(folder, b"\x80\x04}\x94(" + names + b"u0}(" + again + b"u.", **LARGEST)


def many_containers(folder: Path) -> None:
    write_jax(folder, b"\x80\x04" + b"}\x94" * 500_000 + b".")


def strides_of_zero(folder: Path) -> None:
    import torch

    wide = {"hidden_size": 1 << 13, "intermediate_size": 1 << 15}
    file = write_huggingface(folder, "pytorch_model.bin", **wide)
    one = torch.ones(1)
    tensors = {"esm.embeddings.word_embeddings.weight": one.expand(75, 1 << 13)}
    for layer in range(2):
        name = f"esm.encoder.layer.{layer}.intermediate.dense.weight"
        tensors[name] = one.expand(1 << 16, 1 << 13)
    torch.save(tensors, file)


def one_storage_for_all(folder: Path) -> None:
    """Every matrix of a thousand layers is the same 256 kB: 1 GB of parameters."""
    import torch

    file = write_huggingface(
        folder,
        "pytorch_model.bin",
        hidden_size=256,
        num_attention_heads=4,
        num_hidden_layers=1000,
        intermediate_size=256,
    )
    weight = torch.ones(256, 256)
    names = ("query", "key", "value")
    torch.save(
        {
            f"esm.encoder.layer.{layer}.attention.self.{name}.weight": weight
            for layer in range(1000)
            for name in names
        },
        file,
    )


def a_million_layers(folder: Path) -> None:
    write_huggingface(folder, num_hidden_layers=1_000_000)


def k_of(k: int) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        options = {"k_for_kmers": k, "alphabet_size": None}
        write_jax(folder, pickle.dumps({}), **options)

    return build


def layers_of(num_layers: int) -> Callable[[Path], None]:
    return lambda folder: write_jax(folder, pickle.dumps({}), num_layers=num_layers)


def overlapping_tensors(folder: Path) -> None:
    """Every matrix has the same bytes."""
    options = {"hidden_size": 512, "intermediate_size": 512, "num_attention_heads": 4}
    file = write_huggingface(folder, num_hidden_layers=500, **options)
    size = 4 * 512 * 512
    entry = {"dtype": "F32", "shape": [512, 512], "data_offsets": [0, size]}
    names = [
        f"esm.encoder.layer.{layer}.attention.self.{name}.weight"
        for layer in range(500)
        for name in ("query", "key", "value")
    ]
    header = json.dumps(dict.fromkeys(names, entry)).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))


def nested_header(folder: Path) -> None:
    file = write_huggingface(folder)
    header = b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    file.write_bytes(len(header).to_bytes(8, "little") + header)


def numbers_of(**options: Any) -> Callable[[Path], None]:
    return lambda folder: write_jax(folder, pickle.dumps({}), **options)


RUN = Path(__file__).parent / "golden" / "run_v1"


def write_run(folder: Path, params: Any, **model: Any) -> None:
    """A run with other parameters, and other fields of its model's config."""
    checkpoint = runs.find_checkpoint(shutil.copytree(RUN, folder))
    shutil.rmtree(checkpoint / "state")
    ocp.PyTreeCheckpointer().save(checkpoint / "state", {"params": params})
    file = checkpoint / "config" / "metadata"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"model": config["model"] | model}))


def foreign_array_in_a_run(folder: Path) -> None:
    params, _ = runs.load_run(RUN)
    write_run(folder, params | {"x/other": {"w": np.zeros(1 << 26, np.float32)}})


def run_of_zeros(folder: Path) -> None:
    """A model as its config says it is, and zeros compress."""
    _, config = runs.load_run(RUN)
    wide = {"embed_dim": 1 << 11, "ffn_dim": 1 << 11}
    shapes = expected_shapes(dataclasses.replace(config, **wide))
    write_run(
        folder,
        {
            module: {name: np.zeros(shape, np.float32) for name, shape in leaves.items()}
            for module, leaves in shapes.items()
        },
        **wide,
    )


def run_in_large_pieces(folder: Path) -> None:
    """Arrays of the right shape, one of them in a piece of 268 MB."""
    import tensorstore

    params, _ = runs.load_run(RUN)
    write_run(folder, params)
    state = runs.find_checkpoint(folder) / "state"
    module, name = "esm_transformer/~/embed", "embeddings"
    shape = list(params[module][name].shape)
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": f"file://{state}"},
        "path": f"params.{module}.{name}/",
        "metadata": {"shape": shape, "chunks": [1 << 13, 1 << 13], "dtype": "<f4"},
    }
    array = tensorstore.open(spec, create=True, delete_existing=True).result()
    array.write(params[module][name]).result()


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a literal of zeros in bz2": (literal_in_bz2, "compressed"),
    "a literal of zeros in zlib": (literal_in_zlib, "weights never compress to less"),
    "a foreign array": (foreign_array, "bytes or more: a checkpoint of this model has at most"),
    "copies of a text": (copies_of_a_text, "more than twice what was read"),
    "copies for the largest model": (copies_for_the_largest_model, "more than twice what was read"),
    "copies in zlib": (copies_in_zlib, "more than twice what was read"),
    "one dict for all": (one_dict_for_all, "tensors wrong; unexpected: "),
    "many containers": (many_containers, "more than a checkpoint of this model"),
    "strides of zero": (strides_of_zero, "more than twice"),
    "one storage for all": (one_storage_for_all, "more than twice"),
    "a million layers": (a_million_layers, "num_layers = 1000000: must be at most 1000"),
    "k of a thousand million": (k_of(10**9), "k = 1000000000: must lie between 3 and 8"),
    "k of 10**30": (k_of(10**30), "must lie between 3 and 8"),
    "300 layers": (layers_of(300), "tensors wrong; missing: "),
    "a thousand layers": (layers_of(1000), "tensors wrong; missing: "),
    "ten thousand layers": (layers_of(10_000), "num_layers = 10000: must be at most 1000"),
    "overlapping tensors": (overlapping_tensors, "damaged"),
    "a nested header": (nested_header, "damaged"),
    "a width of 10**30": (numbers_of(embed_dim=10**30, key_size=None), "embed_dim = "),
    "a feed-forward width": (numbers_of(ffn_embed_dim=10**30), "ffn_dim = "),
    "an epsilon of 10**400": (numbers_of(layer_norm_eps=10**400), "layer_norm_eps = "),
    "an infinite scale": (numbers_of(embed_scale=float("inf")), "embed_scale = inf: must be"),
    "a foreign array in a run": (
        foreign_array_in_a_run,
        "checkpoints/4/state: 1 tensor wrong; unexpected: x/other/w",
    ),
    "a run in large pieces": (
        run_in_large_pieces,
        "embed/embeddings [8192, 8192], not [75, 16]",
    ),
    "a run of zeros": (run_of_zeros, "state: bytes of parameters = "),
    "positions": (numbers_of(max_positions=10**12), "max_positions = 1000000000000: must be"),
}
"""A file, and what the message says."""


def measure(folder: Path) -> dict[str, Any]:
    """What a load says, its seconds, and whether it hit a limit."""
    start = time.perf_counter()
    signal.alarm(LIMIT_SECONDS)
    try:
        load_pretrained(folder)
        kind, message = "loaded", ""
    except BaseException as error:
        kind, message = type(error).__name__, str(error)
    finally:
        signal.alarm(0)
    is_input_error = kind.endswith("Error") and message.startswith(str(folder))
    seconds = round(time.perf_counter() - start, 2)
    return {"kind": kind, "message": message[:1000], "ok": is_input_error, "seconds": seconds}


def stop(*_: object) -> None:
    raise TimeoutError("took too long")


def main(root: Path) -> None:
    signal.signal(signal.SIGALRM, stop)
    load_pretrained(RUN)  # what JAX and orbax start on first use
    with contextlib.suppress(ImportError):
        importlib.import_module("torch")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, hard))
    found = {}
    for number, name in enumerate(CASES):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found[name] = measure(root / str(number))
        found[name]["grown"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
