"""Every field and every flag, given wrong: one sentence, and nothing begun.

Single messages are in tests/programs/test_programs.py and tests/training/config/;
here it is all fields of all variants, as the program train takes them, and
contradictions between groups.
"""

import dataclasses
import importlib
import math
import typing

import jax
import pytest
from absl import flags

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import names
from contrastive_jax.training.runs import runner

COMPILED = "/jax/core/compile/backend_compile_duration"


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
  """A command line of the program train that must end with a sentence."""
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


def _leaves(cls, path, chosen, main=""):
  """(path, field, type, choices to make before) of every value of every variant."""
  types = typing.get_type_hints(cls)
  for f in dataclasses.fields(cls):
    place, meta = f"{path}.{f.name}", f.metadata
    kind = meta.get("kind") or meta.get("several")
    if "section" in meta:
      yield from _leaves(meta["section"], place, chosen, meta.get("main", ""))
    elif kind is None:
      yield place, f, types[f.name], chosen
    else:
      for name in kind.variants:
        # One of several variants lies in the group that has them.
        group = path if f.name == main else place
        inner = place if "kind" in meta else f"{group}.{name}"
        made = {**chosen, place.removeprefix("config."): name}
        yield from _leaves(kind.find(name), inner, made)


LEAVES = list(_leaves(config_lib.Config, "config", {}))
NAMES = sorted({path for path, *_ in LEAVES})


def _draft(path, chosen):
  """A draft in which the field of a variant exists."""
  draft = config_lib.default_config()
  group = path.split(".")[1]
  for objective in ("clip", "albef", "simclr"):
    if not draft.uses(group):
      draft.objective = objective
  draft.override(chosen)
  return draft


@pytest.mark.parametrize("name", NAMES)
def test_a_mistyped_field(train, name):
  """The last part with a letter left out, doubled, and two swapped."""
  section, _, last = name.rpartition(".")
  middle = len(last) // 2
  for typo in (
    last[:middle] + last[middle + 1 :],
    last[:middle] + last[middle] + last[middle:],
    last[: middle - 1] + last[middle] + last[middle - 1] + last[middle + 1 :],
  ):
    known = any(p.rpartition(".")[2] == typo for p in NAMES)
    if known or not typo or names.known_as(typo) != typo:
      continue
    said = train(f"--{section}.{typo}=1")
    assert f"{section}.{typo}" in said or section.split(".")[1] in said
    assert "did you mean" in said or "belongs to" in said


def _wrong(f, wanted):
  """Texts that a field must refuse."""
  if typing.get_origin(wanted) is not None and type(None) in typing.get_args(
    wanted
  ):
    wanted = typing.get_args(wanted)[0]
  checks = f.metadata
  if wanted is int:
    yield from ("abc", "1.5", "", "nan")
  elif wanted is float:
    yield from ("abc", "", "nan", "inf", "-inf")
  elif wanted is bool:
    yield from ("maybe", "", "2")
  elif typing.get_origin(wanted) is tuple:
    inner = typing.get_args(wanted)
    if inner[0] in (int, float):
      # Text that is no literal of Python is refused before it could be run.
      yield from ("abc", "__import__('os').getcwd()", "(1.0,'a')")
    if inner[-1] is not Ellipsis:
      yield from ("", "(1.0,)")
  elif wanted is dict or typing.get_origin(wanted) is dict:
    yield from ("[1]", "{", "3", "__import__('os').getcwd()")
  low, high = checks.get("low", -math.inf), checks.get("high", math.inf)
  if wanted in (int, float) and math.isfinite(low):
    yield repr(wanted(low - 1))
  if wanted in (int, float) and math.isfinite(high):
    yield repr(wanted(high + 1))
  if checks.get("among") and wanted is str:
    first = checks["among"][0]
    yield from (f"{first}x", "", first.upper())


@pytest.mark.parametrize("path, f, wanted, chosen", LEAVES)
def test_a_wrong_value(path, f, wanted, chosen):
  for text in _wrong(f, wanted):
    with pytest.raises(config_lib.ConfigError) as caught:
      _draft(path, chosen).override({path.removeprefix("config."): text})
    assert path in str(caught.value) and "got" in str(caught.value)


@pytest.mark.parametrize("path, f, wanted, chosen", LEAVES)
def test_a_recipe_with_a_value_of_another_type(path, f, wanted, chosen):
  """Values that no flag can have: a recipe is Python."""
  wrong = [None, object(), b"x", 1j]
  if wanted is not dict and typing.get_origin(wanted) is not dict:
    wrong.append({"a": 1})
  if typing.get_origin(wanted) is not tuple:
    wrong.append([1])
  for value in wrong:
    draft = _draft(path, chosen)
    with pytest.raises(config_lib.ConfigError) as caught:
      draft.assign(path.removeprefix("config."), value)
    assert path in str(caught.value) and "got" in str(caught.value)


# Groups that contradict each other: fields, and what the sentence must name.

SIMCLR = {"objective": "simclr"}
ALBEF = {"objective": "albef", "model.preset": "albef_tiny"}
VQA = {
  "objective": "vqa",
  "data": "scenes",
  "model.preset": "albef_tiny",
}
CONTRADICTIONS = [
  (
    {**SIMCLR, "loss": "clip"},
    ["config.loss", "nt_xent, hard_negative, augmented", "'clip'"],
  ),
  ({"loss": "soft_target"}, ["config.loss", "clip_four_term", "'soft_target'"]),
  ({**SIMCLR, "initial": "run"}, ["config.initial.workdir", "''"]),
  (
    {"initial": "run", "initial.workdir": "x", "initial.part": "encoders"},
    ["config.initial.part", "'clip'"],
  ),
  ({"loss.temperature_mode": "robust"}, ["temperature_mode=robust", "clip"]),
  (
    {**SIMCLR, "loss.temperature_mode": "learned"},
    ["config.loss.temperature_mode", "fixed", "'learned'"],
  ),
  (
    {**SIMCLR, "objective.images_per_concept": 3},
    ["config.objective.images_per_concept", "3"],
  ),
  (
    {**SIMCLR, "loss": "augmented", "loss.e_step": "amortized"},
    ["config.loss.e_step=amortized", "clip"],
  ),
  ({**SIMCLR, "tokenizer": "clip"}, ["config.tokenizer", "objective=simclr"]),
  (
    {**ALBEF, "objective.frozen": "image"},
    ["config.objective.frozen", "objective=clip", "albef"],
  ),
  (
    {
      **VQA,
      "initial": "run",
      "initial.workdir": "x",
      "tokenizer": "clip",
    },
    ["config.tokenizer", "config.initial=run", "'clip'"],
  ),
  (
    {**ALBEF, "loss": "augmented", "loss.temperature_mode": "individual"},
    ["config.loss.temperature_mode", "learned, fixed", "'individual'"],
  ),
  ({**VQA, "captions.name": 2}, ["config.captions", "objective=vqa"]),
  (
    {**ALBEF, "objective.negative_block": 7},
    ["config.objective.negative_block", "config.batch_size", "7"],
  ),
  (
    {
      **ALBEF,
      **dict.fromkeys(
        ("objective.contrast", "objective.matching", "objective.language"), 0
      ),
    },
    ["config.objective.contrast", "above 0"],
  ),
  ({**SIMCLR, "structure": "bridge"}, ["config.structure", "clip or albef"]),
  (
    {**ALBEF, "structure": "bridge", "other_view": "augmented"},
    ["config.other_view", "momentum", "'augmented'"],
  ),
  (
    {
      **ALBEF,
      "structure": "separation",
      "structure.separation.independent_head": "mlp",
    },
    ["independent_head", "linear", "'mlp'"],
  ),
  (
    {"structure": "bridge", "structure.bridge.time": "0.5,0.2"},
    ["bridge.time", "(0.5, 0.2)"],
  ),
  (
    {"structure": "bridge", "structure.bridge.time": "0.5,1.5"},
    ["bridge.time", "1.5"],
  ),
  (
    {
      "structure": "bridge",
      "structure.bridge.time": "0.0,0.5",
      "structure.bridge.weighted": "true",
    },
    ["bridge.time", "(0, 0.5)"],
  ),
  (
    {"evaluation.classification.concatenated": "true"},
    ["classification.concatenated", "config.structure=separation"],
  ),
  (
    {"evaluation": "benchmarks", "evaluation.benchmarks.sets": "cifar11"},
    ["benchmarks.sets", "'cifar11'", "'cifar10'"],
  ),
  (
    {**VQA, "objective.answer_length": 500},
    ["config.objective.answer_length", "500"],
  ),
  ({"model.preset": "albef_tiny"}, ["config.model.preset", "'albef_tiny'"]),
  ({**VQA, "model.preset": "tiny"}, ["config.model.preset", "'tiny'"]),
  ({"data": "easy_vqa"}, ["config.objective=clip", "'easy_vqa'"]),
  ({"keep_best": "true", "evaluation": "geometry"}, ["config.keep_best"]),
  ({"microbatches": 3}, ["config.microbatches", "256", "3"]),
]


PLAIN = """
from contrastive_jax.training import config
get_config = config.default_config
"""


@pytest.mark.parametrize("fields, named", CONTRADICTIONS)
def test_groups_that_contradict_each_other(train, tmp_path, fields, named):
  # The default recipe has settings of its own, which would be refused first.
  recipe = tmp_path / "plain.py"
  recipe.write_text(PLAIN)
  given = (f"--config.{k}={v}" for k, v in fields.items())
  said = train(f"--config={recipe}", *given)
  for name in named:
    assert name in said, said


def test_groups_that_go_together_are_taken():
  """Or the above would prove nothing of what it starts from."""
  for fields in ({}, VQA, ALBEF, SIMCLR):
    draft = config_lib.default_config()
    draft.override(fields)
    config = config_lib.parse(draft)
    name = config.to_dict()["objective"]["name"]
    assert name == fields.get("objective", "clip")


# The other programs.

PROGRAMS = (
  *(
    f"contrastive_jax.programs.{name}"
    for name in ("train", "evaluate", "embed", "search", "classify", "export")
  ),
  *(
    f"contrastive_jax.programs.{name}_weights" for name in ("import", "export")
  ),
  "contrastive_jax.programs.convert",
  "contrastive_jax.programs.sweep.program",
  *(f"experiments.{name}" for name in ("record", "durability.numbers")),
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_flags_of_programs(name, capsys):
  program = importlib.import_module(name)
  own = [flag for flag in program._FLAGS if flag != "config"]
  assert own
  for flag in own:
    # A phrase that needs no neighbour.
    if name.startswith("contrastive_jax"):
      assert len(program._FLAGS[flag].help.split()) >= 4
    typo = flag[:1] + flag[2:]
    with pytest.raises(SystemExit) as caught:
      flags_lib.parse([name, f"--{typo}=1"], "", program._FLAGS)
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert f"--{typo}" in err and f"--{flag}" in err and err.count("\n") == 1


@pytest.mark.parametrize(
  "name, argument",
  [
    ("contrastive_jax.programs.train", "--process_count=two"),
    ("contrastive_jax.programs.train", "--dead_after=0"),
    ("contrastive_jax.programs.train", "--dead_after=nan"),
    ("contrastive_jax.programs.evaluate", "--step=1.5"),
    ("contrastive_jax.programs.evaluate", "--step="),
    ("contrastive_jax.programs.evaluate", "--plots=perhaps"),
    ("contrastive_jax.programs.export", "--step=last"),
    ("contrastive_jax.programs.convert", "--shorter_side=x"),
    ("contrastive_jax.programs.convert", "--workers=-1"),
    ("contrastive_jax.programs.convert", "--validation=half"),
    ("contrastive_jax.programs.sweep.program", "--processes=0"),
    ("experiments.durability.numbers", "--cases=0"),
  ],
)
def test_values_of_flags(name, argument, capsys):
  program = importlib.import_module(name)
  with pytest.raises(SystemExit) as caught:
    flags_lib.parse([name, argument], "", program._FLAGS)
  out, err = capsys.readouterr()
  assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
  flag, _, value = argument.removeprefix("--").partition("=")
  assert flag in err and value in err
