"""Folders of open_clip and transformers: written, opened, and as these open them."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contrastive_jax
from contrastive_jax import inference
from contrastive_jax.data.text import published_tokenizers
from contrastive_jax.inference import open_clip, published, transformers
from contrastive_jax.models import pretrained
from contrastive_jax.models.pretrained import transformers_names
from tests.inference import tiny_model

TOWERS = {
  "image": {"width": 32, "depth": 1, "num_heads": 2, "patch_size": 16},
  "text": {"width": 32, "depth": 2, "num_heads": 2},
}
TEXTS = ["a red cup", "The  dog's COLOUR, é!", "猫 " * 90, ""]


def _described(preset, tokenizer, /, **changes):
  return inference.Description(
    **{
      "preset": preset,
      "overrides": {"embed_dim": 32, **TOWERS},
      "vocab_size": tokenizer.vocab_size,
      "image_size": 32,
      "context_length": 77 if preset.startswith("vit") else 64,
      "pictures": inference.Pictures(stored_size=32, fit="stretch"),
      "sigmoid": not preset.startswith("vit"),
      **changes,
    }
  )


def _written(folder, described, tokenizer):
  """A model with drawn weights, none of them 0 or 1."""
  shapes = described.shapes()
  leaves, tree = jax.tree.flatten(shapes)
  rng = np.random.default_rng(0)
  drawn = [
    rng.normal(0, 0.1, x.shape).astype(x.dtype) + np.float32(0.02)
    for x in leaves
  ]
  variables = jax.tree.unflatten(tree, drawn)
  params = variables["params"]
  params["log_logit_scale"] = np.float32(2.0)
  bias = -3.0 if described.sigmoid else 0.0
  params["logit_bias"] = np.float32(bias)
  inference.save(folder, described, variables, tokenizer)
  return folder


@pytest.fixture(name="clip", scope="module")
def fixture_clip(tmp_path_factory):
  tokenizer = published_tokenizers.clip()
  folder = tmp_path_factory.mktemp("clip") / "model"
  _written(folder, _described("vit_b32", tokenizer), tokenizer)
  open_clip.save(folder)
  transformers.save(folder)
  return folder


@pytest.fixture(name="siglip", scope="module")
def fixture_siglip(tmp_path_factory):
  pytest.importorskip("sentencepiece")
  from tests.data import test_sentencepiece_files as files

  tokenizer = published_tokenizers.sentencepiece(files.model("siglip"))
  folder = tmp_path_factory.mktemp("siglip") / "model"
  _written(folder, _described("siglip_b16", tokenizer), tokenizer)
  transformers.save(folder)
  return folder


def _same(one, other, pictures):
  """Whether two models embed and compare alike."""
  images = one.encode_image(pictures), other.encode_image(pictures)
  texts = one.encode_text(TEXTS), other.encode_text(TEXTS)
  np.testing.assert_allclose(*images, atol=2e-6)
  np.testing.assert_allclose(*texts, atol=2e-6)
  np.testing.assert_allclose(
    one.probabilities(images[0], texts[0]),
    other.probabilities(images[1], texts[1]),
    atol=1e-5,
  )


def _load(path):
  return contrastive_jax.load(path, devices=jax.devices()[:1])


@pytest.mark.parametrize("form", ["transformers", "open_clip", "file"])
def test_what_was_written_for_others_is_opened(clip, form, tmp_path):
  pictures = tiny_model.pictures(tmp_path / "pictures", 3)
  place = clip / "transformers"
  if form == "open_clip":
    place = tmp_path / "alone"
    place.mkdir()
    for path in clip.glob("open_clip_*"):
      shutil.copy(path, place)
  if form == "file":
    place = place / "model.safetensors"
  model = _load(place)
  _same(_load(clip), model, pictures)
  assert model.description.pictures.fit == "stretch"


def test_siglip_is_opened(siglip, tmp_path):
  pictures = tiny_model.pictures(tmp_path / "pictures", 3)
  model = _load(siglip / "transformers")
  _same(_load(siglip), model, pictures)
  assert model.description.sigmoid
  assert model.description.logit_bias == pytest.approx(-3.0)


def test_names_go_there_and_back(siglip, clip):
  for folder in (siglip, clip):
    theirs = pretrained.read_tensors(folder / "transformers")
    ours = transformers_names.to_published(theirs)
    back = transformers_names.from_published(ours)
    assert set(back) == set(theirs)
    for name, value in theirs.items():
      np.testing.assert_array_equal(back[name], value)
      assert back[name].shape == value.shape


@pytest.mark.parametrize("which", ["clip", "siglip"])
def test_transformers_opens_them(which, request, tmp_path):
  torch = pytest.importorskip("torch")
  library = pytest.importorskip("transformers")
  folder = request.getfixturevalue(which)
  theirs = library.AutoModel.from_pretrained(folder / "transformers").eval()
  model = _load(folder)
  squares = model.preprocess(tiny_model.pictures(tmp_path / "pictures", 3))
  pixels = np.array(model._normalized(jnp.asarray(squares)))
  tokenizer = library.AutoTokenizer.from_pretrained(folder / "transformers")
  length = model.description.context_length
  encoded = tokenizer(
    TEXTS,
    padding="max_length",
    truncation=True,
    max_length=length,
    return_tensors="pt",
  )
  ours = model.tokenizer.encode(TEXTS, length)
  for row, mine in zip(encoded["input_ids"].numpy(), ours):
    end = int(np.argmax(mine == model.tokenizer.end_id)) + 1
    np.testing.assert_array_equal(row[:end], mine[:end])
  with torch.no_grad():
    found = theirs(
      pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2)),
      input_ids=encoded["input_ids"],
    )
  images, texts = model.encode_image(squares), model.encode_text(TEXTS)
  np.testing.assert_allclose(found.image_embeds.numpy(), images, atol=1e-5)
  np.testing.assert_allclose(found.text_embeds.numpy(), texts, atol=1e-5)
  np.testing.assert_allclose(
    found.logits_per_image.numpy(), model.similarity(images, texts), atol=1e-3
  )
  processor = library.AutoImageProcessor.from_pretrained(
    folder / "transformers"
  )
  pixels = processor(list(squares), return_tensors="np")["pixel_values"]
  np.testing.assert_allclose(
    pixels.transpose(0, 2, 3, 1),
    np.array(model._normalized(jnp.asarray(squares))),
    atol=0.02,
  )


@pytest.mark.parametrize(
  "changes, named",
  [
    ({"preset": "tiny", "overrides": {}}, "vision transformer"),
    ({"sigmoid": True}, "open_clip"),
    ({"preset": "rn50", "overrides": {}}, "ModifiedResNet"),
  ],
)
def test_what_transformers_has_not(changes, named):
  tokenizer = published_tokenizers.clip()
  described = _described("vit_b32", tokenizer, **changes)
  with pytest.raises(inference.ModelError, match=named):
    transformers.config(described, tokenizer)


def test_another_vocabulary_is_refused():
  described = _described("vit_b32", published_tokenizers.clip())
  with pytest.raises(inference.ModelError, match="tokenizer=clip"):
    transformers.config(described, None)


@pytest.mark.parametrize(
  "name, content, named",
  [
    ("config.json", {"model_type": "bert"}, "'bert'"),
    ("config.json", {"model_type": "clip"}, "misshapen|shape"),
    ("open_clip_config.json", {}, "model_cfg"),
    (
      "open_clip_config.json",
      {
        "model_cfg": {
          "embed_dim": 4,
          "vision_cfg": {"image_size": 32, "timm_model_name": "convnext"},
          "text_cfg": {},
        }
      },
      "convnext",
    ),
  ],
)
def test_other_models_are_refused(clip, tmp_path, name, content, named):
  shutil.copy(clip / "transformers" / "model.safetensors", tmp_path)
  (tmp_path / name).write_text(json.dumps(content))
  assert published.is_published(tmp_path)
  with pytest.raises(inference.ModelError, match=named):
    _load(tmp_path)
