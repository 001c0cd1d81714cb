"""Tests of the studies on frozen features: cells, choices, statistics, pages."""

import json
import math

import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.programs import differences, reporting
from contrastive_jax.training import config as config_lib
from experiments.frozen import (
  campaign,
  encoders,
  maps,
  small_batches,
  small_batches_report,
  stability,
  visits,
)
from tests.experiments import tiny_features

OURS, MARGIN = small_batches.OURS, small_batches_report.MARGIN


def test_holm_is_that_of_the_definition():
  assert reporting.holm([0.2]) == [0.2]
  found = reporting.holm([0.04, 0.001, 0.03, 0.9])
  np.testing.assert_allclose(found, [0.09, 0.004, 0.09, 0.9])
  assert reporting.holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_paired_difference_of_equal_seeds():
  same = differences.paired([1.0, 2.0], [1.0, 2.0])
  assert same == {"mean": 0.0, "half_width": 0.0, "p": 1.0}
  assert differences.paired([2.0, 3.0], [1.0, 2.0])["p"] == 0.0


def test_hits_come_back_from_their_bits():
  hits = np.random.default_rng(0).random((3, 11)) < 0.4
  again = differences.unpacked(differences.packed(hits), 3, 11)
  np.testing.assert_array_equal(again, hits)


def test_the_bootstrap_draws_things():
  rng = np.random.default_rng(1)
  ours = rng.random((4, 200)) < 0.6
  theirs = rng.random((4, 200)) < 0.4
  alone = differences.bootstrap(ours, theirs, np.arange(200))
  mean = ours.mean() - theirs.mean()
  spread = (ours.mean(0) - theirs.mean(0)).std() / math.sqrt(200)
  np.testing.assert_allclose(
    alone, (mean - 1.96 * spread, mean + 1.96 * spread), atol=0.2 * spread
  )
  # Copies of an item say nothing new.
  twice = differences.bootstrap(
    np.tile(ours, 2), np.tile(theirs, 2), np.tile(np.arange(200), 2)
  )
  np.testing.assert_allclose(twice, alone, atol=1e-12)


@pytest.mark.parametrize(
  ("holm", "items", "mean", "verdict"),
  [
    (0.2, (0.1, 0.2), 0.15, "no difference is shown"),
    (0.01, (-0.1, 0.2), 0.05, "shown over seeds, not over items"),
    (0.01, (0.1, 0.2), 0.15, "higher"),
    (0.01, (-0.2, -0.1), -0.15, "lower"),
    (float("nan"), (0.1, 0.2), 0.15, "no difference is shown"),
  ],
)
def test_sentences_follow_from_numbers(holm, items, mean, verdict):
  row = {"holm": holm, "items": items, "mean": mean, "half_width": 0.01}
  assert differences.sentence("a minus b", row).endswith(f"{verdict}.")


@pytest.mark.parametrize(
  ("best", "rate", "at_end", "tried"),
  [
    (2.0, 2.0, False, 3),
    (8.0, 8.0, False, 6),
    (0.3, 0.25, False, 6),
    (1e9, 256.0, True, 9),
    (1e-9, 2.0**-6, True, 9),
  ],
)
def test_the_grid_grows_where_the_best_is_its_end(best, rate, at_end, tried):
  def score(rates):
    return [-abs(math.log(r / best)) for r in rates]

  choice = campaign.choose(score, (1.0, 2.0, 4.0))
  assert (choice.rate, choice.at_end) == (rate, at_end)
  assert len(choice.scores) == tried


def tiny_methods():
  rule = losses.MovingAverage(0.5)
  return {
    "InfoNCE": maps.Method("clip"),
    "DCL": maps.Method("decoupled"),
    OURS: maps.Method("em", rule, level_rate=0.1),
    MARGIN: maps.Method("em", rule, margins=True),
  }


@pytest.fixture(name="inputs", scope="module")
def fixture_inputs():
  return tiny_features.made()


OPTIONS = {"seeds": (0, 1), "tuning_seeds": (9,), "grid": (0.01, 0.1)}


@pytest.fixture(name="recorded", scope="module")
def fixture_recorded(inputs, tmp_path_factory):
  """A record of both studies' methods at two batches, and its lines."""
  path = tmp_path_factory.mktemp("record") / "a.json"
  head = campaign.head(
    "module", inputs, {"data": "x"}, small_batches.settings()
  )
  record = campaign.open_record(path, head)
  plans = [
    campaign.Plan(name, method, batch, 2)
    for name, method in tiny_methods().items()
    for batch in (4, 8)
  ]
  lines = []
  campaign.run(plans, inputs, record, path, report=lines.append, **OPTIONS)
  return path, head, plans, lines


def test_a_cell_has_numbers_hits_and_choice(recorded, inputs):
  path, _, plans, lines = recorded
  record = reporting.read_json(path)
  assert len(lines) == len(record["cells"]) == len(plans) == 8
  # A process that kept the programs of all cells would end for their maps.
  assert maps._program._cache_size() == 0
  assert lines[-1].startswith("8/8  ") and "ETA 0 min" in lines[-1]
  for cell in record["cells"]:
    for task, things in record["items"].items():
      for depth in ("1", "10"):
        numbers = cell["numbers"][task][depth]
        hits = differences.unpacked(cell["hits"][task][depth], 2, len(things))
        np.testing.assert_allclose(hits.mean(1), numbers, atol=1e-5)
    own = cell["tried"][f"{cell['rate']:g}"]
    assert own["validation"] == max(
      t["validation"] for t in cell["tried"].values()
    )
    assert set(own) == {"validation", *campaign.OUTCOMES}
    em = cell["method"] in (OURS, MARGIN)
    assert list(cell["table_error"]) == (["2"] if em else [])
    if em:
      assert all(v > 0 for v in cell["table_error"]["2"])


def test_a_cell_is_that_of_its_seeds_alone(recorded, inputs):
  """The runs that fill a program up change nothing."""
  path, _, plans, _ = recorded
  cell = reporting.read_json(path)["cells"][0]
  plan = plans[0]._replace(rate=cell["rate"])
  alone = campaign.cell(plan, inputs, seeds=(1,))
  for task, own in alone["numbers"].items():
    assert own["1"][0] == cell["numbers"][task]["1"][1]


def test_a_stopped_study_goes_on(recorded, inputs, tmp_path):
  path, head, plans, _ = recorded
  record = reporting.read_json(path)
  whole = [campaign.key_of(c) for c in record["cells"]]
  again = tmp_path / "again.json"
  reporting.write_json(again, {**record, "cells": record["cells"][:-2]})
  lines = []
  resumed = campaign.open_record(again, head)
  # Cells that another process wrote meanwhile stay.
  reporting.write_json(again, {**record, "cells": record["cells"][:-1]})
  plans = [*plans[:-2], plans[-1]]
  campaign.run(plans, inputs, resumed, again, report=lines.append, **OPTIONS)
  assert len(lines) == 1 and lines[0].startswith(f"1/1  {MARGIN}, batch 8")
  found = reporting.read_json(again)["cells"]
  assert [campaign.key_of(c) for c in found] == whole
  for a, b in zip(found, reporting.read_json(path)["cells"]):
    assert {**a, "cpu_seconds": 0} == {**b, "cpu_seconds": 0}
  other = {**head, "settings": {**head["settings"], "dim": 7}}
  with pytest.raises(config_lib.UserError, match="settings"):
    campaign.open_record(again, other)


def test_features_that_another_machine_rounds_are_the_same_inputs(
  recorded, tmp_path
):
  path, head, *_ = recorded
  again = tmp_path / "again.json"

  def of(digest, data="x"):
    return {
      **head,
      "provenance": {"data": data, "features_sha256": digest},
    }

  record = {**reporting.read_json(path), **of("first")}
  assert campaign.rounded(record) == ""
  reporting.write_json(again, record)
  opened = campaign.open_record(again, of("second"))
  assert opened["provenance"] == record["provenance"]
  assert opened["rounded"] == ["first", "second"]
  assert " 2 machines" in campaign.rounded(opened)
  assert campaign.open_record(again, of("first"))["rounded"] == ["first"]
  with pytest.raises(config_lib.UserError, match="provenance"):
    campaign.open_record(again, of("first", data="y"))


def test_the_page_of_a_record(recorded, tmp_path):
  path, *_ = recorded
  record = reporting.read_json(path)
  text = small_batches_report.page(record)
  for name in tiny_methods():
    assert f"| {name} | 2 | " in text
  assert text.count("- ours, 4 minus InfoNCE, 8, ") == 5
  assert text.count("- ours, 8 minus DCL, 8, catalogue R@1: ") == 1
  assert "p nan" not in text and "None" not in text
  small_batches_report.plot(record, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 10_000
  assert reporting.read_json(path) == record


def test_every_cell_of_the_studies_has_one_name():
  plans = small_batches.plans()
  keys = [plan.key for plan in plans]
  assert len(set(keys)) == len(keys) == 7 * 16 + 2 * 5
  assert {OURS, MARGIN, small_batches_report.EXACT} <= {k[0] for k in keys}
  assert len({p.key for p in visits.plans()}) == 6 * 13
  # Names are given in a list with commas.
  assert not any("," in name for name, *_ in keys)
  assert json.dumps(small_batches.settings())


def as_plans(record, plans, like):
  """A record whose cells are those of `record` under the names of other plans."""
  known = {(c["method"], c["batch"]): c for c in record["cells"]}
  cells = []
  for plan in plans:
    cell = known[like[plan.name], plan.batch]
    error = {str(plan.epochs): e for e in cell["table_error"].values()}
    key = {"method": plan.name, "epochs": plan.epochs, "table_error": error}
    cells.append({**cell, **key})
  return {**record, "cells": cells}


def test_the_page_of_visits(recorded, monkeypatch, tmp_path):
  monkeypatch.setattr(visits, "EPOCHS", (1, 2))
  monkeypatch.setattr(visits, "BATCH", 4)
  monkeypatch.setattr(visits, "RATES", ("by epochs",))
  tables = {
    k: small_batches.TABLES[k] for k in ("margin", "positive-free + level")
  }
  monkeypatch.setattr(small_batches, "TABLES", tables)
  names = ["DCL"] + [visits.name_of(t, r) for t in tables for r in visits.RATES]
  plans = visits.plans()
  assert len({p.key for p in plans}) == len(plans) == 2 * 3
  whole = reporting.read_json(recorded[0])
  record = as_plans(whole, plans, dict(zip(names, ("DCL", MARGIN, OURS))))
  text = visits.page(record)
  assert "**Not finished**" not in text
  part = visits.page(record | {"cells": record["cells"][:-1]})
  assert f"{len(plans) - 1} of {len(plans)} " in part
  assert text.count("| margin | by epochs | ") == 4
  assert "average by epochs: positive-free + level: above DCL with" in text
  visits.plot(record, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 10_000


def test_the_page_of_encoders(recorded, inputs, monkeypatch, tmp_path):
  monkeypatch.setattr(encoders, "BATCHES", (4, 8))
  monkeypatch.setattr(encoders, "STEPS", 4)
  plans = encoders.plans(len(inputs.text))
  # As many steps at each: two of 4 and one of 8 in an epoch of 9 things.
  assert [p.epochs for p in plans] == [2] * 4 + [4] * 3
  assert plans[2].method.rule.rate == losses.rate_of_epochs(2)
  whole = reporting.read_json(recorded[0])
  like = {"InfoNCE": "InfoNCE", "DCL": "DCL", "ours": OURS, "exact 1/Z": MARGIN}
  record = as_plans(whole, plans, like)
  record["settings"] |= {"hidden": 4, "steps": 4}
  text = encoders.page(record)
  names = set(encoders.compared(record))
  assert {"ours, 4 minus InfoNCE, 8", "exact 1/Z, 4 minus InfoNCE, 4"} <= names
  assert len(names) == 3 + 1 + 2 * 2 + 1  # No control at the largest batch.
  assert "nan" not in text and text.count("| exact 1/Z | ") == 6
  encoders.plot(record, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 10_000


def test_runs_beyond_a_bound_and_collapsed_ones_are_counted(
  inputs, monkeypatch
):
  monkeypatch.setattr(stability, "EPOCHS", 2)
  monkeypatch.setattr(stability, "BATCHES", (4,))
  rules = {k: stability.RULES[k] for k in ("average by epochs", "U-max 0.5")}
  monkeypatch.setattr(stability, "RULES", rules)
  cells = stability.cells()
  assert len(cells) == 1 + 2 * len(small_batches.TABLES)
  found = [stability.run_cell(cells[i], inputs) for i in (0, 4, 8)]
  rows = stability.verdicts(found)
  assert [r["rule"] for r in rows] == list(rules)
  assert all(r["beyond"] == 0 and r["runs"] == 4 * 3 for r in rows)
  assert all(0 < r["largest"] <= r["bound"] * 1.0001 for r in rows)
  # Runs that are not finite, and those that find little.
  found[1]["weight_max"][0][0] = None
  found[1]["recall"] = (np.array(found[0]["recall"]) * 0.4).tolist()
  first, _ = stability.verdicts(found)
  assert (first["beyond"], first["collapsed"]) == (1, 12)
  record = {"command": "c", "versions": {"jax": "1"}, "seconds": 60.0}
  text = stability.page(record | {"cells": found})
  assert "1 of 24 runs" in text and "| 12 of 12 |" in text
  assert "- positive-free + level: 12 of 24\n" in text
