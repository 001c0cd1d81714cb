"""Float64 NumPy reference of the network that predicts log-partitions."""

import numpy as np


def normalized(x, params):
  """Layer normalisation over the last axis."""
  centred = x - x.mean(-1, keepdims=True)
  unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
  return unit * np.float64(params["scale"]) + np.float64(params["bias"])


def dense(x, params):
  return x @ np.float64(params["kernel"]) + np.float64(params["bias"])


def network(params, features):
  """[N, d] -> [N], as many residual blocks as there are parameters."""
  x = np.float64(features)
  for i in range(sum(name.startswith("fc1") for name in params)):
    y = x
    for layer in (1, 2):
      y = np.maximum(dense(y, params[f"fc{layer}_{i}"]), 0.0)
      y = normalized(y, params[f"norm{layer}_{i}"])
    x = np.maximum(x + y, 0.0)
  return dense(x, params["out"])[..., 0]
