"""Every field and every flag, given wrong: one sentence, and nothing begun.

Single messages and their wording are in tests/training/test_config.py and
tests/experiments/test_programs.py; here it is all fields, as `experiments.train` takes
them, and what config_checks refuses that is not tested there.
"""

import dataclasses
import importlib
import math
import re

import jax
import pytest
from absl import flags

from contrastive_jax.training import config as config_lib
from contrastive_jax.training import runner
from experiments import flags as flags_lib
from tests.training import tiny

COMPILED = "/jax/core/compile/backend_compile_duration"


def _described():
  """Name, type and what is asked of the values of every field."""
  for outer in dataclasses.fields(config_lib.Config):
    if dataclasses.is_dataclass(outer.default):
      for inner in dataclasses.fields(outer.default):
        yield f"{outer.name}.{inner.name}", inner
    else:
      yield outer.name, outer


FIELDS = dict(_described())
NAMES = [name for name, _, _ in config_lib.fields()]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_compiled():
  counted = []

  def count(event, seconds, **unused):
    if event == COMPILED:
      counted.append(seconds)

  jax.monitoring.register_event_duration_secs_listener(count)
  yield
  assert not counted
  # It counts what is compiled, or it would prove nothing.
  jax.jit(lambda x: x * 1.25 + 0.5)(jax.numpy.ones(3)).block_until_ready()
  assert counted


@pytest.fixture(name="train")
def fixture_train(monkeypatch, tmp_path, capsys):
  """A command line of `experiments.train` that must end with a sentence."""
  began = []
  monkeypatch.setattr(runner, "train", lambda *args, **kw: began.append(args))

  def train(*arguments):
    values = flags.FlagValues()
    config = flags_lib.define_config(flag_values=values)
    workdir = flags.DEFINE_string("workdir", "", "", flag_values=values)
    argv = ["train", f"--workdir={tmp_path / 'run'}", *arguments]
    monkeypatch.setattr(
      flags_lib.app,
      "run",
      lambda checked, flags_parser: checked(flags_parser(argv)),
    )

    def main():
      runner.train(config_lib.parse(config.value), workdir.value)

    with pytest.raises(SystemExit) as caught:
      flags_lib.run(main, flag_values=values, usage="")
    out, err = capsys.readouterr()
    assert (caught.value.code, out, began) == (2, "", [])
    assert not (tmp_path / "run").exists()
    assert err.startswith("Error: ") and err.count("\n") == 1
    return err.removeprefix("Error: ").strip()

  return train


def _typos(name):
  """The name with a letter of its last part left out, doubled, and two swapped."""
  section, _, last = name.rpartition(".")
  prefix = f"{section}." if section else ""
  middle = len(last) // 2
  for typo in (
    last[:middle] + last[middle + 1 :],
    last[:middle] + last[middle] + last[middle:],
    last[: middle - 1] + last[middle] + last[middle - 1] + last[middle + 1 :],
  ):
    if f"{prefix}{typo}" not in FIELDS:
      yield f"{prefix}{typo}"


@pytest.mark.parametrize("name", NAMES)
def test_a_mistyped_field(train, name):
  for typo in _typos(name):
    said = train(f"--config.{typo}=1")
    assert said == (
      f"--config.{typo} is not a field; did you mean --config.{name}? See --help."
    )


def _wrong(field):
  """Values that a field must refuse, and what must be said of them."""
  kind, checks = type(field.default), field.metadata
  if kind is int:
    yield from (("abc", "int"), ("1.5", "int"), ("", "int"), ("nan", "int"))
  elif kind is float:
    yield from (("abc", "float"), ("", "float"))
    yield from ((v, "must be a finite number") for v in ("nan", "inf", "-inf"))
  elif kind is bool:
    yield from (("maybe", "bool"), ("", "bool"), ("2", "bool"))
  elif kind is tuple:
    # What is no literal of Python is refused before it could be run.
    for value in ("abc", "", "__import__('os').getcwd()"):
      yield value, "must be (2 numbers|of type tuple)"
    for value in ("(1.0,)", "(1.0,'a')", "(1e999,0.5)"):
      yield value, "must be 2 numbers"
  if "low" in checks:
    yield repr(kind(checks["low"] - 1)), f"least {checks['low']}|in \\["
  if "high" in checks:
    yield repr(kind(checks["high"] + 1)), "must be in \\["
  if "choices" in checks:
    first = checks["choices"][0]
    for value in (f"{first}x", "", first.upper()):
      yield value, f"must be one of {', '.join(checks['choices'])}; got"


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_value(train, name):
  for value, expected in _wrong(FIELDS[name]):
    said = train(f"--config.{name}={value}")
    assert f"config.{name} must be " in said
    assert re.search(expected, said) and "; got " in said


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_with_a_value_of_another_type(name):
  """What no flag can be: a recipe is Python."""
  *sections, last = name.split(".")
  for value in (None, [1], {"a": 1}, object(), b"x", 1j):
    nested = {last: value}
    for section in reversed(sections):
      nested = {section: nested}
    with pytest.raises(config_lib.ConfigError) as caught:
      config_lib.parse(nested)
    assert f"config.{name} must be " in str(caught.value)
    assert "got " in str(caught.value)


def test_every_field_with_bounds_or_choices_has_a_default_within_them():
  for name, field in FIELDS.items():
    checks, value = field.metadata, field.default
    assert value in checks.get("choices", (value,)), name
    if isinstance(value, int | float):
      low, high = checks.get("low", -math.inf), checks.get("high", math.inf)
      assert low <= value <= high, name


# What fields say together.

FUSION = {"objective": "vqa", "loss.name": "cross_entropy"}
ALBEF = {"objective": "albef", "loss.name": "soft_target"}
SIMCLR = {
  "objective": "simclr",
  "loss.name": "nt_xent",
  "loss.temperature": "fixed",
}
TERMS = ("fusion.contrast", "fusion.matching", "fusion.language")
AUGMENTED = {"objective": "albef", "loss.name": "augmented"}
BRIDGE = "bridge_time must be two rising numbers"

CONTRADICTIONS = [
  ({"objective": "simclr"}, "takes config.loss.name=nt_xent, augmented; got"),
  ({"loss.name": "soft_target"}, "takes config.loss.name=clip, clip_four_term"),
  ({"initial.workdir": "x"}, "initial.workdir is for objectives of fusion"),
  (
    {"loss.temperature": "robust"},
    "temperature='robust' needs config.loss.name='augmented'; got 'clip'",
  ),
  (
    {**SIMCLR, "loss.temperature": "learned"},
    "has a fixed temperature, 1 / config.loss.init_logit_scale",
  ),
  ({**SIMCLR, "data.images_per_concept": 3}, "must be 1 .* or 2 .*; got 3"),
  (
    {**SIMCLR, "loss.name": "augmented", "loss.e_step": "amortized"},
    "e_step='amortized' needs config.objective='clip'; got 'simclr'",
  ),
  ({**SIMCLR, "model.tokenizer": "clip"}, "tokenizer is for models with texts"),
  (
    {**ALBEF, "model.frozen": "image", "initial.weights": "x"},
    "frozen is for config.objective='clip'; got 'albef'",
  ),
  (
    {**FUSION, "initial.workdir": "x", "model.tokenizer": "clip"},
    "initial.workdir and config.model.tokenizer exclude each other",
  ),
  (
    {**AUGMENTED, "loss.temperature": "individual"},
    "takes config.loss.temperature=learned, fixed; got 'individual'",
  ),
  (
    {**AUGMENTED, "loss.image_image": 1, "data.images_per_concept": 2},
    "image_image is for config.objective='clip'; got 'albef'",
  ),
  ({**FUSION, "data.captions_per_example": 2}, "captions_per_example=1; got 2"),
  ({**FUSION, "data.images_per_concept": 2}, "images_per_concept=1; got 2"),
  (
    {**ALBEF, "fusion.negative_block": 7},
    r"divide config.batch_size \(.*got 7",
  ),
  ({**FUSION, "evaluation.benchmarks": "cifar10"}, "which embeds no images"),
  (
    {**ALBEF, **dict.fromkeys(TERMS, 0)},
    "One of config.fusion.contrast, matching and language must be above 0",
  ),
  (
    {**SIMCLR, "structure.bridge": 1},
    "for config.objective='clip' and 'albef'",
  ),
  ({**ALBEF, "structure.bridge": 1}, "set config.structure.source=momentum"),
  (
    {**ALBEF, "structure.independent_head": "mlp"},
    "set config.structure.independent_head=linear; got 'mlp'",
  ),
  ({"structure.bridge_time": "(0.5,0.2)"}, f"{BRIDGE} in .*; got .0.5, 0.2"),
  ({"structure.bridge_time": "(0.5,1.5)"}, BRIDGE),
  (
    {"structure.bridge_time": "(0.0,0.5)", "structure.bridge_weighted": "true"},
    f"{BRIDGE} inside of",
  ),
  ({"evaluation.concatenated": "true"}, "needs config.structure.separation"),
  ({"evaluation.benchmarks": "cifar11"}, "Did you mean 'cifar10'"),
  (
    {**FUSION, "fusion.answer_length": 500},
    "answer_length must be at most one",
  ),
  ({"model.preset": "albef_tiny"}, "preset must be one of"),
  ({**FUSION, "model.preset": "tiny"}, "preset must be one of"),
]


PLAIN = """
from contrastive_jax.training import config
get_config = config.default_config
"""


def _with_preset(fields):
  fuses = fields.get("objective") in config_lib.FUSION_OBJECTIVES
  return {"model.preset": "albef_tiny" if fuses else "tiny", **fields}


@pytest.mark.parametrize("fields, said", CONTRADICTIONS)
def test_fields_that_contradict_each_other(train, tmp_path, fields, said):
  # The default recipe has settings of its own, which would be refused first.
  recipe = tmp_path / "plain.py"
  recipe.write_text(PLAIN)
  given = (f"--config.{k}={v}" for k, v in _with_preset(fields).items())
  assert re.search(said, train(f"--config={recipe}", *given))


def test_what_goes_together_is_taken():
  """Or the above would prove nothing of what it starts from."""
  for fields in ({}, FUSION, ALBEF, SIMCLR, AUGMENTED):
    config = tiny.parse(_with_preset(fields))
    assert config.objective == fields.get("objective", "clip")


# The other programs.

PROGRAMS = (
  *("train", "evaluate", "import_weights", "export_weights", "convert_pairs"),
  *("sweep.__main__", "record", "fusion_study", "fusion_study_report"),
  "durability.numbers",
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_flags_of_programs(name, capsys):
  program = importlib.import_module(f"experiments.{name}")
  own = [flag for flag in program._FLAGS if flag != "config"]
  assert own
  for flag in own:
    # Only what is explained can be used.
    assert f"--{flag}" in program._USAGE
    typo = flag[:1] + flag[2:]
    with pytest.raises(SystemExit) as caught:
      flags_lib.parse([name, f"--{typo}=1"], program._USAGE, program._FLAGS)
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err == (
      f"Error: --{typo} is not a flag; did you mean --{flag}? See --help.\n"
    )


@pytest.mark.parametrize(
  "name, argument",
  [
    ("train", "--process_count=two"),
    ("train", "--dead_after=0"),
    ("train", "--dead_after=nan"),
    ("evaluate", "--step=1.5"),
    ("evaluate", "--step="),
    ("evaluate", "--plots=perhaps"),
    ("export_weights", "--step=last"),
    ("convert_pairs", "--shorter_side=x"),
    ("convert_pairs", "--workers=-1"),
    ("convert_pairs", "--validation=half"),
    ("sweep.__main__", "--minutes=-1"),
    ("sweep.__main__", "--minutes=nan"),
    ("durability.numbers", "--cases=0"),
  ],
)
def test_values_of_flags(name, argument, capsys):
  program = importlib.import_module(f"experiments.{name}")
  with pytest.raises(SystemExit) as caught:
    flags_lib.parse([name, argument], program._USAGE, program._FLAGS)
  out, err = capsys.readouterr()
  assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
  flag, _, value = argument.removeprefix("--").partition("=")
  assert flag in err and value in err
