"""What a model is adapted to, how, and how well it does beside its controls."""
