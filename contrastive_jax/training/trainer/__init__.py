"""The loop, its state, checkpoints and logs."""
