"""Tests of contrastive_jax.training.config."""

import dataclasses
import json
import math

import ml_collections
import pytest

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import ConfigError, parse, workdirs
from contrastive_jax.training.runs import runner


def nested(name, value):
  for part in reversed(name.split(".")):
    value = {part: value}
  return value


def defaults():
  """The default run, the sizes of its preset filled in."""
  model = config_lib.Model(image_size=32, context_length=48)
  return config_lib.Config(model=model)


def test_how_a_run_is_logged_and_kept_may_change(tmp_path):
  before = config_lib.parse({"steps": 9})
  (tmp_path / "config.json").write_text(json.dumps(before.to_dict()))
  after = {
    "steps": 9,
    "log_every": 3,
    "checkpoint_every": 2,
    "keep_checkpoints": 5,
    "keep_every": 4,
    "keep_best": True,
    "optimizer": {"skip_nonfinite": 7},
    "data": {"num_threads": 9},
  }
  assert not runner._is_fresh(tmp_path, config_lib.parse(after))
  after["optimizer"]["learning_rate"] = 0.5
  with pytest.raises(workdirs.WorkdirError, match="learning_rate"):
    runner._is_fresh(tmp_path, config_lib.parse(after))


def test_defaults_parse_and_absent_fields_keep_them():
  assert parse({}) == defaults()
  config = parse({"optimizer": {"beta1": 0.5}})
  assert config.optimizer == config_lib.Optimizer(beta1=0.5)
  assert config.data == config_lib.Data()


def test_every_field_is_listed_with_its_default_and_a_description():
  listed = {name: default for name, default, _ in config_lib.fields()}
  config = config_lib.Config()
  for name, default in listed.items():
    value = config
    for part in name.split("."):
      value = getattr(value, part)
    assert value == default
  count = 0
  for field in dataclasses.fields(config):
    inner = getattr(config, field.name)
    if dataclasses.is_dataclass(inner):
      count += len(dataclasses.fields(inner))
    else:
      count += 1
  assert count == len(listed)
  descriptions = {name: doc for name, _, doc in config_lib.fields()}
  assert all(len(doc) > 3 for doc in descriptions.values())
  assert (
    "emoji, folder, fashion_mnist, openclipart" in descriptions["data.name"]
  )


@pytest.mark.parametrize(
  "name, nearest",
  [
    ("learning_rate", "optimizer.learning_rate"),
    ("optimizer.learning_rte", "optimizer.learning_rate"),
    ("model.learning_rate", "optimizer.learning_rate"),
    ("optimiser.beta2", "optimizer.beta2"),
    ("step", "steps"),
    ("batchsize", "batch_size"),
    ("model.image_sise", "model.image_size"),
    ("data.pth", "data.path"),
  ],
)
def test_unknown_fields_are_refused_with_the_nearest(name, nearest):
  with pytest.raises(ConfigError) as caught:
    parse(nested(name, 1))
  message = str(caught.value)
  assert "is not a field" in message
  assert message.endswith(f"did you mean config.{nearest}?")


@pytest.mark.parametrize(
  "name, value, said",
  [
    ("steps", "abc", "config.steps must be of type int; got 'abc'."),
    ("steps", 2.0, "config.steps must be of type int; got 2.0."),
    ("steps", True, "config.steps must be of type int; got True."),
    ("steps", None, "config.steps must be of type int; got None."),
    ("model.remat", 1, "config.model.remat must be of type bool; got 1."),
    ("data.path", 3, "config.data.path must be of type str; got 3."),
    ("optimizer.beta1", "x", "must be of type float; got 'x'."),
    ("optimizer.beta1", True, "config.optimizer.beta1"),
    ("optimizer", 3, "config.optimizer must be a group of fields; got 3."),
    ("augment.crop_scale", (0.1,), "must be 2 numbers; got (0.1,)."),
    ("augment.crop_scale", (0.1, "a"), "must be 2 numbers"),
    ("augment.crop_scale", (0.1, math.nan), "must be 2 numbers"),
    ("augment.crop_scale", 0.5, "must be 2 numbers; got 0.5."),
  ],
)
def test_wrong_types_are_refused_by_name(name, value, said):
  with pytest.raises(ConfigError) as caught:
    parse(nested(name, value))
  assert f"config.{name}" in str(caught.value)
  assert said in str(caught.value)


@pytest.mark.parametrize(
  "name, value, said",
  [
    ("steps", -1, "config.steps must be at least 0; got -1."),
    ("seed", -1, "config.seed must be in [0, 2147483646]; got -1."),
    ("seed", 2**31, "config.seed must be in"),
    ("augment.flip", 1.5, "must be in [0, 1]; got 1.5."),
    ("optimizer.learning_rate", -1e-3, "must be at least 0; got -0.001."),
    ("optimizer.learning_rate", math.inf, "must be a finite number"),
    ("optimizer.learning_rate", math.nan, "must be a finite number"),
    ("optimizer.beta2", 1, "config.optimizer.beta2 must be in"),
    ("data.max_bad_share", 2, "must be in [0.0, 1.0]; got 2.0."),
    ("loss.max_logit_scale", 0.5, "must be at least 1; got 0.5."),
  ],
)
def test_values_out_of_range_are_refused(name, value, said):
  with pytest.raises(ConfigError) as caught:
    parse(nested(name, value))
  assert f"config.{name}" in str(caught.value)
  assert said in str(caught.value)


@pytest.mark.parametrize(
  "values, said",
  [
    (
      {"loss": {"name": "sigmoid", "label_smoothing": 0.1}},
      "label_smoothing needs config.loss.name='clip'; got 'sigmoid': set"
      " config.loss.label_smoothing=0.",
    ),
    (
      {
        "objective": "simclr",
        "loss": {"name": "nt_xent"},
        "initial": {"weights": "x"},
      },
      "initial.weights is for two-tower and fusion models; got"
      " config.objective='simclr'",
    ),
    (
      {
        "objective": "albef",
        "loss": {"name": "soft_target"},
        "initial": {"text_weights": "x", "workdir": "y"},
      },
      "initial.workdir and config.initial.text_weights exclude each other",
    ),
    (
      {"initial": {"weights": "x", "image_weights": "y"}},
      "of the whole model; leave config.initial.image_weights empty",
    ),
    (
      {"initial": {"weights": "x", "allow": "missing, all"}},
      "must be some of missing, unexpected, misshapen; got 'all'",
    ),
    (
      {"model": {"frozen": "image, txt"}, "initial": {"weights": "x"}},
      "model.frozen must be some of image, text; got 'txt'",
    ),
    (
      {
        "objective": "albef",
        "loss": {"name": "soft_target"},
        "optimizer": {"tower_rate": 0.1},
      },
      "optimizer.tower_rate is for config.objective='clip'; got 'albef'",
    ),
    (
      {"model": {"frozen": "text"}, "initial": {"image_weights": "x"}},
      "model.frozen='text' needs weights for the text tower:"
      " config.initial.text_weights",
    ),
    (
      {
        "model": {"frozen": "image", "cache_features": True},
        "initial": {"weights": "x"},
      },
      "cache_features needs config.model.frozen=image,text; got 'image'",
    ),
    (
      {
        "model": {"frozen": "image,text", "cache_features": True},
        "initial": {"weights": "x"},
        "structure": {"consistency": 0.1},
      },
      "cache_features knows no other views",
    ),
    (
      {"initial": {"allow": "missing"}},
      "initial.allow='missing' needs config.initial.weights",
    ),
    (
      {
        "objective": "vqa",
        "loss": {"name": "cross_entropy"},
        "initial": {"part": "encoders"},
      },
      "initial.part='encoders' needs config.initial.workdir",
    ),
    (
      {"data": {"mixture": "1,2"}},
      "data.mixture is for config.data=records; got config.data.name='emoji'",
    ),
    (
      {"data": {"fit": "crop", "name": "scenes"}},
      "and for config.evaluation.benchmarks; got 'crop' with"
      " config.data.name='scenes': set config.data.fit=pad.",
    ),
    (
      {"loss": {"image_image": 0.5}},
      "needs an even config.data.images_per_concept; got 1",
    ),
  ],
)
def test_fields_that_do_not_go_together_are_refused(values, said):
  with pytest.raises(ConfigError) as caught:
    parse(values)
  assert said in str(caught.value)


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
  # As config.json has it, whatever a later version's preset says.
  saved = config.to_dict()["model"]
  assert (saved["image_size"], saved["context_length"]) == sizes


@pytest.mark.parametrize(
  "model, said",
  [
    ({"preset": "tinny"}, "got 'tinny'; did you mean 'tiny'?"),
    ({"image_size": -1}, "config.model.image_size must be at least 0; got -1."),
    ({"context_length": 1}, "config.model.context_length must be 0"),
  ],
)
def test_a_model_that_is_none_is_refused(model, said):
  with pytest.raises(ConfigError) as caught:
    parse({"model": model})
  assert said in str(caught.value)


def test_the_four_term_loss_takes_another_view_of_a_caption():
  config = parse({"loss": {"name": "clip_four_term"}})
  assert config.captions_per_example == 2
  assert config.augmented_sides == ("image", "text")
  assert parse({}).captions_per_example == 1


def test_bounds_themselves_are_allowed():
  config = parse(
    {
      "seed": 2**31 - 2,
      "augment": {"flip": 1, "hue": 0.5},
      "optimizer": {"learning_rate": 0, "ema_decay": 1},
    }
  )
  assert config.augment.flip == 1.0
  # An integer where a float is wanted is one.
  assert type(config.augment.flip) is float


@pytest.mark.parametrize(
  "values",
  [
    {"data": {"name": "records"}},
    {"data": {"name": "folder", "path": "photos"}},
    {"data": {"name": "tfds", "path": "cifar10"}},
    {"evaluation": {"benchmarks": "cifar10"}},
    {"steps": 0},  # For suites.
  ],
)
def test_squares_where_there_are_pictures(values):
  values = {**values, "data": {**values.get("data", {}), "fit": "stretch"}}
  assert parse(values).data.fit == "stretch"


@pytest.mark.parametrize(
  "name, value, nearest",
  [
    ("data.name", "fodler", "folder"),
    ("loss.name", "siglip", "sigmoid"),
    ("model.dtype", "float16", "bfloat16"),
  ],
)
def test_choices_are_listed_and_the_nearest_named(name, value, nearest):
  with pytest.raises(ConfigError) as caught:
    parse(nested(name, value))
  message = str(caught.value)
  assert f"config.{name} must be one of " in message
  assert f"got {value!r}. Did you mean {nearest!r}?" in message


@pytest.mark.parametrize(
  "values, said",
  [
    (
      {"batch_size": 10, "microbatches": 4},
      r"config.microbatches must divide config.batch_size \(10\); got 4",
    ),
    ({"data": {"name": "folder"}}, "needs config.data.path"),
    (
      {"loss": {"init_logit_scale": 50.0, "max_logit_scale": 20.0}},
      "init_logit_scale must be at most",
    ),
    (
      {
        "data": {
          name.removeprefix("data."): 0.0
          for name, _, _ in config_lib.fields()
          if name.startswith("data.") and name.endswith("_weight")
        }
      },
      "must be above 0",
    ),
    ([1, 2], "must be a mapping"),
    (None, "must be a mapping"),
  ],
)
def test_what_fields_say_together_is_checked(values, said):
  with pytest.raises(ConfigError, match=said):
    parse(values)


def test_messages_are_one_sentence_or_two_on_one_line():
  for bad in ({"stepps": 1}, {"steps": "a"}, {"data": {"name": "x"}}):
    with pytest.raises(ConfigError) as caught:
      parse(bad)
    assert "\n" not in str(caught.value)


def changed():
  return parse(
    {
      "steps": 7,
      "data": {"name": "folder", "path": "déjà vu", "languages": "en,日本"},
      "augment": {"crop_scale": (0.25, 0.75)},
      "model": {"overrides": '{"image": {"widths": [8]}}'},
      "optimizer": {"learning_rate": 1e-7},
    }
  )


def test_round_trip_through_json():
  config = changed()
  text = json.dumps(config.to_dict())
  assert parse(json.loads(text)) == config
  assert parse(json.loads(text)).to_dict() == config.to_dict()
  # Tuples come back as tuples: the configuration is hashable.
  assert hash(parse(json.loads(text))) == hash(config)


def test_round_trip_through_config_dict():
  values = config_lib.default_config()
  assert isinstance(values, ml_collections.ConfigDict)
  assert parse(values) == defaults()
  values.steps = 7
  values.data.name = "folder"
  values.data.path = "déjà vu"
  values.data.languages = "en,日本"
  values.augment.crop_scale = (0.25, 0.75)
  values.model.overrides = '{"image": {"widths": [8]}}'
  values.optimizer.learning_rate = 1e-7
  assert parse(values) == changed()
  # Each call gives its own.
  assert parse(config_lib.default_config()) == defaults()


def test_fields_that_were_moved_are_found_in_old_files():
  values = config_lib.default_config().to_dict()
  values["objective"], values["loss"]["name"] = "vqa", "cross_entropy"
  values["model"]["preset"] = "albef_tiny"
  values["fusion"]["initial"] = "runs/pretraining"
  del values["initial"]
  config = config_lib.parse(values)
  assert config.initial.workdir == "runs/pretraining"
  assert config.initial.part == "all"


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
  assert config_lib.first_difference({"a": {"b": 1}}, {"a": 2})[0] == "a"
