"""Gradients of a small encoder under the distributed loss, from one process.

python -m tests.losses.encoder_gradients HOST:PORT COUNT INDEX OUT.npz
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from contrastive_jax import losses, ops

N, INPUT, WIDTH, D = 32, 12, 24, 16


def make_inputs():
  """Parameters of two towers, and a global batch."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  params = {
    name: {
      "in": 0.3 * normal(INPUT, WIDTH),
      "bias": np.zeros(WIDTH, np.float32),
      "out": 0.3 * normal(WIDTH, D),
    }
    for name in ("image", "text")
  }
  params["log_scale"] = np.float32(np.log(10.0))
  shared = normal(N, INPUT)
  batch = {
    "image": shared + 0.5 * normal(N, INPUT),
    "text": shared + 0.5 * normal(N, INPUT),
  }
  return params, batch


def mean_loss(clip, params, batch):
  """CLIP's loss of the encoded batch; encoders know nothing of devices."""
  features = {
    name: ops.l2_normalize(
      jnp.tanh(x @ params[name]["in"] + params[name]["bias"])
      @ params[name]["out"]
    )
    for name, x in batch.items()
  }
  scale = jnp.exp(params["log_scale"])
  values = clip(features["image"], features["text"], logit_scale=scale)
  return jnp.mean(values)


def gradients(rows, columns):
  """The gradients on a mesh of all processes' devices."""
  mesh = jax.make_mesh(
    (rows, columns),
    ("row", "col"),
    axis_types=(AxisType.Auto,) * 2,
    devices=jax.devices()[: rows * columns],
  )
  params, batch = make_inputs()

  def put(spec, value):
    return jax.make_array_from_callback(
      value.shape, NamedSharding(mesh, spec), lambda place: value[place]
    )

  batch = {k: put(PartitionSpec(("row", "col")), v) for k, v in batch.items()}
  params = jax.tree.map(functools.partial(put, PartitionSpec()), params)
  clip = losses.on_mesh(losses.clip, mesh)
  grad = jax.jit(
    jax.grad(functools.partial(mean_loss, clip)),
    out_shardings=NamedSharding(mesh, PartitionSpec()),
  )
  return jax.tree.map(np.asarray, grad(params, batch))


def main(coordinator, count, index, out):
  """One of the processes; the first writes the gradients."""
  jax.distributed.initialize(coordinator, int(count), int(index))
  devices = jax.device_count()
  rows = 2 if devices >= 4 else 1
  leaves = jax.tree.leaves(gradients(rows, devices // rows))
  if index == "0":
    np.savez(out, *leaves)


if __name__ == "__main__":
  main(*sys.argv[1:])
