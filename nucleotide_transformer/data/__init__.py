"""From genomes to batches of tokens: NumPy only, no jax."""
