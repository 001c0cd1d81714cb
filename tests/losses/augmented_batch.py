"""A batch of the augmented losses: its sizes, groups and temperatures."""

import numpy as np

N, D = 12, 16
IDS = np.array([7, -1, 7, 3, 0, -1, 7, 2**31 - 1, 3, 5, -(2**31), 0])
TAU = 0.1
EACH = np.float32(np.random.default_rng(5).uniform(0.07, 0.3, N))
