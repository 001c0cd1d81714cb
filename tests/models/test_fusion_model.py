"""BERT, ViT and the fusion model: against transformers, and by themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from contrastive_jax.models import bert, fusion_model, fusion_presets
from contrastive_jax.models.vit import ViT
from tests.models import make_golden_transformers as golden

LAYER = dict(num_heads=golden.HEADS)


@functools.cache
def stored():
  with np.load(golden.PATH) as arrays:
    return dict(arrays)


def weights(prefix):
  """A model's weights: `get(name)` gives {"kernel"/"scale", "bias"}."""

  def dense(name):
    return {
      "kernel": stored()[f"{prefix}{name}.weight"].T,
      "bias": stored()[f"{prefix}{name}.bias"],
    }

  def norm(name):
    return {
      "scale": stored()[f"{prefix}{name}.weight"],
      "bias": stored()[f"{prefix}{name}.bias"],
    }

  return dense, norm


def bert_layer(prefix, cross):
  dense, norm = weights(prefix)

  def attention(name, own, out_norm, key_value):
    return {
      key_value: {
        part: dense(f"{name}.self.{part}") for part in ("key", "value")
      },
      own: {
        "query": dense(f"{name}.self.query"),
        "out": dense(f"{name}.output.dense"),
      },
      out_norm: norm(f"{name}.output.LayerNorm"),
    }

  found = attention("attention", "attention", "attention_norm", "key_value")
  if cross:
    found |= attention(
      "crossattention",
      "cross_attention",
      "cross_norm",
      "context_key_value",
    )
  return found | {
    "fc": dense("intermediate.dense"),
    "proj": dense("output.dense"),
    "mlp_norm": norm("output.LayerNorm"),
  }


def bert_embeddings(prefix):
  _, norm = weights(prefix)
  tables = stored()
  return {
    "embedding": tables[f"{prefix}word_embeddings.weight"],
    "positions": tables[f"{prefix}position_embeddings.weight"],
    "segment": tables[f"{prefix}token_type_embeddings.weight"][0],
    "norm": norm("LayerNorm"),
  }


class Stack(nn.Module):
  """Embeddings, layers and, if asked, the language model's head."""

  cross: bool = False

  @nn.compact
  def __call__(self, tokens, mask, context=None, context_mask=None):
    embeddings = bert.BertEmbeddings(
      golden.VOCABULARY, golden.CONTEXT, golden.WIDTH, name="embeddings"
    )
    x = bert.BertStack(
      golden.DEPTH, {**LAYER, "cross": self.cross}, name="layers"
    )(embeddings(tokens), mask, context, context_mask)
    if not self.cross:
      return x
    return bert.LanguageModelHead(golden.VOCABULARY, name="head")(x, embeddings)


def test_bert_equals_transformers():
  params = {
    "embeddings": bert_embeddings("bert/embeddings."),
    "layers": {
      f"layer_{i}": bert_layer(f"bert/encoder.layer.{i}.", False)
      for i in range(golden.DEPTH)
    },
  }
  tokens = jnp.asarray(stored()["tokens"])
  mask = bert.padding_mask(tokens != 0)
  out = Stack().apply({"params": params}, tokens, mask)
  valid = np.asarray(tokens != 0)
  expected = stored()["bert_output"]
  assert expected[valid].std() > 0.5
  np.testing.assert_allclose(out[valid], expected[valid], atol=1e-5)


def test_the_decoder_equals_transformers():
  prefix = "decoder/bert."
  dense, norm = weights("decoder/cls.predictions.")
  params = {
    "embeddings": bert_embeddings(f"{prefix}embeddings."),
    "layers": {
      f"layer_{i}": bert_layer(f"{prefix}encoder.layer.{i}.", True)
      for i in range(golden.DEPTH)
    },
    "head": {
      "dense": dense("transform.dense"),
      "norm": norm("transform.LayerNorm"),
      "bias": stored()["decoder/cls.predictions.decoder.bias"],
    },
  }
  tokens = jnp.asarray(stored()["tokens"])
  answers = jnp.asarray(stored()["answers"])
  length = answers.shape[1]
  out = Stack(cross=True).apply(
    {"params": params},
    answers,
    jnp.tril(jnp.ones((length, length), bool)),
    jnp.asarray(stored()["bert_output"]),
    bert.padding_mask(tokens != 0),
  )
  expected = stored()["decoder_output"]
  assert out.dtype == jnp.float32 and expected.std() > 0.5
  np.testing.assert_allclose(out, expected, atol=2e-5)


def test_vit_equals_transformers():
  dense, norm = weights("vit/")
  tables = stored()
  patches = "vit/embeddings.patch_embeddings.projection"
  params = {
    "patch_embedding": {
      "kernel": tables[f"{patches}.weight"].transpose(2, 3, 1, 0),
      "bias": tables[f"{patches}.bias"],
    },
    "class_token": tables["vit/embeddings.cls_token"][0],
    "position_embedding": tables["vit/embeddings.position_embeddings"][0],
    "norm": norm("layernorm"),
    "transformer": {},
  }
  for i in range(golden.DEPTH):
    name = f"layers.{i}."
    parts = [dense(f"{name}attention.{part}_proj") for part in "qkv"]
    params["transformer"][f"block_{i}"] = {
      "ln_1": norm(f"{name}layernorm_before"),
      "attention": {
        "qkv": {
          kind: np.concatenate([part[kind] for part in parts], axis=-1)
          for kind in ("kernel", "bias")
        },
        "out": dense(f"{name}attention.o_proj"),
      },
      "ln_2": norm(f"{name}layernorm_after"),
      "mlp": {"fc": dense(f"{name}mlp.fc1"), "proj": dense(f"{name}mlp.fc2")},
    }
  model = ViT(
    image_size=golden.IMAGE,
    patch_size=golden.PATCH,
    width=golden.WIDTH,
    depth=golden.DEPTH,
    num_heads=golden.HEADS,
  )
  images = jnp.asarray(tables["images"].transpose(0, 2, 3, 1))
  _, tokens = model.apply({"params": params}, images, return_tokens=True)
  assert tables["vit_output"].std() > 0.5
  np.testing.assert_allclose(tokens, tables["vit_output"], atol=1e-5)


# --- The fusion model -------------------------------------------------------

TOKENS = jnp.array([[1, 5, 6, 2, 0], [1, 7, 2, 0, 0], [1, 5, 6, 7, 2]])


@functools.cache
def images(n=3):
  return jnp.asarray(
    np.random.default_rng(0).normal(size=(n, 16, 16, 3)), jnp.float32
  )


def make(task="pretrain", **fields):
  return fusion_model.FusionModel(
    image=ViT(
      image_size=16,
      patch_size=8,
      width=24,
      depth=1,
      num_heads=2,
      dtype=fields.get("dtype"),
    ),
    vocab_size=12,
    context_length=6,
    width=16,
    text_depth=1,
    fusion_depth=2,
    num_heads=2,
    embed_dim=8,
    decoder_depth=2,
    task=task,
    **fields,
  )


@functools.cache
def initialised(task="pretrain", **fields):
  inputs = images()
  if task == "nlvr2":
    inputs = jnp.stack([inputs, inputs[::-1]])
  model = make(task, **fields)
  params = model.init(jax.random.key(0), inputs, TOKENS)["params"]
  # Biases, norms and the residual stream's branches off their start.
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  moved = [
    x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)
  ]
  return model, {"params": jax.tree.unflatten(tree, moved)}


def run(model, params, *args, method):
  return jax.jit(lambda p, *a: model.apply(p, *a, method=method))(params, *args)


def fused(model, params, tokens, image):
  text = run(model, params, tokens, method="encode_text")
  return run(model, params, text["tokens"], text["valid"], image, method="fuse")


def test_features_are_unit_and_float32():
  model, params = initialised(independent_head=True, dtype=jnp.bfloat16)
  for name, x in (("encode_image", images()), ("encode_text", TOKENS)):
    out = run(model, params, x, method=name)
    for part in ("feature", "independent"):
      assert out[part].shape == (3, 8) and out[part].dtype == jnp.float32
      np.testing.assert_allclose(
        jnp.linalg.norm(out[part], axis=1), 1, rtol=1e-5
      )
    assert out["tokens"].dtype == jnp.bfloat16


def test_padding_changes_nothing():
  model, params = initialised()
  image = run(model, params, images(), method="encode_image")["tokens"]
  longer = jnp.pad(TOKENS, [(0, 0), (0, 1)])
  short, long = (fused(model, params, t, image) for t in (TOKENS, longer))
  valid = np.asarray(TOKENS != 0)
  np.testing.assert_allclose(
    np.asarray(long)[:, :5][valid], np.asarray(short)[valid], atol=2e-6
  )


def test_fusion_sees_the_image():
  model, params = initialised()
  image = run(model, params, images(), method="encode_image")["tokens"]
  a = run(model, params, fused(model, params, TOKENS, image), method="match")
  b = run(
    model, params, fused(model, params, TOKENS, image[::-1]), method="match"
  )
  assert np.abs(a - b)[0].max() > 1e-3
  np.testing.assert_allclose(a[1], b[1], atol=1e-6)


def test_weights_of_cross_attention():
  model, params = initialised()
  image = run(model, params, images(), method="encode_image")["tokens"]
  text = run(model, params, TOKENS, method="encode_text")
  _, seen = model.apply(
    params,
    text["tokens"],
    text["valid"],
    image,
    method="fuse",
    mutable=["intermediates"],
  )
  found = jax.tree.leaves(seen)
  assert len(found) == 2
  for w in found:
    assert w.shape == (3, 2, 5, 5)
    np.testing.assert_allclose(w.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("task", ["pretrain", "nlvr2"])
def test_texts_of_one_image_share_its_keys(task):
  """Two texts after each other of each of three images, and their weights."""
  model, params = initialised(task)
  image = run(model, params, images(), method="encode_image")["tokens"]
  tokens = jnp.concatenate([TOKENS, TOKENS[::-1]])
  text = run(model, params, tokens, method="encode_text")

  def fuse(image):
    context = (image, image[::-1]) if task == "nlvr2" else image
    return model.apply(
      params,
      text["tokens"],
      text["valid"],
      context,
      method="fuse",
      mutable=["intermediates"],
    )

  # The repeated images reversed are the reversed images repeated.
  shared = fuse(image)
  repeated = fuse(jnp.repeat(image, 2, axis=0))
  for ours, wanted in zip(jax.tree.leaves(shared), jax.tree.leaves(repeated)):
    assert ours.shape == wanted.shape
    np.testing.assert_allclose(ours, wanted, atol=2e-6)
  with pytest.raises(ValueError, match=r"\b6 sequences.*got 4"):
    fuse(jnp.repeat(image[:1], 4, axis=0))


def test_norms_come_first_if_asked():
  """Without its branches a layer then changes nothing, and a stack is a norm."""
  x = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (2, 4, 16))
  mask = bert.padding_mask(jnp.ones((2, 4), bool))
  image = jax.random.normal(jax.random.key(1), (2, 3, 24))
  layer = {"num_heads": 2, "cross": True, "norm_first": True}
  stack = bert.BertStack(2, layer)
  params = stack.init(jax.random.key(2), x, mask, image)["params"]
  out = stack.apply({"params": params}, x, mask, image)
  normed = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
  assert np.abs(out - normed).max() > 0.1
  np.testing.assert_allclose(out.mean(-1), 0, atol=1e-5)
  silent = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      jnp.zeros_like(leaf)
      if {"out", "proj"} & {key.key for key in path}
      else leaf
    ),
    params,
  )
  out = stack.apply({"params": silent}, x, mask, image)
  np.testing.assert_allclose(out, normed, atol=1e-5)
  same = bert.BertLayer(**layer).apply(
    {"params": silent["layer_0"]}, x, mask, image, None, False
  )
  np.testing.assert_array_equal(same, x)


def test_an_answers_token_sees_none_after_it():
  model, params = initialised("vqa")
  image = run(model, params, images(), method="encode_image")["tokens"]
  states = fused(model, params, TOKENS, image)
  valid = TOKENS != 0
  a = run(model, params, TOKENS, states, valid, method="decode")
  other = TOKENS.at[:, 3].set(9)
  b = run(model, params, other, states, valid, method="decode")
  assert a.shape == (3, 5, 12) and a.dtype == jnp.float32
  np.testing.assert_array_equal(a[:, :3], b[:, :3])
  assert np.abs(a - b)[:, 3].max() > 1e-3


def test_pairs_share_keys_and_values_of_images():
  model, params = initialised("nlvr2")
  layer = params["params"]["fusion_layers"]["layer_1"]
  assert set(layer) == {"first", "second", "context_key_value"}
  assert "context_key_value" not in layer["first"]
  left, right = (
    run(model, params, x, method="encode_image")["tokens"]
    for x in (images(), images()[::-1])
  )
  a = run(
    model,
    params,
    fused(model, params, TOKENS, (left, right)),
    method="classify",
  )
  b = run(
    model,
    params,
    fused(model, params, TOKENS, (right, left)),
    method="classify",
  )
  assert a.shape == (3, 2)
  assert np.abs(a - b)[0].max() > 1e-3  # The order counts.
  np.testing.assert_allclose(a[1], b[1], atol=1e-6)


@pytest.mark.parametrize(
  "task",
  [
    "entailment",
    *(
      pytest.param(t, marks=pytest.mark.exhaustive)
      for t in ("pretrain", "vqa", "nlvr2")
    ),
  ],
)
def test_remat_is_the_same_model(task):
  model, params = initialised(task)
  inputs = images()
  if task == "nlvr2":
    inputs = jnp.stack([inputs, inputs[::-1]])

  def loss(model):
    def total(p):
      out = model.apply(p, inputs, TOKENS)
      return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(out))

    return jax.jit(jax.value_and_grad(total))(params)

  plain, again = loss(model), loss(make(task, remat=True))
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  # Every parameter has a gradient but for the key biases, which softmax
  # cannot see, and the temperature and projections, which the losses use.
  gradients = jax.tree_util.tree_leaves_with_path(plain[1])
  still = {
    jax.tree_util.keystr(path) for path, g in gradients if not np.abs(g).max()
  }
  assert all("projection" in p or "temperature" in p for p in still), still


def test_dropout_needs_its_key_and_changes_states():
  model, params = initialised(dropout=0.5)
  out = [
    model.apply(
      params,
      TOKENS,
      train=True,
      method="encode_text",
      rngs={"dropout": jax.random.key(i)},
    )["tokens"]
    for i in (0, 1)
  ]
  assert np.abs(out[0] - out[1]).max() > 0.1


def test_bad_input():
  model, params = initialised()
  with pytest.raises(ValueError, match=r"\btokens\b.*\b6\b.*got 7"):
    run(model, params, jnp.ones((1, 7), jnp.int32), method="encode_text")
  with pytest.raises(ValueError, match=r"\btokens\b.*got float32 \(1, 5\)"):
    run(model, params, jnp.ones((1, 5)), method="encode_text")
  with pytest.raises(ValueError, match=r"\btask\b.*got 'caption'"):
    make("caption").init(jax.random.key(0), images(), TOKENS)


# --- From one task to another -----------------------------------------------


def test_transfer_to_the_answer_decoder():
  source = initialised()[1]["params"]
  target = initialised("vqa")[1]["params"]
  out = fusion_presets.transfer(source, target)
  assert jax.tree.structure(out) == jax.tree.structure(target)
  for new, old in (
    ("image", "image"),
    ("fusion_layers", "fusion_layers"),
    ("decoder_layers", "fusion_layers"),
    ("decoder_embeddings", "embeddings"),
    ("decoder_head", "language_head"),
  ):
    # Here the images' tokens are of another width than the question's, so that
    # what makes keys and values of them is not for the decoder.
    ours, theirs = (
      {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if new != "decoder_layers" or "context_key_value" not in str(path)
      }
      for tree in (out[new], source[old])
    )
    assert ours
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_transfer_to_two_images_changes_nothing_at_first():
  """Twice the same layer on one image is the plain stack run in that way."""
  source = initialised()[1]["params"]
  model, other = initialised("nlvr2")
  out = fusion_presets.transfer(source, other["params"])
  layer = out["fusion_layers"]["layer_2"]
  jax.tree.map(np.testing.assert_array_equal, layer["first"], layer["second"])
  np.testing.assert_array_equal(
    out["classifier"]["kernel"], other["params"]["classifier"]["kernel"]
  )
  image = run(model, {"params": out}, images(), method="encode_image")["tokens"]
  actual = fused(model, {"params": out}, TOKENS, (image, image))
  plain = make()
  x, mask = (
    run(plain, {"params": source}, TOKENS, method="encode_text")[k]
    for k in ("tokens", "valid")
  )
  for number in (1, 1, 2, 2):
    x = bert.BertLayer(num_heads=2, cross=True).apply(
      {"params": source["fusion_layers"][f"layer_{number}"]},
      x,
      bert.padding_mask(mask),
      image,
      None,
      False,
    )
  valid = np.asarray(mask)
  np.testing.assert_allclose(
    np.asarray(actual)[valid], np.asarray(x)[valid], atol=1e-5
  )


@pytest.mark.parametrize("task", ["vqa", "nlvr2"])
def test_transfer_keeps_the_last_norm(task):
  source = initialised(norm_first=True)[1]["params"]
  target = initialised(task, norm_first=True)[1]["params"]
  out = fusion_presets.transfer(source, target)
  assert jax.tree.structure(out) == jax.tree.structure(target)
  np.testing.assert_array_equal(
    out["fusion_layers"]["norm"]["scale"],
    source["fusion_layers"]["norm"]["scale"],
  )


@pytest.mark.parametrize("norm_first", [False, True])
def test_transfer_keeps_what_a_finished_task_has(norm_first):
  """From a task to itself every parameter is the source's."""
  source = initialised("nlvr2", norm_first=norm_first)[1]["params"]
  target = jax.tree.map(jnp.zeros_like, source)
  out = fusion_presets.transfer(source, target)
  jax.tree.map(np.testing.assert_array_equal, out, source)


@pytest.mark.parametrize("task", ["pretrain", "vqa", "nlvr2"])
def test_transfer_of_encoders_alone(task):
  source = initialised()[1]["params"]
  source = jax.tree.map(lambda x: x + 1, source)
  target = initialised(task)[1]["params"]
  out = fusion_presets.transfer(source, target, encoders_only=True)
  assert set(out) == set(target)
  encoders = {"image", "embeddings", "text_layers"}
  for name, part in out.items():
    expected = source[name] if name in encoders else target[name]
    jax.tree.map(np.testing.assert_array_equal, part, expected)
  # Encoders alone need no fusion layers.
  del source["fusion_layers"]
  fusion_presets.transfer(source, target, encoders_only=True)
  with pytest.raises(ValueError, match="'fusion_layers'"):
    fusion_presets.transfer(source, target)


def test_transfer_of_another_form():
  source = initialised()[1]["params"]
  target = dict(initialised("vqa")[1]["params"])
  target["text_layers"] = {}
  with pytest.raises(ValueError, match=r"\btext_layers/.*\(16,\)"):
    fusion_presets.transfer(source, target)


@pytest.mark.parametrize("preset", sorted(fusion_presets.FUSION_PRESETS))
def test_presets(preset):
  model = fusion_presets.create_fusion_model(
    preset, vocab_size=50, context_length=9, dtype="bfloat16", remat=True
  )
  assert model.image.remat and model.image.dtype == jnp.bfloat16
  side = model.image.image_size
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32),
    jax.ShapeDtypeStruct((2, 9), jnp.int32),
  )["params"]
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert shapes["embeddings"]["positions"].shape == (9, model.width)
  # ViT-B, BERT-base without its words, and the fusion's cross-attention.
  assert (180e6 < count < 190e6) if preset == "albef" else (count < 2e6)


def test_bad_presets():
  make_model = fusion_presets.create_fusion_model
  with pytest.raises(ValueError, match="preset 'albeff'.*'albef'"):
    make_model("albeff", vocab_size=5)
  with pytest.raises(ValueError, match="override 'text_dpth'.*'text_depth'"):
    make_model("albef_tiny", vocab_size=5, text_dpth=2)
  with pytest.raises(ValueError, match="image field 'dept'.*'depth'"):
    make_model("albef_tiny", vocab_size=5, image={"dept": 2})
  with pytest.raises(ValueError, match=r"\bdtype\b.*got int32"):
    make_model("albef_tiny", vocab_size=5, dtype="int32")
