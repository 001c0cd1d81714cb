"""SuperClass in the trainer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.runs import build, runner
from tests.losses import token_class_references
from tests.training import tiny
from tests.training.stub import ROWS, batch, check_same, data, drawn

PLAIN = {"augment__random_resized_crop": False, "augment__color_jitter": 0.0}
CAPTIONS = 2


def make(devices=1, **changes):
  """Objective, parameters and state on a mesh."""
  config = tiny.make_config(
    objective="superclass",
    objective__captions_per_example=CAPTIONS,
    batch_size=ROWS,
    **changes,
  )
  mesh = tiny.make_mesh(devices)
  tokenizer = data().tokenizer
  objective = build.build_objective(
    config,
    vocab_size=tokenizer.vocab_size,
    num_examples=24,
    mesh=mesh,
    special_ids=tokenizer.special_ids,
  )
  example = objective.example_batch()
  assert example["tokens"].shape == (2, CAPTIONS, 12)
  params, state = drawn(
    jax.eval_shape(objective.init, jax.random.key(0), example)
  )
  if "documents" in state:
    state["documents"] = jax.tree.map(jnp.zeros_like, state["documents"])
  everywhere = sharding.replicated(mesh)
  return objective, *jax.device_put((params, state), everywhere), mesh


@functools.cache
def run(devices=1, **changes):
  """Loss, gradients, metrics and state of a step."""
  objective, params, state, mesh = make(devices, **changes)
  rows = sharding.put_batch(batch(captions=CAPTIONS), mesh)
  fn = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  (loss, (state, metrics)), grads = fn(params, state, rows, jax.random.key(5))
  return jax.device_get((loss, grads, metrics, state))


def scores(objective, params, state):
  images = objective._views.plain(batch()["image"])
  return objective.model.apply({"params": params, **state["model"]}, images)


@pytest.mark.parametrize("weighted", [True, False])
def test_the_loss_is_that_of_the_scores(weighted):
  options = {"objective__weighted": weighted, **PLAIN}
  objective, params, state, _ = make(**options)
  loss, grads, metrics, after = run(**options)
  z = scores(objective, params, state)
  tokens = batch(captions=CAPTIONS)["tokens"]
  special = data().tokenizer.special_ids
  assert len(special) == 3 and np.isin(special, tokens).all()
  weights = None
  if weighted:
    documents = np.concatenate([tokens[:, k] for k in range(CAPTIONS)])
    weights = token_class_references.inverse_document_frequency(
      documents, z.shape[1], special
    )
    assert after["documents"]["seen"] == len(documents)
    np.testing.assert_allclose(
      after["documents"]["counts"],
      (len(documents) + 1) / np.exp(weights) - 1,
      atol=1e-4,
    )
  assert ("documents" in after) == weighted
  expected = [
    token_class_references.superclass(
      z, tokens=tokens[:, k], token_weights=weights, ignored_ids=special
    ).per_example.mean()
    for k in range(CAPTIONS)
  ]
  np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
  assert 0 <= metrics["token_accuracy"] <= 1
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
    assert np.any(leaf != 0), jax.tree_util.keystr(path)


def test_there_is_no_text_side():
  objective, params, state, _ = make()
  assert not objective.has_text and "text" not in params
  with pytest.raises(TypeError, match="SuperClass"):
    objective.encode_text(params, state, batch()["tokens"][:, 0])
  features = objective.encode_image(params, state, batch()["image"])
  np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
  "devices", [2, pytest.param(8, marks=pytest.mark.exhaustive)]
)
def test_on_a_mesh_it_gives_the_same(devices):
  check_same(run(1)[:3], run(devices)[:3])
  for a, b in zip(jax.tree.leaves(run(1)[3]), jax.tree.leaves(run(devices)[3])):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_microbatches_do_not_change_the_gradient():
  check_same(run(1)[:3], run(1, microbatches=4)[:3])


@pytest.mark.parametrize("section", ["loss", "structure"])
def test_what_it_does_not_read_is_refused_by_name(section):
  value = {"loss": "clip", "structure": ("bridge",), "initial": "weights"}
  draft = config_lib.default_config()
  draft.objective = "superclass"
  with pytest.raises(config_lib.ConfigError) as caught:
    setattr(draft, section, value[section])
  said = str(caught.value)
  assert f"config.{section}" in said and "superclass" in said


@pytest.mark.exhaustive
def test_a_run_from_its_beginning_to_its_scores(tmp_path):
  folder = tiny.write_folder(tmp_path / "images", 16, labels=True)
  config = tiny.make_config(
    objective="superclass",
    data="folder",
    data__path=str(folder),
    steps=2,
    evaluation=("knn", "classification", "geometry"),
    evaluation__plots=False,
  )
  lines = []
  results = runner.train(config, tmp_path / "run", report=lines.append)
  assert np.isfinite(results["geometry/uniformity_image"])
  assert not [name for name in results if "text" in name]
