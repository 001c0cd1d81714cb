"""The guide's own losses, data sets, ... run from a folder outside of the package."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from absl import flags

from contrastive_jax.programs import command_line
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.runs import runner
from tests.training import tiny

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "guides" / "extend.md").read_text(encoding="utf-8")
FILES = {
  re.match(r"# (\w+\.py)\n", block)[1]: block
  for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
}
COMMANDS = [
  shlex.split(block.replace("\\\n", " "))[3:]
  for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_devices(monkeypatch, 1)


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
  """The guide's files, in the folder that one is in."""
  for name, text in FILES.items():
    (tmp_path / name).write_text(text, encoding="utf-8")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_short(name):
  assert len(FILES[name].splitlines()) < 40


def parsed(arguments):
  """The configuration of a command of the guide, at a tiny size."""
  values = flags.FlagValues()
  config = command_line.define_config(flag_values=values)
  small = [f"--config.{k}={v}" for k, v in tiny.settings().items()]
  command_line.parse(
    ["train", "--config=clip_folder", *small, *arguments], "", values
  )
  return config_lib.parse(config.value)


# All of them in two runs, and each by itself.
_LOSS, _DATA, _EVALUATOR, _LOGGER, _E_STEP, _OBJECTIVE = COMMANDS
TOGETHER = [_LOSS + _DATA + _EVALUATOR + _LOGGER, _E_STEP + _OBJECTIVE]


@pytest.mark.parametrize(
  "arguments",
  [
    *TOGETHER,
    *(pytest.param(c, marks=pytest.mark.exhaustive) for c in COMMANDS),
  ],
  ids=lambda a: " ".join(a),
)
def test_an_example_trains(arguments, outside):
  if not any("config.data" in a for a in arguments):
    folder = tiny.write_folder(outside / "pictures", 30, labels=True)
    arguments = [
      *arguments,
      f"--config.data.path={folder}",
      f"--config.data.vocab_size={tiny.VOCABULARY}",
    ]
  config = parsed(arguments)
  results = runner.train(config, outside / "run", report=lambda line: None)
  assert results["train/steps"] == config.steps
  stored = json.loads((outside / "run" / "config.json").read_text())
  # It is stored under its name, and found again.
  assert ":" in json.dumps(stored) and config_lib.parse(stored) == config
  again, _ = runner.restore(outside / "run", report=lambda line: None)
  assert again.config == config
  log = (outside / "run" / "metrics.jsonl").read_text()
  if "Spread" in str(arguments):
    assert results["spread/mean"] > 0
  if "Table" in str(arguments):
    table = (outside / "run" / "metrics.csv").read_text()
    assert "train/loss" in table and "spread/mean" in table
  if "ClipWithDecay" in str(arguments):
    assert "train/bias_penalty" in log


def test_a_field_of_an_own_loss_is_checked_and_told():
  with pytest.raises(config_lib.ConfigError) as caught:
    draft = config_lib.default_config()
    draft.override({"loss": "my_losses:Tempered", "loss.power": 100})
  assert "config.loss.power" in str(caught.value) and "100" in str(caught.value)
  with pytest.raises(config_lib.ConfigError) as caught:
    draft.override({"loss.label_smoothing": 0.1})
  for name in ("loss.label_smoothing", "loss=clip", "my_losses:Tempered"):
    assert name in str(caught.value)


@pytest.mark.parametrize(
  "name", ["nowhere:Loss", "my_losses:Nothing", "my_losses:field", "my_losses"]
)
def test_a_name_that_leads_nowhere_is_one_sentence(name):
  with pytest.raises(config_lib.ConfigError) as caught:
    config_lib.default_config().loss = name
  assert "config.loss" in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
  "program", ["experiments.train", "contrastive_jax.programs"]
)
def test_programs_import_from_the_folder_that_one_is_in(program, outside):
  arguments = ["train"] if program.endswith("programs") else []
  result = subprocess.run(
    [
      *(sys.executable, "-m", program, *arguments),
      "--config.loss=my_losses:Tempered",
      "--print_config",
    ],
    cwd=outside,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert json.loads(result.stdout)["loss"]["power"] == 1.5
