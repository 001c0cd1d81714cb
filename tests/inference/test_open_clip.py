"""The form in which open_clip opens a model."""

import json

import jax
import numpy as np
import pytest

from contrastive_jax import inference
from contrastive_jax.data.text import published_tokenizers
from contrastive_jax.inference import open_clip as form
from contrastive_jax.models import pretrained
from tests.inference import tiny_model
from tests.models import small_clip

OVERRIDES = {
  "embed_dim": 24,
  "image": {"width": 32, "depth": 1, "num_heads": 2, "patch_size": 16},
  "text": {"width": 32, "depth": 2, "num_heads": 2},
}


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  params = small_clip.write(
    tmp_path / "drawn.safetensors", OVERRIDES, image_size=32
  )
  described = inference.Description(
    preset="vit_b32",
    overrides=OVERRIDES,
    vocab_size=49_408,
    image_size=32,
    context_length=77,
    pictures=inference.Pictures(stored_size=32, fit="stretch"),
  )
  folder = tmp_path / "model"
  variables = {"params": jax.device_get(params)}
  inference.save(folder, described, variables, published_tokenizers.clip())
  form.save(folder)
  return folder


def test_the_files(folder, tmp_path):
  found = json.loads((folder / "open_clip_config.json").read_text())
  assert found["model_cfg"] == {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {
      "image_size": 32,
      "layers": 1,
      "width": 32,
      "head_width": 16,
      "patch_size": 16,
      "mlp_ratio": 4.0,
    },
    "text_cfg": {
      "context_length": 77,
      "vocab_size": 49_408,
      "width": 32,
      "heads": 2,
      "layers": 2,
      "mlp_ratio": 4.0,
    },
  }
  assert found["preprocess_cfg"]["resize_mode"] == "squash"
  written = pretrained.read_tensors(folder / "open_clip_model.safetensors")
  drawn = pretrained.read_tensors(tmp_path / "drawn.safetensors")
  assert set(written) == set(drawn)
  for name, value in drawn.items():
    np.testing.assert_array_equal(written[name], value)


def test_open_clip_opens_them(folder, tmp_path):
  torch = pytest.importorskip("torch")
  open_clip = pytest.importorskip("open_clip")
  theirs, _, transform = open_clip.create_model_and_transforms(
    f"local-dir:{folder}"
  )
  theirs.eval()
  model = inference.load(folder, devices=jax.devices()[:1])
  (path,) = tiny_model.pictures(tmp_path / "pictures", 1)
  squares = model.preprocess([path])
  image = model._normalized(squares)
  texts = ["a red cup", "the dog"]
  tokens = torch.from_numpy(model.tokenizer.encode(texts, 77).astype(np.int64))
  with torch.no_grad():
    found = (
      theirs.encode_image(
        torch.from_numpy(np.array(image).transpose(0, 3, 1, 2)), normalize=True
      ),
      theirs.encode_text(tokens, normalize=True),
    )
  expected = model.encode_image(squares), model.encode_text(texts)
  for one, other in zip(found, expected):
    np.testing.assert_allclose(one.numpy(), other, atol=1e-5)
  scale = model.description.logit_scale
  assert theirs.logit_scale.exp().item() == pytest.approx(scale, rel=1e-5)
  del transform


@pytest.mark.parametrize(
  "overrides, named",
  [
    ({"image": {"activation": "gelu"}}, "gelu, quick_gelu"),
    ({"image": {"num_registers": 2}}, "vision transformer"),
    ({"text": {"causal": False}}, "causal"),
  ],
)
def test_what_open_clip_has_not(overrides, named):
  described = inference.Description(
    preset="vit_b32", overrides=overrides, vocab_size=49_408, image_size=32
  )
  with pytest.raises(inference.ModelError, match=named):
    form.config(described)


def test_another_vocabulary_is_refused(tmp_path):
  folder = tiny_model.write(tmp_path / "model")
  with pytest.raises(inference.ModelError, match="tokenizer=clip"):
    form.save(folder)


def test_a_bias_and_a_resnet():
  described = inference.Description(
    preset="rn50",
    vocab_size=49_408,
    image_size=224,
    context_length=77,
    sigmoid=True,
    logit_bias=-9.0,
  )
  found = form.config(described)["model_cfg"]
  assert found["init_logit_bias"] == -9.0
  assert found["vision_cfg"]["layers"] == [3, 4, 6, 3]
  assert found["vision_cfg"]["patch_size"] is None
