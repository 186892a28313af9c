"""Puts the model of a run into the package, where `load_pretrained()` finds it.

    python experiments/model/package.py --run runs/model
    python experiments/model/package.py --help

`make model` trains the model first. The card of the package is made from the records of the run and
the tables in this folder.
"""

import logging
import sys
from pathlib import Path

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.options import parse
from nucleotide_transformer.packaging.package import PackageConfig, package_run

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Packages a run; returns the exit code."""
    default = PackageConfig(
        run=HERE.parent.parent / "runs" / "model",
        genomes=HERE / "genomes.tsv",
        unseen=HERE / "unseen.tsv",
    )
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax remarks on what is as it should be
    try:
        config = parse(PackageConfig, sys.argv[1:], "package.py", default)
        package = package_run(config)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for each in package.roundings:
        print(
            f"{each.dtype:9} changes a logit by {each.largest:.2g} at most, {each.typical:.2g} in"
            f" root mean square, and the cross-entropy by {each.nats:+.1g} nats"
        )
    if not package.genomes_checked:
        print(f"note: no corpus to compare {config.genomes} with")
    print(
        f"wrote {package.folder} after update {package.step:,}: {package.num_bytes:,} bytes in"
        f" {config.dtype}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
