"""Tests of contrastive_jax.training.trainer.optimizers and its choices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax import models
from contrastive_jax.training.trainer import muon, optimizer_choices, optimizers
from contrastive_jax.training.trainer.optimizer_choices import Cosine
from tests.training.toy import Toy


def rates(schedule, steps):
  choice = optimizer_choices.AdamW(learning_rate=0.5, schedule=schedule)
  rate = optimizers.learning_rate(choice, steps)
  return np.array([rate(i) for i in range(steps + 1)])


def test_the_rate_rises_linearly_and_falls_as_a_cosine():
  values = rates(Cosine(warmup_share=0.1, final_share=0.2), 100)
  np.testing.assert_allclose(values[:11], np.linspace(0, 0.5, 11), rtol=1e-6)
  share = np.arange(91) / 90
  cosine = 0.1 + 0.4 * 0.5 * (1 + np.cos(np.pi * share))
  np.testing.assert_allclose(values[10:], cosine, rtol=1e-5)


def test_the_rate_stays_at_its_peak_before_it_falls():
  def of(decay):
    return rates(Cosine(0.1, decay, final_share=0.2), 100)

  values = of(0.25)
  np.testing.assert_allclose(values[:11], np.linspace(0, 0.5, 11), rtol=1e-6)
  np.testing.assert_array_equal(values[10:76], np.float32(0.5))
  share = np.arange(26) / 25
  cosine = 0.1 + 0.4 * 0.5 * (1 + np.cos(np.pi * share))
  np.testing.assert_allclose(values[75:], cosine, rtol=1e-5)
  # A fall longer than what the warm-up leaves is that of the whole run.
  np.testing.assert_array_equal(of(0.95), of(1.0))
  np.testing.assert_array_equal(of(0.0)[10:100], np.float32(0.5))


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_constant_rate_stays_at_its_peak_to_the_end(share):
  values = rates(optimizer_choices.Constant(share), 100)
  start = round(100 * share)
  rise = np.linspace(0, 0.5, start + 1)[:-1]
  np.testing.assert_allclose(values[:start], rise, rtol=1e-6)
  np.testing.assert_array_equal(values[start:], np.float32(0.5))


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_rate_of_short_runs_that_fall_late(steps, decay):
  values = rates(Cosine(warmup_share=0.0, decay_share=decay), steps)
  assert values[0] == 0.5 and np.all(np.isfinite(values))
  assert values.min() >= 0


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", [Cosine, optimizer_choices.Constant])
def test_the_rate_of_short_runs_is_sound(steps, share, kind):
  values = rates(kind(warmup_share=share), steps)
  assert np.all(np.isfinite(values)) and np.all(values >= 0)
  assert values.max() <= 0.5
  if round(share * steps) == 0:
    assert values[0] == 0.5


@pytest.mark.parametrize(
  "preset, changes",
  [
    *((preset, {}) for preset in sorted(models.PRESETS)),
    # Parts that no preset has.
    ("vit_b16", {"image": {"pool": "map", "num_registers": 3}}),
  ],
  ids=str,
)
def test_only_kernels_and_embeddings_are_decayed(preset, changes):
  model = models.create_model(
    preset, vocab_size=99, context_length=6, text={"depth": 1}, **changes
  )
  side = models.PRESETS[preset].image_size
  params = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, 6), jnp.int32),
  )["params"]
  named = {
    jax.tree_util.keystr(path, simple=True, separator="/"): value
    for path, value in jax.tree_util.tree_leaves_with_path(
      optimizers.decayed(params)
    )
  }
  yes = {name.split("/")[-1] for name, value in named.items() if value}
  no = {name.split("/")[-1] for name, value in named.items() if not value}
  assert {"kernel", "embedding"} <= yes
  assert yes <= {"kernel", "kernel_0", "kernel_1", "embedding"}
  known = {
    "bias",
    "class_token",
    "log_logit_scale",
    "logit_bias",
    "position_embedding",
    "positions",
    "probe",
    "registers",
    "scale",
    "segment",
  }
  assert {"bias", "scale", "log_logit_scale", "logit_bias"} <= no <= known


def test_matrices_are_the_kernels_with_their_inputs_and_outputs():
  model = models.create_model(
    "vit_b16",
    vocab_size=9,
    context_length=4,
    image={"pool": "map", "depth": 1},
    text={"depth": 1},
  )
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, 4), jnp.int32),
  )["params"]
  rules = muon.matrices(shapes)
  image = rules["image"]
  whole = optax.contrib.MuonDimensionNumbers
  pool = image["map_pool"]["attention"]
  # [width, heads, d] and [heads, d, width].
  for name in ("query", "key", "value"):
    assert pool[name] == {"kernel": whole((0,), (1, 2)), "bias": None}
  assert pool["out"]["kernel"] == whole((0, 1), (2,))
  # [patch, patch, colours, width]
  assert image["patch_embedding"]["kernel"] == whole((0, 1, 2), (3,))
  assert rules["text"]["token_embedding"]["embedding"] is None
  assert rules["log_logit_scale"] is None
  is_rule = lambda x: x is None or isinstance(x, whole)  # noqa: E731
  flat = jax.tree_util.tree_leaves_with_path(rules, is_leaf=is_rule)
  assert len(flat) == len(jax.tree.leaves(shapes))
  for path, rule in flat:
    name = jax.tree_util.keystr(path[-1:], simple=True)
    assert (rule is not None) == (name == "kernel"), path
  depthwise = {"depthwise": {"kernel_0": jnp.ones((5, 1, 8))}}
  assert muon.matrices(depthwise)["depthwise"]["kernel_0"] is None


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adam():
  """Against a NumPy version; a second step has its momentum."""
  choice = optimizer_choices.Muon(
    learning_rate=0.1,
    schedule=optimizer_choices.Constant(warmup_share=0.0),
    weight_decay=0.3,
    beta1=0.9,
    clip_norm=0.0,
  )
  rng = np.random.default_rng(0)
  kernel, embedding = rng.normal(size=(4, 6)), rng.normal(size=(5, 3))
  params = {
    "dense": {"kernel": jnp.asarray(kernel, jnp.float32)},
    "table": {"embedding": jnp.asarray(embedding, jnp.float32)},
  }
  gradients = rng.normal(size=(2, 4, 6))
  optimizer = optimizers.make_optimizer(choice, steps=8, objective=Toy())
  state = optimizer.init(params)
  for g in gradients:
    grads = {
      "dense": {"kernel": jnp.asarray(g, jnp.float32)},
      "table": {"embedding": jnp.full((5, 3), -2.0)},
    }
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)

  moment = np.zeros((4, 6))
  for i, g in enumerate(gradients, start=1):
    moment = 0.9 * moment + 0.1 * g
    # Nesterov's, both corrected for their beginning at 0.
    ahead = 0.9 * moment / (1 - 0.9 ** (i + 1)) + 0.1 * g / (1 - 0.9**i)
    x = ahead / np.linalg.norm(ahead)
    for _ in range(5):
      square = x @ x.T
      x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    # Nearly all singular values are near 1, and the largest side makes the size.
    assert np.all(np.abs(np.linalg.svd(x)[1] - 1) < 0.5)
    kernel -= 0.1 * (0.2 * np.sqrt(6) * x + 0.3 * kernel)
  np.testing.assert_allclose(params["dense"]["kernel"], kernel, atol=1e-4)
  # With a constant gradient Adam makes steps of the rate, but here it has Nesterov's
  # moment too, whose corrections do not cancel. Nothing decays.
  steps = [
    0.9 * (1 - 0.9**i) / (1 - 0.9 ** (i + 1)) + 0.1 / (1 - 0.9**i)
    for i in (1, 2)
  ]
  np.testing.assert_allclose(
    params["table"]["embedding"], embedding + 0.1 * sum(steps), atol=1e-5
  )


def test_gradients_are_clipped_by_their_global_norm():
  choice = optimizer_choices.AdamW(clip_norm=0.5, weight_decay=0.0)
  optimizer = optimizers.make_optimizer(choice, steps=8, objective=Toy())
  grads = {"a": jnp.full(4, 3.0), "b": jnp.full(4, 4.0)}
  state = optimizer.init(grads)
  _, state = optimizer.update(grads, state, grads)
  (moment,) = [
    s.mu
    for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu"))
    if hasattr(s, "mu")
  ]
  # 10 is the norm of the gradients.
  expected = 0.1 * 3.0 * 0.5 / 10.0
  np.testing.assert_allclose(moment["a"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(optimizer_choices.OPTIMIZERS.variants))
def test_the_objective_says_what_decays_and_what_is_trained(name):
  class Choosy(Toy):
    def decays(self, path):
      return path[0].key != "kept"

    def adapt(self, optimizer):
      return optax.chain(optimizer, optax.scale(0.5))

  choice = optimizer_choices.OPTIMIZERS.find(name)(
    schedule=optimizer_choices.Constant(warmup_share=0.0)
  )
  params = {
    "kept": {"kernel": jnp.ones((2, 2))},
    "out": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
  }
  zeros = jax.tree.map(jnp.zeros_like, params)

  def updates(objective):
    optimizer = optimizers.make_optimizer(choice, steps=8, objective=objective)
    return optimizer.update(zeros, optimizer.init(params), params)[0]

  plain, own = updates(Toy()), updates(Choosy())
  assert np.all(plain["kept"]["kernel"] != 0) and not np.any(
    plain["out"]["bias"]
  )
  assert not np.any(own["kept"]["kernel"])
  np.testing.assert_array_equal(
    own["out"]["kernel"], 0.5 * plain["out"]["kernel"]
  )
