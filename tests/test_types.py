"""Types of the package, as another project's checker and editor see them."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

_USE = """
from typing import reveal_type

import contrastive_jax
from contrastive_jax import evaluation, losses, ops

reveal_type(contrastive_jax.clip)
reveal_type(losses.nt_xent)
reveal_type(evaluation.top_k)
reveal_type(ops.l2_normalize)
reveal_type(contrastive_jax.newest)
contrastive_jax.clip(*[], logit_scal=2.0)
contrastive_jax.klip
losses.klip
contrastive_jax.alignment(1, 2)
contrastive_jax.uniformity(1)
"""


@pytest.fixture(scope="module", name="installed")
def fixture_installed(tmp_path_factory):
  """A folder with the package, to which a loss was added by one line."""
  site = tmp_path_factory.mktemp("site")
  package = site / "contrastive_jax"
  shutil.copytree(ROOT / "contrastive_jax", package, ignore=_large)
  with (package / "losses" / "contrastive.py").open("a") as file:
    file.write("\n\ndef newest(rows: int) -> bytes:\n  return bytes(rows)\n")
  exports = package / "losses" / "__init__.py"
  text = exports.read_text(encoding="utf-8")
  line = "  clip as clip,\n"
  assert line in text
  exports.write_text(text.replace(line, f"{line}  newest as newest,\n"))
  return site


def _large(folder, names):
  """Files that no checker reads."""
  keep = {".py", ".typed"}
  paths = (pathlib.Path(folder) / name for name in names)
  return [p.name for p in paths if p.is_file() and p.suffix not in keep]


def test_a_checker_sees_them_from_another_folder(installed, tmp_path):
  (tmp_path / "use.py").write_text(_USE)
  done = subprocess.run(
    [sys.executable, "-m", "pyrefly", "check", "use.py"]
    + ["--preset=default", "--min-severity=info", "--output-format=min-text"]
    + [f"--python-interpreter-path={sys.executable}"]
    + [f"--site-package-path={installed}"],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  found = done.stdout + done.stderr
  lines = {name: n for n, name in enumerate(_USE.splitlines(), 1)}

  def about(line):
    return "\n".join(re.findall(rf"use\.py:{lines[line]}:.*", found))

  revealed = {
    "contrastive_jax.clip": ("logit_scale: Scalar", "Array"),
    "losses.nt_xent": ("temperature: Scalar", "Array"),
    "evaluation.top_k": ("block_size: int", "tuple[ndarray"),
    "ops.l2_normalize": ("eps: float", "Array"),
    "contrastive_jax.newest": ("rows: int", "bytes"),
  }
  for name, (argument, result) in revealed.items():
    shown = about(f"reveal_type({name})")
    assert argument in shown and f") -> {result}" in shown, found
  assert "logit_scal`" in about("contrastive_jax.clip(*[], logit_scal=2.0)")
  for wrong in ("contrastive_jax.klip", "losses.klip"):
    assert "missing-attribute" in about(wrong), found
  for shared in ("alignment(1, 2)", "uniformity(1)"):
    assert "not-callable" in about(f"contrastive_jax.{shared}"), found


def test_an_editor_completes_them(installed, tmp_path):
  jedi = pytest.importorskip("jedi")
  project = jedi.Project(tmp_path, sys_path=[str(installed), *sys.path])

  def at_the_end(code):
    script = jedi.Script(f"import contrastive_jax\n{code}", project=project)
    return script, 2, len(code)

  script, *place = at_the_end("contrastive_jax.new")
  assert [c.name for c in script.complete(*place)] == ["newest"]
  script, *place = at_the_end("contrastive_jax.clip(")
  (signature,) = script.get_signatures(*place)
  assert "logit_scale" in [p.name for p in signature.params]
  script, *place = at_the_end("contrastive_jax.")
  offered = {c.name for c in script.complete(*place)}
  assert {"losses", "clip", "top_k"} <= offered
  assert not {"importlib", "typing", "Any"} & offered
