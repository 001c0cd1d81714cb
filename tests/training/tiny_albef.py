"""A tiny ALBEF: its configuration, batches, parameters off their start."""

import functools

import jax
import numpy as np

from tests.training import tiny

ROWS = 8


OVERRIDES = {
  # As published: patches alone, positions learned.
  "image": {
    "patch_size": 8,
    "width": 16,
    "depth": 1,
    "num_heads": 2,
    "stem_width": 0,
    "position": "learned",
  },
  "width": 16,
  "text_depth": 1,
  "fusion_depth": 1,
  "num_heads": 2,
  "embed_dim": 8,
  "decoder_depth": 1,
}


FIELDS = {
  "objective": "albef",
  "loss": "soft_target",
  "model__preset": "albef_tiny",
  "model__overrides": OVERRIDES,
  "loss__queue_size": 16,
  "objective__momentum": 0.9,
  "objective__alpha_ramp": 0.25,
  "augment__random_resized_crop": False,
  "augment__color_jitter": 0.0,
}


DATA = tiny.make_data()


def make_config(**changes):
  fields = {**FIELDS, "batch_size": ROWS, **changes}
  if fields["loss"] != "soft_target":  # Others have no queue.
    fields.pop("loss__queue_size")
  return tiny.make_config(**fields)


def make_batch(count=ROWS):
  """Real rows; neighbouring ones show one concept."""
  source = DATA.splits["train"]
  rows = [source[i] for i in range(count)]
  tokens = DATA.tokenizer.encode([r["captions"][0].text for r in rows], 12)
  return {
    "image": np.stack([r["image"] for r in rows]),
    "tokens": tokens[:, None],
    "index": np.array([r["index"] for r in rows], np.int32),
    "concept_id": np.array([r["concept_id"] for r in rows], np.int32),
  }


@functools.cache
def moved(**changes):
  """Parameters off their start, and a momentum model apart from them."""
  objective = tiny.make_objective(make_config(**dict(changes)), DATA)
  params, state = objective.init(jax.random.key(0), make_batch())
  leaves, tree = jax.tree.flatten(params)

  def noisy(seed, size):
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
      tree,
      [
        x + (size * jax.random.normal(k, x.shape) if x.ndim else 0.0)
        for x, k in zip(leaves, keys)
      ],
    )

  return noisy(1, 0.2), {**state, "momentum": noisy(2, 0.2)}


def step(objective, params, state, batch, seed=3):
  return jax.jit(jax.value_and_grad(objective.loss, has_aux=True))(
    params, state, batch, jax.random.key(seed)
  )


def start(devices=1, **changes):
  """An objective with the same parameters and state whatever the devices."""
  objective = tiny.make_objective(make_config(**changes), DATA, devices)
  params, state = moved(**changes)
  return objective, params, state


def assert_trees_close(actual, expected, rtol):
  flat, tree = jax.tree_util.tree_flatten_with_path(expected)
  assert jax.tree.structure(actual) == tree
  for (path, b), a in zip(flat, jax.tree.leaves(actual)):
    scale = max(float(np.abs(b).max()), 1e-2)
    np.testing.assert_allclose(
      a, b, rtol=0, atol=rtol * scale, err_msg=jax.tree_util.keystr(path)
    )
