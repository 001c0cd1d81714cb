"""SimCLR and MoCo v3 in the trainer, with a stub and with a real tower."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses, ops
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import example_tables, sharding
from tests.losses import augmented_references as references
from tests.training import tiny
from tests.training.stub import ROWS, assert_gradients_close
from tests.training.stub import batch as make_batch

DATA = tiny.make_data()
OBJECTIVES = ("simclr", "moco_v3")
PLAIN = {"simclr": "nt_xent", "moco_v3": "info_nce"}
NO_AUGMENTATION = {
  "augment__random_resized_crop": False,
  "augment__color_jitter": 0.0,
}
RNG = np.random.default_rng(4)
PARAMS = {
  "tower": RNG.normal(size=(16 * 16 * 3, 8)) / 20,
  "prediction_head": np.eye(8) + 0.3 * RNG.normal(size=(8, 8)),
}


class Stub:
  """A projection and a prediction that are quickly compiled."""

  def apply(self, variables, x, *, method="__call__", **unused):
    params = variables["params"]
    z = jnp.tanh(x.reshape(len(x), -1) @ params["tower"])
    if method == "__call__":
      p = z @ params["prediction_head"]
      out = {
        "projection": ops.l2_normalize(z),
        "prediction": ops.l2_normalize(p),
      }
    else:
      out = ops.l2_normalize(z)
    return (out, {}) if "mutable" in unused else out


def make(objective, devices=1, **changes):
  """Objective with the stub, parameters and state, on a mesh."""
  settings = {
    "objective": objective,
    "batch_size": ROWS,
    "loss": PLAIN[objective],
    "loss__temperature": 1 / 5.0,
    "steps": 10,
    **changes,
  }
  made = tiny.make_objective(tiny.make_config(**settings), DATA, devices)
  made.model = Stub()
  params = jax.tree.map(jnp.float32, PARAMS)
  state = {"model": {}}
  if objective == "moco_v3":
    old = {"tower": 0.9 * params["tower"]}
    state |= {"momentum": {"params": old, "model": {}}, "count": jnp.int32(0)}
  if made.auxiliary is not None:
    state["auxiliary"] = made.auxiliary.init(jax.random.key(3), 8)
  mesh = tiny.make_mesh(devices)
  placed = sharding.state_sharding(state, mesh, fsdp=False)
  params = jax.device_put(params, sharding.replicated(mesh))
  return made, params, jax.device_put(state, placed), mesh


def run(objective, devices=1, steps=1, **changes):
  """(loss, gradients, metrics, state) of each step, without updates."""
  made, params, state, mesh = make(objective, devices, **changes)
  fn = jax.jit(jax.value_and_grad(made.loss, has_aux=True))
  rows = sharding.put_batch(make_batch(), mesh)
  found = []
  for t in range(steps):
    (loss, (state, metrics)), grads = fn(
      params, state, rows, jax.random.key(5 + t)
    )
    found.append((*jax.device_get((loss, grads, metrics)), state))
  return found


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def projected(tower, images):
  made, *_ = make("simclr", **NO_AUGMENTATION)
  pixels = np.float64(made._views.plain(images)).reshape(len(images), -1)
  return np.tanh(pixels @ np.float64(tower))


class TestSimCLR:
  def test_two_images_of_a_concept_are_its_views(self):
    settings = {"objective__images_per_concept": 2, **NO_AUGMENTATION}
    loss, *_ = run("simclr", **settings)[0]
    z = unit(projected(PARAMS["tower"], make_batch()["image"]))
    expected = losses.nt_xent(
      jnp.float32(z[0::2]), jnp.float32(z[1::2]), temperature=0.2
    )
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)

  def test_two_augmentations_of_an_image_are_its_views(self):
    """Without any they are the same, and with some they are not."""
    same = run("simclr", loss__group_positives=False, **NO_AUGMENTATION)[0][0]
    z = unit(projected(PARAMS["tower"], make_batch()["image"]))
    expected = losses.nt_xent(jnp.float32(z), jnp.float32(z), temperature=0.2)
    np.testing.assert_allclose(same, np.mean(expected), rtol=1e-5)
    assert run("simclr", loss__group_positives=False)[0][0] > same + 0.01

  def test_hard_negatives_of_two_views(self):
    hard = {"beta": 0.7, "alpha": 0.9, "tau_plus": 0.01}
    settings = {
      "loss": "hard_negative",
      "objective__images_per_concept": 2,
      **{f"loss__{name}": value for name, value in hard.items()},
      **NO_AUGMENTATION,
    }
    loss, *_ = run("simclr", **settings)[0]
    z = unit(projected(PARAMS["tower"], make_batch()["image"]))
    expected = losses.hard_negative_nt_xent(
      jnp.float32(z[0::2]), jnp.float32(z[1::2]), temperature=0.2, **hard
    )
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)

  def test_the_table_has_an_entry_an_image(self):
    settings = {
      "loss": "augmented",
      "loss__e_step": "moving_average",
      "loss__group_positives": False,
      **NO_AUGMENTATION,
    }
    state = run("simclr", **settings)[0][3]
    z = unit(projected(PARAMS["tower"], make_batch()["image"]))
    both = np.concatenate([z, z])
    ids = np.tile(np.arange(ROWS), 2)
    log_z = references.log_z(
      both,
      both,
      temperature=0.2,
      mask=ids[:, None] != ids[None, :],
      positive=np.ones(2 * ROWS),
    )
    table = np.asarray(state["auxiliary"]["em"].tables["entries"])[:, 0]
    # Both views say the same here, and the cosine of the positives is 1.
    expected = 0.2 * log_z[:ROWS] + 1.0
    np.testing.assert_allclose(table[:ROWS], expected, rtol=1e-4, atol=1e-6)
    assert len(table) == example_tables.UNIT and np.isnan(table[ROWS:]).all()


class TestMoCoV3:
  def test_loss_and_momentum_are_the_published_ones(self):
    settings = {
      "objective__images_per_concept": 2,
      "objective__momentum": 0.8,
      **NO_AUGMENTATION,
    }
    steps = run("moco_v3", steps=3, **settings)
    images = make_batch()["image"]
    old = np.float64(0.9 * PARAMS["tower"])
    for t, (loss, _, metrics, state) in enumerate(steps):
      momentum = 1 - 0.5 * 0.2 * (1 + math.cos(math.pi * t / 10))
      assert metrics["encoder_momentum"] == pytest.approx(momentum, rel=1e-6)
      old = momentum * old + (1 - momentum) * PARAMS["tower"]
      found = state["momentum"]["params"]["tower"]
      np.testing.assert_allclose(found, old, rtol=1e-5, atol=1e-7)
      z = projected(PARAMS["tower"], images)
      q = unit(z @ PARAMS["prediction_head"])
      k = unit(projected(old, images))

      def direction(q, k):
        logits = q @ k.T / 0.2
        log_z = np.log(np.exp(logits).sum(1))
        return 2 * 0.2 * (log_z - np.diag(logits))

      expected = direction(q[0::2], k[1::2]) + direction(q[1::2], k[0::2])
      np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    assert int(steps[-1][3]["count"]) == 3

  def test_the_decoupled_loss_has_the_augmented_one_s_gradient(self):
    """With the batch's own estimate."""
    alone = {"loss__group_positives": False}
    expected = run("moco_v3", loss="decoupled", **alone)[0]
    found = run("moco_v3", loss="augmented", loss__e_step="batch", **alone)[0]
    assert_gradients_close(found[1], expected[1], 1e-5)
    assert found[2]["weight_sum"] == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
  "objective, images",
  [("simclr", 1), pytest.param("moco_v3", 2, marks=pytest.mark.exhaustive)],
)
@pytest.mark.usefixtures("all_passes")
def test_any_number_of_devices_makes_the_same_steps(objective, images):
  settings = {
    "loss": "augmented",
    "loss__concentration": 2.0,
    "objective__images_per_concept": images,
  }
  expected = run(objective, 1, 2, **settings)
  found = run(objective, 4, 2, **settings)
  for (loss, grads, metrics, _), (a, b, c, _) in zip(found, expected):
    np.testing.assert_allclose(loss, a, rtol=1e-5)
    assert_gradients_close(grads, b, 1e-5)
    assert metrics.keys() == c.keys()
  one, four = (
    ops.tables.from_sharded(
      np.asarray(steps[-1][3]["auxiliary"]["em"].tables["entries"]),
      example_tables.UNIT,
      devices,
    )
    for steps, devices in ((expected, 1), (found, 4))
  )
  np.testing.assert_allclose(one, four, rtol=1e-5, atol=2e-6)
  assert np.isfinite(one[:ROWS]).all() and np.isnan(one[ROWS:]).all()


@pytest.mark.exhaustive
def test_a_run_with_the_real_tower(tmp_path):
  """Batch statistics, checkpoints, LARS; two devices."""
  config = tiny.make_config(
    objective="moco_v3",
    loss="augmented",
    optimizer="lars",
    steps=4,
  )
  state, _ = tiny.fit(config, tmp_path, DATA, devices=2)
  made = tiny.make_objective(config, DATA)
  images = DATA.splits["test"].images
  state = jax.device_get(state)
  features = made.encode_image(state.eval_params, state.objective_state, images)
  assert features.shape == (8, 16)  # The tower's, not the head's.
  np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
  moved = jax.tree.leaves(state.objective_state["model"])
  assert moved and all(np.isfinite(x).all() for x in moved)
  assert "prediction_head" in state.params
  assert "prediction_head" not in state.objective_state["momentum"]["params"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_there_is_no_text(objective):
  made, *_ = make(objective)
  assert not made.has_text
  with pytest.raises(TypeError, match="encoder"):
    made.encode_text({}, {}, None)


@pytest.mark.parametrize(
  "changes, named",
  [
    ({"loss": "clip"}, ["config.loss", "nt_xent", "augmented", "'clip'"]),
    (
      {"loss__temperature_mode": "learned"},
      ["config.loss.temperature_mode", "fixed", "'learned'"],
    ),
    (
      {"objective__images_per_concept": 4},
      ["config.objective.images_per_concept", "4"],
    ),
    (
      {"loss": "augmented", "loss__e_step": "amortized"},
      ["config.loss.e_step=amortized", "clip"],
    ),
    (
      {"objective__projector": "64,x"},
      ["config.objective.projector", "'64,x'"],
    ),
    ({"objective__projector": (64, 0)}, ["config.objective.projector", "0"]),
    ({"microbatches": 2}, ["config.microbatches", "objective=clip", "simclr"]),
  ],
)
def test_what_does_not_go_together_is_refused(changes, named):
  with pytest.raises(config_lib.ConfigError) as caught:
    tiny.make_config(objective="simclr", **changes)
  for name in named:
    assert name in str(caught.value)


def test_patches_may_be_frozen():
  """A parameter under that name gets no gradient, and no decay either."""
  made, params, state, mesh = make("moco_v3")
  params = {**params, "tower": {"patch_embedding": params["tower"]}}

  class Patches(Stub):
    def apply(self, variables, x, **kwargs):
      tower = variables["params"]["tower"]["patch_embedding"]
      inner = {**variables["params"], "tower": tower}
      return super().apply({"params": inner}, x, **kwargs)

  made.model = Patches()
  state["momentum"]["params"] = {"tower": params["tower"]}
  rows = sharding.put_batch(make_batch(), mesh)
  grads = jax.jit(
    jax.grad(lambda p: made.loss(p, state, rows, jax.random.key(0))[0])
  )(params)
  assert not np.any(grads["tower"]["patch_embedding"])
  assert np.any(grads["prediction_head"])
