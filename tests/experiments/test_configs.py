"""The recipes: they parse, and say how they are run."""

import ast
import dataclasses
import functools
import importlib
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from contrastive_jax.data import sources
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import loop, objectives, runs, sharding
from contrastive_jax.training import state as state_lib
from experiments import configs
from experiments.benchmarks import pod

FOLDER = pathlib.Path(configs.__file__).parent
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
# Fewer blocks of the same kind: what is traced is the recipe, not its size.
SHRUNK = {
  "tiny": {},
  "albef_tiny": {"image": {"depth": 1}},
  "albef": {
    "image": {"depth": 1},
    "text_depth": 1,
    "fusion_depth": 1,
    "decoder_depth": 1,
  },
  "lite0_minilm": {"text": {"depth": 1}},
  "rn50": {"image": {"stage_sizes": [1, 1, 1, 1]}, "text": {"depth": 1}},
  "resnet50": {"image": {"stage_sizes": [1, 1, 1, 1]}},
  "vit_s16": {"image": {"depth": 1}},
  "vit_b16": {"image": {"depth": 1}, "text": {"depth": 1}},
  "vit_b32": {"image": {"depth": 1}, "text": {"depth": 1}},
}


def recipe(name, *variant):
  module = importlib.import_module(f"experiments.configs.{name}")
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
  assert f"experiments/configs/{name}.py" in opening(name)


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


def traced(config):
  """The loss and the state after a step of a run, as shapes."""
  overrides = json.loads(config.model.overrides or "{}")
  for name, value in SHRUNK[config.model.preset].items():
    if isinstance(value, dict):
      value = {**overrides.get(name, {}), **value}
    overrides[name] = value
  config = dataclasses.replace(
    config,
    batch_size=8,
    fusion=dataclasses.replace(config.fusion, negative_block=4),
    model=dataclasses.replace(
      config.model,
      image_size=32,
      context_length=12,
      cache_features=False,  # Their towers are traced as well.
      overrides=json.dumps(overrides),
    ),
  )
  mesh = sharding.make_mesh(jax.devices()[:1])
  objective = objectives.create(
    config, vocab_size=99, num_examples=20, mesh=mesh
  )
  state = loop.abstract_state(config, objective, mesh)
  step = state_lib.make_train_step(
    objective, state_lib.make_optimizer(config), config
  )
  after, metrics = jax.eval_shape(step, state, pod.batch_forms(config, 40))
  assert jax.tree.structure(after) == jax.tree.structure(state)
  return metrics["loss"], after


@pytest.mark.parametrize("name", [*LARGE, *SMALL])
def test_the_step_of_a_recipe_can_be_traced(name):
  loss, _ = traced(parsed(name))
  assert loss.shape == () and loss.dtype == jnp.float32


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
  found, _ = traced(config)
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
  loss, _ = traced(config)
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
  _, after = traced(half)
  assert "tables" in after.objective_state["auxiliary"]
  with pytest.raises(ValueError, match="variant must be 'augmented' or none"):
    recipe(name, "augment")


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
  assert runs.caption_sampler(config, data).prompts == ("my {}",)
