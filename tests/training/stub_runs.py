"""Runs of the augmented loss with the stub's model."""

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.training.distributed import sharding
from tests.training import tiny
from tests.training.stub import ROWS, Stub
from tests.training.stub import batch as make_batch

DIM = 8  # Dimension of the stub's embeddings.

DATA = tiny.make_data()


def make_config(**changes):
  return tiny.make_config(
    **{"batch_size": ROWS, "loss": "augmented", **changes}
  )


def make(devices=1, **changes):
  """Objective with the stub's model, parameters and state, on a mesh."""
  objective = tiny.make_objective(make_config(**changes), DATA, devices)
  objective.model = Stub()
  state = {"model": {}}
  if objective.augmented_pairs is not None:
    state["auxiliary"] = objective.augmented_pairs.init(jax.random.key(3), DIM)
  mesh = tiny.make_mesh(devices)
  placed = sharding.state_sharding(state, mesh, fsdp=False)
  params = jax.device_put(
    jax.tree.map(jnp.float32, Stub.params), sharding.replicated(mesh)
  )
  return objective, params, jax.device_put(state, placed), mesh


def fit(workdir, devices, *, evaluators=(), **changes):
  """A whole run of the stub: steps, updates, checkpoints."""
  objective, params, state, _ = make(devices, batch_size=8, **changes)
  objective.init = lambda key, batch: jax.device_get((params, state))
  return objective, tiny.fit(
    make_config(batch_size=8, **changes),
    workdir,
    DATA,
    devices=devices,
    objective=objective,
    evaluators=evaluators,
  )[0]


def run(devices=1, steps=1, batches=None, **changes):
  """Losses, gradients, metrics and states of some steps without updates."""
  objective, params, state, mesh = make(devices, **changes)
  fn = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  found = []
  for t in range(steps):
    rows = make_batch() if batches is None else batches[t]
    (loss, (state, metrics)), grads = fn(
      params, state, sharding.put_batch(rows, mesh), jax.random.key(5 + t)
    )
    found.append(jax.device_get((loss, grads, metrics)))
    found[-1] += (state,)
  return found


def features(rows):
  """The stub's embeddings of a batch in float64, without augmentation."""
  objective, params, state, _ = make(loss__e_step="batch")
  return (
    np.float64(objective.encode_image(params, state, rows["image"])),
    np.float64(objective.encode_text(params, state, rows["tokens"][:, 0])),
  )


PLAIN_VIEWS = {
  "augment__random_resized_crop": False,
  "augment__color_jitter": 0.0,
}
