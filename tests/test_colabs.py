"""Every notebook is clean, valid, and runs from top to bottom."""

import base64
import gc
import json
import os
import pathlib
import sys
import warnings

import matplotlib
import nbclient
import nbformat
import pytest
from jupyter_client import AsyncKernelManager, kernelspec

from tests import compiling

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
TIMEOUT = 300  # Seconds a cell, on a busy machine.


@pytest.fixture(name="execute")
def fixture_execute(tmp_path, emoji_dir):
  """Runs a notebook in a kernel of this very interpreter, in `tmp_path`."""
  # A user's cache, but for the data, which take long to prepare, and fonts.
  cache = tmp_path / "cache" / "contrastive_jax"
  cache.mkdir(parents=True)
  # One by one: what a notebook prepares itself is not for other tests.
  for prepared in emoji_dir.iterdir():
    (cache / prepared.name).symlink_to(prepared)
  specs = tmp_path / "kernels"
  (specs / "python3").mkdir(parents=True)
  python_path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
  spec = {
    "argv": [sys.executable, "-m", "ipykernel_launcher"]
    + ["-f", "{connection_file}"],
    "display_name": "Python 3",
    "language": "python",
    "env": {
      "CONTRASTIVE_JAX_COLAB_STEPS": "3",
      "IPYTHONDIR": str(tmp_path / "ipython"),
      "JAX_PLATFORMS": "cpu",
      "MPLCONFIGDIR": matplotlib.get_cachedir(),
      "MPLBACKEND": "module://matplotlib_inline.backend_inline",
      "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
      "XDG_CACHE_HOME": str(tmp_path / "cache"),
      # One device, whatever the other tests simulate.
      "XLA_FLAGS": compiling.xla_flags(1),
    },
  }
  (specs / "python3" / "kernel.json").write_text(json.dumps(spec))
  manager = AsyncKernelManager(
    kernel_name="python3",
    kernel_spec_manager=kernelspec.KernelSpecManager(
      kernel_dirs=[str(specs)], ensure_native_kernel=False
    ),
  )

  def run(notebook):
    client = nbclient.NotebookClient(
      notebook,
      km=manager,
      timeout=TIMEOUT,
      resources={"metadata": {"path": str(tmp_path)}},
    )
    return client.execute(cleanup_kc=True)  # And ends the kernel.

  yield run
  # Its sockets are closed when they are collected, which warns: here, and not
  # in some other test that takes warnings for errors.
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    gc.collect()


def outputs_of(notebook):
  """Cell id -> outputs of the code cells."""
  return {c.id: c.outputs for c in notebook.cells if c.cell_type == "code"}


def text_of(outputs):
  return "".join(o.text for o in outputs if o.output_type == "stream")


def images_of(outputs):
  """The PNG pictures among outputs, decoded."""
  return [
    base64.b64decode(output.data["image/png"])
    for output in outputs
    if "image/png" in output.get("data", {})
  ]


def test_there_are_notebooks():
  assert "quickstart.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_valid_and_clean(path):
  notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
  nbformat.validate(notebook)
  assert notebook.nbformat == 4
  assert notebook.metadata.kernelspec.name == "python3"
  ids = [cell.id for cell in notebook.cells]
  assert len(set(ids)) == len(ids)
  for cell in notebook.cells:
    assert cell.source.strip()
    if cell.cell_type == "code":
      assert not cell.outputs
      assert cell.execution_count is None
  badge, install = notebook.cells[:2]
  assert f"/blob/main/colabs/{path.name}" in badge.source
  assert "%pip install -q" in install.source


def check_clean(outputs):
  """No cell failed, or warned."""
  for name, cell_outputs in outputs.items():
    kinds = [output.output_type for output in cell_outputs]
    assert "error" not in kinds, name
    assert "Traceback" not in text_of(cell_outputs), name
    assert "Warning" not in text_of(cell_outputs), name
  # The package is there: nothing was installed.
  assert not outputs["install"]


def test_quickstart(execute, tmp_path):
  path = ROOT / "colabs" / "quickstart.ipynb"
  done = execute(nbformat.read(path, as_version=4))
  outputs = outputs_of(done)
  check_clean(outputs)
  assert " on cpu" in text_of(outputs["imports"])
  assert "(4, 16)" in text_of(outputs["loss"])
  assert "step 3/3" in text_of(outputs["train"])
  assert "1 cpu device" in text_of(outputs["train"])

  pictures = {name: images_of(out) for name, out in outputs.items()}
  counts = {name: len(found) for name, found in pictures.items() if found}
  assert counts == {"data-look": 1, "search": 4, "names": 1, "plots": 4}
  for found in pictures.values():
    assert all(picture.startswith(b"\x89PNG") for picture in found)
  for language in ("en", "de", "ja"):
    assert f"\n{language}  " in text_of(outputs["names"])
  assert "retrieval/image_to_text/recall_at_10" in text_of(outputs["results"])

  workdir = tmp_path / "runs" / "quickstart_3_steps"
  assert (workdir / "results.json").exists()
  assert len(list((workdir / "plots").glob("*.png"))) == 4


def test_gamma_augmented(execute):
  path = ROOT / "colabs" / "gamma_augmented.ipynb"
  outputs = outputs_of(execute(nbformat.read(path, as_version=4)))
  check_clean(outputs)
  for line in text_of(outputs["identity"]).splitlines():
    left, right = line.split(": ")[1].split(" = ")
    assert left == right
  numbers = {
    name: [
      float(line.split(":")[1].split()[-1])
      for line in text_of(outputs["runs"]).splitlines()
      if line.startswith(name)
    ]
    for name in ("InfoNCE", "augmented")
  }
  assert len(numbers["InfoNCE"]) == len(numbers["augmented"]) == 1
  assert "step 3/3" in text_of(outputs["train"])
  assert "weight_sum" in text_of(outputs["tables"])
  for name in ("bias", "runs", "tables"):
    assert len(images_of(outputs[name])) == 1


def test_latent_structure(execute):
  path = ROOT / "colabs" / "latent_structure.ipynb"
  outputs = outputs_of(execute(nbformat.read(path, as_version=4)))
  check_clean(outputs)
  table = [line.split() for line in text_of(outputs["theorem"]).splitlines()]
  # No bit of one alone, no gap; three of the image, and all of them are lost.
  assert ["0", "0", "0.000", "0.000"] in table
  assert ["3", "0", "2.079", "2.079"] in table
  assert "step 3/3" in text_of(outputs["train"])
  before, after = (
    float(line.split()[-1])
    for line in text_of(outputs["bridge"]).splitlines()
    if line.startswith("loss")
  )
  assert after < 0.5 * before
  assert 0 <= float(text_of(outputs["terms"]).split()[-1]) <= 1
  for name in ("theorem", "spheres", "bridge", "terms"):
    assert len(images_of(outputs[name])) == 1


def test_use_a_model(execute, tmp_path):
  path = ROOT / "colabs" / "use_a_model.ipynb"
  outputs = outputs_of(execute(nbformat.read(path, as_version=4)))
  check_clean(outputs)
  assert "step 3/3" in text_of(outputs["train"])
  assert "norm 1.000" in text_of(outputs["pictures"])
  counts = {k: len(images_of(v)) for k, v in outputs.items() if images_of(v)}
  assert counts == {"search": 2, "classify": 1}
  scores = [
    float(line.split()[0])
    for line in text_of(outputs["files"]).splitlines()
    if line.endswith(".png")
  ]
  assert len(scores) == 3 and scores == sorted(scores, reverse=True)
  assert float(text_of(outputs["stablehlo"]).split()[-1]) < 1e-5
  assert (tmp_path / "runs" / "use_a_model_3_steps" / "model").is_dir()


@pytest.mark.exhaustive
@pytest.mark.long
def test_fusion(execute, tmp_path):
  path = ROOT / "colabs" / "fusion.ipynb"
  outputs = outputs_of(execute(nbformat.read(path, as_version=4)))
  check_clean(outputs)
  pictures = {name: images_of(out) for name, out in outputs.items()}
  counts = {name: len(found) for name, found in pictures.items() if found}
  assert counts == {
    "data-look": 1,
    "curves": 1,
    "rerank": 3,
    "ask": 1,
    "maps": 1,
  }
  for found in pictures.values():
    assert all(picture.startswith(b"\x89PNG") for picture in found)

  runs = tmp_path / "runs" / "fusion_3_steps"
  results = {}
  for stage, cell in (("pretraining", "pretrain"), ("vqa", "vqa")):
    assert "step 3/3" in text_of(outputs[cell])
    results[stage] = json.loads((runs / stage / "results.json").read_text())
  # The task began with the pre-training.
  assert "It begins at random" not in text_of(outputs["vqa"])
  config = json.loads((runs / "vqa" / "config.json").read_text())
  assert config["initial"]["workdir"] == "runs/fusion_3_steps/pretraining"

  for way in ("text_to_image", "image_to_text"):
    [line] = [
      line
      for line in text_of(outputs["recall"]).splitlines()
      if line.startswith(way.replace("_", " "))
    ]
    for said, name in zip(
      line.split()[-2:], ("retrieval", "retrieval_reranked")
    ):
      found = results["pretraining"][f"{name}/{way}/recall_at_1"]
      assert float(said) == pytest.approx(found, abs=6e-4)

  kinds = dict(
    line.rsplit(maxsplit=1)
    for line in text_of(outputs["kinds"]).splitlines()
    if line
  )
  assert float(kinds["all questions"]) == pytest.approx(
    results["vqa"]["vqa/accuracy"], abs=6e-4
  )
  assert {"colour", "count", "background", "multihop"} < set(kinds)
  assert all(0 <= float(value) <= 1 for value in kinds.values())

  # The likeliest of the answers to each question, first the likeliest.
  asked = text_of(outputs["ask"]).split("?\n")[1:]
  assert len(asked) == 4
  for answers in asked:
    lines = [line for line in answers.splitlines() if line.startswith("  ")]
    assert len({line.split()[1] for line in lines}) == len(lines) == 3
    shares = [float(line.split()[0]) for line in lines]
    assert shares == sorted(shares, reverse=True)
    # More than each of some thirty has where all are alike.
    assert shares[0] > 0.03 and 0 <= shares[-1] and sum(shares) <= 1.002
  table = text_of(outputs["all-questions"]).splitlines()[1:]
  assert [line.partition("?")[2].split()[0] for line in table] == [
    "cross",
    "no",
    "blue",
    "2",
    "yes",
    "no",
    "striped",
    "1",
  ]
