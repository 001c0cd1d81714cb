"""Writes golden_peers.npz: what the peers compute on fixed inputs.

    pip install contrastive_jax[peers]
    python -m tests.losses.make_golden

Values and gradients, in float64, of open_clip's `ClipLoss` and `SigLipLoss`
and of torch's cross-entropy with soft targets (the peer of `group_ids`). The
inputs, drawn from the seeds below, are stored as well, so that the test does
not rest on a random stream staying as it is.
"""

from __future__ import annotations

import importlib.util
import pathlib
import types

import numpy as np

PATH = pathlib.Path(__file__).with_name("golden_peers.npz")

# name: (seed, N, d, logit_scale, logit_bias)
CASES = {
  "initial": (0, 8, 16, 1 / 0.07, -10.0),
  "soft": (1, 5, 8, 1.0, 0.0),
  "sharp": (2, 8, 16, 100.0, -12.0),
}


def _open_clip_loss() -> types.ModuleType:
  """`open_clip.loss` alone: the package would import torchvision too."""
  package = importlib.util.find_spec("open_clip")
  if package is None or not package.submodule_search_locations:
    raise ModuleNotFoundError("open_clip: pip install contrastive_jax[peers]")
  path = pathlib.Path(package.submodule_search_locations[0]) / "loss.py"
  spec = importlib.util.spec_from_file_location("open_clip_loss", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _inputs(seed: int, n: int, d: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  shared = rng.normal(size=(n, d))
  rows = {name: shared + rng.normal(size=(n, d)) for name in ("image", "text")}
  inputs = {
    name: np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))
    for name, x in rows.items()
  }
  return inputs | {"group_ids": rng.integers(0, n // 2, size=n)}


def main() -> None:
  import torch  # Not at the top: collecting the tests must not need it.
  from torch.nn import functional

  open_clip = _open_clip_loss()

  def soft_target(image, text, logit_scale, group_ids):
    same = (group_ids[:, None] == group_ids[None, :]).to(image.dtype)
    targets = same / same.sum(1, keepdim=True)
    logits = logit_scale * image @ text.T
    return 0.5 * (
      functional.cross_entropy(logits, targets)
      + functional.cross_entropy(logits.T, targets)
    )

  golden = {}
  for case, (seed, n, d, logit_scale, logit_bias) in CASES.items():
    inputs = _inputs(seed, n, d)
    scalars = {
      "logit_scale": np.float32(logit_scale),
      "logit_bias": np.float32(logit_bias),
    }
    group_ids = torch.tensor(inputs["group_ids"])
    for name, value in (inputs | scalars).items():
      golden[f"{case}/{name}"] = value
    losses = {
      "clip": lambda v, t, s, b: open_clip.ClipLoss()(v, t, s),
      "sigmoid": lambda v, t, s, b: open_clip.SigLipLoss()(v, t, s, b),
      "clip_groups": lambda v, t, s, b: soft_target(v, t, s, group_ids),
    }
    for name, loss in losses.items():
      arguments = {
        k: torch.tensor(v, dtype=torch.float64, requires_grad=True)
        for k, v in (inputs | scalars).items()
        if k != "group_ids"
      }
      value = loss(*arguments.values())
      value.backward()
      golden[f"{case}/{name}/value"] = value.detach().numpy()
      for argument, tensor in arguments.items():
        if tensor.grad is not None:
          golden[f"{case}/{name}/{argument}"] = tensor.grad.numpy()
  np.savez_compressed(PATH, **golden)
  print(f"wrote {len(golden)} arrays to {PATH.name}, torch {torch.__version__}")


if __name__ == "__main__":
  main()
