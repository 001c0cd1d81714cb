"""Tests of the study of structure: its world, choices, differences, and page."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.programs import reporting
from contrastive_jax.training import config as config_lib
from experiments.synthetic import (
  structure_pairs,
  structure_world,
  structure_world_report,
)
from experiments.synthetic.structure_world import Arm, Cell, Setting

TINY = structure_pairs.PairSizes(
  inputs=6,
  hidden=8,
  dim=4,
  largest=32,
  validation=16,
  probe=32,
  test=32,
  batch=8,
  steps=3,
)
PLAIN, CHANGED = Cell(16, 1.0, "plain"), Cell(32, 1.0, "changed")


def run_of(arm, cell, weight=1.0, seed=0):
  setting = Setting(0.01, weight)
  singles = {name: {cell: 1.0} for name in arm.regularisers}
  run = structure_world._run(arm, cell, setting, seed, singles, TINY)
  return jax.tree.map(jnp.asarray, run)


def scores(arm, cell, weight=1.0, seed=0):
  train = functools.partial(
    structure_pairs.train, arm.base, arm.regularisers, sizes=TINY
  )
  return jax.jit(train)(run_of(arm, cell, weight, seed))


def test_every_pair_comes_once_an_epoch():
  sizes = dataclasses.replace(TINY, steps=10)
  found = structure_pairs.batches(32, 3, sizes)
  assert found.shape == (10, 8)
  for epoch in (found[:4], found[4:8]):
    assert sorted(epoch.ravel()) == list(range(32))
  assert not np.array_equal(found[:4], found[4:8])
  # An epoch leaves out the pairs that do not fill a batch.
  assert structure_pairs.batches(9, 3, sizes).max() <= 8


def test_a_changed_view_keeps_a_share_of_the_nuisance():
  sizes = dataclasses.replace(TINY, largest=4096, inputs=16)
  world = structure_pairs._World(jax.random.key(0), 2.0, sizes)
  things = world.draw(0, 4096)
  nothing = {
    **things,
    **{f"{k}_noise": 0 * things[f"{k}_noise"] for k in ("text",)},
  }
  keys = jax.random.split(jax.random.key(1))
  plain = [world.view(things, key, 0.0)["text"] for key in keys]
  np.testing.assert_array_equal(*plain)
  codes = world.view(nothing, keys[0], 0.0)["text"]
  changed = [world.view(things, key, 0.5)["text"] - codes for key in keys]
  noise = plain[0] - codes
  # As much of it, half of its variance kept.
  np.testing.assert_allclose(
    np.mean(changed[0] ** 2), np.mean(noise**2), rtol=0.05
  )
  kept = np.mean(changed[0] * changed[1]) / np.mean(noise**2)
  assert kept == pytest.approx(0.5, abs=0.05)


def test_the_private_attribute_is_seen_by_the_image_alone():
  world = structure_pairs._World(jax.random.key(0), 0.0, TINY)
  things = world.draw(0, 512)
  inputs = world.view(things, jax.random.key(1), 0.0)

  def spread(side):
    """Share of the variance within clusters that the attribute explains."""
    x = np.asarray(inputs[side])
    cluster, own = (np.asarray(things[k]) for k in ("cluster", "private"))
    x = x - np.stack([x[cluster == c].mean(0) for c in cluster])
    means = np.stack([x[own == c].mean(0) for c in own])
    return np.square(means).sum() / np.square(x).sum()

  assert spread("image") > 0.3 and spread("text") < 0.1


@pytest.mark.parametrize(
  "base", [structure_pairs.TWO_TERMS, structure_pairs.FOUR_TERMS]
)
def test_a_weight_of_nought_is_the_base(base):
  both = Arm(base, ("bridge", "consistency"))
  expected, found = scores(Arm(base), CHANGED), scores(both, CHANGED, 0.0)
  assert found.keys() == {*structure_pairs.OUTCOMES, structure_pairs.VALIDATION}
  for name, value in expected.items():
    assert 0 <= value <= 1
    np.testing.assert_allclose(found[name], value, atol=0.04, err_msg=name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", structure_pairs.REGULARISERS)
def test_every_regulariser_changes_the_features(name):
  sizes = dataclasses.replace(TINY, steps=30, test=512)
  arm, base = (
    Arm(structure_pairs.TWO_TERMS, (name,)),
    Arm(structure_pairs.TWO_TERMS),
  )
  found = []
  for which in (base, arm):
    run = structure_world._run(
      which, CHANGED, Setting(0.03, 3.0), 0, {name: {CHANGED: 1.0}}, sizes
    )
    train = functools.partial(
      structure_pairs.train, which.base, which.regularisers, sizes=sizes
    )
    found.append(jax.jit(train)(jax.tree.map(jnp.asarray, run)))
  assert any(float(found[0][k]) != float(found[1][k]) for k in found[0])


@pytest.mark.parametrize(
  ("best", "setting", "at_end"),
  [
    ((2.0, 2.0), (2.0, 2.0), False),
    ((16.0, 2.0), (16.0, 2.0), True),  # Grown twice.
    ((0.5, 2.0), (0.5, 2.0), False),
    ((2.0, 8.0), (2.0, 8.0), False),
    ((2.0, 1.0), (2.0, 1.0), False),  # Towards greater weights alone.
  ],
)
def test_a_grid_grows_where_its_best_is_at_an_end(best, setting, at_end):
  def score(asked):
    return [
      -sum((np.log(np.array(s)) - np.log(np.array(best))) ** 2)
      for _, s in asked
    ]

  found = structure_world.choose(
    score, [PLAIN, CHANGED], (1.0, 2.0, 4.0), (1.0, 2.0, 4.0)
  )
  for choice in found.values():
    np.testing.assert_allclose(choice.setting, setting)
    assert choice.at_end == at_end


def test_a_single_weight_is_not_varied():
  found = structure_world.choose(
    lambda asked: [s.rate for _, s in asked], [PLAIN], (1.0, 2.0), (1.0,)
  )[PLAIN]
  assert {s.weight for s in found.scores} == {1.0}
  assert found.setting.rate == 8.0 and found.at_end


@pytest.fixture(name="small")
def fixture_small(monkeypatch):
  arms = (
    Arm(structure_pairs.TWO_TERMS),
    Arm(structure_pairs.FOUR_TERMS),
    Arm(structure_pairs.FOUR_TERMS, ("ModGap",)),
  )
  for name, value in {
    "ARMS": arms,
    "RATES": (0.01, 0.02),
    "_FINE_RATES": (0.01, 0.02),
    "WEIGHTS": {"ModGap": (0.1, 1.0)},
    "_EXTENSIONS": 0,
    "_AT_ONCE": 8,
  }.items():
    monkeypatch.setattr(structure_world, name, value)
  monkeypatch.setattr(
    structure_world.run_arm,
    "__kwdefaults__",
    {"cells": (PLAIN, CHANGED), "seeds": (0, 1, 2), "tuning_seeds": (9,)},
  )


def test_the_record_of_a_short_study(small, tmp_path, capsys, monkeypatch):
  path = tmp_path / "structure_world.json"
  record = structure_world._open(path, TINY)
  structure_world._run_all(record, path, TINY)
  assert "ETA" in capsys.readouterr().out
  record = reporting.read_json(path)
  assert len(record["rows"]) == 6
  for row in record["rows"]:
    assert row["numbers"].keys() == set(structure_pairs.OUTCOMES)
    assert {len(v) for v in row["numbers"].values()} == {3}
    assert row["rate"] in (0.01, 0.02)
    assert (row["weight"] is None) == (row["arm"] == "none")
    assert len(row["tried"]) == (2 if row["weight"] is None else 4)
  found = structure_world_report.compared(record)
  # Two arms in two worlds, each with five outcomes.
  assert len(found) == 20
  page = structure_world_report.page(record, "A reading.")
  assert "A reading." in page and "| four terms + ModGap |" in page
  structure_world_report.plot(record, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 5000

  # It goes on with what is missing, and with nothing else.
  def fail(*unused, **also):
    raise AssertionError("An arm was run again.")

  monkeypatch.setattr(structure_world, "run_arm", fail)
  structure_world._run_all(structure_world._open(path, TINY), path, TINY)
  other = dataclasses.replace(TINY, steps=4)
  with pytest.raises(config_lib.UserError, match="--out"):
    structure_world._open(path, other)


def test_differences_are_from_the_base_of_the_same_world():
  def row(base, arm, view, shift):
    values = [0.5 + shift + 0.01 * i for i in range(3)]
    return {
      "base": base,
      "arm": arm,
      "pairs": 96,
      "nuisance": 1.0,
      "view": view,
      "rate": 0.01,
      "weight": None if arm == "none" else 0.1,
      "at_end": False,
      "numbers": dict.fromkeys(structure_pairs.OUTCOMES, values),
    }

  two, four = structure_pairs.TWO_TERMS, structure_pairs.FOUR_TERMS
  record = {
    "rows": [
      row(two, "none", "plain", 0.0),
      row(four, "none", "plain", 0.1),
      row(four, "bridge", "plain", 0.3),
      row(four, "none", "changed", 0.2),
      row(four, "bridge", "changed", 0.1),
    ],
    "settings": {
      "seeds": [0, 1, 2],
      "tuning_seeds": [9],
      **dataclasses.asdict(TINY),
    },
    "versions": {"jax": "1"},
    "seconds": 60.0,
    "cores": 2,
  }
  record = json.loads(json.dumps(record))
  found = structure_world_report.compared(record)
  means = {
    key[:2] + key[4:]: own["mean"]
    for (key, outcome), own in found.items()
    if outcome == "retrieval"
  }
  assert means == pytest.approx(
    {
      (four, "none", "plain"): 0.1,
      (four, "bridge", "plain"): 0.2,
      # Without two terms in that world, four are compared with nothing.
      (four, "bridge", "changed"): -0.1,
    }
  )
  (line,) = (
    text
    for text in structure_world_report.page(record).splitlines()
    if text.startswith("| bridge |")
  )
  assert line.count("plain: + at 96") == line.count("changed: - at 96") == 4
