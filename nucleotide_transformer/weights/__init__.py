"""Parameters in the layouts that others use: read with suspicion, written whole or not at all.

- `unpickle`, `pickled_arrays`: joblib and pickle files, through an allow-list and under a budget.
- `assembly`: the tensors of a file, checked against what the model expects.
- `huggingface`, `released_jax`: the two released layouts, from and to our parameters.
- `configs`: what both say of the architecture.
- `cards`: vocabulary, tokenizer files and model card of an export.
- `folders`: from what a user writes to a folder, and its layout; loading it, saving it.
- `hub`: the table of released models with their pins, and fetching. `packaged`: the one that ships.
- `runs`: checkpoints of a training run.
- `compat`: the interface of the published package.
"""
