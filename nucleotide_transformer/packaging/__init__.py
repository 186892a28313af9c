"""From a finished run to the folder of a packaged model, with a card made from its records.

- `package`: what `experiments/model/package.py` does.
- `records`: what a run, a table of genomes and an evaluation say.
- `rounding`: what 16-bit numbers cost.
- `card`: the model card.
"""
