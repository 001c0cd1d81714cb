"""Tests of contrastive_jax.training.config.draft: names, texts and values."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import ConfigError
from tests.training.config import registry

OWN = "tests.training.config.own"


def error_of(texts):
  with pytest.raises(ConfigError) as caught:
    config_lib.checked(registry.draft(texts))
  message = str(caught.value)
  assert "\n" not in message
  return message


@pytest.mark.parametrize(
  "name, nearest",
  [
    ("lr", "optimizer.learning_rate"),
    ("learning_rate", "optimizer.learning_rate"),
    ("optimizer.lr", "optimizer.learning_rate"),
    ("optimizer.learning_rte", "optimizer.learning_rate"),
    ("model.learning_rate", "optimizer.learning_rate"),
    ("optimiser.beta2", "optimizer.beta2"),
    ("precision", "model.dtype"),
    ("loss.init_logit_scale", "loss.temperature"),
    ("loss.max_logit_scale", "loss.temperature_mode.min_temperature"),
    ("warmup", "optimizer.schedule.warmup_share"),
    ("step", "steps"),
    ("bacth_size", "batch_size"),
    ("bs", "batch_size"),
    ("model.image_sise", "model.image_size"),
    ("model.frozen", "objective.frozen"),
    ("structure.bridge_side", "structure.bridge.side"),
    ("loss.name", "loss=clip"),
    ("evaluation.knn.evry", "evaluation.knn.every"),
    ("steps.more", "steps"),
  ],
)
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(name, nearest):
  message = error_of({"evaluation": "retrieval,knn", name: "1"})
  assert message.startswith(f"config.{name} is not a field; ")
  assert message.endswith(f"did you mean config.{nearest}?")


FIELDS = [
  (texts, path, f, wanted)
  for spot in registry.spots()
  for name in spot.kind.variants
  for texts in [{**spot.lead, spot.path: name}]
  for place in [f"{spot.path}.{name}" if spot.several else spot.path]
  for path, f, wanted in registry.leaves(spot.kind.find(name), place)
] + [({}, *leaf) for leaf in registry.leaves(config_lib.Config)]


@pytest.mark.parametrize(
  "texts, path, f, wanted",
  [pytest.param(*one, id=f"{n}-{one[1]}") for n, one in enumerate(FIELDS)],
)
def test_every_field_is_set_by_a_text_as_by_python(texts, path, f, wanted):
  assert len(f.metadata["doc"]) > 3
  value = registry.another(f, wanted)
  by_text = registry.draft({**texts, path: registry.text_of(value)})
  found = registry.value_at(by_text, path)
  assert found == value and type(found) is type(value)
  by_python = registry.draft(texts)
  before = registry.value_at(by_python, path)
  holder, name = by_python._walk(path)
  setattr(holder, name, before)  # A default is a value that is allowed.
  assert registry.value_at(by_python, path) == before != value
  setattr(holder, name, value)
  assert by_python._plain() == by_text._plain()


@pytest.mark.parametrize(
  "path, text, value",
  [
    ("loss.temperature", "0.07", 0.07),
    ("loss.temperature", "1", 1.0),
    ("steps", "20", 20),
    ("fsdp", "True", True),
    ("fsdp", "false", False),
    ("fsdp", "1", True),
    ("tokenizer", "7", "7"),
    ("objective.frozen", "", ()),
    ("objective.frozen", "image, text", ("image", "text")),
    ("objective.frozen", "('text',)", ("text",)),
    ("augment.crop_scale", "0.1,1", (0.1, 1.0)),
    ("augment.crop_scale", "(0.1, 1)", (0.1, 1.0)),
    ("augment.crop_scale", "[0.1, 1.0]", (0.1, 1.0)),
    (
      "model.overrides",
      '{"image": {"widths": [8, 16]}, "text_dropout": 0.5}',
      {"image": {"widths": (8, 16)}, "text_dropout": 0.5},
    ),
    (
      "model.overrides",
      "{'image': {'widths': (8,)}}",
      {"image": {"widths": (8,)}},
    ),
  ],
)
def test_texts_are_read_as_their_fields_type(path, text, value):
  found = registry.value_at(registry.draft({path: text}), path)
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  "path, text, wanted",
  [
    ("steps", "abc", "int"),
    ("steps", "2.0", "int"),
    ("steps", "", "int"),
    ("microbatches", "two", "int"),
    ("steps", "9" * 5000, "int"),
    ("fsdp", "yes", "bool"),
    ("optimizer.beta1", "x", "float"),
    ("augment.crop_scale", "0.1,a", "tuple of float, float"),
    ("augment.crop_scale", "(0.1", "tuple of float, float"),
    ("data.languages", "(" * 9999, "tuple of str, ..."),
    ("model.overrides", "[1", "dict of str, Any"),
    ("model.overrides", "[" * 99999, "dict of str, Any"),
    ("model.overrides", "{[]: 1}", "dict of str, Any"),
  ],
)
def test_a_text_of_another_type_is_refused(path, text, wanted):
  message = error_of({path: text})
  assert message.startswith(f"config.{path} must be of type {wanted}; got ")


def test_a_group_of_fields_is_no_value():
  for path, first in (
    ("augment", "augment.random_resized_crop"),
    ("structure.bridge", "structure.bridge.NAME"),
  ):
    said = error_of({"structure": "bridge", path: "x"})
    assert f"config.{path} is a group of fields" in said
    assert f"config.{first}" in said


@pytest.mark.parametrize(
  "path, value, said",
  [
    ("steps", "abc", "must be of type int; got 'abc'."),
    ("steps", 2.0, "must be of type int; got 2.0."),
    ("steps", True, "must be of type int; got True."),
    ("steps", None, "must be of type int; got None."),
    ("model.remat", 1, "must be of type bool; got 1."),
    ("tokenizer", 3, "must be of type str; got 3."),
    ("optimizer.beta1", "x", "must be of type float; got 'x'."),
    ("optimizer.beta1", True, "must be of type float; got True."),
    ("augment.crop_scale", (0.1,), "must be a tuple of 2"),
    ("augment.crop_scale", "0.1,0.2", "must be a tuple of 2"),
    ("augment.crop_scale", (0.1, "a"), "must be of type float; got 'a'."),
    ("augment.crop_scale", (0.1, math.nan), "must be a finite number"),
    ("data.languages", "en", "must be a tuple"),
    ("model.overrides", "{}", "must be a dict"),
    ("steps", -1, "must be at least 0; got -1."),
    ("seed", 2**31, "must be in [0, 2147483646]; got 2147483648."),
    ("augment.flip", 1.5, "must be in [0, 1]; got 1.5."),
    ("optimizer.learning_rate", math.inf, "must be a finite number"),
    ("optimizer.learning_rate", math.nan, "must be a finite number"),
    ("optimizer.beta2", 1, "must be in"),
    ("objective.frozen", ("txt",), "must be one of image, text; got 'txt'."),
    ("model.dtype", "float61", "got 'float61'. Did you mean 'bfloat16'?"),
    ("optimizer", 3, "must be a name, one of adamw, lars, muon; got 3."),
    ("evaluation", 3, "must be a tuple of names; got 3."),
    ("evaluation", ([],), "must be a tuple of names; got ([],)."),
    ("augment", 3, "is a group of fields"),
    ("loss", "siglip", "got 'siglip'. Did you mean 'sigmoid'?"),
    ("data", "fodler", "got 'fodler'. Did you mean 'folder'?"),
    ("evaluation", ("knnn",), "got 'knnn'. Did you mean 'knn'?"),
    ("data", f"{OWN}:Absent", "cannot import"),
    ("data", "no_such_module:Pairs", "ModuleNotFoundError"),
    ("data", ":Pairs", "cannot import"),
    ("data", f"{OWN}:NUMBER", "must name a frozen dataclass"),
    ("data", f"{OWN}:Mutable", "must name a frozen dataclass"),
    ("data", f"{OWN}:Named", "must have no field 'name'"),
  ],
)
def test_a_value_that_a_field_cannot_have_is_refused(path, value, said):
  draft = config_lib.default_config()
  holder, name = draft._walk(path)
  with pytest.raises(ConfigError) as caught:
    setattr(holder, name, value)
  assert str(caught.value).startswith(f"config.{path} ")
  assert said in str(caught.value)


def test_numbers_of_numpy_become_pythons():
  draft = config_lib.default_config()
  draft.steps = np.int64(7)
  draft.optimizer.learning_rate = np.float64(0.5)
  draft.augment.crop_scale = np.asarray([0.25, 0.5], np.float32)
  assert type(draft.steps) is int
  assert type(draft.optimizer.learning_rate) is float
  assert draft.augment.crop_scale == (0.25, 0.5)
  assert type(draft.augment.crop_scale[0]) is float


def test_a_name_that_a_group_lacks_is_looked_for_inside_of_it():
  draft = config_lib.default_config()
  draft.loss = "augmented"
  draft.loss.rate_schedule = "visits"
  draft.loss.rate_schedule = {"decay": 0.5}
  draft.loss.rate = 0.25
  assert draft.loss.e_step.rate_schedule.decay == draft.loss.decay == 0.5
  draft.structure = ("bridge", "consistency")
  draft.structure.bridge.weight = 0.5
  draft.structure.consistency = {"weight": 2.0, "intra": 0.0}
  config = config_lib.checked(draft)
  assert config.loss.e_step.rate == 0.25
  terms = config.structure.terms
  assert [*terms] == ["bridge", "consistency"]
  assert (terms["bridge"].weight, terms["consistency"].weight) == (0.5, 2.0)


def test_another_choice_keeps_what_was_given_to_the_fields_that_both_have():
  draft = config_lib.default_config()
  draft.loss.temperature = 0.2
  draft.loss.temperature_mode = "fixed"
  draft.loss.label_smoothing = 0.5
  draft.optimizer.warmup_share = 0.25
  draft.optimizer.beta2 = 0.5
  draft.optimizer.learning_rate = 0.5
  draft.data.languages = ("en",)
  default = config_lib.default_config()
  default.override(
    {"loss": "augmented", "optimizer": "muon", "data": "openclipart"}
  )
  # By flags, as by assignments.
  draft.override({"loss": "augmented", "optimizer": "lars"})
  assert (draft.loss.temperature, draft.optimizer.warmup_share) == (0.2, 0.25)
  assert draft.loss.temperature_mode.variant() == "fixed"
  draft.optimizer, draft.data = "muon", "openclipart"
  # A rate means something else to each optimiser.
  assert draft.optimizer.learning_rate == default.optimizer.learning_rate
  # A field that the choice in between had not is forgotten.
  assert draft.optimizer.beta2 == default.optimizer.beta2
  assert draft.data._plain() == default.data._plain()
  draft.loss.temperature_mode = "robust"
  draft.loss = "clip"
  assert draft.loss.label_smoothing == 0.0 and draft.loss.temperature == 0.2
  # The loss has no such mode.
  assert draft.loss.temperature_mode.variant() == "learned"
  # Nor the objective so many images, nor this loss a mode that is learned.
  draft.objective.images_per_concept = 4
  draft.objective = "simclr"
  assert draft.objective.images_per_concept == 1
  assert draft.loss.variant() == "nt_xent" and draft.loss.temperature == 0.2
  assert draft.loss.temperature_mode.variant() == "fixed"
  # A mapping is the whole.
  draft.loss = {"name": "augmented"}
  assert draft.loss.temperature == default.loss.temperature
  config_lib.checked(draft)


def test_a_mode_that_a_mapping_names_and_its_loss_has_not_is_refused():
  mode = {"name": "clip", "temperature_mode": "robust"}
  with pytest.raises(
    ConfigError, match=r"loss\.temperature_mode.*loss=augmented.*loss=clip"
  ):
    config_lib.checked({"loss": mode})


def test_a_choice_puts_its_defaults_in_the_place_of_the_former_fields():
  draft = config_lib.default_config()
  draft.loss.label_smoothing = 0.5
  draft.loss = "augmented"
  draft.loss.e_step = "conjugate"
  draft.loss.e_step.log_alpha = 2.0
  draft.loss.e_step = "moving_average"
  draft.loss = "clip"
  assert draft._plain() == config_lib.default_config()._plain()


def test_to_choose_what_is_chosen_changes_nothing():
  draft = config_lib.default_config()
  draft.objective.captions_per_example = 3
  draft.loss.label_smoothing = 0.5
  draft.structure = ("bridge", "consistency")
  draft.structure.bridge.weight = 0.5
  draft.evaluation = ("retrieval", "knn")
  draft.evaluation.retrieval.every = 7
  before = draft._plain()
  for path in ("objective", "loss", "optimizer", "data", "other_view"):
    setattr(draft, path, getattr(draft, path).variant())
  draft.structure = "bridge,consistency"
  assert draft._plain() == before
  # Members of a group that stay keep their fields.
  draft.structure = ("alignment", "bridge")
  draft.evaluation = "geometry,retrieval"
  assert draft.structure.bridge.weight == 0.5
  assert draft.structure.alignment.weight == 1.0
  assert [*draft.evaluation.evaluators] == ["geometry", "retrieval"]
  assert draft.evaluation.retrieval.every == 7
  # Another objective brings evaluators of its own.
  draft.objective = "albef"
  assert draft.evaluation.retrieval.every == 200
  # A mapping is the whole.
  draft.structure = {"bridge": {}}
  assert draft.structure.bridge.weight == 1.0


@pytest.mark.parametrize(
  "texts, values",
  [
    (
      {"loss": "augmented", "loss.rate": "0.25"},
      {"loss.e_step.rate": 0.25},
    ),
    (
      {
        "loss": "augmented",
        "loss.e_step": "moving_average",
        "loss.rate": "0.25",
        "loss.rate_schedule": "visits",
        "loss.decay": "0.5",
        "loss.temperature": "0.5",
      },
      {
        "loss.e_step.rate": 0.25,
        "loss.e_step.rate_schedule.decay": 0.5,
        "loss.temperature": 0.5,
      },
    ),
    (
      {
        "objective": "vqa",
        "objective.answering": "rank",
        "objective.candidates": "7",
        "data": "scenes",
        "data.scenes": "9",
        "evaluation.task.every": "5",
        "initial": "weights",
        "initial.weights": "w",
      },
      {
        "objective.answering.candidates": 7,
        "data.scenes": 9,
        "evaluation.task.every": 5,
        "initial.weights": "w",
      },
    ),
    (
      {
        "objective": "albef",
        "loss": "augmented",
        "structure": "bridge",
        "structure.bridge.weight": "0.5",
        "other_view": "momentum",
        "other_view.momentum": "0.5",
        "evaluation": "geometry,retrieval",
        "evaluation.retrieval.every": "3",
      },
      {
        "structure.bridge.weight": 0.5,
        "other_view.momentum": 0.5,
        "evaluation.retrieval.every": 3,
      },
    ),
    (
      {
        "data": f"{OWN}:Pairs",
        "data.sides": "4,5",
        "evaluation": f"{OWN}:Measured,geometry",
        f"evaluation.{OWN}:Measured.every": "3",
      },
      {
        "data.sides": (4, 5),
        f"evaluation.{OWN}:Measured.every": 3,
      },
    ),
  ],
)
def test_the_order_of_flags_does_not_matter(texts, values):
  @given(order=st.permutations(list(texts)))
  @settings(max_examples=30, deadline=None)
  def check(order):
    made = registry.draft({name: texts[name] for name in order})
    for path, value in values.items():
      assert registry.value_at(made, path) == value
    config = config_lib.checked(made)
    # Nor that of the keys of a mapping.
    assert config_lib.checked(backwards(config.to_dict())) == config

  check()


def backwards(value):
  """Nested dicts whose keys are in the other order."""
  if not isinstance(value, dict):
    return value
  return {key: backwards(value[key]) for key in reversed(value)}


def choose(draw, cls, path):
  """Texts and values of a random choice of everything inside of a class."""
  texts, values = {}, {}
  for at, f, wanted in registry.leaves(cls, path):
    if draw(st.booleans()):
      values[at] = registry.another(f, wanted)
      texts[at] = registry.text_of(values[at])
  for spot in registry.spots(cls, path):
    if spot.lead:
      continue
    chosen = draw(
      st.lists(
        st.sampled_from(list(spot.kind.variants)),
        min_size=1,
        max_size=2 if spot.several else 1,
        unique=True,
      )
    )
    texts[spot.path] = ",".join(chosen)
    for name in chosen:
      below = f"{spot.path}.{name}" if spot.several else spot.path
      more = choose(draw, spot.kind.find(name), below)
      texts, values = texts | more[0], values | more[1]
  return texts, values


@st.composite
def flags(draw):
  """Flags of the default objective in any order, and the values that they set."""
  texts, values = choose(draw, config_lib.Config, "")
  kept = {name for name in texts if name.partition(".")[0] != "objective"}
  order = draw(st.permutations(sorted(kept)))
  return {name: texts[name] for name in order}, {
    name: value for name, value in values.items() if name in kept
  }


@given(flags())
@settings(max_examples=50, deadline=None)
def test_whatever_is_chosen_holds_what_was_given(found):
  texts, values = found
  made = config_lib.default_config()
  made.override(texts)
  for path, value in values.items():
    assert registry.value_at(made, path) == value


def test_a_drafts_fields_are_listed():
  draft = config_lib.default_config()
  assert {"objective", "loss", "steps"} <= {*dir(draft)}
  assert dir(draft.loss.temperature_mode) == ["min_temperature"]
  assert not hasattr(draft, "_absent")


def test_a_copy_of_a_draft_is_another_draft():
  draft = config_lib.default_config()
  draft.override({"loss": "augmented", "structure": "bridge"})
  other = copy.deepcopy(draft)
  assert config_lib.checked(other) == config_lib.checked(draft)
  other.override(
    {
      "seed": 1,
      "loss.rate": 0.25,
      "structure.bridge.weight": 2.0,
      "structure": ("bridge", "alignment"),
      "model.preset": "small",
      "other_view": "momentum",
    }
  )
  other.model.overrides["embed_dim"] = 8
  kept = config_lib.default_config()
  kept.override({"loss": "augmented", "structure": "bridge"})
  assert config_lib.checked(draft) == config_lib.checked(kept)
  # A field that was given in the copy alone is refused there alone.
  other.structure, draft.structure = (), ()
  assert config_lib.checked(draft).other_view is None
  with pytest.raises(ConfigError, match=r"config\.other_view "):
    config_lib.checked(other)
