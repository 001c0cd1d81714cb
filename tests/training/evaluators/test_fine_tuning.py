"""Fine-tuning: its steps by hand, what it chooses, how often it compiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.training.evaluators import fine_tuning

_SHAPE = (2, 2, 3)


def encode(params, fixed, images):
  x = images.reshape(len(images), -1) / 255.0 - fixed["mean"]
  z = jnp.tanh(x @ params["image"]["first"]) @ params["image"]["second"]
  return z / jnp.linalg.norm(z, axis=1, keepdims=True)


@pytest.fixture(name="params", scope="module")
def fixture_params():
  rng = np.random.default_rng(0)
  sizes = {"first": (12, 8), "second": (8, 4)}
  image = {k: rng.normal(size=s).astype(np.float32) for k, s in sizes.items()}
  text = rng.normal(size=(5, 4)).astype(np.float32)
  return jax.tree.map(jnp.asarray, {"image": image, "text": text})


FIXED = {"mean": np.float32(0.4), "queue": np.zeros(3, np.float32)}


@pytest.fixture(name="tuner", scope="module")
def fixture_tuner(params):
  return make(params)


def make(params, **options):
  options = {"image_shape": _SHAPE, "classes": 3, "batch_size": 8} | options
  return fine_tuning.FineTuner(encode, params, FIXED, **options)


def draw(seed, rows):
  """Images whose class is the channel that is brightest."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 3, rows)
  images = rng.integers(0, 120, (rows, *_SHAPE))
  images[np.arange(rows), :, :, labels] += 100
  return images.astype(np.uint8), labels


def by_hand(params, head, images, labels, several, *, rate, decay, epochs):
  """The same SGD on whole batches, from its formulas."""

  def loss(tuned):
    z = encode(tuned, FIXED, images)
    logits = 2.0 * z @ tuned["kernel"].T + tuned["bias"]
    if not several:
      chosen = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
      return -jnp.mean(chosen)
    p = jax.nn.sigmoid(logits)
    terms = jnp.where(labels == 1, -jnp.log(p), -jnp.log(1 - p))
    return jnp.sum(terms * (labels != -1)) / labels.size

  tuned = {"image": params["image"], "kernel": head, "bias": jnp.zeros(3)}
  velocity = jax.tree.map(jnp.zeros_like, tuned)
  for t in range(epochs):
    grads = jax.grad(loss)(tuned)
    now = rate * 0.5 * (1 + np.cos(np.pi * t / epochs))
    velocity = jax.tree.map(
      lambda v, g, p: 0.9 * v + g + decay * p, velocity, grads, tuned
    )
    tuned = jax.tree.map(lambda p, v: p - now * v, tuned, velocity)
  return tuned


@pytest.mark.parametrize("several", [False, True])
def test_steps_by_hand(tuner, params, several):
  images, labels = draw(1, 6)  # The batch has 8 rows: the rest is padding.
  if several:
    labels = np.random.default_rng(2).choice([1, 0, -1], size=(6, 3))
  head = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
  found = tuner.fit(
    images.__getitem__,
    labels.astype(np.int32),
    np.arange(6),
    key=jax.random.key(0),
    head=head,
    learning_rate=0.1,
    weight_decay=0.02,
    epochs=4,
  )
  expected = by_hand(
    params, head, images, labels, several, rate=0.1, decay=0.02, epochs=4
  )
  leaves = [*jax.tree.leaves(expected["image"])]
  for a, b in zip(found["encoder"], leaves, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6)
  for name in ("kernel", "bias"):
    np.testing.assert_allclose(found[name], expected[name], atol=2e-6)
  assert not np.allclose(found["encoder"][0], params["image"]["first"])


def test_a_head_of_texts_begins_as_the_zero_shot_classifier(tuner, params):
  images, _ = draw(4, 11)
  head = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
  tuned = tuner.fit(
    images.__getitem__,
    np.zeros(11, np.int32),
    np.arange(11),
    key=jax.random.key(0),
    head=head,
    learning_rate=0.1,
    weight_decay=0.0,
    epochs=0,
  )
  rows = np.array([10, 3, 0, 4, 5, 6, 7, 8, 9])
  found = tuner.scores(tuned, images.__getitem__, rows)
  z = encode(params, FIXED, images[rows])
  np.testing.assert_allclose(found, 2.0 * z @ head.T, atol=1e-5)


def test_epochs_see_every_image_once_in_an_order_of_the_key(tuner):
  images, labels = draw(6, 20)
  rows = np.arange(1, 20)

  def fit(key):
    seen = []

    def read(part):
      seen.append(part)
      return images[part]

    tuned = tuner.fit(
      read,
      labels.astype(np.int32),
      rows,
      key=jax.random.key(key),
      learning_rate=0.1,
      weight_decay=0.0,
      epochs=2,
    )
    return np.concatenate(seen), np.asarray(tuned["kernel"])

  order, kernel = fit(0)
  for epoch in (order[:19], order[19:]):
    np.testing.assert_array_equal(np.sort(epoch), rows)
  assert not np.array_equal(order[:19], order[19:])
  again, same = fit(0)
  np.testing.assert_array_equal(order, again)
  np.testing.assert_array_equal(kernel, same)
  assert not np.array_equal(fit(1)[0], order)


def tune(tuner, recipe, **changes):
  images, labels = draw(7, 40)
  test_images, test_labels = draw(8, 30)
  arguments = {
    "labels": labels,
    "fit": np.arange(30),
    "choose": np.arange(30, 40),
    "test_labels": test_labels,
    "key": jax.random.key(0),
  } | changes
  return fine_tuning.fine_tune(
    tuner,
    images.__getitem__,
    test_images=test_images.__getitem__,
    recipe=recipe,
    **arguments,
  )


def test_it_learns_and_chooses_on_held_out_images(params):
  tuner = make(params)
  recipe = fine_tuning.FineTuneRecipe(
    learning_rates=(1e-6, 0.1, 1e20),
    weight_decays=(1e-3, 0.0),
    search_epochs=5,
    epochs=15,
  )
  found = tune(tuner, recipe)
  assert found["accuracy"] > 0.9 and found["validation"] > 0.6
  assert (found["learning_rate"], found["weight_decay"]) == (0.1, 1e-3)
  # Several classes an image, with the same candidates.
  several = {
    name: (np.arange(3) == draw(seed, n)[1][:, None]).astype(int)
    for name, seed, n in (("labels", 7, 40), ("test_labels", 8, 30))
  }
  found = tune(tuner, recipe, **several)
  assert found["mean_average_precision"] > 0.9
  # All sizes and rates share a program a kind of labels, and one of scores.
  small = {"fit": np.arange(4), "choose": np.arange(4)}
  tune(tuner, recipe._replace(learning_rates=(0.01,)), **small)
  assert tuner._step._cache_size() == 2 and tuner._logits._cache_size() == 1


def test_a_fit_that_diverged_is_wrong(tuner):
  recipe = fine_tuning.FineTuneRecipe((1e30,), (1.0,), 1, 3)
  found = tune(tuner, recipe)
  assert found["accuracy"] == 0.0 and found["validation"] == 0.0


def test_trials_fit_no_more_than_they_may(tuner, monkeypatch):
  sizes = []
  fit = tuner.fit

  def counted(images, labels, rows, **options):
    sizes.append((len(rows), options["epochs"]))
    return fit(images, labels, rows, **options)

  monkeypatch.setattr(tuner, "fit", counted)
  recipe = fine_tuning.FineTuneRecipe((0.1,), (0.0,), 1, 2, search_examples=9)
  tune(tuner, recipe)
  assert sizes == [(9, 1), (40, 2)]


def test_devices_share_a_batch(tuner, params):
  mesh = jax.make_mesh(
    (2, 2), ("row", "col"), (jax.sharding.AxisType.Auto,) * 2
  )
  images, labels = draw(9, 13)
  arguments = {
    "key": jax.random.key(1),
    "learning_rate": 0.1,
    "weight_decay": 0.01,
    "epochs": 2,
  }
  scores = []
  split = make(params, mesh=mesh)
  for one in (tuner, split):
    tuned = one.fit(
      images.__getitem__, labels.astype(np.int32), np.arange(13), **arguments
    )
    scores.append(one.scores(tuned, images.__getitem__, np.arange(13)))
  np.testing.assert_allclose(*scores, atol=1e-5)
  assert len(tuned["kernel"].sharding.device_set) == 4
  assert split._step._cache_size() == 1
  with pytest.raises(ValueError, match=r"\bbatch_size\b.* 4 .*and 6"):
    make(params, mesh=mesh, batch_size=6)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"labels": np.full(40, 3)}, r"\blabels\b.*\b0 to 2\b.*got 3 to 3"),
    (
      {"labels": np.zeros(40)},
      r"\blabels\b.*\[N\].*\[N, C\].*got float64\[40\]",
    ),
    (
      {"test_labels": np.ones((30, 2), int)},
      r"\btest_labels\b.*3 classes.*got int64\[30, 2\]",
    ),
    (
      {"head": np.zeros((2, 4))},
      r"\bhead\b.*\[C, d\].*\[3, 4\].*got \[2, 4\]",
    ),
    ({"fit": np.arange(0)}, r"\brows\b.*got none"),
  ],
)
def test_bad_input_is_refused(tuner, change, message):
  with pytest.raises(ValueError, match=message):
    tune(tuner, fine_tuning.FineTuneRecipe((0.1,), (0.0,), 1, 1), **change)


def test_nothing_to_train_is_refused(params):
  with pytest.raises(ValueError, match=r"\brecipe\b.*got \(\)"):
    tune(make(params), fine_tuning.FineTuneRecipe(()))
  with pytest.raises(ValueError, match=r"\bparams\b.*got 1 leaves"):
    fine_tuning.FineTuner(
      lambda params, fixed, images: jnp.ones((len(images), 4)),
      {"text": params["text"]},
      {},
      image_shape=_SHAPE,
      classes=3,
    )
