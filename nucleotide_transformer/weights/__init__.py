"""Parameters in the layouts that others use: read with suspicion, written whole or not at all.

- `unpickle`, `joblib_file`: joblib and pickle files, through an allow-list.
- `safetensors_file`: safetensors, one tensor at a time.
- `assembly`: the tensors of a file, checked against what the model expects.
- `huggingface`, `released_jax`: the two released layouts, from and to our parameters.
- `cards`: vocabulary, tokenizer files and model card of an export.
- `folders`: which layout a folder holds; loading it, saving it.
- `hub`, `sources`: the released models, and how they are fetched.
- `compat`: the interface of the published package.
"""
