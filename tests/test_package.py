"""The package: names reached lazily, what it ships."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import contrastive_jax
from contrastive_jax import evaluation, losses, ops

ROOT = pathlib.Path(__file__).parents[1]


def project():
  return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_importing_the_package_imports_nothing_else():
  code = (
    "import sys; before = set(sys.modules); import contrastive_jax;"
    "new = {m.split('.')[0] for m in set(sys.modules) - before};"
    "assert not new & {'jax', 'jaxlib', 'numpy', 'flax'}, new;"
    "contrastive_jax.l2_normalize; assert 'jax' in sys.modules;"
    "assert 'flax' not in sys.modules"
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


def test_every_function_of_the_rooms_is_here_by_name():
  names = {}
  for room in (evaluation, ops, losses):  # The last one wins.
    for name in (n for n in vars(room) if not n.startswith("_")):
      if callable(getattr(room, name)):
        names[name] = getattr(room, name)
  for name, value in names.items():
    # Fails for a new name: add it to `_LENT`.
    assert getattr(contrastive_jax, name) is value, name
    assert name in dir(contrastive_jax)
  rooms = {"data", "evaluation", "losses", "models", "ops", "training"}
  assert set(contrastive_jax.__all__) == rooms | names.keys()


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


def test_a_name_that_is_not_here():
  with pytest.raises(AttributeError, match="has no attribute 'klip'"):
    contrastive_jax.klip  # noqa: B018


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
  for name in ("clip", "emoji", "fashion_mnist"):
    data = ROOT / "contrastive_jax" / "data" / name
    assert {*(data / "LICENSES").iterdir(), data / "NOTICE.md"} <= files
