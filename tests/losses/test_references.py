"""The float64 references themselves."""

import dataclasses

import numpy as np
import pytest

from experiments.durability import cases
from tests.losses import structure_references

# Gradients that are not those of the value, by definition: of constants, and
# where a part of the loss is one.
HELD = {
  *("momentum_keys", "momentum_queries", "queue", "teacher_logits"),
  *("augmented_moco_v3/temperature", "prototype_log_partition/keys"),
  *("prototype_log_partition/queries", "prototype_log_partition/temperature"),
  *("scale_by_temperature/loss", "soft_target_contrastive/alpha"),
  "soft_target_contrastive/temperature",
}


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("name", cases.REFERENCES)
def test_reference_gradients_are_finite_differences(name, number):
  which = dataclasses.replace(
    cases.program(name, number), n=5, d=4, dtype="float32"
  )
  case = next(
    case
    for i in range(len(cases.KINDS))
    if (case := cases.draw(which, 0, i)).kind == "plain"
  )
  weights = np.random.default_rng(number).normal(size=case.weights.shape)
  case = dataclasses.replace(
    case,
    weights=weights,
    arrays={k: np.float64(v) for k, v in case.arrays.items()},
  )

  def moved(argument, by):
    arrays, scalars = (
      {k: v + by if k == argument else np.float64(v) for k, v in given.items()}
      for given in (case.arrays, case.scalars)
    )
    changed = dataclasses.replace(case, arrays=arrays, scalars=scalars)
    values = changed.reference().per_example
    return weights @ np.where(np.isfinite(values), values, 0.0)

  rng = np.random.default_rng(1)
  gradients = case.reference().gradients
  assert gradients.keys() == {*case.arrays, *case.scalars}
  for argument, gradient in gradients.items():
    if {argument, f"{name}/{argument}"} & HELD:
      continue
    step = 1e-5 * rng.normal(size=gradient.shape)
    if argument in case.scalars:
      step *= case.scalars[argument]
    near, far = (
      moved(argument, k * step) - moved(argument, -k * step) for k in (1, 2)
    )
    bound = 2e-8 * np.abs(gradient * step).sum()
    bound += 1e-14 * (1.0 + np.abs(moved(argument, 0.0)))
    error = (8.0 * near - far) / 12.0 - (gradient * step).sum()
    assert abs(error) <= bound, argument


def test_sizes_grow_where_terms_cancel():
  x = np.random.default_rng(0).normal(size=(4, 3))
  found = structure_references.geometric_consistency(x, x)
  assert not found.per_example.any() and found.sizes[""] > 1.0
  assert not found.gradients["image"].any() and found.sizes["image"] > 1.0
