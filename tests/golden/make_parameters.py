"""Writes the names and shapes of the parameters of every released model beside this file.

    python tests/golden/make_parameters.py

They are a contract: the released files have these tensors. Run it only if a model is added; a
change to a file that is there breaks the loading of that model.
"""

import json
from pathlib import Path

from nucleotide_transformer.weights.assembly import expected_shapes
from nucleotide_transformer.weights.hub import RELEASED

FOLDER = Path(__file__).parent
SAME_SHAPES = {"500M_1000G": "500M_human_ref", "2B5_1000G": "2B5_multi_species"}
"""Released models whose parameters have the shapes of another's."""


def golden_file(name: str) -> Path:
    """The file with the parameters of a released model."""
    return FOLDER / f"parameters_{SAME_SHAPES.get(name, name)}.json"


def main() -> None:
    """Writes a line for each parameter."""
    for name in RELEASED.keys() - SAME_SHAPES.keys():
        shapes = expected_shapes(RELEASED[name].config)
        lines = [
            f" {json.dumps(f'{module}/{leaf}')}: {json.dumps(shape)}"
            for module, leaves in sorted(shapes.items())
            for leaf, shape in sorted(leaves.items())
        ]
        golden_file(name).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
