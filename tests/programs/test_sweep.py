"""Tests of the program sweep: grids, files and records."""

import dataclasses
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from contrastive_jax.programs import command_line, differences, reporting
from contrastive_jax.programs.sweep import (
  Arm,
  Job,
  files,
  jobs,
  program,
  record,
  report,
)
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import errors
from contrastive_jax.training.evaluators import base
from experiments import sweep
from tests.programs import small_sweep

ROOT = pathlib.Path(__file__).parents[2]


def shipped():
  """Names of the sweeps that ship, variants included."""
  for path in sorted(files.FOLDER.glob("[a-z]*.py")):
    module = importlib.import_module(f"experiments.sweeps.{path.stem}")
    for variant in getattr(module, "VARIANTS", ("",)):
      yield f"{path.stem}:{variant}" if variant else path.stem


SHIPPED = list(shipped())


def page_of(folder):
  return (folder / "small.md").read_text(encoding="utf-8")


def test_a_signal_leaves_the_record_and_says_so(tmp_path):
  seen = []

  def stop_at_third(config):
    seen.append(config)
    if len(seen) == 3:
      raise errors.Stopped("SIGTERM: the run is saved")
    return small_sweep.train(config)

  with pytest.raises(errors.Stopped):
    small_sweep.run(tmp_path, train_fn=stop_at_third)
  assert len(record.read(small_sweep.make(), tmp_path).runs) == 2


def test_rates_are_chosen_for_each_arm_and_seeds_are_compared_in_pairs(
  tmp_path,
):
  seen = []
  runs = small_sweep.run(tmp_path, seen)
  assert len(runs) == len(seen) == small_sweep.make().total_runs == 4 * 5
  for config in seen[8:]:
    ours = small_sweep.is_ours(config)
    assert config.optimizer.learning_rate == (2e-3 if ours else 1e-3)
  # Seed by seed, so that what is there can be compared.
  assert [c.seed for c in seen[8:]] == [0] * 4 + [1] * 4 + [2] * 4
  page = page_of(tmp_path)
  gains = [0.1, 0.1, 0.4]
  half = reporting.half_width(gains)
  assert f"(+0.200 ± {half:.3f})" in page
  assert "| method | 16 against 64 |" in page
  assert "| base | **-0.048 ± 0.000** |" in page
  assert f"| ours | +0.152 ± {half:.3f} |" in page
  assert "**0.002: 0.500**" in page
  assert (tmp_path / "small.png").stat().st_size > 1000
  written = json.loads((tmp_path / "small.json").read_text(encoding="utf-8"))
  assert written["runs"] == runs


def test_what_a_person_wrote_is_in_the_page_of_a_whole_record(tmp_path):
  small_sweep.run(tmp_path, seeds=(0, 1))
  path = tmp_path / "small.reading.md"
  path.write_text("<!-- record 0123456789ab -->\nOurs wins.\n")
  runs = small_sweep.run(tmp_path)
  # It was written for other results.
  line = f"<!-- record {reporting.digest(runs)} -->"
  assert "Ours wins." not in page_of(tmp_path) and line in page_of(tmp_path)
  path.write_text(f"{line}\nOurs wins.\n")
  small_sweep.run(tmp_path)
  page = page_of(tmp_path)
  assert "\n\nOurs wins.\n\n```sh\n" in page
  assert "Not finished" not in page
  small_sweep.run(tmp_path, seeds=(0, 1, 2, 3), minutes=1e-9)
  page = page_of(tmp_path)
  assert "Ours wins." not in page
  made = small_sweep.make().total_runs
  assert f"**Not finished**: {made} of {made + 4} runs." in page


def test_versions_are_those_that_made_the_runs(tmp_path, monkeypatch):
  small_sweep.run(tmp_path, seeds=(0,))
  first = page_of(tmp_path)
  monkeypatch.setattr(reporting, "versions", lambda: {"python": "9.9"})
  small_sweep.run(tmp_path, seeds=(0,))
  assert page_of(tmp_path) == first
  small_sweep.run(tmp_path, seeds=(0, 1))
  assert "with python 9.9." in page_of(tmp_path)


def test_the_page_has_the_command(tmp_path):
  small_sweep.run(tmp_path)
  command = "python -m experiments.sweep '--sweep=my sweeps/small.py'"
  assert f"```sh\n{command}\n```" in page_of(tmp_path)


def test_a_difference_that_survives_the_correction_is_bold(tmp_path):
  small_sweep.run(tmp_path, seeds=(0, 1))
  assert "(**+0.100 ± 0.000**)" in page_of(tmp_path)


def test_several_seeds_choose_by_their_mean(tmp_path):
  seeds = (1000, 1001)
  runs = small_sweep.run(tmp_path, tune_seeds=seeds)
  assert len(runs) == 4 * (2 * 2 + 3)
  grid = small_sweep.make(tune_seeds=seeds)
  made, arm = record.read(grid, tmp_path), grid.arms[0]
  scores = [
    r["results"][grid.tune_metric]
    for r in runs.values()
    if r["arm"] == arm.name and r["seed"] in seeds and r["value"] == 1e-3
  ]
  assert made.choosing(arm)[1e-3] == sum(scores) / 2
  # A value that one of the seeds lacks is not chosen.
  made.runs = {k: r for k, r in runs.items() if r["seed"] != 1001}
  with pytest.raises(KeyError):
    made.chosen(arm)


def test_a_method_may_be_at_some_settings_alone_with_its_own_candidates(
  tmp_path,
):
  grid = small_sweep.make()
  base, ours, larger, _ = grid.arms
  larger = dataclasses.replace(larger, candidates=(1e-3, 4e-3))
  small_sweep.run(tmp_path, arms=[base, ours, larger])
  text = page_of(tmp_path)
  (row,) = re.findall(r"\| ours \| ([^|]*) \| ([^|]*) \|\n\nPaired", text)
  assert "±" in row[0] and row[1] == "–"
  assert text.count("| method | batch size 16 | batch size 64 |") == 1
  # Their values are listed with those that had the same ones to choose from.
  assert "0.001, 0.002 by" in text and "0.001, 0.004 by" in text
  assert text.count("| method | batch size 64 |") == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_hits_give_intervals_over_items(tmp_path, monkeypatch, processes):
  """Whether runs are made here or leave a file each."""
  things = np.array([3, 3, 5, 8, 8, 9])

  def train(config, hits):
    score = small_sweep.train(config)
    rng = np.random.default_rng([config.seed, config.batch_size])
    # Ours has all that the baseline has, and the things 8 and 9.
    right = rng.random(6) < 0.5
    right |= small_sweep.is_ours(config) & (things > 5)
    hits |= {"score/test": base.Hits(right, things), "other": None}
    return {**score, "score/test": right.mean()}

  monkeypatch.setattr(jobs, "train", train)
  grid = small_sweep.make(train_fn=None)
  if processes == 1:
    jobs.run(grid, tmp_path, report=len)
  else:
    while job := next(jobs.collect(grid, tmp_path).ready(), None):
      jobs.run_one(grid, job.key, tmp_path)
  made = record.read(grid, tmp_path)
  assert list(made.things.values()) == ["3 3 5 8 8 9"]
  right = {}
  for method in ("base", "ours"):
    arm = grid.arm(method, 16)
    runs = [made.runs[Job(arm, s, made.chosen(arm)).key] for s in grid.seeds]
    right[method] = np.concatenate(
      [differences.unpacked(r["hits"]["score/test"][1], 1, 6) for r in runs]
    )
    np.testing.assert_allclose(
      right[method].mean(1), [r["results"]["score/test"] for r in runs]
    )
  found = made.over_items("ours", 16, "score/test", against=16)
  assert found == differences.bootstrap(right["ours"], right["base"], things)
  assert found[0] < found[1]
  report.write(made)
  low, high = found
  assert f" [{low:+.3f}, {high:+.3f}]" in page_of(tmp_path)
  # Without hits of both, and where the items are others, there is none.
  other = made.runs[Job(grid.arm("ours", 16), 0, 2e-3).key]["hits"]
  other["score/test"][0] = "another"
  assert made.over_items("ours", 16, "score/test", against=16) is None
  del other["score/test"]
  assert made.over_items("ours", 16, "score/test", against=16)


def test_it_goes_on_where_it_was_stopped(tmp_path):
  seen = []

  def until_the_tenth(config):
    if len(seen) == 10:
      raise KeyboardInterrupt
    seen.append(config)
    return small_sweep.train(config)

  with pytest.raises(KeyboardInterrupt):
    small_sweep.run(tmp_path, train_fn=until_the_tenth)
  stopped = list(seen)
  small_sweep.run(tmp_path, seen)
  assert len(seen) == 20
  whole = []
  runs = small_sweep.run(tmp_path, whole, name="whole")
  assert stopped + seen[10:] == whole
  written = json.loads((tmp_path / "small.json").read_text(encoding="utf-8"))
  assert written["runs"].keys() == runs.keys()


def test_a_limit_of_minutes_begins_no_run(tmp_path):
  seen, lines = [], []
  small_sweep.run(tmp_path, seen, minutes=1e-9, lines=lines)
  assert not seen
  assert len(lines) == 1 and "0 of 20 runs" in lines[0]
  assert (tmp_path / "small.json").exists()


def test_without_a_tuned_field_there_are_only_seeds(tmp_path):
  seen = []
  small_sweep.run(tmp_path, seen, candidates=(), tune_metric="")
  assert len(seen) == 12
  assert "chosen" not in page_of(tmp_path)


def first_arm_changed(**changes):
  first, *others = small_sweep.make().arms
  return [dataclasses.replace(first, **changes), *others]


def longer():
  config = config_lib.default_config()
  config.steps = 7
  return config


@pytest.mark.parametrize(
  "changes, field, then, now",
  [
    ({"config": longer()}, "config.steps", 1000, 7),
    (
      {"arms": first_arm_changed(fields={"batch_size": 8})},
      "arms.base @ 16.batch_size",
      16,
      8,
    ),
    (
      {
        "arms": first_arm_changed(
          tuned="optimizer.beta2", candidates=(0.9, 0.99)
        ),
        "tune_metric": "score/validation",
      },
      "tuned.base @ 16",
      "'optimizer.learning_rate'",
      "'optimizer.beta2'",
    ),
    (
      {"others": {"task": longer()}},
      "others.task",
      None,
      "{.*'steps': 7",
    ),
  ],
  ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_record_of_another_sweep_is_refused(
  tmp_path, changes, field, then, now
):
  small_sweep.run(tmp_path)
  said = rf"small\.json .*\({field} was {then}.* {now}"
  with pytest.raises(config_lib.UserError, match=said):
    small_sweep.run(tmp_path, **changes)


@pytest.mark.parametrize(
  "text", ["", "[]", '{"runs": 1}', '{"runs": {"a": 1}}']
)
def test_a_broken_record_is_named(tmp_path, text):
  (tmp_path / "small.json").write_text(text)
  with pytest.raises(config_lib.UserError, match=r"small\.json .*Error"):
    small_sweep.run(tmp_path)


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"tune_seeds": (1,)}, r"tune_seeds.*\[1\]"),
    ({"baseline": "x"}, "baseline.* base, ours.*'x'"),
    ({"tune_metric": ""}, r"tune_metric.* \(0.001, 0.002\) and ''"),
    (
      {"arms": [Arm("base", 64, {}, tuned="optimizer.beta2")]},
      r"optimizer\.beta2.*candidates.* \(\)",
    ),
    ({"arms": [Arm("base", 9, {"batch_size": "many"})]}, "batch_size.*'many'"),
    ({"arms": [Arm("base", 9, {"los.rate": 1.0})]}, r"config\.los\b"),
    ({"arms": [Arm("base", 9, {"loss.rate": 0.5})]}, r"config\.loss\.rate\b"),
    (
      {"arms": [Arm("base", 9, {"others.steps": 1})]},
      r"config\.others\b",
    ),
    (
      {
        "arms": [Arm("base", 9, {"others.step": 1})],
        "others": {"task": config_lib.default_config()},
      },
      r"config\.step\b",
    ),
  ],
)
def test_a_grid_that_makes_no_sense_is_refused(changes, said):
  with pytest.raises(ValueError, match=said):
    small_sweep.make(**changes)


@pytest.mark.parametrize("name", SHIPPED)
def test_sweeps_that_ship_are_whole(name):
  found = files.load(name)
  assert found.source == name
  assert f"  {name} " in re.sub("[,\n]", " ", sweep.SHIPPED)
  configs = [
    found.configurations(Job(arm, 0, (*arm.candidates, None)[0]))
    for arm in found.arms
  ]
  assert len({str(c) for c in configs}) == len(configs)
  # Every run sees as many examples, or says how long it took, or how many more.
  examples = {
    c.steps * c.batch_size / (2 if "twice the steps" in arm.method else 1)
    for arm, (c, _) in zip(found.arms, configs)
  }
  assert len(examples) == 1 or "train/seconds" in found.metrics


@pytest.mark.parametrize("name", SHIPPED)
def test_pages_that_ship_follow_from_their_records(name):
  found = files.load(name)
  made = record.read(found, reporting.RESULTS)
  versions = json.loads(made.path.read_text(encoding="utf-8"))["versions"]
  assert made.finished() == found.total_runs
  reading = reporting.reading(reporting.RESULTS, found.name, made.runs)
  page = report.page(made, versions, reading)
  kept = (reporting.RESULTS / f"{found.name}.md").read_text(encoding="utf-8")
  assert page == kept and reading and "No conclusion" not in reading


def test_small_batches_have_the_rate_that_infonce_chose():
  found = files.load("clip_small_batches")
  made = record.read(found, reporting.RESULTS)
  for arm in found.arms:
    if not arm.candidates:
      rate = made.chosen(found.arm("InfoNCE", arm.setting))
      assert arm.fields["optimizer.learning_rate"] == rate, arm.name


def test_sweeps_that_ship_are_found_by_name_and_by_file():
  by_name = files.load("latent_structure:bridge")
  by_file = files.load(f"{files.FOLDER}/latent_structure.py:bridge")
  assert by_name.source == by_file.source == "latent_structure:bridge"
  assert by_name.name == by_file.name == "latent_structure_bridge"


_VARIANTS = """
from tests.programs import small_sweep
VARIANTS = ("a", "b")
def get_sweep(variant):
  return small_sweep.make(name=variant)
"""


def test_a_file_of_variants(tmp_path):
  path = tmp_path / "x.py"
  path.write_text(_VARIANTS)
  found = files.load(f"{path}:b")
  assert (found.name, found.source) == ("b", f"{path}:b")
  for name in (f"{path}", f"{path}:c"):
    said = re.escape(f"{path}:a, {path}:b; got {name!r}")
    with pytest.raises(config_lib.UserError, match=said):
      files.load(name)


def test_a_module(tmp_path, monkeypatch):
  package = tmp_path / "own_sweeps"
  package.mkdir()
  (package / "__init__.py").touch()
  (package / "grids.py").write_text(_VARIANTS)
  monkeypatch.syspath_prepend(tmp_path)
  found = files.load("own_sweeps.grids:b")
  assert (found.name, found.source) == ("b", "own_sweeps.grids:b")
  with pytest.raises(config_lib.UserError, match="own_sweeps.grids:a, .*:c'"):
    files.load("own_sweeps.grids:c")


_ELSEWHERE = """
import sys
from contrastive_jax.programs.sweep import Arm, Sweep
from contrastive_jax.training import config
def train(config):
  assert "experiments" not in sys.modules
  return {"score": config.seed + config.optimizer.learning_rate}
def get_sweep():
  arms = [Arm("a", 1, {}), Arm("b", 1, {"optimizer.learning_rate": 0.5})]
  return Sweep(
    name="mine", title="Mine", text="A test.", config=config.default_config(),
    arms=arms, baseline="a", setting="size", seeds=(0, 1),
    metrics={"score": "score"}, train_fn=train,
  )
"""


def test_an_installed_package_runs_sweeps_from_anywhere(tmp_path):
  (tmp_path / "mine.py").write_text(_ELSEWHERE)
  code = "from contrastive_jax.programs.__main__ import main; main()"
  done = subprocess.run(
    [sys.executable, "-c", code, "sweep", "--sweep=mine", "--out=runs"],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert "4/4" in done.stdout
  page = (tmp_path / "runs" / "mine.md").read_text(encoding="utf-8")
  assert "```sh\ncontrastive-jax sweep --sweep=mine\n```" in page


def test_a_file_without_a_sweep_is_refused(tmp_path):
  for name in (str(tmp_path / "none.py"), "nothing", ""):
    said = f"clip_small_batches, .*got '{name}'"
    with pytest.raises(config_lib.UserError, match=said):
      files.load(name)
  (tmp_path / "empty.py").write_text("x = 1\n")
  with pytest.raises(config_lib.UserError, match="empty.py .*get_sweep"):
    files.load(str(tmp_path / "empty.py"))


@pytest.mark.parametrize(
  "body, said",
  [
    ("def get_sweep(:\n", r"SyntaxError: .*, line 1\)"),
    ("\nimport no_such_module\n", r"ModuleNotFound.*' \(line 2\)"),
    (
      "def rate():\n  return 1 / 0\n\ndef get_sweep():\n  return rate()\n",
      r"ZeroDivisionError: division by zero \(line 2\)",
    ),
    (
      "import json\ndef get_sweep():\n  return json.loads('{')\n",
      r"JSONDecodeError: .* \(line 3\)",
    ),
    ("def get_sweep():\n  raise OSError\n", r"OSError \(line 2\)"),
    ("def get_sweep():\n  return {}\n", r".* Sweep; got dict"),
  ],
)
def test_a_sweep_that_fails_is_one_sentence(tmp_path, capsys, body, said):
  path = tmp_path / "bad.py"
  path.write_text(body)

  class Program:
    """absl's, which would end the tests."""

    @staticmethod
    def run(checked, flags_parser):
      checked(flags_parser(["sweep", f"--sweep={path}"]))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(command_line, "app", Program)
    with pytest.raises(SystemExit) as caught:
      command_line.run(
        program.main,
        flag_values=program._FLAGS,
        usage="",
      )
  out, err = capsys.readouterr()
  assert (caught.value.code, out) == (2, "")
  assert re.fullmatch(rf"Error: --sweep={path}( failed)?: {said}\.\n", err)


def test_differences_are_of_the_seeds_that_both_have(tmp_path):
  runs = small_sweep.run(tmp_path)
  for key, run in [*runs.items()]:
    if (run["arm"], run["seed"]) in (("ours @ 16", 1), ("base @ 16", 0)):
      del runs[key]
  made = record.Record(small_sweep.make(), tmp_path, runs)
  found = made.gains("ours", 16, "score/test")
  assert found == pytest.approx([0.4])


def one_setting(**changes):
  """Methods at one batch size, with a field of their own to be chosen."""
  arms = [
    Arm(
      "base",
      64,
      {"batch_size": 64},
      tuned="optimizer.learning_rate",
      candidates=(1e-3, 2e-3),
    ),
    Arm(
      "ours",
      64,
      {
        "batch_size": 64,
        "loss": "decoupled",
        "structure": ("bridge", "alignment"),
      },
      tuned="structure.bridge.weight,structure.alignment.weight",
      candidates=(0.1, 0.5, 1.0),
    ),
    Arm("fixed", 64, {"batch_size": 64}),
  ]
  return {"arms": arms, **changes}


def test_arms_choose_fields_of_their_own_at_one_setting(tmp_path):
  seen = []
  runs = small_sweep.run(tmp_path, seen, **one_setting())
  assert len(runs) == len(seen) == 2 + 3 + 3 * 3
  for config in seen[5:]:
    if small_sweep.is_ours(config):
      # All score the same: the first one is taken.
      assert {t.weight for t in config.structure.terms.values()} == {0.1}
      assert config.optimizer.learning_rate == 1e-3
  page = page_of(tmp_path)
  assert "| method | score (`score/test`) |" in page
  half = reporting.half_width([0.1, 0.1, 0.4])
  assert f"(+0.200 ± {half:.3f}) |" in page
  chosen = "`structure.bridge.weight` = `structure.alignment.weight`"
  assert f"{chosen} was chosen" in page
  assert "`optimizer.learning_rate` was chosen" in page
  assert "| fixed | batch size" not in page and "next larger" not in page
  assert (tmp_path / "small.png").stat().st_size > 1000


def test_a_metric_that_the_baseline_lacks_is_not_compared(tmp_path):
  runs = small_sweep.run(tmp_path, **one_setting())
  metrics = {"score/test": "score", "score/other": "another"}
  grid = small_sweep.make(**one_setting(metrics=metrics))
  for entry in runs.values():
    if entry["arm"].startswith("ours"):
      entry["results"]["score/other"] = 0.5
  made = record.Record(grid, tmp_path, runs)
  assert made.comparable(64) == [("score/test", "score")]
  report.plot(made, tmp_path / "some.png")
  assert (tmp_path / "some.png").stat().st_size > 1000


def test_a_sweep_may_begin_with_another_method_than_the_baseline(tmp_path):
  arms = [Arm(method, 64, {}) for method in ("ours", "base")]
  lines = []
  made = small_sweep.make(arms=arms, tune_metric="")
  runs = jobs.run(made, tmp_path, report=lines.append)
  assert len(runs) == len(arms) * len(made.seeds) == len(lines)
  assert (tmp_path / "small.png").stat().st_size > 1000
  del runs["base @ 64 | seed 1"], runs["base @ 64 | seed 2"]
  report.write(record.Record(made, tmp_path, runs))


def test_a_record_from_before_a_field_was_there_goes_on(tmp_path):
  runs = small_sweep.run(tmp_path)
  path = tmp_path / "small.json"
  values = json.loads(path.read_text(encoding="utf-8"))
  del values["config"]["structure"], values["config"]["loss"]["block_size"]
  path.write_text(json.dumps(values), encoding="utf-8")
  seen = []
  assert small_sweep.run(tmp_path, seen) == runs and not seen
  values["config"]["loss"]["none"] = 1
  path.write_text(json.dumps(values), encoding="utf-8")
  with pytest.raises(config_lib.UserError, match=r"config\.loss\.none"):
    small_sweep.run(tmp_path)


def test_more_candidates_choose_anew_and_old_runs_do_not_count(tmp_path):
  small_sweep.run(tmp_path, candidates=(1e-3,))
  lines = []
  small_sweep.run(tmp_path, lines=lines)
  # Ours is best at the larger rate, which was not among the first ones: one run
  # that chooses of each arm, and ours again.
  assert len(lines) == 4 + 2 * 3
  assert lines[-1].startswith("20/20")
  half = reporting.half_width([0.1, 0.1, 0.4])
  assert f"(+0.200 ± {half:.3f})" in page_of(tmp_path)
