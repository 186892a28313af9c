"""Pre-training: masks, loss, optimiser, the step, checkpoints and the loop around them."""
