"""From genomes to batches of tokens, and files of sequences, intervals and tracks; no jax."""
