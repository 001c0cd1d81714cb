"""A field of what was not chosen is refused: a walk of the registry, no list."""

import json
import re

import pytest

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import ConfigError, names
from contrastive_jax.training.objectives.choices import OBJECTIVES
from tests.training.config import registry

SPOTS = list(registry.spots())
PAIRS = [
  pytest.param(spot, chosen, other, id=f"{spot.id}={chosen}-{other}")
  for spot in SPOTS
  for chosen in spot.kind.variants
  for other in spot.kind.variants
  if chosen != other
]
PATHS = [
  name.removeprefix("config.") for name, _ in names.paths(config_lib.Config)
]


def refusal(draft, path):
  """(place, owners, chosen) that the error on a field of another variant names."""
  with pytest.raises(ConfigError) as caught:
    draft.assign(path, "1")
  found = re.fullmatch(
    rf"config\.{re.escape(path)} belongs to ([\w.]+)=(.+?);"
    r" this run has ([\w.]+)=(.+)\.",
    str(caught.value),
  )
  assert found, caught.value
  place, owners, same_place, chosen = found.groups()
  assert place == same_place
  return place, owners.split(" or "), chosen


def own(draft, path):
  """Whether a draft has a field."""
  try:
    draft._walk(path)
  except ConfigError:
    return False
  return True


def test_the_walk_finds_choices_inside_of_choices():
  found = {spot.path for spot in SPOTS}
  assert {"objective", "loss.e_step.rate_schedule", "structure"} <= found
  assert {"other_view.text", "optimizer.schedule", "evaluation"} <= found
  assert len(PATHS) == len(set(PATHS)) > 150


DEFAULT = registry.draft({})
ABSENT = [path for path in PATHS if not own(DEFAULT, path)]


def test_most_fields_are_not_of_the_default_run():
  assert len(ABSENT) >= 58


@pytest.mark.parametrize("path", ABSENT)
def test_the_default_run_refuses_the_fields_of_other_choices(path):
  place, owners, chosen = refusal(config_lib.default_config(), path)
  at_place = {(s.path, tuple(s.kind.variants)): s for s in SPOTS}.values()
  [kind] = {s.kind for s in at_place if s.path == place}
  # An owner has the next part of the path, and what was chosen has not.
  below = path.removeprefix(f"{place}.").split(".")
  for owner in owners:
    assert owner == below[0] or registry.has(kind.find(owner), below[0])
  for name in chosen.split(","):
    assert name not in owners
    assert name == "none" or name in kind.variants


@pytest.mark.parametrize("spot, chosen, other", PAIRS)
def test_a_field_of_another_variant_is_refused(spot, chosen, other):
  draft = registry.draft({**spot.lead, spot.path: chosen})
  theirs = [path for path, _ in names.paths(spot.kind.find(other), "")]
  for name in theirs:
    if spot.several:
      path = f"{spot.path}.{other}{name}"
      assert refusal(draft, path) == (spot.path, [other], chosen)
      continue
    path, top = f"{spot.path}{name}", name.split(".")[1]
    if own(draft, f"{spot.path}.{top}"):
      continue
    place, owners, said = refusal(draft, path)
    assert (place, said) == (spot.path, chosen)
    assert other in owners
    for owner in owners:
      assert top in {f for f in spot.kind.find(owner).__dataclass_fields__}


@pytest.mark.parametrize(
  "spot, chosen, other",
  [pair for pair in PAIRS if pair.values[0].several],
)
def test_one_of_several_has_no_field_of_another(spot, chosen, other):
  draft = registry.draft({**spot.lead, spot.path: f"{chosen},{other}"})
  ours = spot.kind.find(chosen).__dataclass_fields__
  for name in spot.kind.find(other).__dataclass_fields__:
    if name in ours:
      continue
    path = f"{spot.path}.{chosen}.{name}"
    with pytest.raises(ConfigError) as caught:
      draft.assign(path, "1")
    said = str(caught.value)
    assert said.startswith(f"config.{path} belongs to ")
    assert f"{spot.path}.{other}" in said
    assert said.endswith(f"not to {spot.path}.{chosen}.")


@pytest.mark.parametrize("chosen", OBJECTIVES.variants)
def test_an_objective_has_no_groups_but_those_that_it_uses(chosen):
  draft = registry.draft({"objective": chosen})
  uses = OBJECTIVES.find(chosen).uses
  optional = {g for o in OBJECTIVES.variants for g in OBJECTIVES.find(o).uses}
  for path in PATHS:
    group = path.partition(".")[0]
    if group not in optional - {*uses}:
      continue
    place, owners, said = refusal(draft, path)
    assert (place, said) == ("objective", chosen)
    assert owners == [
      other
      for other in OBJECTIVES.variants
      if group in OBJECTIVES.find(other).uses
    ]
  config = config_lib.checked(completed({"objective": chosen}))
  for group in optional:
    assert (getattr(config, group) is None) == (group not in uses)


@pytest.mark.parametrize("chosen", OBJECTIVES.variants)
@pytest.mark.parametrize(
  "texts", [{"other_view": "momentum"}, {"other_view.momentum": "0.5"}]
)
def test_another_view_that_nothing_takes_is_refused(chosen, texts):
  made = completed({"objective": chosen})
  if "other_view.momentum" in texts:
    made.other_view = "momentum"
  made.override(texts)
  with pytest.raises(ConfigError) as caught:
    config_lib.checked(made)
  said = str(caught.value)
  assert said.startswith("config.other_view belongs to ")
  if "structure" in OBJECTIVES.find(chosen).uses:
    assert f"this run has loss={made.loss.variant()}, structure=none" in said
  else:
    assert f"this run has objective={chosen}" in said


def completed(texts):
  """A draft with data that its objective can train on."""
  made = registry.draft(texts)
  task = made.objective._cls.task
  if "data" not in texts and task not in made.data._cls.tasks:
    made.data = "scenes"
  return made


def valid(texts):
  """A whole run that has these choices; None if no objective goes with them.

  What a user must give, such as a folder, is "x".
  """
  leads = [texts["objective"]] if "objective" in texts else OBJECTIVES.variants
  for objective in leads:
    every = {"objective": objective, **texts}
    if any(name.startswith("other_view") for name in texts):
      every["structure"] = "bridge"
    try:
      made = completed(every)
      for _ in range(3):
        try:
          return config_lib.checked(made)
        except ConfigError as error:
          path = re.match(r"config\.([\w.]+)", str(error))[1]
          if registry.value_at(made, path) not in ("", ()):
            raise
          made.assign(path, "x")
    except ConfigError:
      continue
  return None


# Temperature modes do not go with every loss.
RUNS = {
  f"{spot.id}={name}": (spot.kind, name, texts)
  for spot in SPOTS
  for name in spot.kind.variants
  if valid(texts := {**spot.lead, spot.path: name})
}


def test_every_variant_is_in_a_valid_run():
  found = {(kind.name, name) for kind, name, _ in RUNS.values()}
  assert found == {(s.kind.name, n) for s in SPOTS for n in s.kind.variants}


def unused(cls, values, path="config"):
  """Names in a stored configuration that are no fields of what it chose."""
  kinds = {f.name: f.metadata for f in cls.__dataclass_fields__.values()}
  for name, value in values.items():
    meta = kinds.get(name)
    if meta is None:
      yield f"{path}.{name}"
    elif "section" in meta:
      yield from unused(meta["section"], value, f"{path}.{name}")
    elif "kind" in meta:
      inner = {k: v for k, v in value.items() if k != "name"}
      variant = meta["kind"].find(value["name"])
      yield from unused(variant, inner, f"{path}.{name}")
    elif "several" in meta:
      for key, one in value.items():
        variant = meta["several"].find(key)
        yield from unused(variant, one, f"{path}.{name}.{key}")


@pytest.mark.parametrize("name", RUNS)
def test_a_stored_run_names_what_it_uses_and_comes_back(name):
  texts = RUNS[name][2]
  config = valid(texts)
  stored = config.to_dict()
  assert list(unused(config_lib.Config, stored)) == []
  uses = OBJECTIVES.find(stored["objective"]["name"]).uses
  for group in ("captions", "initial", "loss", "structure", "tokenizer"):
    assert (group in stored) == (group in uses)
  assert ("other_view" in stored) == (config.other_view is not None)
  for path, variant in texts.items():
    assert variant in str(stored[path.partition(".")[0]])
  assert config_lib.checked(json.loads(json.dumps(stored))) == config
