"""The recipes: they parse, and say how they are run."""

import ast
import importlib
import pathlib

import pytest

from contrastive_jax.data import sources
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import runner
from experiments import configs

FOLDER = pathlib.Path(configs.__file__).parent
RECIPES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__init__")


def recipe(name):
  return importlib.import_module(f"experiments.configs.{name}").get_config()


def opening(name):
  return ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_opens_with_its_command(name):
  assert "python -m experiments.train --config" in opening(name)
  assert f"experiments/configs/{name}.py" in opening(name)


@pytest.mark.parametrize("name", ["clip_emoji", "clip_folder"])
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


def test_prompts_are_those_of_the_data():
  config = config_lib.parse(recipe("clip_emoji"))
  data = sources.PairData("x", {}, ("en",), None, prompts=("my {}",))
  assert runner.caption_sampler(config, data).prompts == ("my {}",)
