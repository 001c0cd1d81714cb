"""Published weights: the outputs of the libraries that they come from."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from contrastive_jax.models import pretrained
from tests.models import make_golden_pretrained as golden
from tests.models.jitted import jit

_SMALL_VIT = dict(
  image_size=golden.IMAGE, patch_size=8, width=golden.WIDTH, depth=2
)
_SMALL_TEXT = dict(
  vocab_size=golden.VOCABULARY,
  context_length=golden.CONTEXT,
  width=golden.WIDTH,
  depth=2,
  num_heads=2,
)


def clip_model(image, activation):
  return models.TwoTower(
    image,
    models.TextTransformer(activation=activation, **_SMALL_TEXT),
    embed_dim=golden.EMBED,
    image_head="linear" if isinstance(image, models.ViT) else "none",
  )


def clip_vit(activation):
  return clip_model(
    models.ViT(
      num_heads=2,
      patch_bias=False,
      embedding_norm=True,
      layer_norm_eps=1e-5,
      activation=activation,
      **_SMALL_VIT,
    ),
    activation,
  )


def small_models():
  siglip = models.TwoTower(
    models.ViT(num_heads=2, pool="map", **_SMALL_VIT),
    models.TextTransformer(
      causal=False,
      pool="last",
      pad_id=1,
      attend_padding=True,
      activation="gelu_tanh",
      layer_norm_eps=1e-6,
      **_SMALL_TEXT,
    ),
    embed_dim=golden.WIDTH,
    image_head="none",
    text_head="affine",
  )
  resnet = models.ModifiedResNet(
    image_size=golden.IMAGE,
    features=golden.EMBED,
    stage_sizes=(1, 2, 1, 1),
    width=16,
    num_heads=32,
  )
  return {
    "clip_vit_quick_gelu": clip_vit("quick_gelu"),
    "clip_vit": clip_vit("gelu"),
    "clip_resnet": clip_model(resnet, "quick_gelu"),
    "siglip": siglip,
    "deit": models.ViT(num_heads=2, **_SMALL_VIT),
    "resnet": models.ResNet(stage_sizes=(1, 2, 1, 1)),
    "bert": models.BertEncoder(**_SMALL_TEXT),
  }


@functools.cache
def stored():
  with np.load(golden.PATH, allow_pickle=False) as archive:
    return dict(archive)


def tensors(name):
  shapes = json.loads(str(stored()[f"{name}/shapes"]))
  return golden.weights(shapes)


def arguments(model, image, context, vocabulary):
  """Arguments of a call of the model."""
  images, tokens = golden.inputs(image, context, vocabulary)
  images = jnp.asarray(images.transpose(0, 2, 3, 1))
  tokens = jnp.asarray(tokens, jnp.int32)
  if isinstance(model, models.TwoTower):
    return images, tokens
  return (tokens,) if isinstance(model, models.BertEncoder) else (images,)


def shapes_of(model, args):
  return jax.eval_shape(model.init, jax.random.key(0), *args)


@pytest.fixture(name="weight_file")
def fixture_weight_file(tmp_path):
  def write(name):
    path = tmp_path / f"{name}.safetensors"
    pretrained.write_safetensors(path, tensors(name))
    return path

  return write


def states_of(tree, tower=""):
  """Outputs of blocks, by the golden file's names."""
  out = {}
  for name, value in tree.items():
    if "__call__" in value:
      # BERT's blocks are layers; those of one encoder have no tower's name.
      place = name.replace("layer_", "block_")
      kind = tower or ("text" if name.startswith("layer_") else "image")
      out[f"{kind}_{place}"] = value["__call__"][0]
    else:
      inner = name if name in ("image", "text") else tower
      out |= states_of(value, inner)
  return out


@pytest.mark.parametrize("name", sorted(small_models()))
def test_layers_equal_those_of_the_library(name, weight_file):
  model = small_models()[name]
  args = arguments(model, golden.IMAGE, golden.CONTEXT, golden.VOCABULARY)
  variables, report = pretrained.load(
    model, weight_file(name), shapes_of(model, args)
  )
  assert not (report.missing or report.misshapen or report.resized)
  out, seen = jit(
    functools.partial(
      model.apply,
      capture_intermediates=lambda m, _: (m.name or "").startswith(
        ("block_", "stage_", "layer_")
      ),
      mutable=["intermediates"],
    )
  )(variables, *args)
  states = states_of(seen["intermediates"])
  found = {
    key.removeprefix(f"{name}/"): value
    for key, value in stored().items()
    if key.startswith(f"{name}/") and not key.endswith("/shapes")
  }
  if isinstance(model, models.TwoTower):
    states |= {side: out[side] for side in ("image", "text")}
  assert set(states) == set(found) and len(found) > 1
  for key, expected in found.items():
    if expected.ndim == 4:
      expected = expected.transpose(0, 2, 3, 1)
    actual = np.asarray(states[key])
    if name == "bert":  # Padding's own states are nobody's.
      valid = np.asarray(args[0] != 0)
      actual, expected = actual[valid], expected[valid]
    assert expected.std() > 0.05, key
    np.testing.assert_allclose(actual, expected, atol=1e-4, err_msg=key)


def albef_model(task="pretrain", **fields):
  return models.FusionModel(
    image=models.ViT(num_heads=2, **_SMALL_VIT),
    vocab_size=golden.VOCABULARY + 61,
    context_length=golden.CONTEXT,
    width=golden.WIDTH,
    text_depth=1,
    fusion_depth=2,
    num_heads=2,
    embed_dim=golden.EMBED,
    decoder_depth=2,
    task=task,
    **fields,
  )


def albef_tensors():
  names = json.loads((golden.FOLDER / "albef_names.json").read_text())
  return golden.weights({name: tuple(shape) for name, shape in names.items()})


def albef_shapes(model):
  return shapes_of(
    model,
    (
      jnp.zeros((1, golden.IMAGE, golden.IMAGE, 3)),
      jnp.ones((1, 4), jnp.int32),
    ),
  )


def test_albef_is_its_parts(tmp_path):
  """The ViT and BERT within it are those that are loaded by themselves."""
  model, path = albef_model(), tmp_path / "albef.safetensors"
  weights = albef_tensors()
  # Tensors that its checkpoints hold beside the model.
  others = {
    name.replace("text_encoder.", "text_encoder_m."): value
    for name, value in weights.items()
    if name.startswith("text_encoder.")
  }
  others |= {"image_queue": np.zeros((4, 2), np.float32)}
  pretrained.write_safetensors(path, weights | others)
  variables, report = pretrained.load(model, path, albef_shapes(model))
  assert not (report.missing or report.unexpected or report.misshapen)
  # Two positions are more than the model's longest text.
  assert report.resized == [
    "text_encoder.bert.embeddings.position_embeddings.weight"
  ]
  params = variables["params"]
  bert = models.BertEncoder(
    **{**_SMALL_TEXT, "depth": 3, "vocab_size": golden.VOCABULARY + 60}
  )
  parts = {
    "image": (model.image, "visual_encoder."),
    "bert": (bert, "text_encoder.bert."),
  }
  for name, (part, prefix) in parts.items():
    file = tmp_path / f"{name}.safetensors"
    pretrained.write_safetensors(
      file,
      {
        k.removeprefix(prefix): v
        for k, v in weights.items()
        if k.startswith(prefix)
      },
    )
    args = arguments(part, golden.IMAGE, golden.CONTEXT, golden.VOCABULARY)
    own, _ = pretrained.load(
      part, file, shapes_of(part, args), allow=("unexpected",)
    )
    if name == "image":
      jax.tree.map(
        np.testing.assert_array_equal, params["image"], own["params"]
      )
      continue
    words = params["embeddings"]["embedding"]
    np.testing.assert_array_equal(
      words[:-1], own["params"]["embeddings"]["embedding"]
    )
    np.testing.assert_array_equal(words[-1], words[103])  # The mask.
    layers = {**params["text_layers"], **params["fusion_layers"]}
    for layer, theirs in own["params"]["layers"].items():
      for key, value in theirs.items():
        jax.tree.map(np.testing.assert_array_equal, layers[layer][key], value)
  out = tmp_path / "out.safetensors"
  pretrained.save(model, variables, out)
  written = pretrained.read_tensors(out)
  for name, value in written.items():
    expected = weights[name].copy()
    if "position_embeddings" in name:
      expected = expected[: len(value)]
    if "token_type" in name:
      expected[1] = 0  # There is one kind of sentence.
    np.testing.assert_array_equal(value, expected, name)
  # A mask that was trained goes where a BERT has it, if it is one.
  words = "text_encoder.bert.embeddings.word_embeddings.weight"
  params["embeddings"]["embedding"][-1] = 7.0
  for mask, expected in ((None, weights[words][103]), (103, np.full(32, 7.0))):
    pretrained.save(model, variables, out, mask=mask)
    np.testing.assert_array_equal(
      pretrained.read_tensors(out)[words][103], expected
    )


def test_albef_begins_with_a_vit_and_a_bert(tmp_path):
  """As the paper's with DeiT and BERT-base: what they lack stays at random."""
  model = albef_model()
  variables = jit(model.init)(
    jax.random.key(0),
    jnp.zeros((1, golden.IMAGE, golden.IMAGE, 3)),
    jnp.ones((1, 4), jnp.int32),
  )
  files = {}
  for name, prefix in (("image", "visual_encoder."), ("text", "text_encoder.")):
    files[name] = tmp_path / name
    pretrained.write_safetensors(
      files[name],
      {
        key.removeprefix(prefix): value
        for key, value in albef_tensors().items()
        if key.startswith(prefix) and "crossattention" not in key
      },
    )
  out, _ = pretrained.load_image(model, files["image"], variables)
  out, report = pretrained.load_text(model, files["text"], out)
  assert not (report.missing or report.unexpected or report.misshapen)
  # The file is of a language model, whose head over words comes with it.
  np.testing.assert_array_equal(
    out["params"]["language_head"]["bias"][:-1],
    albef_tensors()["text_encoder.cls.predictions.bias"],
  )
  weights = albef_tensors()
  for stack, layer, part, theirs in (
    ("text_layers", 0, "fc", "intermediate.dense"),
    ("fusion_layers", 2, "proj", "output.dense"),
  ):
    np.testing.assert_array_equal(
      out["params"][stack][f"layer_{layer}"][part]["kernel"],
      weights[f"text_encoder.bert.encoder.layer.{layer}.{theirs}.weight"].T,
    )
  before = variables["params"]["fusion_layers"]["layer_1"]["cross_attention"]
  after = out["params"]["fusion_layers"]["layer_1"]["cross_attention"]
  jax.tree.map(np.testing.assert_array_equal, after, before)
  np.testing.assert_array_equal(
    out["params"]["image"]["class_token"],
    weights["visual_encoder.cls_token"][0],
  )


@pytest.mark.parametrize("task", ["vqa", "entailment"])
def test_a_task_begins_with_albefs_pretraining(task, tmp_path):
  path = tmp_path / "albef.safetensors"
  pretrained.write_safetensors(path, albef_tensors())
  model = albef_model(task)
  variables = jit(model.init)(
    jax.random.key(0),
    jnp.zeros((1, golden.IMAGE, golden.IMAGE, 3)),
    jnp.ones((1, 4), jnp.int32),
  )
  out, report = pretrained.load(
    model, path, variables, allow=("missing", "unexpected")
  )
  assert all(
    name.startswith(("text_decoder", "cls_head")) for name in report.missing
  )
  kernel = out["params"]["fusion_layers"]["layer_1"]["cross_attention"]["query"]
  np.testing.assert_array_equal(
    kernel["kernel"],
    albef_tensors()[
      "text_encoder.bert.encoder.layer.1.crossattention.self.query.weight"
    ].T,
  )


FULL = {
  "RN50": ("rn50", {}),
  "ViT-B-32": ("vit_b32", {}),
  "ViT-B-16": ("vit_b16", {}),
  "ViT-L-14": ("vit_l14", {}),
  # The image tower of open_clip's has an exact GELU.
  "ViT-B-16-SigLIP2": ("siglip2_b16", {"image": {"activation": "gelu"}}),
}


@pytest.mark.exhaustive
@pytest.mark.long
@pytest.mark.parametrize("name", sorted(FULL))
def test_published_sizes_equal_open_clip(name, weight_file):
  preset, overrides = FULL[name]
  # OpenAI's weights need quick GELU, open_clip's of that name are without.
  if preset.startswith(("rn50", "vit")):
    overrides = {
      side: {"activation": "gelu"}
      for side in (("text",) if preset == "rn50" else ("image", "text"))
    }
  vocabulary = 256_000 if "SigLIP" in name else 49_408
  model = models.create_model(preset, vocab_size=vocabulary, **overrides)
  args = arguments(model, 224, model.text.context_length, vocabulary)
  variables, report = pretrained.load(
    model, weight_file(name), shapes_of(model, args)
  )
  assert not (report.missing or report.unexpected or report.resized)
  out = jax.jit(model.apply)(variables, *args)
  for side in ("image", "text"):
    np.testing.assert_allclose(out[side], stored()[f"{name}/{side}"], atol=1e-4)


@pytest.mark.parametrize("name", sorted(small_models()))
def test_weights_go_out_as_they_came_in(name, weight_file, tmp_path):
  model = small_models()[name]
  args = arguments(model, golden.IMAGE, golden.CONTEXT, golden.VOCABULARY)
  shapes = shapes_of(model, args)
  variables, report = pretrained.load(model, weight_file(name), shapes)
  assert not report.unexpected or name == "siglip"
  path = tmp_path / "out.safetensors"
  pretrained.save(model, variables, path)
  written, original = pretrained.read_tensors(path), tensors(name)
  assert set(written) <= set(original)
  lost = set(original) - set(written)
  assert all(key.startswith(("head.", "fc.", "pooler.")) for key in lost)
  for key, value in written.items():
    expected = original[key].copy()
    if key == "embeddings.token_type_embeddings.weight":
      expected[1] = 0  # There is one kind of sentence.
    np.testing.assert_array_equal(value, expected, err_msg=key)
  again, _ = pretrained.load(model, path, shapes)
  jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_the_bias_of_a_softmax_model_is_left_out(weight_file, tmp_path):
  model, path = small_models()["clip_vit"], tmp_path / "out.safetensors"
  args = arguments(model, golden.IMAGE, golden.CONTEXT, golden.VOCABULARY)
  variables, _ = pretrained.load(
    model, weight_file("clip_vit"), shapes_of(model, args)
  )
  variables["params"]["logit_bias"] = np.float32(-10)
  for wanted in (False, True):
    pretrained.save(model, variables, path, logit_bias=wanted)
    assert ("logit_bias" in pretrained.read_tensors(path)) == wanted
  # With it they come back.
  again, _ = pretrained.load(model, path, variables)
  assert again["params"]["logit_bias"] == -10


def test_berts_first_files_call_norms_otherwise(tmp_path):
  model, path = small_models()["bert"], tmp_path / "bert.safetensors"
  args = arguments(model, golden.IMAGE, golden.CONTEXT, golden.VOCABULARY)
  shapes, weights = shapes_of(model, args), tensors("bert")
  pretrained.write_safetensors(path, weights)
  expected, _ = pretrained.load(model, path, shapes)
  old = {
    "bert."
    + key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
      "LayerNorm.bias", "LayerNorm.beta"
    ): value
    for key, value in weights.items()
  }
  assert old.keys() != {f"bert.{key}" for key in weights}
  old["cls.predictions.bias"] = np.zeros(3, np.float32)
  pretrained.write_safetensors(path, old)
  found, _ = pretrained.load(model, path, shapes)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_positions_of_another_image_and_a_shorter_text(weight_file):
  model = small_models()["clip_vit"]
  model = model.clone(
    image=model.image.clone(image_size=48),
    text=model.text.clone(context_length=7),
  )
  args = arguments(model, 48, 7, golden.VOCABULARY)
  variables, report = pretrained.load(
    model, weight_file("clip_vit"), shapes_of(model, args)
  )
  assert report.resized == [
    "visual.positional_embedding",
    "positional_embedding",
  ]
  original = tensors("clip_vit")
  text = variables["params"]["text"]["position_embedding"]
  np.testing.assert_array_equal(text, original["positional_embedding"][:7])
  table = np.asarray(variables["params"]["image"]["position_embedding"])
  theirs = original["visual.positional_embedding"]
  assert table.shape == (37, golden.WIDTH)
  np.testing.assert_array_equal(table[0], theirs[0])
  grid = jax.image.resize(
    theirs[1:].reshape(4, 4, -1), (6, 6, golden.WIDTH), "bicubic"
  )
  np.testing.assert_allclose(table[1:].reshape(6, 6, -1), grid, atol=1e-6)
  longer = model.clone(text=model.text.clone(context_length=11))
  args = arguments(longer, 48, 11, golden.VOCABULARY)
  with pytest.raises(
    pretrained.PretrainedError, match=r"misshapen \(1\): positional_embedding"
  ):
    pretrained.load(longer, weight_file("clip_vit"), shapes_of(longer, args))


def test_what_does_not_fit_is_listed_and_refused(tmp_path):
  model = small_models()["deit"]
  args = arguments(model, golden.IMAGE, golden.CONTEXT, golden.VOCABULARY)
  variables = jit(model.init)(jax.random.key(0), *args)
  weights = tensors("deit")
  del weights["norm.bias"]
  weights["blocks.0.mlp.fc1.weight"] = np.zeros((3, 32), np.float32)
  weights["blocks.2.norm1.weight"] = np.ones(32, np.float32)
  path = tmp_path / "weights.safetensors"
  pretrained.write_safetensors(path, weights)
  with pytest.raises(pretrained.PretrainedError) as caught:
    pretrained.load(model, path, variables)
  message = str(caught.value)
  assert "missing (1): norm.bias" in message
  assert "unexpected (1): blocks.2.norm1.weight" in message
  assert "fc1.weight (3, 32), expected (128, 32)" in message
  with pytest.raises(pretrained.PretrainedError, match="missing") as caught:
    pretrained.load(model, path, variables, allow=("unexpected", "misshapen"))
  assert "blocks" not in str(caught.value)
  kinds = ("missing", "unexpected", "misshapen")
  out, report = pretrained.load(model, path, variables, allow=kinds)
  assert report.missing == ["norm.bias"]
  kept = out["params"]["transformer"]["block_0"]["mlp"]["fc"]["kernel"]
  before = variables["params"]["transformer"]["block_0"]["mlp"]["fc"]["kernel"]
  np.testing.assert_array_equal(kept, before)
  with pytest.raises(
    pretrained.PretrainedError, match=r"\bvariables\b.*params/norm/bias"
  ):
    pretrained.load(model, path, shapes_of(model, args), allow=kinds)
  with pytest.raises(ValueError, match=r"\ballow\b.*got 'all'"):
    pretrained.load(model, path, variables, allow=("all",))


def test_weights_of_another_architecture_are_refused(weight_file):
  model = small_models()["clip_vit"]
  args = arguments(model, golden.IMAGE, golden.CONTEXT, golden.VOCABULARY)
  with pytest.raises(pretrained.PretrainedError, match="missing.*unexpected"):
    pretrained.load(model, weight_file("clip_resnet"), shapes_of(model, args))


def test_models_without_published_names():
  tower = models.TwoTower(models.ConvNet(), models.TextTransformer())
  with pytest.raises(pretrained.PretrainedError, match=r"\bTwoTower\b"):
    pretrained.names(tower)


def test_parameters_without_a_name_are_not_left_out(tmp_path):
  model = small_models()["clip_vit"].clone(independent_head="linear")
  args = arguments(model, golden.IMAGE, golden.CONTEXT, golden.VOCABULARY)
  variables = jit(model.init)(jax.random.key(0), *args)
  path = tmp_path / "weights.safetensors"
  with pytest.raises(pretrained.PretrainedError, match="independent.*exported"):
    pretrained.save(model, variables, path)
  pretrained.write_safetensors(path, tensors("clip_vit"))
  with pytest.raises(pretrained.PretrainedError, match="missing.*independent"):
    pretrained.load(model, path, variables)
  out, _ = pretrained.load(model, path, variables, allow=("missing",))
  np.testing.assert_array_equal(
    out["params"]["image_independent"]["head"]["out"]["kernel"],
    variables["params"]["image_independent"]["head"]["out"]["kernel"],
  )
