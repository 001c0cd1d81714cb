"""Numbers: a part of what experiments.durability.numbers checks, and that it sees."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.training import config as config_lib
from experiments.durability import cases, numbers
from tests.exports import public_names

# These make inputs of losses, read what is known, or are losses with a memory, which
# tests/losses/test_em.py compares with a simulation.
NO_LOSSES = {
  *("Amortized", "BatchEstimate", "Conjugate", "DualDescent", "MovingAverage"),
  *("Softplus", "e_step", "em_clip", "em_contrastive", "em_init", "em_moco_v3"),
  *("em_nt_xent", "rate_of_epochs", "EMOptions", "EMState", "EMStep"),
  *("augmented_diagnostics", "clamp_logit_scale", "draw_auxiliary"),
  *("draw_bridge_time", "init_prototypes", "mask_tokens", "on_mesh"),
  *("sample_hard_negatives", "count_documents", "inverse_document_frequency"),
}
EACH = 8  # Cases of a loss, all of one program.
PLAN = {
  name: (number, of)
  for name, number, of in numbers.plan(EACH * len(cases.REFERENCES))
}


def test_every_public_loss_is_checked():
  assert set(cases.REFERENCES) == set(public_names(losses)) - NO_LOSSES
  assert set(PLAN) == set(cases.REFERENCES)
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
  for name in cases.REFERENCES:
    own = [p for p in programs if p.loss == name]
    assert {p.dtype for p in own} == set(cases.DTYPES)
    for option, values in cases.choices(name).items():
      assert {p.options[option] for p in own} == set(values), (name, option)
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


# Faults that a check finds.


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
