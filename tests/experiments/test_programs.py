"""Tests of the programs: what a user types, sees and gets."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import pytest
from absl import flags

from contrastive_jax.data.sets.folder import reading as folder_lib
from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import runner
from contrastive_jax.training.trainer import checkpoints, nonfinite
from tests import compiling
from tests.training import tiny

ROOT = pathlib.Path(__file__).parents[2]


# The command line, parsed in this process.


class Parsed:
  """A command line as `experiments.train` would take it."""

  def __init__(self, *arguments):
    self.flags = flags.FlagValues()
    self._config = flags_lib.define_config(flag_values=self.flags)
    flags.DEFINE_string("workdir", "runs/x", "", flag_values=self.flags)
    self.rest = flags_lib.parse(["train", *arguments], "Usage.", self.flags)

  @property
  def config(self):
    return config_lib.parse(self._config.value)


def refused(capsys, *arguments):
  """The sentence that a command line ends with."""
  with pytest.raises(SystemExit) as caught:
    Parsed(*arguments)
  assert caught.value.code == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert err.startswith("Error: ") and err.count("\n") == 1
  return err.removeprefix("Error: ").strip()


def default():
  return Parsed().config


def test_without_arguments_it_is_the_default_recipe():
  assert default().data.name == "emoji"
  assert Parsed().flags.workdir == "runs/x"


@pytest.mark.parametrize(
  "arguments, section, name, value",
  [
    (["--config.steps=3"], "", "steps", 3),
    (["--config.steps", "3"], "", "steps", 3),
    (["-config.steps=3"], "", "steps", 3),
    (["--config.steps=3", "--config.steps=4"], "", "steps", 4),
    (["--config.optimizer.beta1=0.5"], "optimizer", "beta1", 0.5),
    (["--config.optimizer.clip_norm=2"], "optimizer", "clip_norm", 2.0),
    (["--config.model.remat"], "model", "remat", True),
    (["--config.model.remat=true"], "model", "remat", True),
    (
      ["--config.augment.crop_scale=(0.25, 0.5)"],
      "augment",
      "crop_scale",
      (0.25, 0.5),
    ),
    (["--noconfig.evaluation.final"], "evaluation", "final", False),
    (
      ['--config.model.overrides={"embed_dim": 8}'],
      "model",
      "overrides",
      '{"embed_dim": 8}',
    ),
  ],
)
def test_fields_are_changed(arguments, section, name, value):
  before = default().to_dict()
  config = Parsed(*arguments).config
  group = getattr(config, section) if section else config
  assert getattr(group, name) == value
  full = f"{section}.{name}" if section else name
  # That one, and no other.
  changed = config_lib.first_difference(config.to_dict(), before)
  assert changed is not None and changed[0] == full
  reset = config.to_dict()
  (reset[section] if section else reset)[name] = changed[2]
  assert reset == before


def test_data_is_short_for_its_name():
  config = Parsed("--config.data=folder", "--config.data.path=/x").config
  assert (config.data.name, config.data.path) == ("folder", "/x")


@pytest.mark.parametrize("name", ["decoupled", "sigmoid", "clip_four_term"])
def test_another_loss_needs_what_the_message_says(name):
  """The default recipe has settings that only its own loss takes."""
  arguments = [f"--config.loss={name}"]
  for _ in range(4):
    try:
      config = Parsed(*arguments).config
      break
    except config_lib.ConfigError as error:
      (advice,) = re.findall(r": set (config\.[\w.]+=\d+)\.$", str(error))
      arguments.append(f"--{advice}")
  assert config.loss.name == name and len(arguments) > 1


def recipe(tmp_path, body, name):
  """A config file. Each needs a name of its own: Python keeps modules."""
  path = tmp_path / f"{name}.py"
  path.write_text(body)
  return path


GOOD = """
from contrastive_jax.training import config
def get_config():
  values = config.default_config()
  values.steps = 5
  return values
"""


def test_a_recipe_may_come_before_or_after_its_fields(tmp_path):
  path = recipe(tmp_path, GOOD, "good")
  assert Parsed(f"--config={path}").config.steps == 5
  assert Parsed("--config", str(path)).config.steps == 5
  for arguments in (
    (f"--config={path}", "--config.seed=3"),
    ("--config.seed=3", f"--config={path}"),
    ("--config.seed=3", "--config", str(path)),
  ):
    config = Parsed(*arguments).config
    assert (config.steps, config.seed) == (5, 3)


@pytest.mark.parametrize(
  "arguments, said",
  [
    (
      ["--config.learning_rate=1"],
      "did you mean --config.optimizer.learning_rate?",
    ),
    (["--config.optimizer.learning_rte=1"], "optimizer.learning_rate?"),
    (["--config.learning_rate", "1"], "optimizer.learning_rate?"),
    (["--wrkdir=x"], "--wrkdir is not a flag; did you mean --workdir?"),
    (["--confg=x"], "did you mean --config?"),
    (["--nonsense"], "--nonsense is not a flag; see --help."),
    (["--config.optimizer=3"], "is a group of fields"),
    (
      ["--config.steps=abc"],
      "--config.steps must be of type int; got 'abc'.",
    ),
    (["--config.steps=1.5"], "must be of type int; got '1.5'."),
    (["--config.steps="], "must be of type int; got ''."),
    (["--config.steps"], "Missing value"),
    (["--config.model.remat=maybe"], "must be of type bool; got 'maybe'."),
    (
      ["--config.optimizer.beta1=x"],
      "--config.optimizer.beta1 must be of type float; got 'x'.",
    ),
    (["--config=/nowhere.py"], "--config=/nowhere.py is not a file"),
    (
      ["--config=/nowhere.py", "--config.steps=3"],
      "--config=/nowhere.py is not a file",
    ),
    (["--config=/"], "is not a file"),
    (["--config="], "is not a file"),
    (["--config"], "is not a file"),
  ],
)
def test_a_mistyped_command_line_is_one_sentence(capsys, arguments, said):
  assert said in refused(capsys, *arguments)


@pytest.mark.parametrize(
  "name, body, said",
  [
    ("syntax", "def get_config(:\n", "SyntaxError"),
    ("import", "import no_such_module\n", "No module named"),
    (
      "raises",
      "def get_config():\n  return nme\n",
      "'nme' is not defined (line 2).",
    ),
    ("value", "def get_config():\n  return int('x')\n", "invalid literal"),
    (
      "typo",
      GOOD.replace("values.steps", "values.optimzer.beta1"),
      "optimizer",
    ),
    ("type", GOOD.replace("= 5", "= 'x'"), "'steps'"),
  ],
)
def test_a_recipe_that_fails_is_one_sentence(
  tmp_path, capsys, name, body, said
):
  path = recipe(tmp_path, body, f"bad_{name}")
  sentence = refused(capsys, f"--config={path}", "--config.steps=3")
  assert sentence.startswith(f"--config={path} failed: ") and said in sentence


@pytest.mark.parametrize(
  "name, body, said",
  [
    ("field", GOOD.replace("steps", "stepps"), "mean config.steps?"),
    ("number", "def get_config():\n  return 3\n", "must be a mapping"),
  ],
)
def test_a_recipe_with_wrong_values_is_refused(tmp_path, name, body, said):
  parsed = Parsed(f"--config={recipe(tmp_path, body, f'wrong_{name}')}")
  with pytest.raises(config_lib.ConfigError) as caught:
    _ = parsed.config
  assert said in str(caught.value)


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_lists_every_field(capsys, flag):
  with pytest.raises(SystemExit) as caught:
    Parsed("--config.steps=3", flag, "--nonsense")
  assert caught.value.code == 0
  out, err = capsys.readouterr()
  assert err == "" and out.startswith("Usage.\n")
  lines = out.splitlines()
  flowing = " ".join(out.split())  # Long descriptions are wrapped.
  for name, default_value, doc in config_lib.fields():
    (line,) = [ln for ln in lines if ln.split()[:1] == [name]]
    assert repr(default_value) in line
    assert f"{default_value!r} {doc}" in flowing


def test_help_of_a_program_without_a_configuration(capsys):
  with pytest.raises(SystemExit) as caught:
    flags_lib.parse(["evaluate", "--help"], "Usage.\n", flags.FlagValues())
  assert caught.value.code == 0
  assert capsys.readouterr() == ("Usage.\n", "")


# How a program ends.


@pytest.fixture(name="end")
def fixture_end(monkeypatch, capsys):
  """Runs a main function as a program; returns code and standard error."""
  monkeypatch.setattr(
    flags_lib, "parse", lambda argv, usage, flag_values: list(argv)
  )

  def end(main, *arguments, **options):
    monkeypatch.setattr(
      flags_lib.app,
      "run",
      lambda checked, flags_parser: checked(flags_parser(["x", *arguments])),
    )
    code = 0
    try:
      flags_lib.run(main, flag_values=flags.FlagValues(), usage="", **options)
    except SystemExit as caught:
      code = caught.code
    return code, capsys.readouterr().err

  return end


def raising(error):
  def main():
    raise error

  return main


@pytest.mark.parametrize(
  "error, code",
  [
    (config_lib.ConfigError("no"), 2),
    (workdirs.WorkdirError("no"), 2),
    (checkpoints.CheckpointError("no"), 2),
    (folder_lib.DataError("no"), 2),
    (FileNotFoundError("no"), 2),
    (OSError("no"), 2),
    (nonfinite.NonFiniteError("no"), 1),
  ],
)
def test_mistakes_end_with_a_sentence(end, error, code):
  assert end(raising(error)) == (code, "Error: no\n")


@pytest.mark.parametrize("error", [ZeroDivisionError, ValueError])
def test_a_bug_keeps_its_stack_trace(end, error):
  with pytest.raises(error):
    end(raising(error()))


def test_an_interrupted_program_ends_as_shells_have_it(end):
  stopped = raising(KeyboardInterrupt())
  assert end(stopped) == (130, "Error: interrupted.\n")
  code, err = end(stopped, interrupted="do it again")
  assert (code, err) == (130, "Error: interrupted; do it again.\n")


def test_arguments_that_are_no_flags_are_refused(end):
  code, err = end(lambda: None, "runs/x")
  assert code == 2 and "unexpected argument 'runs/x'" in err
  assert end(lambda: None) == (0, "")


# Whole programs.


def command(program, *arguments, **options):
  """The arguments of a subprocess; fields have dots in their names."""
  return [
    sys.executable,
    "-m",
    f"experiments.{program}",
    *(f"--{name}={value}" for name, value in options.items()),
    *arguments,
  ]


def environment():
  return {
    **os.environ,
    "XLA_FLAGS": compiling.xla_flags(2),
    "PYTHONUNBUFFERED": "1",
  }


def execute(program, *arguments, **options):
  return subprocess.run(
    command(program, *arguments, **options),
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


def training(folder, workdir, **options):
  fields = {f"config.{k}": v for k, v in tiny.settings().items()}
  return {
    **fields,
    "config.data": "folder",
    "config.data.path": folder,
    "config.data.vocab_size": tiny.VOCABULARY,
    "config.checkpoint_every": 1,
    "config.evaluation.retrieval_every": 5,
    "config.evaluation.plots": "false",
    "workdir": workdir,
    **options,
  }


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory):
  return tiny.write_folder(
    tmp_path_factory.mktemp("data") / "pictures", 30, labels=True
  )


@pytest.fixture(scope="module", name="trained")
def fixture_trained(folder, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("trained") / "workdir"
  return workdir, execute("train", **training(folder, workdir))


def sentence(result, code=2):
  assert result.returncode == code
  assert "Traceback" not in result.stderr
  lines = result.stderr.strip().splitlines()
  assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
  return lines[0]


def test_training_ends_with_results(trained):
  workdir, result = trained
  assert result.returncode == 0, result.stderr
  assert result.stderr == ""
  lines = result.stdout.splitlines()
  assert any(line.startswith("step 8/8  loss ") for line in lines)
  assert any("examples/s" in ln and "input wait" in ln for ln in lines)
  results = json.loads((workdir / "results.json").read_text())
  for name in results:
    assert any(line.split()[:1] == [name] for line in lines), name
  assert lines[-1] == f"Plots and results.json are in {workdir}."


def test_a_killed_run_ends_with_the_same_bits(trained, folder, tmp_path):
  """`kill -9` while it trains and saves, and the same command again."""
  whole, first = trained
  assert first.returncode == 0, first.stderr
  workdir = tmp_path / "workdir"
  options = training(folder, workdir, **{"config.evaluation.final": "false"})
  log = workdir / "metrics.jsonl"
  process = subprocess.Popen(
    command("train", **options),
    cwd=ROOT,
    env=environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    until = time.monotonic() + 200
    while not log.exists() or log.read_text().count("\n") < 3:
      assert process.poll() is None and time.monotonic() < until
      time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
  finally:
    process.kill()
    process.wait()
  assert not (workdir / "results.json").exists()
  assert log.read_text().count("\n") < 8
  again = execute("train", **options)
  assert again.returncode == 0, again.stderr
  assert f"Resuming {workdir} at step " in again.stdout
  states = []
  for path in (whole, workdir):
    _, state = runner.restore(path, report=lambda line: None)
    states.append(jax.device_get(state))
  tiny.assert_same(*states)
  rows = []
  for path in (whole, workdir):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    rows.append([json.loads(line) for line in lines])
  timing = ("train/examples_per_second", "train/input_wait")
  stable = [
    [{k: v for k, v in r.items() if k not in timing} for r in part]
    for part in rows
  ]
  assert stable[0] == stable[1]
  trained_steps = [r["step"] for r in stable[1] if "train/loss" in r]
  assert trained_steps == list(range(1, 9))


def test_evaluate_gives_the_results_of_the_run(trained):
  workdir, first = trained
  assert first.returncode == 0, first.stderr
  result = execute("evaluate", workdir=workdir)
  assert result.returncode == 0, result.stderr
  assert result.stderr == ""
  again = json.loads((workdir / "evaluation_8.json").read_text())
  results = json.loads((workdir / "results.json").read_text())
  assert again == {
    k: v for k, v in results.items() if not k.startswith("train/")
  }


@pytest.mark.exhaustive
def test_plots_of_an_earlier_step_leave_those_of_the_last(trained):
  workdir, first = trained
  assert first.returncode == 0, first.stderr
  result = execute("evaluate", "--plots", workdir=workdir, step=7)
  assert result.returncode == 0, result.stderr
  assert (workdir / "plots_7" / "curves.png").exists()
  assert not (workdir / "plots").exists()


def test_help_of_the_program():
  result = execute("train", "--help")
  assert result.returncode == 0 and result.stderr == ""
  assert result.stdout.startswith("Trains and evaluates")
  assert "--workdir=DIR" in result.stdout
  assert max(map(len, result.stdout.splitlines())) <= 140
  for name, _, _ in config_lib.fields():
    assert name in result.stdout


def test_data_that_cannot_be_used_is_one_sentence(folder, tmp_path):
  """Empty, and with more bad rows than allowed; the workdir stays free."""
  workdir = tmp_path / "workdir"
  (tmp_path / "empty").mkdir()
  said = sentence(execute("train", **training(tmp_path / "empty", workdir)))
  assert "captions.jsonl" in said and str(tmp_path / "empty") in said
  assert not (workdir / "config.json").exists()

  bad = tiny.write_folder(tmp_path / "bad", 12)
  for path in list(bad.glob("*.png"))[:6]:
    path.write_bytes(b"not a picture")
  said = sentence(execute("train", **training(bad, workdir)))
  assert "6 of 12 rows" in said and "undecodable image" in said
  problems = (workdir / "skipped.jsonl").read_text().splitlines()
  assert len(problems) == 6
  assert not (workdir / "config.json").exists()
