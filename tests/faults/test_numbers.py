"""Numbers: a part of what experiments.durability.numbers checks, and that it sees."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.training import config as config_lib
from experiments.durability import cases, numbers, tape
from tests.exports import public_names
from tests.losses import augmented_references, references, structure_references

# Of losses these make inputs or read what is known.
NO_LOSSES = {
  *("Amortized", "BatchEstimate", "Conjugate", "MovingAverage", "e_step"),
  *("augmented_diagnostics", "clamp_logit_scale", "draw_auxiliary"),
  *("draw_bridge_time", "init_prototypes", "mask_tokens", "on_mesh"),
  "sample_hard_negatives",
}
EACH = 8  # Cases of a loss, all of one program.
PLAN = {name: (number, of) for name, number, of in numbers.plan(232)}


def test_every_public_loss_is_checked():
  assert set(cases.LOSSES) == set(public_names(losses)) - NO_LOSSES
  assert set(PLAN) == set(cases.LOSSES)
  assert {len(of) for _, of in PLAN.values()} == {EACH}


@pytest.mark.parametrize("name", PLAN)
def test_values_and_gradients(name):
  number, of = PLAN[name]
  which = cases.program(name, number)
  run = numbers.compiled(which)
  for i in of:
    found = numbers.check(cases.draw(which, 0, i), run)
    assert not found.problem, (i, found)


def test_a_plan_has_as_many_cases_as_it_says_and_all_shapes():
  for count in (1, 29, 1000, 10_000):
    parts = list(numbers.plan(count))
    assert sum(len(of) for _, _, of in parts) == count
  programs = [cases.program(name, number) for name, number, _ in parts]
  assert {(p.n, p.d) for p in programs} == set(cases.SHAPES)
  for name, loss in cases.LOSSES.items():
    own = [p for p in programs if p.loss == name]
    assert {p.dtype for p in own} == set(cases.DTYPES)
    assert len({str(p.options) for p in own}) == len(loss.options)
    extremes = set(cases.SHAPES[: cases.EXTREMES])
    assert extremes <= {(p.n, p.d) for p in own}


def test_a_case_follows_from_its_name():
  which = cases.program("augmented_clip", 7)
  first, again = (cases.draw(which, 3, 5) for _ in range(2))
  other = cases.draw(which, 4, 5)
  for name, x in first.arrays.items():
    np.testing.assert_array_equal(x, again.arrays[name])
    assert (x != other.arrays[name]).any()
  kinds = {cases.draw(which, 0, i).kind for i in range(8)}
  assert kinds == set(cases.KINDS)


# The formulas against the references of other tests, which were written apart.


def _inputs(name, number):
  """A case of a loss, and its formula's values and gradients."""
  which = cases.program(name, number)
  case = cases.draw(which, 0, 0)
  if case.kind == "huge":  # Exponentials of the references overflow.
    case = cases.draw(which, 0, 1)
  return case, *numbers.expected(case)


def _agree(root, found, values, gradients):
  pairs = [(root, values)] + [(found[k], v) for k, v in gradients.items()]
  for ours, theirs in pairs:
    # Both are rounded, in float64, and by it grow as exponents do.
    bound = 1e-9 * np.abs(theirs).max() + 1e-13 * ours.size.max()
    np.testing.assert_allclose(ours.value, theirs, rtol=0, atol=bound)


@pytest.mark.parametrize("number", range(5, 17))
@pytest.mark.parametrize("name", references.LOSSES)
def test_formulas_of_contrast(name, number):
  case, root, found = _inputs(name, number)
  options = {
    k: v
    for k, v in {**case.program.options, **case.known}.items()
    if k not in ("groups", "block_size")
  }
  scalars = {k: float(v) for k, v in case.scalars.items()}
  wanted = references.LOSSES[name](
    **case.arrays, **scalars, **options, weights=case.weights
  )
  _agree(root, found, wanted.per_example, wanted.gradients)


@pytest.mark.parametrize("number", range(5, 17))
@pytest.mark.parametrize("name", augmented_references.LOSSES)
def test_formulas_of_augmented_losses(name, number):
  case, *_ = _inputs(name, number)
  # The references do not cap the constant of the positive, and have one temperature.
  options = {**case.program.options, "include_positive": False}
  scalars = dict.fromkeys(case.scalars, case.scalars["temperature"])
  case = dataclasses.replace(
    case,
    program=dataclasses.replace(case.program, options=options),
    scalars=scalars,
  )
  root, found = numbers.expected(case)
  if "text_temperature" in found:
    both = found["temperature"], found["text_temperature"]
    found["temperature"] = tape.Factor(*(sum(x) for x in zip(*both)))
  known = dict(case.known)
  groups = known.pop("group_ids", None)
  wanted = augmented_references.LOSSES[name](
    *case.arrays.values(),
    *known.values(),
    temperature=np.float64(scalars["temperature"]),
    kappa=options["negative_mass"],
    cap=min(options.get("log_weight_cap", 50.0), 50.0),
    group_ids=groups,
    weights=case.weights,
  )
  gradients = {k: wanted.gradients[k] for k in (*case.arrays, "temperature")}
  _agree(root, found, wanted.per_example, gradients)


@pytest.mark.parametrize("number", range(5, 12))
def test_the_formula_of_geometric_consistency(number):
  case, root, found = _inputs("geometric_consistency", number)
  scalars = {k: float(v) for k, v in case.scalars.items()}
  rows, gradients = structure_references.geometric_consistency(
    *case.arrays.values(), **scalars, weights=case.weights
  )
  named = dict(zip(structure_references.ARRAYS, gradients))
  _agree(root, found, rows, named)


# What a check sees.


@pytest.mark.parametrize(
  "spoil, said",
  [
    (lambda rows, by: (rows.at[0].mul(1.001), by), "value: "),
    (lambda rows, by: (rows.at[0].set(jnp.nan), by), "value: not finite"),
    (lambda rows, by: (rows[1:], by), "value: shape"),
    (lambda rows, by: (rows, {**by, "image": -by["image"]}), "of image: "),
    (
      lambda rows, by: (rows, {**by, "text": by["text"].at[1].set(jnp.inf)}),
      "gradient of text: not finite",
    ),
    (
      lambda rows, by: (
        rows,
        {**by, "logit_scale": by["logit_scale"] + 1e-4},
      ),
      "gradient of logit_scale: ",
    ),
  ],
)
def test_what_is_wrong_is_seen(spoil, said):
  which = next(
    p
    for number in range(24)
    if (p := cases.program("clip", number)).dtype == "float32" and p.n > 4
  )
  run = numbers.compiled(which)
  case = cases.draw(which, 0, len(cases.KINDS) - which.number % 8)
  assert case.kind == "plain"
  assert not numbers.check(case, run).problem
  found = numbers.check(case, lambda *args: spoil(*run(*args)))
  assert said in found.problem
  summary = numbers.Summary()
  summary.add(case, 0, found)
  record = json.loads(json.dumps(summary.record()))
  (failure,) = record["failures"]
  assert failure["case"] == f"clip/{which.number}/0"
  assert said in failure["problem"]


def test_a_run_tells_how_far_it_is():
  lines = []
  summary = numbers.run(2, 0, lines.append)
  assert sum(row["cases"] for row in summary.rows.values()) == 2
  assert lines[-1].startswith("2 of 2  ") and lines[-1].endswith("ETA 0 min")


def test_one_case_by_its_name():
  assert not numbers.one("orthogonality/4/2", 0).problem
  for name in ("orthogonality", "none/1/2", "clip/-1/2", "clip/a/b"):
    with pytest.raises(config_lib.UserError, match="LOSS/PROGRAM/NUMBER"):
      numbers.one(name, 0)


def test_sizes_grow_where_terms_cancel():
  x = tape.Node([1e6, 1.0])
  difference = (x - 1e6)[0] + 1.0
  assert difference.value == 1.0 and difference.size > 1e6
  (by_x,) = tape.gradients(difference * difference, np.ones(()), [x])
  assert by_x.value.tolist() == [2.0, 0.0] and by_x.size[0] > 1e6
