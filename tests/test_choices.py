"""Tests of contrastive_jax.choices: variants found by name, and stored."""

import dataclasses
import json
from typing import Any

import pytest

from contrastive_jax import choices
from contrastive_jax.choices import Kind, choice, field, section, several

HERE = __name__


@dataclasses.dataclass(frozen=True)
class Round:
  """A shape."""

  radius: float = field(1.0, "Half of the width.", low=0)


@dataclasses.dataclass(frozen=True)
class Square:
  """A shape."""

  sides: tuple[float, float] = field((1.0, 2.0), "Both sides.", low=0)
  labels: dict[str, Any] = dataclasses.field(default_factory=dict)


SHAPES = Kind("shape", {"round": f"{HERE}:Round", "square": f"{HERE}:Square"})


@dataclasses.dataclass(frozen=True)
class Pen:
  """A group of fields."""

  width: int | None = field(2, "Pixels.", low=1)


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A choice, several, a group, and a value."""

  shape: Any = choice(SHAPES, "round", "The shape.")
  more: dict[str, Any] = several(SHAPES, ("square",), "Further shapes.")
  pen: Pen | None = section(Pen, "The pen.")
  colour: str = field("red", "Colour.", among=("red", "blue"))


def test_variants_are_found_by_name_and_named():
  assert SHAPES.find("round") is Round
  assert SHAPES.name_of(Round()) == SHAPES.name_of(Round) == "round"
  # Somebody's own class has its place as its name.
  other = Kind("shape", {})
  assert other.find(f"{HERE}:Round") is Round
  assert other.name_of(Round(2.0)) == f"{HERE}:Round"
  # A place that has a name goes by the name.
  assert SHAPES.name_of(SHAPES.find(f"{HERE}:Square")) == "square"
  assert SHAPES.having("radius") == ["round"]
  assert SHAPES.having("width") == []


@pytest.mark.parametrize(
  "name, said",
  [
    ("rond", ("round, square", "'rond'", "'round'")),
    (f"{HERE}:Absent", ("Absent", "AttributeError")),
    ("absent_module:Round", ("absent_module", "ModuleNotFoundError")),
    (":Round", (":Round", "ValueError")),
    (".choices:Round", (".choices", "TypeError")),
    (f"{HERE}:HERE", ("frozen dataclass", f"{HERE}:HERE")),
    (f"{HERE}:Kind", ("frozen dataclass", f"{HERE}:Kind")),
  ],
)
def test_a_name_behind_which_there_is_no_variant_is_refused(name, said):
  with pytest.raises(ValueError) as caught:
    SHAPES.find(name)
  assert all(part in str(caught.value) for part in said)


def test_a_module_may_raise_anything(tmp_path, monkeypatch):
  (tmp_path / "broken_shapes.py").write_text("1 / 0\n")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ValueError) as caught:
    SHAPES.find("broken_shapes:Round")
  assert "ZeroDivisionError" in str(caught.value)
  assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_to_dict_has_names_and_no_absent_groups():
  drawing = Drawing(
    shape=Square(labels={"a": (1, [2])}), more={"round": Round(3.0)}, pen=None
  )
  stored = choices.to_dict(drawing)
  assert stored == {
    "shape": {"name": "square", "sides": [1.0, 2.0], "labels": {"a": [1, [2]]}},
    "more": {"round": {"radius": 3.0}},
    "colour": "red",
  }
  assert json.loads(json.dumps(stored)) == stored
  assert choices.to_dict(Drawing())["pen"] == {"width": 2}


def test_defaults_are_made_for_each():
  first, second = Drawing(), Drawing()
  assert first == second and first.more is not second.more
  assert first.more == {"square": Square()}
