"""Tests of contrastive_jax.field_values: of the field's type, or refused."""

from typing import Any

import pytest

from contrastive_jax import field_values


@pytest.mark.parametrize(
  "value, wanted, checks, found",
  [
    (1, float, {}, 1.0),
    ([1, 2], tuple[int, ...], {}, (1, 2)),
    ((), tuple[int, ...], {}, ()),
    ([1, 2], tuple[float, float], {}, (1.0, 2.0)),
    ({"a": [1, {"b": [2]}]}, dict[str, Any], {}, {"a": (1, {"b": (2,)})}),
    (3, int | None, {"low": 3, "high": 3}, 3),
    ("b", str, {"among": ("a", "b")}, "b"),
  ],
)
def test_checked_gives_the_fields_type(value, wanted, checks, found):
  got = field_values.checked(value, wanted, checks)
  assert got == found and type(got) is type(found)


@pytest.mark.parametrize(
  "value, wanted, checks, said",
  [
    (True, int, {}, "type int; got True"),
    (True, float, {}, "type float; got True"),
    (1, bool, {}, "type bool; got 1"),
    (float("inf"), float, {}, "finite number; got inf"),
    (2, int, {"low": 3}, "at least 3; got 2"),
    (2.5, float, {"low": 0, "high": 1}, "[0, 1]; got 2.5"),
    ("c", str, {"among": ("ab", "xy")}, "ab, xy; got 'c'"),
    ((1,), tuple[int, int], {}, "tuple of 2"),
    ("12", tuple[int, ...], {}, "got '12'"),
    ({1: 2}, tuple[int, ...], {}, "got {1: 2}"),
    ((1, 0), tuple[int, ...], {"low": 1}, "at least 1; got 0"),
    ([], dict[str, Any], {}, "dict; got []"),
  ],
)
def test_checked_refuses_what_a_field_cannot_hold(value, wanted, checks, said):
  with pytest.raises(ValueError) as caught:
    field_values.checked(value, wanted, checks)
  assert said in str(caught.value)
