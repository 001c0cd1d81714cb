"""The package: names reached lazily, what it ships."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib
import types

import pytest

import contrastive_jax
from contrastive_jax import evaluation, losses, models, ops
from tests.exports import public_names

ROOT = pathlib.Path(__file__).parents[1]
LENDERS = (losses, evaluation)
SHARED = set.intersection(*map(public_names, LENDERS))


def project():
  return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_importing_the_package_imports_nothing_else():
  code = (
    "import sys; before = set(sys.modules); import contrastive_jax;"
    "new = {m.split('.')[0] for m in set(sys.modules) - before};"
    "assert not new & {'jax', 'jaxlib', 'numpy', 'flax'}, new;"
    "contrastive_jax.clip; assert 'jax' in sys.modules;"
    "assert not {'flax', 'optax'} & set(sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def test_losses_and_scores_are_here_by_name():
  here = {"__version__", "load", *contrastive_jax._PACKAGES}
  assert contrastive_jax.load is contrastive_jax.inference.load
  for package in LENDERS:
    for name in public_names(package) - SHARED:
      assert getattr(contrastive_jax, name) is getattr(package, name)
      here.add(name)
  assert set(dir(contrastive_jax)) == here


def test_a_name_of_two_packages_is_not_here():
  assert SHARED == {"alignment", "uniformity"}
  for name in SHARED:
    with pytest.raises(AttributeError) as found:
      getattr(contrastive_jax, name)
    assert f"losses.{name}" in str(found.value)
    assert f"evaluation.{name}" in str(found.value)


@pytest.mark.parametrize("name", ["klip", "fusion", "jax", "importlib"])
def test_a_name_that_is_not_here(name):
  with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
    getattr(contrastive_jax, name)


def test_a_new_export_is_here_without_a_second_list(monkeypatch):
  monkeypatch.setattr(losses, "newest", len, raising=False)
  assert contrastive_jax.newest is len
  assert "newest" in dir(contrastive_jax)


@pytest.mark.parametrize(
  "package", [evaluation, losses, models, ops], ids=lambda p: p.__name__
)
def test_packages_hold_what_they_export_and_their_modules(package):
  assert not hasattr(package, "__all__")  # It would be a second list.
  for name in (n for n in dir(package) if not n.startswith("__")):
    value = getattr(package, name)
    if isinstance(value, types.ModuleType):
      assert value.__name__ == f"{package.__name__}.{name}"
    elif callable(value):
      # Answers are compared by both data and evaluation.
      homes = (f"{package.__name__}.", "contrastive_jax.answers")
      assert value.__module__.startswith(homes), name


def test_packages_import_only_public_names_of_each_other():
  package = ROOT / "contrastive_jax"
  for path in sorted(package.rglob("*.py")):
    own = ".".join(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if not isinstance(node, ast.Import | ast.ImportFrom):
        continue
      room = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
      for name in (f"{room}{alias.name}" for alias in node.names):
        # A private name may be used where it is defined: in its folder.
        where = re.match(r"(contrastive_jax\..+?)\._", name)
        if where and not f"{own}.".startswith(f"{where[1]}."):
          raise AssertionError(f"{path}: {name}")


def test_the_package_is_typed():
  assert (pathlib.Path(contrastive_jax.__file__).parent / "py.typed").exists()
  shipped = project()["tool"]["setuptools"]["package-data"]
  assert "py.typed" in shipped["contrastive_jax"]


def test_the_licences_of_the_data_are_named():
  about = project()["project"]
  assert set(about["license"].split(" AND ")) == {
    "Apache-2.0",
    "CC-BY-4.0",
    "MIT",
    "Unicode-3.0",
  }
  files = {p for g in about["license-files"] for p in ROOT.glob(g)}
  for name in ("text/clip", "sets/emoji", "sets/fashion_mnist"):
    data = ROOT / "contrastive_jax" / "data" / name
    assert {*(data / "LICENSES").iterdir(), data / "NOTICE.md"} <= files


def test_losses_ops_and_evaluation_need_jax_and_numpy_alone():
  """All else that training installs is hidden."""
  hidden = (
    "absl flax grain matplotlib optax orbax PIL scipy tensorstore".split()
  )
  code = (
    "import sys\n"
    f"sys.modules.update(dict.fromkeys({[*hidden]!r}))\n"
    "import contrastive_jax\n"
    "from contrastive_jax import evaluation, losses, ops\n"
    "print(contrastive_jax.clip.__name__)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  # JAX itself takes SciPy where it is asked for.
  assert done.returncode == 0, done.stderr
  assert done.stdout == "clip\n"
