"""Peak memory of loading a model, in both layouts, as a multiple of the size of its parameters.

    python experiments/benchmark_load.py --model 500M_multi_species_v2

Writes files of the model's shapes with random numbers into a temporary folder, and loads each in a
process of its own. What counts is the peak of the resident memory (`ru_maxrss`) less what the
process had after its imports and after JAX had made its first array. Limit: 1.2.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIMIT = 1.2
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that ru_maxrss counts by


def write_random_model(folder: Path, name: str) -> None:
    """Writes a model of a released shape in both layouts."""
    import numpy as np

    from nucleotide_transformer.weights.assembly import expected_shapes
    from nucleotide_transformer.weights.exports import save_folder
    from nucleotide_transformer.weights.hub import find_released

    config = find_released(name).config
    random = np.random.default_rng(0)
    params = {
        module: {leaf: random.standard_normal(shape, np.float32) for leaf, shape in shapes.items()}
        for module, shapes in expected_shapes(config).items()
    }
    for layout in ("huggingface", "jax"):
        save_folder(folder / layout, params, config, layout=layout, origin="random numbers")


def measure_load(folder: Path) -> dict[str, float]:
    """Loads a model in this process; sizes in bytes."""
    import jax
    import jax.numpy as jnp

    from nucleotide_transformer.pretrained import load_pretrained

    jnp.zeros(8).block_until_ready()
    before = peak_memory()
    start = time.perf_counter()
    model = load_pretrained(folder)
    jax.block_until_ready(model.params)
    seconds = time.perf_counter() - start
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    return {"size": size, "before": before, "peak": peak_memory(), "seconds": seconds}


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def run_self(*arguments: Any) -> str:
    """Runs this file in a fresh process, which starts with a small peak of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Prints a line for each layout; exits with 1 if one needs more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="500M_multi_species_v2")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_random_model(options.write, options.model)
        return 0
    if options.load:
        print(json.dumps(measure_load(options.load)))
        return 0
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        run_self("--write", name, "--model", options.model)
        for folder in sorted(Path(name).iterdir()):
            found = json.loads(run_self("--load", folder))
            ratio = (found["peak"] - found["before"]) / found["size"]
            worst = max(worst, ratio)
            print(
                f"{options.model}, {folder.name}: parameters {found['size'] / 1e9:.3f} GB, peak"
                f" {(found['peak'] - found['before']) / 1e9:.3f} GB above"
                f" {found['before'] / 1e9:.3f} GB: ratio {ratio:.3f}, {found['seconds']:.1f} s"
            )
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
