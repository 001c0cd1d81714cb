"""One trainer for every objective: state, step, loop, checkpoints, logs."""
