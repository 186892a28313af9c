"""What a model knows of genes: numbers as JSON, and pictures.

    python experiments/what_it_knows.py --model runs/mine --corpus runs/corpus
        --annotation ../shared/data/annotation --genomes ../shared/data/genomes
        --output experiments/results/knowledge

(on one line).

Letters around start codons, stop codons and splice sites, against random places; masked 6-mers by
kind of sequence; letters by position in the codon; embeddings of elements with a linear probe. What
each number is: `nucleotide_transformer/analysis/`. `--help` lists the options.
"""

import logging
import shlex
import sys
import time

import jax

from nucleotide_transformer.analysis.config import KnowledgeConfig
from nucleotide_transformer.analysis.pictures import draw_pictures
from nucleotide_transformer.analysis.study import run_study, save_result
from nucleotide_transformer.benchmark.machine import describe_machine
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.options import parse


def main() -> int:
    """Measures, writes the JSON, draws."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax remarks on what is as it should be
    try:
        config = parse(KnowledgeConfig, sys.argv[1:], "what_it_knows.py")
        machine = describe_machine(jax.devices())
        start = time.perf_counter()
        result = run_study(config, progress=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seconds = round(time.perf_counter() - start, 1)
    head = {"command": shlex.join(["python", *sys.argv]), "seconds": seconds, "machine": machine}
    result = head | result
    for path in (save_result(result, config.output), *draw_pictures(result, config.output)):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
