"""The recipes: they parse, and say how they are run."""

import ast
import dataclasses
import functools
import importlib
import inspect
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import recipes
from contrastive_jax.data import sources
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import objectives
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.runs import image_text
from contrastive_jax.training.trainer import loop
from contrastive_jax.training.trainer import state as state_lib
from experiments.benchmarks import pod

FOLDER = pathlib.Path(recipes.__file__).parent
RECIPES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem[0] != "_")
SMALL = (
  "albef_emoji",
  "albef_scenes",
  "clip_emoji",
  "clip_folder",
  "easy_vqa",
  "entailment_scenes",
  "lit_emoji",
  "lit_openclipart",
  "moco_v3_fashion_mnist",
  "nlvr2_scenes",
  "simclr_emoji",
  "simclr_fashion_mnist",
  "structure_emoji",
  "vqa_scenes",
)
LARGE = sorted(set(RECIPES) - set(SMALL))
# Those whose step is quickly compiled.
QUICK = (
  "clip_folder",
  "moco_v3_fashion_mnist",
  "simclr_fashion_mnist",
  "structure_emoji",
)
VARIANTS = {
  "albef_nlvr2": ("assignment",),
  "moco_v3_rn50": ("augmented",),
  "moco_v3_vit_b16": ("augmented",),
  "moco_v3_vit_s16": ("augmented",),
  "simclr_rn50": ("augmented",),
  "structure_rn50": ("clip", "contrast", "cyclip", "bridge", "consistency"),
}
RUNS = [
  ":".join([name, *variant])
  for name in RECIPES
  for variant in ([], *([v] for v in VARIANTS.get(name, ())))
]
# Fewer and narrower blocks of the same kind: what is run is the recipe, not its
# size. The fusion layers have all parts of the encoders' layers.
_NARROW = {"width": 16, "num_heads": 2}
_BARE = {"depth": 0, **_NARROW}
_BLOCK = {"depth": 1, **_NARROW}
_FUSION = {
  **_NARROW,
  "embed_dim": 16,
  "text_depth": 0,
  "fusion_depth": 1,
  "decoder_depth": 1,
}
_CLIP = {"embed_dim": 16, "text": _BLOCK}
SHRUNK = {
  "tiny": {"embed_dim": 16, "image": {"widths": [8] * 3}, "text": _NARROW},
  "albef_tiny": {**_FUSION, "image": {**_BARE, "stem_width": 8}},
  "albef": {**_FUSION, "image": _BARE},
  "lite0_minilm": {**_CLIP, "image": {"stem": 8, "features": 16}},
  "rn50": {
    **_CLIP,
    "image": {"stage_sizes": [1, 1], "width": 8, "features": 16},
  },
  "resnet50": {"image": {"stage_sizes": [1, 1], "width": 8}},
  "vit_s16": {"image": _BLOCK},
  "vit_b16": {**_CLIP, "image": _BLOCK},
  "vit_b32": {**_CLIP, "image": _BLOCK},
}


def recipe(name, *variant):
  module = importlib.import_module(f"contrastive_jax.recipes.{name}")
  return module.get_config(*variant)


def parsed(name, *variant):
  """A recipe with the path that its user has to give."""
  config = recipe(name, *variant)
  config.data.path = config.data.path or (
    "images" if config.data.name in ("folder", "official") else ""
  )
  return config_lib.parse(config)


def opening(name):
  return ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_opens_with_its_command(name):
  assert "python -m experiments.train --config" in opening(name)
  assert f"contrastive_jax/recipes/{name}.py" in opening(name)


@pytest.mark.parametrize("name", SMALL)
def test_recipes_for_a_laptop_tell_hardware_and_duration(name):
  assert "two CPU cores" in opening(name) and "minutes" in opening(name)


def test_the_recipe_of_a_folder_needs_just_its_path():
  config = recipe("clip_folder")
  with pytest.raises(config_lib.ConfigError, match="config.data.path"):
    config_lib.parse(config)
  config.data.path = "photos"
  parsed = config_lib.parse(config)
  assert parsed.data.name == "folder"
  assert parsed.data.images_per_concept == parsed.captions_per_example == 1
  assert parsed.loss.image_image == 0
  assert parsed.augment.crop_scale == (0.5, 1.0)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_run(name):
  config = parsed(name)
  assert config_lib.parse(config.to_dict()) == config
  # What nobody has run says so, and what it should reach.
  # What was to be filled in is.
  assert not re.search("@[A-Z]+@", opening(name))
  if name in LARGE:
    text = " ".join(opening(name).split())
    assert "not run" in text or "nor run" in text
    assert "v5e" in text


def shrunk(config):
  """The same run, of one step at the peak of its rate, at a small size."""
  overrides = json.loads(config.model.overrides or "{}")
  for name, value in SHRUNK[config.model.preset].items():
    if isinstance(value, dict):
      value = {**overrides.get(name, {}), **value}
    overrides[name] = value
  fusion, ssl = config.fusion, config.ssl
  return dataclasses.replace(
    config,
    steps=1,  # Of more the first would be of the warm-up, and move nothing.
    batch_size=8,
    fusion=dataclasses.replace(
      fusion, negative_block=4, queue_size=min(fusion.queue_size, 24)
    ),
    ssl=dataclasses.replace(
      ssl,
      embed_dim=16,
      projector=re.sub(r"\d+", "16", ssl.projector),
      predictor=re.sub(r"\d+", "16", ssl.predictor),
    ),
    model=dataclasses.replace(
      config.model,
      image_size=32,
      context_length=12,
      cache_features=False,  # Their towers are run as well.
      overrides=json.dumps(overrides),
    ),
  )


def step_of(config):
  """A shrunk run's objective, mesh, step and the form of its batches."""
  mesh = sharding.make_mesh(jax.devices()[:1])
  objective = objectives.create(
    config, vocab_size=99, num_examples=20, mesh=mesh
  )
  step = state_lib.make_train_step(
    objective, state_lib.make_optimizer(config), config
  )
  return objective, mesh, step, pod.batch_forms(config, 40)


@functools.cache
def traced(run):
  """The loss and the state after a step of a run, as shapes."""
  config = shrunk(parsed(*run.split(":")))
  objective, mesh, step, forms = step_of(config)
  state = loop.abstract_state(config, objective, mesh)
  after, metrics = jax.eval_shape(step, state, forms)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  return metrics["loss"], after


@pytest.mark.parametrize(
  "name", [n for n in [*LARGE, *SMALL] if n not in QUICK]
)
def test_the_step_of_a_recipe_can_be_traced(name):
  loss, _ = traced(name)
  assert loss.shape == () and loss.dtype == jnp.float32


def random_batch(forms):
  """A batch of such forms: of examples 0, 1 and so on, two of a concept."""
  rng = np.random.default_rng(0)
  ends = {"image": 256, "tokens": 99, "answers": 99, "label": 2, "weights": 2}
  batch = {
    name: rng.integers(0, ends[name], form.shape).astype(form.dtype)
    for name, form in forms.items()
    if name in ends
  }
  rows = np.arange(len(batch["image"]), dtype=np.int32)
  numbers = {"index": rows, "concept_id": rows // 2}
  return batch | {k: v for k, v in numbers.items() if k in forms}


@pytest.mark.parametrize(
  "run",
  [
    pytest.param(run, marks=() if run in QUICK else pytest.mark.exhaustive)
    for run in RUNS
  ],
)
def test_a_recipe_takes_a_step(run):
  config = shrunk(parsed(*run.split(":")))
  objective, _, step, forms = step_of(config)
  batch = random_batch(forms)
  # Not as one program: most recipes draw the same shapes.
  before = state_lib.init_state(
    objective, state_lib.make_optimizer(config), config, batch
  )

  @jax.jit
  def take(state, batch):
    after, metrics = step(state, batch)
    return after, metrics["loss"], metrics["squares"]["gradient"]

  after, loss, gradients = take(before, batch)
  assert loss.shape == () and loss.dtype == jnp.float32
  assert jnp.isfinite(loss)
  assert jax.tree.structure(after) == jax.tree.structure(before)
  for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after)):
    assert (old.shape, old.dtype) == (new.shape, new.dtype)
  assert after.step == 1
  assert [k for k, whole in state_lib.finite(after).items() if not whole] == []
  moved = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for (path, old), new in zip(
      jax.tree_util.tree_leaves_with_path(before.params),
      jax.tree.leaves(after.params),
    )
    if np.any(np.asarray(old) != np.asarray(new))
  }
  still = config.model.frozen_towers
  if run.startswith("moco_v3_vit"):
    still = ("patch_embedding",)
  frozen = {place for place in gradients if {*still} & {*place.split("/")}}
  assert bool(frozen) == bool(still) and not moved & frozen
  pushed = {place for place, square in gradients.items() if square > 0}
  assert moved and pushed - frozen <= moved


@pytest.mark.parametrize("name", RECIPES)
def test_the_variants_of_a_recipe_are_known_here(name):
  """They are those that it takes, and that its first words speak of."""
  known = VARIANTS.get(name, ())
  for variant in re.findall(rf"{name}\.py:(\w+)", opening(name)):
    assert variant in known
  module = importlib.import_module(f"contrastive_jax.recipes.{name}")
  if not inspect.signature(module.get_config).parameters:
    assert known == ()
    return
  with pytest.raises(ValueError, match="or none") as error:
    recipe(name, "?")
  named = re.search("must be (?:one of )?(.*) or none", str(error.value))
  assert tuple(re.findall(r"\w+", named[1])) == known
  for variant in known:
    assert variant in opening(name)


@pytest.mark.parametrize(
  "variant, loss, terms, heads",
  [
    ("", "clip", {"separation"}, True),
    ("clip", "clip", set(), False),
    ("contrast", "clip_four_term", {"separation"}, True),
    ("cyclip", "clip", {"consistency"}, False),
    ("bridge", "clip", {"bridge"}, False),
    ("consistency", "clip", {"consistency"}, False),
  ],
)
def test_the_rows_of_the_second_paper_are_variants(variant, loss, terms, heads):
  config = parsed("structure_rn50", variant)
  structure = config.structure
  names = ("separation", "bridge", "consistency", "alignment")
  assert {n for n in names if getattr(structure, n)} == terms
  assert config.loss.name == loss
  assert config.evaluation.concatenated == heads
  found, _ = traced(f"structure_rn50:{variant}".rstrip(":"))
  assert found.shape == ()
  with pytest.raises(ValueError, match="variant must be one of clip, contrast"):
    recipe("structure_rn50", "cilp")


@pytest.mark.parametrize("name", [n for n in RECIPES if "albef_" in n])
def test_flags_that_a_recipe_speaks_of_are_flags(name):
  """What stands as --config.FIELD=NUMBER in its first words can be set."""
  found = re.findall(r"--config\.([\w.]+)=([.\d]+)", opening(name))
  for field, value in found:
    config = recipe(name)
    config.data.path = config.data.path or "images"
    *groups, last = field.split(".")
    place = functools.reduce(getattr, groups, config)
    setattr(place, last, type(getattr(place, last))(float(value)))
    config_lib.parse(config)


def test_packaged_weights_are_found_or_named():
  config = recipe("lit_openclipart")
  for name in ("image_weights", "text_weights"):
    text = getattr(config.initial, name)
    assert pathlib.Path(text).is_file() or "pip install -e '.[pre" in text


def test_the_run_before_nlvr2():
  config = parsed("albef_nlvr2", "assignment")
  assert config.objective == "text_assignment"
  assert (
    config.model.context_length == parsed("albef_nlvr2").model.context_length
  )
  loss, _ = traced("albef_nlvr2:assignment")
  assert loss.shape == ()
  with pytest.raises(ValueError, match="variant must be 'assignment' or none"):
    recipe("albef_nlvr2", "assigment")


@pytest.mark.parametrize("name", [n for n in LARGE if n.startswith("moco_v3")])
def test_the_augmented_variant_is_half_the_batch_and_else_the_same(name):
  whole, half = parsed(name), parsed(name, "augmented")
  assert (whole.batch_size, half.batch_size) == (4096, 2048)
  assert (whole.loss.name, half.loss.name) == ("moco_v3", "augmented")
  # As many epochs, at the same rate an example.
  assert half.steps in (2 * whole.steps, 2 * whole.steps + 1)
  rates = [c.optimizer.learning_rate / c.batch_size for c in (whole, half)]
  assert rates[0] == pytest.approx(rates[1])
  same = {"steps", "batch_size", "loss", "optimizer"}
  assert {k: v for k, v in whole.to_dict().items() if k not in same} == {
    k: v for k, v in half.to_dict().items() if k not in same
  }
  _, after = traced(f"{name}:augmented")
  assert "tables" in after.objective_state["auxiliary"]
  with pytest.raises(ValueError, match="variant must be 'augmented' or none"):
    recipe(name, "augment")


def test_simclr_is_that_of_the_published_comparison():
  """At batch 256, where SogCLR is compared with it."""
  plain, ours = parsed("simclr_rn50"), parsed("simclr_rn50", "augmented")
  assert plain.batch_size == 256
  assert plain.steps * 256 == pytest.approx(800 * 1_281_167, rel=1e-6)
  assert plain.optimizer.learning_rate == pytest.approx(1.2)
  assert plain.optimizer.weight_decay == 1e-6
  assert plain.loss.init_logit_scale == pytest.approx(10.0)
  assert (plain.loss.name, ours.loss.name) == ("nt_xent", "augmented")
  same = dataclasses.replace(ours, loss=plain.loss)
  assert same == plain


@pytest.mark.parametrize(
  "name, epochs, warmup, rate, scale, crop",
  [
    ("moco_v3_rn50", 100, 10, 9.6, 1.0, 0.2),
    ("moco_v3_vit_s16", 300, 40, 2.4e-3, 5.0, 0.08),
    ("moco_v3_vit_b16", 300, 40, 2.4e-3, 5.0, 0.08),
  ],
)
def test_moco_v3_as_published(name, epochs, warmup, rate, scale, crop):
  config = parsed(name)
  assert config.steps == pytest.approx(epochs * 1_281_167 / 4096, abs=1)
  assert config.optimizer.warmup_share * epochs == pytest.approx(warmup)
  assert config.optimizer.learning_rate == pytest.approx(rate)
  assert config.loss.init_logit_scale == scale
  assert config.augment.crop_scale == (crop, 1.0)
  assert (config.augment.blur, config.augment.second_blur) == (1.0, 0.1)
  assert config.augment.second_solarize == 0.2 and not config.augment.solarize


@pytest.mark.parametrize(
  "name", ["clip_rn50_cc3m", "clip_vit_b32_cc12m", "clip_vit_b16"]
)
def test_the_baseline_of_an_image_text_recipe(name):
  """The overrides that its opening names make it InfoNCE's."""
  config = recipe(name)
  config.data.path = "pairs"
  config.loss.name = "clip"
  config.loss.temperature = "learned"
  assert config_lib.parse(config).loss.name == "clip"
  if name != "clip_vit_b16":
    text = " ".join(opening(name).split())
    assert "--config.loss=clip --config.loss.temperature=learned" in text


def test_prompts_are_those_of_the_data():
  config = config_lib.parse(recipe("clip_emoji"))
  data = sources.PairData("x", {}, ("en",), None, prompts=("my {}",))
  assert image_text.caption_sampler(config, data).prompts == ("my {}",)
