"""Parameters in the layouts that others use: read with suspicion, written whole or not at all.

- `unpickle`, `pickled_arrays`: joblib and pickle files, through an allow-list and under a budget;
  `streams`: their bytes, also as zlib makes them.
- `assembly`: the tensors of a file, checked against what the model expects.
- `huggingface`, `released_jax`: the two released layouts, from and to our parameters.
- `configs`: what both say of the architecture.
- `hub`: the table of released models with their pins, and fetching.
- `folders`: from what a user writes to a folder with a model, fetched or packaged; loading it.
- `exports`: a folder with weights, vocabulary, tokenizer files and model card, written.
- `modeling_nucleotide_transformer`: the model as transformers runs it, copied into that folder.
- `adapter_files`: what fine-tuning trained, on disk.
- `runs`: checkpoints of a training run.
"""
