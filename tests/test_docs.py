"""The README and the guides: their code runs, their commands are valid."""

import importlib
import pathlib
import re
import shlex

import jax
import pytest
from jax.sharding import AxisType
from PIL import Image

from contrastive_jax import ops, recipes
from contrastive_jax.programs.sweep import files
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import names
from contrastive_jax.training.runs import runner

ROOT = pathlib.Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  ROOT / "docs" / "index.md",
  *GUIDES,
]
# The fields of extend.md are those of its own classes: test_extend.py runs it.
SETTING = [page for page in PAGES if page.stem != "extend"]
# Flags that every program has, or that are of another one in a table.
_COMMON = {
  "help",
  "list_recipes",
  "coordinator",
  "process_count",
  "process_id",
  "dead_after",
}


def blocks(path, language):
  text = path.read_text(encoding="utf-8")
  return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(path):
  """(module, arguments) of every program that a page starts."""
  found = []
  for block in blocks(path, "sh"):
    for line in block.replace("\\\n", " ").splitlines():
      line = re.sub(r"(^|\s)#.*", "", line)
      if "python -m experiments" in line:
        words = shlex.split(line.partition("python -m ")[2])
        found.append((words[0], words[1:]))
  text = path.read_text(encoding="utf-8")
  for inline in re.findall(r"`python -m (experiments[^`]*)`", text):
    words = shlex.split(inline)
    found.append((words[0], words[1:]))
  return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_code_runs(path, tmp_path, monkeypatch):
  names = {}
  if path.name == "use.md":
    monkeypatch.chdir(tmp_path)
    _train_on_emoji(tmp_path)
  if path.name == "README.md":  # It goes on from what its reader has.
    image, text = ops.l2_normalize(
      jax.random.normal(jax.random.key(0), (2, 16, 8))
    )
    names = {"AxisType": AxisType, "image": image, "text": text}
  for number, block in enumerate(blocks(path, "python")):
    code = compile(block, f"{path.name}, example {number + 1}", "exec")
    exec(code, names)


def _train_on_emoji(folder):
  """A run of two steps and two pictures, as the guide's reader has them."""
  draft = config_lib.default_config()
  draft.override(
    {
      "steps": 2,
      "batch_size": 8,
      "evaluation": ("geometry",),
      "evaluation.plots": False,
    }
  )
  runner.train(config_lib.parse(draft), folder / "runs" / "clip_emoji")
  for name in ("cup.png", "dog.png"):
    Image.new("RGB", (40, 30), "red").save(folder / name)


def program_flags(module):
  """The flags of a program, or of the one that a thin entry starts."""
  program = importlib.import_module(module)
  found = [program, *vars(program).values()]
  return next(m._FLAGS for m in found if hasattr(m, "_FLAGS"))


@pytest.mark.parametrize("path", SETTING, ids=lambda path: path.stem)
def test_commands_are_valid(path):
  for module, arguments in commands(path):
    known = {*program_flags(module)} | _COMMON
    fields, recipe = {}, "clip_emoji"
    for argument in arguments:
      assert argument.startswith("--"), (module, argument)
      flag, _, value = argument[2:].partition("=")
      if flag.startswith("config."):
        fields[flag.removeprefix("config.")] = value or "True"
        continue
      assert flag in known, (module, argument)
      if flag == "config":
        recipe = value
      if value.startswith("experiments/"):
        assert (ROOT / value.partition(":")[0]).exists(), (module, argument)
      if flag == "sweep":
        assert files.load(value).source == value
    if fields or recipe != "clip_emoji":
      draft = recipes.load(recipe)
      draft.override(fields)
      config_lib.checked(draft)


@pytest.mark.parametrize("path", SETTING, ids=lambda path: path.stem)
def test_fields_in_the_text_are_fields(path):
  text = path.read_text(encoding="utf-8")
  known = {name for name, _ in names.paths(config_lib.Config)}
  for field in re.findall(r"`(?:--)?(config\.[a-z_.]+)[=`]", text):
    assert field in known or field == "config.json", field


def test_commands_are_found():
  modules = {m for page in PAGES for m, _ in commands(page)}
  assert {"experiments.train", "experiments.convert_pairs"} <= modules
  assert len(modules) >= 8


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
  text = path.read_text(encoding="utf-8")
  text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
  generated = {"_generated/recipes.md", "_generated/results.md"}
  for target in re.findall(r"\]\(([^)#\s]+)\)", text):
    if target.startswith(("http://", "https://")):
      continue
    place = (path.parent / target).resolve()
    name = place.relative_to(ROOT).as_posix().removeprefix("docs/")
    assert place.exists() or name in generated, target
  for name in re.findall(r"`(experiments/[\w/.]+\.\w+|docs/[\w/.]+)`", text):
    assert (ROOT / name).exists(), name
