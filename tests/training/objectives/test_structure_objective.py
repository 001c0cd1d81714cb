"""Tests of contrastive_jax.training.objectives.structure_terms, through `Clip`."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import ops
from contrastive_jax.data import pipeline
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import base, views
from contrastive_jax.training.runs import build, open_data, runner
from tests.training import stub, tiny

ROWS = stub.ROWS
SCALE = np.exp(2.0)
GROUPS = np.arange(ROWS) // 2
ALL = {
  "structure__separation": 0.5,
  "structure__bridge": 0.3,
  "structure__bridge__side": "both",
  "structure__consistency": 0.2,
  "structure__alignment": 0.1,
  "structure__cross_uniformity": 0.4,
  "structure__cross_uniformity__within": 0.6,
  "structure__centroid_uniformity": 0.7,
}
WEIGHTS = {
  "brownian_bridge": 0.3,
  "geometric_consistency": 0.2,
  "alignment": 0.1,
  "cross_uniformity": 0.4,
  "centroid_uniformity": 0.7,
}
# Near orthogonal features 1 / (cos^2 + .001) enlarges rounding errors.
WELL_CONDITIONED = {"structure__alignment__epsilon": 0.1}


class Stub(stub.Stub):
  """With second heads."""

  params = stub.Stub.params | {
    "image'": np.random.default_rng(3).normal(size=(16 * 16 * 3, 8)) / 20,
    "text'": np.random.default_rng(4).normal(size=(tiny.VOCABULARY, 8)),
  }

  def apply(self, variables, x, *, method, **options):
    if not method.endswith("_twice"):
      return super().apply(variables, x, method=method, **options)
    params, method = variables["params"], method.removesuffix("_twice")
    second = {side: params[f"{side}'"] for side in ("image", "text")}
    both = tuple(
      super(Stub, self).apply({"params": p}, x, method=method)
      for p in (params, second)
    )
    return (both, {}) if "mutable" in options else both


def make(devices=1, **changes):
  """An objective on the stub, its parameters and state."""
  config = tiny.make_config(batch_size=ROWS, **changes)
  objective = tiny.make_objective(config, stub.data(), devices)
  params = jax.tree.map(jnp.float32, Stub.params)
  objective.model = Stub()
  state = {"model": {}}
  if isinstance(config.other_view, views.Momentum):
    state["momentum"] = {"params": params, "model": {}}
  everywhere = sharding.replicated(tiny.make_mesh(devices))
  return objective, *jax.device_put((params, state), everywhere)


def make_batch(objective):
  return stub.batch(captions=tiny.caption_rows(objective))


@functools.cache
def value_and_grad(devices=1, **changes):
  objective, params, state = make(devices, **changes)
  on_mesh = sharding.put_batch(make_batch(objective), tiny.make_mesh(devices))
  fn = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  (loss, (_, metrics)), grads = fn(params, state, on_mesh, jax.random.key(5))
  return jax.device_get((loss, grads, metrics))


def encode(params, images, tokens):
  """Z and z' of both modalities in float64, from the stub's formula."""

  def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)

  flat = np.float64(images).reshape(len(images), -1)
  return {
    "v": unit(np.tanh(flat @ params["image"])),
    "t": unit(np.mean(params["text"][tokens], axis=1)),
    "v'": unit(np.tanh(flat @ params["image'"])),
    "t'": unit(np.mean(params["text'"][tokens], axis=1)),
  }


def expected_terms(z, a):
  """The means of all terms with unit weights; z and the other view's a."""

  def info_nce(x, y):
    logits = SCALE * x @ y.T
    same = GROUPS[:, None] == GROUPS
    share = same / same.sum(1, keepdims=True)
    return np.mean(
      np.log(np.exp(logits).sum(1)) - np.sum(share * logits, axis=1)
    )

  def potential(x):
    return np.exp(-2 * np.sum((x[:, None] - x) ** 2, axis=2)).sum()

  def bridge(start, end, view, t):
    mean = t * start + (1 - t) * end
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    return np.mean(np.sum((view - mean) ** 2, axis=1))

  def square(x):
    return np.sum(x**2) / ROWS

  def others(x, y):
    apart = np.exp(-2 * np.sum((x[:, None] - y) ** 2, axis=2))
    return apart.sum() - np.diagonal(apart).sum()

  v, t, va, ta = z["v"], z["t"], a["v"], a["t"]
  near = np.mean(np.sum((v - t) ** 2, axis=1))
  c = (v + t) / np.linalg.norm(v + t, axis=1, keepdims=True)
  paired = np.sum(v * t, 1) - np.sum(va * ta, 1)
  return {
    "orthogonality": square(np.sum(v * z["v'"], 1))
    + square(np.sum(t * z["t'"], 1)),
    "independent_contrast": info_nce(z["v'"], a["v'"])
    + info_nce(z["t'"], a["t'"]),
    "uniformity": np.log((potential(z["v'"]) + potential(z["t'"])) / ROWS),
    "brownian_bridge": 0.5 * (bridge(v, t, va, 0.25) + bridge(t, v, ta, 0.25)),
    "geometric_consistency": square(v @ v.T - t @ t.T)
    + square(v @ t.T - t @ v.T)
    + square(v @ v.T - va @ va.T)
    + square(t @ t.T - ta @ ta.T)
    + square(paired),
    "alignment": np.mean(1 / (np.sum(v * t, 1) ** 2 + 1e-3)),
    "cross_uniformity": near
    + 0.3 * sum(np.log(potential(x) / ROWS) for x in (v, t))
    + np.log(others(v, t) / ROWS),
    "centroid_uniformity": near + np.log(others(c, c) / (ROWS * (ROWS - 1))),
  }


def inputs_of(objective, key):
  """Both views of the images, as the objective augments them, and tokens."""
  rows = make_batch(objective)
  views = [
    objective.augmented(jax.random.fold_in(key, purpose), rows["image"])
    for purpose in (base.AUGMENT, base.AUGMENT_AGAIN)
  ]
  return views, rows["tokens"]


def test_all_terms_together_are_those_of_the_formulas():
  loss, _, metrics = value_and_grad(**ALL)
  objective, *_ = make(**ALL)
  (image, other), tokens = inputs_of(objective, jax.random.key(5))
  assert tokens.shape[1] == 2  # A caption and its view.
  terms = expected_terms(
    encode(Stub.params, image, tokens[:, 0]),
    encode(Stub.params, other, tokens[:, 1]),
  )
  for name, value in terms.items():
    np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
  separation = ("orthogonality", "independent_contrast", "uniformity")
  total = 0.5 * sum(terms[k] for k in separation)
  total += sum(weight * terms[name] for name, weight in WEIGHTS.items())
  np.testing.assert_allclose(
    loss, metrics["contrastive_loss"] + total, rtol=2e-5
  )
  plain, *_ = value_and_grad()
  np.testing.assert_allclose(metrics["contrastive_loss"], plain, rtol=1e-6)


def test_the_first_view_may_be_plain():
  changed = {"augment__color_jitter": 1.0, "structure__consistency": 0.2}
  _, _, metrics = value_and_grad(**changed, structure__first_view="plain")
  objective, *_ = make(**changed, structure__first_view="plain")
  (_, other), tokens = inputs_of(objective, jax.random.key(5))
  image = objective._views.plain(make_batch(objective)["image"])
  assert np.abs(np.asarray(other) - np.asarray(image)).max() > 0.1
  first = encode(Stub.params, image, tokens[:, 0])
  terms = expected_terms(first, encode(Stub.params, other, tokens[:, 1]))
  name = "geometric_consistency"
  np.testing.assert_allclose(metrics[name], terms[name], rtol=2e-5)
  # The loss beside the terms is that of images which nothing changes.
  plain, *_ = value_and_grad(structure__first_view="plain")
  np.testing.assert_allclose(metrics["contrastive_loss"], plain, rtol=1e-6)
  assert abs(plain - value_and_grad()[0]) > 1e-3


@pytest.mark.parametrize(
  ("changes", "names"),
  [
    (
      {
        "structure__separation": 1.0,
        "structure__separation__independent_contrast": 0.0,
        "structure__separation__orthogonality": 3.0,
        "structure__separation__uniformity": 0.0,
      },
      {"orthogonality": 3.0},
    ),
    ({"structure__bridge": 2.0}, {"brownian_bridge": 2.0}),
    (
      {
        "structure__consistency": 0.5,
        "structure__consistency__augmented": 0.0,
        "structure__consistency__paired": 0.0,
      },
      {"geometric_consistency": 0.5},
    ),
  ],
)
def test_terms_alone_have_their_weight(changes, names):
  loss, grads, metrics = value_and_grad(**changes)
  plain, plain_grads, _ = value_and_grad()
  extra = {k for k in metrics if k in expected_terms_names()}
  assert extra == set(names)
  total = sum(weight * metrics[name] for name, weight in names.items())
  np.testing.assert_allclose(loss, plain + total, rtol=1e-5)
  assert np.any(grads["image"] != plain_grads["image"])
  assert np.any(grads["image'"] != 0) == ("orthogonality" in names)


def expected_terms_names():
  return {
    "orthogonality",
    "independent_contrast",
    "uniformity",
    "brownian_bridge",
    "geometric_consistency",
    "alignment",
    "cross_uniformity",
    "centroid_uniformity",
  }


@pytest.mark.parametrize(
  "devices",
  [8, *(pytest.param(d, marks=pytest.mark.exhaustive) for d in (2, 4))],
)
def test_on_a_mesh_it_is_the_same(devices):
  settings = ALL | WELL_CONDITIONED | {"structure__bridge__time": (0.1, 0.9)}
  whole = value_and_grad(**settings)
  stub.check_same(whole, value_and_grad(devices, **settings))


def test_microbatches_do_not_change_it():
  settings = ALL | WELL_CONDITIONED
  whole = value_and_grad(2, **settings)
  parts = value_and_grad(2, microbatches=4, **settings)
  stub.check_same(whole, parts)


def test_drawn_times_follow_the_key_and_the_place():
  settings = {"structure__bridge": 1.0, "structure__bridge__time": (0.0, 1.0)}
  objective, params, state = make(**settings)
  features = {
    k: ops.l2_normalize(jax.random.normal(jax.random.key(i), (ROWS, 8)))
    for i, k in enumerate(("image", "text", "image_augmented"))
  }

  def term(key):
    structure = objective._structure
    return float(structure.terms(features, SCALE, None, key)[0])

  first, again, other = (term(jax.random.key(i)) for i in (0, 0, 1))
  assert first == again and first != other
  # A time of its own for each row: the same rows in another order differ.
  turned = {k: x[::-1] for k, x in features.items()}
  structure = objective._structure
  value = float(structure.terms(turned, SCALE, None, jax.random.key(0))[0])
  assert abs(value - first) > 1e-4


def test_separation_does_not_learn_the_temperature():
  alone = {"structure__separation": 1.0}
  grads, plain = value_and_grad(**alone)[1], value_and_grad()[1]
  np.testing.assert_allclose(
    grads["log_logit_scale"], plain["log_logit_scale"], rtol=1e-5
  )


def test_the_loss_itself_takes_no_momentum_features():
  four = {"loss": "clip_four_term", "structure__bridge": 1.0}
  objective, params, state = make(other_view="momentum", **four)
  other = jax.tree.map(lambda x: x * 0.5 + 0.01, params)
  state = {**state, "momentum": {"params": other, "model": {}}}
  rows = make_batch(objective)
  _, (_, metrics) = jax.jit(objective.loss)(
    params, state, rows, jax.random.key(5)
  )
  expected = value_and_grad(**four)[2]
  np.testing.assert_allclose(
    metrics["contrastive_loss"], expected["contrastive_loss"], rtol=1e-6
  )


def test_with_the_augmented_loss_terms_are_added_too():
  augmented = {
    "loss": "augmented",
    "loss__e_step": "batch",
    "loss__group_positives": False,
  }

  def value(**changes):
    objective, params, state = make(**augmented, **changes)
    state["auxiliary"] = objective.augmented_pairs.init(jax.random.key(0), 8)
    rows = make_batch(objective)
    loss, (_, metrics) = jax.jit(objective.loss)(
      params, state, rows, jax.random.key(5)
    )
    return float(loss), metrics

  loss, metrics = value(**ALL)
  plain, _ = value()
  np.testing.assert_allclose(metrics["contrastive_loss"], plain, rtol=1e-6)
  total = 0.5 * sum(
    float(metrics[k])
    for k in ("orthogonality", "independent_contrast", "uniformity")
  )
  total += sum(w * float(metrics[name]) for name, w in WEIGHTS.items())
  np.testing.assert_allclose(loss, plain + total, rtol=1e-5)
  assert "weight_sum" in metrics


def test_momentum_features_are_the_updated_encoder_s_without_gradient():
  settings = ALL | {
    "other_view": "momentum",
    "other_view__momentum": 0.75,
  }
  objective, params, state = make(**settings)
  assert tiny.caption_rows(objective) == 1  # No view of a caption.
  old = jax.tree.map(lambda x: x * 0.5 + 0.01, params)
  state = {**state, "momentum": {"params": old, "model": {}}}
  rows, key = make_batch(objective), jax.random.key(5)
  fn = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  (_, (new_state, metrics)), grads = fn(params, state, rows, key)
  mixed = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, params, old)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    new_state["momentum"]["params"],
    mixed,
  )
  (image, _), tokens = inputs_of(objective, key)
  terms = expected_terms(
    encode(Stub.params, image, tokens[:, 0]),
    encode(jax.tree.map(np.float64, mixed), image, tokens[:, 0]),
  )
  for name, value in terms.items():
    np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
  # The update depends on the parameters, but no gradient goes that way: with
  # the momentum encoder already there, nothing changes.
  objective, *_ = make(**settings | {"other_view__momentum": 1.0})
  state["momentum"] = {"params": mixed, "model": {}}
  fn = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  _, alone = fn(params, state, rows, key)
  stub.assert_gradients_close(grads, alone, 1e-5)


def test_only_the_views_that_terms_take_are_made():
  def sides(**changes):
    return tiny.make_config(**changes).augmented_sides

  assert sides() == ()
  assert sides(structure__alignment=1.0) == ()
  assert sides(structure__bridge=1.0) == ("image",)
  assert sides(structure__bridge=1.0, structure__bridge__side="text") == (
    "text",
  )
  assert sides(structure__separation=1.0) == ("image", "text")
  printed = {"structure__separation__independent_positive": "original"}
  assert sides(structure__separation=1.0, **printed) == ()
  cyclip = {
    "structure__consistency": 0.25,
    "structure__consistency__augmented": 0.0,
    "structure__consistency__paired": 0.0,
  }
  assert sides(**cyclip) == ()
  assert sides(structure__consistency=1.0) == ("image", "text")
  assert sides(structure__bridge=1.0, other_view="momentum") == ()


def test_a_real_model_has_second_heads_only_for_separation():
  def init(**changes):
    objective = tiny.make_objective(tiny.make_config(**changes), stub.data())
    return objective, jax.eval_shape(
      objective.init, jax.random.key(0), stub.batch()
    )

  _, (params, state) = init(structure__bridge=1.0)
  assert "image_independent" not in params and set(state) == {"model"}
  objective, (params, state) = init(
    structure__separation=1.0, other_view="momentum"
  )
  assert {"image_independent", "text_independent"} <= set(params)
  assert set(state["momentum"]["params"]) == set(params)
  grads = jax.eval_shape(
    jax.grad(objective.loss, has_aux=True),
    params,
    state,
    jax.tree.map(jnp.asarray, stub.batch()),
    jax.random.key(0),
  )[0]
  assert jax.tree.structure(grads) == jax.tree.structure(params)


# Captions.


def rows_of(data, **changes):
  config = tiny.make_config(**changes)
  with_edit = tiny.make_batches(config, data)
  try:
    return next(with_edit)["tokens"]
  finally:
    with_edit.close()


def test_the_view_of_a_caption_comes_last_and_changes_no_other(data):
  plain = rows_of(data, objective__captions_per_example=2)
  edited = rows_of(
    data,
    objective__captions_per_example=2,
    structure__consistency=1.0,
    other_view__text__edited_share=0.5,
  )
  assert plain.shape == (8, 2, 12) and edited.shape == (8, 3, 12)
  np.testing.assert_array_equal(edited[:, 0], plain[:, 0])
  assert np.mean(np.any(edited[:, 2] != edited[:, 0], axis=1)) > 0.5


@pytest.mark.parametrize("view", ["eda", "caption"])
@pytest.mark.parametrize("captions, images", [(1, 1), (2, 2)])
def test_a_view_changes_none_of_the_captions(data, view, captions, images):
  settings = {
    "objective__captions_per_example": captions,
    "objective__images_per_concept": images,
  }
  plain = rows_of(data, **settings)
  found = rows_of(
    data, structure__consistency=1.0, other_view__text=view, **settings
  )
  assert found.shape == (8, captions + 1, 12)
  np.testing.assert_array_equal(found[:, :captions], plain)


def test_another_caption_may_be_the_view_in_the_main_language(data):
  found = rows_of(
    data,
    structure__consistency=1.0,
    other_view__text="caption",
    captions__main_language_share=0.0,
    batch_size=24,
  )
  german = data.tokenizer.encode(["Ding"], 12)[0, 1:3]
  assert np.all(found[:, 0, 1:3] == german)
  assert not np.any(np.all(found[:, 1, 1:3] == german, axis=1))


def test_an_edit_is_that_of_the_first_caption(data):
  config = tiny.make_config()
  batches = pipeline.train_batches(
    data.splits["train"],
    tokenizer=data.tokenizer,
    sampler=build.caption_feed(config).sampler(data),
    context_length=12,
    batch_size=4,
    seed=0,
    edit=lambda text, rng: text,
  )
  tokens = next(batches)["tokens"]
  batches.close()
  np.testing.assert_array_equal(tokens[:, 0], tokens[:, 1])


def test_synonyms_come_from_the_data_and_a_file(data, tmp_path):
  path = tmp_path / "synonyms.json"
  path.write_text(json.dumps({"red": ["crimson"]}), encoding="utf-8")
  config = tiny.make_config(
    structure__consistency=1.0, other_view__text__synonyms=str(path)
  )
  synonyms = build.caption_feed(config).edit(data).synonyms
  assert synonyms["red"] == ("crimson",)
  path.write_text(json.dumps({"Green thing 1": ["jade"]}), encoding="utf-8")
  synonyms = build.caption_feed(config).edit(data).synonyms
  assert synonyms["green thing 1"] == ("Ding 1", "green", "jade")
  with pytest.raises(
    config_lib.ConfigError, match="config.other_view.text.synonyms"
  ):
    build.caption_feed(
      tiny.make_config(
        structure__consistency=1.0, other_view__text__synonyms="nowhere"
      )
    ).edit(data)
  assert build.caption_feed(tiny.make_config()).edit(data) is None


# Configurations that do not go together.


BRIDGE = {"structure__bridge": 1.0}


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({**BRIDGE, "structure__bridge__time": (0.5, 0.25)}, ["(0.5, 0.25)"]),
    ({**BRIDGE, "structure__bridge__time": (0.5, 1.25)}, ["1.25"]),
    (
      {
        **BRIDGE,
        "structure__bridge__time": (0.0, 0.5),
        "structure__bridge__weighted": True,
      },
      ["(0, 0.5)"],
    ),
    ({**BRIDGE, "structure__bridge__side": "sound"}, ["side", "'sound'"]),
    ({"structure__bridge": -1.0}, ["weight", "-1.0"]),
  ],
)
def test_wrong_settings_are_refused(changes, named):
  with pytest.raises(config_lib.ConfigError) as caught:
    tiny.make_config(**changes)
  for name in ("config.structure.bridge", *named):
    assert name in str(caught.value)


def test_a_wrong_file_of_synonyms_claims_no_workdir(tmp_path):
  config = tiny.make_config(
    structure__consistency=1.0, other_view__text__synonyms="nowhere.json"
  )
  with pytest.raises(
    config_lib.ConfigError, match="config.other_view.text.synonyms"
  ):
    runner.train(config, tmp_path, report=lambda line: None)
  assert not (tmp_path / "config.json").exists()
  assert not (tmp_path / "data.json").exists()


# A whole run.


def test_a_run_evaluates_both_heads_side_by_side(data, tmp_path, monkeypatch):
  monkeypatch.setattr(open_data, "open_data", lambda *unused: data)
  tiny.use_devices(monkeypatch, 1)
  config = tiny.make_config(
    steps=2,
    structure__separation=0.5,
    other_view="momentum",
    evaluation__classification__concatenated=True,
    evaluation__plots=False,
  )
  results = runner.train(config, tmp_path, report=lambda line: None)
  for kind in ("few_shot", "linear_probe", "knn"):
    plain = {k.split("/")[1] for k in results if k.startswith(f"{kind}/")}
    both = {
      k.split("/")[1] for k in results if k.startswith(f"{kind}_concatenated/")
    }
    assert plain and plain == both
  line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
  assert {"train/orthogonality", "train/uniformity"} <= set(line)
  run, state = runner.restore(tmp_path)
  split, words = data.splits["test"], ["one", "two words"]
  for embed in (
    lambda **head: run.encoder.images(state, split, **head).images,
    lambda **head: run.encoder.texts(state, words, **head),
  ):
    z, second, both = (
      embed(head=head) for head in ("shared", "independent", "both")
    )
    np.testing.assert_array_equal(embed(), z)
    assert np.abs(z - second).max() > 0.1
    joined = np.concatenate([z, second], axis=1) * 0.5**0.5
    np.testing.assert_allclose(both, joined, atol=1e-6)
    with pytest.raises(ValueError, match=r"\bhead\b.*got 'first'"):
      embed(head="first")
