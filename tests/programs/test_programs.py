"""Tests of the programs: what a user types, sees and gets."""

import json
import operator
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest
from absl import flags

from contrastive_jax import recipes
from contrastive_jax.data.sets.folder import reading as folder_lib
from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import help, names, workdirs
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


@pytest.mark.parametrize(
  "arguments",
  [
    ["--workdir=gs://bucket/run"],
    ["--config.data=folder", "--config.data.path=s3://bucket/images"],
    ["--config.initial=run", "--config.initial.workdir=GS://bucket/run"],
  ],
)
def test_addresses_are_no_folders(capsys, arguments):
  message = refused(capsys, *arguments)
  assert message.startswith(f"{arguments[-1]} ") and "mount" in message
  # What only looks like one is a path.
  assert Parsed("--workdir=a:/b").flags.workdir == "a:/b"


def test_without_arguments_it_is_the_default_recipe():
  assert default().to_dict()["data"]["name"] == "emoji"
  assert Parsed().flags.workdir == "runs/x"


@pytest.mark.parametrize(
  "arguments, name, value",
  [
    (["--config.steps=3"], "steps", 3),
    (["--config.steps", "3"], "steps", 3),
    (["-config.steps=3"], "steps", 3),
    (["--config.steps=3", "--config.steps=4"], "steps", 4),
    (["--config.optimizer.beta1=0.5"], "optimizer.beta1", 0.5),
    (["--config.optimizer.clip_norm=2"], "optimizer.clip_norm", 2.0),
    (["--config.model.remat"], "model.remat", True),
    (
      ["--config.model.remat", "--config.model.remat=true"],
      "model.remat",
      True,
    ),
    (["--noconfig.evaluation.plots"], "evaluation.plots", False),
    (
      ["--config.augment.crop_scale=(0.25, 0.5)"],
      "augment.crop_scale",
      (0.25, 0.5),
    ),
    (
      ["--config.augment.crop_scale=0.25,0.5"],
      "augment.crop_scale",
      (0.25, 0.5),
    ),
    (["--config.data.languages=en,de"], "data.languages", ("en", "de")),
    (
      ['--config.model.overrides={"embed_dim": 8}'],
      "model.overrides",
      {"embed_dim": 8},
    ),
  ],
)
def test_fields_are_changed(arguments, name, value):
  before = default().to_dict()
  config = Parsed(*arguments).config
  assert operator.attrgetter(name)(config) == value
  # That one, and no other.
  changed = config_lib.first_difference(config.to_dict(), before)
  assert changed is not None
  assert changed[0] == name or name in ("model.overrides",)
  after = config.to_dict()
  *groups, last = name.split(".")
  place, former = after, before
  for group in groups:
    place, former = place[group], former[group]
  place[last] = former[last]
  assert after == before


def test_a_choice_is_made_by_its_name_wherever_it_stands():
  arguments = ["--config.data=folder", "--config.data.path=/x"]
  for given in (arguments, arguments[::-1]):
    config = Parsed(*given).config
    assert config.data.path == "/x"
    assert config.to_dict()["data"]["name"] == "folder"


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
  "arguments, named",
  [
    (["--config.learning_rate=1"], ["config.optimizer.learning_rate"]),
    (["--config.lr=1"], ["config.lr", "config.optimizer.learning_rate"]),
    (["--lr=1"], ["--lr", "--config.optimizer.learning_rate"]),
    (["--batch_size=32"], ["--batch_size", "--config.batch_size"]),
    (["--config.precision=x"], ["config.precision", "config.model.dtype"]),
    (["--config.optimizer.learning_rte=1"], ["optimizer.learning_rate"]),
    (["--config.learning_rate", "1"], ["optimizer.learning_rate"]),
    (["--config.data.path=/x"], ["config.data.path", "data=folder", "emoji"]),
    (["--wrkdir=x"], ["--wrkdir", "--workdir"]),
    (["--confg=x"], ["--confg", "--config"]),
    (["--nonsense"], ["--nonsense"]),
    (["--config.optimizer=3"], ["config.optimizer", "adamw", "'3'"]),
    (["--config.augment=3"], ["config.augment", "'3'"]),
    (["--config.steps=abc"], ["config.steps", "int", "'abc'"]),
    (["--config.steps=1.5"], ["config.steps", "int", "'1.5'"]),
    (["--config.steps="], ["config.steps", "int", "''"]),
    (["--config.steps"], ["config.steps", "int", "'True'"]),
    (["--config.model.remat=maybe"], ["config.model.remat", "bool", "'maybe'"]),
    (
      ["--config.optimizer.beta1=x"],
      ["config.optimizer.beta1", "float", "'x'"],
    ),
    (["--config=/nowhere.py"], ["--config=/nowhere.py"]),
    (["--config=/nowhere.py", "--config.steps=3"], ["--config=/nowhere.py"]),
    (["--config=clip_emoij"], ["clip_emoij", "clip_emoji"]),
    (["--config=/"], ["--config=/"]),
    (["--config="], ["--config="]),
    (["--config"], ["--config"]),
    (["--help=lss"], ["lss", "loss"]),
  ],
)
def test_a_mistyped_command_line_is_one_sentence(capsys, arguments, named):
  sentence = refused(capsys, *arguments)
  for name in named:
    assert name in sentence


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
    ("type", GOOD.replace("= 5", "= 'x'"), "config.steps"),
    ("field", GOOD.replace("steps", "stepps"), "config.steps"),
  ],
)
def test_a_recipe_that_fails_is_one_sentence(
  tmp_path, capsys, name, body, said
):
  path = recipe(tmp_path, body, f"bad_{name}")
  sentence = refused(capsys, f"--config={path}", "--config.steps=3")
  assert sentence.startswith(f"--config={path} failed: ") and said in sentence


def test_a_recipe_that_returns_no_configuration_is_refused(tmp_path, capsys):
  path = recipe(tmp_path, "def get_config():\n  return 3\n", "number")
  sentence = refused(capsys, f"--config={path}")
  assert str(path) in sentence and "int" in sentence


def shown(capsys, *arguments):
  """The standard output of a command line that ends with code 0."""
  with pytest.raises(SystemExit) as caught:
    Parsed(*arguments)
  out, err = capsys.readouterr()
  assert caught.value.code == 0 and err == ""
  return out


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_shows_the_groups_with_their_values(capsys, flag):
  out = shown(capsys, "--config.steps=3", "--config.loss=sigmoid", flag)
  assert out.startswith("Usage.\n")
  assert len(out.splitlines()) <= 40  # Within 60 with a program's own words.
  assert "steps 3," in out
  lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
  for group in help.groups():
    assert group in lines
  assert lines["loss"].split()[1] == "sigmoid"


def test_help_of_a_whole_program_fits_a_page():
  for name in ("train", "import_weights"):
    result = execute(name, "--help")
    assert result.returncode == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 90


@pytest.mark.parametrize("group", help.groups())
def test_help_of_a_group_has_every_field_and_its_text(capsys, group):
  out = shown(capsys, f"--help={group}")
  flowing = " ".join(out.split())
  prefix = f"config.{group}."
  for path, field in names.paths(config_lib.Config):
    inside = path.startswith(prefix)
    # Groups within groups have a help text of their own.
    if inside and "." not in path.removeprefix(prefix):
      assert f"--{path}=" in out and field.metadata["doc"] in flowing


def test_a_configuration_is_printed_whole(capsys):
  out = shown(capsys, "--print_config", "--config.steps=3")
  expected = config_lib.checked(Parsed("--config.steps=3")._config.value)
  assert json.loads(out) == json.loads(json.dumps(expected.to_dict()))


def test_recipes_are_listed_with_their_descriptions(capsys):
  out = shown(capsys, "--list_recipes")
  lines = dict(line.split(maxsplit=1) for line in out.splitlines())
  assert list(lines) == recipes.names()
  for name, text in lines.items():
    assert text == recipes.description(name)


FIRST_LINE = """
import builtins, sys
from contrastive_jax.programs import train
def first(line="", **unused):
  slow = {"jax", "flax", "orbax", "matplotlib", "grain", "tensorflow_datasets"}
  sys.stderr.write(f"{line} {sorted(slow & {*sys.modules})}")
  sys.exit(3)
builtins.print = first
train.start()
"""


@pytest.mark.parametrize(
  "arguments, said",
  [
    ([], "clip_emoji"),
    (["--config=simclr_emoji"], "simclr"),
    (["--config.objective=vqa", "--config.data=scenes"], "vqa on scenes"),
    (["--help"], "--workdir"),
  ],
)
def test_the_first_line_comes_before_anything_slow_is_imported(arguments, said):
  result = subprocess.run(
    [sys.executable, "-c", FIRST_LINE, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 3
  assert said in result.stderr and result.stderr.endswith(" []")


def test_help_of_a_program_without_a_configuration(capsys):
  with pytest.raises(SystemExit) as caught:
    flags_lib.parse(["evaluate", "--help"], "Usage.\n", flags.FlagValues())
  assert caught.value.code == 0
  assert capsys.readouterr() == ("Usage.\n", "")


# How a program ends.


@pytest.fixture(name="end")
def fixture_end(monkeypatch, capsys):
  """Runs a main function as a program; returns code and standard error."""
  monkeypatch.setattr(flags_lib, "parse", lambda argv, *rest: list(argv))

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


NO_SCORES = {
  f"config.evaluation.{name}.final": "false"
  for name in ("retrieval", "zero_shot", "classification", "geometry")
}


def training(folder, workdir, **options):
  fields = {f"config.{k}": v for k, v in tiny.settings().items()}
  return {
    **fields,
    "config.data": "folder",
    "config.data.path": folder,
    "config.data.vocab_size": tiny.VOCABULARY,
    "config.checkpoint_every": 1,
    "config.evaluation.retrieval.every": 5,
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
  assert lines[-1].endswith(f" {workdir}.") and "results.json" in lines[-1]


def test_a_killed_run_ends_with_the_same_bits(trained, folder, tmp_path):
  """`kill -9` while it trains and saves, and the same command again."""
  whole, first = trained
  assert first.returncode == 0, first.stderr
  workdir = tmp_path / "workdir"
  options = training(folder, workdir, **NO_SCORES)
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
  result = execute("evaluate", "--evaluators=mixed", workdir=workdir)
  assert result.returncode == 0, result.stderr
  assert result.stderr == ""
  again = json.loads((workdir / "evaluation_8.json").read_text())
  added = {k: again.pop(k) for k in list(again) if k.startswith("mixed")}
  assert 0 <= added["mixed/v_measure"] <= 1
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
  assert "--workdir" in result.stdout


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
