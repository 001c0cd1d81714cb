"""The recipes: they parse, they take a step, and their openings hold."""

import dataclasses
import functools
import importlib
import inspect
import json
import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import recipes
from contrastive_jax.data import sources
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.objectives.contrasts import LOSSES
from contrastive_jax.training.runs import build
from contrastive_jax.training.trainer import loop
from contrastive_jax.training.trainer import state as state_lib
from tests.recipes.tiny_runs import (
  GOLDEN,
  RECIPES,
  RUNS,
  VARIANTS,
  completed,
  dtype_of,
  parsed,
  recipe,
  shrunk,
  started,
  step_of,
  steps_of,
  summary,
)

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
  "superclass_emoji",
  "vqa_scenes",
)
LARGE = sorted(set(RECIPES) - set(SMALL))
# Recipes whose step is quickly compiled.
QUICK = (
  "clip_folder",
  "moco_v3_fashion_mnist",
  "simclr_fashion_mnist",
  "structure_emoji",
)


def loss_of(config):
  return config.loss and LOSSES.name_of(config.loss)


def module_of(name):
  return importlib.import_module(f"contrastive_jax.recipes.{name}")


def opening(name):
  return inspect.cleandoc(module_of(name).__doc__)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_opens_with_its_command(name):
  first, blank, *rest = opening(name).splitlines()
  assert first == recipes.description(name)
  assert first.endswith(".") and not blank and len(first) <= 90
  command = next(line for line in rest if "experiments.train" in line)
  assert command.startswith(f"python -m experiments.train --config={name}")
  assert command.removesuffix(" \\").split()[3].partition(":")[0] == (
    f"--config={name}"
  )
  assert "--workdir=runs/" in opening(name)


def test_descriptions_tell_recipes_apart():
  assert len({recipes.description(name) for name in RECIPES}) == len(RECIPES)


def flags_of(text):
  """Flags that stand one after another in a text, group by group."""
  flag = r"--(?:config[\w.]*|workdir)=(?:'[^']*'|[^\s']+)"
  for found in re.finditer(rf"{flag}(?:\s+{flag})*", text.replace("\\\n", " ")):
    words = shlex.split(found[0].rstrip(".,;)"))
    yield dict(word[2:].split("=", 1) for word in words)


@pytest.mark.parametrize("name", RECIPES)
def test_flags_that_an_opening_speaks_of_can_be_set(name):
  groups = list(flags_of(opening(name)))
  assert groups
  for flags in groups:
    draft = recipes.load(flags.get("config", name))
    fields = {
      flag.removeprefix("config."): value
      for flag, value in flags.items()
      if flag.startswith("config.")
    }
    draft.override(fields)
    config_lib.checked(completed(draft))


def test_the_recipe_of_a_folder_needs_just_its_path():
  draft = recipe("clip_folder")
  with pytest.raises(config_lib.ConfigError, match="config.data.path"):
    config_lib.parse(draft)
  draft.data.path = "photos"
  config = config_lib.parse(draft)
  assert config.data.path == "photos"
  assert config.objective.images_per_concept == config.captions_per_example == 1
  assert config.objective.image_image == 0
  assert config.augment.crop_scale == (0.5, 1.0)


@pytest.mark.parametrize("run", RUNS)
def test_every_recipe_is_a_run(run):
  config = parsed(*run.split(":"))
  assert config_lib.parse(config.to_dict()) == config


@pytest.mark.parametrize("name", LARGE)
def test_a_recipe_for_a_pod_says_that_it_was_compiled_alone(name):
  text = " ".join(opening(name).split())
  assert "Hardware: " in text
  assert "v5e" in text and "not run" in text


@functools.cache
def traced(run):
  """The loss and the state after a step of a run, as shapes."""
  config = shrunk(parsed(*run.split(":")))
  objective, mesh, step, forms = step_of(config)
  state = loop.abstract_state(*started(config, objective), mesh)
  after, metrics = jax.eval_shape(step, state, forms)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  return metrics["loss"], after


# One of each kind of model; tracing the others is for `pytest -m exhaustive`.
TRACED = ("albef_vqa", "clip_vit_b32_cc12m", "moco_v3_rn50", "structure_rn50")


@pytest.mark.parametrize(
  "name",
  [
    n if n in TRACED else pytest.param(n, marks=pytest.mark.exhaustive)
    for n in [*LARGE, *SMALL]
    if n not in QUICK
  ],
)
def test_the_step_of_a_recipe_can_be_traced(name):
  loss, _ = traced(name)
  assert loss.shape == () and loss.dtype == jnp.float32


@pytest.mark.parametrize(
  "run",
  [
    pytest.param(run, marks=() if run in QUICK else pytest.mark.exhaustive)
    for run in RUNS
  ],
)
def test_a_recipe_takes_two_steps_to_stored_numbers(run):
  objective, before, *steps = steps_of(run)
  for after, loss, _ in steps:
    assert loss.shape == () and loss.dtype == jnp.float32
    assert jnp.isfinite(loss)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after)):
      assert (old.shape, old.dtype) == (new.shape, new.dtype)
  assert after.step == 2
  assert [k for k, whole in state_lib.finite(after).items() if not whole] == []
  found = summary(*steps)
  # Adam's first step is the gradient's sign, which in the large recipes' deeper
  # towers is left to rounding where a gradient is nearly 0.
  rtol = 1e-5 if dtype_of(run) == "float32" else 1e-4
  for name, wanted in json.loads(GOLDEN.read_text())[run].items():
    np.testing.assert_allclose(found[name], wanted, rtol, err_msg=name)
  after, _, gradients = steps[0]
  moved = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for (path, old), new in zip(
      jax.tree_util.tree_leaves_with_path(before.params),
      jax.tree.leaves(after.params),
    )
    if np.any(np.asarray(old) != np.asarray(new))
  }
  still = objective.frozen
  if run.startswith("moco_v3_vit"):
    still = ("patch_embedding",)
  frozen = {place for place in gradients if {*still} & {*place.split("/")}}
  assert bool(frozen) == bool(still) and not moved & frozen
  pushed = {place for place, square in gradients.items() if square > 0}
  assert moved and pushed - frozen <= moved


@pytest.mark.exhaustive
@pytest.mark.parametrize("run", [r for r in RUNS if dtype_of(r) != "float32"])
def test_a_recipe_takes_two_steps_in_its_own_precision(run):
  _, _, *steps = steps_of(run, dtype_of(run))
  # The second step begins where rounding has moved the parameters.
  stored = json.loads(GOLDEN.read_text())[run]["losses"][0]
  np.testing.assert_allclose(summary(*steps)["losses"][0], stored, 1e-2)
  for after, loss, _ in steps:
    assert loss.dtype == jnp.float32 and jnp.isfinite(loss)
    assert [
      k for k, whole in state_lib.finite(after).items() if not whole
    ] == []


@pytest.mark.parametrize("name", RECIPES)
def test_the_variants_of_a_recipe_are_known_here(name):
  """They are those that it takes, and that its first words speak of."""
  known = VARIANTS.get(name, ())
  for variant in re.findall(rf"--config={name}:(\w+)", opening(name)):
    assert variant in known
  with pytest.raises(ValueError) as error:
    recipe(name, "?")
  assert "'?'" in str(error.value)
  if not inspect.signature(module_of(name).get_config).parameters:
    assert known == ()
    return
  named = re.search("must be (?:one of )?(.*) or none", str(error.value))
  assert tuple(re.findall(r"\w+", named[1])) == known
  for variant in known:
    assert variant in opening(name)


@pytest.mark.parametrize(
  "variant, loss, terms, heads",
  [
    ("", "clip_four_term", {"separation"}, True),
    ("clip", "clip", set(), False),
    ("contrast", "clip_four_term", set(), False),
    ("cyclip", "clip", {"consistency"}, False),
    ("bridge", "clip_four_term", {"bridge"}, False),
    ("consistency", "clip_four_term", {"consistency"}, False),
  ],
)
def test_the_rows_of_the_second_paper_are_variants(variant, loss, terms, heads):
  config = parsed(*filter(None, ("structure_rn50", variant)))
  assert {*config.structure.terms} == terms
  assert all(term.weight > 0 for term in config.structure.terms.values())
  assert config.structure.first_view == "plain"
  assert loss_of(config) == loss
  evaluators = config.evaluation.evaluators
  for name in ("classification", "benchmarks"):
    assert evaluators[name].concatenated == heads
  assert config.loss.temperature == 0.07
  found, _ = traced(f"structure_rn50:{variant}".rstrip(":"))
  assert found.shape == ()


def test_packaged_weights_are_found_or_named():
  config = recipe("lit_openclipart")
  for name in ("initial.image_weights", "initial.text_weights", "tokenizer"):
    text = functools.reduce(getattr, name.split("."), config)
    assert pathlib.Path(text).is_file() or "pip install -e '.[pre" in text


def test_the_run_before_nlvr2():
  config = parsed("albef_nlvr2", "assignment")
  assert config.to_dict()["objective"] == {"name": "text_assignment"}
  assert (
    config.model.context_length == parsed("albef_nlvr2").model.context_length
  )
  loss, _ = traced("albef_nlvr2:assignment")
  assert loss.shape == ()


@pytest.mark.parametrize("name", [n for n in LARGE if n.startswith("moco_v3")])
def test_the_augmented_variant_is_half_the_batch_and_else_the_same(name):
  whole, half = parsed(name), parsed(name, "augmented")
  assert (whole.batch_size, half.batch_size) == (4096, 2048)
  assert (loss_of(whole), loss_of(half)) == ("info_nce", "augmented")
  assert whole.loss.temperature == half.loss.temperature
  # As many epochs, at the same rate an example.
  assert half.steps in (2 * whole.steps, 2 * whole.steps + 1)
  rates = [c.optimizer.learning_rate / c.batch_size for c in (whole, half)]
  assert rates[0] == pytest.approx(rates[1])
  same = {"steps", "batch_size", "loss", "optimizer"}
  assert {k: v for k, v in whole.to_dict().items() if k not in same} == {
    k: v for k, v in half.to_dict().items() if k not in same
  }
  _, after = traced(f"{name}:augmented")
  assert after.objective_state["auxiliary"]["em"].tables


def test_simclr_is_that_of_the_published_comparison():
  """At batch 256, where SogCLR is compared with it."""
  plain, ours = parsed("simclr_rn50"), parsed("simclr_rn50", "augmented")
  assert plain.batch_size == 256
  assert plain.steps * 256 == pytest.approx(800 * 1_281_167, rel=1e-6)
  assert plain.optimizer.learning_rate == pytest.approx(1.2)
  assert plain.optimizer.weight_decay == 1e-6
  assert plain.loss.temperature == ours.loss.temperature == 0.1
  assert (loss_of(plain), loss_of(ours)) == ("nt_xent", "augmented")
  assert ours.loss.e_step.rate == 0.9
  same = dataclasses.replace(ours, loss=plain.loss)
  assert same == plain


@pytest.mark.parametrize(
  "name, epochs, warmup, rate, temperature, crop",
  [
    ("moco_v3_rn50", 100, 10, 9.6, 1.0, 0.2),
    ("moco_v3_vit_s16", 300, 40, 2.4e-3, 0.2, 0.08),
    ("moco_v3_vit_b16", 300, 40, 2.4e-3, 0.2, 0.08),
  ],
)
def test_moco_v3_as_published(name, epochs, warmup, rate, temperature, crop):
  config = parsed(name)
  assert config.steps == pytest.approx(epochs * 1_281_167 / 4096, abs=1)
  warmup_share = config.optimizer.schedule.warmup_share
  assert warmup_share * epochs == pytest.approx(warmup)
  assert config.optimizer.learning_rate == pytest.approx(rate)
  assert config.loss.temperature == temperature
  assert config.augment.crop_scale == (crop, 1.0)
  assert (config.augment.blur, config.objective.second_blur) == (1.0, 0.1)
  assert config.objective.second_solarize == 0.2 and not config.augment.solarize


@pytest.mark.parametrize("name", ["clip_rn50_cc3m", "clip_vit_b32_cc12m"])
def test_the_baseline_of_an_image_text_recipe(name):
  """InfoNCE with a learned temperature, by the flags that the opening names."""
  draft = recipe(name)
  [flags] = [
    f for f in flags_of(opening(name)) if f.get("config.loss") == "clip"
  ]
  draft.override({k.removeprefix("config."): v for k, v in flags.items()})
  config = config_lib.parse(completed(draft))
  ours = parsed(name)
  assert dataclasses.replace(ours, loss=config.loss) == config
  assert loss_of(config) == "clip"
  assert config.loss.temperature_mode.min_temperature == 0.01
  assert not config.loss.group_positives and not ours.loss.group_positives


def test_prompts_are_those_of_the_data():
  config = config_lib.parse(recipe("clip_emoji"))
  data = sources.PairData("x", {}, ("en",), None, prompts=("my {}",))
  assert build.caption_feed(config).sampler(data).prompts == ("my {}",)
