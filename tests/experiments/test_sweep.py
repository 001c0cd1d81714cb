"""Tests of experiments.sweep and experiments.sweep_report."""

import dataclasses
import json
import pathlib
import re

import ml_collections
import pytest

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import errors
from experiments import reporting, sweep, sweep_report

SWEEPS = sorted(
  p
  for p in (pathlib.Path(sweep.__file__).parent / "sweeps").glob("*.py")
  if not p.name.startswith("_")
)


def make_sweep(**changes):
  config = config_lib.default_config()
  arms = [
    sweep.Arm(method, batch, {"batch_size": batch, "loss.name": name})
    for batch in (16, 64)
    for method, name in (("base", "clip"), ("ours", "decoupled"))
  ]
  fields = {
    "name": "small",
    "title": "Small",
    "text": "A test.",
    "config": config,
    "arms": arms,
    "baseline": "base",
    "setting": "batch size",
    "seeds": (0, 1, 2),
    "metrics": {"score/test": "score"},
    "tuned": "optimizer.learning_rate",
    "candidates": (1e-3, 2e-3),
    "tune_metric": "score/validation",
    **changes,
  }
  return sweep.Sweep(**fields)


def train(config):
  """Ours is better by .1, in seed 2 by .4; its best rate is the larger one."""
  ours = config.loss.name == "decoupled"
  rate = config.optimizer.learning_rate
  right = 2e-3 if ours else 1e-3
  gain = (0.4 if config.seed == 2 else 0.1) if ours else 0.0
  return {
    "score/validation": 0.5 - 100 * abs(rate - right),
    "score/test": config.seed / 10 + config.batch_size / 1000 + gain,
  }


def run(tmp_path, seen=None, **changes):
  def recorded(config):
    if seen is not None:
      seen.append(config)
    return train(config)

  options = {k: changes.pop(k) for k in ("minutes",) if k in changes}
  return sweep.run(
    make_sweep(**changes),
    tmp_path,
    train_fn=recorded,
    report=lambda line: None,
    **options,
  )


def test_a_signal_leaves_the_record_and_says_so(tmp_path):
  def stop(config):
    raise errors.Stopped("SIGTERM: the run is saved")

  with pytest.raises(
    errors.Stopped, match="goes on with that one from its beg"
  ):
    sweep.run(make_sweep(), tmp_path, train_fn=stop, report=lambda line: None)


def test_rates_are_chosen_for_each_arm_and_seeds_are_compared_in_pairs(
  tmp_path,
):
  seen = []
  runs = run(tmp_path, seen)
  assert len(runs) == len(seen) == make_sweep().total_runs == 4 * 5
  for config in seen[8:]:
    ours = config.loss.name == "decoupled"
    assert config.optimizer.learning_rate == (2e-3 if ours else 1e-3)
  # Seed by seed, so that what is there can be compared.
  assert [c.seed for c in seen[8:]] == [0] * 4 + [1] * 4 + [2] * 4
  page = (tmp_path / "small.md").read_text(encoding="utf-8")
  gains = [0.1, 0.1, 0.4]
  half = reporting.half_width(gains)
  assert f"(+0.200 ± {half:.3f})" in page
  assert "| method | 16 against 64 |" in page
  assert "| base | **-0.048 ± 0.000** |" in page
  assert f"| ours | +0.152 ± {half:.3f} |" in page
  assert "**0.002: 0.500**" in page
  assert (tmp_path / "small.png").stat().st_size > 1000
  record = json.loads((tmp_path / "small.json").read_text(encoding="utf-8"))
  assert record["runs"] == runs


def test_a_sweep_may_have_a_program_of_its_own(tmp_path):
  made = make_sweep(train_fn=train)
  runs = sweep.run(made, tmp_path, report=lambda line: None)
  assert len(runs) == made.total_runs
  assert runs["ours @ 64 | 0.002 | seed 2"]["results"]["score/test"] == (
    pytest.approx(0.2 + 0.064 + 0.4)
  )


def test_what_a_record_shows_is_said_when_it_is_whole(tmp_path):
  run(tmp_path, seeds=(0, 1))
  run(tmp_path, reading="Ours wins.")
  page = (tmp_path / "small.md").read_text(encoding="utf-8")
  assert "**What it shows.** Ours wins." in page
  assert "Not finished" not in page
  run(tmp_path, reading="Ours wins.", seeds=(0, 1, 2, 3), minutes=1e-9)
  page = (tmp_path / "small.md").read_text(encoding="utf-8")
  assert "Ours wins." not in page
  made = make_sweep().total_runs
  assert f"**Not finished**: {made} of {made + 4} runs." in page


def test_a_difference_whose_interval_holds_no_0_is_bold(tmp_path):
  run(tmp_path, seeds=(0, 1))
  page = (tmp_path / "small.md").read_text(encoding="utf-8")
  assert "(**+0.100 ± 0.000**)" in page


def test_it_goes_on_where_it_was_stopped(tmp_path):
  seen = []

  def until_the_tenth(config):
    if len(seen) == 10:
      raise KeyboardInterrupt
    seen.append(config)
    return train(config)

  with pytest.raises(KeyboardInterrupt):
    sweep.run(make_sweep(), tmp_path, train_fn=until_the_tenth, report=str)
  stopped = list(seen)
  run(tmp_path, seen)
  assert len(seen) == 20
  whole = []
  runs = run(tmp_path / "..", whole, name="whole")
  assert stopped + seen[10:] == whole
  record = json.loads((tmp_path / "small.json").read_text(encoding="utf-8"))
  assert record["runs"].keys() == runs.keys()


def test_a_limit_of_minutes_begins_no_run(tmp_path):
  seen = []
  run(tmp_path, seen, minutes=1e-9)
  assert not seen
  assert (tmp_path / "small.json").exists()


def test_without_a_tuned_field_there_are_only_seeds(tmp_path):
  seen = []
  run(tmp_path, seen, tuned="", candidates=(), tune_metric="")
  assert len(seen) == 12
  assert "chosen" not in (tmp_path / "small.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
  "change, said",
  [
    ({"steps": 7}, "holds runs of another configuration"),
    ({"arm": {"batch_size": 8}}, "holds runs of 'base @ 16' with other fields"),
  ],
)
def test_a_record_of_another_sweep_is_refused(tmp_path, change, said):
  run(tmp_path)
  changes = {}
  if "arm" in change:
    first, *others = make_sweep().arms
    changes["arms"] = [
      dataclasses.replace(first, fields=change["arm"]),
      *others,
    ]
  else:
    changes["config"] = config_lib.default_config()
    changes["config"].steps = 7
  with pytest.raises(config_lib.UserError, match=said):
    run(tmp_path, **changes)


@pytest.mark.parametrize("text", ["", "[]", '{"runs": 1}'])
def test_a_broken_record_is_named(tmp_path, text):
  (tmp_path / "small.json").write_text(text)
  with pytest.raises(config_lib.UserError, match="small.json is no record"):
    run(tmp_path)


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"tune_seed": 1}, "tune_seed must be none of seeds; got 1"),
    ({"baseline": "x"}, "baseline must be one of base, ours; got 'x'"),
    ({"candidates": ()}, "tuned needs candidates"),
  ],
)
def test_a_grid_that_makes_no_sense_is_refused(changes, said):
  with pytest.raises(ValueError, match=said):
    make_sweep(**changes)


def test_a_wrong_field_shows_before_the_first_run(tmp_path):
  arms = [*make_sweep().arms, sweep.Arm("base", 9, {"batch_size": "many"})]
  seen = []
  with pytest.raises(config_lib.ConfigError, match="config.batch_size"):
    run(tmp_path, seen, arms=arms)
  assert not seen


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_sweeps_that_ship_are_whole(path):
  found = sweep.load(str(path))
  assert found.name == path.stem
  assert isinstance(found.config, ml_collections.ConfigDict)
  configs = [
    sweep.configuration(
      found, sweep.Job(arm, 0, (*found.tuning(arm)[1], None)[0])
    )
    for arm in found.arms
  ]
  assert len({str(c) for c in configs}) == len(configs)
  # Every run sees as many examples, or says how long it took.
  examples = {c.steps * c.batch_size for c in configs}
  assert len(examples) == 1 or "train/seconds" in found.metrics


def test_a_file_without_a_sweep_is_refused(tmp_path):
  with pytest.raises(config_lib.UserError, match="must be a file"):
    sweep.load(str(tmp_path / "none.py"))
  (tmp_path / "empty.py").write_text("x = 1\n")
  with pytest.raises(config_lib.UserError, match="has no function get_sweep"):
    sweep.load(str(tmp_path / "empty.py"))


@pytest.mark.parametrize(
  "body, said",
  [
    ("def get_sweep(:\n", r"failed: SyntaxError: .*, line 1\)"),
    ("\nimport no_such_module\n", r"failed: ModuleNotFound.*' \(line 2\)"),
    (
      "def rate():\n  return 1 / 0\n\ndef get_sweep():\n  return rate()\n",
      r"failed: ZeroDivisionError: division by zero \(line 2\)",
    ),
    (
      "import json\ndef get_sweep():\n  return json.loads('{')\n",
      r"failed: JSONDecodeError: .* \(line 3\)",
    ),
    ("def get_sweep():\n  raise OSError\n", r"failed: OSError \(line 2\)"),
    (
      "def get_sweep():\n  return {}\n",
      r": get_sweep\(\) must return a Sweep; got dict",
    ),
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
    patch.setattr(flags_lib, "app", Program)
    with pytest.raises(SystemExit) as caught:
      flags_lib.run(
        sweep.main, flag_values=sweep._FLAGS, usage=sweep._USAGE, trains=False
      )
  out, err = capsys.readouterr()
  assert (caught.value.code, out) == (2, "")
  assert re.fullmatch(rf"Error: --sweep={path} ?{said}\.\n", err)


def test_differences_are_of_the_seeds_that_both_have():
  assert sweep_report.difference({0: 3.0, 2: 1.0}, {2: 0.5, 5: 9.0}) == [0.5]


def one_setting(**changes):
  """Methods at one batch size, with a field of their own to be chosen."""
  arms = [
    sweep.Arm(
      "base",
      64,
      {"batch_size": 64},
      tuned="optimizer.learning_rate",
      candidates=(1e-3, 2e-3),
    ),
    sweep.Arm(
      "ours",
      64,
      {"batch_size": 64, "loss.name": "decoupled"},
      tuned="structure.bridge,structure.alignment",
      candidates=(0.1, 0.5, 1.0),
    ),
    sweep.Arm("fixed", 64, {"batch_size": 64}),
  ]
  return {"arms": arms, "tuned": "", "candidates": (), **changes}


def test_arms_choose_fields_of_their_own_at_one_setting(tmp_path):
  seen = []
  runs = run(tmp_path, seen, **one_setting())
  assert len(runs) == len(seen) == 2 + 3 + 3 * 3
  for config in seen[5:]:
    if config.loss.name == "decoupled":
      # All score the same: the first one is taken.
      assert config.structure.bridge == config.structure.alignment == 0.1
      assert config.optimizer.learning_rate == 1e-3
  page = (tmp_path / "small.md").read_text(encoding="utf-8")
  assert "| method | score (`score/test`) |" in page
  half = reporting.half_width([0.1, 0.1, 0.4])
  assert f"(+0.200 ± {half:.3f}) |" in page
  assert "`structure.bridge` = `structure.alignment` was chosen" in page
  assert "`optimizer.learning_rate` was chosen" in page
  assert "| fixed | batch size" not in page and "next larger" not in page
  assert (tmp_path / "small.png").stat().st_size > 1000


def test_a_metric_that_the_baseline_lacks_is_not_compared(tmp_path):
  runs = run(tmp_path, **one_setting())
  metrics = {"score/test": "score", "score/other": "another"}
  grid = make_sweep(**one_setting(metrics=metrics))
  for entry in runs.values():
    if entry["arm"].startswith("ours"):
      entry["results"]["score/other"] = 0.5
  assert sweep_report.comparable(grid, runs, 64) == [("score/test", "score")]
  sweep_report.plot(grid, runs, tmp_path / "some.png")
  assert (tmp_path / "some.png").stat().st_size > 1000


def test_a_sweep_may_begin_with_another_method_than_the_baseline(tmp_path):
  arms = [sweep.Arm(method, 64, {}) for method in ("ours", "base")]
  lines = []
  made = make_sweep(
    arms=arms, train_fn=train, tuned="", candidates=(), tune_metric=""
  )
  runs = sweep.run(made, tmp_path, report=lines.append)
  assert len(runs) == len(arms) * len(made.seeds) == len(lines)
  assert (tmp_path / "small.png").stat().st_size > 1000
  del runs["base @ 64 | seed 1"], runs["base @ 64 | seed 2"]
  sweep_report.write(made, runs, tmp_path)


def test_an_arm_s_field_needs_candidates():
  arm = sweep.Arm("base", 64, {}, tuned="structure.bridge")
  with pytest.raises(ValueError, match="tuned needs candidates"):
    make_sweep(arms=[arm])


def test_a_record_from_before_a_field_was_there_goes_on(tmp_path):
  runs = run(tmp_path)
  path = tmp_path / "small.json"
  record = json.loads(path.read_text(encoding="utf-8"))
  del record["config"]["structure"], record["config"]["loss"]["rho"]
  path.write_text(json.dumps(record), encoding="utf-8")
  seen = []
  assert run(tmp_path, seen) == runs and not seen
  record["config"]["loss"]["none"] = 1
  path.write_text(json.dumps(record), encoding="utf-8")
  with pytest.raises(config_lib.UserError, match="runs of another version"):
    run(tmp_path)


def test_runs_that_chose_another_field_are_not_taken_over(tmp_path):
  run(tmp_path, **one_setting())
  changed = one_setting()
  changed["arms"][1] = dataclasses.replace(
    changed["arms"][1], tuned="structure.consistency"
  )
  with pytest.raises(config_lib.UserError, match="'ours @ 64' that choose"):
    run(tmp_path, **changed)


def test_more_candidates_choose_anew_and_old_runs_do_not_count(tmp_path):
  run(tmp_path, candidates=(1e-3,))
  lines = []
  sweep.run(make_sweep(), tmp_path, train_fn=train, report=lines.append)
  # Ours is best at the larger rate, which was not among the first ones: one run
  # that chooses of each arm, and ours again.
  assert len(lines) == 4 + 2 * 3
  assert lines[-1].startswith("20/20")
  page = (tmp_path / "small.md").read_text(encoding="utf-8")
  half = reporting.half_width([0.1, 0.1, 0.4])
  assert f"(+0.200 ± {half:.3f})" in page
