"""Tests of contrastive_jax.training.config: whole runs, parsed and compared."""

import dataclasses
import json

import pytest

from contrastive_jax.data.sets.choices import DATA_SETS
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import ConfigError, checked, parse
from contrastive_jax.training.evaluators.choices import EVALUATORS
from contrastive_jax.training.objectives.choices import OBJECTIVES
from contrastive_jax.training.objectives.contrasts import (
  LOSSES,
  TEMPERATURE_MODES,
)
from contrastive_jax.training.objectives.views import OTHER_VIEWS
from tests.training.config import registry


def test_absent_fields_keep_their_defaults():
  config = parse({"optimizer": {"beta1": 0.5}})
  default = parse(config_lib.default_config())
  assert parse({}) == default
  assert config.optimizer.beta1 == 0.5 != default.optimizer.beta1
  same = dataclasses.replace(config.optimizer, beta1=0.9)
  assert dataclasses.replace(config, optimizer=same) == default
  # Each call gives a draft of its own.
  config_lib.default_config().loss.temperature = 0.5
  assert parse(config_lib.default_config()) == default


def refused(texts, objective):
  draft = registry.draft({"objective": objective, **texts})
  with pytest.raises(ConfigError) as caught:
    checked(draft)
  return str(caught.value)


@pytest.mark.parametrize("objective", OBJECTIVES.variants)
def test_what_an_objective_does_not_take_is_refused(objective):
  cls = OBJECTIVES.find(objective)
  begin = {"structure": "bridge"} if "structure" in cls.uses else {}
  if cls.task not in DATA_SETS.find("emoji").tasks:
    begin["data"] = "scenes"
  places = [
    ("data", DATA_SETS, [n for n in DATA_SETS.variants if fits(n, cls)])
  ]
  if "loss" in cls.uses:
    places.append(("loss", LOSSES, cls.losses))
    # The loss that goes with all of them.
    begin["loss"] = "augmented"
    modes = ("loss.temperature_mode", TEMPERATURE_MODES, cls.temperature_modes)
    places.append(modes)
  if "structure" in cls.uses:
    places.append(("other_view", OTHER_VIEWS, cls.other_views))
  for path, kind, taken in places:
    assert {*taken} <= {*kind.variants}
    for name in {*kind.variants} - {*taken}:
      said = refused({**begin, path: name, **given(name)}, objective)
      assert f"config.{path}" in said and repr(name) in said
      assert f"config.objective={objective}" in said
      assert all(other in said for other in taken)


@pytest.mark.parametrize("objective", OBJECTIVES.variants)
def test_an_evaluator_goes_with_its_objectives(objective):
  begin = {}
  if OBJECTIVES.find(objective).task not in DATA_SETS.find("emoji").tasks:
    begin["data"] = "scenes"
  for name in EVALUATORS.variants:
    allowed = EVALUATORS.find(name).objectives
    assert {*allowed} <= {*OBJECTIVES.variants}
    texts = {**begin, "evaluation": name}
    if objective in allowed:
      draft = registry.draft({"objective": objective, **texts})
      assert [*checked(draft).evaluation.evaluators] == [name]
    else:
      said = refused(texts, objective)
      assert f"config.evaluation={name}" in said and repr(objective) in said
      assert all(other in said for other in allowed)


def fits(data, objective):
  return objective.task in DATA_SETS.find(data).tasks


def given(data):
  """The fields that a data set's user must give."""
  return {
    "folder": {"data.path": "x"},
    "records": {"data.path": "x"},
    "official": {"data.path": "x", "data.format": "coco"},
    "tfds": {"data.dataset": "x"},
  }.get(data, {})


@pytest.mark.parametrize("mode", ["robust", "individual"])
@pytest.mark.parametrize("loss", ["clip", "sigmoid", "augmented"])
def test_robust_temperatures_are_of_the_augmented_loss(loss, mode):
  draft = registry.draft({"loss": loss, "loss.temperature_mode": mode})
  if loss == "augmented":
    assert checked(draft).loss.temperature_mode.rho == 6.5
    return
  with pytest.raises(ConfigError) as caught:
    checked(draft)
  said = str(caught.value)
  assert (
    f"config.loss.temperature_mode={mode} belongs to loss=augmented" in said
  )
  assert f"loss={loss}" in said


@pytest.mark.parametrize(
  "texts, field, said",
  [
    ({"batch_size": "10", "microbatches": "4"}, "microbatches", "got 4"),
    ({"data": "folder"}, "data.path", "captions.jsonl"),
    ({"data": "records"}, "data.path", "()"),
    ({"data": "tfds"}, "data.dataset", "''"),
    ({"data": "official", "data.path": "x"}, "data.format", "''"),
    (
      {"data": "records", "data.path": "a,b", "data.mixture": "1"},
      "data.mixture",
      "(1.0,)",
    ),
    (
      {"data": "records", "data.path": "a,b", "data.mixture": "1,0"},
      "data.mixture",
      "(1.0, 0.0)",
    ),
    (
      {"loss.temperature": "0.02", "loss.min_temperature": "0.05"},
      "loss.temperature",
      "got 0.02",
    ),
    (
      {
        f"captions.{kind}": "0"
        for kind in ("name", "keyword", "keywords", "full", "listed", "prompt")
      },
      "captions.name",
      "above 0",
    ),
    ({"objective.image_image": "0.5"}, "objective.image_image", "got 1"),
    ({"objective.frozen": "text"}, "objective.frozen", "initial.text_weights"),
    (
      {
        "objective.frozen": "text",
        "initial": "weights",
        "initial.image_weights": "x",
      },
      "objective.frozen",
      "initial.text_weights",
    ),
    (
      {"objective.frozen": "image", "objective.cache_features": "true"},
      "objective.cache_features",
      "('image',)",
    ),
    (
      {
        "objective.frozen": "image,text",
        "objective.cache_features": "true",
        "initial": "weights",
        "initial.weights": "x",
        "structure": "consistency",
      },
      "objective.cache_features",
      "config.structure",
    ),
    ({"initial": "weights"}, "initial.weights", "initial.image_weights"),
    (
      {
        "initial": "weights",
        "initial.weights": "x",
        "initial.text_weights": "y",
      },
      "initial.weights",
      "initial.text_weights",
    ),
    ({"initial": "run"}, "initial.workdir", "''"),
    (
      {"initial": "run", "initial.workdir": "x", "initial.part": "encoders"},
      "initial.part",
      "'clip'",
    ),
    (
      {
        "objective": "albef",
        "initial": "run",
        "initial.workdir": "x",
        "tokenizer": "clip",
      },
      "tokenizer",
      "'clip'",
    ),
    ({"model.context_length": "1"}, "model.context_length", "got 1"),
    ({"model.overrides": '{"pad_id": 3}'}, "model.overrides", "'pad_id'"),
    (
      {"model.overrides": '{"init_logit_scale": 3}'},
      "model.overrides",
      "config.loss.temperature",
    ),
    (
      {"evaluation": "benchmarks", "evaluation.benchmarks.sets": "cifar01"},
      "evaluation.benchmarks.sets",
      "got 'cifar01'. Did you mean 'cifar10",
    ),
    (
      {"keep_best": "true", "evaluation.retrieval.every": "0"},
      "keep_best",
      "config.evaluation.NAME.every",
    ),
    (
      {"evaluation.classification.concatenated": "true"},
      "evaluation.classification.concatenated",
      "config.structure=separation",
    ),
    (
      {"structure": "bridge", "structure.bridge.time": "0.5,0.25"},
      "structure.bridge.time",
      "(0.5, 0.25)",
    ),
    (
      {
        "structure": "bridge",
        "structure.bridge.time": "0,0.5",
        "structure.bridge.weighted": "true",
      },
      "structure.bridge.time",
      "(0, 0.5)",
    ),
    (
      {"objective": "simclr", "loss": "augmented", "loss.e_step": "amortized"},
      "loss.e_step=amortized",
      "conjugate",
    ),
    (
      {
        "objective": "albef",
        "objective.negative_block": "7",
        "batch_size": "16",
      },
      "objective.negative_block",
      "got 7",
    ),
    (
      {
        "objective": "albef",
        "structure": "separation",
        "structure.separation.independent_head": "mlp",
      },
      "structure.separation.independent_head",
      "'mlp'",
    ),
    (
      {
        "objective": "albef",
        "objective.contrast": "0",
        "objective.matching": "0",
        "objective.language": "0",
      },
      "objective.contrast",
      "above 0",
    ),
  ],
)
def test_fields_that_do_not_go_together_are_refused(texts, field, said):
  with pytest.raises(ConfigError) as caught:
    checked(registry.draft(texts))
  message = str(caught.value)
  assert f"config.{field}" in message
  assert said in message
  assert "\n" not in message


@pytest.mark.parametrize("values", [[1, 2], None, "clip"])
def test_a_configuration_is_a_mapping(values):
  with pytest.raises(ConfigError) as caught:
    parse(values)
  assert repr(values) in str(caught.value)


@pytest.mark.parametrize(
  "model, sizes",
  [
    ({}, (32, 48)),
    ({"preset": "tiny"}, (32, 48)),
    ({"preset": "vit_b16"}, (224, 77)),
    ({"preset": "vit_b16", "image_size": 64}, (64, 77)),
    ({"preset": "rn50", "context_length": 20}, (224, 20)),
  ],
)
def test_sizes_that_are_not_given_are_the_presets(model, sizes):
  config = parse({"model": model})
  assert (config.model.image_size, config.model.context_length) == sizes
  # config.json has them, whatever a later version's preset says.
  saved = config.to_dict()["model"]
  assert (saved["image_size"], saved["context_length"]) == sizes
  assert checked({"model": model}).model.image_size == model.get(
    "image_size", 0
  )


def test_an_absent_preset_is_refused_with_the_nearest():
  with pytest.raises(ConfigError) as caught:
    parse({"model": {"preset": "tinny"}})
  said = str(caught.value)
  assert "config.model.preset" in said
  assert "got 'tinny'; did you mean 'tiny'?" in said


def test_what_only_the_sizes_of_a_preset_refuse():
  values = {
    "objective": {"name": "vqa", "answer_length": 40},
    "data": {"name": "scenes"},
    "model": {"preset": "albef_tiny", "context_length": 0},
  }
  checked(values)
  with pytest.raises(ConfigError) as caught:
    parse(values)
  assert "config.objective.answer_length" in str(caught.value)


def test_the_four_term_loss_takes_another_view_of_a_caption():
  config = checked(registry.draft({"loss": "clip_four_term"}))
  assert config.captions_per_example == 2
  assert config.augmented_sides == ("image", "text")
  assert checked({}).captions_per_example == 1


@pytest.mark.parametrize(
  "texts, sides",
  [
    ({"structure": "bridge"}, ("image",)),
    ({"structure": "bridge", "structure.bridge.side": "text"}, ("text",)),
    ({"structure": "alignment"}, ()),
    ({"structure": "separation"}, ("image", "text")),
    (
      {
        "structure": "consistency",
        "structure.consistency.augmented": "0",
        "structure.consistency.paired": "0",
      },
      (),
    ),
    ({"structure": "separation", "other_view": "momentum"}, ()),
  ],
)
def test_the_sides_of_which_a_step_sees_another_view(texts, sides):
  assert checked(registry.draft(texts)).augmented_sides == sides


def test_bounds_themselves_are_allowed():
  config = checked(
    {
      "seed": 2**31 - 2,
      "ema_decay": 1,
      "augment": {"flip": 1, "hue": 0.5},
      "optimizer": {"learning_rate": 0},
    }
  )
  assert config.augment.flip == 1.0
  # A whole number where a float is wanted is one.
  assert type(config.augment.flip) is float


def test_how_a_run_is_logged_and_kept_may_change():
  operation = {
    "num_threads": 9,
    "log_every": 3,
    "checkpoint_every": 2,
    "keep_checkpoints": 5,
    "keep_every": 4,
    "keep_best": True,
    "skip_nonfinite": 7,
  }
  before = checked({"steps": 9})
  after = checked({"steps": 9, **operation})
  assert config_lib.with_operation_of(after, before) == after
  assert config_lib.with_operation_of(checked({"seed": 1}), before) == before


def changed():
  draft = config_lib.default_config()
  draft.steps = 7
  draft.data = "folder"
  draft.data.path = "déjà vu"
  draft.augment.crop_scale = (0.25, 0.75)
  draft.model.overrides = {"image": {"widths": [8]}}
  draft.optimizer.learning_rate = 1e-7
  return parse(draft)


def test_round_trip_through_json():
  config = changed()
  stored = json.loads(json.dumps(config.to_dict()))
  assert parse(stored) == config
  assert parse(stored).to_dict() == config.to_dict() == stored


def test_first_difference():
  ours = changed().to_dict()
  assert config_lib.first_difference(ours, changed().to_dict()) is None
  theirs = changed().to_dict()
  theirs["data"]["path"] = "elsewhere"
  theirs["optimizer"]["beta1"] = 0.1
  assert config_lib.first_difference(ours, theirs) == (
    "data.path",
    "déjà vu",
    "elsewhere",
  )
  # A field that one of them lacks is a difference, whichever it is.
  del theirs["data"]["path"]
  found = config_lib.first_difference(ours, theirs)
  assert found == ("data.path", "déjà vu", None)
  found = config_lib.first_difference(theirs, ours)
  assert found == ("data.path", None, "déjà vu")
  assert config_lib.first_difference({}, {"new": 1}) == ("new", None, 1)
  assert config_lib.first_difference({"a": {"b": 1}}, {"a": 2}) == (
    "a",
    {"b": 1},
    2,
  )
