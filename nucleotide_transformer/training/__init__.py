"""The step, state, optimisers, devices, checkpoints and the loop around them, for any objective."""
